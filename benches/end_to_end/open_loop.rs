//! Requests at a fixed rate, however the engine keeps up: latency as a reader of results sees it.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use operators::broker::kafka::KafkaBroker;
use operators::broker::{Broker as _, Writer};
use operators::clock::{Clock as _, Moment, SystemClock};
use operators::records::Records;
use rdkafka::message::Message as _;
use tidemill::config::Config;
use tidemill::load::{Load, Schedule};
use tidemill::surroundings::kafka_config;

use crate::audit::audit;
use crate::drain::{nanos_each, rate, ratio};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::figures::Figures;
use crate::floor;
use crate::raw::Raw;
use crate::world::{Setup, World};

/// Requests a second.
const RATE: u32 = 20_000;

/// What is sent before anything counts, in seconds. A broker that has just started answers this many small requests seconds late at
/// first; what piles up meanwhile has to be worked off before the window, or the broker's start is told as the engine's latency.
const WARM_UP: u32 = 8;

/// The longest latency that is told apart: an hour, in microseconds.
pub(crate) const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// How long results may stay away.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(setup: &Setup, seconds: u32, drained: Option<u64>) -> Result<Figures, Failure> {
    let world = World::new(setup, "open-loop")?;
    let (warm, counted) = (u64::from(WARM_UP * RATE), u64::from(seconds * RATE));
    let load = world.load("mlp-16", 16, warm + counted)?;
    let engine = Engine::start(setup, &world)?;
    let clock = Arc::new(SystemClock::new());
    let start = clock.now().after(Duration::from_millis(500));
    let schedule = Schedule::at_rate(f64::from(RATE))?;
    let window = start.after(schedule.due(warm))..start.after(schedule.due(warm + counted));
    let measured = warm..warm + counted;
    let requests = measured.end;
    let clocked = Arc::clone(&clock);
    let reader = Reader { schedule, start, clock: clocked, measured: vec![measured], requests, window };
    let reading = reader.spawn(&world.config)?;
    let writer = {
        let (writer, clock, config) = (writer(&world)?, Arc::clone(&clock), world.config.clone());
        thread::spawn(move || write(writer, &config, load, schedule, start, &clock))
    };

    sleep_until(&clock, start.after(schedule.due(warm)));
    let before = engine.cpu()?;
    sleep_until(&clock, start.after(schedule.due(warm + counted)));
    let spent = engine.cpu()?.saturating_sub(before);
    writer.join().map_err(|_| panicked("the load"))??;
    let Seen { latencies, in_window } = reading.join().map_err(|_| panicked("the reader"))??;
    let rss_bytes = engine.stop()?;
    let audit = audit(&world, warm + counted)?;
    let floor = floor::measure(&world, "mlp-16", 16, warm + counted)?;
    let engine = nanos_each(spent, in_window);
    let millis = |quantile: f64| millis(&latencies[0], quantile);
    Ok(Figures {
        name: "open-loop",
        payload_floats: Some(16),
        records: counted,
        // What became visible while the CPU time was counted, not what was due.
        records_per_second: Some(rate(in_window, Duration::from_secs(u64::from(seconds)))),
        records_per_cpu_second: Some(rate(in_window, spent)),
        engine_cpu_ns_per_record: Some(engine),
        ratio: Some(ratio(engine, floor.sum())),
        floor: Some(floor),
        drain_cpu_ns_per_record: drained,
        p50_ms: Some(millis(0.5)),
        p99_ms: Some(millis(0.99)),
        max_ms: Some(millis(1.0)),
        rss_bytes,
        lost: audit.lost,
        duplicated: audit.duplicated,
        dead_letters: audit.dead_letters,
        ..Figures::default()
    })
}

/// A quantile of latencies in microseconds, in milliseconds.
pub(crate) fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_micros(latency.value_at_quantile(quantile)).as_secs_f64() * 1e3
}

pub(crate) fn panicked(who: &str) -> Failure {
    Failure::Unexpected(format!("{who} panicked"))
}

pub(crate) fn sleep_until(clock: &SystemClock, moment: Moment) {
    thread::sleep(moment.since(clock.now()));
}

