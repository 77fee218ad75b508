//! What no conformance check can ask of a real broker: crashes, faults on demand, and time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::broker::{
    Class, GroupEvent, GroupToken, LogRange, OffsetCommit, PollEnd, PollLimit, Polled, Queue, TopicSpec,
};
use crate::clock::ManualClock;
use crate::lease::{Lease, Term};
use crate::records::Records;

const P: Partition = Partition(0);
const NOW: Duration = Duration::ZERO;
const ALL: PollLimit = PollLimit { records: 1000, bytes: 1 << 20 };

/// A broker with the topic `t` of four partitions, and its clock.
fn broker(seed: u64) -> (SimulatedBroker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let broker = SimulatedBroker::new(clock.clone(), seed);
    let topic = TopicSpec { name: "t".into(), partitions: 4, replication: 1, config: BTreeMap::new() };
    broker.admin().unwrap().create(&topic).unwrap();
    (broker, clock)
}

fn fail(broker: &SimulatedBroker, step: Step, fault: Fault) {
    let rule = FaultRule { step, when: When::Nth(1), fault };
    broker.set_faults(FaultPlan { rules: vec![rule], faults_max: None });
}

fn value(text: &str) -> Records {
    let mut records = Records::default();
    records.push(None, Some(text.as_bytes()));
    records
}

fn send(producer: &mut dyn Producer, text: &str) {
    producer.send("t", Some(0), value(text).get(0)).unwrap();
}

/// A producer with a transaction open that has one record in the log.
fn open(broker: &SimulatedBroker, id: &str, text: &str) -> Box<dyn Producer> {
    let mut producer = broker.producer(id).unwrap();
    producer.begin().unwrap();
    send(&mut *producer, text);
    assert_eq!(producer.drain(NOW), Ok(true));
    producer
}

fn values(broker: &SimulatedBroker, isolation: Isolation) -> Vec<String> {
    let records = broker.records("t", P, isolation);
    records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
}

fn committed(broker: &SimulatedBroker) -> Vec<String> {
    values(broker, Isolation::ReadCommitted)
}

fn class<T: std::fmt::Debug>(result: Result<T, BrokerError>) -> Class {
    result.unwrap_err().class
}

/// Polls until nothing happens any more, and takes and gives back what it is told to.
fn settle(member: &mut dyn Member) -> Vec<GroupEvent> {
    let mut events = Vec::new();
    while let Some(event) = member.poll(NOW) {
        match &event {
            GroupEvent::Assigned(partitions) => {
                let starts: Vec<_> = partitions.iter().map(|&partition| (partition, NextOffset(0))).collect();
                member.assign(&starts).unwrap();
            }
            GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) => {
                member.unassign(partitions).unwrap();
            }
            GroupEvent::OutOfRange(_) | GroupEvent::Failed(_) => {}
        }
        events.push(event);
    }
    events
}

fn assigned(events: &[GroupEvent]) -> usize {
    let count = |event: &GroupEvent| match event {
        GroupEvent::Assigned(partitions) => partitions.len(),
        _ => 0,
    };
    events.iter().map(count).sum()
}

/// A member that reads every partition of `t`, with the queue of partition 0 and how often it was woken.
fn reader(broker: &SimulatedBroker) -> (Box<dyn Member>, Box<dyn Queue>, Arc<AtomicUsize>) {
    let mut member = broker.member("g", "t").unwrap();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let wake = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let queue = member.queue(P, Arc::new(wake)).unwrap();
    assert_eq!(assigned(&settle(&mut *member)), 4);
    (member, queue, woken)
}

fn poll(queue: &mut dyn Queue) -> (Vec<i64>, PollEnd) {
    let mut polled = Polled::default();
    let end = queue.poll(Lease { partition: P, term: Term(1) }, &mut polled, ALL).unwrap();
    (polled.origins.iter().map(|(_, offset)| offset.0).collect(), end)
}

fn write(broker: &SimulatedBroker, count: u64) {
    let mut writer = broker.writer().unwrap();
    for tag in 0..count {
        writer.write("t", Some(0), None, value("w").get(0), tag).unwrap();
    }
}

#[test]
fn a_commit_of_unknown_outcome_is_resolved_by_calling_it_again() {
    for (fault, is_done) in [(Fault::After(Class::Retriable), true), (Fault::Before(Class::Retriable), false)]
    {
        let (broker, _) = broker(1);
        let mut producer = open(&broker, "a", "x");
        fail(&broker, Step::Commit, fault);
        assert_eq!(class(producer.commit()), Class::Retriable);
        assert_eq!(committed(&broker).len(), usize::from(is_done));
        let error = producer.abort().unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (Class::Fatal, "CONFLICT"));
        producer.commit().unwrap();
        assert_eq!(committed(&broker), ["x"]);
        producer.begin().unwrap();
        producer.commit().unwrap();
    }
}

