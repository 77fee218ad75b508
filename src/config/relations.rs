//! Relations between settings: which two can't both be as they are, and why.

use std::collections::BTreeSet;
use std::time::Duration;

use operators::catalog::{BatchPolicy, Limits};

use super::meant::Config;
use super::written::{GroupProtocol, Provider};

/// Room for a dead letter's headers beside its request.
pub const LETTER_HEADERS_BYTES_MAX: usize = 16 << 10;

/// What librdkafka takes where `message.max.bytes` is not set, and where `batch.size` is not.
const MESSAGE_BYTES_DEFAULT: u64 = 1_000_000;

const ONE_OF_BOTH: &str =
    "with an objective the policy chooses how long rows wait: set either of the two, and leave the other out";

/// Two settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The one.
    pub left: String,
    /// The other.
    pub right: String,
    /// What has to hold, and why.
    pub reason: &'static str,
}

/// The largest batch that the producer makes, in bytes: librdkafka keeps within both of its bounds.
pub fn batch_bytes_max(config: &Config) -> u64 {
    let bound = |property| config.kafka.producer.number(property).unwrap_or(MESSAGE_BYTES_DEFAULT);
    bound("batch.size").min(bound("message.max.bytes"))
}

/// Every contradiction in a configuration.
pub fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut require = |holds: bool, left: &str, right: &str, reason: &'static str| {
        if !holds {
            found.push(Contradiction { left: left.to_owned(), right: right.to_owned(), reason });
        }
    };
    group(config, &mut require);
    times(config, &mut require);
    sizes(config, &mut require);
    for model in config.models.overrides.keys() {
        let key = |rest: &str| {
            super::Key::new(vec!["models".into(), model.clone(), "batch".into(), rest.into()]).to_string()
        };
        let policy = config.batch_policy(model);
        let time = own_time(config, model).map_or_else(|| time_key(policy).to_owned(), key);
        batches(config, policy, &key("size_max"), &time, &mut require);
        let own = config.models.overrides.get(model).and_then(|model| model.deadline);
        let deadline = super::Key::new(vec!["models".into(), model.clone(), "deadline".into()]).to_string();
        let deadline = if own.is_some() { deadline.as_str() } else { "records.deadline" };
        deadlines(config.limits(model), policy, deadline, &time, &mut require);
        let overrides = &config.models.overrides[model];
        let both = overrides.slo.flatten().is_some() && overrides.delay_max.flatten().is_some();
        require(!both, &key("delay_max"), &key("slo"), ONE_OF_BOTH);
        if let Some(run_max) = config.models.overrides.get(model).and_then(|model| model.run_max) {
            let key = super::Key::new(vec!["models".into(), model.clone(), "run_max".into()]).to_string();
            runs(config, run_max, &key, &mut require);
        }
    }
    runs(config, config.onnx.run_max, "onnx.run_max", &mut require);
    pace(config, &mut require);
    let policy = config.batch_policy_default();
    batches(config, policy, "batch.size_max", time_key(policy), &mut require);
    let limits = Limits { deadline: config.records_deadline, run_max: config.onnx.run_max };
    deadlines(limits, policy, "records.deadline", time_key(policy), &mut require);
    let both = config.batch.slo.is_some() && config.batch.delay_max.is_some();
    require(!both, "batch.delay_max", "batch.slo", ONE_OF_BOTH);
    tenants(config, &mut require);
    topics(config, &mut require);
    let has_gpu = config.onnx.providers.iter().any(|provider| *provider != Provider::Cpu);
    require(
        has_gpu || !config.onnx.require_gpu,
        "onnx.require_gpu",
        "onnx.providers",
        "a GPU is required, and no provider of one is listed",
    );
    require(
        !config.onnx.providers.is_empty(),
        "onnx.providers",
        "onnx.require_gpu",
        "at least one provider has to be listed",
    );
    devices(config, &mut require);
    autopilot(config, &mut require);
    let own = config.models.overrides.values().filter_map(|model| model.providers.as_ref());
    let has_tensorrt =
        own.chain([&config.onnx.providers]).flatten().any(|provider| *provider == Provider::Tensorrt);
    require(
        has_tensorrt || !config.onnx.fp16,
        "onnx.fp16",
        "onnx.providers",
        "half precision is TensorRT's, which is not listed",
    );
    found
}

