//! Consumer groups: who reads what, and what becomes of it when members come and go.

use std::collections::BTreeSet;

use operators::broker::{GroupEvent, LogRange, OffsetCommit, TopicSeen};
use operators::lease::{NextOffset, Offset, Partition};

use super::subject::{Reader, Subject, commit};

pub(crate) fn a_second_member_takes_over_without_stopping_the_first(subject: &Subject) {
    let topic = subject.topic("requests", 4);
    let mut first = subject.reader("group", &topic);
    subject.eventually("the first owns everything", || first.owns(4).then_some(()));
    let began = first.starts.len();
    let mut second = subject.reader("group", &topic);
    both_own(subject, &mut first, &mut second, 2);
    assert_disjoint(&first, &second, 4);
    let revoked: Vec<Partition> = first.events.iter().flat_map(revoked).collect();
    assert_eq!(revoked.iter().copied().collect::<BTreeSet<_>>(), second.owned, "only what moved was revoked");
    assert_eq!(first.starts.len(), began, "what stayed was not taken anew");
    // What stayed is read on, and what moved is read by its new owner.
    for partition in 0..4 {
        subject.write(&topic, partition, &["v"]);
    }
    subject.eventually("each reads its own", || {
        both_own(subject, &mut first, &mut second, 2);
        (first.offsets().len() == 2 && second.offsets().len() == 2).then_some(())
    });
    for reader in [&first, &second] {
        let seen: BTreeSet<_> = reader.offsets().into_iter().collect();
        assert_eq!(seen, reader.owned.iter().map(|&partition| (partition, Offset(0))).collect());
    }
}

pub(crate) fn a_new_owner_sees_what_the_old_one_committed(subject: &Subject) {
    let topic = subject.topic("requests", 2);
    for partition in 0..2 {
        subject.write(&topic, partition, &["a", "b", "c"]);
    }
    let mut first = subject.reader("group", &topic);
    subject.eventually("the first owns everything", || first.owns(2).then_some(()));
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    let offsets = [0, 1].map(|partition| OffsetCommit {
        partition: Partition(partition),
        next: NextOffset(2),
        metadata: String::new(),
    });
    let token = first.member.ownership().token().expect("it is a member");
    producer.send_offsets(&topic, &offsets, &token).expect("the offsets are added");
    commit(subject, &mut *producer);
    let mut second = subject.reader("group", &topic);
    both_own(subject, &mut first, &mut second, 1);
    let moved = *second.owned.first().expect("it owns one");
    assert_eq!(second.starts, [(moved, NextOffset(2))]);
    subject.eventually("the rest is read by the new owner", || {
        both_own(subject, &mut first, &mut second, 1);
        (!second.offsets().is_empty()).then_some(())
    });
    assert_eq!(second.offsets(), [(moved, Offset(2))]);
}

pub(crate) fn a_member_that_leaves_gives_its_partitions_back(subject: &Subject) {
    let topic = subject.topic("requests", 4);
    let (mut first, mut second) = (subject.reader("group", &topic), subject.reader("group", &topic));
    both_own(subject, &mut first, &mut second, 2);
    let kept = first.owned.clone();
    let given = second.owned.clone();
    let began = first.starts.len();
    second.member.leave().expect("it leaves");
    drop(second);
    subject.eventually("the first owns everything", || first.owns(4).then_some(()));
    let taken: BTreeSet<Partition> = first.starts[began..].iter().map(|(partition, _)| *partition).collect();
    assert_eq!(taken, given);
    assert!(kept.is_subset(&first.owned));
}

pub(crate) fn a_start_outside_the_log_is_told(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    subject.write(&topic, 0, &["a"]);
    let mut reader = subject.reader("group", &topic);
    subject.eventually("the partition is assigned", || {
        match reader.member.poll(std::time::Duration::from_millis(50)) {
            Some(GroupEvent::Assigned(partitions)) if !partitions.is_empty() => {
                let range = LogRange { first: NextOffset(0), end: NextOffset(1) };
                assert_eq!(reader.member.log_ranges(&[Partition(0)]), Ok(vec![range]));
                reader.take(&partitions, Some(NextOffset(1000)));
                Some(())
            }
            _ => None,
        }
    });
    subject.eventually("the member is told", || {
        reader.serve();
        reader.poll();
        reader.events.iter().find(|event| matches!(event, GroupEvent::OutOfRange(Partition(0)))).map(|_| ())
    });
    assert!(reader.polled.records.is_empty());
}