#[test]
fn after_a_fatal_commit_only_the_broker_knows_whether_it_was_done() {
    for (fault, expected) in [(Fault::After(Class::Fatal), &["x"][..]), (Fault::Before(Class::Fatal), &[])] {
        let (broker, _) = broker(1);
        let mut producer = open(&broker, "a", "x");
        fail(&broker, Step::Commit, fault);
        assert_eq!(class(producer.commit()), Class::Fatal);
        for result in [producer.commit(), producer.abort(), producer.begin()] {
            assert_eq!(class(result), Class::Fatal);
        }
        broker.producer("a").unwrap();
        assert_eq!(committed(&broker), expected);
    }
}

#[test]
fn a_refused_delivery_allows_nothing_but_an_abort() {
    let (broker, _) = broker(1);
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    send(&mut *producer, "x");
    fail(&broker, Step::Drain, Fault::Before(Class::Abortable));
    assert_eq!(class(producer.drain(NOW)), Class::Abortable);
    assert_eq!(class(producer.commit()), Class::Abortable);
    assert_eq!(class(producer.begin()), Class::Abortable);
    producer.abort().unwrap();
    producer.begin().unwrap();
    producer.commit().unwrap();
    assert!(committed(&broker).is_empty());
}

#[test]
fn an_unfinished_drain_leaves_records_under_way() {
    let (broker, _) = broker(1);
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    for text in ["x", "y", "z"] {
        send(&mut *producer, text);
    }
    fail(&broker, Step::Drain, Fault::Unfinished);
    assert_eq!(producer.drain(NOW), Ok(false));
    assert!(values(&broker, Isolation::ReadUncommitted).len() < 3);
    assert_eq!(producer.drain(NOW), Ok(true));
    producer.commit().unwrap();
    assert_eq!(committed(&broker), ["x", "y", "z"]);
}

#[test]
fn a_call_whose_answer_was_lost_is_not_done_twice() {
    let (broker, _) = broker(1);
    let mut producer = broker.producer("a").unwrap();
    fail(&broker, Step::Begin, Fault::After(Class::Retriable));
    assert_eq!(class(producer.begin()), Class::Retriable);
    producer.begin().unwrap();
    fail(&broker, Step::Send, Fault::After(Class::Retriable));
    assert_eq!(class(producer.send("t", Some(0), value("x").get(0))), Class::Retriable);
    send(&mut *producer, "x");
    fail(&broker, Step::Abort, Fault::Before(Class::Retriable));
    assert_eq!(producer.drain(NOW), Ok(true));
    assert_eq!(values(&broker, Isolation::ReadUncommitted), ["x"]);
    assert_eq!(class(producer.abort()), Class::Retriable);
    assert_eq!(producer.commit().unwrap_err().code, "CONFLICT");
    producer.abort().unwrap();
    producer.begin().unwrap();
}

#[test]
fn a_full_queue_takes_records_again_once_it_is_drained() {
    let (broker, _) = broker(1);
    let broker = broker.queue_records_max(1);
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    send(&mut *producer, "x");
    assert_eq!(class(producer.send("t", Some(0), value("y").get(0))), Class::QueueFull);
    assert_eq!(producer.drain(NOW), Ok(true));
    send(&mut *producer, "y");
    producer.commit().unwrap();
    assert_eq!(committed(&broker), ["x", "y"]);
}

#[test]
fn a_dead_process_leaves_its_transaction_open_until_its_time_is_over() {
    let (broker, clock) = broker(1);
    drop(open(&broker, "a", "x"));
    write(&broker, 1);
    clock.advance(Duration::from_secs(30));
    assert!(committed(&broker).is_empty());
    clock.advance(Duration::from_nanos(1));
    assert_eq!(committed(&broker), ["w"]);
}

#[test]
fn a_transaction_over_its_time_kills_its_producer_but_not_as_a_fenced_one() {
    let (broker, clock) = broker(1);
    let mut producer = open(&broker, "a", "x");
    clock.advance(Duration::from_secs(31));
    let error = producer.commit().unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::Fatal, "INVALID_PRODUCER_EPOCH"));
    assert!(committed(&broker).is_empty());
}

