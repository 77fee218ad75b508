//! The outbox: outcomes that have left their ledgers, on their way from the sinks to the transaction thread.
//!
//! Within a lease they stand in the order in which they left the ledger, and they leave in it. The outbox is bounded by the budget: what
//! lies in it is still charged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::budget::LeaseAccount;
use crate::commit_order::CommitOrder;
use crate::done::Done;
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
    /// What is done once it is committed: what was before, and the records of `outcomes`.
    pub done: Done,
    /// The outcomes of exactly the records that it adds.
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
    order: CommitOrder,
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
    outcomes: VecDeque<Retained>,
    /// Where the partition frontier was when outcomes were offered, after how many more of them.
    frontiers: VecDeque<(usize, NextOffset)>,
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

impl Pending {
    fn new(account: &Arc<LeaseAccount>) -> Self {
        let account = Arc::clone(account);
        Self { account, outcomes: VecDeque::new(), frontiers: VecDeque::new() }
    }

    fn add(&mut self, next: NextOffset, outcomes: impl IntoIterator<Item = Retained>) -> usize {
        let before = self.outcomes.len();
        self.outcomes.extend(outcomes);
        let added = self.outcomes.len() - before;
        match self.frontiers.back_mut() {
            Some((_, last)) if added == 0 => *last = next.max(*last),
            _ => self.frontiers.push_back((added, next)),
        }
        added
    }

    /// Takes the next outcome out, and notes in `done` what is done with it.
    fn pop(&mut self, order: CommitOrder, done: &mut Done) -> Option<Retained> {
        let retained = self.outcomes.pop_front()?;
        match order {
            CommitOrder::Partition => done.pass(retained.offset().next()),
            CommitOrder::Key | CommitOrder::None => done.complete_one(retained.offset()),
        }
        if let Some((left, _)) = self.frontiers.front_mut() {
            *left -= 1;
        }
        self.pass_frontiers(done);
        Some(retained)
    }

    /// What lies before a frontier is done once every outcome is taken that was offered up to then: records in gaps have none.
    fn pass_frontiers(&mut self, done: &mut Done) {
        while let Some((0, next)) = self.frontiers.front() {
            done.pass(*next);
            self.frontiers.pop_front();
        }
    }
}

impl Outbox {
    /// An empty outbox of an engine that commits in this order.
    pub fn new(order: CommitOrder) -> Self {
        Self { order, ..Self::default() }
    }

    /// The order in which outcomes leave their ledgers.
    pub fn order(&self) -> CommitOrder {
        self.order
    }

