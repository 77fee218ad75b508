//! How long after a burst results are as near to their requests as they were before it.
//!
//! After the bursty workloads of Crayfish (Horchidan et al., EDBT 2024), which ask how long a system takes to be stable again.

use std::ops::Range;
use std::time::Duration;

use super::statistics::median;
use crate::load::Bursts;

/// How long before a burst it is looked how far behind results usually are.
const BEFORE: f64 = 1.0;

/// How often it is looked how far behind results are, at least.
pub(super) const LOOK_MAX: Duration = Duration::from_millis(100);

/// What bursts did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// How many there were that were over.
    pub bursts: usize,
    /// After how many results were not as near as before when the next came, or the window ended.
    pub not_recovered: usize,
    /// The median of the times from the end of a burst until they were, in seconds; the time that there was where they never were.
    pub seconds: f64,
}

/// What the bursts in the window did; `None` if none was over before it ended.
///
/// A point of `lags` is a moment, in seconds from the start, and how many requests had been due and had no result by then. Results come in
/// lumps, as they are committed: the most that was behind in the last second before the burst is what is usual.
pub(super) fn recovery(lags: &[(f64, f64)], bursts: &Bursts, window: &Range<Duration>) -> Option<Recovery> {
    let mut times = Vec::new();
    let mut not_recovered = 0;
    for (begin, over) in bursts.before(window.end).filter(|(begin, _)| *begin >= window.start) {
        let next = (begin + bursts.every).min(window.end).as_secs_f64();
        let (begin, over) = (begin.as_secs_f64(), over.as_secs_f64());
        if over >= next {
            continue;
        }
        let within = |from: f64, to: f64| lags.iter().filter(move |(at, _)| (from..to).contains(at));
        let usual = within(begin - BEFORE, begin).map(|(_, lag)| *lag).fold(0.0, f64::max);
        let recovered = within(over, next).find(|(_, lag)| *lag <= usual).map(|(at, _)| *at);
        not_recovered += usize::from(recovered.is_none());
        times.push(recovered.unwrap_or(next) - over);
    }
    Some(Recovery { bursts: times.len(), not_recovered, seconds: median(&times)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURSTS: Bursts = Bursts {
        after: Duration::from_secs(5),
        rate: 1_000.0,
        length: Duration::from_secs(1),
        every: Duration::from_secs(5),
    };

    /// A lag of 100 that is 1,100 at the end of each burst, and then falls by `by` a second.
    fn lags(by: f64) -> Vec<(f64, f64)> {
        let at = (0..250_u32).map(|look| f64::from(look) * 0.1);
        let lag = |at: f64| {
            let since = (at - 5.0) % 5.0;
            if at < 5.0 {
                100.0
            } else if since < 1.0 {
                100.0 + 1_000.0 * since
            } else {
                (1_100.0 - by * (since - 1.0)).max(100.0)
            }
        };
        at.map(|at| (at, lag(at))).collect()
    }

    fn window(from: u64, to: u64) -> Range<Duration> {
        Duration::from_secs(from)..Duration::from_secs(to)
    }

    #[test]
    fn it_is_over_when_results_are_as_near_as_before() {
        let found = recovery(&lags(500.0), &BURSTS, &window(5, 20)).unwrap();
        assert_eq!((found.bursts, found.not_recovered), (3, 0));
        assert!((found.seconds - 2.0).abs() < 0.15, "{found:?}");
    }

    #[test]
    fn a_burst_that_the_next_one_overtakes_took_all_the_time_there_was() {
        let found = recovery(&lags(100.0), &BURSTS, &window(5, 10)).unwrap();
        assert_eq!(found, Recovery { bursts: 1, not_recovered: 1, seconds: 4.0 });
    }

    #[test]
    fn a_burst_that_the_window_ends_in_tells_nothing() {
        assert_eq!(recovery(&lags(500.0), &BURSTS, &window(5, 6)), None);
        assert_eq!(recovery(&lags(500.0), &BURSTS, &window(0, 5)), None);
    }
}
