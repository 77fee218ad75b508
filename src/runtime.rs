//! From a configuration to an engine: the models opened, the topics looked at, the parts put together.

use std::sync::Arc;

use dataflows::capacity::{Gatherer, Setup};
use dataflows::engine::{Engine, LOADING};
use dataflows::inference::{InferenceConfig, Models};
use operators::allowance::Allowances;
use operators::broker::{Broker, PollLimit, TopicDescription};
use operators::catalog::{Catalog, Listing};
use operators::clock::Clock;
use operators::commit::Delivery;
use operators::commit_order::CommitOrder;
use operators::continuity::{Missing, Policy};
use operators::dead_letter::Letterhead;
use operators::device::QUEUED;
use operators::fault::Fault;
use operators::health::Health;
use operators::journal::Journal;
use operators::model::load::{ModelSettings, load_catalog};
use operators::model::store::{self, Found};
use operators::outbox::TransactionLimit;
use operators::tuning::Tuning;

use crate::capacity::{Autopilot, Watch, configured, model_setup, retention};
use crate::cli::{Candidate, CliError, Context, Exit};
use crate::config::{self, Config, JournalFolder, OffsetsMissing, Order, ResultKey, batch_bytes_max};
use crate::load::ModelRow;
use crate::metrics::Metrics;

/// What one activation of a source polls at most: enough to be worth an activation, little enough not to hold a worker up.
const ACTIVATION: PollLimit = PollLimit { records: 4_096, bytes: 1 << 20 };

/// What Kafka adds to a record on the wire, in bytes, at most.
pub(crate) const RECORD_WIRE_OVERHEAD: usize = 1_024;

/// What a broker takes where it does not say.
const TOPIC_BYTES_MAX: usize = 1_048_588;

/// An engine, and what is asked about it while it runs.
pub struct Prepared {
    /// The engine.
    pub engine: Engine,
    /// What it tells about itself.
    pub metrics: Arc<Metrics>,
    /// Whether it is ready.
    pub health: Arc<Health>,
    /// Its watch over what its partitions could bear, for as long as this is kept.
    pub watch: Option<Watch>,
}

/// Opens the models of the folder.
///
/// # Errors
///
/// If there is no model that can be served, or a provider is required and absent.
pub fn open_models(config: &Config, context: &Context) -> Result<Models, CliError> {
    let backend = context.surroundings().backend(config)?;
    let found = found(context.surroundings().models(config)?);
    let settings = |id: &str| ModelSettings {
        output: config.output(id).map(str::to_owned),
        inputs: config.inputs(id),
        not_finite: config.not_finite(id),
        batch: config.batch_ceiling(id),
        batch_bytes_max: config.batch_bytes_max(id),
        limits: config.limits(id),
        open_bytes_max: open_bytes_max(config),
        devices: config.devices(id),
    };
    let loaded = load_catalog(&*backend, found, &*context.clock, settings)?;
    if loaded.files.is_empty() {
        let path = config.models.path.display();
        let reasons: String = loaded
            .catalog
            .listings()
            .iter()
            .filter_map(|listing| match listing {
                Listing::Unavailable { id, reason } => Some(format!("; {id}: {reason}")),
                Listing::Served(_) => None,
            })
            .collect();
        let message = format!("there is no model in {path} that can be served{reasons}");
        return Err(CliError::failed(Exit::ModelsAbsent, message)
            .with_help("set `models.path` to the folder of models"));
    }
    Ok(Models { catalog: Arc::new(loaded.catalog), files: Arc::new(loaded.files), backend })
}

/// The most bytes of model files that one executor keeps open.
pub fn open_bytes_max(config: &Config) -> Option<u64> {
    let executors = config.executors_started() * config.onnx.devices.len();
    let together = config.onnx.open_bytes_max? / executors.max(1);
    Some(u64::try_from(together).unwrap_or(u64::MAX))
}

/// What the surroundings found, as the loader of the catalog takes it.
fn found(candidates: Vec<Candidate>) -> Found {
    let mut found = Found { files: Vec::new(), faults: Vec::new() };
    for Candidate { id, file } in candidates {
        match file {
            Ok(file) => found.files.push(file),
            Err(reason) => {
                let known = operators::model::is_model_id(id.as_bytes());
                let path = id.clone().into();
                found.faults.push(store::Fault { id: known.then_some(id), path, reason });
            }
        }
    }
    found
}

