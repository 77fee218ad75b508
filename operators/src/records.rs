//! Keys, values and headers of several Kafka records in one buffer.
//!
//! The engine keeps the records of one activation together: those it polled, byte for byte, until each has its outcome, and those it
//! is going to produce, until their transaction is committed. Nothing is allocated for a single record.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes that a record takes in a log beside its key, value and headers, at most: 61 of its batch, and 36 for its lengths, offset and
/// time, which are numbers of variable length.
pub const RECORD_OVERHEAD: usize = 61 + 36;

/// Bytes that a header takes in a log beside its name and value, at most: their lengths.
pub const HEADER_OVERHEAD: usize = 10;

/// Several records, one after the other, in one buffer.
///
/// ```
/// use operators::records::Records;
///
/// let mut records = Records::default();
/// records.push(Some(b"key"), None);
/// records.push_header(b"model_id", Some(b"mlp-16"));
/// let record = records.get(0);
/// assert_eq!(record.key(), Some(&b"key"[..]));
/// assert_eq!(record.value(), None);
/// assert_eq!(record.headers().collect::<Vec<_>>(), [(&b"model_id"[..], Some(&b"mlp-16"[..]))]);
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Records {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<HeaderEntry>,
}

/// They are the same if each of them is; what lies between their parts says nothing.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let same = |(own, other): (RecordView<'_>, RecordView<'_>)| {
            (own.key(), own.value()) == (other.key(), other.value()) && own.headers().eq(other.headers())
        };
        self.len() == other.len() && self.iter().zip(other.iter()).all(same)
    }
}

impl Eq for Records {}

/// Below this a buffer is left as it is.
const FIT_BYTES_MIN: usize = 4 * 1024;

/// How much some records take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Their number.
    pub records: usize,
    /// The number of their headers.
    pub headers: usize,
    /// Bytes of keys, values and headers.
    pub bytes: usize,
}

impl Size {
    /// The same for each record, for another number of them.
    pub fn scaled(self, records: usize) -> Self {
        let scale = |total: usize| (total * records).div_ceil(self.records.max(1));
        Self { records, headers: scale(self.headers), bytes: scale(self.bytes) }
    }
}

/// A stretch of the buffer; `None` for a key or value that is null.
type Span = Option<Range<u32>>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: Span,
    value: Span,
    headers: Range<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HeaderEntry {
    name: Range<u32>,
    value: Span,
}