/// A producer with the delay that librdkafka has by default. It counts as latency; with less of it, a request to the broker for almost
/// each record is most of what the machine does, and the broker's rather than the engine's latency is measured.
pub(crate) fn writer(world: &World) -> Result<Box<dyn Writer>, Failure> {
    let mut config = kafka_config(&world.config);
    config.producer.insert("linger.ms".to_owned(), "5".to_owned());
    Ok(KafkaBroker::new(config)?.writer()?)
}

/// Writes every request at its time, to the partitions in turn.
pub(crate) fn write(
    mut writer: Box<dyn Writer>,
    config: &Config,
    mut load: Load,
    schedule: Schedule,
    start: Moment,
    clock: &SystemClock,
) -> Result<(), Failure> {
    let topic = &config.topics.requests;
    let wall_start = clock.wall_micros() + i64::try_from(start.since(clock.now()).as_micros()).unwrap_or(0);
    let mut records = Records::default();
    let mut partition = 0;
    for index in 0_u64.. {
        let due = schedule.due(index);
        let ahead = start.after(due).since(clock.now());
        if !ahead.is_zero() {
            // Some requests are late by this much: a pause for each of 20,000 a second would be most of what the load costs.
            thread::sleep(ahead.max(Duration::from_millis(1)));
        }
        if load.push_next(&mut records).is_none() {
            break;
        }
        let sent_at = (wall_start + i64::try_from(due.as_micros()).unwrap_or(0)) / 1_000;
        writer.write(&topic.name, Some(partition), Some(sent_at), records.get(0), index)?;
        partition = (partition + 1) % topic.partitions;
        records.pop();
    }
    if !writer.flush(SILENCE) {
        return Err(Failure::Late { what: "acknowledging the last request", limit: SILENCE });
    }
    for (_, acknowledged) in writer.acknowledged() {
        acknowledged?;
    }
    Ok(())
}

/// Reads results as they become visible.
pub(crate) struct Reader {
    pub(crate) schedule: Schedule,
    pub(crate) start: Moment,
    pub(crate) clock: Arc<SystemClock>,
    /// The requests whose latency is measured, in as many parts as are told apart.
    pub(crate) measured: Vec<Range<u64>>,
    /// How many results there will be.
    pub(crate) requests: u64,
    pub(crate) window: Range<Moment>,
}

/// What the reader saw: microseconds from the time that each request was due to the moment at which its result was there, and how many
/// results came inside the window.
pub(crate) struct Seen {
    pub(crate) latencies: Vec<Histogram<u64>>,
    pub(crate) in_window: u64,
}

impl Reader {
    /// Starts to read.
    pub(crate) fn spawn(self, config: &Config) -> Result<thread::JoinHandle<Result<Seen, Failure>>, Failure> {
        let raw = Raw::new(config, &format!("{}-reader", config.kafka.group))?;
        raw.assign(&config.topics.results.name, config.topics.results.partitions)?;
        Ok(thread::spawn(move || self.read(&raw)))
    }

    fn read(&self, raw: &Raw) -> Result<Seen, Failure> {
        let latency = Histogram::<u64>::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
            .expect("an hour in microseconds fits three digits");
        let mut latencies = vec![latency; self.measured.len()];
        let (mut seen, mut in_window) = (0, 0);
        while seen < self.requests {
            let Some(message) = raw.poll(SILENCE)? else {
                return Err(Failure::Late { what: "reading the next result", limit: SILENCE });
            };
            let now = self.clock.now();
            seen += 1;
            in_window += u64::from(self.window.contains(&now));
            let index = index_of(message.key().unwrap_or_default())?;
            if let Some(part) = self.measured.iter().position(|part| part.contains(&index)) {
                let due = self.start.after(self.schedule.due(index));
                let micros = now.since(due).as_micros();
                latencies[part].saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
            }
        }
        Ok(Seen { latencies, in_window })
    }
}

/// The index in a request id, `r1-17`.
fn index_of(request_id: &[u8]) -> Result<u64, Failure> {
    let text = std::str::from_utf8(request_id).ok().and_then(|id| id.rsplit_once('-'));
    let index = text.and_then(|(_, index)| index.parse().ok());
    index.ok_or_else(|| Failure::Unexpected("a result has the key of no request".to_owned()))
}
