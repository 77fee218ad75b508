//! Transactions: what is seen of them, what they commit, and which class an error of theirs has.

use operators::broker::{BrokerError, Class, Committed, Isolation, OffsetCommit, Producer};
use operators::lease::{NextOffset, Partition};
use operators::records::Records;

use super::subject::{Reader, Subject, abort, commit, drain, records, send};

pub(crate) fn a_committed_transaction_is_seen(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a", "b"]);
    assert_eq!(subject.values(&topic, 0, Isolation::ReadCommitted), [""; 0]);
    assert_eq!(subject.values(&topic, 0, Isolation::ReadUncommitted), ["a", "b"]);
    commit(subject, &mut *producer);
    subject.sees(&topic, 0, &["a", "b"]);
}

pub(crate) fn an_aborted_transaction_is_never_seen(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a"]);
    abort(subject, &mut *producer);
    producer.begin().expect("the next one begins");
    send(subject, &mut *producer, &topic, 0, &["b"]);
    commit(subject, &mut *producer);
    subject.sees(&topic, 0, &["b"]);
    assert_eq!(subject.values(&topic, 0, Isolation::ReadUncommitted), ["a", "b"]);
}

pub(crate) fn an_open_transaction_holds_back_what_is_behind_it(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let (mut open, mut other) = (subject.producer("open"), subject.producer("other"));
    subject.write(&topic, 0, &["before"]);
    open.begin().expect("it begins");
    send(subject, &mut *open, &topic, 0, &["open"]);
    other.begin().expect("the other begins");
    send(subject, &mut *other, &topic, 0, &["other"]);
    commit(subject, &mut *other);
    subject.write(&topic, 0, &["plain"]);
    assert_eq!(subject.values(&topic, 0, Isolation::ReadCommitted), ["before"]);
    abort(subject, &mut *open);
    subject.sees(&topic, 0, &["before", "other", "plain"]);
}

pub(crate) fn a_transaction_spans_partitions_and_topics(subject: &Subject) {
    let (results, letters) = (subject.topic("results", 2), subject.topic("letters", 1));
    let mut producer = subject.producer("engine");
    for (text, is_committed) in [("aborted", false), ("committed", true)] {
        producer.begin().expect("it begins");
        send(subject, &mut *producer, &results, 0, &[text]);
        send(subject, &mut *producer, &results, 1, &[text]);
        send(subject, &mut *producer, &letters, 0, &[text]);
        let end = if is_committed { commit } else { abort };
        end(subject, &mut *producer);
    }
    subject.sees(&results, 0, &["committed"]);
    subject.sees(&results, 1, &["committed"]);
    subject.sees(&letters, 0, &["committed"]);
}

pub(crate) fn offsets_and_metadata_are_committed_with_the_transaction(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 2);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a"]);
    let offsets = [offset(0, 7, "holes: 3"), offset(1, 9, "")];
    add_offsets(&mut *producer, &topic, &offsets, &reader).expect("the offsets are added");
    let open = group_offsets(subject, &topic).expect_err("the transaction is open");
    assert_eq!(open.class, Class::Unreachable, "{open}");
    commit(subject, &mut *producer);
    let expected = offsets.map(|offset| Some(Committed { next: offset.next, metadata: offset.metadata }));
    subject.eventually("the group has the offsets", || {
        (group_offsets(subject, &topic).ok()? == expected).then_some(())
    });
    let both = [Partition(0), Partition(1)];
    assert_eq!(reader.member.committed(&both).expect("the member reads them"), expected);
}

pub(crate) fn offsets_of_an_aborted_transaction_are_forgotten(subject: &Subject) {
    let (topic, reader) = joined(subject, 1);
    let mut producer = subject.producer("engine");
    for (next, is_committed) in [(3, true), (5, false)] {
        producer.begin().expect("it begins");
        add_offsets(&mut *producer, &topic, &[offset(0, next, "")], &reader).expect("the offset is added");
        let end = if is_committed { commit } else { abort };
        end(subject, &mut *producer);
    }
    subject.eventually("the group has the first offset", || {
        (group_offsets(subject, &topic).ok()?[0].as_ref()?.next == NextOffset(3)).then_some(())
    });
}

