//! Metrics: what the engine tells about itself, for Prometheus and for the summary of a run.
//!
//! Their number is bounded: models come from the catalog, partitions from leases, tenants up to a number that is configured, everything
//! else from enumerations. The page is in
//! the text format of `OpenMetrics`, which Prometheus reads.

mod capacity;
mod collectors;
mod devices;
mod engine;
mod histogram;
mod tenants;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dataflows::capacity::Gatherer;
use operators::block::Block;
use operators::catalog::{Catalog, Listing, ModelIndex};
use operators::clock::Clock;
use operators::dead_letter::{Reason, Stage};
use operators::health::Health;
use operators::lease::Partition;
use operators::observe::{BatchSeen, CloseReason, CostSeen, LeaseSeen, Observer};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use capacity::Capacity;
use collectors::{Leases, Process, Readiness};
use devices::{DeviceSeries, Devices};
use engine::Engine;
use histogram::{Histogram, ROWS, SECONDS};
use tenants::Tenants;

use crate::capacity::Kept;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The longest latency that the summary tells apart: an hour, in microseconds.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// Every metric of a process.
pub struct Metrics {
    registry: Registry,
    leases: Arc<Leases>,
    families: Families,
    engine: Engine,
    tenants: Tenants,
    models: OnceLock<Models>,
    latency: Mutex<hdrhistogram::Histogram<u64>>,
    /// Who is told too, to say what partitions could bear.
    gatherer: OnceLock<Arc<Gatherer>>,
    capacity: Arc<Capacity>,
}

/// Metrics with a series a model, or a worker.
#[derive(Debug)]
struct Families {
    model_records: Family<ModelLabel, Counter>,
    model_calls: Family<ModelLabel, Counter>,
    padded: Family<ModelLabel, Counter>,
    runs_cancelled: Family<ModelLabel, Counter>,
    sessions_opened: Family<ModelLabel, Counter>,
    sessions_open: Family<ModelLabel, Gauge>,
    devices: Devices,
    batch_records: Family<BatchLabels, Histogram, Rows>,
    inference_seconds: Family<ModelLabel, Histogram, Seconds>,
    queue_seconds: Family<ModelLabel, Histogram, Seconds>,
    latency_seconds: Family<ModelLabel, Histogram, Seconds>,
    dead_letters: Family<LetterLabels, Counter>,
    epoch_lag: Family<WorkerLabel, Gauge>,
    lost_records: Family<PartitionLabel, Counter>,
}

/// A gauge of seconds, and parts of them.

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BatchLabels {
    model: String,
    close_reason: &'static str,
}

/// `model` is empty where none is known.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LetterLabels {
    model: String,
    reason: &'static str,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    partition: i64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabel {
    worker: u64,
}

/// Makes histograms of seconds.
#[derive(Clone, Debug)]
struct Seconds;

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(&SECONDS)
    }
}

/// Makes histograms of rows.
#[derive(Clone, Debug)]
struct Rows;

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for Rows {
    fn new_metric(&self) -> Histogram {
        Histogram::new(&ROWS)
    }
}

/// The models of the catalog, and the series of each, so that a batch looks nothing up.
struct Models {
    ids: Vec<String>,
    series: Vec<ModelSeries>,
}

struct ModelSeries {
    records: Counter,
    calls: Counter,
    padded: Counter,
    cancelled: Counter,
    sessions_opened: Counter,
    sessions_open: Gauge,
    /// Those of each device that it is placed on, by its number.
    devices: BTreeMap<usize, DeviceSeries>,
    batches: BTreeMap<&'static str, Histogram>,
    inference: Histogram,
    queue: Histogram,
    latency: Histogram,
}

