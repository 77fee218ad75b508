//! What the fuzzers of tests/fuzz get hold of, and our own tests: batches as no broker would write them, but with the right checksum, are read
//! as those of a broker are.

#![cfg_attr(
    test,
    expect(unreachable_pub, reason = "the fuzzers are another package, and not there in tests")
)]

use std::io::Read as _;
use std::sync::Arc;

use super::batch::{HEADER, MAGIC, field};
use super::incoming::{Answer, Incoming};
use super::{frame, inflate};
use crate::broker::{PollEnd, PollLimit, Polled};
use crate::clock::Moment;
use crate::lease::{Lease, NextOffset, Offset, Partition, Term};

/// A batch that says of itself whatever it likes.
#[derive(Clone, Debug)]
pub struct Claims {
    /// How it is compressed, whether it is one of a transaction, and so on.
    pub attributes: i16,
    /// The offset of its first record.
    pub first: i64,
    /// How far behind that its last one is.
    pub last_delta: i32,
    /// Whose it is.
    pub producer: i64,
    /// How many records it has.
    pub records: i32,
    /// The records.
    pub body: Vec<u8>,
    /// Whether the records are compressed first, as LZ4: a fuzzer does not guess what that makes of them.
    pub packs: bool,
}

impl Claims {
    fn write(&self, answer: &mut Vec<u8>) {
        let mut bytes = vec![0; HEADER];
        if self.packs {
            frame::append(&self.body, &mut bytes);
        } else {
            bytes.extend_from_slice(&self.body);
        }
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.first.to_be_bytes());
        put(field::MAGIC, &[MAGIC]);
        put(field::ATTRIBUTES, &self.attributes.to_be_bytes());
        put(field::LAST_OFFSET, &self.last_delta.to_be_bytes());
        put(field::PRODUCER, &self.producer.to_be_bytes());
        put(field::RECORDS, &self.records.to_be_bytes());
        let length = i32::try_from(bytes.len() - field::LEADER_EPOCH).unwrap_or(i32::MAX);
        bytes[field::LENGTH..field::LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[field::ATTRIBUTES..]);
        bytes[field::CHECKSUM..field::ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
        answer.append(&mut bytes);
    }
}

/// Reads an answer of these batches, a few records at a time, until there is nothing more or it is refused. Returns how many records came
/// out, and whether none was refused.
///
/// # Panics
///
/// If an offset came out twice, or not in order, or below `start`; or if records, origins and times are not as many.
pub fn read(batches: &[Claims], start: i64, aborted: &[(i64, i64)], at_once: usize) -> (usize, bool) {
    let mut bytes = Vec::new();
    batches.iter().for_each(|batch| batch.write(&mut bytes));
    let incoming = Incoming::new(Partition(0), usize::MAX, Arc::default(), Arc::new(|| {}));
    incoming.open(NextOffset(start));
    let question = incoming.question(Moment::START).expect("it was opened, and nothing has come");
    let aborted = aborted.iter().map(|&(first, producer)| (Offset(first), producer)).collect();
    let mut is_sound = incoming.arrived(question, Answer { batches: &bytes, aborted }).is_ok();
    let (mut polled, lease) = (Polled::default(), Lease { partition: Partition(0), term: Term(1) });
    let limit = PollLimit { records: at_once.max(1), bytes: usize::MAX };
    loop {
        match incoming.poll(lease, &mut polled, limit).0 {
            Ok(PollEnd::Empty) => break,
            Ok(_) => {}
            Err(_) => {
                is_sound = false;
                break;
            }
        }
    }
    assert!(polled.origins.is_sorted_by(|(_, one), (_, next)| one < next), "offsets come once, and in order");
    assert!(polled.origins.iter().all(|(_, offset)| offset.0 >= start));
    assert_eq!((polled.records.len(), polled.times.len()), (polled.origins.len(), polled.origins.len()));
    (polled.records.len(), is_sound)
}

/// Reads an LZ4 frame as we do and as the library does; `None` where one of them, or both, refuse it.
///
/// # Panics
///
/// If they do not read the same.
pub fn read_frame(bytes: &[u8]) -> Option<usize> {
    let (mut ours, mut theirs) = (vec![0xaa; 100], Vec::new());
    let length = frame::read(bytes, &mut ours, inflate::INFLATED_MAX).ok()?;
    lz4::Decoder::new(bytes).ok()?.read_to_end(&mut theirs).ok()?;
    assert_eq!(&ours[..length], &theirs);
    Some(length)
}
