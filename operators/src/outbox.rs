//! The outbox: outcomes that the partition frontier has passed, on their way from the sinks to the transaction thread.
//!
//! Within a lease they stand in the order of their offsets, and they leave in it. The outbox is bounded by the budget: what lies in it
//! is still charged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::budget::LeaseAccount;
use crate::lease::{Lease, NextOffset, Offset};
use crate::outcome::{Kind, Outcomes};
use crate::records::RecordView;

/// An outcome, retained until its transaction is committed.
#[derive(Clone, Debug)]
pub struct Retained {
    outcomes: Arc<Outcomes>,
    index: u32,
    /// Whether it lies among others that wait with it, rather than among those of its batch.
    settled: bool,
    /// Bytes charged to the budget for the record and its outcome.
    pub bytes: u32,
}

impl Retained {
    /// The outcome at `index` of `outcomes`.
    pub fn new(outcomes: Arc<Outcomes>, index: usize, bytes: usize) -> Self {
        let index = u32::try_from(index).expect("a block has fewer than 2^32 outcomes");
        Self { outcomes, index, settled: false, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
    }

    /// Moves outcomes of one lease that have to wait for long into a buffer of their own: each holds the buffer of its whole batch, of
    /// which the rest has been committed.
    pub fn settle<'a>(waiting: impl Iterator<Item = &'a mut Self>) {
        let mut waiting: Vec<_> = waiting.filter(|retained| !retained.settled).collect();
        let Some(home) = waiting.first().map(|retained| retained.outcomes.home) else { return };
        let mut own = Outcomes::new(home);
        waiting.iter().for_each(|retained| own.push_copy(&retained.outcomes, retained.index as usize));
        let own = Arc::new(own);
        for (index, retained) in waiting.iter_mut().enumerate() {
            **retained =
                Self { settled: true, ..Self::new(Arc::clone(&own), index, retained.bytes as usize) };
        }
    }

    /// The offset of the record whose outcome this is.
    pub fn offset(&self) -> Offset {
        self.outcomes.origin(self.index as usize).1
    }

    /// Which end it is.
    pub fn kind(&self) -> Kind {
        self.outcomes.origin(self.index as usize).2
    }

    /// The record to produce.
    pub fn record(&self) -> RecordView<'_> {
        self.outcomes.record(self.index as usize)
    }
}

/// What a transaction does for one lease.
#[derive(Clone, Debug)]
pub struct Part {
    /// The lease.
    pub lease: Lease,
    /// Its account with the budget.
    pub account: Arc<LeaseAccount>,
    /// What the transaction will commit for it: the offset after its last outcome, or further over records that have none to give.
    pub next: NextOffset,
    /// The outcomes to produce, in the order of offsets.
    pub outcomes: Vec<Retained>,
}

impl Part {
    /// Bytes charged for its outcomes.
    pub fn bytes(&self) -> usize {
        self.outcomes.iter().map(|retained| retained.bytes as usize).sum()
    }
}

/// How much one transaction may hold. At least one record may always go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionLimit {
    /// Records at most.
    pub records: usize,
    /// Bytes of records and outcomes after which no further one is taken.
    pub bytes: usize,
}

/// What waits to be committed, by lease.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<Lease, Pending>,
    records: usize,
    hurry: bool,
    /// The lease that a transaction last took outcomes of: the next one begins after it.
    turn: Option<Lease>,
}

#[derive(Debug)]
struct Pending {
    account: Arc<LeaseAccount>,
    next: NextOffset,
    outcomes: VecDeque<Retained>,
}

