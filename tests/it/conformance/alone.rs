//! Outside of transactions: what a plain producer sends, and what a member commits by itself.

use operators::broker::{BrokerError, Class, OffsetCommit, PlainProducer};
use operators::lease::{NextOffset, Offset, Partition};

use super::groups::both_own;
use super::subject::{Reader, Subject, WAIT, records};
use super::transactions::{group_offsets, joined, large, offset};

fn send(subject: &Subject, producer: &mut dyn PlainProducer, topic: &str, values: &[&str]) {
    for record in records(values).iter() {
        producer.send(topic, Some(0), record).expect("the record is sent");
    }
    subject.eventually("everything is acknowledged", || {
        producer.drain(WAIT).expect("it is drained").then_some(())
    });
}

fn plain_producer(subject: &Subject) -> Box<dyn PlainProducer> {
    subject.broker.plain_producer().expect("the producer is made")
}

fn commit(reader: &Reader, offsets: &[OffsetCommit]) -> Result<(), BrokerError> {
    reader.member.ownership().commit(offsets)
}

/// Commits, and again while the group is busy with a rebalance.
fn commit_soon(subject: &Subject, reader: &mut Reader, offsets: &[OffsetCommit]) {
    subject.eventually("the offsets are committed", || {
        reader.serve();
        match commit(reader, offsets) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.class, Class::Retriable | Class::Abortable) => None,
            Err(error) => panic!("{error}"),
        }
    });
}

pub(crate) fn what_a_plain_producer_has_drained_is_seen(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut producer = plain_producer(subject);
    send(subject, &mut *producer, &topic, &["a", "b"]);
    subject.sees(&topic, 0, &["a", "b"]);
    // It shuts nobody out, and nobody shuts it out.
    let mut other = plain_producer(subject);
    send(subject, &mut *other, &topic, &["c"]);
    send(subject, &mut *producer, &topic, &["d"]);
    subject.sees(&topic, 0, &["a", "b", "c", "d"]);
}

pub(crate) fn a_record_too_large_leaves_a_plain_producer_good(subject: &Subject) {
    let topic = subject.topic_with("results", 1, &[("max.message.bytes", "20000")]);
    let mut producer = plain_producer(subject);
    send(subject, &mut *producer, &topic, &["a"]);
    for bytes in [30_000, 1_100_000] {
        let error = producer.send(&topic, Some(0), large(bytes).get(0)).expect_err("it does not fit");
        assert_eq!(error.class, Class::TooLarge, "{error}");
    }
    send(subject, &mut *producer, &topic, &["b"]);
    subject.sees(&topic, 0, &["a", "b"]);
}

pub(crate) fn a_member_commits_offsets_and_metadata_by_itself(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 2);
    commit_soon(subject, &mut reader, &[offset(0, 3, "three"), offset(1, 7, "")]);
    let committed = || {
        let committed = group_offsets(subject, &topic).expect("nothing is pending").into_iter();
        let committed = committed.map(|committed| committed.expect("both are committed"));
        committed.map(|committed| (committed.next.0, committed.metadata)).collect::<Vec<_>>()
    };
    assert_eq!(committed(), [(3, "three".to_owned()), (7, String::new())]);
    // The same call again does no harm.
    commit_soon(subject, &mut reader, &[offset(0, 3, "three")]);
    commit_soon(subject, &mut reader, &[offset(0, 4, "")]);
    assert_eq!(committed(), [(4, String::new()), (7, String::new())]);
}

pub(crate) fn metadata_over_the_limit_is_refused_to_a_member_too(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 1);
    commit_soon(subject, &mut reader, &[offset(0, 1, &"m".repeat(4096))]);
    let error = commit(&reader, &[offset(0, 2, &"m".repeat(4097))]).expect_err("4097 bytes do not fit");
    assert_eq!(error.class, Class::Abortable, "{error}");
    let committed = group_offsets(subject, &topic).expect("nothing is pending").remove(0);
    assert_eq!(committed.expect("the first is committed").next, NextOffset(1));
}

pub(crate) fn a_member_commits_what_it_is_about_to_give_back(subject: &Subject) {
    let (topic, mut first) = joined(subject, 2);
    for partition in 0..2 {
        subject.write(&topic, partition, &["a", "b"]);
    }
    let mut second = subject.reader("group", &topic);
    // It is told, and does not answer yet.
    let revoked = subject.eventually("a partition is revoked", || {
        second.serve();
        first.revoked()
    });
    let last = offset(revoked[0].0, 1, "last");
    subject.eventually("it is committed before it goes", || {
        second.serve();
        match commit(&first, std::slice::from_ref(&last)) {
            Ok(()) => Some(()),
            Err(error) if error.class == Class::Retriable => None,
            Err(error) => panic!("{error}"),
        }
    });
    first.give_back(&revoked);
    both_own(subject, &mut first, &mut second, 1);
    assert_eq!(second.starts, [(revoked[0], NextOffset(1))]);
    subject.eventually("the rest is read", || {
        both_own(subject, &mut first, &mut second, 1);
        (second.offsets() == [(revoked[0], Offset(1))]).then_some(())
    });
}

pub(crate) fn a_member_whose_place_was_taken_commits_nothing(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let mut zombie = subject.named_reader("group", &topic);
    subject.eventually("it owns the partition", || zombie.owns(1).then_some(()));
    commit_soon(subject, &mut zombie, &[offset(0, 1, "")]);
    let mut heir = subject.named_reader("group", &topic);
    subject.eventually("another of its name owns it", || heir.owns(1).then_some(()));
    let error = commit(&zombie, &[offset(0, 5, "")]).expect_err("its place was taken");
    assert!(matches!(error.class, Class::Abortable | Class::Fenced), "{error}");
    assert_eq!(heir.starts, [(Partition(0), NextOffset(1))]);
    commit_soon(subject, &mut heir, &[offset(0, 2, "")]);
    let committed = group_offsets(subject, &topic).expect("nothing is pending").remove(0);
    assert_eq!(committed.expect("it is committed").next, NextOffset(2));
}

pub(crate) fn a_member_that_has_left_commits_nothing_by_itself(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 1);
    let ownership = reader.member.ownership();
    reader.member.leave().expect("it leaves");
    let error = ownership.commit(&[offset(0, 1, "")]).expect_err("nobody is a member");
    assert_eq!(error.class, Class::Abortable, "{error}");
    assert_eq!(group_offsets(subject, &topic), Ok(vec![None]));
}
