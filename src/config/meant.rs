//! The configuration as it is meant: plain values that the rest of the program uses, every one filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use operators::broker::TopicSpec;
use operators::catalog::{BatchPolicy, Limits, NotFinite};
use operators::model::InputOptions;
use operators::model::onnx::BucketRule;
use operators::share::Shares;

use super::autopilot::autopilot;
use super::capacity::{Capacity, capacity};
use super::fault::Fault;
use super::key::Key;
use super::models::{ModelOverrides, Models, models};
use super::secret::{Properties, Property};
use super::tenants::{Tenants, tenants};
use super::units::Count;
use super::written::{
    BatchFile, ClientChoice, ConfigFile, Delivery, GroupProtocol, LogFormat, OffsetsMissing,
    OffsetsOutOfRange, OnnxFile, Order, Provider, ResultKey, ResultsForm, TopicFile,
};

/// What `auto` is for the size and the wait of batches, without an objective and with one.
const STATIC_SIZE_MAX: usize = 64;
const STATIC_DELAY_MAX: Duration = Duration::from_millis(50);
const SLO_SIZE_MAX: usize = 256;

/// The first part of every transactional id.
const APPLICATION: &str = "tidemill";

/// Everything that can be told to Tidemill.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is promised.
    pub delivery: Delivery,
    /// Dataflow workers.
    pub workers: usize,
    /// The broker.
    pub kafka: Kafka,
    /// Topics.
    pub topics: Topics,
    /// When a transaction is committed.
    pub commit: Commit,
    /// The length of an epoch.
    pub epoch_interval: Duration,
    /// When a batch closes, for models without rules of their own.
    pub batch: Batch,
    /// Bounds of what is polled and not committed.
    pub in_flight: InFlight,
    /// The largest request that is taken, in bytes.
    pub records_bytes_max: usize,
    /// The longest from the poll of a request to its outcome, for models without a rule of their own.
    pub records_deadline: Option<Duration>,
    /// How long a request may be without outcome.
    pub outcome_deadline: Duration,
    /// The dead letters of a minute for which no sender is to blame, at most.
    pub dead_letters_per_minute_max: Option<u32>,
    /// Where it is written down what is in the models; `None` for nowhere.
    pub journal: Option<JournalFolder>,
    /// The key of results.
    pub results_key: ResultKey,
    /// Their form.
    pub results_form: ResultsForm,
    /// Where reading starts.
    pub offsets: Offsets,
    /// How long draining may take at the end.
    pub stop_drain_timeout: Duration,
    /// What tenants get.
    pub tenants: Tenants,
    /// The folder of models and what is particular to each.
    pub models: Models,
    /// ONNX Runtime.
    pub onnx: Onnx,
    /// Where `/metrics` and `/health` are served; `None` for nowhere.
    pub http_address: Option<String>,
    /// How many tenants have metrics of their own.
    pub http_tenants_max: usize,
    /// What capacity analysis goes by.
    pub capacity: Capacity,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which levels are logged, by module.
    pub log_filter: String,
}

/// The broker.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// The consumer group.
    pub group: String,
    /// What tells this process from the others of its group.
    pub instance: String,
    /// How long a start may take to reach the broker.
    pub start_timeout: Duration,
    /// How long a silent process keeps its partitions.
    pub session_timeout: Duration,
    /// How long the broker keeps a transaction open whose producer is silent.
    pub transaction_timeout: Duration,
    /// How members of the group are coordinated.
    pub group_protocol: GroupProtocol,
    /// Who produces results and dead letters.
    pub producer_client: ClientChoice,
    /// Who reads requests.
    pub consumer_client: ClientChoice,
    /// Whether the group keeps partitions for a process that is away for a while.
    pub static_membership: bool,
    /// Properties passed through to the consumer.
    pub consumer: Properties,
    /// Properties passed through to the producer.
    pub producer: Properties,
    /// Properties passed through to the admin client.
    pub admin: Properties,
}

impl Kafka {
    /// The id under which a later producer of this process fences an earlier one.
    pub fn transactional_id(&self) -> String {
        format!("{APPLICATION}.{}.{}", self.group, self.instance)
    }
}

/// The four topics, as they are to be made.
#[derive(Clone, Debug)]
pub struct Topics {
    /// Of requests.
    pub requests: TopicSpec,
    /// Of results.
    pub results: TopicSpec,
    /// Of dead letters.
    pub dlq: TopicSpec,
    /// Of the models' events.
    pub events: TopicSpec,
    /// Copies of each partition with production settings.
    pub production_replication: i32,
    /// Copies that must have a record, with production settings.
    pub production_min_insync_replicas: i32,
}

