//! The transaction thread's state machine: results, dead letters and offsets, committed together.
//!
//! ```text
//!            ┌──────────────── abortable: the same outcomes again, without inferring again ────────────────┐
//!            ▼                                                                                              │
//!   idle ─▶ begin ─▶ send ─▶ drain ─▶ offsets ─▶ commit ─▶ acknowledged: retained outcomes released       abort
//!     ▲                                             │                         ▲                             ▲
//!     │                                 retriable: the same call again        │ committed after all         │
//!     │                                                                       │                             │
//!     └── fatal, or unknown for too long: rebuild the producer ─▶ reconcile ──┴── not committed: again ─────┘
//! ```
//!
//! Each step makes at most one call that can fail, so that a simulated run can crash between any two. What a transaction holds is
//! retained until the broker has acknowledged the commit; an abort replays it. When the outcome of a commit stays unknown, memory is
//! not trusted: a new producer of the same id fences the old one, and the committed offsets tell what became of the transaction.

mod trouble;

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Broker, BrokerError, Class, Committed, OffsetCommit, Ownership, Producer};
use crate::budget::Budget;
use crate::clock::{Clock, Moment};
use crate::fault::{Fault, Faults};
use crate::health::Health;
use crate::lease::Partition;
use crate::metadata::Metadata;
use crate::observe::Observer;
use crate::outbox::{Outbox, Part, TransactionLimit};
use crate::outcome::Kind;
use crate::tenure::Tenure;

use self::trouble::Trouble;

/// How a process commits.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// Stable for the process's slot, different for every two processes that run at once.
    pub transactional_id: String,
    /// The consumer group.
    pub group: String,
    /// The topic whose offsets are committed.
    pub requests: String,
    /// Where results go.
    pub results: String,
    /// Where dead letters go.
    pub dead_letters: String,
    /// The time from the begin of one transaction to that of the next, while there is something to commit.
    pub interval: Duration,
    /// What one transaction may hold.
    pub limit: TransactionLimit,
    /// Waiting for this many records starts a transaction before its interval is over.
    pub records_full: usize,
    /// The broker aborts a transaction that is open for longer.
    pub timeout: Duration,
}

/// What the transaction thread works with.
#[derive(Clone)]
pub struct TransactionParts {
    /// Where producers come from.
    pub broker: Arc<dyn Broker>,
    /// Proof of membership.
    pub ownership: Arc<dyn Ownership>,
    /// What is to be committed.
    pub outbox: Arc<Outbox>,
    /// Which leases are held.
    pub tenure: Arc<Tenure>,
    /// Where committed records give back what they were charged.
    pub budget: Arc<Budget>,
    /// Where it says that the engine must stop.
    pub faults: Arc<Faults>,
    /// Where it says that commits have been failing for a while.
    pub health: Arc<Health>,
    /// Called after a release while a source had to go without budget.
    pub wake_sources: Arc<dyn Fn() + Send + Sync>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What the thread does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Another step at once.
    Again,
    /// Nothing to do before this moment, unless the outbox changes.
    Until(Moment),
    /// Nothing to do before this moment, whatever happens: a call is to be tried again.
    BackOff(Moment),
    /// The engine has a fault: no further step does anything.
    Stopped,
}

/// The name of the condition in the health of the process while commits have been failing for a while.
pub const FAILING_COMMITS: &str = "transactions";

/// How long offsets that somebody else has committed may be explained by a lease that was lost: a member that was silent for too long
/// hears of its loss with its next heartbeat, and until then others may have committed for the partition already.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// What the broker says when its `offset.metadata.max.bytes` is lower than Kafka's default.
const METADATA_TOO_LARGE: &str = "OFFSET_METADATA_TOO_LARGE";

/// The most records handed to the producer in one step.
const SENDS_A_STEP: usize = 1_024;

/// The longest wait for acknowledgements in one step.
const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// The first and the longest pause before a call is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// The transaction thread's state.
pub struct Committer {
    config: TransactionConfig,
    parts: TransactionParts,
    producer: Option<Box<dyn Producer>>,
    phase: Phase,
    transaction: Vec<Part>,
    begun: Moment,
    due: Moment,
    attempts: u32,
    /// Whether a commit was asked for and nobody knows yet what became of it.
    unknown: bool,
    /// Since when the committed offsets are somebody else's.
    strange_since: Option<Moment>,
    trouble: Trouble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Begin,
    Send { part: usize, outcome: usize },
    Drain,
    Offsets,
    Commit,
    Abort,
    Rebuild,
    Reconcile,
}

