//! One round of the transaction thread: what it has taken from the outbox, retained until it is committed.

use std::time::Duration;

use crate::broker::{BrokerError, OffsetCommit};
use crate::clock::Moment;
use crate::metadata::Metadata;
use crate::outbox::Part;
use crate::outcome::Kind;
use crate::records::RecordView;
use crate::tenure::TenureGuard;

use super::sight::{Seen, Sight};
use super::trouble::Trouble;
use super::{CommitConfig, CommitParts, FAILING_COMMITS, Pace};

/// What the broker says when its `offset.metadata.max.bytes` is lower than Kafka's default.
pub(crate) const METADATA_TOO_LARGE: &str = "OFFSET_METADATA_TOO_LARGE";

/// How long offsets that somebody else has committed may be explained by a lease that was lost: a member that was silent for too long
/// hears of its loss with its next heartbeat, and until then others may have committed for the partition already.
pub(crate) const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// The most records handed to the producer in one step.
const SENDS_A_STEP: usize = 1_024;

/// The longest wait for acknowledgements in one step.
pub(crate) const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// The first and the longest pause before a call is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// What is being committed, and how that goes.
pub(crate) struct Round {
    pub(crate) config: CommitConfig,
    pub(crate) parts: CommitParts,
    /// What is retained, by lease.
    pub(crate) retained: Vec<Part>,
    /// When it was begun to be sent.
    pub(crate) begun: Moment,
    /// Up to which outcome it has been handed to the producer.
    sent: Place,
    due: Moment,
    pub(crate) attempts: u32,
    trouble: Trouble,
    sight: Sight,
}

/// An outcome of what is retained: whose part it is in, and the how manieth.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    part: usize,
    outcome: usize,
}

impl Round {
    /// Nothing is retained yet.
    pub(crate) fn new(config: CommitConfig, parts: CommitParts) -> Self {
        let sight = Sight::new(parts.clock.now());
        Self {
            config,
            parts,
            retained: Vec::new(),
            begun: Moment::START,
            sent: Place::default(),
            due: Moment::START,
            attempts: 0,
            trouble: Trouble::default(),
            sight,
        }
    }