impl Records {
    /// Adds a record without headers, and returns its index.
    ///
    /// # Panics
    ///
    /// If the buffer would hold 4 GiB or more: the caller bounds it far below.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
        let key = key.map(|key| self.append(key));
        let value = value.map(|value| self.append(value));
        self.push_entry(key, value)
    }

    /// Adds a record whose value is written in place, and returns its index.
    pub fn push_with(&mut self, key: Option<&[u8]>, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let key = key.map(|key| self.append(key));
        let start = self.position();
        write(&mut self.bytes);
        let value = Some(start..self.position());
        self.push_entry(key, value)
    }

    /// Adds a header to the record pushed last.
    ///
    /// # Panics
    ///
    /// If no record was pushed.
    pub fn push_header(&mut self, name: &[u8], value: Option<&[u8]>) {
        let name = self.append(name);
        let value = value.map(|value| self.append(value));
        self.headers.push(HeaderEntry { name, value });
        let entry = self.entries.last_mut().expect("a header belongs to a record");
        entry.headers.end += 1;
    }

    /// Adds a record that lies in `whole` as a log has it, its lengths between its parts: one copy is quicker than one of each part. Returns
    /// where in the buffer `whole` begins; the headers of the record are added with [`Records::push_header_within`].
    ///
    /// # Panics
    ///
    /// If the buffer would hold 4 GiB or more: the caller bounds it far below.
    pub fn push_within(
        &mut self,
        whole: &[u8],
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
    ) -> usize {
        let start = self.bytes.len();
        self.append(whole);
        self.push_entry(key.map(|key| behind(start, key)), value.map(|value| behind(start, value)));
        start
    }

    /// Adds a header to the record pushed last, which lies behind `start`.
    ///
    /// # Panics
    ///
    /// If no record was pushed.
    pub fn push_header_within(&mut self, start: usize, name: Range<usize>, value: Option<Range<usize>>) {
        let (name, value) = (behind(start, name), value.map(|value| behind(start, value)));
        self.headers.push(HeaderEntry { name, value });
        let entry = self.entries.last_mut().expect("a header belongs to a record");
        entry.headers.end += 1;
    }

    /// Takes away so many bytes at the end of what the record pushed last lies within: none of its parts is there.
    pub fn trim(&mut self, bytes: usize) {
        self.bytes.truncate(self.bytes.len().saturating_sub(bytes));
    }

    /// Makes room for as many more records, with as many headers and bytes, as `like` has: what comes is like what came.
    pub fn reserve_like(&mut self, like: Size) {
        self.bytes.reserve(like.bytes);
        self.entries.reserve(like.records);
        self.headers.reserve(like.headers);
    }

    /// How much there is.
    pub fn size(&self) -> Size {
        Size { records: self.entries.len(), headers: self.headers.len(), bytes: self.bytes.len() }
    }

    /// Gives back memory that is mostly unused, where it is worth the copy.
    pub fn fit(&mut self) {
        if self.bytes.capacity() / 2 > self.bytes.len().max(FIT_BYTES_MIN) {
            self.bytes.shrink_to_fit();
            self.entries.shrink_to_fit();
            self.headers.shrink_to_fit();
        }
    }

    /// Adds a copy of a record, of these or of others, and returns its index.
    pub fn push_copy(&mut self, record: RecordView<'_>) -> usize {
        let index = self.push(record.key(), record.value());
        record.headers().for_each(|(name, value)| self.push_header(name, value));
        index
    }

    /// Takes away the record pushed last, with its headers.
    pub fn pop(&mut self) {
        if let Some(entry) = self.entries.pop() {
            let first_header = self.headers[entry.headers.start as usize..].first();
            let start = match (&entry.key, &entry.value, first_header) {
                (Some(span), _, _) | (None, Some(span), _) => Some(span.start),
                (None, None, Some(header)) => Some(header.name.start),
                (None, None, None) => None,
            };
            self.headers.truncate(entry.headers.start as usize);
            if let Some(start) = start {
                self.bytes.truncate(start as usize);
            }
        }
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn get(&self, index: usize) -> RecordView<'_> {
        RecordView { records: self, entry: &self.entries[index] }
    }

    /// The records, in the order in which they were pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordView<'_>> {
        self.entries.iter().map(|entry| RecordView { records: self, entry })
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that the records hold, the columns beside the buffer included.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.headers.capacity() * size_of::<HeaderEntry>()
    }

    /// Bytes of keys, values and headers pushed so far, and of what lies between them where a log had it so.
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn push_entry(&mut self, key: Span, value: Span) -> usize {
        let headers = u32::try_from(self.headers.len()).expect("fewer than 2^32 headers");
        self.entries.push(Entry { key, value, headers: headers..headers });
        self.entries.len() - 1
    }

    fn append(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.position();
        self.bytes.extend_from_slice(bytes);
        start..self.position()
    }

    fn position(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a buffer of records stays below 4 GiB")
    }

    fn slice(&self, span: &Range<u32>) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

/// A stretch of what begins at `start` in the buffer, which holds all of it.
fn behind(start: usize, Range { start: from, end: to }: Range<usize>) -> Range<u32> {
    let place = |at: usize| u32::try_from(start + at).expect("a buffer of records stays below 4 GiB");
    place(from)..place(to)
}

/// One record of a [`Records`].
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    records: &'a Records,
    entry: &'a Entry,
}