impl Topics {
    /// Each topic with its name in the configuration.
    pub fn all(&self) -> [(&'static str, &TopicSpec); 4] {
        [
            ("requests", &self.requests),
            ("results", &self.results),
            ("dlq", &self.dlq),
            ("events", &self.events),
        ]
    }

    /// The topics as they are to be made: with production settings, where wanted.
    pub fn specs(&self, production: bool) -> Vec<TopicSpec> {
        let mut specs: Vec<TopicSpec> = self.all().map(|(_, spec)| spec.clone()).to_vec();
        for spec in specs.iter_mut().filter(|_| production) {
            spec.replication = self.production_replication;
            let copies = self.production_min_insync_replicas.to_string();
            spec.config.insert("min.insync.replicas".to_owned(), copies);
        }
        specs
    }
}

/// When a transaction is committed.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The time since the first outcome in it.
    pub interval: Duration,
    /// Its outcomes.
    pub records_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// What is kept in order.
    pub order: Order,
}

/// When a batch closes, as far as it is written. What is not is filled in by [`Config::batch_policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The time from poll to outcome that is to be kept.
    pub slo: Option<Duration>,
    /// Rows at most.
    pub size_max: Option<usize>,
    /// The longest that a row waits.
    pub delay_max: Option<Duration>,
    /// The largest input of more than one row, in bytes.
    pub bytes_max: usize,
}

/// Bounds of what is polled and not committed.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// Records.
    pub records_max: usize,
    /// Bytes.
    pub bytes_max: usize,
}

/// Where reading starts.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// In a partition without a committed offset.
    pub missing: OffsetsMissing,
    /// In one whose committed offset is no longer in the log.
    pub out_of_range: OffsetsOutOfRange,
}

/// The folder of the crash journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFolder {
    /// The folder.
    pub path: PathBuf,
    /// Whether it was asked for, so that a process does not start without it.
    pub required: bool,
}

/// ONNX Runtime.
#[derive(Clone, Debug)]
pub struct Onnx {
    /// The path of the library, where it is given.
    pub library: Option<PathBuf>,
    /// Execution providers, in order.
    pub providers: Vec<Provider>,
    /// Whether to refuse to start when only the CPU took effect.
    pub require_gpu: bool,
    /// The devices, each by the number of its GPU.
    pub devices: Vec<i32>,
    /// Whether TensorRT may compute in half precision.
    pub fp16: bool,
    /// The sizes that batches are run at.
    pub buckets: BucketRule,
    /// Where TensorRT keeps the engines that it built; `None` for nowhere.
    pub engine_cache: Option<PathBuf>,
    /// Threads inside one run.
    pub intra_threads: usize,
    /// Executor threads of each device.
    pub executors: usize,
    /// The most bytes of model files that all executors keep open together.
    pub open_bytes_max: Option<usize>,
    /// The longest that one run may take, for models without a rule of their own.
    pub run_max: Option<Duration>,
    /// How long a run that was cancelled may take to return.
    pub run_grace: Duration,
    /// Executors that were given up and may be left behind.
    pub stuck_max: usize,
    /// The least that a run takes: so long, and so long for each row; `None` for no such bound.
    pub pace: Option<(Duration, Duration)>,
}

impl Config {
    /// When a batch of this model closes.
    pub fn batch_policy(&self, model: &str) -> BatchPolicy {
        self.policy(self.models.overrides.get(model))
    }

    /// The devices that a model is placed on, by their places among all.
    pub fn devices(&self, model: &str) -> Vec<usize> {
        let own = self.models.overrides.get(model).and_then(|model| model.devices.as_ref());
        let all = self.onnx.devices.iter().enumerate();
        let placed = all.filter(|(_, device)| own.is_none_or(|own| own.contains(device)));
        placed.map(|(place, _)| place).collect()
    }

    /// When a batch closes of a model without rules of its own.
    pub fn batch_policy_default(&self) -> BatchPolicy {
        self.policy(None)
    }

