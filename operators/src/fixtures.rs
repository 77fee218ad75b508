//! What the tests of several operators share: a queue to fill by hand, models that cost nothing, records, and an observer that
//! remembers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::WorkerConfig;
use timely::dataflow::operators::{Inspect, Probe};

use timely::dataflow::{ProbeHandle, StreamVec};
use timely::worker::Worker;

use crate::block::{Block, Row};
use crate::breaker::Breaker;
use crate::broker::simulated::SimulatedBroker;
use crate::broker::{
    Broker, BrokerError, Class, PollEnd, PollLimit, Polled, Queue, RecordTime, TopicSpec, Waker,
};
use crate::catalog::{BatchPolicy, Catalog, Limits, ModelIndex, NotFinite};
use crate::clock::{Clock, ManualClock, Moment};
use crate::codec::form::ResultForm;
use crate::dead_letter::{Letterhead, Reason, Stage};
use crate::execute::ExecuteParts;
use crate::lease::{Lease, NextOffset, Offset, Partition, Term};
use crate::letters::Letters;
use crate::model::load::{ModelSettings, load_catalog};
use crate::model::simulated::SimulatedBackend;
use crate::model::{Backend, ModelFile};
use crate::observe::{BatchSeen, CloseReason, CostSeen, LeaseSeen, Observer, Silent};
use crate::outcome::{Kind, Outcomes};
use crate::tensor::Column;

pub(crate) fn lease(partition: i32, term: u64) -> Lease {
    Lease { partition: Partition(partition), term: Term(term) }
}

/// Runs a dataflow on one worker, as [`timely::execute_directly`] does, which wants more of its closure than a test can give.
pub(crate) fn on_a_worker<R>(test: impl FnOnce(&mut Worker) -> R) -> R {
    let allocator = timely::communication::allocator::thread::Thread::default();
    let allocator = timely::communication::Allocator::Thread(allocator);
    let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
    let result = test(&mut worker);
    worker.installed_dataflows().into_iter().for_each(|graph| worker.drop_dataflow(graph));
    result
}

/// What has come out of a stream, with its epochs, and its frontier.
pub(crate) struct Watched<D> {
    pub(crate) out: Rc<RefCell<Vec<(u64, D)>>>,
    pub(crate) probe: ProbeHandle<u64>,
}

impl<D: Clone + 'static> Watched<D> {
    pub(crate) fn new(stream: StreamVec<'_, u64, D>) -> Self {
        let out = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&out);
        let stream = stream.inspect_core(move |event| {
            if let Ok((stamp, container)) = event {
                let epoch = *stamp.into_iter().next().expect("what is sent is sent at an epoch");
                seen.borrow_mut().extend(container.iter().map(|item| (epoch, item.clone())));
            }
        });
        Self { out, probe: stream.probe().0 }
    }

    /// The epoch that may still come, if one may.
    pub(crate) fn frontier(&self) -> Option<u64> {
        self.probe.with_frontier(|frontier| frontier.first().copied())
    }
}

/// A request: its model in the header and in the body.
pub(crate) fn request(model: &str, input: &[f32]) -> Message {
    Message::new(Some(model), &body(model, &format!("{input:?}")))
}

