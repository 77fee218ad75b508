//! A topic full of requests, until the last outcome is committed.

use std::time::Duration;

use tidemill::experiment::count::count;
use tidemill::experiment::drain::drain;
use tidemill::experiment::{Failure, Setup, World, floor};

use crate::figures::Figures;

pub(crate) fn run(
    setup: &Setup,
    name: &'static str,
    model: &str,
    row_len: usize,
    requests: u64,
) -> Result<Figures, Failure> {
    let world = World::of_model(setup, name, model, row_len)?;
    let drained = drain(setup, &world, requests)?;
    let count = count(&world, drained.requests)?;
    let floor = floor::measure(&world, drained.requests)?;
    let engine = nanos_each(drained.spent, requests);
    Ok(Figures {
        name,
        payload_floats: Some(row_len),
        records: requests,
        records_per_second: Some(rate(requests, drained.took)),
        records_per_cpu_second: Some(rate(requests, drained.spent)),
        engine_cpu_ns_per_record: Some(engine),
        ratio: Some(ratio(engine, floor.sum())),
        floor: Some(floor),
        rss_bytes: drained.memory,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}

/// Nanoseconds for each of so many.
pub(crate) fn nanos_each(time: Duration, count: u64) -> u64 {
    u64::try_from(time.as_nanos() / u128::from(count.max(1))).unwrap_or(u64::MAX)
}

/// So many in this time: how many in a second.
pub(crate) fn rate(count: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn ratio(engine: u64, floor: u64) -> f64 {
    (engine as f64 / floor.max(1) as f64 * 1_000.0).round() / 1_000.0
}
