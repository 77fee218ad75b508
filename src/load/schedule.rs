//! When each request of an open loop is due.

use std::time::Duration;

use super::LoadError;

/// An open loop: the n-th request is due at its time, however long those before it took.
///
/// ```
/// use std::time::Duration;
/// use tidemill::load::Schedule;
///
/// let schedule = Schedule::at_rate(200.0).unwrap();
/// assert_eq!(schedule.due(0), Duration::ZERO);
/// assert_eq!(schedule.due(300), Duration::from_millis(1500));
/// assert_eq!(Schedule::at_once().due(300), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Requests a second; `None` where all are due at once.
    rate: Option<f64>,
}

impl Schedule {
    /// Every request is due at the start.
    pub fn at_once() -> Self {
        Self { rate: None }
    }

    /// `rate` requests a second, evenly spaced.
    ///
    /// # Errors
    ///
    /// If the rate is not above 0.
    pub fn at_rate(rate: f64) -> Result<Self, LoadError> {
        if rate.is_finite() && rate >= 1e-6 {
            Ok(Self { rate: Some(rate) })
        } else {
            Err(LoadError::Range { option: "the rate", range: "a number above 0" })
        }
    }

    /// When the request with this index is due, counted from the start.
    #[expect(clippy::cast_precision_loss, reason = "an index is far below 2^52")]
    pub fn due(&self, index: u64) -> Duration {
        let seconds = self.rate.map_or(0.0, |rate| index as f64 / rate);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
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

    proptest! {
        #[test]
        fn requests_are_due_in_order(rate in 1e-6_f64..1e9, index in 0_u64..1 << 40) {
            let schedule = Schedule::at_rate(rate).unwrap();
            prop_assert!(schedule.due(index) <= schedule.due(index + 1));
        }
    }
}
