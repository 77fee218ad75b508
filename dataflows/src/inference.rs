//! The main job on one worker: source, decode, keyed exchange, inference, sink.
//!
//! ```text
//!   Source ──▶ Decode ──▶ KeyedExchange ──▶ Infer ──┐
//!                 └── dead letters ─────────────────┴─▶ Sink ──▶ outbox
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use operators::alarm::Alarms;
use operators::allowance::Allowances;
use operators::breaker::Breaker;
use operators::broker::PollLimit;
use operators::budget::{Budget, BudgetConfig};
use operators::catalog::{Catalog, ModelIndex};
use operators::clock::Clock;
use operators::codec::form::ResultForm;
use operators::commit::Delivery;
use operators::commit_order::CommitOrder;
use operators::continuity::Policy;
use operators::dead_letter::Letterhead;
use operators::decode::{Decode, DecodeParts};
use operators::device::Device;
use operators::exchange::KeyedExchange;
use operators::execute::ExecuteParts;
use operators::fault::Faults;
use operators::group::GroupParts;
use operators::health::Health;
use operators::holdings::Holdings;
use operators::infer::{Infer, InferParts};
use operators::journal::Journal;
use operators::letters::Letters;
use operators::model::{Backend, ModelFile};
use operators::observe::Observer;
use operators::outbox::{Outbox, TransactionLimit};
use operators::ports::Ports;
use operators::sink::{Progress, Sink, SinkParts};
use operators::source::{SourceParts, source};
use operators::tenure::Tenure;
use operators::tuning::Tuning;
use timely::dataflow::operators::Concatenate;
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

/// Everything that the main job can be told. Plain data: where it comes from is not its business.
#[derive(Clone, Debug)]
pub struct InferenceConfig {
    /// Timely workers in the process.
    pub workers: usize,
    /// Executor threads of the CPU device.
    pub executors: usize,
    /// The most bytes of model files that each of them keeps open, if there is a bound.
    pub open_bytes_max: Option<u64>,
    /// Batches that wait for an executor while it runs one.
    pub queued_batches: usize,
    /// How long a run that was cancelled may take to return before its executor is given up.
    pub run_grace: Duration,
    /// How many executors that were given up may be left behind.
    pub stuck_max: usize,
    /// What is promised.
    pub delivery: Delivery,
    /// Stable for the process's slot: `<app>.<group>.<instance>`. Only transactions need it.
    pub transactional_id: String,
    /// The consumer group.
    pub group: String,
    /// The topic that is read.
    pub requests: String,
    /// Its number of partitions.
    pub request_partitions: i32,
    /// Where results go.
    pub results: String,
    /// The largest result, key, value and headers, that the results topic takes, in bytes.
    pub result_bytes_max: usize,
    /// Whether the key of a result is its request's own key, rather than its request id.
    pub result_key_is_request_key: bool,
    /// In which form results are written.
    pub result_form: ResultForm,
    /// Where dead letters go.
    pub dead_letters: String,
    /// The number of partitions of the dead-letter topic.
    pub dead_letter_partitions: i32,
    /// The largest dead letter that its topic takes, in bytes.
    pub dead_letter_bytes_max: usize,
    /// The largest request that is decoded, in bytes.
    pub record_bytes_max: usize,
    /// What may be in flight in the process, in records.
    pub in_flight_records_max: usize,
    /// What may be in flight in the process, in bytes.
    pub in_flight_bytes_max: usize,
    /// What tenants and models get of a device, and what tenants may ask for.
    pub allowances: Arc<Allowances>,
    /// What the process may change of itself while it runs, shared with whoever changes it.
    pub tuning: Arc<Tuning>,
    /// What one activation of a source polls at most.
    pub activation: PollLimit,
    /// The dead letters of a minute for which no sender is to blame, at most; `None` for any number.
    pub dead_letters_per_minute_max: Option<u32>,
    /// The length of an epoch.
    pub epoch_interval: Duration,
    /// The time from one commit to the next.
    pub commit_interval: Duration,
    /// Which outcomes of a partition may be committed before which.
    pub commit_order: CommitOrder,
    /// What a transaction holds at most.
    pub commit_limit: TransactionLimit,
    /// When the broker aborts a transaction that is left open.
    pub transaction_timeout: Duration,
    /// What to do where a log does not go on where the group has left it.
    pub policy: Arc<Policy>,
    /// How long a record may be without an outcome while the process is ready; then the engine stops.
    pub open_max: Duration,
    /// How long revoked leases may take to finish what they have.
    pub revoke_drain_max: Duration,
    /// How long a graceful stop may take to finish what is in flight.
    pub stop_drain_max: Duration,
}

/// The models of a process: what is served, from which files, by what.
#[derive(Clone)]
pub struct Models {
    /// What model ids lead to.
    pub catalog: Arc<Catalog>,
    /// The file of each served model.
    pub files: Arc<BTreeMap<ModelIndex, ModelFile>>,
    /// What opens them.
    pub backend: Arc<dyn Backend>,
}

