//! Time, as an argument: nothing else in the workspace reads a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A point of the engine's own time: nanoseconds since its clock was made. It never goes back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Moment(u64);

impl Moment {
    /// The moment at which the clock was made.
    pub const START: Self = Self(0);

    /// A moment so far away that nothing is ever due at it.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment that lies `nanos` nanoseconds after the clock was made.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock was made.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `wait` after this one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The two clocks that an engine needs: one to measure by, one to date by.
pub trait Clock: Send + Sync {
    /// The engine's own time, for every interval and deadline.
    fn now(&self) -> Moment;

    /// The wall clock, in microseconds since the Unix epoch: only to date results and dead letters.
    fn wall_micros(&self) -> i64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at [`Moment::START`] now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn wall_micros(&self) -> i64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that moves only when told: for tests and for simulated runs.
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// The wall time at [`Moment::START`]: 2026-01-01T00:00:00Z, in microseconds since the Unix epoch.
    pub const WALL_START_MICROS: i64 = 1_767_225_600_000_000;

    /// A clock that stands at [`Moment::START`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward by `step`.
    pub fn advance(&self, step: Duration) {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(step, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment(self.nanos.load(Ordering::SeqCst))
    }

    fn wall_micros(&self) -> i64 {
        Self::WALL_START_MICROS + i64::try_from(self.now().nanos() / 1_000).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        assert_eq!(clock.now(), Moment::START);
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.now().since(Moment::START), Duration::from_millis(5));
        assert_eq!(clock.wall_micros(), ManualClock::WALL_START_MICROS + 5_000);
    }

    #[test]
    fn never_is_after_everything() {
        assert!(Moment::NEVER > Moment::START.after(Duration::from_secs(1 << 30)));
        assert_eq!(Moment::START.since(Moment::NEVER), Duration::ZERO);
    }
}