impl<'a> RecordView<'a> {
    /// The key, if it is not null.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.entry.key.as_ref().map(|span| self.records.slice(span))
    }

    /// The value, if it is not null.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.entry.value.as_ref().map(|span| self.records.slice(span))
    }

    /// The headers in their order, names as bytes because a client may send any; duplicates and null values included.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let records = self.records;
        records.headers[self.entry.headers.start as usize..self.entry.headers.end as usize].iter().map(
            move |header| {
                (records.slice(&header.name), header.value.as_ref().map(|span| records.slice(span)))
            },
        )
    }

    /// The value of the last header of this name: `None` without one, `Some(None)` if its value is null.
    pub fn header(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        let records = self.records;
        records.headers[self.entry.headers.start as usize..self.entry.headers.end as usize]
            .iter()
            .rev()
            .find(|header| records.slice(&header.name) == name)
            .map(|header| header.value.as_ref().map(|span| records.slice(span)))
    }

    /// Bytes that the record takes in a log when it is alone in its batch, at most: what a topic's largest size is compared with.
    pub fn wire_bytes(&self) -> usize {
        RECORD_OVERHEAD + self.payload_bytes() + HEADER_OVERHEAD * self.headers().len()
    }

    /// Bytes of key, value and headers together.
    pub fn payload_bytes(&self) -> usize {
        let headers: usize =
            self.headers().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len) + headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_are_not_the_same() {
        let mut records = Records::default();
        records.push(Some(b""), None);
        records.push(None, Some(b""));
        records.push_header(b"a", None);
        records.push_header(b"a", Some(b""));
        assert_eq!((records.get(0).key(), records.get(0).value()), (Some(&b""[..]), None));
        assert_eq!((records.get(1).key(), records.get(1).value()), (None, Some(&b""[..])));
        assert_eq!(records.get(0).headers().len(), 0);
        assert_eq!(
            records.get(1).headers().collect::<Vec<_>>(),
            [(&b"a"[..], None), (&b"a"[..], Some(&b""[..]))]
        );
    }

    #[test]
    fn the_last_header_of_a_name_counts() {
        let mut records = Records::default();
        records.push(None, None);
        records.push_header(b"model_id", Some(b"first"));
        records.push_header(b"model_id", Some(b"last"));
        assert_eq!(records.get(0).header(b"model_id"), Some(Some(&b"last"[..])));
        assert_eq!(records.get(0).header(b"tenant_id"), None);
    }

    #[test]
    fn room_is_made_for_what_comes_and_given_back_when_it_did_not_come() {
        let mut records = Records::default();
        records.push(Some(b"k"), Some(&[7; 999]));
        records.push_header(b"h", None);
        let size = records.size();
        assert_eq!(size, Size { records: 1, headers: 1, bytes: 1001 });
        assert_eq!(size.scaled(100), Size { records: 100, headers: 100, bytes: 100_100 });
        assert_eq!(Size::default().scaled(3), Size { records: 3, headers: 0, bytes: 0 });
        let mut next = Records::default();
        next.reserve_like(size.scaled(100));
        assert!(next.bytes() >= 100_100);
        next.push(Some(b"k"), None);
        next.fit();
        assert!(next.bytes() < 1_000);
    }

    #[test]
    fn a_copy_is_the_record() {
        let (mut records, mut copies) = (Records::default(), Records::default());
        records.push(Some(b"k"), None);
        records.push(None, Some(b"v"));
        records.push_header(b"h", None);
        records.push_header(b"h", Some(b"1"));
        copies.push(Some(b"another"), None);
        assert_eq!(copies.push_copy(records.get(1)), 1);
        let copy = copies.get(1);
        assert_eq!((copy.key(), copy.value()), (None, Some(&b"v"[..])));
        assert_eq!(copy.headers().collect::<Vec<_>>(), records.get(1).headers().collect::<Vec<_>>());
    }

    #[test]
    fn a_record_is_taken_out_of_what_a_log_has() {
        let mut records = Records::default();
        records.push(Some(b"another"), None);
        let start = records.push_within(b"1k1v.1h-.", Some(1..2), Some(3..4));
        records.push_header_within(start, 6..7, None);
        records.push_header_within(start, 6..7, Some(7..7));
        records.trim(1);
        records.push(None, Some(b"next"));
        let record = records.get(1);
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), Some(&b"v"[..])));
        let headers = [(&b"h"[..], None), (&b"h"[..], Some(&b""[..]))];
        assert_eq!(record.headers().collect::<Vec<_>>(), headers);
        assert_eq!((record.payload_bytes(), records.payload_bytes()), (4, 7 + 8 + 4));
        assert_eq!(records.get(2).value(), Some(&b"next"[..]));
        let nothing = Records::default().push_within(b".", None, None);
        assert_eq!(nothing, 0);
        let mut copies = Records::default();
        records.iter().for_each(|record| {
            copies.push_copy(record);
        });
        assert_eq!(copies, records);
        copies.push_header(b"h", None);
        assert_ne!(copies, records);
    }

    #[test]
    fn a_popped_record_leaves_nothing_behind() {
        let mut records = Records::default();
        records.push(Some(b"k"), Some(b"v"));
        let before = records.clone();
        records.push(Some(b"key"), Some(b"value"));
        records.push_header(b"h", Some(b"1"));
        records.pop();
        assert_eq!(records, before);
        records.push(None, None);
        records.push_header(b"h", Some(b"1"));
        records.pop();
        assert_eq!(records, before);
    }
}
