//! The infer operator on a worker of its own, with executor threads and an open loop before it: rows come when they are due, whether or
//! not anything keeps up, and their time counts from when they were due.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use operators::alarm::Alarms;
use operators::block::{Block, Row};
use operators::breaker::Breaker;
use operators::broker::{Polled, RecordTime};
use operators::catalog::{BatchPolicy, Limits, ModelIndex, NotFinite};
use operators::clock::{Clock, Moment, SystemClock};
use operators::dead_letter::Letterhead;
use operators::device::threads::{Threads, ThreadsParts};
use operators::execute::{ExecuteParts, Executor};
use operators::health::Health;
use operators::infer::{Infer, InferParts};
use operators::lease::{Lease, Offset, Partition, Term};
use operators::letters::Letters;
use operators::model::Backend;
use operators::model::load::{Loaded, ModelSettings, load_catalog};
use operators::observe::{BatchSeen, Observer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use timely::dataflow::operators::vec::input::Handle;
use timely::dataflow::operators::{Input, Probe};
use timely::worker::Worker;

use crate::timed::{Cost, Timed};

/// Executor threads of each device.
pub(crate) const EXECUTORS: usize = 2;

/// A load of so many rows a second, at random intervals, for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) rows_per_second: f64,
    pub(crate) length: Duration,
}

/// An outcome: when it was there, counted from the start of the load, and how long after its row was due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) at: Duration,
    pub(crate) latency: Duration,
}

/// What a run has given.
#[derive(Debug)]
pub(crate) struct Ran {
    /// By the time that they came, until the load ended.
    pub(crate) outcomes: Vec<Outcome>,
    /// Rows of each batch, in the same time.
    pub(crate) batches: Vec<usize>,
    /// Rows that were due, and those that have ended when everything was done.
    pub(crate) due: usize,
    pub(crate) ended: usize,
}

/// What becomes of the rows that have not ended with the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They are waited for.
    Done,
    /// They are thrown away: a policy far below its load would take minutes for them.
    Dropped,
}

/// Starts a run on a thread of its own. Wait for it with [`thread::JoinHandle::join`].
pub(crate) fn start(
    cost: Cost,
    batch: BatchPolicy,
    phases: Vec<Phase>,
    rest: Rest,
) -> thread::JoinHandle<Ran> {
    thread::spawn(move || timely::execute_directly(move |worker| run(worker, cost, batch, &phases, rest)))
}

fn run(worker: &mut Worker, cost: Cost, batch: BatchPolicy, phases: &[Phase], rest: Rest) -> Ran {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let notes = Arc::new(Notes { clock: Arc::clone(&clock), seen: Mutex::default() });
    let backend = Timed::new(cost);
    let settings = |_: &str| ModelSettings {
        output: None,
        not_finite: NotFinite::Refuse,
        batch,
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        home: 0,
    };
    let loaded = load_catalog(&backend, backend.found(), &*clock, settings).expect("the model can be served");
    let alarms = Alarms::new();
    let mut input = build(worker, loaded, backend, &clock, &notes, &alarms);
    let mut arrivals = Arrivals::new(phases, clock.now());
    let start = arrivals.next;
    while let Some(next) = arrivals.peek() {
        let now = clock.now();
        if next <= now {
            input.send(row(arrivals.count, next));
            arrivals.advance();
            continue;
        }
        input.flush();
        let alarm = alarms.ring(now);
        worker.step_or_park(Some(alarm.min(next).since(now)));
    }
    let end = start.after(phases.iter().map(|phase| phase.length).sum());
    input.close();
    if rest == Rest::Dropped {
        worker.installed_dataflows().into_iter().for_each(|graph| worker.drop_dataflow(graph));
    }
    let mut at_work = rest == Rest::Done;
    while at_work {
        let now = clock.now();
        let alarm = alarms.ring(now);
        at_work = worker.step_or_park((alarm != Moment::NEVER).then(|| alarm.since(now)));
    }
    let seen = std::mem::take(&mut *notes.seen.lock().unwrap_or_else(PoisonError::into_inner));
    let within = |at: &Moment| *at <= end;
    let outcomes = seen.iter().filter(|(at, _)| within(at)).flat_map(|(at, latencies)| {
        let at = at.since(start);
        latencies.iter().map(move |latency| Outcome { at, latency: *latency })
    });
    Ran {
        outcomes: outcomes.collect(),
        batches: seen.iter().filter(|(at, _)| within(at)).map(|(_, rows)| rows.len()).collect(),
        due: arrivals.count,
        ended: seen.iter().map(|(_, rows)| rows.len()).sum(),
    }
}

