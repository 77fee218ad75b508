//! A model of the broker: what it appends, what it takes for a repetition, and what it would refuse.

use bytes::Buf as _;
use proptest::prelude::*;

use super::super::batch::Compression;
use super::*;
use crate::records::Records;

const IDENTITY: Identity = Identity { id: 1, epoch: 0, is_transactional: true };
const BOUNDS: Bounds = Bounds { records: 50, bytes: 1 << 20 };
const PARTITIONS: usize = 3;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A record is handed over for a partition.
    Push(usize),
    /// Every leader is free.
    Send,
    /// What is under way for a partition arrives, and so does the answer.
    Answer(usize),
    /// It arrives, and the answer is lost.
    AnswerLost(usize),
    /// It is lost.
    Lost(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let partition = || 0..PARTITIONS;
    prop_oneof![
        4 => partition().prop_map(Step::Push),
        2 => Just(Step::Send),
        2 => partition().prop_map(Step::Answer),
        1 => partition().prop_map(Step::AnswerLost),
        1 => partition().prop_map(Step::Lost),
    ]
}

/// A partition's log: of each batch the first sequence number, the number of records, and its bytes.
#[derive(Default)]
struct Log(Vec<(i32, i32, Bytes)>);

impl Log {
    /// Appends a batch, or finds that it is the last one again.
    fn append(&mut self, bytes: &Bytes) {
        let sequence = bytes.slice(53..).get_i32();
        let records = bytes.slice(57..).get_i32();
        let next = self.0.last().map_or(0, |(sequence, records, _)| sequence + records);
        if let Some(last) = self.0.last()
            && last.0 == sequence
        {
            assert_eq!(last.2, bytes, "a repetition is the same");
        } else {
            assert_eq!(sequence, next, "nothing is missing before it");
            self.0.push((sequence, records, bytes.clone()));
        }
    }

    fn records(&self) -> i32 {
        self.0.iter().map(|(_, records, _)| records).sum()
    }
}

struct World {
    outgoing: Outgoing,
    compression: Compression,
    logs: [Log; PARTITIONS],
    under_way: [Option<Bytes>; PARTITIONS],
    pushed: [i32; PARTITIONS],
}

impl World {
    fn new() -> Self {
        Self {
            outgoing: Outgoing::new(BOUNDS),
            compression: Compression::None,
            logs: Default::default(),
            under_way: Default::default(),
            pushed: [0; PARTITIONS],
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Push(partition) if !self.outgoing.is_full() => {
                let mut records = Records::default();
                records.push(None, Some(&[7; 40]));
                // Three of them make a batch.
                self.outgoing.push(target(partition), 0, records.get(0), 61 + 3 * 55 + 97);
                self.pushed[partition] += 1;
            }
            Step::Push(_) => {}
            Step::Send => {
                for (target, bytes) in self.outgoing.take(|_| true, usize::MAX, IDENTITY, self.compression) {
                    assert!(self.under_way[target.partition].replace(bytes).is_none(), "one at a time");
                }
            }
            Step::Answer(partition) => {
                if let Some(bytes) = self.under_way[partition].take() {
                    self.logs[partition].append(&bytes);
                    self.outgoing.acknowledged(target(partition));
                }
            }
            Step::AnswerLost(partition) => {
                if let Some(bytes) = self.under_way[partition].take() {
                    self.logs[partition].append(&bytes);
                    self.outgoing.again(target(partition));
                }
            }
            Step::Lost(partition) => {
                if self.under_way[partition].take().is_some() {
                    self.outgoing.again(target(partition));
                }
            }
        }
    }
}

fn target(partition: usize) -> Target {
    Target { topic: TopicIndex(0), partition }
}

proptest! {
    #[test]
    fn each_record_is_in_its_log_once_whatever_is_lost(steps in proptest::collection::vec(any_step(), 0..200)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            prop_assert!(world.outgoing.waiting_bytes() <= world.outgoing.bytes);
        }
        while !world.outgoing.is_empty() {
            world.take(Step::Send);
            (0..PARTITIONS).for_each(|partition| world.take(Step::Answer(partition)));
        }
        for (log, pushed) in world.logs.iter().zip(world.pushed) {
            prop_assert_eq!(log.records(), pushed);
        }
        prop_assert_eq!((world.outgoing.bytes, world.outgoing.waiting_bytes()), (0, 0));
    }
}

#[test]
fn it_is_full_at_its_bound_and_has_room_again_once_something_is_acknowledged() {
    let mut world = World::new();
    for _ in 0..BOUNDS.records {
        assert!(!world.outgoing.is_full());
        world.take(Step::Push(0));
    }
    assert!(world.outgoing.is_full());
    world.take(Step::Send);
    world.take(Step::Answer(0));
    assert!(!world.outgoing.is_full());
}

#[test]
fn what_is_not_led_by_who_is_asked_stays() {
    let mut world = World::new();
    (0..PARTITIONS).for_each(|partition| world.take(Step::Push(partition)));
    let taken = world.outgoing.take(|it| it.partition == 1, usize::MAX, IDENTITY, world.compression);
    assert_eq!(taken.iter().map(|(target, _)| target.partition).collect::<Vec<_>>(), [1]);
    assert_eq!(world.outgoing.ready().map(|it| it.partition).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_request_is_not_added_to_once_it_is_large() {
    let mut world = World::new();
    (0..PARTITIONS).for_each(|partition| world.take(Step::Push(partition)));
    let taken = world.outgoing.take(|_| true, 150, IDENTITY, world.compression);
    assert_eq!(taken.len(), 2, "each is of about 110 bytes");
}

#[test]
fn behind_the_largest_sequence_number_comes_zero() {
    assert_eq!(after(5, 3), 8);
    assert_eq!(after(i32::MAX - 1, 1), i32::MAX);
    assert_eq!(after(i32::MAX - 1, 2), 0);
    assert_eq!(after(i32::MAX, 3), 2);
}
