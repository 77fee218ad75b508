//! A flood of one tenant on the partition and the model of another: the latency of the other, beside what it was before.
//!
//! A batch of 64 takes 34 ms for which its executor sleeps (`onnx.pace`), so the device is what there is to share, and the cores, which broker,
//! load and engine share as well, are not. What the device can bear is measured first, in the same run. Then the light tenant asks alone; and
//! then beside another one that asks a thousand times as often, in bursts of a second's worth, so that both together ask for four fifths of
//! what the device can bear.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use operators::broker::Writer;
use operators::clock::{Clock as _, Moment, SystemClock};
use operators::records::Records;
use rdkafka::message::Message as _;
use tidemill::load::Schedule;

use crate::figures::Figures;
use tidemill::experiment::count::count;
use tidemill::experiment::open_loop::{SILENCE, histogram, millis, panicked, sleep_until, writer};
use tidemill::experiment::raw::Raw;
use tidemill::experiment::system::Running;
use tidemill::experiment::{Failure, Setup, World};

/// The model.
const MODEL: &str = "mlp-16";
const INPUT: &str = "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]";

/// Requests by which it is found what the device can bear.
const BORNE: u64 = 30_000;

/// Requests before anything counts.
const WARM_UP: u64 = 5_000;

/// How often the flood asks for each time that the light tenant does.
const TIMES: f64 = 1_000.0;

/// The share of what the device can bear that is asked for.
const LOAD: f64 = 0.8;

