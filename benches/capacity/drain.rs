//! A backlog in one partition, and how fast it is gone.

use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, SystemClock};
use tidemill::experiment::Failure;

use crate::scene::Stage;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);

/// What is left of a backlog when its rate has been measured: the last of it goes in batches that are not full any more.
const LEFT: f64 = 0.1;

/// How much longer than predicted it may take before it is given up.
const PATIENCE: f64 = 4.0;

/// What came of a backlog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    /// Records that were there at its beginning.
    pub(crate) backlog: u64,
    /// Records a second that were committed of the partition while it had a backlog.
    pub(crate) rate: f64,
    /// Seconds until it had none.
    pub(crate) seconds: f64,
}

/// Piles `count` requests up in a partition, and watches them go.
pub(crate) fn drain(stage: &Stage, partition: i32, count: u64, predicted: f64) -> Result<Drained, Failure> {
    let place = usize::try_from(partition).unwrap_or(0);
    let clock = SystemClock::new();
    let records = stage.target.make(partition, count)?;
    let usual = stage.lags()?[place];
    stage.target.pile_up(partition, &records)?;
    // What was done while it was written is no part of what is predicted.
    let (began, first) = (clock.now(), stage.committed()?[place]);
    let whole = stage.target.sent_to(partition).saturating_sub(first);
    let mut measured = None;
    loop {
        let lag = stage.lags()?[place];
        let seconds = clock.now().since(began).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        if measured.is_none() && lag as f64 <= LEFT * whole as f64 {
            measured = Some((stage.committed()?[place] - first) as f64 / seconds);
        }
        if lag <= usual.max(60) {
            return Ok(Drained { backlog: whole, rate: measured.unwrap_or(0.0), seconds });
        }
        if seconds > PATIENCE * predicted + 10.0 {
            return Err(Failure::Unexpected(format!(
                "partition {partition} is not drained after {seconds:.0} s"
            )));
        }
        thread::sleep(LOOK);
    }
}
