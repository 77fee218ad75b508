//! The transaction thread's state machine: results, dead letters and offsets, committed together.
//!
//! ```text
//!            ┌──────────────────── abortable: the same outcomes again, without inferring again ────────────────────┐
//!            ▼                                                                                                      │
//!   idle ─▶ begin ─▶ send ─▶ drain ─▶ look ─▶ offsets ─▶ commit ─▶ acknowledged: retained outcomes released       abort
//!     ▲                                                    │                         ▲                              ▲
//!     │                                       retriable: the same call again         │ committed after all          │
//!     │                                                                              │                              │
//!     └── fatal, or unknown for too long: rebuild the producer ─▶ reconcile ─────────┴── not committed: again ──────┘
//! ```
//!
//! Each step makes at most one call that can fail, so that a simulated run can crash between any two. What a transaction holds is
//! retained until the broker has acknowledged the commit; an abort replays it. When the outcome of a commit stays unknown, memory is
//! not trusted: a new producer of the same id fences the old one, and the committed offsets tell what became of the transaction.

use std::sync::Arc;

use crate::broker::{BrokerError, Class, Committed, Producer};
use crate::clock::Moment;
use crate::commit::round::{DRAIN_WAIT, METADATA_TOO_LARGE, Round, STRANGER_PATIENCE};
use crate::commit::sight::Seen;
use crate::commit::{CommitConfig, CommitParts, Committer, Pace};
use crate::fault::Fault;
use crate::lease::Partition;
use crate::metadata::{Metadata, MetadataError};
use crate::outbox::Part;

/// The transaction thread's state while it commits in transactions.
pub struct ExactlyOnce {
    round: Round,
    producer: Option<Box<dyn Producer>>,
    phase: Phase,
    /// Whether a commit was asked for and nobody knows yet what became of it.
    unknown: bool,
    /// Since when the committed offsets are somebody else's.
    strange_since: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Others,
    Begin,
    Send,
    Drain,
    Look,
    Offsets,
    Commit,
    Abort,
    Rebuild,
    Reconcile,
}

impl Committer for ExactlyOnce {
    fn step(&mut self) -> Pace {
        if self.round.parts.faults.get().is_some() {
            return Pace::Stopped;
        }
        match self.phase {
            Phase::Idle => self.idle(),
            Phase::Others => self.others(),
            Phase::Begin => self.begin(),
            Phase::Send => self.send(),
            Phase::Drain => self.wait_for(Phase::Look),
            Phase::Look => self.look(),
            Phase::Offsets => self.offsets(),
            Phase::Commit => self.commit(),
            Phase::Abort => self.abort(),
            Phase::Rebuild => self.rebuild(),
            Phase::Reconcile => self.reconcile(),
        }
    }
}

impl ExactlyOnce {
    /// Starts with a producer that was made, and so has fenced its predecessors, before the group was joined.
    pub fn new(config: CommitConfig, parts: CommitParts, producer: Box<dyn Producer>) -> Self {
        Self {
            round: Round::new(config, parts),
            producer: Some(producer),
            phase: Phase::Idle,
            unknown: false,
            strange_since: None,
        }
    }

    fn idle(&mut self) -> Pace {
        if self.round.is_to_look_for_others() {
            self.phase = Phase::Others;
            return Pace::Again;
        }
        if let Some(pace) = self.round.take() {
            return pace;
        }
        self.phase = Phase::Begin;
        Pace::Again
    }

    fn others(&mut self) -> Pace {
        self.phase = Phase::Idle;
        self.round.look_for_others()
    }

    fn begin(&mut self) -> Pace {
        self.forget_lost_leases();
        if self.round.is_empty() {
            return self.rest();
        }
        self.unknown = false;
        self.round.begin();
        let begun = self.producer().begin();
        self.go(begun, Phase::Send)
    }

    fn send(&mut self) -> Pace {
        let producer = self.producer.as_deref_mut().expect("only a rebuild takes the producer away");
        let sent = self.round.hand_over(|topic, partition, record| producer.send(topic, partition, record));
        match sent {
            Ok(all) => self.go(Ok(()), if all { Phase::Drain } else { Phase::Send }),
            // Acknowledgements make room.
            Err(error) if error.class == Class::QueueFull => self.wait_for(Phase::Send),
            Err(error) => self.failed(error),
        }
    }

