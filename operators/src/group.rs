//! The group thread's state machine: partitions that the group assigns become leases; leases end before their partitions go back.
//!
//! ```text
//!   assigned ─▶ committed offsets ─▶ granted ─▶ reading ──┬─ revoked ─▶ draining ─▶ drained, or too late ─▶ dropped ─▶ given back
//!                                                         └─ lost ──────────────────────────────────────▶ dropped ─▶ given back
//! ```
//!
//! A revoked lease stops reading, finishes what it has, and is committed while the member still owns its partition. What is not finished
//! within the bound is dropped: the new owner does it again, from the last commit. A lost lease commits nothing more.

mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::broker::{BrokerError, Class, GroupEvent, Member};
use crate::budget::{Budget, Record};
use crate::clock::{Clock, Moment};
use crate::continuity::Policy;
use crate::fault::{Fault, Faults};
use crate::health::Health;
use crate::lease::{Lease, Partition, Term};
use crate::observe::Observer;
use crate::outbox::Outbox;
use crate::ports::{Grant, Order, Ports};
use crate::tenure::Tenure;

use self::watch::{Place, Watch};

/// What the group thread works with.
#[derive(Clone)]
pub struct GroupParts {
    /// The way to the workers.
    pub ports: Arc<Ports>,
    /// Which leases are held.
    pub tenure: Arc<Tenure>,
    /// What is to be committed.
    pub outbox: Arc<Outbox>,
    /// Where what a dropped lease had waiting is released.
    pub budget: Arc<Budget>,
    /// Where it says that the engine must stop.
    pub faults: Arc<Faults>,
    /// Where it says that it has no partitions yet.
    pub health: Arc<Health>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The topic that is read.
    pub topic: String,
    /// What to do where its logs do not go on.
    pub policy: Arc<Policy>,
    /// How long a revoked lease may take to finish what it has.
    pub drain_max: Duration,
    /// How long every lease may take to, before the engine stops because a log does not go on.
    pub last_drain_max: Duration,
}

/// The name of the condition in the health of the process until the group has assigned it its partitions.
pub const NO_ASSIGNMENT: &str = "group";

/// The pause before the coordinator is asked again for committed offsets.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The group thread's state.
pub struct Group {
    parts: GroupParts,
    member: Box<dyn Member>,
    next_term: u64,
    /// Assigned, and not granted because the coordinator has not told the committed offsets yet.
    assigned: Vec<Partition>,
    retry_at: Moment,
    draining: BTreeMap<Partition, Lease>,
    drained_by: Moment,
    watch: Watch,
    stopping: bool,
    stopped: bool,
}

impl Group {
    /// Starts with a member that was made after the producer had fenced its predecessors.
    pub fn new(parts: GroupParts, member: Box<dyn Member>) -> Self {
        parts.health.set_unready(NO_ASSIGNMENT, "the consumer group has not assigned partitions yet");
        Self {
            parts,
            member,
            next_term: 1,
            assigned: Vec::new(),
            retry_at: Moment::START,
            draining: BTreeMap::new(),
            drained_by: Moment::NEVER,
            watch: Watch::new(),
            stopping: false,
            stopped: false,
        }
    }

    /// The proof of membership, for the transaction thread.
    pub fn ownership(&self) -> Arc<dyn crate::broker::Ownership> {
        self.member.ownership()
    }

    /// Serves the group once, for up to `wait`; `false` once the member has left after [`Group::stop`].
    pub fn step(&mut self, wait: Duration) -> bool {
        if self.stopped {
            return false;
        }
        let wait = if self.draining.is_empty() { wait } else { wait.min(Duration::from_millis(5)) };
        match self.member.poll(wait) {
            Some(event) => self.on(event),
            None => self.grant_assigned(),
        }
        self.finish_drain();
        self.watch_log();
        self.tell_readiness();
        if self.stopping && self.draining.is_empty() {
            self.leave();
        }
        !self.stopped
    }

    /// Drains every lease for up to `drain_max`, and leaves the group.
    pub fn stop(&mut self, drain_max: Duration) {
        self.stopping = true;
        self.parts.drain_max = drain_max;
        let held = self.parts.tenure.lock().partitions();
        self.drain(&held);
    }

