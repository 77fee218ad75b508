//! What comes of a lag: when it is drained, when the objective is missed, when records are deleted that nobody has read.
//!
//! A partition is a queue whose input and output are rates. A trend of the input is followed for no longer than it was seen for: beyond that a
//! straight line is a guess.

use super::Objective;
use super::report::Estimate;

/// A partition, looked at ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Records a second that come.
    pub arriving: f64,
    /// By how much that grows in a second, and for how long.
    pub growing: f64,
    /// For so many seconds.
    pub growing_for: f64,
    /// Records a second that it could bear.
    pub rate_max: f64,
    /// Records that are not committed.
    pub lag: f64,
    /// The age of the oldest, in seconds.
    pub lag_seconds: f64,
}

/// Steps of a forecast.
const STEPS: u32 = 1_000;

/// A queue is drained where its rate is above what comes by this share at least; with less nobody can say when.
const SPARE_MIN: f64 = 0.005;

impl Ahead {
    /// Until nothing is left, give or take what the rate may be off; `None` if that never comes.
    pub fn drained_in(&self, error: f64) -> Option<Estimate> {
        if self.lag <= 0.0 || self.rate_max.is_infinite() {
            return (self.lag <= 0.0).then(Estimate::default);
        }
        let time = |rate: f64| {
            let spare = rate - self.arriving;
            (spare > SPARE_MIN * rate).then(|| self.lag / spare)
        };
        let value = time(self.rate_max)?;
        let low = time(self.rate_max * (1.0 + error)).unwrap_or(value);
        let high = time(self.rate_max * (1.0 - error)).unwrap_or(f64::MAX);
        Some(Estimate { value, low, high })
    }

    /// Until the oldest record is older than it may be; `None` if that does not come within the horizon.
    pub fn missed_in(&self, objective: Objective) -> Option<f64> {
        if self.lag_seconds > objective.lag_seconds_max {
            return Some(0.0);
        }
        if self.rate_max.is_infinite() {
            return None;
        }
        let step = objective.horizon_seconds / f64::from(STEPS);
        let mut lag = self.lag;
        for place in 0..STEPS {
            let at = step * f64::from(place);
            let arriving = (self.arriving + self.growing * at.min(self.growing_for)).max(0.0);
            lag = (lag + step * (arriving - self.rate_max)).max(0.0);
            // A record that comes now waits until those before it are done.
            if lag / self.rate_max.max(1e-9) > objective.lag_seconds_max {
                return Some(at + step);
            }
        }
        None
    }

    /// Until the oldest record is deleted before it was read, if it falls behind; `None` if it does not, or nothing is deleted.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a retention")]
    pub fn lost_in(&self, retention_millis: Option<i64>) -> Option<f64> {
        let kept = retention_millis.filter(|millis| *millis > 0)? as f64 / 1e3;
        // In each second the oldest ages by what is not done of what came in a second.
        let ages = 1.0 - self.rate_max / self.arriving.max(1e-9);
        (ages > SPARE_MIN && self.lag > 0.0).then(|| ((kept - self.lag_seconds) / ages).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead() -> Ahead {
        Ahead {
            arriving: 100.0,
            growing: 0.0,
            growing_for: 60.0,
            rate_max: 150.0,
            lag: 1_000.0,
            lag_seconds: 10.0,
        }
    }

    fn objective() -> Objective {
        Objective { lag_seconds_max: 30.0, horizon_seconds: 3_600.0, utilisation: 0.7 }
    }

    #[test]
    fn a_lag_is_drained_by_what_is_to_spare() {
        let drained = ahead().drained_in(0.1).unwrap();
        assert!((drained.value - 20.0).abs() < 1e-9, "{drained:?}");
        assert!((drained.low - 1_000.0 / 65.0).abs() < 1e-9 && (drained.high - 1_000.0 / 35.0).abs() < 1e-9);
        assert_eq!(Ahead { rate_max: 90.0, ..ahead() }.drained_in(0.1), None);
        assert_eq!(Ahead { lag: 0.0, ..ahead() }.drained_in(0.1), Some(Estimate::default()));
        // Whether it is drained at all is within the error.
        assert!(ahead().drained_in(0.5).unwrap().high > 1e9);
    }

    #[test]
    fn an_objective_is_missed_when_what_waits_takes_longer() {
        assert_eq!(ahead().missed_in(objective()), None);
        // 10 a second more than are done: 30 seconds of 90 a second are 2,700, of which 1,000 are there.
        let missed = Ahead { rate_max: 90.0, ..ahead() }.missed_in(objective()).unwrap();
        assert!((missed / 170.0 - 1.0).abs() < 0.05, "{missed}");
        assert_eq!(Ahead { lag_seconds: 31.0, ..ahead() }.missed_in(objective()), Some(0.0));
    }

    #[test]
    fn a_trend_is_followed_for_as_long_as_it_was_seen_and_no_longer() {
        let rising = Ahead { growing: 2.0, lag: 0.0, lag_seconds: 0.0, ..ahead() };
        // 120 more after a minute: 70 above what can be borne.
        assert!(rising.missed_in(objective()).is_some());
        assert_eq!(Ahead { growing_for: 20.0, ..rising }.missed_in(objective()), None);
    }

    #[test]
    fn records_are_lost_when_the_oldest_is_as_old_as_the_topic_keeps_it() {
        let behind = Ahead { rate_max: 50.0, ..ahead() };
        assert!((behind.lost_in(Some(3_600_000)).unwrap() - 7_180.0).abs() < 1e-6);
        assert_eq!((behind.lost_in(None), ahead().lost_in(Some(3_600_000))), (None, None));
        assert_eq!(Ahead { lag_seconds: 4_000.0, ..behind }.lost_in(Some(3_600_000)), Some(0.0));
    }
}
