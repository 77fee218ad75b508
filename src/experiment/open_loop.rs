//! Requests at a fixed rate, however the system keeps up: latency as a reader of results sees it.
//!
//! A latency is counted from the moment at which its request was *due*, so that a system that holds up the load does not hide what it does to
//! those that would have come meanwhile.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use operators::broker::kafka::KafkaBroker;
use operators::broker::{Broker as _, Writer};
use operators::clock::{Clock as _, Moment, SystemClock};
use operators::records::Records;
use rdkafka::message::Message as _;

use super::figures::as_float;
use super::raw::Raw;
use super::recovery::{LOOK_MAX, Recovery, recovery};
use super::statistics::{Slope, slope};
use super::system::Running;
use super::{Failure, Setup, World};
use crate::config::Config;
use crate::load::{Bursts, Load, Schedule};
use crate::surroundings::kafka_config;

/// The longest latency that is told apart: an hour, in microseconds.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// How long results may stay away.
pub const SILENCE: Duration = Duration::from_secs(20);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    /// Requests a second.
    pub rate: f64,
    /// What comes over them, if anything does.
    pub bursts: Option<Bursts>,
    /// What is sent before anything counts. A broker that has just started answers many small requests seconds late at first; what piles
    /// up meanwhile has to be worked off before the window, or the broker's start is told as the system's latency.
    pub warm_up: Duration,
    /// What counts.
    pub window: Duration,
    /// How long what is under way after the window is waited for before it is thrown away with the system; `None` for until it is done.
    pub grace: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Looped {
    /// Requests in all, those of the warm-up included.
    pub requests: u64,
    /// From the moment at which a request was due to that at which its result was seen, in microseconds; of the requests due in the window.
    pub latencies: Histogram<u64>,
    /// How many requests were due in the window.
    pub due: u64,
    /// Results that came in the window.
    pub in_window: u64,
    /// CPU time of the system, the window's.
    pub spent: Duration,
    /// The most memory that it has held, in bytes.
    pub memory: u64,
    /// By how many requests a second the results fell behind, over the window.
    pub lag: Slope,
    /// What bursts did, if there were any.
    pub recovery: Option<Recovery>,
}

