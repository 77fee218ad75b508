//! Requests at a rate that can be changed, each in the partition that its key says; and what was sent is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operators::broker::Broker as _;
use operators::broker::kafka::KafkaBroker;
use operators::clock::{Clock as _, Moment, SystemClock};
use operators::partitioner::partition_for_key;
use operators::records::Records;
use tidemill::experiment::Failure;
use tidemill::load::{Load, LoadOptions};

/// How often what is due is sent.
const STEP: Duration = Duration::from_millis(10);

/// A burst and the quiet after it, how long each is, and how many times the rate comes in a burst: on average it is the rate.
const CYCLE: Duration = Duration::from_secs(2);
const BURST: f64 = 1.8;

/// How long a writer may take to have everything acknowledged.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// What was sent: by partition, and by key in it.
pub(crate) type Sent = BTreeMap<i32, BTreeMap<String, u64>>;

/// What is sent to, and what.
#[derive(Clone)]
pub(crate) struct Target {
    broker: Arc<KafkaBroker>,
    topic: String,
    partitions: i32,
    load: LoadOptions,
    sent: Arc<Mutex<Sent>>,
}

impl Target {
    pub(crate) fn new(broker: KafkaBroker, topic: &str, partitions: i32, load: LoadOptions) -> Self {
        Self { broker: Arc::new(broker), topic: topic.to_owned(), partitions, load, sent: Arc::default() }
    }

    fn counted(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was sent so far.
    pub(crate) fn sent(&self) -> Sent {
        self.counted().clone()
    }

    /// How many were sent to a partition.
    pub(crate) fn sent_to(&self, partition: i32) -> u64 {
        self.counted().get(&partition).map_or(0, |keys| keys.values().sum())
    }

    fn count(&self, partition: i32, key: &[u8]) {
        let key = String::from_utf8_lossy(key).into_owned();
        *self.counted().entry(partition).or_default().entry(key).or_default() += 1;
    }

    /// Makes so many requests of the keys that a partition has anyway. Of one with few requests that takes a while, in which nothing is sent.
    pub(crate) fn make(&self, partition: i32, count: u64) -> Result<Records, Failure> {
        let seed = self.load.seed + 1_000 + u64::from(partition.unsigned_abs());
        let mut load = Load::new(LoadOptions { seed, ..self.load.clone() })?;
        let mut records = Records::default();
        let mut made = 0;
        while made < count && load.push_next(&mut records).is_some() {
            let last = records.get(records.len() - 1);
            if partition_for_key(last.key().unwrap_or_default(), self.partitions).0 == partition {
                made += 1;
            } else {
                records.pop();
            }
        }
        Ok(records)
    }

    /// Sends them to the partition at once.
    pub(crate) fn pile_up(&self, partition: i32, records: &Records) -> Result<(), Failure> {
        let mut writer = self.broker.writer()?;
        for (number, record) in (0..).zip(records.iter()) {
            writer.write(&self.topic, Some(partition), None, record, number)?;
            self.count(partition, record.key().unwrap_or_default());
        }
        acknowledged(&mut *writer)
    }
}

fn acknowledged(writer: &mut dyn operators::broker::Writer) -> Result<(), Failure> {
    if !writer.flush(WRITE_MAX) {
        return Err(Failure::Late { what: "acknowledging requests", limit: WRITE_MAX });
    }
    writer.acknowledged().into_iter().try_for_each(|(_, acknowledged)| Ok(acknowledged.map(drop)?))
}

/// Requests that are being sent, until this is dropped.
pub(crate) struct Traffic {
    rate_millis: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Traffic {
    /// Begins to send so many a second; with `bursts`, now more and now less, and as many on average.
    pub(crate) fn start(target: Target, rate: f64, bursts: bool) -> Self {
        let rate_millis = Arc::new(AtomicU64::new(millis(rate)));
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, stopped) = (Arc::clone(&rate_millis), Arc::clone(&stop));
        let thread = thread::spawn(move || send(&target, &asked, &stopped, bursts));
        Self { rate_millis, stop, thread: Some(thread) }
    }

    /// Sends so many a second from now on.
    pub(crate) fn set_rate(&self, rate: f64) {
        self.rate_millis.store(millis(rate), Ordering::SeqCst);
    }

    /// Stops, and tells whether all went well.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            _ => Err(Failure::Unexpected("the thread that sends panicked".to_owned())),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
fn millis(rate: f64) -> u64 {
    (rate * 1e3) as u64
}

fn send(target: &Target, rate: &AtomicU64, stop: &AtomicBool, bursts: bool) -> Result<(), Failure> {
    let mut load = Load::new(target.load.clone())?;
    let mut writer = target.broker.writer()?;
    let clock = SystemClock::new();
    let mut records = Records::default();
    let (mut owed, mut last, mut number) = (0.0, Moment::START, 0_u64);
    while !stop.load(Ordering::SeqCst) {
        let now = clock.now();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = rate.load(Ordering::SeqCst) as f64 / 1e3;
        let place = now.since(Moment::START).as_secs_f64() / CYCLE.as_secs_f64();
        let times = match bursts {
            true if place.fract() < 0.25 => BURST,
            // A quarter of the time so much more, so three quarters a third of that less.
            true => 1.0 - (BURST - 1.0) / 3.0,
            false => 1.0,
        };
        owed += rate * times * now.since(last).as_secs_f64();
        last = now;
        while owed >= 1.0 && load.push_next(&mut records).is_some() {
            let record = records.get(0);
            let key = record.key().unwrap_or_default();
            let partition = partition_for_key(key, target.partitions).0;
            writer.write(&target.topic, Some(partition), None, record, number)?;
            target.count(partition, key);
            records.pop();
            owed -= 1.0;
            number += 1;
        }
        writer.acknowledged().into_iter().try_for_each(|(_, acknowledged)| acknowledged.map(drop))?;
        thread::sleep(STEP);
    }
    acknowledged(&mut *writer)
}