    fn policy(&self, own: Option<&ModelOverrides>) -> BatchPolicy {
        let own = own.cloned().unwrap_or_default();
        let size_max = own.size_max.unwrap_or(self.batch.size_max);
        let delay_max = own.delay_max.unwrap_or(self.batch.delay_max);
        // A wait of a model's own is to be obeyed, whatever the others have for an objective.
        let inherited = self.batch.slo.filter(|_| own.delay_max.flatten().is_none());
        // What nobody asked for must not be more than may be in flight.
        let size = |auto: usize| size_max.unwrap_or(auto.min(self.in_flight.records_max));
        match own.slo.unwrap_or(inherited) {
            Some(slo) => BatchPolicy::Slo { size_max: size(SLO_SIZE_MAX), slo },
            None => BatchPolicy::Static {
                size_max: size(STATIC_SIZE_MAX),
                delay_max: delay_max.unwrap_or(STATIC_DELAY_MAX),
            },
        }
    }

    /// The largest input of a batch of this model, in bytes.
    pub fn batch_bytes_max(&self, model: &str) -> usize {
        let own = self.models.overrides.get(model).and_then(|model| model.bytes_max);
        own.unwrap_or(self.batch.bytes_max)
    }

    /// How long this model's rows and runs may take.
    pub fn limits(&self, model: &str) -> Limits {
        let overrides = self.models.overrides.get(model);
        Limits {
            deadline: overrides.and_then(|model| model.deadline).unwrap_or(self.records_deadline),
            run_max: overrides.and_then(|model| model.run_max).unwrap_or(self.onnx.run_max),
        }
    }

    /// What tenants and models get of a device.
    pub fn shares(&self) -> Shares {
        let weight = |(id, model): (&String, &ModelOverrides)| Some((id.clone(), model.weight?));
        Shares {
            default: self.tenants.default,
            tenants: self.tenants.by_id.clone(),
            models: self.models.overrides.iter().filter_map(weight).collect(),
        }
    }

    /// What to do with this model's NaN and infinities.
    pub fn not_finite(&self, model: &str) -> NotFinite {
        self.models.overrides.get(model).and_then(|model| model.not_finite).unwrap_or_default()
    }

    /// What is configured of the inputs of this model, by their names.
    pub fn inputs(&self, model: &str) -> BTreeMap<String, InputOptions> {
        self.models.overrides.get(model).map(|model| model.inputs.clone()).unwrap_or_default()
    }

    /// Which output of this model is served, where that is configured.
    pub fn output(&self, model: &str) -> Option<&str> {
        self.models.overrides.get(model)?.output.as_deref()
    }
}

/// What a configuration takes from the machine that it is read on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// The host name, where it is known.
    pub host: Option<String>,
    /// The number of cores.
    pub cores: usize,
}

