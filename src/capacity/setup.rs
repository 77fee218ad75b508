//! What capacity analysis has to know of an engine, from its configuration.

use std::time::Duration;

use dataflows::capacity::Setup;
use dataflows::capacity::tick::ModelSetup;
use operators::broker::TopicDescription;
use operators::catalog::BatchPolicy;
use operators::share::Share;

use crate::config::Config;

/// What the configuration tells. The models are those that something is set for: which are served only the engine knows.
pub fn configured(config: &Config, retention_millis: Option<i64>) -> Setup {
    let tenants = &config.tenants;
    let rate = |share: &Share| share.quota.map(|quota| f64::from(quota.rate));
    let own = config.models.overrides.keys();
    let devices = config.onnx.devices.len();
    let default = model_setup(config, "", config.batch_policy_default(), (0..devices).collect());
    Setup {
        source: config.kafka.instance.clone(),
        group: config.kafka.group.clone(),
        topic: config.topics.requests.name.clone(),
        partitions: usize::try_from(config.topics.requests.partitions).unwrap_or(0),
        retention_millis,
        workers: config.workers,
        executors: config.onnx.executors,
        devices,
        models: own.map(|id| model_setup(config, id, config.batch_policy(id), config.devices(id))).collect(),
        model_default: Some(default),
        weights: tenants.by_id.iter().map(|(id, share)| (id.clone(), share.weight)).collect(),
        rates: tenants.by_id.iter().filter_map(|(id, share)| Some((id.clone(), rate(share)?))).collect(),
        rate_default: rate(&tenants.default),
        in_flight_max: Some(config.in_flight.records_max),
        commit_millis: Some(config.commit.interval.as_secs_f64() * 1e3),
        processes: 1,
    }
}

/// What is known of a model with this policy on these devices.
pub fn model_setup(config: &Config, id: &str, batch: BatchPolicy, devices: Vec<usize>) -> ModelSetup {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (delay_millis, slo_millis) = match batch {
        BatchPolicy::Static { delay_max, .. } => (Some(millis(delay_max)), None),
        BatchPolicy::Slo { slo, .. } => (None, Some(millis(slo))),
    };
    let weight = config.shares().of_model(id);
    ModelSetup { id: id.to_owned(), devices, size_max: batch.size_max(), delay_millis, slo_millis, weight }
}

/// How long a topic keeps records, in milliseconds; nothing for ever.
pub fn retention(topic: &TopicDescription) -> Option<i64> {
    topic.config.get("retention.ms").and_then(|text| text.parse().ok()).filter(|millis| *millis > 0)
}