type Require<'a> = dyn FnMut(bool, &str, &str, &'static str) + 'a;

/// The autopilot needs to see what it changes, and goes up from what is configured.
fn autopilot(config: &Config, require: &mut Require<'_>) {
    let about = &config.capacity.autopilot;
    if about.mode == super::Mode::Off {
        return;
    }
    let mode = "capacity.autopilot.mode";
    require(config.capacity.observe, mode, "capacity.observe", "what is not observed is not judged");
    require(
        about.executors_max >= config.onnx.executors,
        "capacity.autopilot.executors_max",
        "onnx.executors",
        "it goes up from what is configured",
    );
    require(
        about.in_flight_max >= config.in_flight.records_max,
        "capacity.autopilot.in_flight_records_max",
        "in_flight.records_max",
        "it goes up from what is configured",
    );
    require(
        about.batch_delay_max < config.outcome_deadline,
        "capacity.autopilot.batch_delay_max",
        "outcome.deadline",
        "a request that waits for others would stop the engine",
    );
}

/// Each device has a worker that is its home, and each model at least one device.
fn devices(config: &Config, require: &mut Require<'_>) {
    let devices = &config.onnx.devices;
    let distinct: BTreeSet<&i32> = devices.iter().collect();
    require(
        !devices.is_empty() && distinct.len() == devices.len(),
        "onnx.devices",
        "onnx.executors",
        "at least one device has to be listed, and each once",
    );
    require(
        devices.len() <= config.workers,
        "onnx.devices",
        "workers",
        "each device needs a worker that is its home: there have to be as many workers",
    );
    for (model, overrides) in &config.models.overrides {
        if let Some(own) = &overrides.devices {
            let key = super::Key::new(vec!["models".into(), model.clone(), "devices".into()]).to_string();
            let listed = !own.is_empty() && own.iter().all(|device| distinct.contains(device));
            require(
                listed,
                &key,
                "onnx.devices",
                "a model is placed on one or more of the devices that are listed",
            );
        }
    }
}

/// A property that is a number of milliseconds.
fn millis(properties: &super::Properties, property: &str) -> Option<Duration> {
    properties.number(property).map(Duration::from_millis)
}

fn group(config: &Config, require: &mut Require<'_>) {
    let by_broker = config.kafka.group_protocol == GroupProtocol::Consumer;
    require(
        !(by_broker && config.kafka.static_membership),
        "kafka.static_membership",
        "kafka.group_protocol",
        "a broker that coordinates the group refuses a restarted process while the session of the one before it lasts",
    );
    require(
        !(by_broker && config.kafka.consumer.number("heartbeat.interval.ms").is_some()),
        "kafka.consumer.heartbeat.interval.ms",
        "kafka.group_protocol",
        "a broker that coordinates the group decides how often it wants to hear of its members",
    );
}

fn times(config: &Config, require: &mut Require<'_>) {
    let kafka = &config.kafka;
    let (transaction, session) = (kafka.transaction_timeout, kafka.session_timeout);
    let poll = millis(&kafka.consumer, "max.poll.interval.ms");
    require(
        config.commit.interval < transaction / 2,
        "commit.interval",
        "kafka.transaction_timeout",
        "a transaction has to be committed in less than half of its time-out",
    );
    require(
        transaction < session,
        "kafka.transaction_timeout",
        "kafka.session_timeout",
        "an abandoned transaction has to end before its partitions have a new owner",
    );
    require(
        millis(&kafka.producer, "message.timeout.ms").is_none_or(|message| message <= transaction),
        "kafka.producer.message.timeout.ms",
        "kafka.transaction_timeout",
        "a record can't wait longer than its transaction lives",
    );
    require(
        millis(&kafka.consumer, "heartbeat.interval.ms").is_none_or(|interval| interval < session / 2),
        "kafka.consumer.heartbeat.interval.ms",
        "kafka.session_timeout",
        "a session has to live for more than two heartbeats",
    );
    require(
        poll.is_none_or(|poll| session <= poll),
        "kafka.session_timeout",
        "kafka.consumer.max.poll.interval.ms",
        "librdkafka takes no poll interval shorter than the session",
    );
    require(
        poll.is_none_or(|poll| config.stop_drain_timeout < poll),
        "stop.drain_timeout",
        "kafka.consumer.max.poll.interval.ms",
        "partitions have to be given back while the group still waits for them",
    );
    require(
        config.commit.interval < config.stop_drain_timeout,
        "commit.interval",
        "stop.drain_timeout",
        "a stop has to leave time for the last commit",
    );
    require(
        config.commit.interval < config.outcome_deadline,
        "commit.interval",
        "outcome.deadline",
        "a deadline within one commit would stop a healthy engine",
    );
    require(
        config.epoch_interval < config.outcome_deadline,
        "epoch.interval",
        "outcome.deadline",
        "a deadline within one epoch would stop a healthy engine",
    );
}

