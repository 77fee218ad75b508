//! The infer operator on a worker of its own, with executor threads and an open loop before it: rows come when they are due, whether or
//! not anything keeps up, and their time counts from when they were due until their outcome leaves the operator.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use operators::alarm::Alarms;
use operators::block::{Block, Row};
use operators::breaker::Breaker;
use operators::broker::{Polled, RecordTime};
use operators::catalog::{BatchPolicy, Limits, ModelIndex, NotFinite};
use operators::clock::{Clock, Moment, SystemClock};
use operators::codec::form::ResultForm;
use operators::dead_letter::Letterhead;
use operators::device::QUEUED;
use operators::device::threads::{Threads, ThreadsParts};
use operators::execute::{ExecuteParts, Executor};
use operators::health::Health;
use operators::infer::{Infer, InferParts};
use operators::lease::{Lease, Offset, Partition, Term};
use operators::letters::Letters;
use operators::model::Backend;
use operators::model::load::{Loaded, ModelSettings, load_catalog};
use operators::observe::{BatchSeen, Observer};
use operators::outcome::Outcomes;
use operators::tensor::Column;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use timely::dataflow::operators::vec::input::Handle;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::worker::Worker;

use crate::timed::{Cost, timed};

/// Executor threads of each device.
pub(crate) const EXECUTORS: usize = 2;

/// A load of so many rows a second, at random intervals, for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) rows_per_second: f64,
    pub(crate) length: Duration,
}

/// A row: when it is due, counted from the start of the load, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) after: Duration,
    pub(crate) tenant: u16,
}

/// An outcome: when it was there, counted from the start of the load, how long after its row was due, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) at: Duration,
    pub(crate) latency: Duration,
    pub(crate) tenant: u16,
}

/// What a run is given.
pub(crate) struct Load {
    /// The rows, in the order of when they are due.
    pub(crate) rows: Box<dyn Iterator<Item = Due> + Send + Sync>,
    /// After this the load has ended, and what comes is left out.
    pub(crate) length: Duration,
    pub(crate) rest: Rest,
    /// Whether rows say whose they are; else all say the same.
    pub(crate) named: bool,
}

impl Load {
    /// Rows of one tenant, in these phases, at random intervals: the same in every run.
    pub(crate) fn of_phases(phases: &[Phase], rest: Rest) -> Self {
        let length = phases.iter().map(|phase| phase.length).sum();
        Self { rows: Box::new(Arrivals::new(phases, 0, 7)), length, rest, named: false }
    }
}

/// What a run has given.
#[derive(Debug)]
pub(crate) struct Ran {
    /// By the time that they came, until the load ended.
    pub(crate) outcomes: Vec<Outcome>,
    /// Rows of each batch that was done before the load ended.
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
pub(crate) fn start(cost: Cost, batch: BatchPolicy, load: Load) -> thread::JoinHandle<Ran> {
    thread::spawn(move || timely::execute_directly(move |worker| run(worker, cost, batch, load)))
}

/// The outcomes that left the operator: when, and of which row.
type Left = Rc<RefCell<Vec<(Moment, usize)>>>;

fn run(worker: &mut Worker, cost: Cost, batch: BatchPolicy, load: Load) -> Ran {
    let Load { rows, length, rest, named } = load;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let notes = Arc::new(Notes { clock: Arc::clone(&clock), seen: Mutex::default() });
    let (backend, found) = timed(cost);
    let settings = |_: &str| ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch,
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        open_bytes_max: None,
        devices: vec![0],
    };
    let loaded = load_catalog(&*backend, found, &*clock, settings).expect("the model can be served");
    let alarms = Alarms::new();
    let left = Left::default();
    let mut input = build(worker, loaded, backend, &clock, &notes, &alarms, &left);
    // The executors open their models before.
    let start = clock.now().after(Duration::from_millis(200));
    let mut sent = Vec::new();
    let mut rows = rows.peekable();
    while let Some(next) = rows.peek() {
        let (now, due) = (clock.now(), start.after(next.after));
        if due <= now {
            input.send(row(sent.len(), due, if named { next.tenant } else { 0 }));
            sent.extend(rows.next());
            continue;
        }
        input.flush();
        let alarm = alarms.ring(now);
        worker.step_or_park(Some(alarm.min(due).since(now)));
    }
    let end = start.after(length);
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
    let outcome = |(at, number): &(Moment, usize)| {
        let (at, Due { after, tenant }) = (at.since(start), sent[*number]);
        Outcome { at, latency: at.saturating_sub(after), tenant }
    };
    let left = left.borrow();
    let seen = notes.seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ran {
        outcomes: left.iter().filter(|(at, _)| *at <= end).map(outcome).collect(),
        batches: seen.iter().filter(|(at, _)| *at <= end).map(|(_, rows)| *rows).collect(),
        due: sent.len(),
        ended: left.len(),
    }
}

