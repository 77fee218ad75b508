//! Logs are made of batches that our own producer's code writes, and polled in every way.

use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::broker::kafka::direct::batch::{Compression, OpenBatch, TRANSACTIONAL, field};
use crate::broker::kafka::direct::frame;
use crate::broker::kafka::direct::fuzzed::{self, Claims};
use crate::broker::kafka::direct::identity::Identity;
use crate::fixtures::lease;
use crate::records::Records;

const PLENTY: PollLimit = PollLimit { records: 1_000, bytes: 1 << 20 };
const CONTROL: i16 = 1 << 5;

/// A batch as it lies in a log.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Of(i64),
    Ended { producer: i64, aborted: bool },
}

/// So many records from this offset on, the value of each its offset.
fn batch(kind: Kind, first: i64, count: i64) -> Vec<u8> {
    let mut open = OpenBatch::new(0, Vec::new());
    let mut records = Records::default();
    for offset in first..first + count {
        match kind {
            Kind::Ended { aborted, .. } => records.push(Some(&[0, 0, 0, u8::from(!aborted)]), None),
            _ => records.push(None, Some(&offset.to_be_bytes())),
        };
        open.push(0, records.get(records.len() - 1));
    }
    let id = match kind {
        Kind::Plain => -1,
        Kind::Of(id) | Kind::Ended { producer: id, .. } => id,
    };
    let identity = Identity { id, epoch: 0, is_transactional: id >= 0 };
    let mut bytes = open.close(identity, 0, Compression::Lz4).0.bytes.to_vec();
    bytes[..8].copy_from_slice(&first.to_be_bytes());
    bytes[field::LEADER_EPOCH..field::MAGIC].copy_from_slice(&7_i32.to_be_bytes());
    if matches!(kind, Kind::Ended { .. }) {
        put_attributes(&mut bytes, TRANSACTIONAL | CONTROL);
    }
    bytes
}

/// A control batch is not compressed, and neither are the few bytes of one here.
fn put_attributes(bytes: &mut [u8], attributes: i16) {
    bytes[field::ATTRIBUTES..field::LAST_OFFSET].copy_from_slice(&attributes.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[field::ATTRIBUTES..]);
    bytes[field::CHECKSUM..field::ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
}

struct Rig {
    incoming: Incoming,
    woken: Arc<AtomicUsize>,
    polled: Polled,
}

impl Rig {
    fn new(start: i64) -> Self {
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = {
            let woken = Arc::clone(&woken);
            Arc::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        };
        let incoming = Incoming::new(Partition(0), 10_000, Arc::default(), waker);
        incoming.open(NextOffset(start));
        Self { incoming, woken, polled: Polled::default() }
    }

    fn question(&self) -> Question {
        self.incoming.question(Moment::START).expect("there is something to ask")
    }

    fn answer(&self, batches: &[Vec<u8>], aborted: &[(i64, i64)]) -> Result<(), Malformed> {
        let aborted = aborted.iter().map(|&(first, producer)| (Offset(first), producer)).collect();
        self.incoming.arrived(self.question(), Answer { batches: &batches.concat(), aborted })
    }

    fn poll(&mut self, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        self.incoming.poll(lease(0, 1), &mut self.polled, limit).0
    }

    fn offsets(&self) -> Vec<i64> {
        let values = self.polled.records.iter().map(|record| record.value().unwrap().to_vec());
        let offsets: Vec<i64> = self.polled.origins.iter().map(|(_, offset)| offset.0).collect();
        assert!(values.eq(offsets.iter().map(|offset| offset.to_be_bytes().to_vec())));
        offsets
    }
}

#[test]
fn what_has_come_is_polled_in_order_from_the_start_that_was_asked_for() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.question(), Question { term: 1, from: 2, epoch: None });
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.incoming.position()), (PollEnd::Empty, None));
    // The broker tells whole batches, also where the first begins earlier; and a piece of one more.
    let piece = batch(Kind::Plain, 7, 3)[..50].to_vec();
    rig.answer(&[batch(Kind::Plain, 0, 5), batch(Kind::Plain, 5, 2), piece], &[]).unwrap();
    assert_eq!(rig.question(), Question { term: 1, from: 7, epoch: Some(7) });
    assert_eq!(rig.woken.load(Ordering::SeqCst), 1);
    let two = PollLimit { records: 2, ..PLENTY };
    assert_eq!((rig.poll(two).unwrap(), rig.offsets()), (PollEnd::Limit, vec![2, 3]));
    assert_eq!(rig.incoming.position(), Some(NextOffset(4)));
    let narrow = PollLimit { bytes: 1, ..PLENTY };
    assert_eq!((rig.poll(narrow).unwrap(), rig.offsets()), (PollEnd::Limit, vec![2, 3, 4]));
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.offsets()), (PollEnd::Empty, vec![2, 3, 4, 5, 6]));
    assert_eq!(rig.incoming.position(), Some(NextOffset(7)));
}