/// Puts an engine together.
///
/// # Errors
///
/// If the broker can't be reached, a topic is missing, or the models can't be opened.
pub fn prepare(config: &Config, context: &Context, broker: Arc<dyn Broker>) -> Result<Prepared, CliError> {
    let health = Arc::new(Health::new());
    health.set_unready(LOADING, "the models are being opened");
    let metrics = Arc::new(Metrics::new(Arc::clone(&context.clock), Arc::clone(&health)));
    let models = open_models(config, context)?;
    metrics.serve(&models.catalog);
    let named = config.tenants.by_id.keys().map(String::as_str);
    metrics.tell_apart(named, config.http_tenants_max);
    let topics = Topics::look(config, &*broker)?;
    let journal = journal(config, &models, context)?;
    let tuning = Arc::new(Tuning::new(models.catalog.listings().len()));
    let watch = watch(config, context, &models.catalog, &topics.requests, &metrics, &tuning)?;
    let engine = Engine {
        journal,
        config: inference_config(config, &topics, tuning),
        models,
        broker,
        health: Arc::clone(&health),
        observer: Arc::clone(&metrics) as Arc<_>,
        clock: Arc::clone(&context.clock) as Arc<dyn Clock>,
        wrap_device: None,
    };
    Ok(Prepared { engine, metrics, health, watch })
}

/// What capacity analysis has to know of the engine.
fn setup(config: &Config, catalog: &Catalog, requests: &TopicDescription) -> Setup {
    let served = catalog.listings().iter().filter_map(|listing| match listing {
        Listing::Served(served) => {
            // As it begins: an autopilot may raise it up to what is served.
            let policy = config.batch_policy(&served.id).within(served.batch.size_max());
            Some(model_setup(config, &served.id, policy, served.devices.clone()))
        }
        Listing::Unavailable { .. } => None,
    });
    Setup {
        partitions: usize::try_from(requests.partitions).unwrap_or(0),
        devices: catalog.devices(),
        models: served.collect(),
        ..configured(config, retention(requests))
    }
}

/// The engine's watch over what its partitions could bear.
fn watch(
    config: &Config,
    context: &Context,
    catalog: &Catalog,
    requests: &TopicDescription,
    metrics: &Metrics,
    tuning: &Arc<Tuning>,
) -> Result<Option<Watch>, CliError> {
    if !config.capacity.observe {
        return Ok(None);
    }
    let setup = setup(config, catalog, requests);
    let models = catalog.listings().iter().map(|listing| listing.id().to_owned()).collect();
    let gatherer = Arc::new(Gatherer::new(models, config.capacity.keys_max));
    metrics.gather(Arc::clone(&gatherer));
    let clock = Arc::clone(&context.clock);
    let autopilot = Autopilot::new(config, catalog, Arc::clone(tuning)).map_err(|error| {
        let path = config.capacity.autopilot.audit.clone().unwrap_or_default();
        CliError::failed(Exit::Unusable, format!("could not write {}: {error}", path.display()))
            .with_help("set `capacity.autopilot.audit` to a file that can be written, or to \"\" for none")
    })?;
    let (objective, span) = (config.capacity.objective, config.capacity.span);
    let watch = Watch::start(gatherer, setup, objective, span, clock, autopilot)
        .map_err(|error| CliError::failed(Exit::Failed, format!("could not start a thread: {error}")))?;
    metrics.show_capacity(watch.kept());
    Ok(Some(watch))
}

/// The crash journal of this process: one folder for each group and topic.
fn journal(config: &Config, models: &Models, context: &Context) -> Result<Option<Arc<Journal>>, CliError> {
    let Some(JournalFolder { path, required }) = &config.journal else { return Ok(None) };
    let topic = &config.topics.requests.name;
    let folder = path.join(&config.kafka.group).join(topic);
    let served = models.files.keys().filter_map(|model| models.catalog.served(*model));
    let rows_max = served.map(|served| served.batch.size_max()).max().unwrap_or(1);
    match Journal::open(&folder, topic, rows_max, context.clock.wall_micros() / 1_000_000) {
        Ok(journal) => Ok(Some(Arc::new(journal))),
        Err(error) if *required => Err(CliError::failed(Exit::Unusable, error.to_string())
            .with_help("set `journal.dir` to a folder that can be written, or to \"\" for no journal")),
        Err(error) => {
            tracing::warn!(%error, "no crash journal: a record that brings the process down does so for ever");
            Ok(None)
        }
    }
}

/// The topics as they are.
struct Topics {
    requests: TopicDescription,
    results: TopicDescription,
    dlq: TopicDescription,
}

