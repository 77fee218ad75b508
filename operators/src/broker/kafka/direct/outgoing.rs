//! What is on its way to the broker: for each partition one open batch, closed ones behind it, and at most one that is sent and not
//! acknowledged.
//!
//! That a partition has never more than one batch under way makes its order simple: what is sent again is what was sent before, with the
//! same sequence numbers, and nothing can have overtaken it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::{Batch, Compression, OpenBatch};
use super::identity::Identity;
use super::spares::Spares;
use crate::records::RecordView;

/// A topic among those that were sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TopicIndex(pub(super) usize);

/// A partition of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) topic: TopicIndex,
    pub(super) partition: usize,
}

/// What may be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Records held at most.
    pub(super) records: usize,
    /// Bytes held at most, before compression.
    pub(super) bytes: usize,
}

/// Everything that was handed over and is not acknowledged.
#[derive(Debug)]
pub(super) struct Outgoing {
    bounds: Bounds,
    /// By topic, then by partition.
    lines: Vec<Vec<Line>>,
    records: usize,
    bytes: usize,
    /// Of these, bytes that are not under way.
    waiting: usize,
    /// What batches are written into.
    spares: Spares,
}

/// A partition's records, in their order.
#[derive(Debug, Default)]
struct Line {
    /// Sent, or to be sent again.
    first: Option<Batch>,
    /// Whether it is under way.
    is_sent: bool,
    /// Those that no more fits into.
    full: VecDeque<OpenBatch>,
    open: Option<OpenBatch>,
    next_sequence: i32,
}

impl Outgoing {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, lines: Vec::new(), records: 0, bytes: 0, waiting: 0, spares: Spares::default() }
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether there is no room for another record.
    pub(super) fn is_full(&self) -> bool {
        self.records >= self.bounds.records || self.bytes >= self.bounds.bytes
    }

    /// Bytes that wait to be sent, before compression.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// Adds a record. The caller has asked for room. A batch of several records has at most `batch_bytes`, before compression.
    pub(super) fn push(&mut self, to: Target, millis: i64, record: RecordView<'_>, batch_bytes: usize) {
        let TopicIndex(topic) = to.topic;
        if self.lines.len() <= topic {
            self.lines.resize_with(topic + 1, Vec::new);
        }
        let lines = &mut self.lines[topic];
        if lines.len() <= to.partition {
            lines.resize_with(to.partition + 1, Line::default);
        }
        let line = &mut lines[to.partition];
        if line.open.as_ref().is_some_and(|open| open.len() + record.wire_bytes() > batch_bytes) {
            line.full.extend(line.open.take());
        }
        let open = line.open.get_or_insert_with(|| OpenBatch::new(millis, self.spares.take()));
        let before = if open.records() == 0 { 0 } else { open.len() };
        open.push(millis, record);
        let added = open.len() - before;
        self.records += 1;
        self.bytes += added;
        self.waiting += added;
    }

    /// The next batch of each partition that these leaders have and that has none under way, until there are `most` bytes. All of them are
    /// under way from now on.
    pub(super) fn take(
        &mut self,
        is_led: impl Fn(Target) -> bool,
        most: usize,
        identity: Identity,
        compression: Compression,
    ) -> Vec<(Target, Bytes)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for (topic, lines) in self.lines.iter_mut().enumerate() {
            for (partition, line) in lines.iter_mut().enumerate() {
                let target = Target { topic: TopicIndex(topic), partition };
                if bytes >= most || line.is_sent || line.is_empty() || !is_led(target) {
                    continue;
                }
                if line.first.is_none() {
                    line.first = line.close(identity, compression, &self.spares);
                }
                if let Some(batch) = &line.first {
                    line.is_sent = true;
                    self.waiting -= batch.uncompressed;
                    bytes += batch.bytes.len();
                    taken.push((target, batch.bytes.clone()));
                }
            }
        }
        taken
    }

    /// The partitions that have something to send and nothing under way.
    pub(super) fn ready(&self) -> impl Iterator<Item = Target> {
        self.lines.iter().enumerate().flat_map(|(topic, lines)| {
            let ready = lines.iter().enumerate().filter(|(_, line)| !line.is_sent && !line.is_empty());
            ready.map(move |(partition, _)| Target { topic: TopicIndex(topic), partition })
        })
    }

    /// The batch under way is in the log.
    pub(super) fn acknowledged(&mut self, target: Target) {
        let line = &mut self.lines[target.topic.0][target.partition];
        if std::mem::take(&mut line.is_sent)
            && let Some(batch) = line.first.take()
        {
            self.records -= batch.records;
            self.bytes -= batch.uncompressed;
        }
    }

    /// Whether the batch under way is in the log is not known, or it is not: it is to be sent again as it is.
    pub(super) fn again(&mut self, target: Target) {
        let line = &mut self.lines[target.topic.0][target.partition];
        if std::mem::take(&mut line.is_sent)
            && let Some(batch) = &line.first
        {
            self.waiting += batch.uncompressed;
        }
    }

    /// Forgets everything: sequence numbers begin anew with the next epoch.
    pub(super) fn clear(&mut self) {
        self.lines.iter_mut().flatten().for_each(|line| *line = Line::default());
        (self.records, self.bytes, self.waiting) = (0, 0, 0);
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.full.is_empty() && self.open.is_none()
    }

    /// Closes the batch that is next, and gives it the next sequence numbers.
    fn close(&mut self, identity: Identity, compression: Compression, spares: &Spares) -> Option<Batch> {
        let next = self.full.pop_front().or_else(|| self.open.take())?;
        let sequence = self.next_sequence;
        self.next_sequence = after(sequence, next.records());
        let (batch, spare) = next.close(identity, sequence, compression);
        spares.give_back(spare);
        Some(batch)
    }
}

/// The sequence number that comes so many after this one: behind the largest comes zero.
fn after(sequence: i32, records: usize) -> i32 {
    let records = i32::try_from(records).unwrap_or(i32::MAX);
    sequence.checked_add(records).unwrap_or_else(|| records - (i32::MAX - sequence) - 1)
}

#[cfg(test)]
mod tests;