#[test]
fn aborted_records_and_control_records_are_passed_over() {
    let mut rig = Rig::new(0);
    let (aborted, committed) = (true, false);
    rig.answer(
        &[
            batch(Kind::Of(1), 0, 2),
            batch(Kind::Of(2), 2, 2),
            batch(Kind::Plain, 4, 1),
            batch(Kind::Ended { producer: 1, aborted }, 5, 1),
            batch(Kind::Of(1), 6, 1),
            batch(Kind::Ended { producer: 2, aborted: committed }, 7, 1),
            batch(Kind::Ended { producer: 1, aborted: committed }, 8, 1),
        ],
        &[(0, 1)],
    )
    .unwrap();
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.offsets()), (PollEnd::Empty, vec![2, 3, 4, 6]));
    assert_eq!(rig.incoming.position(), Some(NextOffset(9)));
    // The end of an aborted transaction whose beginning was before, and which an answer names anew.
    rig.answer(&[batch(Kind::Of(3), 9, 1)], &[(9, 3)]).unwrap();
    rig.answer(&[batch(Kind::Of(3), 10, 1), batch(Kind::Ended { producer: 3, aborted }, 11, 1)], &[(9, 3)])
        .unwrap();
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.offsets().len()), (PollEnd::Empty, 4));
    assert_eq!(rig.incoming.position(), Some(NextOffset(12)));
}

#[test]
fn an_answer_to_an_earlier_question_is_nobodys() {
    let mut rig = Rig::new(0);
    let early = rig.question();
    rig.incoming.close();
    assert_eq!(rig.incoming.question(Moment::START), None);
    rig.incoming.open(NextOffset(0));
    let bytes = batch(Kind::Plain, 0, 1);
    rig.incoming.arrived(early, Answer { batches: &bytes, aborted: Vec::new() }).unwrap();
    assert!(!rig.incoming.halt(early));
    rig.incoming.pause(early, Moment::NEVER);
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.woken.load(Ordering::SeqCst)), (PollEnd::Empty, 0));
    let question = rig.question();
    for _ in 0..2 {
        // Told twice it counts once.
        rig.incoming.arrived(question, Answer { batches: &bytes, aborted: Vec::new() }).unwrap();
    }
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.offsets()), (PollEnd::Empty, vec![0]));
    let question = rig.question();
    assert!(rig.incoming.halt(question));
    assert_eq!(rig.incoming.question(Moment::from_nanos(u64::MAX - 1)), None);
}

#[test]
fn no_more_is_asked_for_than_there_is_room() {
    let mut rig = Rig::new(0);
    let mut next = 0;
    while let Some(question) = rig.incoming.question(Moment::START) {
        let bytes = batch(Kind::Plain, next, 50);
        rig.incoming.arrived(question, Answer { batches: &bytes, aborted: Vec::new() }).unwrap();
        next += 50;
    }
    let (polled, has_room) = rig.incoming.poll(lease(0, 1), &mut rig.polled, PLENTY);
    assert_eq!((polled.unwrap(), has_room), (PollEnd::Limit, true));
    assert!(rig.incoming.question(Moment::START).is_some());
}

