//! Trouble: for how long, and how often, the outcomes under way could not be committed, and when that is worth telling.

use std::time::Duration;

use crate::clock::Moment;

/// A rebalance costs a transaction or two, a broker that restarts a few seconds: neither is trouble yet.
const REPLAYS_MAX: u32 = 3;
const HELD_UP_MAX: Duration = Duration::from_secs(5);

/// What has come between outcomes and their commit, since the last one.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Moment>,
    replays: u32,
}

impl Trouble {
    /// Notes that a call has failed, or takes its time. If that has been so for long enough, says for how long and how often.
    pub(super) fn note(&mut self, now: Moment) -> Option<String> {
        let held_up = now.since(*self.since.get_or_insert(now));
        let tell = self.replays > REPLAYS_MAX || held_up > HELD_UP_MAX;
        tell.then(|| format!("held up for {} s, {} attempts in vain", held_up.as_secs(), self.replays))
    }

    /// Notes that the same outcomes will be sent once more.
    pub(super) fn replay(&mut self) {
        self.replays = self.replays.saturating_add(1);
    }

    /// Nothing is held up any more.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn it_is_told_after_five_seconds_or_with_the_fourth_attempt_in_vain() {
        let mut trouble = Trouble::default();
        assert_eq!((trouble.note(at(1_000)), trouble.note(at(6_000))), (None, None));
        assert_eq!(trouble.note(at(6_001)).unwrap(), "held up for 5 s, 0 attempts in vain");
        trouble.end();
        for attempt in 0..4 {
            assert_eq!(trouble.note(at(7_000)), None, "attempt {attempt}");
            trouble.replay();
        }
        assert_eq!(trouble.note(at(7_000)).unwrap(), "held up for 0 s, 4 attempts in vain");
    }
}