/// The value of a request.
pub(crate) fn body(model: &str, input: &str) -> String {
    format!(r#"{{"request_id":"r","tenant_id":"acme","model_id":"{model}","input":{input}}}"#)
}

/// A record before it is in a log.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    /// A message with this value, and with the header `model_id` if a model is given.
    pub(crate) fn new(model: Option<&str>, value: &str) -> Self {
        let header = |id: &str| ("model_id".to_owned(), Some(id.as_bytes().to_vec()));
        Self {
            key: Some(b"acme|m".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: model.into_iter().map(header).collect(),
        }
    }

    fn push(&self, lease: Lease, offset: Offset, into: &mut Polled) {
        into.records.push(self.key.as_deref(), self.value.as_deref());
        for (name, value) in &self.headers {
            into.records.push_header(name.as_bytes(), value.as_deref());
        }
        into.origins.push((lease, offset));
        into.times.push(RecordTime { millis: 1_000 + offset.0, append: false });
    }
}

/// The messages as one poll of `lease` brings them, from offset 0 on.
pub(crate) fn polled(lease: Lease, messages: &[Message], at: Moment) -> Arc<Polled> {
    let mut polled = Polled { polled_at: at, ..Polled::default() };
    for (offset, message) in (0..).zip(messages) {
        message.push(lease, Offset(offset), &mut polled);
    }
    Arc::new(polled)
}

/// A block of rows for a model, without the detour over JSON: row `n` is the record at offset `n` of `lease`.
pub(crate) fn block(model: ModelIndex, lease: Lease, rows: &[Vec<f32>], at: Moment) -> Arc<Block> {
    let messages = vec![Message::new(None, "{}"); rows.len()];
    let row_len = rows.first().map_or(1, Vec::len);
    let column = Column::of_floats(row_len, rows.concat());
    let mut block = Block::new(model, 0, vec![column], polled(lease, &messages, at));
    "racme".clone_into(&mut block.text);
    for (record, _) in (0..).zip(rows) {
        block.rows.push(Row { record, request_id: 0..1, tenant_id: 1..5 });
    }
    Arc::new(block)
}

/// The same with a tenant a row, whose floats are all one.
pub(crate) fn block_of(model: ModelIndex, lease: Lease, tenants: &[&str], at: Moment) -> Arc<Block> {
    let mut of_acme = block(model, lease, &vec![vec![1.0]; tenants.len()], at);
    let block = Arc::make_mut(&mut of_acme);
    for (row, tenant) in block.rows.iter_mut().zip(tenants) {
        let start = u32::try_from(block.text.len()).unwrap();
        block.text.push_str(tenant);
        row.tenant_id = start..u32::try_from(block.text.len()).unwrap();
    }
    of_acme
}

/// Results of the records at these offsets of a lease, on their way to worker 0. The value of each is its origin: `partition/offset`.
pub(crate) fn results(lease: Lease, offsets: impl IntoIterator<Item = i64>) -> Arc<Outcomes> {
    let mut outcomes = Outcomes::new(0);
    for offset in offsets {
        outcomes.push(lease, Offset(offset), Kind::Result, |records| {
            records.push(None, Some(format!("{}/{offset}", lease.partition.0).as_bytes()));
        });
    }
    Arc::new(outcomes)
}

/// A simulated broker with four partitions of `requests`, one of `results` and two of `dlq`, and its clock.
pub(crate) fn broker() -> (SimulatedBroker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let broker = SimulatedBroker::new(Arc::clone(&clock) as Arc<dyn Clock>, 1);
    for (name, partitions) in [("requests", 4), ("results", 1), ("dlq", 2)] {
        let topic = TopicSpec { name: name.into(), partitions, replication: 1, config: BTreeMap::new() };
        broker.admin().unwrap().create(&topic).unwrap();
    }
    (broker, clock)
}

/// What the group `workers` has committed of each partition of `requests`.
pub(crate) fn committed(broker: &SimulatedBroker) -> Vec<Option<i64>> {
    let partitions: Vec<Partition> = (0..4).map(Partition).collect();
    let committed = broker.admin().unwrap().committed("workers", "requests", &partitions).unwrap();
    committed.into_iter().map(|committed| committed.map(|committed| committed.next.0)).collect()
}

/// Models that are simulated: what serves them, what is known of them, and where they are found.
pub(crate) struct TestModels {
    pub(crate) backend: Arc<SimulatedBackend>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) files: Arc<BTreeMap<ModelIndex, ModelFile>>,
}

pub(crate) fn models(backend: SimulatedBackend, batch: BatchPolicy, not_finite: NotFinite) -> TestModels {
    models_within(backend, batch, not_finite, Limits::default())
}

/// The same, with limits to how long they may take.
pub(crate) fn models_within(
    backend: SimulatedBackend,
    batch: BatchPolicy,
    not_finite: NotFinite,
    limits: Limits,
) -> TestModels {
    let settings = |_: &str| ModelSettings {
        output: None,
        inputs: std::collections::BTreeMap::new(),
        not_finite,
        batch,
        batch_bytes_max: 1 << 20,
        limits,
        open_bytes_max: None,
        devices: vec![0],
    };
    let loaded = load_catalog(&backend, backend.found(), &ManualClock::new(), settings).unwrap();
    TestModels {
        backend: Arc::new(backend),
        catalog: Arc::new(loaded.catalog),
        files: Arc::new(loaded.files),
    }
}

pub(crate) fn letters(clock: &Arc<ManualClock>, observer: &Arc<Recorder>) -> Letters {
    let (topic, group) = ("requests".to_owned(), "workers".to_owned());
    Letters {
        head: Arc::new(Letterhead { topic, group, partitions: 4, bytes_max: 1 << 20 }),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        observer: Arc::clone(observer) as Arc<dyn Observer>,
        breaker: unbounded(),
    }
}

/// A breaker that never holds.
pub(crate) fn unbounded() -> Arc<Breaker> {
    Arc::new(Breaker::new(None, Arc::default(), Arc::new(Silent)))
}

/// What an executor of these models works with.
pub(crate) fn execute_parts(
    models: &TestModels,
    clock: &Arc<ManualClock>,
    observer: &Arc<Recorder>,
) -> ExecuteParts {
    ExecuteParts {
        tuning: Arc::default(),
        backend: Arc::clone(&models.backend) as Arc<dyn Backend>,
        device: 0,
        files: Arc::clone(&models.files),
        open_bytes_max: None,
        letters: letters(clock, observer),
        topic: "requests".into(),
        result_bytes_max: 4_096,
        result_key_is_request_key: false,
        result_form: ResultForm::default(),
        journal: None,
        observer: Arc::clone(observer) as Arc<dyn Observer>,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
    }
}