#[test]
fn a_process_may_have_a_shorter_transaction_timeout_than_others() {
    let (broker, clock) = broker(1);
    let hasty = broker.with_transaction_timeout(Duration::from_secs(1));
    let (mut slow, mut quick) = (open(&broker, "slow", "x"), open(&hasty, "quick", "y"));
    clock.advance(Duration::from_secs(2));
    assert_eq!(class(quick.commit()), Class::Fatal);
    slow.commit().unwrap();
    assert_eq!(committed(&broker), ["x"]);
}

#[test]
fn a_dead_member_keeps_its_partitions_until_its_session_is_over() {
    let (broker, clock) = broker(1);
    let (dead, ..) = reader(&broker);
    drop(dead);
    let mut next = broker.member("g", "t").unwrap();
    assert_eq!(assigned(&settle(&mut *next)), 0);
    clock.advance(Duration::from_secs(40));
    assert_eq!(assigned(&settle(&mut *next)), 0);
    clock.advance(Duration::from_secs(6));
    assert_eq!(assigned(&settle(&mut *next)), 4);
}

#[test]
fn a_member_with_the_dead_ones_instance_name_takes_over_at_once() {
    let (broker, _) = broker(1);
    let broker = broker.as_instance("engine-0");
    let (mut old, ..) = reader(&broker);
    let token = old.ownership().token().unwrap();
    let mut next = broker.member("g", "t").unwrap();
    assert_eq!(assigned(&settle(&mut *next)), 4);
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    assert_eq!(class(producer.send_offsets("t", &[], &token)), Class::Abortable);
    assert!(matches!(old.poll(NOW), Some(GroupEvent::Lost(partitions)) if partitions.len() == 4));
    old.unassign(&[P, Partition(1), Partition(2), Partition(3)]).unwrap();
    assert!(matches!(old.poll(NOW), Some(GroupEvent::Failed(error)) if error.class == Class::Fenced));
}

#[test]
fn an_expelled_member_loses_everything_and_comes_back() {
    let (broker, _) = broker(1);
    let (mut member, mut queue, _) = reader(&broker);
    let before = member.ownership().token().unwrap();
    write(&broker, 1);
    fail(&broker, Step::MemberPoll, Fault::Expelled);
    assert!(matches!(member.poll(NOW), Some(GroupEvent::Lost(partitions)) if partitions.len() == 4));
    assert_eq!(poll(&mut *queue), (vec![], PollEnd::Empty));
    assert!(member.ownership().token().is_err());
    assert!(member.assign(&[(P, NextOffset(0))]).is_err());
    member.unassign(&[P, Partition(1), Partition(2), Partition(3)]).unwrap();
    assert_eq!(assigned(&settle(&mut *member)), 4);
    assert_eq!(poll(&mut *queue), (vec![0], PollEnd::Empty));
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    assert_eq!(class(producer.send_offsets("t", &[], &before)), Class::Abortable);
}

#[test]
fn a_revoked_partition_is_not_read_once_it_was_given_back() {
    let (broker, _) = broker(1);
    let (mut first, mut queue, _) = reader(&broker);
    let mut second = broker.member("g", "t").unwrap();
    settle(&mut *second);
    let Some(GroupEvent::Revoked(moved)) = first.poll(NOW).or_else(|| first.poll(NOW)) else {
        panic!("the second member is due its share")
    };
    assert_eq!(moved, [Partition(2), Partition(3)]);
    assert!(first.poll(NOW).is_none(), "nothing more is told before the answer");
    assert_eq!(assigned(&settle(&mut *second)), 0);
    let token = first.ownership().token();
    assert!(token.is_ok(), "what is revoked is owned until it is given back");
    first.unassign(&moved).unwrap();
    settle(&mut *first);
    assert_eq!(assigned(&settle(&mut *second)), 2);
    write(&broker, 1);
    assert_eq!(poll(&mut *queue), (vec![0], PollEnd::Empty), "what stayed is read on");
}