pub(crate) fn a_transaction_of_offsets_alone_commits(subject: &Subject) {
    let (topic, reader) = joined(subject, 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    add_offsets(&mut *producer, &topic, &[offset(0, 4, "m")], &reader).expect("the offset is added");
    commit(subject, &mut *producer);
    let expected = Some(Committed { next: NextOffset(4), metadata: "m".to_owned() });
    subject.eventually("the group has the offset", || {
        (group_offsets(subject, &topic).ok()? == [expected.clone()]).then_some(())
    });
}

pub(crate) fn a_transaction_of_nothing_commits(subject: &Subject) {
    let mut producer = subject.producer("engine");
    for end in [commit, abort, commit] {
        producer.begin().expect("it begins");
        end(subject, &mut *producer);
    }
}

/// The broker may never have heard of it, and says so or does not.
pub(crate) fn a_transaction_whose_records_may_not_have_been_sent_is_aborted(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut producer = subject.producer("engine");
    for _ in 0..2 {
        producer.begin().expect("it begins");
        producer.send(&topic, Some(0), records(&["aborted"]).get(0)).expect("the record is taken");
        abort(subject, &mut *producer);
    }
    producer.begin().expect("the next one begins");
    send(subject, &mut *producer, &topic, 0, &["committed"]);
    commit(subject, &mut *producer);
    subject.sees(&topic, 0, &["committed"]);
}

pub(crate) fn metadata_over_the_limit_is_abortable(subject: &Subject) {
    let (topic, reader) = joined(subject, 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    add_offsets(&mut *producer, &topic, &[offset(0, 1, &"m".repeat(4096))], &reader).expect("4096 bytes fit");
    commit(subject, &mut *producer);
    producer.begin().expect("the next one begins");
    let error = add_offsets(&mut *producer, &topic, &[offset(0, 2, &"m".repeat(4097))], &reader)
        .expect_err("4097 bytes do not");
    assert_eq!(
        (error.class, error.code.as_str()),
        (Class::Abortable, "OFFSET_METADATA_TOO_LARGE"),
        "{error}"
    );
    goes_on_after_an_abort(subject, producer, &topic);
}

pub(crate) fn a_fenced_producer_can_do_nothing_more(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut zombie = subject.producer("engine");
    zombie.begin().expect("it begins");
    send(subject, &mut *zombie, &topic, 0, &["zombie"]);
    let mut heir = subject.producer("engine");
    let error = zombie.commit().expect_err("a fenced producer does not commit");
    assert_eq!(error.class, Class::Fenced, "{error}");
    for error in [zombie.begin(), zombie.abort(), zombie.commit()].map(Result::unwrap_err) {
        assert!(matches!(error.class, Class::Fenced | Class::Fatal), "{error}");
    }
    heir.begin().expect("the heir begins");
    send(subject, &mut *heir, &topic, 0, &["heir"]);
    commit(subject, &mut *heir);
    subject.sees(&topic, 0, &["heir"]);
}

pub(crate) fn a_new_producer_aborts_what_its_predecessor_left_open(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut dead = subject.producer("engine");
    dead.begin().expect("it begins");
    send(subject, &mut *dead, &topic, 0, &["open"]);
    subject.write(&topic, 0, &["behind"]);
    assert_eq!(subject.values(&topic, 0, Isolation::ReadCommitted), [""; 0]);
    // The predecessor is not dropped before: a real one would abort by itself.
    let heir = subject.producer("engine");
    subject.sees(&topic, 0, &["behind"]);
    drop((dead, heir));
}

pub(crate) fn a_producer_of_another_id_is_left_alone(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut one = subject.producer("one");
    one.begin().expect("it begins");
    send(subject, &mut *one, &topic, 0, &["one"]);
    drop(subject.producer("two"));
    commit(subject, &mut *one);
    subject.sees(&topic, 0, &["one"]);
}

pub(crate) fn a_stale_generation_is_abortable_and_the_producer_stays_good(subject: &Subject) {
    let (topic, mut first) = joined(subject, 2);
    let stale = first.member.ownership().token().expect("it is a member");
    let mut second = subject.reader("group", &topic);
    subject.eventually("both own a partition", || {
        let (one, two) = (first.owns(1), second.owns(1));
        (one && two).then_some(())
    });
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a"]);
    let error = producer.send_offsets(&topic, &[offset(0, 1, "")], &stale).expect_err("the token is stale");
    assert_eq!(error.class, Class::Abortable, "{error}");
    abort(subject, &mut *producer);
    producer.begin().expect("the next one begins");
    // A round that the second member's partition is due to may still be going on.
    subject.eventually("a fresh token is taken", || {
        first.serve();
        match add_offsets(&mut *producer, &topic, &[offset(0, 1, "fresh")], &first) {
            Ok(()) => Some(()),
            Err(error) if error.class == Class::Abortable => {
                abort(subject, &mut *producer);
                producer.begin().expect("the next one begins");
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    commit(subject, &mut *producer);
    subject.eventually("the group has the fresh offset", || {
        let committed = group_offsets(subject, &topic).ok()?.remove(0)?;
        (committed.metadata == "fresh").then_some(())
    });
}

pub(crate) fn a_member_that_has_left_cannot_commit(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 1);
    let token = reader.member.ownership().token().expect("it is a member");
    reader.member.leave().expect("it leaves");
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    let error = producer.send_offsets(&topic, &[offset(0, 1, "")], &token).expect_err("nobody is a member");
    assert_eq!(error.class, Class::Abortable, "{error}");
    goes_on_after_an_abort(subject, producer, &topic);
    subject.eventually("the group still has no offset", || {
        (group_offsets(subject, &topic).ok()? == [None]).then_some(())
    });
}

pub(crate) fn a_record_too_large_for_the_client_leaves_the_transaction_good(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a"]);
    let large = large(1_100_000);
    let error = producer.send(&topic, Some(0), large.get(0)).expect_err("it does not fit");
    assert_eq!(error.class, Class::TooLarge, "{error}");
    send(subject, &mut *producer, &topic, 0, &["b"]);
    commit(subject, &mut *producer);
    subject.sees(&topic, 0, &["a", "b"]);
}

/// A record that the broker would refuse after it was taken would cost the transaction, each time that it is sent again.
pub(crate) fn a_record_too_large_for_its_topic_leaves_the_transaction_good(subject: &Subject) {
    let topic = subject.topic_with("results", 1, &[("max.message.bytes", "20000")]);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a"]);
    let error = producer.send(&topic, Some(0), large(30_000).get(0)).expect_err("it does not fit");
    assert_eq!((error.class, error.code.as_str()), (Class::TooLarge, "MSG_SIZE_TOO_LARGE"), "{error}");
    send(subject, &mut *producer, &topic, 0, &["b"]);
    commit(subject, &mut *producer);
    subject.sees(&topic, 0, &["a", "b"]);
}

pub(crate) fn a_transaction_over_its_time_is_aborted_and_its_producer_is_dead(subject: &Subject) {
    let topic = subject.topic("results", 1);
    let mut slow = subject.hasty.producer(&subject.name("slow")).expect("the producer is made");
    slow.begin().expect("it begins");
    send(subject, &mut *slow, &topic, 0, &["slow"]);
    subject.write(&topic, 0, &["behind"]);
    subject.sees(&topic, 0, &["behind"]);
    let error = slow.commit().expect_err("it was aborted");
    assert_eq!(error.class, Class::Fatal, "{error}");
    let mut fresh = subject.hasty.producer(&subject.name("slow")).expect("a new producer is made");
    fresh.begin().expect("it begins");
    send(subject, &mut *fresh, &topic, 0, &["fresh"]);
    commit(subject, &mut *fresh);
    subject.sees(&topic, 0, &["behind", "fresh"]);
}

pub(crate) fn committed_offsets_wait_for_an_open_transaction(subject: &Subject) {
    let (topic, mut reader) = joined(subject, 1);
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    add_offsets(&mut *producer, &topic, &[offset(0, 8, "")], &reader).expect("the offset is added");
    let error = reader.member.committed(&[Partition(0)]).expect_err("the outcome is open");
    assert_eq!(error.class, Class::Unreachable, "{error}");
    commit(subject, &mut *producer);
    let committed = subject.eventually("the committed offset is read", || {
        reader.member.committed(&[Partition(0)]).ok().and_then(|mut offsets| offsets.remove(0))
    });
    assert_eq!(committed.next, NextOffset(8));
}

/// A topic of its own with one reader, which owns all of it.
pub(super) fn joined(subject: &Subject, partitions: i32) -> (String, Reader) {
    let topic = subject.topic("requests", partitions);
    let mut reader = subject.reader("group", &topic);
    let count = usize::try_from(partitions).expect("a topic has partitions");
    subject.eventually("the only member owns everything", || reader.owns(count).then_some(()));
    (topic, reader)
}

pub(super) fn offset(partition: i32, next: i64, metadata: &str) -> OffsetCommit {
    OffsetCommit { partition: Partition(partition), next: NextOffset(next), metadata: metadata.to_owned() }
}

fn add_offsets(
    producer: &mut dyn Producer,
    topic: &str,
    offsets: &[OffsetCommit],
    reader: &Reader,
) -> Result<(), BrokerError> {
    producer.send_offsets(topic, offsets, &reader.member.ownership().token()?)
}

pub(super) fn group_offsets(subject: &Subject, topic: &str) -> Result<Vec<Option<Committed>>, BrokerError> {
    let mut admin = subject.broker.admin().expect("the admin client is made");
    let described = admin.describe(topic).expect("the topic is described").expect("the topic exists");
    let partitions: Vec<Partition> = (0..described.partitions).map(Partition).collect();
    admin.committed(&subject.name("group"), topic, &partitions)
}

/// After an abortable error: the transaction can't commit, it can be aborted, and the producer is as good as new.
fn goes_on_after_an_abort(subject: &Subject, mut producer: Box<dyn Producer>, topic: &str) {
    let error = producer.commit().expect_err("it must be aborted");
    assert_eq!(error.class, Class::Abortable, "{error}");
    abort(subject, &mut *producer);
    producer.begin().expect("the next one begins");
    let record = records(&["after the abort"]);
    producer.send(topic, Some(0), record.get(0)).expect("the record is sent");
    drain(subject, &mut *producer);
    commit(subject, &mut *producer);
    subject.sees(topic, 0, &["after the abort"]);
}

/// A record so random that no compression makes it smaller.
pub(super) fn large(bytes: usize) -> Records {
    let step = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    let noise: Vec<u8> =
        std::iter::successors(Some(1), step).take(bytes).map(|state: u64| state.to_be_bytes()[0]).collect();
    let mut records = Records::default();
    records.push(Some(b"key"), Some(&noise));
    records
}