/// What the workers, the group thread and the transaction thread of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The way to the workers.
    pub ports: Arc<Ports>,
    /// Which leases are held.
    pub tenure: Arc<Tenure>,
    /// What is to be committed.
    pub outbox: Arc<Outbox>,
    /// What may be in flight.
    pub budget: Arc<Budget>,
    /// What the process may change of itself while it runs.
    pub tuning: Arc<Tuning>,
    /// A bound on dead letters.
    pub breaker: Arc<Breaker>,
    /// When the oldest epoch last came nearer to its end.
    pub progress: Arc<Progress>,
    /// Why the engine must stop.
    pub faults: Arc<Faults>,
    /// Whether the process is ready.
    pub health: Arc<Health>,
    /// Where it is written down what is in the model, if anywhere.
    pub journal: Option<Arc<Journal>>,
    /// Who hears about all this.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Shared {
    /// What a process of this configuration shares, nothing of it used yet.
    pub fn new(
        config: &InferenceConfig,
        health: Arc<Health>,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let budget = BudgetConfig {
            records_max: config.in_flight_records_max,
            bytes_max: config.in_flight_bytes_max,
            partitions: usize::try_from(config.request_partitions).unwrap_or(1),
        };
        let letters_max = config.dead_letters_per_minute_max;
        let breaker = Breaker::new(letters_max, Arc::clone(&health), Arc::clone(&observer));
        Self {
            ports: Arc::new(Ports::new(config.workers)),
            tenure: Arc::new(Tenure::new()),
            outbox: Arc::new(Outbox::new(config.commit_order)),
            budget: Arc::new(Budget::tuned(budget, Arc::clone(&config.tuning))),
            tuning: Arc::clone(&config.tuning),
            breaker: Arc::new(breaker),
            progress: Arc::default(),
            faults: Arc::new(Faults::new()),
            health,
            journal: None,
            observer,
            clock,
        }
    }

    /// What the group thread works with.
    pub fn group_parts(&self, config: &InferenceConfig) -> GroupParts {
        GroupParts {
            ports: Arc::clone(&self.ports),
            tenure: Arc::clone(&self.tenure),
            outbox: Arc::clone(&self.outbox),
            budget: Arc::clone(&self.budget),
            faults: Arc::clone(&self.faults),
            health: Arc::clone(&self.health),
            observer: Arc::clone(&self.observer),
            clock: Arc::clone(&self.clock),
            topic: config.requests.clone(),
            policy: Arc::clone(&config.policy),
            drain_max: config.revoke_drain_max,
            last_drain_max: config.stop_drain_max,
        }
    }

    fn letters(&self, config: &InferenceConfig) -> Letters {
        let head = Letterhead {
            topic: config.requests.clone(),
            group: config.group.clone(),
            partitions: config.dead_letter_partitions,
            bytes_max: config.dead_letter_bytes_max,
        };
        Letters {
            head: Arc::new(head),
            clock: Arc::clone(&self.clock),
            observer: Arc::clone(&self.observer),
            breaker: Arc::clone(&self.breaker),
        }
    }

    /// What the executors of a device work with.
    pub fn execute_parts(&self, config: &InferenceConfig, models: &Models, device: usize) -> ExecuteParts {
        let placed = |model: &ModelIndex| {
            models.catalog.served(*model).is_some_and(|served| served.devices.contains(&device))
        };
        let files = models.files.iter().filter(|(model, _)| placed(model));
        ExecuteParts {
            tuning: Arc::clone(&self.tuning),
            backend: Arc::clone(&models.backend),
            device,
            files: Arc::new(files.map(|(model, file)| (*model, file.clone())).collect()),
            open_bytes_max: config.open_bytes_max,
            letters: self.letters(config),
            topic: config.requests.as_str().into(),
            result_bytes_max: config.result_bytes_max,
            result_key_is_request_key: config.result_key_is_request_key,
            result_form: config.result_form,
            journal: self.journal.clone(),
            observer: Arc::clone(&self.observer),
            clock: Arc::clone(&self.clock),
        }
    }
}

/// Builds the graph on one worker. Call it on every worker of the process. `device` makes the device of this worker, given how to wake
/// the operator that uses it; a worker that is home to no device may give one without executors.
pub fn build(
    worker: &mut Worker,
    config: &InferenceConfig,
    models: &Models,
    shared: &Shared,
    alarms: &Alarms,
    device: impl FnOnce(SyncActivator) -> Box<dyn Device>,
) {
    let holdings: Holdings = Rc::new(RefCell::new(BTreeMap::new()));
    let source_parts = SourceParts {
        ports: Arc::clone(&shared.ports),
        budget: Arc::clone(&shared.budget),
        breaker: Arc::clone(&shared.breaker),
        outbox: Arc::clone(&shared.outbox),
        faults: Arc::clone(&shared.faults),
        observer: Arc::clone(&shared.observer),
        clock: Arc::clone(&shared.clock),
        epoch_interval: config.epoch_interval,
        activation: config.activation,
    };
    let decode_parts = DecodeParts {
        catalog: Arc::clone(&models.catalog),
        letters: shared.letters(config),
        bytes_max: config.record_bytes_max,
    };
    let infer_parts = InferParts {
        tuning: Arc::clone(&config.tuning),
        catalog: Arc::clone(&models.catalog),
        letters: shared.letters(config),
        allowances: Arc::clone(&config.allowances),
        journal: shared.journal.clone(),
        health: Arc::clone(&shared.health),
        observer: Arc::clone(&shared.observer),
        clock: Arc::clone(&shared.clock),
    };
    let sink_parts = SinkParts {
        outbox: Arc::clone(&shared.outbox),
        budget: Arc::clone(&shared.budget),
        faults: Arc::clone(&shared.faults),
        health: Arc::clone(&shared.health),
        observer: Arc::clone(&shared.observer),
        clock: Arc::clone(&shared.clock),
        progress: Arc::clone(&shared.progress),
        open_max: config.open_max,
        epoch_interval: config.epoch_interval,
    };
    worker.dataflow::<u64, _, _>(|scope| {
        let (blocks, letters) =
            source(scope, source_parts, Rc::clone(&holdings), alarms).decode(decode_parts);
        let outcomes = blocks.keyed_exchange().infer(infer_parts, alarms, device);
        scope.concatenate([letters, outcomes]).sink_home(sink_parts, holdings, alarms);
    });
}