/// Finds out what is meant by what was written. A fault comes with the key that it is about.
pub(super) fn meant(written: ConfigFile, machine: &Machine) -> Result<Config, Vec<(Key, Fault)>> {
    let mut faults = Vec::new();
    let instance = instance(&written.kafka.instance.0, machine, &mut faults);
    let mut resolve = |kind: &str, properties| resolve(kind, properties, machine, &mut faults);
    let kafka = Kafka {
        bootstrap_servers: written.kafka.bootstrap_servers.0,
        group: written.kafka.group.0,
        instance,
        start_timeout: written.kafka.start_timeout.0,
        session_timeout: written.kafka.session_timeout.0,
        transaction_timeout: written.kafka.transaction_timeout.0,
        group_protocol: written.kafka.group_protocol,
        producer_client: written.kafka.producer_client,
        consumer_client: written.kafka.consumer_client,
        static_membership: written.kafka.static_membership,
        consumer: resolve("consumer", written.kafka.consumer),
        producer: resolve("producer", written.kafka.producer),
        admin: resolve("admin", written.kafka.admin),
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let onnx = onnx(written.onnx, machine);
    let suggested = executors(Count::Auto, onnx.devices.len(), machine);
    let autopilot =
        autopilot(&written.capacity.autopilot, onnx.executors, suggested, written.in_flight.records_max.0);
    Ok(Config {
        delivery: written.delivery,
        workers: count(written.workers, machine),
        kafka,
        topics: Topics {
            requests: topic(written.topics.requests),
            results: topic(written.topics.results),
            dlq: topic(written.topics.dlq),
            events: topic(written.topics.events),
            production_replication: written.topics.production.replication.0,
            production_min_insync_replicas: written.topics.production.min_insync_replicas.0,
        },
        commit: Commit {
            interval: written.commit.interval.0,
            records_max: written.commit.records_max.0,
            bytes_max: written.commit.bytes_max.0,
            order: written.commit.order,
        },
        epoch_interval: written.epoch.interval.0,
        batch: batch(written.batch),
        in_flight: InFlight {
            records_max: written.in_flight.records_max.0,
            bytes_max: written.in_flight.bytes_max.0,
        },
        records_bytes_max: written.records.bytes_max.0,
        records_deadline: written.records.deadline.0,
        outcome_deadline: written.outcome.deadline.0,
        dead_letters_per_minute_max: written.dead_letters.per_minute_max.0,
        journal: journal(written.journal.dir, machine),
        results_key: written.results.key,
        results_form: written.results.form,
        offsets: Offsets { missing: written.offsets.missing, out_of_range: written.offsets.out_of_range },
        stop_drain_timeout: written.stop.drain_timeout.0,
        tenants: tenants(&written.tenants),
        models: models(written.models),
        onnx,
        http_address: written.http.address.0,
        http_tenants_max: usize::from(written.http.tenants_max),
        capacity: capacity(&written.capacity, autopilot),
        log_format: written.log.format,
        log_filter: written.log.filter,
    })
}

fn count(written: Count, machine: &Machine) -> usize {
    match written {
        Count::Auto => machine.cores.clamp(1, 8),
        Count::Exactly(count) => count,
    }
}

/// Executor threads of each of so many devices.
fn executors(written: Count, devices: usize, machine: &Machine) -> usize {
    match written {
        Count::Auto => (machine.cores.clamp(1, 8) / devices.max(1)).max(1),
        Count::Exactly(executors) => executors,
    }
}

fn onnx(written: OnnxFile, machine: &Machine) -> Onnx {
    let devices: Vec<i32> = written.devices.into_iter().map(|device| device.0).collect();
    Onnx {
        library: Some(written.library).filter(|path| !path.as_os_str().is_empty()),
        providers: written.providers,
        require_gpu: written.require_gpu,
        executors: executors(written.executors, devices.len(), machine),
        devices,
        fp16: written.fp16,
        buckets: written.buckets.0,
        engine_cache: engine_cache(written.engine_cache, machine),
        intra_threads: written.intra_threads.0,
        open_bytes_max: written.open_bytes_max.0,
        run_max: written.run_max.0,
        run_grace: written.run_grace.0,
        stuck_max: written.stuck_max.0,
        pace: Some((written.pace.fixed.0, written.pace.row.0)).filter(|pace| *pace != Default::default()),
    }
}

fn instance(written: &str, machine: &Machine, faults: &mut Vec<(Key, Fault)>) -> String {
    let named = Some(written.to_owned()).filter(|name| !name.is_empty()).or_else(|| machine.host.clone());
    named.unwrap_or_else(|| {
        let fault = Fault::new("`kafka.instance` is empty and this machine has no host name").help(
            "set `kafka.instance` to a name that no other process of the group has, the same after a restart",
        );
        faults.push((Key::from_dotted("kafka.instance"), fault));
        String::new()
    })
}

/// The folder that is meant: `auto` is one below the user's cache, where there is a user; nothing is no folder.
fn engine_cache(written: PathBuf, machine: &Machine) -> Option<PathBuf> {
    if written.as_os_str() != "auto" {
        return Some(written).filter(|path| !path.as_os_str().is_empty());
    }
    // A path that is not absolute is to be passed over: so the XDG specification.
    let named =
        |name: &str| machine.environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("tidemill").join("engines"))
}

/// The folder that is meant: `auto` is that of the service, or of the user; nothing is no folder.
fn journal(written: PathBuf, machine: &Machine) -> Option<JournalFolder> {
    if written.as_os_str() != "auto" {
        let named = Some(written).filter(|path| !path.as_os_str().is_empty());
        return named.map(|path| JournalFolder { path, required: true });
    }
    let named =
        |name: &str| machine.environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd may name several, separated by colons.
    let service = machine.environment.get("STATE_DIRECTORY").and_then(|folders| folders.split(':').next());
    let service =
        service.map(PathBuf::from).filter(|path| path.is_absolute()).map(|path| path.join("journal"));
    let user =
        || named("XDG_STATE_HOME").or_else(|| named("HOME").map(|home| home.join(".local").join("state")));
    let path = service.or_else(|| user().map(|state| state.join("tidemill").join("journal")));
    path.map(|path| JournalFolder { path, required: false })
}

fn resolve(
    kind: &str,
    properties: BTreeMap<String, Property>,
    machine: &Machine,
    faults: &mut Vec<(Key, Fault)>,
) -> Properties {
    let mut resolved = Vec::new();
    for (property, value) in properties {
        match value.resolve(&machine.environment) {
            Ok(value) => resolved.push((property, value)),
            Err(reason) => {
                let key = Key::new(vec!["kafka".to_owned(), kind.to_owned(), property]);
                let fault = Fault::new(format!("`{key}` has no value: {reason}"));
                faults.push((key, fault));
            }
        }
    }
    resolved.into_iter().collect()
}