impl Topics {
    fn look(config: &Config, broker: &dyn Broker) -> Result<Self, CliError> {
        let mut admin = broker.admin()?;
        let mut look = |name: &str| -> Result<TopicDescription, CliError> {
            admin.describe(name)?.ok_or_else(|| {
                CliError::failed(Exit::Unreachable, format!("there is no topic {name:?}"))
                    .with_help("`tidemill topics create` makes the four topics")
            })
        };
        let topics = Self {
            requests: look(&config.topics.requests.name)?,
            results: look(&config.topics.results.name)?,
            dlq: look(&config.topics.dlq.name)?,
        };
        topics.take_what_is_sent(config)?;
        Ok(topics)
    }

    /// A batch that its topic refuses costs its transaction, and the next one, without end.
    fn take_what_is_sent(&self, config: &Config) -> Result<(), CliError> {
        let batch = usize::try_from(batch_bytes_max(config)).unwrap_or(usize::MAX);
        for (topic, seen) in [(&config.topics.results, &self.results), (&config.topics.dlq, &self.dlq)] {
            let taken = topic_bytes_max(seen);
            if taken < batch {
                let message = format!(
                    "topic {}: max.message.bytes = {taken} is less than the largest batch of the producer = {batch}",
                    topic.name
                );
                let help = format!(
                    "set `kafka.producer.\"batch.size\"` to {taken} or less, or raise the topic's limit"
                );
                return Err(CliError::failed(Exit::Unusable, message).with_help(help));
            }
        }
        let (taken, least) = (topic_bytes_max(&self.dlq), Letterhead::BYTES_MIN + RECORD_WIRE_OVERHEAD);
        if taken < least {
            let message = format!(
                "topic {}: max.message.bytes = {taken}, and a dead letter may need {least}",
                config.topics.dlq.name
            );
            return Err(CliError::failed(Exit::Unusable, message).with_help("raise the topic's limit"));
        }
        Ok(())
    }
}

/// What a topic takes at most, in bytes.
fn topic_bytes_max(topic: &TopicDescription) -> usize {
    let found = topic.config.get("max.message.bytes").and_then(|text| text.parse().ok());
    found.unwrap_or(TOPIC_BYTES_MAX)
}

/// The largest record, key, value and headers, that fits a topic and the producer.
fn bytes_max(topic: &TopicDescription, config: &Config) -> usize {
    let mut producer = config.kafka.producer.iter();
    let producer = producer.find(|(property, _)| *property == "message.max.bytes");
    let producer = producer.and_then(|(_, value)| value.parse().ok()).unwrap_or(1_000_000);
    topic_bytes_max(topic).min(producer).saturating_sub(RECORD_WIRE_OVERHEAD)
}

fn inference_config(config: &Config, topics: &Topics, tuning: Arc<Tuning>) -> InferenceConfig {
    InferenceConfig {
        workers: config.workers,
        executors: config.executors_started(),
        open_bytes_max: open_bytes_max(config),
        queued_batches: QUEUED,
        run_grace: config.onnx.run_grace,
        stuck_max: config.onnx.stuck_max,
        delivery: match config.delivery {
            config::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
            config::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
        },
        transactional_id: config.kafka.transactional_id(),
        group: config.kafka.group.clone(),
        requests: config.topics.requests.name.clone(),
        request_partitions: topics.requests.partitions,
        results: config.topics.results.name.clone(),
        result_bytes_max: bytes_max(&topics.results, config),
        result_key_is_request_key: config.results_key == ResultKey::RequestKey,
        result_form: config.results_form.meant(),
        dead_letters: config.topics.dlq.name.clone(),
        dead_letter_partitions: topics.dlq.partitions,
        dead_letter_bytes_max: bytes_max(&topics.dlq, config),
        record_bytes_max: config.records_bytes_max,
        in_flight_records_max: config.in_flight.records_max,
        in_flight_bytes_max: config.in_flight.bytes_max,
        tuning,
        allowances: Arc::new(Allowances::new(Arc::new(config.shares()))),
        activation: ACTIVATION,
        dead_letters_per_minute_max: config.dead_letters_per_minute_max,
        epoch_interval: config.epoch_interval,
        commit_interval: config.commit.interval,
        commit_order: match config.commit.order {
            Order::Partition => CommitOrder::Partition,
            Order::Key => CommitOrder::Key,
            Order::None => CommitOrder::None,
        },
        commit_limit: TransactionLimit { records: config.commit.records_max, bytes: config.commit.bytes_max },
        transaction_timeout: config.kafka.transaction_timeout,
        policy: Arc::new(Policy { missing: missing(config.offsets.missing), accepted: Vec::new() }),
        open_max: config.outcome_deadline,
        revoke_drain_max: config.stop_drain_timeout.min(std::time::Duration::from_secs(2)),
        stop_drain_max: config.stop_drain_timeout,
    }
}

