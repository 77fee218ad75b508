//! A simulated broker with a load on it, an engine for it, and the audit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dataflows::engine::Engine;
use dataflows::inference::{InferenceConfig, Models};
use dataflows::lockstep::{self, End, Lots, Next, Progress};
use operators::allowance::Allowances;
use operators::broker::simulated::SimulatedBroker;
use operators::broker::{Broker, Isolation, LogRecord, PollLimit, TopicSpec};
use operators::catalog::{BatchPolicy, Limits, NotFinite};
use operators::clock::ManualClock;
use operators::codec::form::ResultForm;
use operators::commit::Delivery;
use operators::commit_order::CommitOrder;
use operators::dead_letter::Reason;
use operators::device::QUEUED;
use operators::health::Health;
use operators::lease::Partition;
use operators::model::load::{ModelSettings, load_catalog};
use operators::model::simulated::{SimulatedBackend, SimulatedModel, expected};
use operators::observe::Observer;
use operators::outbox::TransactionLimit;
use operators::share::{Share, Shares};
use tidemill::audit::{AuditOptions, AuditReport, Inputs, Lookup, Oracle, Tolerance, Unwatched, audit};
use tidemill::load::{Load, LoadForm, LoadOptions, ModelRow};

const ROW_LEN: usize = 4;
const OUTPUT_LEN: usize = 3;
pub(crate) const PARTITIONS: i32 = 6;
const RESULT_PARTITIONS: i32 = 4;

/// How large a world is.
pub(crate) struct WorldOptions {
    pub(crate) requests: u64,
    pub(crate) bad: f64,
    /// How long a request may take, if there is a bound.
    pub(crate) deadline: Option<Duration>,
    /// The objective of batches, if they have one.
    pub(crate) slo: Option<Duration>,
    /// What every tenant may ask for.
    pub(crate) share: Share,
    /// The form of results.
    pub(crate) form: ResultForm,
    pub(crate) delivery: Delivery,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            requests: 240,
            bad: 0.1,
            deadline: None,
            slo: None,
            share: Share::default(),
            form: ResultForm::default(),
            delivery: Delivery::ExactlyOnce,
        }
    }
}

/// A broker, its clock, its topics with a load on them, and models.
pub(crate) struct World {
    pub(crate) broker: SimulatedBroker,
    pub(crate) backend: Arc<SimulatedBackend>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) seen: Arc<Seen>,
    models: Models,
    /// Reasons for which a good request may end here.
    trusted: Vec<Reason>,
    share: Share,
    form: ResultForm,
    delivery: Delivery,
    order: Cell<CommitOrder>,
}

/// What the engine told about itself, as far as tests ask for it.
#[derive(Default)]
pub(crate) struct Seen {
    epoch_lag_max: AtomicU64,
    told: AtomicBool,
}

impl Seen {
    pub(crate) fn epoch_lag_max(&self) -> Option<u64> {
        self.told.load(Ordering::SeqCst).then(|| self.epoch_lag_max.load(Ordering::SeqCst))
    }
}

impl Observer for Seen {
    fn epoch_lag(&self, _: usize, ticks: u64) {
        self.told.store(true, Ordering::SeqCst);
        self.epoch_lag_max.fetch_max(ticks, Ordering::SeqCst);
    }
}

/// Says what a simulated model must have said.
struct Answers;

impl Oracle for Answers {
    fn lookup(&mut self, model_id: &str) -> Lookup {
        if model_id == "model-a" || model_id == "model-b" {
            Lookup::Serves { inputs: Inputs::of_floats(&[ROW_LEN]) }
        } else {
            Lookup::NoSuchModel
        }
    }

    fn infer(&mut self, _model_id: &str, input: &[f32]) -> Result<Vec<f32>, String> {
        Ok(expected(input, OUTPUT_LEN))
    }
}

