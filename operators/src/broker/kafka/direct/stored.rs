//! Batches as they lie in a log, read: the format of version 2 that [`super::batch`] writes, from whichever producer.
//!
//! What is read here has come from a broker and may be anything. Nothing is taken for granted, and nothing is reserved that is not there.

use std::ops::Range;

use crc32c::crc32c;

use super::batch::{HEADER, MAGIC, TRANSACTIONAL, field};
use super::inflate::Codec;
use crate::broker::RecordTime;
use crate::records::Records;

/// Bits of the attributes.
const APPEND_TIME: i16 = 1 << 3;
const CONTROL: i16 = 1 << 5;
/// Bytes before what the length of a batch counts.
const UNCOUNTED: usize = field::LENGTH + 4;
/// What the key of a control record says where a transaction was aborted.
const ABORT: i16 = 0;

/// Why a batch, or a record in it, can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    first: i64,
    /// Bytes of the batch, this head included.
    pub(super) length: usize,
    /// The epoch of the leader that has appended it.
    pub(super) leader_epoch: i32,
    attributes: i16,
    last_delta: i32,
    first_millis: i64,
    last_millis: i64,
    /// Whose it is; -1 where nobody is named.
    pub(super) producer: i64,
    /// How many records it says that it has.
    pub(super) records: usize,
}

impl Head {
    /// Reads the head of the batch at the start of `bytes`; `None` if they do not hold all of it.
    ///
    /// # Errors
    ///
    /// If it is no batch of version 2.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(length) = bytes.get(field::LENGTH..UNCOUNTED).and_then(|it| it.first_chunk()) else {
            return Ok(None);
        };
        let length =
            usize::try_from(i32::from_be_bytes(*length)).map_err(|_| Malformed("its length is negative"))?;
        let length = length + UNCOUNTED;
        match bytes.get(field::MAGIC) {
            Some(&MAGIC) => {}
            Some(_) => {
                return Err(Malformed("it is not of version 2 of the format, as Kafka writes it since 0.11"));
            }
            None => return Ok(None),
        }
        if length < HEADER {
            return Err(Malformed("it is shorter than its head"));
        }
        let Some(head) = bytes.get(..length).and_then(|batch| batch.first_chunk::<HEADER>()) else {
            return Ok(None);
        };
        let (last_delta, records) = (int(head, field::LAST_OFFSET), int(head, field::RECORDS));
        let head = Self {
            first: long(head, 0),
            length,
            leader_epoch: int(head, field::LEADER_EPOCH),
            attributes: i16::from_be_bytes([head[field::ATTRIBUTES], head[field::ATTRIBUTES + 1]]),
            last_delta,
            first_millis: long(head, field::FIRST_TIME),
            last_millis: long(head, field::LAST_TIME),
            producer: long(head, field::PRODUCER),
            records: usize::try_from(records).map_err(|_| Malformed("it has less than no records"))?,
        };
        if last_delta < 0 || head.first < 0 || head.first.checked_add(i64::from(last_delta) + 1).is_none() {
            return Err(Malformed("its offsets are none"));
        }
        Ok(Some(head))
    }

    /// Whether the bytes of the batch are those that were written.
    pub(super) fn is_intact(&self, bytes: &[u8]) -> bool {
        let stated = bytes.get(field::CHECKSUM..field::ATTRIBUTES);
        let counted = bytes.get(field::ATTRIBUTES..self.length).map(crc32c);
        counted.is_some_and(|counted| stated == Some(&counted.to_be_bytes()))
    }

    /// The offset of its last record, be it there or not: who compacts a log keeps the heads.
    pub(super) fn last(&self) -> i64 {
        self.first + i64::from(self.last_delta)
    }

    /// Whether it is one that a broker has written to end a transaction.
    pub(super) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Writes its records into `into`, as [`Codec::inflate`] does.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub(super) fn unpack(&self, batch: &[u8], into: &mut Vec<u8>) -> Result<usize, Malformed> {
        let codec = Codec::of(self.attributes).ok_or(Malformed("it is compressed in an unknown way"))?;
        let packed = batch.get(HEADER..self.length).ok_or(Malformed("it ends early"))?;
        codec.inflate(packed, into).map_err(|error| {
            tracing::debug!(%error, ?codec, "a batch could not be decompressed");
            Malformed("what it was compressed to can't be read")
        })
    }

    /// Whether a control batch ends its transaction with an abort.
    ///
    /// # Errors
    ///
    /// If it says nothing that can be understood.
    pub(super) fn aborts(&self, batch: &[u8]) -> Result<bool, Malformed> {
        let mut rest = batch.get(HEADER..self.length).ok_or(Malformed("it ends early"))?;
        let key = Row::read(&mut rest)?.key()?.and_then(|key| key.first_chunk::<4>());
        let [_, _, kind @ ..] = key.ok_or(Malformed("a control record has no kind"))?;
        Ok(i16::from_be_bytes(*kind) == ABORT)
    }

    /// The offset of a record of it.
    ///
    /// # Errors
    ///
    /// If the batch has no such place.
    pub(super) fn offset_of(&self, row: &Row<'_>) -> Result<i64, Malformed> {
        if (0..=i64::from(self.last_delta)).contains(&row.offset_delta) {
            Ok(self.first + row.offset_delta)
        } else {
            Err(Malformed("a record has an offset that its batch has not"))
        }
    }

    /// The timestamp of a record of it.
    pub(super) fn time_of(&self, row: &Row<'_>) -> RecordTime {
        if self.attributes & APPEND_TIME == 0 {
            RecordTime { millis: self.first_millis.saturating_add(row.millis_delta), append: false }
        } else {
            RecordTime { millis: self.last_millis, append: true }
        }
    }
}