fn sizes(config: &Config, require: &mut Require<'_>) {
    let record = config.records_bytes_max;
    let letter = u64::try_from(record.saturating_add(LETTER_HEADERS_BYTES_MAX)).unwrap_or(u64::MAX);
    require(
        config.kafka.producer.number("message.max.bytes").unwrap_or(MESSAGE_BYTES_DEFAULT) >= letter,
        "records.bytes_max",
        "kafka.producer.message.max.bytes",
        "a dead letter holds its request whole, and up to 16 KiB of headers",
    );
    require(
        record <= config.commit.bytes_max,
        "records.bytes_max",
        "commit.bytes_max",
        "the largest request has to fit a transaction, as a dead letter",
    );
    require(
        config.commit.bytes_max <= config.in_flight.bytes_max,
        "commit.bytes_max",
        "in_flight.bytes_max",
        "a transaction can't hold more than what is in flight",
    );
    require(
        config.commit.records_max <= config.in_flight.records_max,
        "commit.records_max",
        "in_flight.records_max",
        "a transaction can't hold more than what is in flight",
    );
}

/// The setting that bounds the wait of a policy.
fn time_key(policy: BatchPolicy) -> &'static str {
    match policy {
        BatchPolicy::Static { .. } => "batch.delay_max",
        BatchPolicy::Slo { .. } => "batch.slo",
    }
}

/// The setting that bounds the wait of a model's batches, if it is the model's own.
fn own_time(config: &Config, model: &str) -> Option<&'static str> {
    let own = config.models.overrides.get(model)?;
    match config.batch_policy(model) {
        BatchPolicy::Static { .. } => own.delay_max.map(|_| "delay_max"),
        BatchPolicy::Slo { .. } => own.slo.map(|_| "slo"),
    }
}

fn batches(config: &Config, batch: BatchPolicy, size_max: &str, time: &str, require: &mut Require<'_>) {
    require(
        batch.size_max() <= config.in_flight.records_max,
        size_max,
        "in_flight.records_max",
        "a batch would never be full: it has to fit into what is in flight",
    );
    let (waits, reason) = match batch {
        BatchPolicy::Static { delay_max, .. } => {
            (delay_max, "a row that waits for others would stop the engine")
        }
        BatchPolicy::Slo { slo, .. } => (slo, "a request that is still in time would stop the engine"),
    };
    require(waits < config.outcome_deadline, time, "outcome.deadline", reason);
}

fn tenants(config: &Config, require: &mut Require<'_>) {
    for id in &config.tenants.bursts_without_rate {
        let key = |name: &str| super::Key::new(vec!["tenants".into(), id.clone(), name.into()]).to_string();
        require(false, &key("burst"), &key("rate_max"), "a burst is of a rate, and there is none");
    }
    let default = std::iter::once(("default", &config.tenants.default));
    let named = config.tenants.by_id.iter().map(|(id, share)| (id.as_str(), share));
    for (id, share) in default.chain(named) {
        let key = super::Key::new(vec!["tenants".into(), id.into(), "wait_max".into()]).to_string();
        require(
            !share.is_bounded() || share.wait_max < config.outcome_deadline,
            &key,
            "outcome.deadline",
            "a request that waits for its tenant's quota would stop the engine",
        );
    }
}

