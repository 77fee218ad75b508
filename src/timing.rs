//! What batches of a model take when nothing else is asked of it: no queue, no encoding, no broker.

use std::time::Duration;

use hdrhistogram::Histogram;
use operators::clock::Clock;
use operators::model::{Model, RunError};

/// The longest run that is told apart: an hour, in nanoseconds.
const NANOS_MAX: u64 = 3_600_000_000_000;

/// How batches of one size ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Rows of each.
    pub rows: usize,
    /// How many ran, the first left out: it may prepare something for its size.
    pub runs: u64,
    /// What the first took.
    pub first: Duration,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// Rows of all runs over the time of all runs.
    pub rows_per_second: f64,
    /// When the runs that count began and ended, in milliseconds since the Unix epoch: what else was measured in that time belongs to them.
    pub began_at_millis: i64,
    /// See `began_at_millis`.
    pub ended_at_millis: i64,
}

/// Runs batches of zeros, one after the other, until `length` has passed; one beside the first at least.
///
/// # Errors
///
/// If the model can't run so many rows.
pub fn time(
    model: &mut dyn Model,
    rows: usize,
    length: Duration,
    clock: &dyn Clock,
) -> Result<Timing, RunError> {
    let inputs = model.signature().zeros(rows);
    let mut outputs = Vec::new();
    let before = clock.now();
    model.run(rows, &inputs, &mut outputs)?;
    let first = clock.now().since(before);
    let mut times = Histogram::<u64>::new_with_bounds(1, NANOS_MAX, 3).expect("an hour fits three digits");
    let (began_at_millis, started) = (clock.wall_micros() / 1_000, clock.now());
    let mut last = started;
    while last.since(started) < length || times.is_empty() {
        model.run(rows, &inputs, &mut outputs)?;
        let now = clock.now();
        times.saturating_record(u64::try_from(now.since(last).as_nanos()).unwrap_or(NANOS_MAX));
        last = now;
    }
    let quantile = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    #[expect(clippy::cast_precision_loss, reason = "runs and rows are few")]
    let all_rows = times.len() as f64 * rows as f64;
    Ok(Timing {
        rows,
        runs: times.len(),
        first,
        p50: quantile(0.5),
        p99: quantile(0.99),
        rows_per_second: all_rows / last.since(started).as_secs_f64(),
        began_at_millis,
        ended_at_millis: clock.wall_micros() / 1_000,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use operators::clock::ManualClock;
    use operators::model::Signature;
    use operators::tensor::Column;

    use super::*;

    /// Takes ten milliseconds the first time, then one and one more for each row; more than eight rows it can't run.
    struct Slow {
        signature: Signature,
        clock: Arc<ManualClock>,
        runs: u64,
    }

    impl Model for Slow {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&mut self, rows: usize, inputs: &[Column], _: &mut Vec<Column>) -> Result<(), RunError> {
            assert_eq!(inputs[0].values.len(), rows * 6);
            let millis = if self.runs == 0 { 10 } else { 1 + rows as u64 };
            self.clock.advance(Duration::from_millis(millis));
            self.runs += 1;
            if rows > 8 { Err(RunError("too many".to_owned())) } else { Ok(()) }
        }
    }

    fn timed(rows: usize, length: u64) -> Result<Timing, RunError> {
        let clock = Arc::new(ManualClock::new());
        let signature = Signature::of_floats(&[2, 3], 1);
        time(
            &mut Slow { signature, clock: Arc::clone(&clock), runs: 0 },
            rows,
            Duration::from_millis(length),
            &*clock,
        )
    }

    #[test]
    fn the_first_run_is_told_by_itself_and_the_others_are_counted_until_time_is_up() {
        let timing = timed(4, 50).unwrap();
        assert_eq!((timing.rows, timing.runs, timing.first), (4, 10, Duration::from_millis(10)));
        assert_eq!((timing.p50.as_micros() / 100, timing.p99.as_micros() / 100), (50, 50));
        assert!((timing.rows_per_second - 800.0).abs() < 1e-6, "{timing:?}");
        assert_eq!(timing.ended_at_millis - timing.began_at_millis, 50);
        assert_eq!(timed(4, 0).unwrap().runs, 1, "one run counts whatever it takes");
    }

    #[test]
    fn a_size_that_the_model_can_not_run_is_an_error() {
        assert_eq!(timed(9, 50), Err(RunError("too many".to_owned())));
    }
}
