//! When each request of an open loop is due.

use std::time::Duration;

use super::LoadError;

/// An open loop: the n-th request is due at its time, however long those before it took.
///
/// ```
/// use std::time::Duration;
/// use tidemill::load::{Bursts, Schedule};
///
/// let schedule = Schedule::at_rate(200.0).unwrap();
/// assert_eq!(schedule.due(0), Duration::ZERO);
/// assert_eq!(schedule.due(300), Duration::from_millis(1500));
/// assert_eq!(Schedule::at_once().due(300), Duration::ZERO);
///
/// let (after, length, every) = (Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(4));
/// let bursts = Bursts { after, rate: 1_000.0, length, every };
/// let schedule = schedule.with_bursts(bursts).unwrap();
/// assert_eq!(schedule.due(200 + 500), Duration::from_millis(1500));
/// assert_eq!(schedule.due(200 + 1_000 + 200), Duration::from_secs(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Requests a second; `None` where all are due at once.
    rate: Option<f64>,
    bursts: Option<Bursts>,
}

/// Times in which requests come at a rate of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// When the first begins.
    pub after: Duration,
    /// Requests a second in a burst.
    pub rate: f64,
    /// How long each lasts.
    pub length: Duration,
    /// The time from the beginning of one to that of the next.
    pub every: Duration,
}

impl Bursts {
    /// The beginning and the end of each that begins before `end`.
    pub fn before(&self, end: Duration) -> impl Iterator<Item = (Duration, Duration)> {
        let bursts = *self;
        let begins =
            (0_u32..).map(move |number| bursts.after.saturating_add(bursts.every.saturating_mul(number)));
        begins.take_while(move |begin| *begin < end).map(move |begin| (begin, begin + bursts.length))
    }

    /// Requests of a burst, and of a burst and what follows until the next.
    fn requests(&self, rate: f64) -> (f64, f64) {
        let in_burst = self.rate * self.length.as_secs_f64();
        (in_burst, in_burst + rate * self.every.saturating_sub(self.length).as_secs_f64())
    }
}

impl Schedule {
    /// Every request is due at the start.
    pub fn at_once() -> Self {
        Self { rate: None, bursts: None }
    }

    /// `rate` requests a second, evenly spaced.
    ///
    /// # Errors
    ///
    /// If the rate is not above 0.
    pub fn at_rate(rate: f64) -> Result<Self, LoadError> {
        if is_rate(rate) {
            Ok(Self { rate: Some(rate), bursts: None })
        } else {
            Err(LoadError::Range { option: "the rate", range: "a number above 0" })
        }
    }

    /// The same, and bursts, in which requests are evenly spaced too. Where all are due at once there are none.
    ///
    /// # Errors
    ///
    /// If their rate is not above 0, or one lasts for no time, or until the next.
    pub fn with_bursts(self, bursts: Bursts) -> Result<Self, LoadError> {
        if !is_rate(bursts.rate) {
            return Err(LoadError::Range { option: "the rate of bursts", range: "a number above 0" });
        }
        if bursts.length.is_zero() || bursts.length >= bursts.every {
            let range = "above 0 and less than the time from one to the next";
            return Err(LoadError::Range { option: "the length of bursts", range });
        }
        Ok(Self { bursts: Some(bursts), ..self })
    }

    /// When the request with this index is due, counted from the start.
    #[expect(clippy::cast_precision_loss, reason = "an index is far below 2^52")]
    pub fn due(&self, index: u64) -> Duration {
        let seconds = self.rate.map_or(0.0, |rate| {
            let index = index as f64;
            let before = |bursts: &Bursts| rate * bursts.after.as_secs_f64();
            let Some(bursts) = self.bursts.filter(|bursts| before(bursts) <= index) else {
                return index / rate;
            };
            let later = index - before(&bursts);
            let (in_burst, in_period) = bursts.requests(rate);
            let rest = later % in_period;
            let begin = bursts.after.as_secs_f64()
                + ((later - rest) / in_period).round() * bursts.every.as_secs_f64();
            let since = if rest < in_burst {
                rest / bursts.rate
            } else {
                bursts.length.as_secs_f64() + (rest - in_burst) / rate
            };
            begin + since
        });
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// How many requests are due before this moment, counted from the start; [`f64::INFINITY`] where all are due at once.
    pub fn due_before(&self, moment: Duration) -> f64 {
        let Some(rate) = self.rate else { return f64::INFINITY };
        let even = |time: Duration| rate * time.as_secs_f64();
        let Some(bursts) = self.bursts.filter(|bursts| bursts.after < moment) else { return even(moment) };
        let (in_burst, in_period) = bursts.requests(rate);
        let later = moment.saturating_sub(bursts.after).as_secs_f64();
        let rest = later % bursts.every.as_secs_f64();
        let periods = ((later - rest) / bursts.every.as_secs_f64()).round();
        let quiet = rest - bursts.length.as_secs_f64();
        let of_rest = if quiet < 0.0 { bursts.rate * rest } else { in_burst + rate * quiet };
        even(bursts.after) + periods * in_period + of_rest
    }
}

fn is_rate(rate: f64) -> bool {
    rate.is_finite() && rate >= 1e-6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_above_zero() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::at_rate(rate).is_err(), "{rate}");
        }
    }

    #[test]
    fn bursts_leave_time_between_them() {
        let with = |rate, length, every| {
            let [length, every] = [length, every].map(Duration::from_secs);
            Schedule::at_rate(1.0).unwrap().with_bursts(Bursts { after: Duration::ZERO, rate, length, every })
        };
        assert!(with(10.0, 1, 2).is_ok());
        for (rate, length, every) in [(0.0, 1, 2), (10.0, 0, 2), (10.0, 2, 2), (10.0, 3, 2)] {
            assert!(with(rate, length, every).is_err(), "{rate} {length} {every}");
        }
    }

    #[test]
    fn each_burst_has_a_beginning_and_an_end() {
        let seconds = Duration::from_secs;
        let bursts = Bursts { after: seconds(3), rate: 1.0, length: seconds(1), every: seconds(4) };
        let found: Vec<_> = bursts.before(seconds(11)).collect();
        assert_eq!(found, [(seconds(3), seconds(4)), (seconds(7), seconds(8))]);
    }

    proptest! {
        #[test]
        fn requests_are_due_in_order(rate in 1e-6_f64..1e9, index in 0_u64..1 << 40) {
            let schedule = Schedule::at_rate(rate).unwrap();
            prop_assert!(schedule.due(index) <= schedule.due(index + 1));
        }

        #[test]
        fn what_is_due_before_a_request_is_due_are_those_before_it(
            rate in 1.0_f64..1e4, burst in 1.0_f64..1e5, after in 0_u64..20_000, length in 1_u64..5_000, rest in 1_u64..30_000,
            index in 0_u64..1_000_000,
        ) {
            let millis = Duration::from_millis;
            let bursts = Bursts { after: millis(after), rate: burst, length: millis(length), every: millis(length + rest) };
            let schedule = Schedule::at_rate(rate).unwrap().with_bursts(bursts).unwrap();
            let due = schedule.due(index);
            prop_assert!(due <= schedule.due(index + 1) + Duration::from_nanos(10));
            // A nanosecond, to which moments are rounded, of the higher rate.
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let off = (schedule.due_before(due) - index as f64).abs();
            prop_assert!(off < 1e-3, "{index} is due at {due:?}, before which {} are", schedule.due_before(due));
        }
    }
}