/// A row that makes its run hang is tried twice before it is to blame.
fn runs(config: &Config, run_max: Option<Duration>, key: &str, require: &mut Require<'_>) {
    let twice = |max: Duration| 2 * max.saturating_add(config.onnx.run_grace);
    require(
        run_max.is_none_or(|max| twice(max) < config.outcome_deadline),
        key,
        "outcome.deadline",
        "the process would stop before a run that does not return is given up twice: `onnx.run_grace` counts too",
    );
}

/// A run that only keeps to its pace must not be taken for one that hangs.
fn pace(config: &Config, require: &mut Require<'_>) {
    let Some((fixed, row)) = config.onnx.pace else { return };
    let models =
        config.models.overrides.keys().map(|id| (config.batch_policy(id), config.limits(id).run_max));
    for (policy, run_max) in models.chain([(config.batch_policy_default(), config.onnx.run_max)]) {
        let rows = u32::try_from(policy.size_max()).unwrap_or(u32::MAX);
        let longest = row.saturating_mul(rows).saturating_add(fixed);
        require(
            run_max.is_none_or(|max| longest < max),
            if row.is_zero() { "onnx.pace.fixed" } else { "onnx.pace.row" },
            "onnx.run_max",
            "the largest batch would be cancelled before its time is over",
        );
    }
}

fn deadlines(limits: Limits, batch: BatchPolicy, deadline: &str, time: &str, require: &mut Require<'_>) {
    let Some(end) = limits.deadline else { return };
    let (holds, reason) = match batch {
        BatchPolicy::Static { delay_max, .. } => {
            (delay_max < end, "a row that waits for others would miss its deadline")
        }
        BatchPolicy::Slo { slo, .. } => {
            (slo <= end, "a request that is still in time would end as a dead letter")
        }
    };
    require(holds, time, deadline, reason);
}

fn topics(config: &Config, require: &mut Require<'_>) {
    let all = config.topics.all();
    for (place, (left, one)) in all.iter().enumerate() {
        for (right, other) in &all[place + 1..] {
            let keys = (format!("topics.{left}.name"), format!("topics.{right}.name"));
            require(one.name != other.name, &keys.0, &keys.1, "each topic has a name of its own");
        }
    }
    for (name, spec) in all {
        let copies = |key: &str| spec.config.get(key).and_then(|value| value.parse::<i32>().ok());
        require(
            copies("min.insync.replicas").is_none_or(|copies| copies <= spec.replication),
            &format!("topics.{name}.config.min.insync.replicas"),
            &format!("topics.{name}.replication"),
            "nothing could be written: there are fewer copies than must have each record",
        );
    }
    require(
        config.topics.production_min_insync_replicas <= config.topics.production_replication,
        "topics.production.min_insync_replicas",
        "topics.production.replication",
        "nothing could be written: there are fewer copies than must have each record",
    );
    let bytes_max = |spec: &operators::broker::TopicSpec| {
        spec.config.get("max.message.bytes").and_then(|value| value.parse::<usize>().ok())
    };
    require(
        bytes_max(&config.topics.requests).is_none_or(|bytes| bytes >= config.records_bytes_max),
        "records.bytes_max",
        "topics.requests.config.max.message.bytes",
        "the topic would refuse requests that the engine is to take",
    );
    require(
        bytes_max(&config.topics.dlq)
            .is_none_or(|bytes| bytes >= config.records_bytes_max.saturating_add(LETTER_HEADERS_BYTES_MAX)),
        "records.bytes_max",
        "topics.dlq.config.max.message.bytes",
        "a dead letter holds its request whole, and up to 16 KiB of headers",
    );
    // Where it is not set, the engine warns of a topic that takes less.
    if config.kafka.producer.get("batch.size").is_some() {
        for (name, spec) in [("results", &config.topics.results), ("dlq", &config.topics.dlq)] {
            require(
                bytes_max(spec).is_none_or(|bytes| bytes as u64 >= batch_bytes_max(config)),
                "kafka.producer.batch.size",
                &format!("topics.{name}.config.max.message.bytes"),
                "the topic would refuse batches that the producer makes",
            );
        }
    }
}

#[cfg(test)]
mod tests;
