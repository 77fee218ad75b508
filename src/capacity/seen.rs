//! What was seen of one process so far.

use std::time::Duration;

use dataflows::capacity::{Setup, Tick};

/// It, and what it was seen of.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What does not change.
    pub setup: Setup,
    /// The ticks, the oldest first.
    pub ticks: Vec<Tick>,
}

impl Seen {
    /// When its last tick ended, in milliseconds since the Unix epoch.
    pub fn last_millis(&self) -> i64 {
        self.ticks.last().map_or(i64::MIN, |tick| tick.at_millis)
    }

    /// Takes over what came since, and lets go of what is older than `span`.
    pub fn follow(&mut self, later: Self, span: Duration) {
        self.setup = later.setup;
        let last = self.last_millis();
        self.ticks.extend(later.ticks.into_iter().filter(|tick| tick.at_millis > last));
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let oldest = self.last_millis().saturating_sub(span);
        self.ticks.retain(|tick| tick.at_millis > oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_followed_for_a_span_and_no_tick_twice() {
        let seen = |millis: &[i64]| Seen {
            setup: Setup::default(),
            ticks: millis.iter().map(|at_millis| Tick { at_millis: *at_millis, ..Tick::default() }).collect(),
        };
        let mut all = seen(&[1_000, 2_000, 3_000]);
        all.follow(seen(&[3_000, 4_000]), Duration::from_secs(2));
        assert_eq!(all.ticks.iter().map(|tick| tick.at_millis).collect::<Vec<_>>(), [3_000, 4_000]);
    }
}