impl Committer {
    /// Starts with a producer that was made, and so has fenced its predecessors, before the group was joined.
    pub fn new(config: TransactionConfig, parts: TransactionParts, producer: Box<dyn Producer>) -> Self {
        Self {
            config,
            parts,
            producer: Some(producer),
            phase: Phase::Idle,
            transaction: Vec::new(),
            begun: Moment::START,
            due: Moment::START,
            attempts: 0,
            unknown: false,
            strange_since: None,
            trouble: Trouble::default(),
        }
    }

    /// Goes one step further.
    pub fn step(&mut self) -> Pace {
        if self.parts.faults.get().is_some() {
            return Pace::Stopped;
        }
        match self.phase {
            Phase::Idle => self.idle(),
            Phase::Begin => self.begin(),
            Phase::Send { part, outcome } => self.send(part, outcome),
            Phase::Drain => self.drain(),
            Phase::Offsets => self.offsets(),
            Phase::Commit => self.commit(),
            Phase::Abort => self.abort(),
            Phase::Rebuild => self.rebuild(),
            Phase::Reconcile => self.reconcile(),
        }
    }

    fn idle(&mut self) -> Pace {
        let now = self.parts.clock.now();
        let waiting = self.parts.outbox.waiting();
        if waiting.leases == 0 {
            return Pace::Until(Moment::NEVER);
        }
        if now < self.due && !waiting.hurry && waiting.records < self.config.records_full {
            return Pace::Until(self.due);
        }
        self.transaction = self.parts.outbox.take(self.config.limit);
        self.due = now.after(self.config.interval);
        self.attempts = 0;
        self.phase = Phase::Begin;
        Pace::Again
    }

    fn begin(&mut self) -> Pace {
        self.forget_lost_leases();
        if self.transaction.is_empty() {
            return self.rest();
        }
        self.unknown = false;
        let begun = self.producer().begin();
        self.begun = self.parts.clock.now();
        self.go(begun, Phase::Send { part: 0, outcome: 0 })
    }

    fn send(&mut self, mut part: usize, mut outcome: usize) -> Pace {
        let producer = self.producer.as_mut().expect("only a rebuild takes the producer away");
        for _ in 0..SENDS_A_STEP {
            while part < self.transaction.len() && outcome == self.transaction[part].outcomes.len() {
                (part, outcome) = (part + 1, 0);
            }
            let Some(retained) = self.transaction.get(part).map(|part| &part.outcomes[outcome]) else {
                self.phase = Phase::Drain;
                return Pace::Again;
            };
            let sent = match retained.kind() {
                Kind::Result => producer.send(&self.config.results, None, retained.record()),
                Kind::DeadLetter(partition) => {
                    producer.send(&self.config.dead_letters, Some(partition), retained.record())
                }
            };
            match sent {
                Ok(()) => outcome += 1,
                Err(error) => {
                    self.phase = Phase::Send { part, outcome };
                    // Acknowledgements make room.
                    let next = Phase::Send { part, outcome };
                    return if error.class == Class::QueueFull {
                        self.wait_for(next)
                    } else {
                        self.failed(error)
                    };
                }
            }
        }
        self.phase = Phase::Send { part, outcome };
        Pace::Again
    }

    fn drain(&mut self) -> Pace {
        self.wait_for(Phase::Offsets)
    }

    /// Goes on once every record sent is acknowledged, but does not wait for that until the broker ends the transaction.
    fn wait_for(&mut self, next: Phase) -> Pace {
        match self.producer().drain(DRAIN_WAIT) {
            Ok(true) => self.go(Ok(()), next),
            Ok(false) if self.is_overdue() => {
                self.phase = Phase::Abort;
                Pace::Again
            }
            Ok(false) => {
                self.note_trouble("the broker has not acknowledged all records");
                Pace::Again
            }
            Err(error) => self.failed(error),
        }
    }