#[test]
fn what_is_damaged_is_asked_for_again_and_told_when_it_stays_so() {
    let mut rig = Rig::new(0);
    rig.answer(&[batch(Kind::Plain, 0, 1)], &[]).unwrap();
    let mut damaged = batch(Kind::Plain, 1, 1);
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    for _ in 1..DAMAGED_MAX {
        rig.answer(std::slice::from_ref(&damaged), &[]).unwrap_err();
        assert_eq!(rig.question().from, 1);
    }
    // Once more than that, and what came before is read all the same.
    rig.answer(std::slice::from_ref(&damaged), &[]).unwrap_err();
    assert_eq!(rig.incoming.question(Moment::START), None);
    assert_eq!((rig.poll(PLENTY).unwrap(), rig.offsets()), (PollEnd::Limit, vec![0]));
    let error = rig.poll(PLENTY).unwrap_err();
    assert_eq!((rig.offsets(), error.class), (vec![0], Class::Fatal));
    assert!(error.message.contains("offset 1 "), "{error}");
}

#[test]
fn a_batch_that_lies_ends_the_reading_where_it_stands() {
    let mut rig = Rig::new(0);
    let mut liar = batch(Kind::Plain, 1, 2);
    // It says that it has more records than it has; another one says less.
    let attributes = i16::from_be_bytes([liar[field::ATTRIBUTES], liar[field::ATTRIBUTES + 1]]);
    let mut modest = batch(Kind::Plain, 0, 2);
    for (batch, records) in [(&mut liar, 9_i32), (&mut modest, 1)] {
        batch[field::RECORDS..field::RECORDS + 4].copy_from_slice(&records.to_be_bytes());
        put_attributes(batch, attributes);
    }
    let mut other = Rig::new(0);
    other.answer(&[modest], &[]).unwrap();
    assert_eq!((other.poll(PLENTY).unwrap(), other.offsets()), (PollEnd::Limit, vec![0]));
    other.poll(PLENTY).unwrap_err();
    rig.answer(&[batch(Kind::Plain, 0, 1), liar, batch(Kind::Plain, 10, 1)], &[]).unwrap();
    assert_eq!(rig.poll(PLENTY).unwrap(), PollEnd::Limit, "what could be read goes its way");
    let read = rig.offsets();
    assert_eq!(read, [0, 1, 2]);
    for _ in 0..2 {
        assert_eq!(rig.poll(PLENTY).unwrap_err().code, "CORRUPT_MESSAGE");
    }
    assert_eq!(rig.offsets(), read, "and nothing behind it");
}

#[test]
fn an_answer_without_a_whole_batch_is_told_and_one_of_nothing_is_not() {
    let rig = Rig::new(0);
    rig.answer(&[], &[]).unwrap();
    rig.answer(&[batch(Kind::Plain, 0, 1)[..70].to_vec()], &[]).unwrap_err();
    rig.answer(&[batch(Kind::Plain, 5, 1), batch(Kind::Plain, 3, 1)], &[]).unwrap_err();
    let rig = Rig::new(5);
    rig.answer(&[batch(Kind::Plain, 0, 5)], &[]).unwrap_err();
    rig.answer(&[batch(Kind::Plain, 0, 6)], &[]).unwrap();
}

#[test]
fn who_is_told_that_there_is_nothing_more_is_told_what_came_before() {
    let mut rig = Rig::new(0);
    rig.answer(&[batch(Kind::Plain, 0, 1)], &[]).unwrap();
    rig.incoming.fail(unreadable(1, Malformed("it was asked too nicely")));
    assert_eq!(rig.woken.load(Ordering::SeqCst), 2);
    assert_eq!(rig.poll(PLENTY).unwrap(), PollEnd::Limit, "who is told an error looks at nothing else");
    rig.poll(PLENTY).unwrap_err();
    assert_eq!(rig.offsets(), [0]);
}

#[test]
fn who_was_told_to_ask_no_more_asks_no_more_whatever_still_comes() {
    let rig = Rig::new(0);
    rig.answer(&[], &[]).unwrap();
    let question = rig.question();
    assert!(rig.incoming.halt_if_begun() && !rig.incoming.halt_if_begun());
    rig.incoming.pause(question, Moment::START);
    let bytes = batch(Kind::Plain, 0, 1);
    rig.incoming.arrived(question, Answer { batches: &bytes, aborted: Vec::new() }).unwrap();
    assert_eq!(
        (rig.incoming.question(Moment::from_nanos(u64::MAX - 1)), rig.incoming.position()),
        (None, None)
    );
}

