//! The leases that one worker holds, as its source and its sink share them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::broker::{BrokerError, PollEnd, PollLimit, Polled, Queue};
use crate::budget::{Budget, LeaseAccount, OVERHEAD_BYTES};
use crate::clock::Moment;
use crate::commit_order::{CommitOrder, OrderKey};
use crate::lease::{Lease, NextOffset, Partition};
use crate::ledger::{Delivery, Ledger, Opened};
use crate::observe::{LeaseSeen, Observer};
use crate::outbox::{Outbox, Retained};
use crate::ports::Grant;

/// The leases of one worker, shared by the operators at both ends of its dataflow.
pub type Holdings = Rc<RefCell<BTreeMap<Partition, Holding>>>;

/// One lease, with its ledger and its queue.
pub struct Holding {
    /// The lease.
    pub lease: Lease,
    /// Which of its offsets have their outcome.
    pub ledger: Ledger<Retained>,
    /// Its account with the budget.
    pub account: Arc<LeaseAccount>,
    queue: Box<dyn Queue>,
    dirty: Arc<AtomicBool>,
    order: CommitOrder,
    draining: bool,
    offered: NextOffset,
    /// What was offered and is not committed: up to where, and the timestamp of its first record.
    uncommitted: VecDeque<(NextOffset, i64)>,
    /// Between two offers empty: kept for its memory.
    ready: Vec<Retained>,
}

/// From so many waiting outcomes on, and when the record that they wait for was polled so long ago, they move into a buffer of their
/// own.
const SETTLE: (usize, Duration) = (256, Duration::from_secs(1));

/// So many outcomes have room between two offers; what a straggler held up may be many times as much, and is rare.
const READY_KEPT: usize = 256;

impl Holding {
    /// Takes a lease up, whose outcomes are committed in this order. Its queue may hold records already.
    pub fn new(grant: Grant, order: CommitOrder) -> Self {
        grant.dirty.store(true, Ordering::SeqCst);
        Self {
            lease: grant.lease,
            ledger: Ledger::new(order, grant.account.done()),
            account: grant.account,
            queue: grant.queue,
            dirty: grant.dirty,
            order,
            draining: false,
            offered: grant.start,
            uncommitted: VecDeque::new(),
            ready: Vec::new(),
        }
    }

    /// Stops reading.
    pub fn drain(&mut self) {
        self.draining = true;
        self.account.stop();
    }

    /// Whether there may be something to poll.
    pub fn is_dirty(&self) -> bool {
        !self.draining && self.dirty.load(Ordering::SeqCst)
    }

    /// How much may be polled now; `None` if nothing, because the budget or the window of the ledger is full.
    pub fn room(&self, budget: &Budget) -> Option<PollLimit> {
        let window = self.ledger.room();
        let room = budget.room(&self.account)?;
        (window > 0).then(|| PollLimit { records: room.records.min(window), ..room })
    }

    /// Polls the queue, opens what came in the ledger, and charges it; returns whether the process had nothing in flight before.
    ///
    /// # Errors
    ///
    /// If the partition can't be read any further.
    pub fn poll(
        &mut self,
        into: &mut Polled,
        limit: PollLimit,
        epoch: u64,
        now: Moment,
        budget: &Budget,
    ) -> Result<bool, BrokerError> {
        // Unmarked before the poll: what arrives during it marks it again.
        self.dirty.store(false, Ordering::SeqCst);
        let from = into.origins.len();
        if self.queue.poll(self.lease, into, limit)? == PollEnd::Limit {
            self.dirty.store(true, Ordering::SeqCst);
        }
        let (mut records, mut bytes) = (0, 0);
        for place in from..into.origins.len() {
            let opened = self.seen(into, place, epoch, now);
            match self.ledger.open(opened) {
                Delivery::First => {
                    records += 1;
                    bytes += opened.bytes as usize;
                }
                Delivery::Again => {
                    let (partition, offset) = (self.lease.partition.0, opened.offset.0);
                    tracing::warn!(
                        partition,
                        offset,
                        "record delivered again; it is in the dataflow already"
                    );
                    into.skip(place);
                }
                Delivery::Done => into.skip(place),
            }
        }
        Ok(records > 0 && budget.charge(&self.account, records, bytes))
    }

    fn seen(&self, polled: &Polled, place: usize, epoch: u64, now: Moment) -> Opened {
        let record = polled.records.get(place);
        let key = match self.order {
            CommitOrder::Key => OrderKey::of(record.key()),
            CommitOrder::Partition | CommitOrder::None => OrderKey::FREE,
        };
        Opened {
            offset: polled.origins[place].1,
            epoch,
            at: now,
            millis: polled.times[place].millis,
            bytes: u32::try_from(record.payload_bytes() + OVERHEAD_BYTES).unwrap_or(u32::MAX),
            key,
        }
    }

    /// Passes over control records and aborted ones at the tail, so that the frontier can reach the end of the partition.
    pub fn pass_tail(&mut self) {
        if self.ledger.is_empty()
            && !self.draining
            && !self.dirty.load(Ordering::SeqCst)
            && let Some(position) = self.queue.position()
        {
            self.ledger.pass(position);
        }
    }

    /// Hands what may leave the ledger to the outbox.
    pub fn offer(&mut self, outbox: &Outbox) {
        self.forget_committed();
        // What leaves may move the window on, and so let more leave.
        while self.offer_once(outbox) {}
    }

