//! A batch of records as it lies in a log: Kafka's format of version 2, written once, in place.
//!
//! A record is written to its batch when it is handed over, and what is sent are the bytes of the batch: no record is held as an object
//! of its own in between. The format is that of Kafka's documentation, section 5.3, "Record Batch".

use bytes::Bytes;

use super::frame;
use super::identity::Identity;
use crate::records::RecordView;

/// Bytes before a batch's first record.
pub(super) const HEADER: usize = 61;

/// Where in the header its fields begin.
pub(super) mod field {
    pub(in super::super) const LENGTH: usize = 8;
    pub(in super::super) const LEADER_EPOCH: usize = 12;
    pub(in super::super) const MAGIC: usize = 16;
    pub(in super::super) const CHECKSUM: usize = 17;
    pub(in super::super) const ATTRIBUTES: usize = 21;
    pub(in super::super) const LAST_OFFSET: usize = 23;
    pub(in super::super) const FIRST_TIME: usize = 27;
    pub(in super::super) const LAST_TIME: usize = 35;
    pub(in super::super) const PRODUCER: usize = 43;
    pub(in super::super) const EPOCH: usize = 51;
    pub(in super::super) const SEQUENCE: usize = 53;
    pub(in super::super) const RECORDS: usize = 57;
}

/// The format's version.
pub(super) const MAGIC: u8 = 2;
/// The bits of the attributes.
const UNCOMPRESSED: i16 = 0;
const LZ4: i16 = 3;
pub(super) const TRANSACTIONAL: i16 = 1 << 4;
/// Bytes of a number of variable length, at most.
const VARINT_MAX: usize = 10;

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// As LZ4 frames.
    Lz4,
}

/// A batch that records are still added to.
#[derive(Debug)]
pub(super) struct OpenBatch {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    records: i32,
    first_millis: i64,
    last_millis: i64,
}

/// A batch that is ready to be sent, any number of times.
#[derive(Debug)]
pub(super) struct Batch {
    /// What is sent.
    pub(super) bytes: Bytes,
    /// How many records it holds.
    pub(super) records: usize,
    /// Bytes that these took before they were compressed.
    pub(super) uncompressed: usize,
}

impl OpenBatch {
    /// A batch without records yet, whose first is of this time, in milliseconds since the Unix epoch. It is written into `bytes`, over
    /// whatever stands there.
    pub(super) fn new(millis: i64, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(HEADER, 0);
        Self { bytes, records: 0, first_millis: millis, last_millis: millis }
    }

    /// Bytes of the batch so far, its header included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it holds.
    pub(super) fn records(&self) -> usize {
        usize::try_from(self.records).unwrap_or(0)
    }

    /// Writes a record behind the others.
    pub(super) fn push(&mut self, millis: i64, record: RecordView<'_>) {
        let delta = millis - self.first_millis;
        self.last_millis = self.last_millis.max(millis);
        let length = body_length(delta, self.records, record);
        let bytes = &mut self.bytes;
        bytes.reserve(length + VARINT_MAX);
        varint(bytes, as_i64(length));
        // A record has attributes, of which none is defined.
        bytes.push(0);
        varint(bytes, delta);
        varint(bytes, i64::from(self.records));
        nullable(bytes, record.key());
        nullable(bytes, record.value());
        varint(bytes, as_i64(record.headers().len()));
        for (name, value) in record.headers() {
            varint(bytes, as_i64(name.len()));
            bytes.extend_from_slice(name);
            nullable(bytes, value);
        }
        self.records += 1;
    }

    /// Closes the batch: its records are the producer's from this sequence number on. What it was written into comes back if something else
    /// is sent.
    pub(super) fn close(
        self,
        identity: Identity,
        sequence: i32,
        compression: Compression,
    ) -> (Batch, Vec<u8>) {
        let (records, uncompressed) = (self.records(), self.len());
        let (count, first, last) = (self.records, self.first_millis, self.last_millis);
        let (mut bytes, spare, codec) = compressed(self.bytes, compression);
        let transaction = if identity.is_transactional { TRANSACTIONAL } else { 0 };
        put(&mut bytes, field::ATTRIBUTES, (transaction | codec).to_be_bytes());
        put(&mut bytes, field::LAST_OFFSET, (count - 1).to_be_bytes());
        put(&mut bytes, field::FIRST_TIME, first.to_be_bytes());
        put(&mut bytes, field::LAST_TIME, last.to_be_bytes());
        put(&mut bytes, field::PRODUCER, identity.id.to_be_bytes());
        put(&mut bytes, field::EPOCH, identity.epoch.to_be_bytes());
        put(&mut bytes, field::SEQUENCE, sequence.to_be_bytes());
        put(&mut bytes, field::RECORDS, count.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[field::ATTRIBUTES..]);
        put(&mut bytes, field::CHECKSUM, checksum.to_be_bytes());
        put(&mut bytes, field::MAGIC, [MAGIC]);
        // The leader writes its own.
        put(&mut bytes, field::LEADER_EPOCH, (-1_i32).to_be_bytes());
        let length = i32::try_from(bytes.len() - field::LEADER_EPOCH).unwrap_or(i32::MAX);
        put(&mut bytes, field::LENGTH, length.to_be_bytes());
        (Batch { bytes: bytes.into(), records, uncompressed }, spare)
    }
}

/// The room for the header, behind it what the records are compressed to; a buffer that is not needed; and how they are compressed. They are
/// left as they are where that would make them longer: what fits into a topic must not become too large for it.
fn compressed(bytes: Vec<u8>, compression: Compression) -> (Vec<u8>, Vec<u8>, i16) {
    if compression == Compression::None {
        return (bytes, Vec::new(), UNCOMPRESSED);
    }
    let mut frame = vec![0; HEADER];
    frame::append(&bytes[HEADER..], &mut frame);
    if frame.len() < bytes.len() { (frame, bytes, LZ4) } else { (bytes, frame, UNCOMPRESSED) }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Lengths are of what lies in memory, far below 2^63.
fn as_i64(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A number as Protocol Buffers write a signed one: zigzag, seven bits a byte, the lowest first.
fn varint(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = zigzag(number);
    while rest >= 0x80 {
        bytes.push(low_bits(rest) | 0x80);
        rest >>= 7;
    }
    bytes.push(low_bits(rest));
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn low_bits(number: u64) -> u8 {
    (number & 0x7f) as u8
}

fn varint_length(number: i64) -> usize {
    let bits = u64::BITS - (zigzag(number) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Bytes with their length before them; a length of -1 is null.
fn nullable(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            varint(bytes, as_i64(value.len()));
            bytes.extend_from_slice(value);
        }
        None => varint(bytes, -1),
    }
}

fn nullable_length(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varint_length(as_i64(value.len())) + value.len())
}

/// Bytes of a record behind its own length.
fn body_length(delta: i64, place: i32, record: RecordView<'_>) -> usize {
    let headers: usize = record
        .headers()
        .map(|(name, value)| varint_length(as_i64(name.len())) + name.len() + nullable_length(value))
        .sum();
    1 + varint_length(delta)
        + varint_length(i64::from(place))
        + nullable_length(record.key())
        + nullable_length(record.value())
        + varint_length(as_i64(record.headers().len()))
        + headers
}

#[cfg(test)]
mod tests;