proptest! {
    /// However a log is cut into answers, and whatever limits it is polled with: each record comes out once, in order.
    #[test]
    fn each_record_comes_out_once(
        batches in prop::collection::vec((1..40_i64, 0..3_i64), 1..30),
        answers in prop::collection::vec(1..4_usize, 1..40),
        limits in prop::collection::vec((1..50_usize, 1..300_usize), 1..60),
        start in 0..30_i64,
    ) {
        let (mut log, mut next, mut expected) = (VecDeque::new(), 0, Vec::new());
        for (count, gap) in batches {
            if next + count > start {
                // A broker begins with the batch that holds what is asked for.
                log.push_back(batch(Kind::Plain, next, count));
            }
            expected.extend(next..next + count);
            next += count + gap;
        }
        expected.retain(|offset| *offset >= start);
        let mut rig = Rig::new(start);
        let (mut answers, mut limits) = (answers.iter().cycle(), limits.iter().cycle());
        while !log.is_empty() || rig.offsets().len() < expected.len() {
            if let Some(question) = rig.incoming.question(Moment::START) {
                let answer: Vec<Vec<u8>> = log.drain(..log.len().min(*answers.next().unwrap())).collect();
                rig.incoming.arrived(question, Answer { batches: &answer.concat(), aborted: Vec::new() }).unwrap();
            }
            let (records, bytes) = *limits.next().unwrap();
            rig.poll(PollLimit { records, bytes }).unwrap();
        }
        rig.poll(PLENTY).unwrap();
        prop_assert_eq!(rig.offsets(), expected);
    }

    /// Whatever batches say of themselves and hold, behind a checksum that is right: what comes out of them comes once and in order, or they are
    /// refused.
    #[test]
    fn batches_that_lie_are_refused(
        batches in prop::collection::vec(any_claims(), 0..4),
        start in 0..8_i64,
        aborted in prop::collection::vec((0..8_i64, -1..3_i64), 0..3),
        at_once in 0..4_usize,
    ) {
        fuzzed::read(&batches, start, &aborted, at_once);
    }

    /// Two readers of LZ4 frames never read the same frame differently.
    #[test]
    fn a_frame_holds_for_us_what_it_holds_for_the_library(
        held in prop::collection::vec(0..4_u8, 0..3_000),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = Vec::new();
        frame::append(&held, &mut bytes);
        prop_assert_eq!(fuzzed::read_frame(&bytes), Some(held.len()));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzzed::read_frame(&bytes);
    }
}

#[test]
fn batches_that_tell_the_truth_are_read() {
    // Attributes, distances in time and offset, no key, a value of a byte, no headers; twice.
    let body = [&[14, 0, 0, 0, 1, 2, b'a', 0][..], &[14, 0, 0, 2, 1, 2, b'b', 0]].concat();
    for (attributes, packs) in [(0, false), (3, true)] {
        let told = Claims {
            attributes,
            first: 5,
            last_delta: 1,
            producer: 7,
            records: 2,
            body: body.clone(),
            packs,
        };
        assert_eq!(fuzzed::read(from_ref(&told), 0, &[], 1), (2, true));
        assert_eq!(fuzzed::read(from_ref(&told), 6, &[], 1), (1, true));
        let in_a_transaction = Claims { attributes: attributes | TRANSACTIONAL, ..told.clone() };
        assert_eq!(fuzzed::read(&[in_a_transaction], 0, &[(0, 7)], 1), (0, true));
        assert_eq!(fuzzed::read(&[Claims { records: 3, ..told.clone() }], 0, &[], 9), (2, false));
        assert_eq!(fuzzed::read(&[Claims { records: 1, ..told }], 0, &[], 9), (1, false));
    }
}

/// What a record may begin with, and whatever.
fn any_claims() -> impl Strategy<Value = Claims> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(prop::sample::select(vec![14, 0, 1, 2, 4, b'a', 200]), 0..60),
    ];
    let head = (0..128_i16, -2..9_i64, -1..6_i32, -1..3_i64, -1..6_i32, any::<bool>());
    (head, body).prop_map(|((attributes, first, last_delta, producer, records, packs), body)| Claims {
        attributes,
        first,
        last_delta,
        producer,
        records,
        body,
        packs,
    })
}