#[test]
fn queue_faults_repeat_hide_and_shorten_but_lose_nothing() {
    let (broker, clock) = broker(1);
    let (_member, mut queue, woken) = reader(&broker);
    write(&broker, 3);
    assert_eq!(poll(&mut *queue), (vec![0, 1, 2], PollEnd::Empty));
    write(&broker, 1);
    fail(&broker, Step::QueuePoll, Fault::Again(2));
    let (offsets, _) = poll(&mut *queue);
    assert!(offsets == [2, 3] || offsets == [1, 2, 3], "{offsets:?}");
    write(&broker, 2);
    fail(&broker, Step::QueuePoll, Fault::Short(1));
    assert_eq!(poll(&mut *queue), (vec![4], PollEnd::Limit));
    assert_eq!(poll(&mut *queue), (vec![5], PollEnd::Empty));
    write(&broker, 1);
    fail(&broker, Step::QueuePoll, Fault::Hidden(Duration::from_secs(1)));
    let before = woken.load(Ordering::SeqCst);
    assert_eq!(poll(&mut *queue), (vec![], PollEnd::Empty));
    assert_eq!((queue.position(), queue.end()), (Some(NextOffset(6)), Some(NextOffset(6))));
    clock.advance(Duration::from_secs(1));
    assert_eq!(queue.end(), Some(NextOffset(7)));
    assert_eq!(woken.load(Ordering::SeqCst), before + 1);
    assert_eq!(poll(&mut *queue), (vec![6], PollEnd::Empty));
}

#[test]
fn a_queue_wakes_once_and_only_for_what_can_be_seen() {
    let (broker, _) = broker(1);
    let (_member, mut queue, woken) = reader(&broker);
    assert_eq!(poll(&mut *queue), (vec![], PollEnd::Empty));
    let mut producer = open(&broker, "a", "x");
    write(&broker, 2);
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    producer.commit().unwrap();
    write(&broker, 1);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(poll(&mut *queue), (vec![0, 1, 2, 4], PollEnd::Empty));
    write(&broker, 1);
    assert_eq!(woken.load(Ordering::SeqCst), 2);
}

#[test]
fn what_retention_takes_away_under_a_reader_is_told_once() {
    let (broker, _) = broker(1);
    write(&broker, 3);
    let (mut member, mut queue, _) = reader(&broker);
    broker.delete_before("t", P, NextOffset(2));
    assert_eq!(poll(&mut *queue), (vec![], PollEnd::Empty));
    assert!(matches!(settle(&mut *member)[..], [GroupEvent::OutOfRange(P)]));
    let range = LogRange { first: NextOffset(2), end: NextOffset(3) };
    assert_eq!(member.log_ranges(&[P]), Ok(vec![range]));
    assert_eq!(broker.records("t", P, Isolation::ReadCommitted).len(), 1);
}

#[test]
fn a_blocking_poll_ends_when_another_member_changes_the_group() {
    let (broker, _) = broker(1);
    let broker = broker.blocking(true);
    let mut first = broker.member("g", "t").unwrap();
    assert!(matches!(first.poll(NOW), Some(GroupEvent::Assigned(_))));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || (first.poll(Duration::from_hours(1)), first));
        let mut second = broker.member("g", "t").unwrap();
        assert!(second.poll(NOW).is_none());
        let (event, _first) = waiting.join().unwrap();
        assert!(matches!(event, Some(GroupEvent::Revoked(partitions)) if partitions.len() == 2));
    });
}

#[test]
fn a_token_of_another_kind_of_group_is_refused() {
    let (broker, _) = broker(1);
    let mut producer = broker.producer("a").unwrap();
    producer.begin().unwrap();
    let token = GroupToken::Simulated { group: "nobody".into(), member: 1, generation: 0 };
    assert_eq!(class(producer.send_offsets("t", &[], &token)), Class::Abortable);
}

/// A process that consumes `t` and, in a transaction of its own, produces what it read and commits its offsets.
fn run(seed: u64) -> (String, u64, Vec<i64>) {
    let (broker, clock) = broker(seed);
    let chance = |step, chance, fault| FaultRule { step, when: When::Chance(chance), fault };
    broker.set_faults(FaultPlan {
        rules: vec![
            chance(Step::Commit, 0.2, Fault::After(Class::Retriable)),
            chance(Step::Commit, 0.2, Fault::Before(Class::Retriable)),
            chance(Step::SendOffsets, 0.2, Fault::Before(Class::Abortable)),
            chance(Step::Drain, 0.3, Fault::Unfinished),
            chance(Step::QueuePoll, 0.2, Fault::Short(1)),
        ],
        faults_max: Some(40),
    });
    let (member, mut queue, _) = reader(&broker);
    let mut producer = broker.producer("a").unwrap();
    let mut next = NextOffset(0);
    for _ in 0..20 {
        write(&broker, 2);
        clock.advance(Duration::from_millis(10));
        let (offsets, _) = poll(&mut *queue);
        let Some(&last) = offsets.last() else { continue };
        loop {
            producer.begin().unwrap();
            producer.send("t", Some(1), value(&last.to_string()).get(0)).unwrap();
            while !producer.drain(NOW).unwrap() {}
            let commit = OffsetCommit { partition: P, next: NextOffset(last + 1), metadata: String::new() };
            if producer.send_offsets("t", &[commit], &member.ownership().token().unwrap()).is_ok() {
                break;
            }
            producer.abort().unwrap();
        }
        while producer.commit().is_err() {}
        next = NextOffset(last + 1);
    }
    let group = broker.admin().unwrap().committed("g", "t", &[P]).unwrap();
    assert_eq!(group[0].as_ref().map(|committed| committed.next), Some(next));
    let sent = broker.records("t", Partition(1), Isolation::ReadCommitted);
    let sent =
        sent.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap().parse().unwrap());
    (broker.history_hash(), broker.fault_count(), sent.collect())
}

