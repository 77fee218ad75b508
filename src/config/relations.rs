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
mod tests {
    use operators::dead_letter::Letterhead;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Machine, Sources, load};

    /// The contradictions of the defaults with these assignments over them.
    fn contradicting(sets: &[String]) -> Vec<(String, String)> {
        let sources = Sources {
            sets: sets.to_vec(),
            machine: Machine { host: Some("h".into()), cores: 2, ..Machine::default() },
            ..Sources::default()
        };
        let config = load(&sources).map(|loaded| loaded.config);
        // A faulty configuration is not given out; take it from before its relations were compared.
        let config = config.unwrap_or_else(|_| crate::config::without_relations(&sources));
        contradictions(&config).into_iter().map(|found| (found.left, found.right)).collect()
    }

    fn pair(left: &str, right: &str) -> (String, String) {
        (left.to_owned(), right.to_owned())
    }

    #[test]
    fn the_defaults_do_not_contradict_each_other() {
        assert_eq!(contradicting(&[]), []);
    }

    #[test]
    fn two_topics_of_one_name_contradict_each_other() {
        let found = contradicting(&["topics.results=inference.dlq".to_owned()]);
        assert_eq!(found, [pair("topics.results.name", "topics.dlq.name")]);
    }

    #[test]
    fn a_group_that_the_broker_coordinates_has_no_static_members_and_no_heartbeats_of_ours() {
        let with = |sets: &[&str]| {
            let protocol = ["kafka.group_protocol=consumer"].iter().chain(sets);
            contradicting(&protocol.map(|set| (*set).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(with(&[]), []);
        let contradiction = pair("kafka.static_membership", "kafka.group_protocol");
        assert_eq!(with(&["kafka.static_membership=true"]), [contradiction]);
        let contradiction = pair("kafka.consumer.heartbeat.interval.ms", "kafka.group_protocol");
        assert_eq!(with(&["kafka.consumer.heartbeat.interval.ms=500"]), [contradiction]);
        assert_eq!(contradicting(&["kafka.static_membership=true".to_owned()]), []);
    }

    #[test]
    fn a_gpu_can_be_required_only_where_one_is_listed() {
        let required = "onnx.require_gpu=true".to_owned();
        assert_eq!(
            contradicting(std::slice::from_ref(&required)),
            [pair("onnx.require_gpu", "onnx.providers")]
        );
        assert_eq!(contradicting(&[required, "onnx.providers=[\"cuda\", \"cpu\"]".to_owned()]), []);
    }

    #[test]
    fn a_burst_is_of_a_rate() {
        let set =
            |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
        let of = |id: &str| pair(&format!("tenants.{id}.burst"), &format!("tenants.{id}.rate_max"));
        assert_eq!(set(&["tenants.acme.burst=5"]), [of("acme")]);
        assert_eq!(set(&["tenants.acme.burst=5", "tenants.acme.rate_max=1"]), []);
        assert_eq!(set(&["tenants.acme.burst=5", "tenants.default.rate_max=1"]), []);
        assert_eq!(set(&["tenants.default.burst=5"]), [of("default")]);
        // Where all have a burst, one of them may well have no rate.
        let one = ["tenants.default.rate_max=9", "tenants.default.burst=5", "tenants.acme.rate_max=off"];
        assert_eq!(set(&one), []);
        assert_eq!(set(&[one[0], one[1], one[2], "tenants.acme.burst=7"]), [of("acme")]);
    }

    #[test]
    fn each_device_has_a_home_and_each_model_a_device() {
        let set =
            |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
        let two = ["onnx.devices=[0, 3]", "workers=2"];
        assert_eq!(set(&two), []);
        assert_eq!(set(&[two[0], "workers=1"]), [pair("onnx.devices", "workers")]);
        assert_eq!(set(&["onnx.devices=[]"]), [pair("onnx.devices", "onnx.executors")]);
        assert_eq!(set(&["onnx.devices=[1, 1]", two[1]]), [pair("onnx.devices", "onnx.executors")]);
        assert_eq!(set(&[two[0], two[1], "models.m.devices=[3]"]), []);
        for wrong in ["models.m.devices=[1]", "models.m.devices=[]"] {
            assert_eq!(set(&[two[0], two[1], wrong]), [pair("models.m.devices", "onnx.devices")], "{wrong}");
        }
    }

    #[test]
    fn a_batch_that_is_set_fits_both_output_topics() {
        let set =
            |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
        let (batch, results) =
            ("kafka.producer.batch.size=50001", "topics.results.config.max.message.bytes=50000");
        let contradiction = pair("kafka.producer.batch.size", "topics.results.config.max.message.bytes");
        assert_eq!(set(&[batch, results]), [contradiction]);
        assert_eq!(set(&["kafka.producer.batch.size=50000", results]), []);
        assert_eq!(set(&[results]), []);
        let small = "records.bytes_max=10000";
        let letters = "topics.dlq.config.max.message.bytes=30000";
        let contradiction = pair("kafka.producer.batch.size", "topics.dlq.config.max.message.bytes");
        assert_eq!(set(&[batch, small, letters]), [contradiction]);
        // The smaller of the producer's two bounds is the one that counts.
        assert_eq!(set(&[batch, small, letters, "kafka.producer.message.max.bytes=30000"]), []);
    }

    #[test]
    fn a_dead_letter_topic_holds_the_smallest_letter_however_small_requests_are() {
        let found = contradicting(&[
            "records.bytes_max=1".to_owned(),
            format!("topics.dlq.config.max.message.bytes={}", Letterhead::BYTES_MIN - 1),
        ]);
        assert_eq!(found, [pair("records.bytes_max", "topics.dlq.config.max.message.bytes")]);
    }

    #[test]
    fn half_precision_is_for_tensorrt() {
        let half = "onnx.fp16=true".to_owned();
        assert_eq!(contradicting(std::slice::from_ref(&half)), [pair("onnx.fp16", "onnx.providers")]);
        assert_eq!(contradicting(&[half, "models.m.providers=[\"tensorrt\"]".to_owned()]), []);
    }

    #[test]
    fn an_objective_and_a_wait_contradict_each_other_where_they_are_of_the_same_models() {
        let set =
            |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
        let both = pair("batch.delay_max", "batch.slo");
        assert_eq!(set(&["batch.slo=80ms", "batch.delay_max=5ms"]), [both]);
        let own = pair("models.m.batch.delay_max", "models.m.batch.slo");
        assert_eq!(set(&["models.m.batch.slo=80ms", "models.m.batch.delay_max=5ms"]), [own]);
        for agree in [
            ["batch.slo=80ms", "batch.size_max=32"],
            ["batch.slo=80ms", "models.m.batch.delay_max=5ms"],
            ["batch.delay_max=5ms", "models.m.batch.slo=80ms"],
        ] {
            assert_eq!(set(&agree), []);
        }
    }

    #[test]
    fn an_objective_is_reached_before_a_deadline_ends_what_is_still_in_time() {
        let set =
            |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
        assert_eq!(set(&["batch.slo=80ms", "records.deadline=80ms"]), []);
        let late = pair("batch.slo", "records.deadline");
        assert_eq!(set(&["batch.slo=81ms", "records.deadline=80ms"]), [late]);
        let late = pair("models.m.batch.slo", "models.m.deadline");
        assert_eq!(set(&["models.m.batch.slo=81ms", "models.m.deadline=80ms"]), [late]);
        assert_eq!(set(&["tenants.acme.wait_max=5m"]), []);
        assert_eq!(
            set(&["tenants.acme.wait_max=5m", "tenants.default.rate_max=9"]),
            [pair("tenants.acme.wait_max", "outcome.deadline")]
        );
        assert_eq!(set(&["batch.slo=5m"]), [pair("batch.slo", "outcome.deadline")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_transaction_lives_twice_the_commit_interval_and_less_than_a_session(
            interval in 1u64..100_000, transaction in 1u64..100_000, session in 1u64..100_000,
        ) {
            let found = contradicting(&[
                format!("commit.interval={interval}ms"),
                format!("kafka.transaction_timeout={transaction}ms"),
                format!("kafka.session_timeout={session}ms"),
                "stop.drain_timeout=200s".to_owned(),
            ]);
            let mut expected = Vec::new();
            if interval * 1000 >= transaction * 500 {
                expected.push(pair("commit.interval", "kafka.transaction_timeout"));
            }
            if transaction >= session {
                expected.push(pair("kafka.transaction_timeout", "kafka.session_timeout"));
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_batch_fits_into_what_is_in_flight(global in 1usize..500, own in 1usize..500, in_flight in 1usize..500) {
            let found = contradicting(&[
                format!("batch.size_max={global}"),
                format!("models.m.batch.size_max={own}"),
                format!("in_flight.records_max={in_flight}"),
                "commit.records_max=1".to_owned(),
            ]);
            let mut expected = Vec::new();
            if own > in_flight {
                expected.push(pair("models.m.batch.size_max", "in_flight.records_max"));
            }
            if global > in_flight {
                expected.push(pair("batch.size_max", "in_flight.records_max"));
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn the_largest_request_fits_everything_that_has_to_hold_it(
            record in 1usize..4_000_000, message in 20_000usize..4_000_000, commit in 1usize..4_000_000, letter in 20_000usize..4_000_000,
        ) {
            let found = contradicting(&[
                format!("records.bytes_max={record}"),
                format!("kafka.producer.message.max.bytes={message}"),
                format!("commit.bytes_max={commit}"),
                format!("topics.dlq.config.max.message.bytes={letter}"),
            ]);
            let fits = record + 16_384 <= message && record <= commit && record + 16_384 <= letter;
            prop_assert_eq!(found.is_empty(), fits);
        }
    }
}
