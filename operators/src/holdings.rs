//! The leases that one worker holds, as its source and its sink share them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::broker::{BrokerError, PollEnd, PollLimit, Polled, Queue};
use crate::budget::{Budget, LeaseAccount, OVERHEAD_BYTES};
use crate::clock::Moment;
use crate::lease::{Lease, NextOffset, Partition};
use crate::ledger::{Ledger, Opened};
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
    draining: bool,
    offered: NextOffset,
}

impl Holding {
    /// Takes a lease up. Its queue may hold records already.
    pub fn new(grant: Grant) -> Self {
        grant.dirty.store(true, Ordering::SeqCst);
        Self {
            lease: grant.lease,
            ledger: Ledger::new(grant.start),
            account: grant.account,
            queue: grant.queue,
            dirty: grant.dirty,
            draining: false,
            offered: grant.start,
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
            let size = into.records.get(place).payload_bytes() + OVERHEAD_BYTES;
            let opened = Opened {
                offset: into.origins[place].1,
                epoch,
                at: now,
                millis: into.times[place].millis,
                bytes: u32::try_from(size).unwrap_or(u32::MAX),
            };
            if self.ledger.open(opened) {
                records += 1;
                bytes += opened.bytes as usize;
            } else {
                let (partition, offset) = (self.lease.partition.0, opened.offset.0);
                tracing::warn!(partition, offset, "record delivered again; it is in the dataflow already");
                into.skip(place);
            }
        }
        Ok(records > 0 && budget.charge(&self.account, records, bytes))
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

    /// Hands what the frontier has passed to the outbox.
    pub fn offer(&mut self, outbox: &Outbox) {
        let mut ready = Vec::new();
        self.ledger.drain_ready(|_, retained| ready.push(retained));
        let frontier = self.ledger.frontier();
        if frontier > self.offered || !ready.is_empty() {
            self.offered = frontier;
            outbox.offer(self.lease, &self.account, frontier, ready);
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
    pub fn tell(&self, observer: &dyn Observer) {
        observer.lease(&LeaseSeen {
            partition: self.lease.partition,
            frontier: self.ledger.frontier().0,
            committed: self.account.committed().0,
            end: self.queue.end().map(|end| end.0),
            in_flight: self.account.records(),
            oldest_millis: self.ledger.oldest_open().map(|opened| opened.millis),
        });
    }
}