impl World {
    /// Makes the topics and writes the load.
    pub(crate) fn new(seed: u64, options: WorldOptions) -> Self {
        let clock = Arc::new(ManualClock::new());
        let broker = SimulatedBroker::new(Arc::clone(&clock) as Arc<_>, seed);
        let mut admin = broker.admin().unwrap();
        for (name, partitions) in [("requests", PARTITIONS), ("results", RESULT_PARTITIONS), ("dlq", 2)] {
            let config = BTreeMap::new();
            admin.create(&TopicSpec { name: name.into(), partitions, replication: 1, config }).unwrap();
        }
        let backend = Arc::new(SimulatedBackend::new(
            ["model-a", "model-b"].map(|id| SimulatedModel::new(id, ROW_LEN, OUTPUT_LEN)),
        ));
        let batch = match options.slo {
            Some(slo) => BatchPolicy::Slo { size_max: 8, slo },
            None => BatchPolicy::Static { size_max: 8, delay_max: Duration::from_millis(20) },
        };
        let settings = |_: &str| ModelSettings {
            output: None,
            inputs: BTreeMap::new(),
            not_finite: NotFinite::Refuse,
            batch,
            batch_bytes_max: usize::MAX,
            limits: Limits { deadline: options.deadline, run_max: None },
            open_bytes_max: None,
            devices: vec![0],
        };
        let loaded = load_catalog(&*backend, backend.found(), &*clock, settings).unwrap();
        let models = Models {
            catalog: Arc::new(loaded.catalog),
            files: Arc::new(loaded.files),
            backend: Arc::clone(&backend) as Arc<_>,
        };
        let late = options.deadline.map(|_| Reason::DeadlineExceeded);
        let sheds = options.share.is_bounded() && options.share.wait_max.is_zero();
        let trusted = late.into_iter().chain(sheds.then_some(Reason::OverQuota)).collect();
        let (seen, order) = (Arc::default(), Cell::default());
        let WorldOptions { share, form, delivery, .. } = options;
        let world = Self { broker, backend, clock, seen, models, trusted, share, form, delivery, order };
        world.write(seed, &options);
        world
    }

    fn write(&self, seed: u64, options: &WorldOptions) {
        let models = ["model-a", "model-b"].map(|id| ModelRow::new(id, &[ROW_LEN])).to_vec();
        let load = LoadOptions {
            requests: options.requests,
            bad: options.bad,
            tenants: 5,
            models,
            seed,
            form: LoadForm::Mixed,
            oversized_bytes: 4_000,
            ..LoadOptions::default()
        };
        let mut writer = self.broker.writer().unwrap();
        for (tag, request) in Load::new(load).unwrap().enumerate() {
            writer.write("requests", None, None, request.record(), tag as u64).unwrap();
        }
        assert!(writer.flush(Duration::from_secs(1)));
    }

    /// An engine for this world.
    pub(crate) fn engine(&self) -> Engine {
        Engine {
            config: InferenceConfig {
                delivery: self.delivery,
                commit_order: self.order.get(),
                result_form: self.form,
                allowances: Arc::new(Allowances::new(Arc::new(Shares {
                    default: self.share,
                    ..Shares::default()
                }))),
                ..config()
            },
            models: self.models.clone(),
            broker: Arc::new(self.broker.as_instance("process-0")),
            health: Arc::new(Health::new()),
            journal: None,
            observer: Arc::clone(&self.seen) as Arc<_>,
            clock: Arc::clone(&self.clock) as Arc<_>,
            wrap_device: None,
        }
    }

    /// The next engines commit in this order.
    pub(crate) fn set_order(&self, order: CommitOrder) {
        self.order.set(order);
    }

    /// Lots that let a run come to its end.
    pub(crate) fn lots(seed: u64) -> Lots {
        Lots { seed, device_one_in: 1, time_step_max: Duration::from_millis(5), turns_max: 2_000_000 }
    }

    /// Runs an engine until everything is committed, or `crash` says so.
    pub(crate) fn run(&self, lots: Lots, crash: impl Fn(Progress) -> bool + Send + 'static) -> End {
        self.run_with(
            self.engine(),
            lots,
            move |progress| if crash(progress) { Next::Crash } else { Next::Go },
        )
    }

    /// Runs this engine until everything is committed, or `each` says otherwise.
    pub(crate) fn run_with(
        &self,
        engine: Engine,
        lots: Lots,
        mut each: impl FnMut(Progress) -> Next + Send + 'static,
    ) -> End {
        let broker = self.broker.clone();
        let mut stopping = false;
        lockstep::run(&engine, &self.clock, lots, move |progress| {
            let next = each(progress);
            if next != Next::Go {
                return next;
            }
            if !stopping && progress.turns % 64 == 0 {
                stopping = everything_is_committed(&broker);
            }
            if stopping { Next::Stop } else { Next::Go }
        })
    }

