//! The highest rate that a system bears: its results fall behind by no more than a thousandth of it, and come in time.
//!
//! Found by bisection, each step with a system and topics of its own, after Karimov et al., "Benchmarking Distributed Stream Data Processing Systems" (2018):
//! the load comes at its rate whatever the system does, and a rate that it only seems to bear, because a queue swallows it, shows in the slope of
//! the lag.

use std::time::Duration;

use super::count::count;
use super::figures::{Figures, as_float, insert};
use super::open_loop::{self, Loop, Looped, millis};
use super::plan::Parameters;
use super::{Failure, Setup, World};
use crate::load::LoadOptions;

/// By how much of the rate a second results may fall behind.
const SLOPE_MAX: f64 = 0.001;

/// The search ends when the highest rate that is borne and the lowest that is not are so close, as a part of the latter.
const CLOSE: f64 = 0.05;

/// And after so many steps.
const STEPS_MAX: u32 = 12;

/// Finds it. Returns its figures, and whether the topics of all steps are cleared away.
///
/// # Errors
///
/// If the system or the broker fails. That a rate is not borne is no failure, also where it shows in results that stay away.
pub(super) fn search(
    setup: &Setup,
    load: &LoadOptions,
    parameters: &Parameters,
) -> Result<(Figures, Result<(), Failure>), Failure> {
    let mut best: Option<(f64, Looped, World)> = None;
    let mut cleared = Ok(());
    let mut clear = |world: World| {
        let ended = world.end();
        if cleared.is_ok() {
            cleared = ended;
        }
    };
    let mut steps = 0.0;
    let found = bisect(parameters.rate, |rate| {
        steps += 1.0;
        let world = World::new(setup, "sustainable", load.clone())?;
        let asked = Loop {
            rate,
            bursts: None,
            warm_up: parameters.warm_up,
            window: parameters.window,
            grace: Some(parameters.p99_max),
        };
        match open_loop::run(setup, &world, asked) {
            Ok(looped) if is_borne(rate, &looped, parameters.p99_max) => {
                if let Some((_, _, before)) = best.replace((rate, looped, world)) {
                    clear(before);
                }
                Ok(true)
            }
            Ok(_) | Err(Failure::Late { .. }) => {
                clear(world);
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    })?;
    let mut figures = Figures::new();
    insert(&mut figures, "steps", steps);
    insert(&mut figures, "sustainable_per_second", found.0);
    if let Some(not_borne) = found.1 {
        insert(&mut figures, "not_borne_per_second", not_borne);
    }
    if let Some((rate, looped, world)) = best {
        // The system was killed when its time was up, so that what has no outcome by then is not lost: a new start would go on with it.
        let count = count(&world, looped.requests)?;
        insert(&mut figures, "unfinished", as_float(count.lost));
        insert(&mut figures, "duplicated", as_float(count.duplicated));
        insert(&mut figures, "dead_letters", as_float(count.dead_letters));
        insert(&mut figures, "p50_ms", millis(&looped.latencies, 0.5));
        insert(&mut figures, "p99_ms", millis(&looped.latencies, 0.99));
        insert(&mut figures, "lag_slope_per_second", looped.lag.slope);
        let records = rate * parameters.window.as_secs_f64();
        insert(&mut figures, "cpu_ns_per_record", looped.spent.as_secs_f64() * 1e9 / records.max(1.0));
        clear(world);
    }
    Ok((figures, cleared))
}

/// Whether the results came in time, and did not fall behind.
fn is_borne(rate: f64, looped: &Looped, p99_max: Duration) -> bool {
    let in_time = Duration::from_secs_f64(millis(&looped.latencies, 0.99) / 1e3) <= p99_max;
    // What has not come by now is late, however late it will be.
    let came = looped.latencies.len() * 100 >= looped.due * 99;
    // Results come in lumps, as they are committed: what may be chance is no slope.
    let keeps_up = looped.lag.slope - 2.0 * looped.lag.error <= rate * SLOPE_MAX;
    came && in_time && keeps_up
}

/// The highest rate that was borne, 0 if none was, and the lowest that was not, of those that were tried: first the highest that is asked for.
fn bisect(
    highest: f64,
    mut is_borne: impl FnMut(f64) -> Result<bool, Failure>,
) -> Result<(f64, Option<f64>), Failure> {
    if is_borne(highest)? {
        return Ok((highest, None));
    }
    let (mut low, mut high) = (0.0, highest);
    for _ in 1..STEPS_MAX {
        if high - low <= CLOSE * high {
            break;
        }
        let middle = f64::midpoint(low, high);
        if is_borne(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok((low, Some(high)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_borne_is_found_to_within_a_twentieth(limit in 100.0..99_000.0_f64) {
            let mut steps = 0;
            let found = bisect(100_000.0, |rate| { steps += 1; Ok(rate <= limit) }).unwrap();
            let (low, high) = (found.0, found.1.unwrap());
            prop_assert!(low <= limit && limit < high);
            prop_assert!(high - low <= CLOSE * high || steps == STEPS_MAX);
        }
    }

    #[test]
    fn a_system_that_bears_everything_is_asked_once() {
        assert!(bisect(10.0, |_| Ok(true)).unwrap().1.is_none());
        assert!(bisect(10.0, |_| Ok(false)).unwrap().0.abs() < f64::EPSILON);
    }
}