/// A record in a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    millis_delta: i64,
    offset_delta: i64,
    /// From its key on.
    rest: &'a [u8],
}

impl<'a> Row<'a> {
    /// Reads the record at the start of `bytes`, and passes over it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn read(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        let mut row = counted(bytes)?.ok_or(Malformed("a record has a negative length"))?;
        // Attributes, of which none is defined.
        take(&mut row, 1)?;
        Ok(Self { millis_delta: varint(&mut row)?, offset_delta: varint(&mut row)?, rest: row })
    }

    fn key(mut self) -> Result<Option<&'a [u8]>, Malformed> {
        counted(&mut self.rest)
    }

    /// Copies it behind the others.
    ///
    /// # Errors
    ///
    /// If it can't be read; then nothing was.
    pub(super) fn append_to(mut self, records: &mut Records) -> Result<(), Malformed> {
        let whole = self.rest;
        let part = |rest: &mut &[u8]| -> Result<Option<Range<usize>>, Malformed> {
            let part = counted(rest)?;
            let end = whole.len() - rest.len();
            Ok(part.map(|part| end - part.len()..end))
        };
        let (key, value) = (part(&mut self.rest)?, part(&mut self.rest)?);
        let headers = varint(&mut self.rest)?;
        if headers < 0 {
            return Err(Malformed("a record has less than no headers"));
        }
        let start = records.push_within(whole, key, value);
        for _ in 0..headers {
            let name = part(&mut self.rest).and_then(|name| name.ok_or(Malformed("a header has no name")));
            match name.and_then(|name| Ok((name, part(&mut self.rest)?))) {
                Ok((name, value)) => records.push_header_within(start, name, value),
                Err(malformed) => {
                    records.pop();
                    return Err(malformed);
                }
            }
        }
        // What stands behind its headers is nobody's, and nobody is charged for it.
        records.trim(self.rest.len());
        Ok(())
    }
}

/// Bytes with their length before them; `None` for null.
#[inline]
fn counted<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let length = varint(rest)?;
    match usize::try_from(length) {
        Ok(length) => take(rest, length).map(Some),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(Malformed("a length is negative")),
    }
}

#[inline]
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Malformed("a record ends early"))?;
    *rest = left;
    Ok(taken)
}

/// A number as Protocol Buffers write a signed one: zigzag, seven bits a byte, the lowest first.
#[inline]
fn varint(rest: &mut &[u8]) -> Result<i64, Malformed> {
    let mut number = 0_u64;
    for (place, byte) in rest.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            *rest = &rest[place + 1..];
            return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
    }
    Err(Malformed("a number does not end"))
}

fn int(head: &[u8; HEADER], at: usize) -> i32 {
    i32::from_be_bytes(std::array::from_fn(|place| head[at + place]))
}

fn long(head: &[u8; HEADER], at: usize) -> i64 {
    i64::from_be_bytes(std::array::from_fn(|place| head[at + place]))
}

#[cfg(test)]
mod tests;
