//! Outcomes: the one end of each record, encoded, on their way home to the owner of its lease.

use serde::{Deserialize, Serialize};

use crate::lease::{Lease, Offset};
use crate::records::{RecordView, Records, Size};

/// Which of its two ends a record came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A result: produced to the results topic, the partition chosen by its key.
    Result,
    /// A dead letter, produced to this partition of the dead-letter topic.
    DeadLetter(i32),
}

/// Outcomes of one epoch that go home to one worker, encoded as the records that will be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// The worker that owns their leases.
    pub home: usize,
    records: Records,
    origins: Vec<(Lease, Offset, Kind)>,
}

impl Outcomes {
    /// No outcomes yet, for the worker `home`.
    pub fn new(home: usize) -> Self {
        Self { home, records: Records::default(), origins: Vec::new() }
    }

    /// Makes room for as many more outcomes as `like` has records, of their size.
    pub fn reserve_like(&mut self, like: Size) {
        self.records.reserve_like(like);
        self.origins.reserve(like.records);
    }

    /// Gives back memory that is mostly unused.
    pub fn fit(&mut self) {
        self.records.fit();
    }

    /// How much they take.
    pub fn size(&self) -> Size {
        self.records.size()
    }

    /// Adds the outcome of the record at `offset`: `write` pushes exactly one record.
    ///
    /// # Panics
    ///
    /// If `write` pushed none, or several.
    pub fn push(&mut self, lease: Lease, offset: Offset, kind: Kind, write: impl FnOnce(&mut Records)) {
        let before = self.records.len();
        write(&mut self.records);
        assert_eq!(self.records.len(), before + 1, "an outcome is one record");
        self.origins.push((lease, offset, kind));
    }

    /// Adds a copy of the outcome at `index` of `other`.
    pub fn push_copy(&mut self, other: &Self, index: usize) {
        self.records.push_copy(other.records.get(index));
        self.origins.push(other.origins[index]);
    }

    /// Takes away the outcome pushed last.
    pub fn pop(&mut self) {
        self.records.pop();
        self.origins.pop();
    }

    /// The number of outcomes.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Whose outcome stands at `index`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn origin(&self, index: usize) -> (Lease, Offset, Kind) {
        self.origins[index]
    }

    /// The record to produce for the outcome at `index`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn record(&self, index: usize) -> RecordView<'_> {
        self.records.get(index)
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.records.bytes() + self.origins.capacity() * size_of::<(Lease, Offset, Kind)>()
    }
}