    fn offsets(&mut self) -> Pace {
        let tenure = Arc::clone(&self.parts.tenure);
        let held = tenure.lock();
        if !self.transaction.iter().all(|part| held.holds(part.lease)) {
            // Outputs of a lease that is no longer ours are in the transaction: none of it may be seen.
            self.phase = Phase::Abort;
            return Pace::Again;
        }
        let offsets: Vec<OffsetCommit> = self
            .transaction
            .iter()
            .map(|part| OffsetCommit {
                partition: part.lease.partition,
                next: part.done.base(),
                metadata: Metadata { topic: None, done: part.done.clone() }.encode(),
            })
            .collect();
        let requests = self.config.requests.clone();
        let sent = match self.parts.ownership.token() {
            Ok(token) => self.producer().send_offsets(&requests, &offsets, &token),
            Err(error) => Err(BrokerError { class: Class::Abortable, ..error }),
        };
        drop(held);
        self.go(sent, Phase::Commit)
    }

    fn commit(&mut self) -> Pace {
        match self.producer().commit() {
            Ok(()) => {
                self.acknowledge();
                if self.unknown {
                    // A request of the first call may still be on its way, and would end whatever this producer does next. A new one
                    // of the same id fences it off (KAFKA-17754).
                    self.phase = Phase::Rebuild;
                }
                Pace::Again
            }
            Err(error) => self.failed(error),
        }
    }

    fn abort(&mut self) -> Pace {
        let aborted = self.producer().abort();
        if aborted.is_ok() {
            tracing::warn!(attempt = self.attempts, "transaction aborted; its outcomes are sent again");
            self.parts.observer.aborted();
            self.trouble.replay();
            self.phase = Phase::Begin;
            return self.back_off();
        }
        self.go(aborted, Phase::Begin)
    }

    fn rebuild(&mut self) -> Pace {
        self.producer = None;
        match self.parts.broker.producer(&self.config.transactional_id) {
            Ok(producer) => {
                self.producer = Some(producer);
                self.parts.observer.rebuilt();
                if self.transaction.is_empty() {
                    return self.rest();
                }
                self.phase = Phase::Reconcile;
                Pace::Again
            }
            Err(error) => self.again_later(error),
        }
    }

