//! The log of one partition, and what of it a `read_committed` reader may see.
//!
//! ```text
//!   offset   0    1    2    3    4    5    6    7
//!          ┌────┬────┬────┬────┬────┬────┬────┬────┐
//!          │ a₁ │ b₁ │ a₂ │ A✓ │ b₂ │ B✗ │ c₁ │ d  │   A committed, B aborted, C still open
//!          └────┴────┴────┴────┴────┴────┴────┴────┘
//!   read_committed: a₁ a₂, stable end 6; the plain record d waits behind C
//! ```
//!
//! As in Kafka, the end of a transaction is a control record, which takes up an offset and is never delivered.

use std::collections::BTreeMap;

use crate::broker::{Isolation, PollEnd, PollLimit, RecordTime};
use crate::lease::Offset;
use crate::records::{RecordView, Records};

/// A segment is closed when it holds this many bytes, so that none comes near the 4 GiB of one buffer.
const SEGMENT_BYTES: usize = 1 << 20;

/// Who writes within a transaction: the coordinator's number for a transactional id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProducerId(pub(super) u64);

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Abort,
}

/// The records of one partition, in order. The entry at index `i` has offset `i`.
#[derive(Debug, Default)]
pub(super) struct PartitionLog {
    start: i64,
    entries: Vec<Entry>,
    segments: Vec<Records>,
    transactions: Vec<Transaction>,
    open: BTreeMap<ProducerId, usize>,
}

#[derive(Debug)]
enum Entry {
    Record { segment: usize, index: usize, time: RecordTime, transaction: Option<usize> },
    Control,
}

/// What one transaction is in this partition.
#[derive(Debug)]
struct Transaction {
    first: i64,
    end: Option<End>,
}

/// Where a read stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) next: i64,
    pub(super) end: PollEnd,
}

impl PartitionLog {
    /// The first offset that can be read.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// The offset of the next record to be appended.
    pub(super) fn end(&self) -> i64 {
        i64::try_from(self.entries.len()).expect("a log in memory is short")
    }

    /// The first offset of the oldest open transaction, or the end where none is open: Kafka's last stable offset.
    pub(super) fn stable_end(&self) -> i64 {
        let firsts = self.open.values().map(|&transaction| self.transactions[transaction].first);
        firsts.min().unwrap_or_else(|| self.end())
    }

    /// The end as a reader of this isolation sees it.
    pub(super) fn end_for(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.end(),
            Isolation::ReadCommitted => self.stable_end(),
        }
    }

    /// Takes away everything before `offset`, as retention does. Returns the new start.
    pub(super) fn delete_before(&mut self, offset: i64) -> i64 {
        self.start = offset.clamp(self.start, self.stable_end());
        self.start
    }

    /// Appends a record: into the open transaction of `producer`, which it opens if need be, or outside any.
    pub(super) fn append(
        &mut self,
        producer: Option<ProducerId>,
        time: RecordTime,
        record: RecordView<'_>,
    ) -> Offset {
        let offset = self.end();
        let transaction = producer.map(|producer| self.transaction(producer, offset));
        if self.segments.last().is_none_or(|segment| segment.payload_bytes() >= SEGMENT_BYTES) {
            self.segments.push(Records::default());
        }
        let segment = self.segments.len() - 1;
        let index = copy_record(record, &mut self.segments[segment]);
        self.entries.push(Entry::Record { segment, index, time, transaction });
        Offset(offset)
    }

    /// Ends the open transaction of `producer` with a control record. `None` if it has none here.
    pub(super) fn end_transaction(&mut self, producer: ProducerId, end: End) -> Option<Offset> {
        let transaction = self.open.remove(&producer)?;
        self.transactions[transaction].end = Some(end);
        let offset = self.end();
        self.entries.push(Entry::Control);
        Some(Offset(offset))
    }

    /// Reads on from `from`, as far as the limit and the isolation allow, and passes over what is not delivered.
    pub(super) fn read(
        &self,
        from: i64,
        isolation: Isolation,
        limit: PollLimit,
        mut each: impl FnMut(Offset, RecordTime, RecordView<'_>),
    ) -> Stopped {
        let end = self.end_for(isolation);
        let (mut next, mut taken, mut bytes) = (from.max(self.start), 0, 0);
        while let Some((found, time, record)) = self.first_visible(next, end, isolation) {
            if taken >= limit.records || (taken > 0 && bytes >= limit.bytes) {
                return Stopped { next: found, end: PollEnd::Limit };
            }
            each(Offset(found), time, record);
            taken += 1;
            bytes += record.payload_bytes();
            next = found + 1;
        }
        Stopped { next: next.max(end), end: PollEnd::Empty }
    }

    /// The offset of the first record at or after `from` that a `read_committed` reader gets, or the stable end.
    pub(super) fn pass_over(&self, from: i64) -> i64 {
        let end = self.stable_end();
        let found = self.first_visible(from, end, Isolation::ReadCommitted);
        found.map_or(end.max(from), |(offset, ..)| offset)
    }

    fn first_visible(
        &self,
        from: i64,
        end: i64,
        isolation: Isolation,
    ) -> Option<(i64, RecordTime, RecordView<'_>)> {
        (from..end).find_map(|offset| match &self.entries[position(offset)] {
            Entry::Record { segment, index, time, transaction } => {
                let hidden = isolation == Isolation::ReadCommitted
                    && transaction.is_some_and(|at| self.transactions[at].end != Some(End::Commit));
                (!hidden).then(|| (offset, *time, self.segments[*segment].get(*index)))
            }
            Entry::Control => None,
        })
    }

    fn transaction(&mut self, producer: ProducerId, first: i64) -> usize {
        let transactions = &mut self.transactions;
        *self.open.entry(producer).or_insert_with(|| {
            transactions.push(Transaction { first, end: None });
            transactions.len() - 1
        })
    }
}

