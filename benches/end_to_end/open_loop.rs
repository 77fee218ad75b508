//! Requests at a fixed rate, however the engine keeps up: latency as a reader of results sees it.

use std::time::Duration;

use tidemill::experiment::count::count;
use tidemill::experiment::open_loop::{Loop, millis, run as run_loop};
use tidemill::experiment::{Failure, Setup, World, floor};

use crate::drain::{nanos_each, rate, ratio};
use crate::figures::Figures;

/// Requests a second.
const RATE: f64 = 20_000.0;

/// What is sent before anything counts.
const WARM_UP: Duration = Duration::from_secs(8);

pub(crate) fn run(setup: &Setup, seconds: u64, drained: Option<u64>) -> Result<Figures, Failure> {
    let world = World::of_model(setup, "open-loop", "mlp-16", 16)?;
    let window = Duration::from_secs(seconds);
    let looped =
        run_loop(setup, &world, Loop { rate: RATE, bursts: None, warm_up: WARM_UP, window, grace: None })?;
    let count = count(&world, looped.requests)?;
    let floor = floor::measure(&world, looped.requests)?;
    let engine = nanos_each(looped.spent, looped.in_window);
    let millis = |quantile: f64| millis(&looped.latencies, quantile);
    Ok(Figures {
        name: "open-loop",
        payload_floats: Some(16),
        records: looped.due,
        // What became visible while the CPU time was counted, not what was due.
        records_per_second: Some(rate(looped.in_window, window)),
        records_per_cpu_second: Some(rate(looped.in_window, looped.spent)),
        engine_cpu_ns_per_record: Some(engine),
        ratio: Some(ratio(engine, floor.sum())),
        floor: Some(floor),
        drain_cpu_ns_per_record: drained,
        p50_ms: Some(millis(0.5)),
        p99_ms: Some(millis(0.99)),
        max_ms: Some(millis(1.0)),
        rss_bytes: looped.memory,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}
