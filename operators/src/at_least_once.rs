//! The transaction thread's state machine at least once: results and dead letters, and once all of them are acknowledged, offsets.
//!
//! ```text
//!   idle ─▶ send ─▶ drain ─▶ look ─▶ commit ─▶ committed: retained outcomes released
//!            ▲        │               ▲  │
//!            │        │               └──┘ not committed: the same call again, for the leases that are still held
//!            └────────┘ a record was not delivered: a new producer, and all of the round again
//! ```
//!
//! There is no transaction: outcomes are seen as soon as they are sent, and a crash between their acknowledgement and the commit of
//! their offsets has them sent again, by whoever reads the partition then. That is all that is given up. No offset is committed before
//! every outcome up to it is acknowledged, and none of a lease that is held no longer.

use std::sync::Arc;

use crate::broker::{BrokerError, Class, PlainProducer};
use crate::commit::round::{DRAIN_WAIT, METADATA_TOO_LARGE, Round};
use crate::commit::sight::Seen;
use crate::commit::{CommitConfig, CommitParts, Committer, Pace};
use crate::fault::Fault;

/// The transaction thread's state while it commits outside of transactions.
pub struct AtLeastOnce {
    round: Round,
    producer: Option<Box<dyn PlainProducer>>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Others,
    Send,
    Drain,
    Look,
    Commit,
    Rebuild,
}

impl Committer for AtLeastOnce {
    fn step(&mut self) -> Pace {
        if self.round.parts.faults.get().is_some() {
            return Pace::Stopped;
        }
        match self.phase {
            Phase::Idle => self.idle(),
            Phase::Others => self.others(),
            Phase::Send => self.send(),
            Phase::Drain => self.wait_for(Phase::Look),
            Phase::Look => self.look(),
            Phase::Commit => self.commit(),
            Phase::Rebuild => self.rebuild(),
        }
    }
}

impl AtLeastOnce {
    /// Starts with a producer.
    pub fn new(config: CommitConfig, parts: CommitParts, producer: Box<dyn PlainProducer>) -> Self {
        Self { round: Round::new(config, parts), producer: Some(producer), phase: Phase::Idle }
    }

    fn idle(&mut self) -> Pace {
        if self.round.is_to_look_for_others() {
            self.phase = Phase::Others;
            return Pace::Again;
        }
        self.round.take().unwrap_or_else(|| self.begin())
    }

    fn others(&mut self) -> Pace {
        self.phase = Phase::Idle;
        self.round.look_for_others()
    }

    /// Whatever of the round was sent before is sent again.
    fn begin(&mut self) -> Pace {
        let tenure = Arc::clone(&self.round.parts.tenure);
        self.round.forget_lost_leases(&tenure.lock());
        if self.round.is_empty() {
            return self.rest();
        }
        self.round.begin();
        self.phase = Phase::Send;
        Pace::Again
    }

    fn send(&mut self) -> Pace {
        let producer = self.producer.as_deref_mut().expect("only a rebuild takes the producer away");
        let sent = self.round.hand_over(|topic, partition, record| producer.send(topic, partition, record));
        match sent {
            Ok(all) => {
                self.phase = if all { Phase::Drain } else { Phase::Send };
                Pace::Again
            }
            // Acknowledgements make room.
            Err(error) if error.class == Class::QueueFull => self.wait_for(Phase::Send),
            Err(error) => self.undelivered(error),
        }
    }

    /// Goes on once every record sent is acknowledged. The producer repeats by itself what is not, and nothing is open meanwhile that
    /// the broker would end: so this has no bound, but a stop need not wait for it.
    fn wait_for(&mut self, next: Phase) -> Pace {
        let producer = self.producer.as_deref_mut().expect("only a rebuild takes the producer away");
        match producer.drain(DRAIN_WAIT) {
            Ok(true) => {
                self.phase = next;
                Pace::Again
            }
            Ok(false) => {
                self.round.note_trouble("the broker has not acknowledged all records");
                Pace::BackOff(self.round.parts.clock.now())
            }
            Err(error) => self.undelivered(error),
        }
    }

    /// The offsets must be of the topic that was read, and not of another one that has its name by now. Nothing is sent once more for it:
    /// that would only double what is seen already.
    fn look(&mut self) -> Pace {
        match self.round.look() {
            Seen::Same => {
                self.phase = Phase::Commit;
                Pace::Again
            }
            Seen::Another => self.round.back_off(),
            Seen::Nothing => Pace::BackOff(self.round.parts.clock.now()),
            Seen::Error(error) => self.uncommitted(error),
        }
    }

    fn commit(&mut self) -> Pace {
        let tenure = Arc::clone(&self.round.parts.tenure);
        let held = tenure.lock();
        // Outcomes of a lease that is no longer ours have been seen. Its new owner does its records again.
        self.round.forget_lost_leases(&held);
        if self.round.is_empty() {
            return self.rest();
        }
        let committed = self.round.parts.ownership.commit(&self.round.offsets());
        drop(held);
        match committed {
            Ok(()) => {
                self.round.acknowledge();
                self.rest()
            }
            Err(error) => self.uncommitted(error),
        }
    }

    fn rebuild(&mut self) -> Pace {
        self.producer = None;
        match self.round.parts.broker.plain_producer() {
            Ok(producer) => {
                self.producer = Some(producer);
                self.round.parts.observer.rebuilt();
                self.begin()
            }
            Err(error) => self.uncommitted(error),
        }
    }

    /// Nothing is under way, or held up.
    fn rest(&mut self) -> Pace {
        self.round.rest();
        self.phase = Phase::Idle;
        Pace::Again
    }

    /// Nobody knows which of the round's records are in the log, and the producer is of no more use.
    fn undelivered(&mut self, error: BrokerError) -> Pace {
        if matches!(error.class, Class::Refused | Class::TooLarge) {
            return self.stop(Fault::Broker(error));
        }
        tracing::warn!(%error, class = ?error.class, "outcomes were not delivered; they are sent again");
        self.round.note_trouble(&error.to_string());
        self.round.note_replay();
        self.phase = Phase::Rebuild;
        self.round.back_off()
    }

    /// The same again, later: a rebalance that is over then, a broker that is back. Whether the member or its leases are gone for good
    /// is the group thread's to find out.
    fn uncommitted(&mut self, error: BrokerError) -> Pace {
        if error.code == METADATA_TOO_LARGE {
            // The same metadata would be refused again, and without it what it names would be done twice.
            return self.stop(Fault::MetadataTooLarge);
        }
        if error.class == Class::Refused {
            return self.stop(Fault::Broker(error));
        }
        tracing::warn!(%error, phase = ?self.phase, "waiting for the broker");
        self.round.note_trouble(&error.to_string());
        self.round.back_off()
    }

    fn stop(&mut self, fault: Fault) -> Pace {
        self.round.parts.faults.raise(fault);
        Pace::Stopped
    }
}

#[cfg(test)]
mod tests;