#[test]
fn a_seed_has_one_history() {
    let (hash, faults, sent) = run(3);
    assert!(faults > 5, "{faults} faults are too few to show anything");
    assert!(sent.is_sorted_by(|one, next| one < next), "each once: {sent:?}");
    assert_eq!(run(3).0, hash);
    assert_ne!(run(4).0, hash);
}

/// What a producer of one of two ids does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Send { producer: usize, partition: i32 },
    Commit { producer: usize },
    Abort { producer: usize },
    Replace { producer: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let producer = 0usize..3;
    prop_oneof![
        6 => (producer.clone(), 0i32..2).prop_map(|(producer, partition)| Act::Send { producer, partition }),
        2 => producer.clone().prop_map(|producer| Act::Commit { producer }),
        1 => producer.clone().prop_map(|producer| Act::Abort { producer }),
        1 => producer.prop_map(|producer| Act::Replace { producer }),
    ]
}

proptest! {
    /// Three producers; the first two share a transactional id, and fence each other when they are made anew.
    #[test]
    fn only_what_an_unfenced_producer_committed_is_ever_seen(acts in prop::collection::vec(act(), 0..60)) {
        let (broker, _) = broker(1);
        let ids = ["shared", "shared", "own"];
        let mut producers: Vec<Box<dyn Producer>> = ids.iter().map(|id| broker.producer(id).unwrap()).collect();
        // The model: who holds an id, what each has open, and what is committed.
        let mut holders = [1, 1, 2];
        let mut open: [Vec<(i32, String)>; 3] = Default::default();
        let mut begun = [false; 3];
        let mut expected: Vec<(i32, String)> = Vec::new();
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Send { producer, partition } => {
                    let text = number.to_string();
                    let mut attempt = Ok(());
                    if !begun[producer] {
                        attempt = producers[producer].begin();
                    }
                    let record = value(&text);
                    let sent = attempt.and_then(|()| producers[producer].send("t", Some(partition), record.get(0)));
                    let drained = sent.and_then(|()| producers[producer].drain(NOW));
                    if holders[producer] == producer {
                        prop_assert_eq!(drained, Ok(true));
                        begun[producer] = true;
                        open[producer].push((partition, text));
                    } else {
                        prop_assert_eq!(class(drained), Class::Fenced);
                    }
                }
                Act::Commit { producer } | Act::Abort { producer } if !begun[producer] => {
                    prop_assert!(producers[producer].commit().is_err());
                }
                Act::Commit { producer } => {
                    prop_assert_eq!(producers[producer].commit(), Ok(()));
                    expected.append(&mut open[producer]);
                    begun[producer] = false;
                }
                Act::Abort { producer } => {
                    prop_assert_eq!(producers[producer].abort(), Ok(()));
                    open[producer].clear();
                    begun[producer] = false;
                }
                Act::Replace { producer } => {
                    producers[producer] = broker.producer(ids[producer]).unwrap();
                    for other in (0..3).filter(|&other| ids[other] == ids[producer]) {
                        holders[other] = producer;
                        open[other].clear();
                        begun[other] = false;
                    }
                }
            }
        }
        drop(producers);
        // The next of each id ends what is still open, so that everything committed can be seen.
        for id in ids {
            broker.producer(id).unwrap();
        }
        for partition in 0..2 {
            let seen = broker.records("t", Partition(partition), Isolation::ReadCommitted);
            let mut seen: Vec<String> =
                seen.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect();
            let mut wanted: Vec<String> =
                expected.iter().filter(|(at, _)| *at == partition).map(|(_, text)| text.clone()).collect();
            let order = |text: &String| text.parse::<usize>().unwrap();
            prop_assert!(seen.is_sorted_by_key(order), "records stand in the order in which they were sent");
            seen.sort();
            wanted.sort();
            prop_assert_eq!(seen, wanted);
        }
    }
}