    fn offer_once(&mut self, outbox: &Outbox) -> bool {
        let mut oldest = None;
        self.ledger.drain_ready(|opened, retained| {
            oldest.get_or_insert(opened.millis);
            self.ready.push(retained);
        });
        let frontier = self.ledger.frontier();
        if frontier == self.offered && self.ready.is_empty() {
            return false;
        }
        match (self.uncommitted.back_mut(), oldest) {
            (Some((last, millis)), Some(oldest)) if *last == frontier => *millis = oldest.min(*millis),
            (_, oldest) => self.uncommitted.extend(oldest.map(|millis| (frontier, millis))),
        }
        self.offered = frontier;
        outbox.offer(self.lease, &self.account, frontier, self.ready.drain(..));
        self.ready.shrink_to(READY_KEPT);
        true
    }

    fn forget_committed(&mut self) {
        let committed = self.account.committed();
        while self.uncommitted.front().is_some_and(|(next, _)| *next <= committed) {
            self.uncommitted.pop_front();
        }
    }

    /// Lets outcomes that wait for a straggler hold no more memory than they are charged for.
    pub fn settle(&mut self, now: Moment) {
        let oldest = self.ledger.oldest_open();
        if self.ledger.waiting() >= SETTLE.0 && oldest.is_some_and(|opened| now.since(opened.at) >= SETTLE.1)
        {
            Retained::settle(self.ledger.waiting_mut());
        }
    }

    /// Returns what records without a commit were charged, when the lease is dropped.
    pub fn forget(mut self, budget: &Budget) {
        let (mut records, mut bytes) = (0, 0);
        self.ledger.forget(|opened, outcome| {
            records += 1;
            bytes += outcome.map_or(opened.bytes, |retained| retained.bytes) as usize;
        });
        budget.release(&self.account, records, bytes);
    }

    /// Tells the state of the lease.
    pub fn tell(&mut self, observer: &dyn Observer) {
        self.forget_committed();
        let open = self.ledger.oldest_open().map(|opened| opened.millis);
        observer.lease(&LeaseSeen {
            partition: self.lease.partition,
            frontier: self.ledger.frontier().0,
            committed: self.account.committed().0,
            end: self.queue.end().map(|end| end.0),
            in_flight: self.account.records(),
            oldest_millis: self.uncommitted.front().map(|(_, millis)| *millis).into_iter().chain(open).min(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::budget::BudgetConfig;
    use crate::done::Done;
    use crate::fixtures::{Recorder, TestQueue, lease, results};
    use crate::lease::Offset;
    use crate::outcome::Outcomes;

    /// A lease of `count` records that were polled at the start.
    fn holding(count: usize) -> Holding {
        let queue = TestQueue::default();
        queue.append(count);
        let grant = Grant {
            lease: lease(0, 1),
            start: NextOffset(0),
            queue: Box::new(queue),
            dirty: Arc::new(AtomicBool::new(false)),
            account: Arc::new(LeaseAccount::default()),
        };
        let mut holding = Holding::new(grant, CommitOrder::Partition);
        let budget = Budget::new(BudgetConfig { records_max: 10_000, bytes_max: 1 << 30, partitions: 1 });
        let limit = PollLimit { records: count, bytes: 1 << 20 };
        holding.poll(&mut Polled::default(), limit, 0, Moment::START, &budget).unwrap();
        holding
    }

    fn close(holding: &mut Holding, outcomes: &Arc<Outcomes>, index: usize) {
        let retained = |_: &Opened| Retained::new(Arc::clone(outcomes), index, 10);
        holding.ledger.close(outcomes.origin(index).1, retained).unwrap();
    }

    #[test]
    fn a_record_is_old_until_it_is_committed() {
        let (mut holding, observer, outbox) = (holding(3), Recorder::default(), Outbox::default());
        let oldest = |holding: &mut Holding| {
            holding.tell(&observer);
            observer.seen().leases.last().unwrap().oldest_millis
        };
        let first = oldest(&mut holding).unwrap();
        let outcomes = results(lease(0, 1), [0, 1]);
        (0..2).for_each(|index| close(&mut holding, &outcomes, index));
        holding.offer(&outbox);
        assert_eq!(oldest(&mut holding), Some(first), "it has its outcome, and nobody can see it");
        holding.account.commit(Done::before(NextOffset(2)));
        assert_eq!(oldest(&mut holding), holding.ledger.oldest_open().map(|opened| opened.millis));
        let outcomes = results(lease(0, 1), [2]);
        close(&mut holding, &outcomes, 0);
        holding.offer(&outbox);
        holding.account.commit(Done::before(NextOffset(3)));
        assert_eq!(oldest(&mut holding), None);
    }

    #[test]
    fn outcomes_that_wait_for_a_straggler_let_go_of_their_batches() {
        let count = SETTLE.0 + 1;
        let mut holding = holding(count);
        let mut batches: Vec<Weak<Outcomes>> = Vec::new();
        for offset in 1..i64::try_from(count).unwrap() {
            let batch = results(lease(0, 1), [offset]);
            close(&mut holding, &batch, 0);
            batches.push(Arc::downgrade(&batch));
        }
        let alive =
            |batches: &[Weak<Outcomes>]| batches.iter().filter(|batch| batch.strong_count() > 0).count();
        holding.settle(Moment::START);
        assert_eq!(alive(&batches), SETTLE.0, "they do not wait for long yet");
        holding.settle(Moment::START.after(SETTLE.1));
        assert_eq!(alive(&batches), 0);
        let straggler = results(lease(0, 1), [0]);
        close(&mut holding, &straggler, 0);
        let mut offsets = Vec::new();
        holding.ledger.drain_ready(|opened, retained| {
            assert_eq!((retained.offset(), retained.bytes), (opened.offset, 10));
            offsets.push(retained.offset());
        });
        assert_eq!(offsets, (0..i64::try_from(count).unwrap()).map(Offset).collect::<Vec<_>>());
    }
}
