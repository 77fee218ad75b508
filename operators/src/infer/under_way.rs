//! Rows that have left their window: of each batch, which still want an outcome, and the right to send it.
//!
//! A row may end before the device has answered for it, by its deadline. What the device says of it later is dropped here, by whoever
//! owns the batch: in the ledger a second outcome is a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::device::Batch;
use crate::fair::Booking;
use crate::lease::{Lease, Offset};
use crate::outcome::Outcomes;
use crate::tenants::Bill;
use crate::window::{Run, overdue_at};

/// A batch, with what its submitter keeps of it. `C` is the right to send outcomes; in the engine, a capability.
#[derive(Debug)]
pub(super) struct UnderWay<C> {
    /// What the fair order has booked for it, while it is on the device.
    pub(super) booking: Option<Booking>,
    /// Which tenants were charged for it, until it has run.
    pub(super) bill: Option<Bill>,
    /// The batch, without the rows that have ended.
    pub(super) batch: Batch,
    /// Whether nothing may run beside it.
    pub(super) alone: bool,
    tokens: BTreeMap<u64, C>,
    /// The rows that ended while the device had them.
    ended: BTreeSet<(Lease, Offset)>,
}

impl<C: Clone> UnderWay<C> {
    /// A batch of which nothing has ended. `tokens` holds one for each epoch in it.
    pub(super) fn new(batch: Batch, tokens: BTreeMap<u64, C>) -> Self {
        Self { booking: None, bill: None, batch, alone: false, tokens, ended: BTreeSet::new() }
    }

    /// The right to send the outcomes of an epoch.
    pub(super) fn token(&self, epoch: u64) -> &C {
        &self.tokens[&epoch]
    }

    /// When its next row will be overdue; see [`overdue_at`].
    pub(super) fn overdue_at(&self, deadline: Duration, excused: Moment) -> Moment {
        let due = self.batch.runs.iter().map(|run| overdue_at(run, deadline, excused)).min();
        due.unwrap_or(Moment::NEVER)
    }

    /// Takes the overdue rows out, each run with its token.
    pub(super) fn take_overdue(&mut self, deadline: Duration, excused: Moment, now: Moment) -> Vec<Run<C>> {
        let (overdue, left) = std::mem::take(&mut self.batch.runs)
            .into_iter()
            .partition(|run| overdue_at(run, deadline, excused) <= now);
        self.batch.runs = left;
        self.end(overdue)
    }

    /// Takes every row out.
    pub(super) fn take_all(&mut self) -> Vec<Run<C>> {
        let all = std::mem::take(&mut self.batch.runs);
        self.end(all)
    }

    /// What is left of the batch, each row in a batch of its own.
    pub(super) fn singly(self) -> impl Iterator<Item = Self> {
        let Self { batch, tokens, alone, .. } = self;
        let rows = (0..batch.rows()).map(move |row| Batch { runs: batch.cut(row..row + 1), ..batch.clone() });
        rows.map(move |batch| {
            let epoch = batch.runs[0].token;
            Self { alone, ..Self::new(batch, BTreeMap::from([(epoch, tokens[&epoch].clone())])) }
        })
    }

    /// The outcomes of rows that still want one.
    pub(super) fn wanted(&self, outcomes: Outcomes) -> Option<Outcomes> {
        let wants = |index: usize| {
            let (lease, offset, _) = outcomes.origin(index);
            !self.ended.contains(&(lease, offset))
        };
        if self.ended.is_empty() || (0..outcomes.len()).all(wants) {
            return Some(outcomes);
        }
        let mut wanted = Outcomes::new(outcomes.home);
        (0..outcomes.len())
            .filter(|index| wants(*index))
            .for_each(|index| wanted.push_copy(&outcomes, index));
        (!wanted.is_empty()).then_some(wanted)
    }

    /// The device gave back this much of the batch: it waits again, without the rows that have ended.
    pub(super) fn give_back(&mut self, mut left: Batch) {
        left.runs = left.runs.iter().flat_map(|run| self.without_ended(run)).collect();
        self.batch = left;
        self.booking = None;
    }

    /// The pieces of a run between the rows that have ended.
    fn without_ended(&self, run: &Run<u64>) -> Vec<Run<u64>> {
        let wants = |row: usize| !self.ended.contains(&run.block.origin(row));
        ranges(run.rows.clone(), wants)
            .map(|rows| Run { block: Arc::clone(&run.block), rows, token: run.token })
            .collect()
    }

    fn end(&mut self, runs: Vec<Run<u64>>) -> Vec<Run<C>> {
        let origins = runs.iter().flat_map(|run| run.rows.clone().map(|row| run.block.origin(row)));
        self.ended.extend(origins);
        let ended = runs
            .into_iter()
            .map(|Run { block, rows, token }| Run { block, rows, token: self.tokens[&token].clone() })
            .collect();
        // An epoch none of whose rows wants an outcome any more is not held back by the device.
        self.tokens.retain(|epoch, _| self.batch.runs.iter().any(|run| run.token == *epoch));
        ended
    }
}

/// The longest ranges within `rows` of which each row is one that `wants`.
pub(super) fn ranges(
    rows: Range<usize>,
    wants: impl Fn(usize) -> bool,
) -> impl Iterator<Item = Range<usize>> {
    let mut next = rows.start;
    std::iter::from_fn(move || {
        let start = (next..rows.end).find(|row| wants(*row))?;
        let end = (start..rows.end).find(|row| !wants(*row)).unwrap_or(rows.end);
        next = end;
        Some(start..end)
    })
}