fn letters(clock: &Arc<dyn Clock>, observer: &Arc<dyn Observer>, health: &Arc<Health>) -> Letters {
    let (topic, group) = ("inference.requests".to_owned(), "inference-workers".to_owned());
    Letters {
        head: Arc::new(Letterhead { topic, group, partitions: 1, bytes_max: 1 << 20 }),
        clock: Arc::clone(clock),
        observer: Arc::clone(observer),
        breaker: Arc::new(Breaker::new(None, Arc::clone(health), Arc::clone(observer))),
    }
}

/// The operator and its device.
fn build(
    worker: &mut Worker,
    loaded: Loaded,
    backend: Arc<dyn Backend>,
    clock: &Arc<dyn Clock>,
    notes: &Arc<Notes>,
    alarms: &Alarms,
    left: &Left,
) -> Handle<u64, Arc<Block>> {
    let observer = Arc::clone(notes) as Arc<dyn Observer>;
    let health = Arc::<Health>::default();
    let letters = letters(clock, &observer, &health);
    let execute = ExecuteParts {
        tuning: Arc::default(),
        device: 0,
        backend,
        files: Arc::new(loaded.files),
        open_bytes_max: None,
        letters: letters.clone(),
        topic: "inference.requests".into(),
        result_bytes_max: 1 << 20,
        result_key_is_request_key: false,
        result_form: ResultForm::default(),
        journal: None,
        observer: Arc::clone(&observer),
        clock: Arc::clone(clock),
    };
    let infer = InferParts {
        tuning: Arc::default(),
        catalog: Arc::new(loaded.catalog),
        letters,
        allowances: Arc::default(),
        journal: None,
        health,
        observer: Arc::clone(&observer),
        clock: Arc::clone(clock),
    };
    let (clock, left, at) = (Arc::clone(clock), Rc::clone(left), Arc::clone(clock));
    worker.dataflow(|scope| {
        let (input, blocks) = scope.new_input();
        let outcomes = blocks.infer(infer, alarms, |home| {
            Box::new(Threads::start(ThreadsParts {
                tuning: Arc::default(),
                name: "bench".to_owned(),
                executor: Box::new(move || Executor::new(execute.clone())),
                executors: EXECUTORS,
                queued: QUEUED,
                home,
                warm: Arc::new(|| {}),
                grace: Duration::from_secs(10),
                stuck_max: 0,
                faults: Arc::default(),
                observer,
                clock,
            }))
        });
        let note = move |outcomes: &Arc<Outcomes>| {
            let number =
                |index| usize::try_from(outcomes.origin(index).1.0).expect("offsets are numbers of rows");
            let now = at.now();
            left.borrow_mut().extend((0..outcomes.len()).map(|index| (now, number(index))));
        };
        drop(outcomes.inspect(note).probe());
        input
    })
}

/// One row, due at this moment.
fn row(number: usize, due: Moment, tenant: u16) -> Arc<Block> {
    let mut polled = Polled { polled_at: due, ..Polled::default() };
    polled.records.push(None, Some(b"{}"));
    let offset = i64::try_from(number).expect("a bench has far fewer rows");
    polled.origins.push((Lease { partition: Partition(0), term: Term(1) }, Offset(offset)));
    polled.times.push(RecordTime { millis: 1_767_225_600_000, append: false });
    let mut block = Block::new(ModelIndex(0), 0, vec![Column::of_floats(1, vec![0.5])], Arc::new(polled));
    block.text = format!("request-tenant-{tenant:05}");
    block.rows.push(Row { record: 0, request_id: 0..7, tenant_id: 8..20 });
    Arc::new(block)
}

/// Rows of a tenant, due at random intervals: the same in every run of the same phases and seed.
pub(crate) struct Arrivals {
    next: Duration,
    tenant: u16,
    /// The phases that are left, the last first, each with its end.
    phases: Vec<(f64, Duration)>,
    random: ChaCha8Rng,
}

impl Arrivals {
    pub(crate) fn new(phases: &[Phase], tenant: u16, seed: u64) -> Self {
        let mut end = Duration::ZERO;
        let ends = phases.iter().map(|phase| {
            end += phase.length;
            (phase.rows_per_second, end)
        });
        let mut phases: Vec<(f64, Duration)> = ends.collect();
        phases.reverse();
        Self { next: Duration::ZERO, tenant, phases, random: ChaCha8Rng::seed_from_u64(seed) }
    }
}

impl Iterator for Arrivals {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        while self.phases.last().is_some_and(|(_, end)| self.next >= *end) {
            self.phases.pop();
        }
        let (rows_per_second, _) = self.phases.last()?;
        let due = Due { after: self.next, tenant: self.tenant };
        let gap = -(1.0 - self.random.random::<f64>()).ln() / rows_per_second;
        self.next += Duration::from_secs_f64(gap);
        Some(due)
    }
}

/// Notes when each batch was done, and how many rows it had.
struct Notes {
    clock: Arc<dyn Clock>,
    seen: Mutex<Vec<(Moment, usize)>>,
}

impl Observer for Notes {
    fn batch(&self, batch: &BatchSeen<'_>) {
        let noted = (self.clock.now(), batch.rows.len());
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
    }
}