    /// The offsets must be of the topic that was read, and not of another one that has its name by now.
    fn look(&mut self) -> Pace {
        match self.round.look() {
            Seen::Same => self.go(Ok(()), Phase::Offsets),
            Seen::Another => {
                self.phase = Phase::Abort;
                Pace::Again
            }
            Seen::Nothing if self.is_overdue() => {
                self.phase = Phase::Abort;
                Pace::Again
            }
            Seen::Nothing => Pace::Again,
            Seen::Error(error) => self.failed(error),
        }
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
                self.round.note_trouble("the broker has not acknowledged all records");
                Pace::Again
            }
            Err(error) => self.failed(error),
        }
    }

    fn offsets(&mut self) -> Pace {
        let tenure = Arc::clone(&self.round.parts.tenure);
        let held = tenure.lock();
        if !self.round.retained.iter().all(|part| held.holds(part.lease)) {
            // Outputs of a lease that is no longer ours are in the transaction: none of it may be seen.
            self.phase = Phase::Abort;
            return Pace::Again;
        }
        let offsets = self.round.offsets();
        let requests = self.round.config.requests.clone();
        let sent = match self.round.parts.ownership.token() {
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
            tracing::warn!(attempt = self.round.attempts, "transaction aborted; its outcomes are sent again");
            self.round.note_replay();
            self.phase = Phase::Begin;
            return self.round.back_off();
        }
        self.go(aborted, Phase::Begin)
    }

    fn rebuild(&mut self) -> Pace {
        self.producer = None;
        match self.round.parts.broker.producer(&self.round.config.transactional_id) {
            Ok(producer) => {
                self.producer = Some(producer);
                self.round.parts.observer.rebuilt();
                if self.round.is_empty() {
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
        if self.round.is_empty() {
            return self.rest();
        }
        let asked: Vec<Partition> = self.round.retained.iter().map(|part| part.lease.partition).collect();
        let committed = self.round.parts.broker.admin().and_then(|mut admin| {
            admin.committed(&self.round.config.group, &self.round.config.requests, &asked)
        });
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => return self.again_later(error),
        };
        let topic = self.round.parts.tenure.topic();
        let found = |committed: &Option<Committed>| {
            committed.as_ref().map(|it| Metadata::decode(it.next, &it.metadata)).transpose()
        };
        let found: Vec<_> =
            self.round.retained.iter().zip(&committed).map(|(part, it)| (part, found(it))).collect();
        let is_ours = |(part, found): &(&Part, Result<Option<Metadata>, MetadataError>)| {
            // One that was owed may do no more than put on record where a partition starts, or of which topic it is.
            let is_whole = |found: &Metadata| !part.account.is_owed() || found.topic == topic;
            matches!(found, Ok(Some(found)) if found.done == part.done && is_whole(found))
        };
        if found.iter().all(is_ours) {
            tracing::info!("the transaction of unknown outcome was committed");
            self.acknowledge();
            return Pace::Again;
        }
        let is_strange = |(part, found): &(&Part, Result<Option<Metadata>, MetadataError>)| {
            let is_known =
                |found: &Option<Metadata>| found.as_ref().is_none_or(|it| it.done == part.account.done());
            // Where a commit is owed, what is on record is not what this process goes on from.
            !part.account.is_owed() && !found.as_ref().is_ok_and(is_known)
        };
        if let Some(place) = found.iter().position(is_strange) {
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
        self.round.note_replay();
        self.strange_since = None;
        self.phase = Phase::Begin;
        Pace::Again
    }

    /// Somebody else has committed. That may be the new owner of a lease whose loss the group thread has not heard of yet: then the
    /// lease will be gone in a moment. Only if it stays does the group have two masters.
    fn found_stranger(&mut self, fault: Fault) -> Pace {
        let now = self.round.parts.clock.now();
        let since = *self.strange_since.get_or_insert(now);
        if now.since(since) >= STRANGER_PATIENCE {
            self.round.parts.faults.raise(fault);
            return Pace::Stopped;
        }
        tracing::warn!(reason = %fault, "waiting to hear whether the partition was lost");
        self.round.note_trouble(&fault.to_string());
        self.round.back_off()
    }

    /// Nothing is under way, or held up.
    fn rest(&mut self) -> Pace {
        self.strange_since = None;
        self.round.rest();
        self.phase = Phase::Idle;
        Pace::Again
    }

    /// What is committed needs to be retained no longer.
    fn acknowledge(&mut self) {
        self.round.acknowledge();
        self.rest();
    }

    fn forget_lost_leases(&mut self) {
        let tenure = Arc::clone(&self.round.parts.tenure);
        self.round.forget_lost_leases(&tenure.lock());
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
            self.round.parts.faults.raise(Fault::MetadataTooLarge);
            return Pace::Stopped;
        }
        tracing::warn!(%error, class = ?error.class, phase = ?self.phase, "transaction interrupted");
        self.round.note_trouble(&error.to_string());
        self.unknown |=
            self.phase == Phase::Commit && matches!(error.class, Class::Retriable | Class::Unreachable);
        match error.class {
            // A transaction that outlived its timeout was fenced by the coordinator, not by a rival.
            Class::Fenced if !self.is_overdue() => {
                let transactional_id = self.round.config.transactional_id.clone();
                self.round.parts.faults.raise(Fault::Fenced { transactional_id });
                Pace::Stopped
            }
            // After a commit of unknown outcome an abort could abort nothing: the transaction may be committed already.
            Class::Abortable if self.phase != Phase::Abort && !self.unknown => {
                self.phase = Phase::Abort;
                Pace::Again
            }
            Class::Retriable | Class::Unreachable | Class::QueueFull if !self.is_overdue() => {
                self.round.back_off()
            }
            Class::Refused | Class::TooLarge => {
                self.round.parts.faults.raise(Fault::Broker(error));
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
        self.round.note_trouble(&error.to_string());
        match error.class {
            Class::Refused => {
                self.round.parts.faults.raise(Fault::Broker(error));
                Pace::Stopped
            }
            Class::Fatal | Class::Fenced => {
                self.phase = Phase::Rebuild;
                self.round.back_off()
            }
            _ => self.round.back_off(),
        }
    }

    fn is_overdue(&self) -> bool {
        self.round.parts.clock.now().since(self.round.begun) >= self.round.config.timeout / 10 * 8
    }

    fn producer(&mut self) -> &mut dyn Producer {
        self.producer.as_deref_mut().expect("only a rebuild takes the producer away")
    }
}

#[cfg(test)]
mod tests;