    /// The new producer's initialization has resolved whatever the old one left open, so the committed offsets are the truth. Only
    /// those of this transaction are asked for: the group's other members may have some pending at any time.
    fn reconcile(&mut self) -> Pace {
        self.forget_lost_leases();
        if self.transaction.is_empty() {
            return self.rest();
        }
        let asked: Vec<Partition> = self.transaction.iter().map(|part| part.lease.partition).collect();
        let committed = self
            .parts
            .broker
            .admin()
            .and_then(|mut admin| admin.committed(&self.config.group, &self.config.requests, &asked));
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => return self.again_later(error),
        };
        let found = |part: &Part, committed: &Option<Committed>| match committed {
            Some(Committed { next, metadata }) => Metadata::decode(*next, metadata).map(|found| found.done),
            None => Ok(part.account.done()),
        };
        let found: Vec<_> =
            self.transaction.iter().zip(&committed).map(|(part, it)| (part, found(part, it))).collect();
        if found.iter().all(|(part, done)| done.as_ref() == Ok(&part.done)) {
            tracing::info!("the transaction of unknown outcome was committed");
            self.acknowledge();
            return Pace::Again;
        }
        if let Some(place) = found.iter().position(|(part, done)| done.as_ref() != Ok(&part.account.done())) {
            let (part, at) = (found[place].0, committed[place].as_ref().map(|committed| committed.next));
            let (partition, from) = (part.lease.partition, part.account.committed());
            let to = part.done.base();
            return self.found_stranger(Fault::Unreconciled {
                partition,
                found: at.unwrap_or(from),
                from,
                to,
            });
        }
        tracing::info!("the transaction of unknown outcome was not committed; its outcomes are sent again");
        self.parts.observer.aborted();
        self.trouble.replay();
        self.strange_since = None;
        self.phase = Phase::Begin;
        Pace::Again
    }

    /// Somebody else has committed. That may be the new owner of a lease whose loss the group thread has not heard of yet: then the
    /// lease will be gone in a moment. Only if it stays does the group have two masters.
    fn found_stranger(&mut self, fault: Fault) -> Pace {
        let now = self.parts.clock.now();
        let since = *self.strange_since.get_or_insert(now);
        if now.since(since) >= STRANGER_PATIENCE {
            self.parts.faults.raise(fault);
            return Pace::Stopped;
        }
        tracing::warn!(reason = %fault, "waiting to hear whether the partition was lost");
        self.note_trouble(&fault.to_string());
        self.back_off()
    }

    /// Nothing is under way, or held up.
    fn rest(&mut self) -> Pace {
        self.strange_since = None;
        self.trouble.end();
        self.parts.health.clear(FAILING_COMMITS);
        self.phase = Phase::Idle;
        Pace::Again
    }

    fn note_trouble(&mut self, reason: &str) {
        if let Some(trouble) = self.trouble.note(self.parts.clock.now()) {
            self.parts.health.set_unready(FAILING_COMMITS, format!("{trouble}: {reason}"));
        }
    }

    /// What is committed needs to be retained no longer.
    fn acknowledge(&mut self) {
        let took = self.parts.clock.now().since(self.begun);
        let records = self.transaction.iter().map(|part| part.outcomes.len()).sum();
        self.parts.observer.committed(records, took);
        for part in std::mem::take(&mut self.transaction) {
            let bytes = part.bytes();
            part.account.commit(part.done);
            self.parts.budget.release(&part.account, part.outcomes.len(), bytes);
        }
        if self.parts.budget.was_starved() {
            (self.parts.wake_sources)();
        }
        self.rest();
    }

    /// Drops what was to be done for leases that are held no longer: their new owner does it again.
    fn forget_lost_leases(&mut self) {
        let held = self.parts.tenure.lock();
        let (kept, lost) =
            std::mem::take(&mut self.transaction).into_iter().partition(|part| held.holds(part.lease));
        self.transaction = kept;
        for part in lost {
            self.parts.budget.release(&part.account, part.outcomes.len(), part.bytes());
        }
    }

    fn go(&mut self, outcome: Result<(), BrokerError>, next: Phase) -> Pace {
        match outcome {
            Ok(()) => {
                self.phase = next;
                Pace::Again
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: BrokerError) -> Pace {
        if self.phase == Phase::Offsets && error.code == METADATA_TOO_LARGE {
            // The same metadata would be refused again, and without it what it names would be done twice.
            self.parts.faults.raise(Fault::MetadataTooLarge);
            return Pace::Stopped;
        }
        tracing::warn!(%error, class = ?error.class, phase = ?self.phase, "transaction interrupted");
        self.note_trouble(&error.to_string());
        self.unknown |=
            self.phase == Phase::Commit && matches!(error.class, Class::Retriable | Class::Unreachable);
        match error.class {
            // A transaction that outlived its timeout was fenced by the coordinator, not by a rival.
            Class::Fenced if !self.is_overdue() => {
                let transactional_id = self.config.transactional_id.clone();
                self.parts.faults.raise(Fault::Fenced { transactional_id });
                Pace::Stopped
            }
            // After a commit of unknown outcome an abort could abort nothing: the transaction may be committed already.
            Class::Abortable if self.phase != Phase::Abort && !self.unknown => {
                self.phase = Phase::Abort;
                Pace::Again
            }
            Class::Retriable | Class::Unreachable | Class::QueueFull if !self.is_overdue() => self.back_off(),
            Class::Refused | Class::TooLarge => {
                self.parts.faults.raise(Fault::Broker(error));
                Pace::Stopped
            }
            // The producer is dead, or the outcome has been unknown for so long that only a new producer can find it out.
            _ => {
                self.phase = Phase::Rebuild;
                Pace::Again
            }
        }
    }

    /// While a producer is rebuilt, or the truth is asked for, there is nothing to lose by waiting for the broker.
    fn again_later(&mut self, error: BrokerError) -> Pace {
        tracing::warn!(%error, phase = ?self.phase, "waiting for the broker");
        self.note_trouble(&error.to_string());
        match error.class {
            Class::Refused => {
                self.parts.faults.raise(Fault::Broker(error));
                Pace::Stopped
            }
            Class::Fatal | Class::Fenced => {
                self.phase = Phase::Rebuild;
                self.back_off()
            }
            _ => self.back_off(),
        }
    }

    fn back_off(&mut self) -> Pace {
        let pause = BACK_OFF.0.saturating_mul(1 << self.attempts.min(10)).min(BACK_OFF.1);
        self.attempts = self.attempts.saturating_add(1);
        Pace::BackOff(self.parts.clock.now().after(pause))
    }

    fn is_overdue(&self) -> bool {
        self.parts.clock.now().since(self.begun) >= self.config.timeout / 10 * 8
    }

    fn producer(&mut self) -> &mut dyn Producer {
        self.producer.as_deref_mut().expect("only a rebuild takes the producer away")
    }
}

#[cfg(test)]
mod tests;