    /// Whether there is nothing to commit, or nothing any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.retained.is_empty()
    }

    /// Takes what is to be committed next, or else says when to look again.
    pub(crate) fn take(&mut self) -> Option<Pace> {
        let now = self.parts.clock.now();
        let waiting = self.parts.outbox.waiting();
        if waiting.leases == 0 {
            return Some(Pace::Until(Moment::NEVER));
        }
        if now < self.due && !waiting.hurry && waiting.records < self.config.records_full {
            return Some(Pace::Until(self.due));
        }
        self.retained = self.parts.outbox.take(self.config.limit);
        self.due = now.after(self.config.interval);
        self.attempts = 0;
        None
    }

    /// Whether it is time to [look for others](Self::look_for_others).
    pub(crate) fn is_to_look_for_others(&self) -> bool {
        self.parts.clock.now() >= self.sight.due
    }

    /// Offsets that somebody else commits are overwritten by ours and change nothing, or they stand: then the group has two masters.
    /// Only to be asked for while nothing of ours is under way.
    pub(crate) fn look_for_others(&mut self) -> Pace {
        let (parts, now) = (&self.parts, self.parts.clock.now());
        match self.sight.others(&*parts.ownership, &parts.tenure, STRANGER_PATIENCE, now) {
            None => Pace::Again,
            Some(fault) => {
                parts.faults.raise(fault);
                Pace::Stopped
            }
        }
    }

    /// From here on all of it is sent, be it for the first time or once more; and it is asked which topic its offsets would be of.
    pub(crate) fn begin(&mut self) {
        self.sight.look(&*self.parts.ownership, self.parts.tenure.topic());
        self.begun = self.parts.clock.now();
        self.sent = Place::default();
    }

    /// Hands outcomes to the producer, as many as one step may; whether those were the last. After an error the one that was refused
    /// is the next.
    pub(crate) fn hand_over(
        &mut self,
        mut send: impl FnMut(&str, Option<i32>, RecordView<'_>) -> Result<(), BrokerError>,
    ) -> Result<bool, BrokerError> {
        for _ in 0..SENDS_A_STEP {
            let Place { mut part, mut outcome } = self.sent;
            while part < self.retained.len() && outcome == self.retained[part].outcomes.len() {
                (part, outcome) = (part + 1, 0);
            }
            self.sent = Place { part, outcome };
            let Some(retained) = self.retained.get(part).map(|part| &part.outcomes[outcome]) else {
                return Ok(true);
            };
            match retained.kind() {
                Kind::Result => send(&self.config.results, None, retained.record()),
                Kind::DeadLetter(partition) => {
                    send(&self.config.dead_letters, Some(partition), retained.record())
                }
            }?;
            self.sent.outcome += 1;
        }
        Ok(false)
    }

    /// What has been seen, since the round began, of the topic whose offsets are to be committed.
    pub(crate) fn look(&mut self) -> Seen {
        let known = self.parts.tenure.topic();
        let seen = self.sight.seen(&*self.parts.ownership, known, DRAIN_WAIT);
        match seen {
            Seen::Same | Seen::Error(_) => {}
            Seen::Another => {
                self.parts.tenure.doubt();
                self.note_trouble("the topic of requests was deleted, or made anew");
            }
            Seen::Nothing => self.note_trouble("the broker does not say which topic there is"),
        }
        seen
    }

    /// The offsets to commit.
    pub(crate) fn offsets(&self) -> Vec<OffsetCommit> {
        let topic = self.parts.tenure.topic();
        let offset = |part: &Part| OffsetCommit {
            partition: part.lease.partition,
            next: part.done.base(),
            metadata: Metadata { topic, done: part.done.clone() }.encode(),
        };
        self.retained.iter().map(offset).collect()
    }

    /// What is committed needs to be retained no longer.
    pub(crate) fn acknowledge(&mut self) {
        let took = self.parts.clock.now().since(self.begun);
        let records = self.retained.iter().map(|part| part.outcomes.len()).sum();
        self.parts.observer.committed(records, took);
        for part in std::mem::take(&mut self.retained) {
            let bytes = part.bytes();
            part.account.commit(part.done);
            self.parts.budget.release(&part.account, part.outcomes.len(), bytes);
        }
        if self.parts.budget.was_starved() {
            (self.parts.wake_sources)();
        }
    }

    /// Drops what was to be done for leases that are held no longer: their new owner does it again.
    pub(crate) fn forget_lost_leases(&mut self, held: &TenureGuard<'_>) {
        let (kept, lost) =
            std::mem::take(&mut self.retained).into_iter().partition(|part| held.holds(part.lease));
        self.retained = kept;
        for part in lost {
            self.parts.budget.release(&part.account, part.outcomes.len(), part.bytes());
        }
    }

    /// Nothing is under way, or held up.
    pub(crate) fn rest(&mut self) {
        self.trouble.end();
        self.parts.health.clear(FAILING_COMMITS);
    }

    /// Notes that a call has failed, or takes its time; that is told once it has been so for a while.
    pub(crate) fn note_trouble(&mut self, reason: &str) {
        if let Some(trouble) = self.trouble.note(self.parts.clock.now()) {
            self.parts.health.set_unready(FAILING_COMMITS, format!("{trouble}: {reason}"));
        }
    }

    /// Notes that the same outcomes will be sent once more.
    pub(crate) fn note_replay(&mut self) {
        self.parts.observer.aborted();
        self.trouble.replay();
    }

    /// A pause, the longer the more of them there have been for what is retained.
    pub(crate) fn back_off(&mut self) -> Pace {
        let pause = BACK_OFF.0.saturating_mul(1 << self.attempts.min(10)).min(BACK_OFF.1);
        self.attempts = self.attempts.saturating_add(1);
        Pace::BackOff(self.parts.clock.now().after(pause))
    }
}