/// What the transaction thread asks before it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Leases with something to commit, be it an offset alone.
    pub leases: usize,
    /// Outcomes.
    pub records: usize,
    /// Whether somebody waits for a commit: then do not wait for the interval.
    pub hurry: bool,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the outcomes that a frontier has passed; `next` is the frontier now.
    pub fn offer(
        &self,
        lease: Lease,
        account: &Arc<LeaseAccount>,
        next: NextOffset,
        outcomes: impl IntoIterator<Item = Retained>,
    ) {
        let mut state = self.lock();
        let before = state.records;
        let pending = state.pending.entry(lease).or_insert_with(|| Pending {
            account: Arc::clone(account),
            next,
            outcomes: VecDeque::new(),
        });
        let had = pending.outcomes.len();
        pending.outcomes.extend(outcomes);
        pending.next = pending.next.max(next);
        let added = pending.outcomes.len() - had;
        state.records = before + added;
        self.changed.notify_one();
    }

    /// Takes out what one transaction is to commit; empty if nothing waits. The leases come in turn, so that one with more than a
    /// transaction holds keeps no other waiting for more than one transaction a lease.
    pub fn take(&self, limit: TransactionLimit) -> Vec<Part> {
        let mut state = self.lock();
        state.hurry = false;
        let mut parts = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        let mut rest = BTreeMap::new();
        let (before, after): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|(lease, _)| Some(*lease) <= state.turn);
        for (lease, mut pending) in after.into_iter().chain(before) {
            let mut outcomes = Vec::new();
            while records < limit.records && (bytes < limit.bytes || records == 0) {
                let Some(retained) = pending.outcomes.pop_front() else { break };
                records += 1;
                bytes += retained.bytes as usize;
                outcomes.push(retained);
            }
            if !outcomes.is_empty() {
                state.turn = Some(lease);
            }
            let all = pending.outcomes.is_empty();
            let next =
                if all { Some(pending.next) } else { outcomes.last().map(|last| last.offset().next()) };
            if let Some(next) = next {
                parts.push(Part { lease, account: Arc::clone(&pending.account), next, outcomes });
            }
            if !all {
                rest.insert(lease, pending);
            }
        }
        state.pending = rest;
        state.records -= records;
        // What did not fit must not wait for the next interval as if it had just come.
        state.hurry = !state.pending.is_empty();
        parts
    }

    /// Takes out everything of a lease that is no longer held.
    pub fn discard(&self, lease: Lease) -> Option<Part> {
        let mut state = self.lock();
        let pending = state.pending.remove(&lease)?;
        state.records -= pending.outcomes.len();
        let Pending { account, next, outcomes } = pending;
        Some(Part { lease, account, next, outcomes: outcomes.into() })
    }

    /// What waits.
    pub fn waiting(&self) -> Waiting {
        let state = self.lock();
        Waiting { leases: state.pending.len(), records: state.records, hurry: state.hurry }
    }

    /// Asks the transaction thread not to wait for its interval.
    pub fn hurry(&self) {
        self.lock().hurry = true;
        self.changed.notify_one();
    }

    /// Waits until something changes, or `wait` is over.
    pub fn wait(&self, wait: Duration) {
        let state = self.lock();
        drop(self.changed.wait_timeout(state, wait));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::{Partition, Term};

    fn lease(partition: i32) -> Lease {
        Lease { partition: Partition(partition), term: Term(1) }
    }

    fn retained(lease: Lease, offset: i64, bytes: usize) -> Retained {
        let mut outcomes = Outcomes::new(0);
        outcomes.push(lease, Offset(offset), Kind::Result, |records| {
            records.push(None, None);
        });
        Retained::new(Arc::new(outcomes), 0, bytes)
    }

    #[test]
    fn an_offset_alone_is_something_to_commit() {
        let outbox = Outbox::new();
        let account = Arc::new(LeaseAccount::default());
        outbox.offer(lease(0), &account, NextOffset(9), []);
        assert_eq!(outbox.waiting().leases, 1);
        let parts = outbox.take(TransactionLimit { records: 10, bytes: 10 });
        assert_eq!((parts.len(), parts[0].next, parts[0].outcomes.len()), (1, NextOffset(9), 0));
        assert!(outbox.take(TransactionLimit { records: 10, bytes: 10 }).is_empty());
    }

    proptest! {
        /// However the limits cut: each outcome leaves once, in order, with an offset that covers it and nothing after it.
        #[test]
        fn an_offset_goes_with_exactly_the_outcomes_before_it(
            offers in prop::collection::vec((0_i32..3, 0_i64..5, 1_usize..100), 1..40),
            records in 1_usize..8,
            bytes in 1_usize..300,
        ) {
            let outbox = Outbox::new();
            let account = Arc::new(LeaseAccount::default());
            let mut next = [0_i64; 3];
            for (partition, count, size) in offers {
                let at = &mut next[usize::try_from(partition).unwrap()];
                let of = lease(partition);
                let outcomes: Vec<_> = (*at..*at + count).map(|offset| retained(of, offset, size)).collect();
                *at += count + 1; // a gap after each offer
                outbox.offer(of, &account, NextOffset(*at), outcomes);
            }
            let mut seen = [(0_i64, 0_i64); 3];
            let limit = TransactionLimit { records, bytes };
            loop {
                let parts = outbox.take(limit);
                if parts.is_empty() { break; }
                prop_assert!(parts.iter().map(|part| part.outcomes.len()).sum::<usize>() <= records);
                for part in parts {
                    let (committed, last) = &mut seen[usize::try_from(part.lease.partition.0).unwrap()];
                    for retained in &part.outcomes {
                        prop_assert!(retained.offset().0 >= *last && retained.offset().0 >= *committed);
                        *last = retained.offset().0 + 1;
                    }
                    prop_assert!(part.next.0 >= *last && part.next.0 >= *committed);
                    *committed = part.next.0;
                }
            }
            for (place, (committed, _)) in seen.iter().enumerate() {
                prop_assert_eq!(*committed, next[place]);
            }
            prop_assert_eq!(outbox.waiting().records, 0);
        }
    }
}
