//! Committed offsets that an engine must not read from: it stops, says which, and changes nothing.

use std::process::Command;
use std::time::Duration;

use operators::broker::{Broker, Committed, GroupEvent, OffsetCommit};
use operators::lease::{NextOffset, Partition};
use operators::records::Records;

use super::rig::{Rig, shared_broker};
use super::wait::{PATIENCE, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");

/// Ten requests in the one partition, and what the rig's group has committed of it, by a member that has left again.
fn rig(stem: &str, next: i64, metadata: &str) -> Rig {
    let rig = Rig::new(stem, 1);
    let mut writer = rig.broker.writer().unwrap();
    let mut record = Records::default();
    record.push(None, Some(b"a bad request"));
    (0..10).for_each(|tag| writer.write(&rig.requests(), Some(0), None, record.get(0), tag).unwrap());
    assert!(writer.flush(PATIENCE));
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
    producer.commit().unwrap();
    member.leave().unwrap();
    rig
}

fn committed(rig: &Rig) -> Option<Committed> {
    let mut admin = rig.broker.admin().unwrap();
    admin.committed(rig.group(), &rig.requests(), &[Partition(0)]).unwrap().remove(0)
}

/// What retention does, at once.
fn delete_before(rig: &Rig, offset: i64) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("delete.json");
    let wanted = format!(
        "{{\"partitions\":[{{\"topic\":\"{}\",\"partition\":0,\"offset\":{offset}}}],\"version\":1}}",
        rig.requests()
    );
    std::fs::write(&file, wanted).unwrap();
    let mut command = Command::new(SCRIPT);
    command.args(["tool", "delete-records", "--bootstrap-server", &shared_broker(), "--offset-json-file"]);
    let output = command.arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("low_watermark"), "{said}{output:?}");
}

#[test]
fn an_engine_whose_next_records_were_deleted_stops_and_names_the_offsets() {
    let rig = rig("deleted", 2, "");
    delete_before(&rig, 5);
    let before = committed(&rig);
    let mut engine = rig.engine("one");
    assert_eq!(engine.end().code(), Some(13), "{}", engine.log());
    let says = "partition 0 is to be read from offset 2, and its log holds 5 up to 10";
    assert!(engine.log().contains(says), "{}", engine.log());
    assert_eq!((committed(&rig), engine.counted("commits")), (before, 0));
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