/// Measures the light tenant for so many seconds alone, and for as many beside the flood.
pub(crate) fn run(setup: &Setup, seconds: u32) -> Result<Figures, Failure> {
    let sets = [
        "topics.requests.partitions=1",
        "commit.order=key",
        // A transaction costs the broker time for each partition that it writes to, and whose outcomes are in the next one waits for that: with
        // 32 of them, not the order on the device is measured (docs/decisions/0022-fair-share.md).
        "topics.results.partitions=4",
        "onnx.executors=2",
        "onnx.pace.fixed=2ms",
        "onnx.pace.row=500us",
    ];
    let sets = sets.map(str::to_owned);
    let setup = Setup { sets: [&sets, &setup.sets[..]].concat(), ..setup.clone() };
    let world = World::of_model(&setup, "fairness", MODEL, 16)?;
    let engine = Running::start(&setup, &world)?;
    let results = Results::new(&world)?;

    // The first requests to a broker that has just started are answered late, and their tenant's first batches are not yet learned from.
    burst(&world, "warm", 0..WARM_UP)?;
    results.read(WARM_UP, |_, _| ())?;
    // From the first send to the last result. Results come in lumps, as they are committed, so no part of them tells more.
    let started = results.clock.now();
    burst(&world, "borne", 0..BORNE)?;
    results.read(BORNE, |_, _| ())?;
    let took = results.clock.now().since(started).as_secs_f64();
    let bearable = f64::from(u32::try_from(BORNE).unwrap_or(u32::MAX)) / took;

    let light = LOAD * bearable / (TIMES + 1.0);
    let each = whole(light * TIMES);
    eprintln!(
        "fairness: the device bears {bearable:.0} requests/s; {light:.1}/s beside {each}/s are asked for"
    );
    let asked = whole(light * f64::from(seconds)).max(1);
    let quiet = results.latencies(&world, "quiet", light, asked, None)?;
    let beside = results.latencies(&world, "beside", light, asked, Some((each, u64::from(seconds))))?;
    let rss_bytes = engine.stop()?;
    let flood = each * u64::from(seconds);
    let count = count(&world, WARM_UP + BORNE + 2 * asked + flood)?;
    Ok(Figures {
        name: "fairness",
        records: asked,
        quiet_p99_ms: Some(millis(&quiet, 0.99)),
        p50_ms: Some(millis(&beside, 0.5)),
        p99_ms: Some(millis(&beside, 0.99)),
        max_ms: Some(millis(&beside, 1.0)),
        rss_bytes,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a number of requests")]
fn whole(requests: f64) -> u64 {
    requests.round() as u64
}

/// The results as they become visible.
struct Results {
    raw: Raw,
    clock: Arc<SystemClock>,
}

impl Results {
    fn new(world: &World) -> Result<Self, Failure> {
        let raw = Raw::new(&world.config, &format!("{}-reader", world.config.kafka.group))?;
        raw.assign(&world.config.topics.results.name, world.config.topics.results.partitions)?;
        Ok(Self { raw, clock: Arc::new(SystemClock::new()) })
    }

    /// Reads so many, and tells of each its request's id and when it was seen.
    fn read(&self, count: u64, mut each: impl FnMut(&str, Moment)) -> Result<(), Failure> {
        for _ in 0..count {
            let Some(message) = self.raw.poll(SILENCE)? else {
                return Err(Failure::Late { what: "reading the next result", limit: SILENCE });
            };
            let id = std::str::from_utf8(message.key().unwrap_or_default()).unwrap_or_default();
            each(id, self.clock.now());
        }
        Ok(())
    }

    /// How long the light tenant's requests take, from when each is due to when its result is seen; beside them a flood may be sent, so many
    /// requests at the beginning of each of so many seconds.
    fn latencies(
        &self,
        world: &World,
        part: &str,
        rate: f64,
        count: u64,
        flood: Option<(u64, u64)>,
    ) -> Result<Histogram<u64>, Failure> {
        let start = self.clock.now().after(Duration::from_millis(500));
        let schedule = Schedule::at_rate(rate)?;
        let asked = {
            let (writer, topic) = (writer(world)?, world.config.topics.requests.name.clone());
            let (clock, prefix) = (Arc::clone(&self.clock), format!("light-{part}"));
            thread::spawn(move || {
                let due = |index| start.after(schedule.due(index));
                write(writer, &topic, "light", &prefix, 0..count, |index| sleep_until(&clock, due(index)))
            })
        };
        let (each, seconds) = flood.unwrap_or_default();
        let flooded = {
            let (writer, topic) = (writer(world)?, world.config.topics.requests.name.clone());
            let (clock, prefix) = (Arc::clone(&self.clock), format!("flood-{part}"));
            thread::spawn(move || {
                let due = |index: u64| start.after(Duration::from_secs(index / each.max(1)));
                let wait = |index: u64| sleep_until(&clock, due(index));
                write(writer, &topic, "flood", &prefix, 0..each * seconds, wait)
            })
        };
        let mut latencies = histogram();
        self.read(count + each * seconds, |id, now| {
            let index = id.strip_prefix("light-").and_then(|rest| rest.rsplit_once('-')?.1.parse().ok());
            if let Some(index) = index {
                let micros = now.since(start.after(schedule.due(index))).as_micros();
                latencies.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
            }
        })?;
        asked.join().map_err(|_| panicked("the light tenant"))??;
        flooded.join().map_err(|_| panicked("the flood"))??;
        Ok(latencies)
    }
}

/// Writes requests of the flood as fast as can be.
fn burst(world: &World, prefix: &str, range: std::ops::Range<u64>) -> Result<(), Failure> {
    let topic = &world.config.topics.requests.name;
    write(writer(world)?, topic, "flood", &format!("flood-{prefix}"), range, |_| ())
}

/// Writes the requests of a tenant, each when `wait` returns.
fn write(
    mut writer: Box<dyn Writer>,
    topic: &str,
    tenant: &str,
    prefix: &str,
    range: std::ops::Range<u64>,
    wait: impl Fn(u64),
) -> Result<(), Failure> {
    let key = format!("{tenant}|{MODEL}");
    for index in range {
        wait(index);
        let value = format!(
            r#"{{"request_id":"{prefix}-{index}","tenant_id":"{tenant}","model_id":"{MODEL}","input":{INPUT}}}"#
        );
        let mut records = Records::default();
        records.push(Some(key.as_bytes()), Some(value.as_bytes()));
        records.push_header(b"model_id", Some(MODEL.as_bytes()));
        writer.write(topic, Some(0), None, records.get(0), index)?;
    }
    if !writer.flush(SILENCE) {
        return Err(Failure::Late { what: "acknowledging the last request", limit: SILENCE });
    }
    writer.acknowledged().into_iter().try_for_each(|(_, acknowledged)| Ok(acknowledged.map(drop)?))
}