impl Metrics {
    /// Metrics that are all at zero. Those of models appear with [`Metrics::serve`].
    pub fn new(clock: Arc<dyn Clock>, health: Arc<Health>) -> Self {
        let mut registry = Registry::with_prefix("tidemill");
        let leases = Arc::new(Leases::new(clock));
        registry.register(
            "build",
            "What was built",
            Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec()),
        );
        let engine = Engine::register(&mut registry);
        let families = Families::register(&mut registry);
        let tenants = Tenants::register(&mut registry);
        registry.register_collector(Box::new(Arc::clone(&leases)));
        registry.register_collector(Box::new(Readiness(health)));
        registry.register_collector(Box::new(Process));
        let capacity = Arc::new(Capacity::default());
        registry.register_collector(Box::new(Arc::clone(&capacity)));
        let latency = hdrhistogram::Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
            .expect("an hour in microseconds fits three digits");
        let (models, latency, gatherer) = (OnceLock::new(), Mutex::new(latency), OnceLock::new());
        Self { registry, leases, families, engine, tenants, models, latency, gatherer, capacity }
    }

    /// Tells `gatherer` too what it is told, from now on. Call it once, before the engine runs.
    pub fn gather(&self, gatherer: Arc<Gatherer>) {
        self.gatherer.get_or_init(|| gatherer);
    }

    /// Shows what is found of the capacity of partitions. Call it once.
    pub fn show_capacity(&self, kept: Arc<Kept>) {
        self.capacity.show(kept);
    }

    /// Makes the series of these models: call it once, before the engine runs. What is told of other models is left out.
    pub fn serve(&self, catalog: &Catalog) {
        self.models.get_or_init(|| {
            let ids: Vec<String> = catalog.listings().iter().map(|listing| listing.id().to_owned()).collect();
            let series = catalog.listings().iter().map(|listing| match listing {
                Listing::Served(served) => self.families.series(&served.id, &served.devices),
                Listing::Unavailable { id, .. } => self.families.series(id, &[]),
            });
            let series = series.collect();
            Models { ids, series }
        });
    }

    /// Tells tenants apart: these, and whoever comes first, until there are `max`. All others are counted together; if `max` is zero,
    /// none are. Call it once, before the engine runs.
    pub fn tell_apart<'a>(&self, tenants: impl Iterator<Item = &'a str>, max: usize) {
        self.tenants.tell_apart(tenants, max);
    }

    /// The page for Prometheus.
    pub fn text(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("a text can be written to");
        page
    }

    /// What has happened so far.
    pub fn snapshot(&self) -> Snapshot {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let quantile = |quantile| Duration::from_micros(latency.value_at_quantile(quantile));
        let series = || self.models.get().into_iter().flat_map(|models| &models.series);
        Snapshot {
            polled: self.engine.polled_records.get(),
            inferred: series().map(|series| series.records.get()).sum(),
            batches: series().flat_map(|series| series.batches.values()).map(Histogram::count).sum(),
            calls: series().map(|series| series.calls.get()).sum(),
            committed: self.engine.committed_records.get(),
            commits: self.engine.commits.get(),
            aborts: self.engine.aborts.get(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: Duration::from_micros(latency.max()),
        }
    }

    fn model(&self, model: ModelIndex) -> Option<&ModelSeries> {
        self.models.get()?.series.get(model.0 as usize)
    }

    /// The id as a label: only those of the catalog, so that nobody can make series by sending names.
    fn known(&self, id: Option<&str>) -> String {
        let listed =
            |id: &&str| self.models.get().is_some_and(|models| models.ids.iter().any(|listed| listed == id));
        id.filter(listed).unwrap_or_default().to_owned()
    }
}

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            model_records: Family::default(),
            model_calls: Family::default(),
            padded: Family::default(),
            runs_cancelled: Family::default(),
            sessions_opened: Family::default(),
            sessions_open: Family::default(),
            devices: Devices::register(registry),
            batch_records: Family::new_with_constructor(Rows),
            inference_seconds: Family::new_with_constructor(Seconds),
            queue_seconds: Family::new_with_constructor(Seconds),
            latency_seconds: Family::new_with_constructor(Seconds),
            dead_letters: Family::default(),
            epoch_lag: Family::default(),
            lost_records: Family::default(),
        };
        registry.register("model_records", "Rows inferred", families.model_records.clone());
        registry.register("model_calls", "Calls of the model", families.model_calls.clone());
        let help = "Rows that the model computed to fill its batches up to the next of `onnx.buckets`";
        registry.register("padded_records", help, families.padded.clone());
        let help = "Runs that took too long and were cancelled";
        registry.register("runs_cancelled", help, families.runs_cancelled.clone());
        let help = "Times that an executor has opened the model";
        registry.register("sessions_opened", help, families.sessions_opened.clone());
        registry.register(
            "sessions_open",
            "Executors that have the model open",
            families.sessions_open.clone(),
        );
        registry.register(
            "batch_records",
            "Rows of a batch, by why it closed",
            families.batch_records.clone(),
        );
        registry.register(
            "inference_seconds",
            "Time of a batch in the model",
            families.inference_seconds.clone(),
        );
        registry.register(
            "queue_seconds",
            "From poll to the start of inference",
            families.queue_seconds.clone(),
        );
        registry.register("latency_seconds", "From poll to outcome", families.latency_seconds.clone());
        registry.register("dead_letters", "Dead letters", families.dead_letters.clone());
        registry.register(
            "epoch_lag_ticks",
            "Epochs from the source to the sink",
            families.epoch_lag.clone(),
        );
        registry.register(
            "lost_records",
            "Records that were lost, as an operator has accepted",
            families.lost_records.clone(),
        );
        families
    }

    fn series(&self, id: &str, devices: &[usize]) -> ModelSeries {
        let model = ModelLabel { model: id.to_owned() };
        let batches = CloseReason::ALL.map(|reason| {
            let labels = BatchLabels { model: id.to_owned(), close_reason: reason.name() };
            (reason.name(), self.batch_records.get_or_create_owned(&labels))
        });
        ModelSeries {
            records: self.model_records.get_or_create_owned(&model),
            calls: self.model_calls.get_or_create_owned(&model),
            padded: self.padded.get_or_create_owned(&model),
            cancelled: self.runs_cancelled.get_or_create_owned(&model),
            sessions_opened: self.sessions_opened.get_or_create_owned(&model),
            sessions_open: self.sessions_open.get_or_create_owned(&model),
            devices: self.devices.series(id, devices),
            batches: BTreeMap::from(batches),
            inference: self.inference_seconds.get_or_create_owned(&model),
            queue: self.queue_seconds.get_or_create_owned(&model),
            latency: self.latency_seconds.get_or_create_owned(&model),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Observer for Metrics {
    fn polled(&self, records: usize, bytes: usize) {
        self.engine.polled_records.inc_by(count(records));
        self.engine.polled_bytes.inc_by(count(bytes));
    }

    fn decoded(&self, block: &Block) {
        if let Some(gatherer) = self.gatherer.get() {
            gatherer.decoded(block);
        }
    }

    fn batch(&self, batch: &BatchSeen<'_>) {
        if let Some(gatherer) = self.gatherer.get() {
            gatherer.batch(batch);
        }
        let Some(series) = self.model(batch.model) else { return };
        series.records.inc_by(count(batch.rows.len()));
        series.calls.inc_by(u64::from(batch.calls));
        series.padded.inc_by(batch.padded as u64);
        // What a broken device has given nothing for will be a batch when it works again.
        if !batch.rows.is_empty() {
            series.batches[batch.closed.name()].observe(count(batch.rows.len()));
            series.inference.observe(micros(batch.inference));
        }
        series.queue.observe_all(batch.rows.iter().map(|row| micros(row.queue)));
        series.latency.observe_all(batch.rows.iter().map(|row| micros(row.total)));
        self.tenants.batch(batch.rows);
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for rows in batch.rows.chunk_by(|row, next| row.total == next.total) {
            latency.saturating_record_n(micros(rows[0].total), rows.len() as u64);
        }
    }

    fn dead_letter(&self, reason: Reason, stage: Stage, model: Option<&str>) {
        let labels = LetterLabels { model: self.known(model), reason: reason.name(), stage: stage.name() };
        self.families.dead_letters.get_or_create(&labels).inc();
    }

    fn cost(&self, model: ModelIndex, device: usize, cost: CostSeen) {
        if let Some(gatherer) = self.gatherer.get() {
            gatherer.cost(model, device, cost);
        }
        if let Some(series) = self.model(model).and_then(|series| series.devices.get(&device)) {
            series.cost(cost);
        }
    }

    fn queued(&self, model: ModelIndex, device: usize, rows: usize) {
        if let Some(series) = self.model(model).and_then(|series| series.devices.get(&device)) {
            series.queued(rows);
        }
    }

    fn parked(&self, tenant: &str, rows: i64) {
        self.tenants.parked(tenant, rows);
    }

    fn over_quota(&self, tenant: &str, rows: usize) {
        self.tenants.over_quota(tenant, rows);
    }

    fn committed(&self, records: usize, took: Duration) {
        self.engine.commits.inc();
        self.engine.committed_records.inc_by(count(records));
        self.engine.commit_seconds.observe(micros(took));
    }

    fn aborted(&self) {
        self.engine.aborts.inc();
    }

    fn lost(&self, partition: Partition, records: u64) {
        let labels = PartitionLabel { partition: partition.0.into() };
        self.families.lost_records.get_or_create(&labels).inc_by(records);
    }

    fn rebuilt(&self) {
        self.engine.rebuilds.inc();
    }

    fn lease(&self, lease: &LeaseSeen) {
        self.leases.seen(lease);
        if let Some(gatherer) = self.gatherer.get() {
            gatherer.lease(lease);
        }
    }

    fn lease_ended(&self, partition: Partition) {
        self.leases.ended(partition);
        if let Some(gatherer) = self.gatherer.get() {
            gatherer.lease_ended(partition);
        }
    }

    fn epoch_lag(&self, worker: usize, ticks: u64) {
        let labels = WorkerLabel { worker: count(worker) };
        self.families.epoch_lag.get_or_create(&labels).set(i64::try_from(ticks).unwrap_or(i64::MAX));
    }

    fn opened(&self, model: ModelIndex) {
        if let Some(series) = self.model(model) {
            series.sessions_opened.inc();
            series.sessions_open.inc();
        }
    }

    fn closed(&self, model: ModelIndex) {
        if let Some(series) = self.model(model) {
            series.sessions_open.dec();
        }
    }

    fn run_cancelled(&self, model: ModelIndex) {
        if let Some(series) = self.model(model) {
            series.cancelled.inc();
        }
    }

    fn executor_replaced(&self) {
        self.engine.executors_replaced.inc();
    }

    fn breaker(&self, holds: bool) {
        self.engine.breaker_holds.set(holds.into());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// What has happened so far, for the summary of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests polled, those polled again included.
    pub polled: u64,
    /// Rows inferred.
    pub inferred: u64,
    /// Batches they ran in.
    pub batches: u64,
    /// Calls of models.
    pub calls: u64,
    /// Requests whose outcome was committed.
    pub committed: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions aborted.
    pub aborts: u64,
    /// Half of the rows had their outcome this long after their poll, or sooner.
    pub p50: Duration,
    /// 99 of 100 rows.
    pub p99: Duration,
    /// 999 of 1,000 rows.
    pub p999: Duration,
    /// Every row.
    pub max: Duration,
}

impl Snapshot {
    /// Rows of a batch on average; zero where there was none.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    pub fn batch_size_mean(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.inferred as f64 / self.batches as f64 }
    }
}

#[cfg(test)]
mod tests;