fn topic(written: TopicFile) -> TopicSpec {
    TopicSpec {
        name: written.name.0,
        partitions: written.partitions.0,
        replication: written.replication.0,
        config: written.config.into_iter().map(|(key, value)| (key, value.0)).collect(),
    }
}

fn batch(written: BatchFile) -> Batch {
    Batch {
        slo: written.slo.0,
        size_max: written.size_max.exactly().map(|size| size.0),
        delay_max: written.delay_max.exactly().map(|delay| delay.0),
        bytes_max: written.bytes_max.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_one_batch_policy_its_own_before_that_of_all() {
        let policy = |sets: &[&str]| {
            let sources = crate::config::Sources {
                sets: sets.iter().map(|set| (*set).to_owned()).collect(),
                machine: Machine { host: Some("h".into()), cores: 2, ..Machine::default() },
                ..crate::config::Sources::default()
            };
            let config = crate::config::load(&sources).unwrap().config;
            (config.batch_policy("m"), config.batch_policy("other"), config.batch_bytes_max("m"))
        };
        let millis = Duration::from_millis;
        let obeyed = |size_max, delay| BatchPolicy::Static { size_max, delay_max: millis(delay) };
        let kept = |size_max, slo| BatchPolicy::Slo { size_max, slo: millis(slo) };
        assert_eq!(policy(&[]), (obeyed(64, 50), obeyed(64, 50), 64 << 20));
        assert_eq!(policy(&["batch.slo=80ms"]), (kept(256, 80), kept(256, 80), 64 << 20));
        let small = ["batch.slo=80ms", "in_flight.records_max=100", "commit.records_max=100"];
        assert_eq!(policy(&small).0, kept(100, 80));
        let own = ["batch.slo=80ms", "models.m.batch.delay_max=5ms", "models.m.batch.bytes_max=1MiB"];
        assert_eq!(policy(&own), (obeyed(64, 5), kept(256, 80), 1 << 20));
        let own = ["batch.delay_max=5ms", "batch.size_max=8", "models.m.batch.slo=80ms"];
        assert_eq!(policy(&own), (kept(8, 80), obeyed(8, 5), 64 << 20));
        let own = ["batch.slo=80ms", "models.m.batch.slo=off", "models.m.batch.size_max=16"];
        assert_eq!(policy(&own), (obeyed(16, 50), kept(256, 80), 64 << 20));
    }

    #[test]
    fn the_journal_is_kept_where_the_service_or_the_user_keeps_state() {
        let found = |written: &str, environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            let machine = Machine { environment: environment.collect(), ..Machine::default() };
            journal(written.into(), &machine)
                .map(|folder| (folder.path.display().to_string(), folder.required))
        };
        let of = |path: &str, required| Some((path.to_owned(), required));
        let home = [("HOME", "/h")];
        assert_eq!(found("auto", &home), of("/h/.local/state/tidemill/journal", false));
        let state = [("HOME", "/h"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(found("auto", &state), of("/s/tidemill/journal", false));
        let service = [("HOME", "/h"), ("STATE_DIRECTORY", "/var/lib/t:/var/lib/u")];
        assert_eq!(found("auto", &service), of("/var/lib/t/journal", false));
        assert_eq!((found("auto", &[]), found("", &home)), (None, None));
        assert_eq!(found("j", &home), of("j", true));
    }

    #[test]
    fn engines_are_kept_in_the_users_cache_unless_told_otherwise() {
        let found = |written: &str, environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            let machine = Machine { environment: environment.collect(), ..Machine::default() };
            engine_cache(written.into(), &machine)
        };
        let home = [("HOME", "/h")];
        assert_eq!(found("auto", &home), Some("/h/.cache/tidemill/engines".into()));
        assert_eq!(
            found("auto", &[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]),
            Some("/c/tidemill/engines".into())
        );
        assert_eq!(
            found("auto", &[("HOME", "/h"), ("XDG_CACHE_HOME", "c")]),
            Some("/h/.cache/tidemill/engines".into())
        );
        assert_eq!(found("auto", &[]), None);
        assert_eq!(found("", &home), None);
        assert_eq!(found("engines", &home), Some("engines".into()));
    }
}
