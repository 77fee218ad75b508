//! A topic full of requests, until the last outcome is committed.

use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, SystemClock};

use crate::audit::audit;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::figures::Figures;
use crate::floor;
use crate::raw::Raw;
use crate::world::{Setup, World};

/// How long a drain may stand still.
const STUCK: Duration = Duration::from_secs(30);

/// How many requests go through the engine before any counts, as a part of those that do.
const WARM_UP_ONE_IN: u64 = 2;

/// How often the committed offsets are looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn run(
    setup: &Setup,
    name: &'static str,
    model: &str,
    row_len: usize,
    requests: u64,
) -> Result<Figures, Failure> {
    let world = World::new(setup, name)?;
    let warm = requests / WARM_UP_ONE_IN;
    let mut load = world.load(model, row_len, warm + requests)?;
    let engine = Engine::start(setup, &world)?;
    world.write(&mut load, warm)?;
    until_committed(&world, warm)?;
    // The engine is at rest before there is anything to do, so that neither its start nor the first touch of its memory is part of
    // what is measured: on a virtual machine that alone may cost as much as the work.
    let waiting = world.preload(load, warm)?;
    let before = engine.cpu()?;
    let clock = SystemClock::new();
    waiting.commit()?;
    until_committed(&world, warm + requests)?;
    let took = Duration::from_nanos(clock.now().nanos());
    let spent = engine.cpu()?.saturating_sub(before);
    let rss_bytes = engine.stop()?;
    let audit = audit(&world, warm + requests)?;
    let floor = floor::measure(&world, model, row_len, warm + requests)?;
    let engine = nanos_each(spent, requests);
    Ok(Figures {
        name,
        payload_floats: Some(row_len),
        records: requests,
        records_per_second: Some(rate(requests, took)),
        records_per_cpu_second: Some(rate(requests, spent)),
        engine_cpu_ns_per_record: Some(engine),
        ratio: Some(ratio(engine, floor.sum())),
        floor: Some(floor),
        rss_bytes,
        lost: audit.lost,
        duplicated: audit.duplicated,
        dead_letters: audit.dead_letters,
        ..Figures::default()
    })
}

/// Waits until the group has committed every request.
fn until_committed(world: &World, requests: u64) -> Result<(), Failure> {
    let topic = &world.config.topics.requests;
    let group = Raw::new(&world.config, &world.config.kafka.group)?;
    let dealt = world.dealt(requests);
    let clock = SystemClock::new();
    let (mut seen, mut moved) = (0, clock.now());
    loop {
        let committed = group.committed(&topic.name, topic.partitions)?;
        if committed.iter().zip(&dealt).all(|(committed, dealt)| committed >= dealt) {
            return Ok(());
        }
        let now = clock.now();
        let sum = committed.iter().sum();
        if sum > seen {
            (seen, moved) = (sum, now);
        } else if now.since(moved) > STUCK {
            return Err(Failure::Late { what: "committing the next request", limit: STUCK });
        }
        thread::sleep(LOOK);
    }
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