/// An observer that remembers what it was told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) dead_letters: Vec<(Reason, Stage)>,
    /// Why each batch closed, its rows with an outcome, and its calls.
    pub(crate) batches: Vec<(CloseReason, usize, u32)>,
    /// What was told last of what batches cost.
    pub(crate) cost: Option<CostSeen>,
    /// Rows that wait because they are over a quota, by tenant, and rows that ended for it.
    pub(crate) parked: BTreeMap<String, i64>,
    pub(crate) over_quota: usize,
    /// What executors have opened and closed, and whether it was opened.
    pub(crate) sessions: Vec<(ModelIndex, bool)>,
    pub(crate) cancelled: Vec<ModelIndex>,
    pub(crate) replaced: usize,
    pub(crate) polled: usize,
    pub(crate) committed: Vec<usize>,
    pub(crate) aborted: usize,
    pub(crate) rebuilt: usize,
    pub(crate) leases: Vec<LeaseSeen>,
    pub(crate) ended: Vec<Partition>,
    pub(crate) lost: Vec<(Partition, u64)>,
}

impl Recorder {
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn polled(&self, records: usize, _: usize) {
        self.seen.lock().unwrap().polled += records;
    }

    fn batch(&self, batch: &BatchSeen<'_>) {
        self.seen.lock().unwrap().batches.push((batch.closed, batch.rows.len(), batch.calls));
    }

    fn dead_letter(&self, reason: Reason, stage: Stage, _: Option<&str>) {
        self.seen.lock().unwrap().dead_letters.push((reason, stage));
    }

    fn cost(&self, _: ModelIndex, _: usize, cost: CostSeen) {
        self.seen.lock().unwrap().cost = Some(cost);
    }

    fn parked(&self, tenant: &str, rows: i64) {
        *self.seen.lock().unwrap().parked.entry(tenant.to_owned()).or_default() += rows;
    }

    fn over_quota(&self, _: &str, rows: usize) {
        self.seen.lock().unwrap().over_quota += rows;
    }

    fn committed(&self, records: usize, _: Duration) {
        self.seen.lock().unwrap().committed.push(records);
    }

    fn aborted(&self) {
        self.seen.lock().unwrap().aborted += 1;
    }

    fn lost(&self, partition: Partition, records: u64) {
        self.seen.lock().unwrap().lost.push((partition, records));
    }

    fn rebuilt(&self) {
        self.seen.lock().unwrap().rebuilt += 1;
    }

    fn lease(&self, lease: &LeaseSeen) {
        self.seen.lock().unwrap().leases.push(*lease);
    }

    fn lease_ended(&self, partition: Partition) {
        self.seen.lock().unwrap().ended.push(partition);
    }

    fn opened(&self, model: ModelIndex) {
        self.seen.lock().unwrap().sessions.push((model, true));
    }

    fn closed(&self, model: ModelIndex) {
        self.seen.lock().unwrap().sessions.push((model, false));
    }

    fn run_cancelled(&self, model: ModelIndex) {
        self.seen.lock().unwrap().cancelled.push(model);
    }

    fn executor_replaced(&self) {
        self.seen.lock().unwrap().replaced += 1;
    }
}

/// A queue that a test fills; clones are the same queue.
#[derive(Clone, Default)]
pub(crate) struct TestQueue {
    state: Arc<Mutex<QueueState>>,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(Offset, Message)>,
    end: i64,
    waker: Option<Waker>,
    broken: bool,
}

impl TestQueue {
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.state.lock().unwrap().waker = Some(waker);
    }

    /// Puts `count` small requests into the partition.
    pub(crate) fn append(&self, count: usize) {
        for _ in 0..count {
            let end = self.state.lock().unwrap().end;
            self.deliver(end);
            self.state.lock().unwrap().end += 1;
        }
    }

    /// Appends a control record, which no poll brings.
    pub(crate) fn append_control(&self) {
        self.state.lock().unwrap().end += 1;
    }

    /// Lets the next polls bring a record at this offset, be it for the second time.
    pub(crate) fn deliver(&self, offset: i64) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push_back((Offset(offset), request("m", &[1.0])));
        let waker = state.waker.clone().filter(|_| state.waiting.len() == 1);
        drop(state);
        if let Some(wake) = waker {
            wake();
        }
    }

    pub(crate) fn break_it(&self) {
        self.state.lock().unwrap().broken = true;
    }

    /// Records that no poll has brought yet.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting.len()
    }
}

impl Queue for TestQueue {
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(broker_error(Class::Fatal));
        }
        let (mut records, before) = (0, into.records.payload_bytes());
        while records < limit.records && (records == 0 || into.records.payload_bytes() - before < limit.bytes)
        {
            let Some((offset, message)) = state.waiting.pop_front() else { return Ok(PollEnd::Empty) };
            message.push(lease, offset, into);
            records += 1;
        }
        Ok(PollEnd::Limit)
    }

    fn position(&self) -> Option<NextOffset> {
        let state = self.state.lock().unwrap();
        Some(NextOffset(state.waiting.front().map_or(state.end, |(offset, _)| offset.0)))
    }

    fn end(&self) -> Option<NextOffset> {
        Some(NextOffset(self.state.lock().unwrap().end))
    }
}

pub(crate) fn broker_error(class: Class) -> BrokerError {
    BrokerError { class, operation: "do it", code: "TEST".to_owned(), message: format!("{class:?}") }
}