    fn on(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(partitions) => {
                self.assigned.extend(partitions);
                self.retry_at = Moment::START;
                self.grant_assigned();
            }
            GroupEvent::Revoked(partitions) => {
                tracing::info!(partitions = partitions.len(), "partitions revoked");
                let (unread, held) = self.split_unread(partitions);
                self.drain(&held);
                self.give_back(&unread);
            }
            GroupEvent::Lost(partitions) => {
                tracing::warn!(
                    partitions = partitions.len(),
                    "partitions lost; nothing of them is committed"
                );
                let (unread, held) = self.split_unread(partitions);
                self.drop_leases(&held);
                self.give_back(&[held, unread].concat());
            }
            GroupEvent::OutOfRange(partition) => self.out_of_range(partition),
            GroupEvent::Failed(error) => self.failed(error),
        }
    }

    /// Partitions that were assigned and never granted have nothing to drain.
    fn split_unread(&mut self, partitions: Vec<Partition>) -> (Vec<Partition>, Vec<Partition>) {
        let tenure = self.parts.tenure.lock();
        let (held, unread): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|partition| tenure.account(*partition).is_some());
        self.assigned.retain(|partition| !unread.contains(partition));
        (unread, held)
    }

    fn failed(&mut self, error: BrokerError) {
        match error.class {
            Class::Retriable | Class::Unreachable | Class::Abortable => {
                tracing::warn!(%error, "the group member met an error; it goes on");
            }
            _ => self.parts.faults.raise(Fault::Broker(error)),
        }
    }

    fn grant_assigned(&mut self) {
        if self.assigned.is_empty() {
            return;
        }
        if self.parts.clock.now() < self.retry_at || self.stopping {
            return;
        }
        match self.places() {
            Ok(places) => self.grant(&places),
            Err(error) => {
                tracing::warn!(%error, "waiting for the committed offsets");
                self.retry_at = self.parts.clock.now().after(RETRY_PAUSE);
            }
        }
    }

    /// Ready is who reads something, and waits for nothing else that was assigned to him.
    fn tell_readiness(&self) {
        let health = &self.parts.health;
        if !self.assigned.is_empty() && self.retry_at != Moment::START {
            let waiting = self.assigned.len();
            health
                .set_unready(NO_ASSIGNMENT, format!("{waiting} partitions wait for their committed offsets"));
        } else if self.parts.tenure.lock().partitions().is_empty() {
            health.set_unready(NO_ASSIGNMENT, "the consumer group has assigned no partitions");
        } else if self.assigned.is_empty() {
            health.clear(NO_ASSIGNMENT);
        }
    }

    fn grant(&mut self, places: &[Place]) {
        let mut grants = Vec::with_capacity(places.len());
        for Place { partition, done, record, .. } in places {
            let lease = Lease { partition: *partition, term: Term(self.next_term) };
            self.next_term += 1;
            let dirty = Arc::new(AtomicBool::new(false));
            let waker = self.parts.ports.waker(*partition, Arc::clone(&dirty));
            let start = done.base();
            let account = Arc::new(self.parts.budget.account(*partition, done.clone(), *record));
            match self.member.queue(*partition, waker) {
                Ok(queue) => grants.push(Grant { lease, start, queue, dirty, account }),
                Err(error) => return self.parts.faults.raise(Fault::Broker(error)),
            }
        }
        // First the member: what it cannot take now is asked for again, and nobody holds a lease that is not read.
        let starts: Vec<_> = places.iter().map(|place| (place.partition, place.done.base())).collect();
        if let Err(error) = self.member.assign(&starts) {
            self.retry_at = self.parts.clock.now().after(RETRY_PAUSE);
            return self.failed(error);
        }
        for (grant, place) in grants.into_iter().zip(places) {
            let (partition, account) = (grant.lease.partition, Arc::clone(&grant.account));
            self.parts.tenure.lock().grant(grant.lease, Arc::clone(&account));
            self.tell_place(place);
            if place.record == Record::Owed {
                self.parts.outbox.offer(grant.lease, &account, grant.start, []);
            }
            self.parts.ports.send(self.parts.ports.worker_of(partition), Order::Grant(grant));
        }
        self.assigned.clear();
    }

    fn drain(&mut self, partitions: &[Partition]) {
        let tenure = self.parts.tenure.lock();
        for partition in partitions {
            let Some(lease) = tenure.lease(*partition) else { continue };
            if self.draining.insert(*partition, lease).is_none() {
                self.drained_by = self.parts.clock.now().after(self.parts.drain_max);
            }
            self.parts.ports.send(self.parts.ports.worker_of(*partition), Order::Drain(lease));
        }
    }

    fn finish_drain(&mut self) {
        if self.draining.is_empty() {
            return;
        }
        let tenure = self.parts.tenure.lock();
        let drained =
            |partition: &Partition| tenure.account(*partition).is_none_or(|account| account.is_drained());
        let all_drained = self.draining.keys().all(drained);
        drop(tenure);
        if !all_drained && self.parts.clock.now() < self.drained_by {
            self.parts.outbox.hurry();
            return;
        }
        if !all_drained {
            tracing::warn!("leases were not drained in time; their new owner does the rest again");
        }
        let partitions: Vec<Partition> = std::mem::take(&mut self.draining).into_keys().collect();
        self.drop_leases(&partitions);
        self.give_back(&partitions);
    }

    fn drop_leases(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.draining.remove(partition);
            let account = self.parts.tenure.lock().account(*partition).cloned();
            let Some(lease) = self.parts.tenure.lock().end(*partition) else { continue };
            if let Some(account) = account {
                self.watch.left(*partition, account.committed());
            }
            if let Some(part) = self.parts.outbox.discard(lease) {
                self.parts.budget.release(&part.account, part.outcomes.len(), part.bytes());
            }
            self.parts.ports.send(self.parts.ports.worker_of(*partition), Order::Drop(lease));
        }
    }

    fn give_back(&mut self, partitions: &[Partition]) {
        if partitions.is_empty() {
            return;
        }
        if let Err(error) = self.member.unassign(partitions) {
            self.failed(error);
        }
    }

    fn leave(&mut self) {
        if let Err(error) = self.member.leave() {
            tracing::warn!(%error, "could not tell the group that this member leaves");
        }
        for worker in 0..self.parts.ports.workers() {
            self.parts.ports.send(worker, Order::Stop);
        }
        self.stopped = true;
    }
}

#[cfg(test)]
mod tests;