pub(crate) fn a_log_that_lost_its_beginning_is_told_and_not_skipped(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    subject.write(&topic, 0, &["a", "b", "c", "d"]);
    subject.operator.delete_before(&topic, 0, 2);
    let mut admin = subject.broker.admin().expect("the admin client is made");
    assert_eq!(admin.range(&topic, Partition(0)).unwrap().first, NextOffset(2));
    let mut reader = subject.reader("group", &topic);
    subject.eventually("the partition is assigned", || match reader.member.poll(super::subject::WAIT) {
        Some(GroupEvent::Assigned(partitions)) if !partitions.is_empty() => {
            let range = LogRange { first: NextOffset(2), end: NextOffset(4) };
            assert_eq!(reader.member.log_ranges(&partitions), Ok(vec![range]));
            reader.take(&partitions, Some(NextOffset(1)));
            Some(())
        }
        _ => None,
    });
    subject.eventually("the member is told", || {
        reader.serve();
        reader.poll();
        reader.events.iter().find(|event| matches!(event, GroupEvent::OutOfRange(Partition(0)))).map(|_| ())
    });
    assert!(reader.polled.records.is_empty(), "{:?}", reader.values());
}

pub(crate) fn a_topic_made_anew_has_another_id(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let mut reader = subject.reader("group", &topic);
    subject.eventually("the partition is assigned", || reader.owns(1).then_some(()));
    let ownership = reader.member.ownership();
    let look = || {
        let mut look = ownership.look();
        subject
            .eventually("the broker answers", || look.seen(super::subject::WAIT))
            .expect("it says what is there")
    };
    let TopicSeen::There(Some(old)) = look() else { panic!("a topic has an id") };
    assert_eq!(look(), TopicSeen::There(Some(old)), "it stays the same");
    subject.operator.make_anew(&topic);
    let new = subject.eventually("the new topic is seen", || match look() {
        TopicSeen::There(Some(id)) => Some(id),
        _ => None,
    });
    assert_ne!(new, old);
}

pub(crate) fn partitions_added_to_a_topic_are_assigned_and_what_is_read_goes_on(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    subject.write(&topic, 0, &["a"]);
    let mut reader = subject.reader("group", &topic);
    subject.eventually("the partition is assigned", || reader.owns(1).then_some(()));
    subject.operator.add_partitions(&topic, 3);
    subject.write(&topic, 2, &["b"]);
    subject.eventually("the new ones are assigned", || reader.owns(3).then_some(()));
    subject.write(&topic, 0, &["c"]);
    subject.eventually("every record is read", || {
        reader.owns(3);
        (reader.offsets().len() == 3).then_some(())
    });
    let started: Vec<Partition> = reader.starts.iter().map(|(partition, _)| *partition).collect();
    assert_eq!(started.len(), 3, "what stayed was not taken anew: {started:?}");
    assert!(reader.starts.iter().all(|(_, start)| *start == NextOffset(0)));
}

/// Serves both until each owns `share` partitions.
pub(super) fn both_own(subject: &Subject, first: &mut Reader, second: &mut Reader, share: usize) {
    subject.eventually("both own their share", || {
        let (one, two) = (first.owns(share), second.owns(share));
        (one && two).then_some(())
    });
}

fn assert_disjoint(first: &Reader, second: &Reader, partitions: usize) {
    assert!(first.owned.is_disjoint(&second.owned));
    assert_eq!(first.owned.len() + second.owned.len(), partitions);
}

fn revoked(event: &GroupEvent) -> Vec<Partition> {
    match event {
        GroupEvent::Revoked(partitions) => partitions.clone(),
        GroupEvent::Lost(partitions) => panic!("{partitions:?} was lost"),
        _ => Vec::new(),
    }
}