    /// Adds outcomes that have left their ledger; `next` is its frontier now, before which everything has left.
    pub fn offer(
        &self,
        lease: Lease,
        account: &Arc<LeaseAccount>,
        next: NextOffset,
        outcomes: impl IntoIterator<Item = Retained>,
    ) {
        let mut state = self.lock();
        let pending = state.pending.entry(lease).or_insert_with(|| Pending::new(account));
        let added = pending.add(next, outcomes);
        state.records += added;
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
            let before = pending.account.done();
            let room = pending.outcomes.len().min(limit.records.saturating_sub(records));
            let (mut done, mut outcomes) = (before.clone(), Vec::with_capacity(room));
            pending.pass_frontiers(&mut done);
            while records < limit.records && (bytes < limit.bytes || records == 0) {
                let Some(retained) = pending.pop(self.order, &mut done) else { break };
                records += 1;
                bytes += retained.bytes as usize;
                outcomes.push(retained);
            }
            if !outcomes.is_empty() {
                state.turn = Some(lease);
            }
            if done != before || pending.account.is_owed() {
                parts.push(Part { lease, account: Arc::clone(&pending.account), done, outcomes });
            }
            if !pending.outcomes.is_empty() {
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
        let Pending { account, outcomes, .. } = pending;
        Some(Part { lease, done: account.done(), account, outcomes: outcomes.into() })
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Moment;
    use crate::commit_order::OrderKey;
    use crate::lease::{Partition, Term};
    use crate::ledger::{Delivery, Ledger, Opened};

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

    const ORDERS: [CommitOrder; 3] = [CommitOrder::Partition, CommitOrder::Key, CommitOrder::None];

    #[test]
    fn an_offset_alone_is_something_to_commit() {
        for order in ORDERS {
            let outbox = Outbox::new(order);
            let account = Arc::new(LeaseAccount::default());
            outbox.offer(lease(0), &account, NextOffset(9), []);
            assert_eq!(outbox.waiting().leases, 1);
            let parts = outbox.take(TransactionLimit { records: 10, bytes: 10 });
            assert_eq!((parts.len(), parts[0].outcomes.len()), (1, 0));
            assert_eq!(parts[0].done, Done::before(NextOffset(9)));
            assert!(outbox.take(TransactionLimit { records: 10, bytes: 10 }).is_empty());
        }
    }

    /// A lease whose records are closed in any order, beside what of it was committed.
    struct Subject {
        lease: Lease,
        ledger: Ledger<Retained>,
        account: Arc<LeaseAccount>,
        taken: BTreeSet<i64>,
    }

    impl Subject {
        /// With `count` records, every third offset of which is a gap.
        fn new(partition: i32, order: CommitOrder, count: i64) -> Self {
            let mut ledger = Ledger::new(order, Done::default());
            for offset in (0..count).filter(|offset| offset % 3 != 2) {
                let key = OrderKey::of(Some(&[u8::try_from(offset % 5).unwrap()]));
                let opened =
                    Opened { offset: Offset(offset), epoch: 0, at: Moment::START, millis: 0, bytes: 0, key };
                assert_eq!(ledger.open(opened), Delivery::First);
            }
            ledger.pass(NextOffset(count));
            let account = Arc::new(LeaseAccount::default());
            Self { lease: lease(partition), ledger, account, taken: BTreeSet::new() }
        }

        fn offer(&mut self, outbox: &Outbox) {
            let mut ready = Vec::new();
            self.ledger.drain_ready(|_, retained| ready.push(retained));
            outbox.offer(self.lease, &self.account, self.ledger.frontier(), ready);
        }

        /// Commits a part, which must cover the records of its outcomes and of no others.
        fn commit(&mut self, part: Part, order: CommitOrder) {
            let new: Vec<i64> = part.outcomes.iter().map(|retained| retained.offset().0).collect();
            assert!(order != CommitOrder::Partition || (new.is_sorted() && part.done.is_prefix()));
            for offset in new {
                assert!(self.taken.insert(offset), "{offset} leaves once");
            }
            for offset in (0..self.ledger.read().0).filter(|offset| offset % 3 != 2) {
                assert_eq!(part.done.contains(Offset(offset)), self.taken.contains(&offset), "{offset}");
            }
            self.account.commit(part.done);
        }
    }

    proptest! {
        /// However the limits cut: what is done once a transaction is committed is what was before, and the records of the outcomes
        /// in it.
        #[test]
        fn what_is_done_goes_with_exactly_the_outcomes_that_it_adds(
            order in prop::sample::select(ORDERS.to_vec()),
            closes in prop::collection::vec((0_usize..3, any::<prop::sample::Index>(), 1_usize..100, 0_u8..4), 1..120),
            records in 1_usize..8,
            bytes in 1_usize..300,
        ) {
            let outbox = Outbox::new(order);
            let limit = TransactionLimit { records, bytes };
            let mut subjects: Vec<_> = (0..3).map(|partition| Subject::new(partition, order, 40)).collect();
            let mut open: Vec<Vec<i64>> =
                (0..3).map(|_| (0..40).filter(|offset| offset % 3 != 2).collect()).collect();
            for (partition, index, size, then) in closes {
                let subject = &mut subjects[partition];
                if !open[partition].is_empty() {
                    let place = index.index(open[partition].len());
                    let offset = open[partition].swap_remove(place);
                    let outcome = retained(subject.lease, offset, size);
                    subject.ledger.close(Offset(offset), |_| outcome).unwrap();
                }
                if then > 0 {
                    subject.offer(&outbox);
                }
                if then > 2 {
                    for part in outbox.take(limit) {
                        subjects[usize::try_from(part.lease.partition.0).unwrap()].commit(part, order);
                    }
                }
            }
            for (subject, open) in subjects.iter_mut().zip(open) {
                for offset in open {
                    let outcome = retained(subject.lease, offset, 1);
                    subject.ledger.close(Offset(offset), |_| outcome).unwrap();
                }
                subject.offer(&outbox);
            }
            loop {
                let parts = outbox.take(limit);
                if parts.is_empty() { break; }
                prop_assert!(parts.iter().map(|part| part.outcomes.len()).sum::<usize>() <= records);
                for part in parts {
                    subjects[usize::try_from(part.lease.partition.0).unwrap()].commit(part, order);
                }
            }
            for subject in subjects {
                prop_assert_eq!(subject.account.done(), Done::before(NextOffset(40)));
            }
            prop_assert_eq!(outbox.waiting().records, 0);
        }
    }
}
