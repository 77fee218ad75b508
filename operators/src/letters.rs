//! How the engine writes a dead letter: the verdict on one of the records it polled, as an outcome.

use std::sync::Arc;

use crate::broker::Polled;
use crate::clock::Clock;
use crate::dead_letter::{Letterhead, Origin, Verdict};
use crate::observe::Observer;
use crate::outcome::{Kind, Outcomes};
use crate::records::Records;

/// Writes dead letters, dates them, and tells of each.
#[derive(Clone)]
pub struct Letters {
    /// What every letter of the engine says alike.
    pub head: Arc<Letterhead>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
}

impl Letters {
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
    }
}
