//! Committed offsets that an engine must not read from: it stops, says which, and changes nothing.

use std::time::Duration;

use operators::broker::{Broker, Committed, GroupEvent, Member, OffsetCommit, Producer};
use operators::lease::{NextOffset, Partition};
use operators::records::Records;

use super::own::OwnBroker;
use super::rig::Rig;
use super::wait::{PATIENCE, until};

/// Ten requests in the one partition, and what the rig's group has committed of it, by a member that has left again.
pub(crate) fn rig(stem: &str, next: i64, metadata: &str) -> Rig {
    let rig = Rig::new(stem, 1);
    write(&rig, "bad", 10);
    commit(&rig, next, metadata);
    rig
}

/// A member of the rig's group commits an offset of its partition, and leaves.
pub(crate) fn commit(rig: &Rig, next: i64, metadata: &str) {
    let (mut producer, mut member) = sent(rig, next, metadata);
    producer.commit().unwrap();
    member.leave().unwrap();
}

/// A member of the rig's group, and a producer whose transaction has an offset of its partition and is still open.
fn sent(rig: &Rig, next: i64, metadata: &str) -> (Box<dyn Producer>, Box<dyn Member>) {
    let mut member = rig.broker.member(rig.group(), &rig.requests()).unwrap();
    until("the assignment", || match member.poll(Duration::from_millis(100)) {
        Some(GroupEvent::Assigned(partitions)) => {
            let starts: Vec<_> = partitions.into_iter().map(|partition| (partition, NextOffset(0))).collect();
            member.assign(&starts).unwrap();
            Some(())
        }
        _ => None,
    });
    let mut producer = rig.broker.producer(&format!("{}.other", rig.group())).unwrap();
    producer.begin().unwrap();
    let offset =
        OffsetCommit { partition: Partition(0), next: NextOffset(next), metadata: metadata.to_owned() };
    let token = member.ownership().token().unwrap();
    producer.send_offsets(&rig.requests(), &[offset], &token).unwrap();
    (producer, member)
}

/// Writes requests that end as dead letters: `stem 0`, `stem 1` and so on.
pub(crate) fn write(rig: &Rig, stem: &str, count: u64) {
    let mut writer = rig.broker.writer().unwrap();
    for tag in 0..count {
        let mut record = Records::default();
        record.push(None, Some(format!("{stem} {tag}").as_bytes()));
        writer.write(&rig.requests(), Some(0), None, record.get(0), tag).unwrap();
    }
    assert!(writer.flush(PATIENCE));
}

pub(crate) fn committed(rig: &Rig) -> Option<Committed> {
    let mut admin = rig.broker.admin().unwrap();
    admin.committed(rig.group(), &rig.requests(), &[Partition(0)]).unwrap().remove(0)
}

#[test]
fn an_engine_whose_groups_metadata_is_another_programs_stops_and_commits_nothing() {
    let rig = rig("foreign", 2, "savepoint 17");
    let before = committed(&rig);
    assert_eq!(before.as_ref().map(|committed| committed.metadata.as_str()), Some("savepoint 17"));
    let mut engine = rig.engine("one");
    assert_eq!(engine.end().code(), Some(13), "{}", engine.log());
    assert!(
        engine.log().contains("partition 0 was refused: it was written by another program"),
        "{}",
        engine.log()
    );
    assert_eq!((committed(&rig), engine.counted("commits")), (before, 0));
}

/// The campaign found engines that waited for ever, after a broker had forgotten to end a transaction in the group's offsets.
#[test]
fn an_engine_that_waits_for_offsets_which_a_transaction_holds_says_so_and_goes_on_once_it_has_ended() {
    let rig = rig("held", 2, "");
    let (mut producer, mut member) = sent(&rig, 5, "");
    member.leave().unwrap();
    let mut engine = rig.engine("one");
    let told = "a transaction that was to commit some of them is neither committed nor aborted yet";
    until("the reason", || engine.log().contains(told).then_some(()));
    assert_eq!(engine.page("/health/ready").map(|(status, _)| status), Some(503));
    producer.commit().unwrap();
    until("the lease", || engine.log().contains("lease granted partition=0 term=1 start=5").then_some(()));
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0), "{}", engine.log());
}

#[test]
fn an_engine_whose_broker_takes_no_metadata_stops_and_says_what_to_set() {
    let broker = OwnBroker::start_with(1, &["offset.metadata.max.bytes=4"], None);
    let rig = Rig::at(broker.bootstrap(), "no-metadata", 1);
    write(&rig, "bad", 10);
    let mut engine = rig.engine("one");
    assert_eq!(engine.end().code(), Some(1), "{}", engine.log());
    assert!(
        engine.log().contains("set the broker's `offset.metadata.max.bytes` to 4096"),
        "{}",
        engine.log()
    );
    assert_eq!((committed(&rig), engine.counted("commits")), (None, 0));
}