/// Runs the loop.
///
/// # Errors
///
/// If the system or the broker fails, or results stay away for [`SILENCE`].
pub fn run(setup: &Setup, world: &World, asked: Loop) -> Result<Looped, Failure> {
    let even = Schedule::at_rate(asked.rate)?;
    let schedule = asked.bursts.map_or(Ok(even), |bursts| even.with_bursts(bursts))?;
    let due_before = |time: Duration| whole(schedule.due_before(time));
    let warm = due_before(asked.warm_up);
    let counted = due_before(asked.warm_up + asked.window) - warm;
    let load = world.load(warm + counted)?;
    let mut running = Running::start(setup, world)?;
    let clock = Arc::new(SystemClock::new());
    let start = clock.now().after(Duration::from_millis(500));
    let window = start.after(schedule.due(warm))..start.after(schedule.due(warm + counted));
    let progress = Arc::new(Progress::default());
    let reader = Reader {
        schedule,
        start,
        clock: Arc::clone(&clock),
        measured: std::iter::once(warm..warm + counted).collect(),
        requests: warm + counted,
        window: window.clone(),
        progress: Arc::clone(&progress),
    };
    let reading = reader.spawn(&world.config)?;
    let writing = {
        let (writer, clock, config) = (writer(world)?, Arc::clone(&clock), world.config.clone());
        let progress = Arc::clone(&progress);
        thread::spawn(move || write(writer, &config, load, schedule, start, &clock, &progress))
    };

    let lags_until = |end: Moment| {
        let mut lags = Vec::new();
        while clock.now() < end && !progress.is_over() {
            let at = clock.now().since(start);
            let seen = as_float(progress.seen.load(Ordering::Relaxed));
            lags.push((at.as_secs_f64(), schedule.due_before(at) - seen));
            thread::sleep(LOOK_MAX.min(end.since(clock.now())));
        }
        sleep_until(&clock, end);
        lags
    };
    let mut lags = lags_until(window.start);
    let before = running.cpu()?;
    let in_window = lags_until(window.end);
    let spent = running.cpu()?.saturating_sub(before);
    let lag = slope(&in_window);
    lags.extend(in_window);
    let measured = window.start.since(start)..window.end.since(start);
    let recovery = asked.bursts.and_then(|bursts| recovery(&lags, &bursts, &measured));
    if let Some(grace) = asked.grace {
        thread::sleep(grace);
        progress.over.store(true, Ordering::Relaxed);
    }
    writing.join().map_err(|_| panicked("the load"))??;
    let seen = reading.join().map_err(|_| panicked("the reader"))?;
    let Seen { mut latencies, in_window } = seen.map_err(|failure| running.blamed(failure))?;
    let memory = if asked.grace.is_none() { running.stop()? } else { running.kill().map(|()| 0)? };
    Ok(Looped {
        requests: warm + counted,
        latencies: latencies.remove(0),
        due: counted,
        in_window,
        spent,
        memory,
        lag,
        recovery,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a number of requests")]
fn whole(requests: f64) -> u64 {
    requests.round() as u64
}

/// How far the reader is, and whether nobody waits for it any more.
#[derive(Debug, Default)]
pub struct Progress {
    seen: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A quantile of latencies in microseconds, in milliseconds.
pub fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_micros(latency.value_at_quantile(quantile)).as_secs_f64() * 1e3
}

/// An empty histogram of latencies in microseconds, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("an hour in microseconds fits three digits")
}

/// That a thread of the experiment panicked.
pub fn panicked(who: &str) -> Failure {
    Failure::Unexpected(format!("{who} panicked"))
}

/// Waits until the clock shows `moment`.
pub fn sleep_until(clock: &SystemClock, moment: Moment) {
    thread::sleep(moment.since(clock.now()));
}

/// A producer with the delay that librdkafka has by default. It counts as latency; with less of it, a request to the broker for almost
/// each record is most of what the machine does, and the broker's rather than the system's latency is measured.
///
/// # Errors
///
/// If it can't be made.
pub fn writer(world: &World) -> Result<Box<dyn Writer>, Failure> {
    let mut config = kafka_config(&world.config);
    config.producer.insert("linger.ms".to_owned(), "5".to_owned());
    Ok(KafkaBroker::new(config)?.writer()?)
}

/// Writes every request at its time, to the partitions in turn, until there is none left or nobody waits for them any more.
///
/// # Errors
///
/// If one can't be written.
pub fn write(
    mut writer: Box<dyn Writer>,
    config: &Config,
    mut load: Load,
    schedule: Schedule,
    start: Moment,
    clock: &SystemClock,
    progress: &Progress,
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
        if progress.is_over() || load.push_next(&mut records).is_none() {
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
pub struct Reader {
    /// When each request is due.
    pub schedule: Schedule,
    /// When the first is.
    pub start: Moment,
    /// By which it is measured.
    pub clock: Arc<SystemClock>,
    /// The requests whose latency is measured, in as many parts as are told apart.
    pub measured: Vec<Range<u64>>,
    /// How many results there will be.
    pub requests: u64,
    /// The time in which results are counted.
    pub window: Range<Moment>,
    /// What it tells others, and is told by them.
    pub progress: Arc<Progress>,
}

/// What the reader saw.
pub struct Seen {
    /// Microseconds from the time that each request was due to the moment at which its result was there, by part.
    pub latencies: Vec<Histogram<u64>>,
    /// How many results came inside the window.
    pub in_window: u64,
}

impl Reader {
    /// Starts to read.
    ///
    /// # Errors
    ///
    /// If no client can be made.
    pub fn spawn(self, config: &Config) -> Result<thread::JoinHandle<Result<Seen, Failure>>, Failure> {
        let raw = Raw::new(config, &format!("{}-reader", config.kafka.group))?;
        raw.assign(&config.topics.results.name, config.topics.results.partitions)?;
        Ok(thread::spawn(move || {
            let seen = self.read(&raw);
            // Nobody has to write for a reader that has given up.
            self.progress.over.fetch_or(seen.is_err(), Ordering::Relaxed);
            seen
        }))
    }

    fn read(&self, raw: &Raw) -> Result<Seen, Failure> {
        let mut latencies = vec![histogram(); self.measured.len()];
        let (mut seen, mut in_window) = (0, 0);
        let mut heard = self.clock.now();
        while seen < self.requests && !self.progress.is_over() {
            let polled = raw.poll(LOOK_MAX)?;
            let now = self.clock.now();
            let Some(message) = polled else {
                if now.since(heard.max(self.start)) > SILENCE {
                    return Err(Failure::Late { what: "reading the next result", limit: SILENCE });
                }
                continue;
            };
            heard = now;
            seen += 1;
            self.progress.seen.store(seen, Ordering::Relaxed);
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