    /// Audits what is committed.
    pub(crate) fn audit(&self) -> AuditReport {
        self.audit_with(None)
    }

    /// Audits what is committed, and whether what was acknowledged had its outcome.
    pub(crate) fn audit_with(&self, ack_log: Option<PathBuf>) -> AuditReport {
        let options = AuditOptions {
            result_form: self.form,
            ack_log,
            details_max: 10_000,
            strict: true,
            trusted: self.trusted.clone(),
            tolerance: Tolerance { absolute: 1e-3, relative: 1e-6 },
            group: Some("workers".to_owned()),
            record_bytes_max: Some(4_000),
            duplicates_allowed: self.delivery == Delivery::AtLeastOnce,
            ..AuditOptions::new("requests", "results", "dlq")
        };
        audit(&self.broker, &options, &mut Answers, &mut Unwatched).unwrap()
    }

    /// The committed results of each request key, by the key and the partition of the results: the offsets of their requests.
    pub(crate) fn results_by_key(&self) -> BTreeMap<(String, i32), Vec<i64>> {
        let mut found: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for partition in 0..RESULT_PARTITIONS {
            let mut each = |record: LogRecord<'_>| {
                let result: serde_json::Value =
                    serde_json::from_slice(record.record.value().unwrap()).unwrap();
                let text = |name: &str| result[name].as_str().unwrap().to_owned();
                let key = format!("{}|{}", text("tenant_id"), text("model_id"));
                let offset = result["origin"]["offset"].as_i64().unwrap();
                found.entry((key, partition)).or_default().push(offset);
            };
            self.broker.read("results", Partition(partition), Isolation::ReadCommitted, &mut each).unwrap();
        }
        found
    }

    /// Asserts that each request ended once, and rightly.
    pub(crate) fn assert_clean(&self) {
        let report = self.audit();
        assert!(report.clean(), "{}\n{:#?}", report.last_line(), report.faults);
        assert!(report.requests > 0 && report.oracle_failure.is_none(), "{report:?}");
    }
}

fn everything_is_committed(broker: &SimulatedBroker) -> bool {
    let partitions: Vec<Partition> = (0..PARTITIONS).map(Partition).collect();
    let Ok(committed) =
        broker.admin().and_then(|mut admin| admin.committed("workers", "requests", &partitions))
    else {
        return false;
    };
    partitions.into_iter().zip(committed).all(|(partition, committed)| {
        let end = broker.read("requests", partition, Isolation::ReadCommitted, &mut |_| {}).unwrap();
        end.0 == 0 || committed.is_some_and(|committed| committed.next == end)
    })
}

fn config() -> InferenceConfig {
    InferenceConfig {
        workers: 1,
        executors: 2,
        open_bytes_max: None,
        queued_batches: QUEUED,
        run_grace: Duration::from_secs(1),
        stuck_max: 1,
        delivery: Delivery::ExactlyOnce,
        transactional_id: "tidemill.workers.process-0".into(),
        group: "workers".into(),
        requests: "requests".into(),
        request_partitions: PARTITIONS,
        results: "results".into(),
        result_bytes_max: 900_000,
        result_key_is_request_key: false,
        result_form: ResultForm::default(),
        dead_letters: "dlq".into(),
        dead_letter_partitions: 2,
        dead_letter_bytes_max: 900_000,
        record_bytes_max: 4_000,
        in_flight_records_max: 96,
        in_flight_bytes_max: 1 << 20,
        tuning: Arc::default(),
        allowances: Arc::default(),
        activation: PollLimit { records: 24, bytes: 64 << 10 },
        dead_letters_per_minute_max: None,
        epoch_interval: Duration::from_millis(10),
        commit_interval: Duration::from_millis(20),
        commit_order: CommitOrder::Partition,
        commit_limit: TransactionLimit { records: 30, bytes: 64 << 10 },
        transaction_timeout: Duration::from_secs(30),
        policy: Arc::default(),
        open_max: Duration::from_mins(10),
        revoke_drain_max: Duration::from_secs(2),
        stop_drain_max: Duration::from_mins(10),
    }
}