/// Copies a record with its headers, and returns its index in `into`.
pub(super) fn copy_record(record: RecordView<'_>, into: &mut Records) -> usize {
    let index = into.push(record.key(), record.value());
    for (name, value) in record.headers() {
        into.push_header(name, value);
    }
    index
}

fn position(offset: i64) -> usize {
    usize::try_from(offset).expect("an offset is not negative")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: RecordTime = RecordTime { millis: 0, append: false };
    const ALL: PollLimit = PollLimit { records: usize::MAX, bytes: usize::MAX };

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Append(Option<u64>),
        End(u64, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::option::of(0u64..4).prop_map(Step::Append),
            1 => (0u64..4, any::<bool>()).prop_map(|(producer, commit)| Step::End(producer, commit)),
        ]
    }

    /// What the log should be, told from the history alone: offset, transaction and whether it is a record.
    fn naive_view(steps: &[Step]) -> (Vec<i64>, i64) {
        let mut entries: Vec<(Option<u64>, Option<usize>)> = Vec::new();
        for &step in steps {
            match step {
                Step::Append(producer) => entries.push((producer, None)),
                Step::End(producer, commit) => {
                    let open: Vec<usize> =
                        (0..entries.len()).filter(|&at| entries[at] == (Some(producer), None)).collect();
                    for &at in &open {
                        entries[at].1 = Some(usize::from(commit));
                    }
                    if !open.is_empty() {
                        entries.push((None, Some(2)));
                    }
                }
            }
        }
        let open = entries.iter().position(|entry| matches!(entry, (Some(_), None)));
        let stable = open.unwrap_or(entries.len());
        let visible = (0..stable)
            .filter(|&at| matches!(entries[at], (None, None) | (Some(_), Some(1))))
            .map(|at| i64::try_from(at).unwrap());
        (visible.collect(), i64::try_from(stable).unwrap())
    }

    fn play(steps: &[Step]) -> PartitionLog {
        let mut log = PartitionLog::default();
        let mut record = Records::default();
        record.push(Some(b"k"), Some(b"v"));
        for &step in steps {
            match step {
                Step::Append(producer) => {
                    log.append(producer.map(ProducerId), TIME, record.get(0));
                }
                Step::End(producer, commit) => {
                    log.end_transaction(ProducerId(producer), if commit { End::Commit } else { End::Abort });
                }
            }
        }
        log
    }

    proptest! {
        #[test]
        fn any_interleaving_of_transactions_reads_as_a_naive_model_says(
            steps in prop::collection::vec(step(), 0..60),
            chunk in 1usize..5,
        ) {
            let log = play(&steps);
            let (expected, stable) = naive_view(&steps);
            prop_assert_eq!(log.stable_end(), stable);
            let (mut seen, mut from) = (Vec::new(), 0);
            loop {
                let limit = PollLimit { records: chunk, ..ALL };
                let stopped = log.read(from, Isolation::ReadCommitted, limit, |offset, _, _| seen.push(offset.0));
                prop_assert_eq!(log.pass_over(stopped.next), stopped.next);
                from = stopped.next;
                if stopped.end == PollEnd::Empty {
                    break;
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(from, stable);
        }
    }

    #[test]
    fn one_record_comes_however_small_the_limit_in_bytes() {
        let log = play(&[Step::Append(None), Step::Append(None)]);
        let mut seen = Vec::new();
        let limit = PollLimit { records: 10, bytes: 0 };
        let stopped = log.read(0, Isolation::ReadCommitted, limit, |offset, _, _| seen.push(offset.0));
        assert_eq!((seen, stopped), (vec![0], Stopped { next: 1, end: PollEnd::Limit }));
    }

    #[test]
    fn what_is_deleted_is_never_beyond_the_stable_end() {
        let mut log = play(&[Step::Append(None), Step::Append(Some(1)), Step::Append(None)]);
        assert_eq!(log.delete_before(3), 1);
        assert_eq!(log.delete_before(0), 1);
    }
}