fn missing(written: OffsetsMissing) -> Missing {
    match written {
        OffsetsMissing::Earliest => Missing::Earliest,
        OffsetsMissing::Stop => Missing::Stop,
    }
}

/// What a fault of the engine means to whoever started the process.
pub fn fault_error(fault: &Fault) -> CliError {
    let (exit, help) = match fault {
        Fault::Fenced { .. } => {
            (Exit::Fenced, "stop the other process, or give each its own `kafka.instance`")
        }
        Fault::MissingOutcome { .. } | Fault::SurplusOutcome { .. } => (
            Exit::OutcomeMissing,
            "this is a defect of Tidemill: nothing was committed past it, and a restart begins there. Please report it with the log",
        ),
        Fault::Overdue { .. } => (
            Exit::OutcomeMissing,
            "if a model may take so long, raise `outcome.deadline`; else this is a defect: please report it with the log",
        ),
        Fault::Stuck { .. } => (
            Exit::OutcomeMissing,
            "look at the device and at the model; if a run may take so long, raise `onnx.run_max`. A new start does the work again",
        ),
        Fault::LogChanged(breaks) if !breaks.arguments().is_empty() => (
            Exit::OffsetsOutOfRange,
            "nothing was skipped. When the loss is accepted, start again with the `--accept-loss` of the message",
        ),
        Fault::LogChanged(_) => (
            Exit::OffsetsOutOfRange,
            "nothing was skipped. Where to read on is for you to say: set the group's offsets with Kafka's own tools and start again, or, where nothing is committed, with `offsets.missing = \"earliest\"`",
        ),
        Fault::TopicChanged { .. } => (
            Exit::OffsetsOutOfRange,
            "nothing of the new topic was skipped. Start again: what is committed of the old one is named then, with what accepts its loss",
        ),
        Fault::TopicGone { .. } => (
            Exit::OffsetsOutOfRange,
            "make it again, with `tidemill topics create`, and start again: what is committed of the old one is named then",
        ),
        Fault::Metadata { .. } => {
            (Exit::OffsetsOutOfRange, "use another `kafka.group`, or reset this one's offsets")
        }
        Fault::MetadataTooLarge => (
            Exit::Failed,
            "set the broker's `offset.metadata.max.bytes` to 4096, Kafka's default; nothing was lost",
        ),
        Fault::Unreconciled { .. } | Fault::ForeignCommit { .. } => (
            Exit::Failed,
            "somebody else commits for this `kafka.group`: find out who, then start again; nothing more was committed",
        ),
        Fault::Broker(error) => return CliError::Broker(error.clone()),
    };
    CliError::failed(exit, fault.to_string()).with_help(help)
}

/// The models that are served and take one row of floats: what requests can be made up for.
pub fn model_rows(catalog: &Catalog) -> Vec<ModelRow> {
    let mut rows: Vec<ModelRow> = catalog
        .listings()
        .iter()
        .filter_map(|listing| match listing {
            Listing::Served(served) => ModelRow::of(&served.id, &served.signature),
            Listing::Unavailable { .. } => None,
        })
        .collect();
    rows.sort_by(|left, right| left.id.cmp(&right.id));
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Machine, Sources, load};

    fn taken(sets: &[&str], results: usize, dlq: usize) -> Result<(), String> {
        let machine = Machine { host: Some("h".into()), cores: 2, ..Machine::default() };
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let config = load(&Sources { sets, machine, ..Sources::default() }).unwrap().config;
        let topic = |bytes: usize| TopicDescription {
            partitions: 1,
            replication: 1,
            config: BTreeMap::from([("max.message.bytes".to_owned(), bytes.to_string())]),
        };
        let topics = Topics { requests: topic(1), results: topic(results), dlq: topic(dlq) };
        topics.take_what_is_sent(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn an_engine_does_not_start_where_its_batches_or_letters_would_be_refused() {
        assert_eq!(taken(&[], 1_048_588, 1_114_112), Ok(()));
        let refused = taken(&[], 100_000, 1_114_112).unwrap_err();
        assert!(refused.contains("inference.results") && refused.contains("100000"), "{refused}");
        let small = ["records.bytes_max=5000", "kafka.producer.batch.size=9000"];
        assert_eq!(taken(&small, 9_000, 9_216), Ok(()));
        let refused = taken(&small, 9_000, 9_215).unwrap_err();
        assert!(refused.contains("inference.dlq") && refused.contains("9216"), "{refused}");
        assert!(taken(&small, 9_000, 8_999).is_err());
    }
}