/// The operator and its device.
fn build(
    worker: &mut Worker,
    loaded: Loaded,
    backend: Timed,
    clock: &Arc<dyn Clock>,
    notes: &Arc<Notes>,
    alarms: &Alarms,
) -> Handle<u64, Arc<Block>> {
    let observer = Arc::clone(notes) as Arc<dyn Observer>;
    let health = Arc::<Health>::default();
    let (topic, group) = ("inference.requests".to_owned(), "inference-workers".to_owned());
    let letters = Letters {
        head: Arc::new(Letterhead { topic, group, partitions: 1, bytes_max: 1 << 20 }),
        clock: Arc::clone(clock),
        observer: Arc::clone(&observer),
        breaker: Arc::new(Breaker::new(None, Arc::clone(&health), Arc::clone(&observer))),
    };
    let execute = ExecuteParts {
        backend: Arc::new(backend) as Arc<dyn Backend>,
        files: Arc::new(loaded.files),
        letters: letters.clone(),
        topic: "inference.requests".into(),
        result_bytes_max: 1 << 20,
        result_key_is_request_key: false,
        journal: None,
        observer: Arc::clone(&observer),
        clock: Arc::clone(clock),
    };
    let infer = InferParts {
        catalog: Arc::new(loaded.catalog),
        letters,
        allowances: Arc::default(),
        journal: None,
        health,
        observer: Arc::clone(&observer),
        clock: Arc::clone(clock),
    };
    let clock = Arc::clone(clock);
    worker.dataflow(|scope| {
        let (input, blocks) = scope.new_input();
        let outcomes = blocks.infer(infer, alarms, |home| {
            Box::new(Threads::start(ThreadsParts {
                name: "bench".to_owned(),
                executor: Box::new(move || Executor::new(execute.clone())),
                executors: EXECUTORS,
                queued: 1,
                home,
                warm: Arc::new(|| {}),
                grace: Duration::from_secs(10),
                stuck_max: 0,
                faults: Arc::default(),
                observer,
                clock,
            }))
        });
        drop(outcomes.probe());
        input
    })
}

/// One row, due at this moment.
fn row(number: usize, due: Moment) -> Arc<Block> {
    let mut polled = Polled { polled_at: due, ..Polled::default() };
    polled.records.push(None, Some(b"{}"));
    let offset = i64::try_from(number).expect("a bench has far fewer rows");
    polled.origins.push((Lease { partition: Partition(0), term: Term(1) }, Offset(offset)));
    polled.times.push(RecordTime { millis: 1_767_225_600_000, append: false });
    let mut block = Block::new(ModelIndex(0), 0, 1, Arc::new(polled));
    block.text = b"request-tenant".to_vec();
    block.values.push(0.5);
    block.rows.push(Row { record: 0, request_id: 0..7, tenant_id: 8..14 });
    Arc::new(block)
}

/// When rows are due: at random intervals, the same in every run of the same phases.
struct Arrivals {
    next: Moment,
    count: usize,
    /// The phases that are left, the last first, each with its end.
    phases: Vec<(f64, Moment)>,
    random: ChaCha8Rng,
}

impl Arrivals {
    /// The first rows come a little after `now`: the executors open their models before.
    fn new(phases: &[Phase], now: Moment) -> Self {
        let start = now.after(Duration::from_millis(200));
        let mut end = start;
        let ends = phases.iter().map(|phase| {
            end = end.after(phase.length);
            (phase.rows_per_second, end)
        });
        let mut phases: Vec<(f64, Moment)> = ends.collect();
        phases.reverse();
        Self { next: start, count: 0, phases, random: ChaCha8Rng::seed_from_u64(7) }
    }

    fn peek(&mut self) -> Option<Moment> {
        while self.phases.last().is_some_and(|(_, end)| self.next >= *end) {
            self.phases.pop();
        }
        self.phases.last().map(|_| self.next)
    }

    fn advance(&mut self) {
        self.count += 1;
        if let Some((rows_per_second, _)) = self.phases.last() {
            let gap = -(1.0 - self.random.random::<f64>()).ln() / rows_per_second;
            self.next = self.next.after(Duration::from_secs_f64(gap));
        }
    }
}

/// Notes when each batch was done, and how long its rows had taken.
struct Notes {
    clock: Arc<dyn Clock>,
    seen: Mutex<Vec<(Moment, Vec<Duration>)>>,
}

impl Observer for Notes {
    fn batch(&self, batch: &BatchSeen<'_>) {
        let noted = (self.clock.now(), batch.total.to_vec());
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
    }
}
