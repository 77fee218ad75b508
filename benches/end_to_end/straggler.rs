//! One key is stuck in a partition: the latency of its neighbours there, beside what it was before.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, SystemClock};
use tidemill::load::{Load, LoadOptions, ModelRow, Schedule};

use crate::figures::Figures;
use tidemill::experiment::count::count;
use tidemill::experiment::open_loop::{Progress, Reader, Seen, millis, panicked, sleep_until, write, writer};
use tidemill::experiment::system::Running;
use tidemill::experiment::{Failure, Setup, World};

/// Requests a second, all of them to one partition.
const RATE: u32 = 1_500;

/// What is sent before anything counts, in seconds: see the open loop.
const WARM_UP: u32 = 8;

/// For how long the straggler waits, and for how long latency is measured before and meanwhile, in seconds.
const STUCK: u32 = 10;

pub(crate) fn run(setup: &Setup) -> Result<Figures, Failure> {
    let sets = [
        "topics.requests.partitions=1".to_owned(),
        "commit.order=key".to_owned(),
        // The straggler's model: a batch of it waits for as long as this.
        format!("models.anomaly-32.batch.delay_max={STUCK}s"),
        "models.anomaly-32.batch.size_max=1024".to_owned(),
    ];
    let setup = Setup { sets: [&sets, &setup.sets[..]].concat(), ..setup.clone() };
    let world = World::of_model(&setup, "straggler", "mlp-16", 16)?;
    let (warm, part) = (u64::from(WARM_UP * RATE), u64::from(STUCK * RATE));
    let (stuck_at, end) = (warm + part, warm + 2 * part);
    let load = world.load(end)?;
    let engine = Running::start(&setup, &world)?;
    let clock = Arc::new(SystemClock::new());
    let start = clock.now().after(Duration::from_millis(500));
    let schedule = Schedule::at_rate(f64::from(RATE))?;
    let reader = Reader {
        schedule,
        start,
        clock: Arc::clone(&clock),
        measured: vec![warm..stuck_at, stuck_at..end],
        requests: end + 1,
        window: start..start,
        progress: Arc::default(),
    };
    let reading = reader.spawn(&world.config)?;
    let writing = {
        let (writer, clock, config) = (writer(&world)?, Arc::clone(&clock), world.config.clone());
        thread::spawn(move || write(writer, &config, load, schedule, start, &clock, &Progress::default()))
    };
    let mut straggler = straggler()?;
    sleep_until(&clock, start.after(schedule.due(stuck_at)));
    world.write(&mut straggler, 1)?;
    writing.join().map_err(|_| panicked("the load"))??;
    let Seen { latencies, .. } = reading.join().map_err(|_| panicked("the reader"))??;
    let rss_bytes = engine.stop()?;
    let count = count(&world, end + 1)?;
    Ok(Figures {
        name: "straggler",
        payload_floats: Some(16),
        records: part,
        p50_ms: Some(millis(&latencies[1], 0.5)),
        p99_ms: Some(millis(&latencies[1], 0.99)),
        max_ms: Some(millis(&latencies[1], 1.0)),
        quiet_p99_ms: Some(millis(&latencies[0], 0.99)),
        rss_bytes,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}

/// One request, of another seed than the load: so its id is none of the load's that are measured.
fn straggler() -> Result<Load, Failure> {
    let models = vec![ModelRow::new("anomaly-32", &[32])];
    Ok(Load::new(LoadOptions { requests: 1, models, seed: 2, ..LoadOptions::default() })?)
}
