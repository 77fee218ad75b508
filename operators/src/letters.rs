//! How the engine writes a dead letter: the verdict on one of the records it polled, as an outcome.

use std::sync::Arc;

use crate::breaker::Breaker;
use crate::broker::Polled;
use crate::catalog::Served;
use crate::clock::Clock;
use crate::dead_letter::{Letterhead, Origin, Reason, Stage, Verdict};
use crate::observe::Observer;
use crate::outcome::{Kind, Outcomes};
use crate::records::Records;
use crate::window::Run;

/// Writes dead letters, dates them, and tells of each.
#[derive(Clone)]
pub struct Letters {
    /// What every letter of the engine says alike.
    pub head: Arc<Letterhead>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// Where those are counted for which no sender is to blame.
    pub breaker: Arc<Breaker>,
}

/// How rows of a model end that get no result.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// The model.
    pub served: &'a Served,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: &'a str,
    /// Which attempt at them it was: 1, 2, …
    pub attempt: u32,
}

impl Letters {
    /// Makes the rows of a run dead letters, at the stage of inference.
    pub fn of_run<C>(&self, run: &Run<C>, ending: &Ending<'_>) -> Outcomes {
        let block = &run.block;
        let mut letters = Outcomes::new(block.home);
        for row in run.rows.clone() {
            let verdict = Verdict {
                reason: ending.reason,
                stage: Stage::Infer,
                message: ending.message,
                model: Some(&ending.served.id),
                model_version: Some(&ending.served.version),
                tenant: Some(block.tenant_id(row)),
                attempt: ending.attempt,
                failed_at_micros: 0,
            };
            self.write(&mut letters, &block.polled, block.rows[row].record as usize, &verdict);
        }
        letters
    }

    /// Makes the record at `place` of `polled` a dead letter. `verdict` need not be dated.
    pub fn write(&self, into: &mut Outcomes, polled: &Polled, place: usize, verdict: &Verdict<'_>) {
        let (lease, offset) = polled.origins[place];
        let origin = Origin { partition: lease.partition, offset, time: polled.times[place] };
        let verdict = Verdict { failed_at_micros: self.clock.wall_micros(), ..verdict.clone() };
        let mut letter = Records::default();
        let partition = self.head.write(&mut letter, polled.records.get(place), &origin, &verdict);
        let record = letter.get(0);
        into.push(lease, offset, Kind::DeadLetter(partition), |records| {
            records.push(record.key(), record.value());
            record.headers().for_each(|(name, value)| records.push_header(name, value));
        });
        self.observer.dead_letter(verdict.reason, verdict.stage, verdict.model);
        self.breaker.count(verdict.reason, self.clock.now());
    }
}
