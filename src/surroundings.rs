//! The real world: a Kafka cluster, ONNX Runtime and a folder of models, as the configuration has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use operators::broker::Broker;
use operators::broker::kafka::{self, KafkaBroker, KafkaConfig};
use operators::model::onnx::{ModelOptions, OnnxBackend, OnnxConfig, Provider as OnnxProvider};
use operators::model::{Backend, PacedBackend, linear_pace, store};

use crate::cli::{Candidate, CliError, Surroundings};
use crate::config::{ClientChoice, Config, GroupProtocol, Properties, Provider};

/// What the binary reaches outside of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real;

impl Surroundings for Real {
    fn broker(&self, config: &Config) -> Result<Arc<dyn Broker>, CliError> {
        Ok(Arc::new(KafkaBroker::new(kafka_config(config))?))
    }

    fn backend(&self, config: &Config) -> Result<Arc<dyn Backend>, CliError> {
        let onnx = OnnxBackend::new(onnx_config(config))?;
        let Some((fixed, row)) = config.onnx.pace else { return Ok(Arc::new(onnx)) };
        tracing::warn!(?fixed, ?row, "models are slowed down by onnx.pace: this is an experiment");
        Ok(Arc::new(PacedBackend::new(onnx, linear_pace(fixed, row))))
    }

    fn models(&self, config: &Config) -> Result<Vec<Candidate>, CliError> {
        let found = store::find(&config.models.path, store::BYTES_MAX)?;
        let usable = found.files.into_iter().map(|mut file| {
            file.output = config.output(&file.id).map(str::to_owned);
            file.inputs = config.inputs(&file.id);
            Candidate { id: file.id.clone(), file: Ok(file) }
        });
        let faulty = found.faults.into_iter().map(|fault| {
            let path = fault.path.display().to_string();
            let reason = format!("{path}: {}", fault.reason);
            Candidate { id: fault.id.unwrap_or(path), file: Err(reason) }
        });
        let mut candidates: Vec<Candidate> = usable.chain(faulty).collect();
        candidates.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(candidates)
    }
}

/// How Kafka is reached.
pub fn kafka_config(config: &Config) -> KafkaConfig {
    let properties = |properties: &Properties| -> BTreeMap<String, String> {
        properties.iter().map(|(property, value)| (property.to_owned(), value.to_owned())).collect()
    };
    let mut consumer = properties(&config.kafka.consumer);
    if config.kafka.static_membership {
        consumer.insert("group.instance.id".to_owned(), config.kafka.instance.clone());
    }
    KafkaConfig {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        start_up_max: config.kafka.start_timeout,
        group_protocol: match config.kafka.group_protocol {
            GroupProtocol::Classic => kafka::GroupProtocol::Classic,
            GroupProtocol::Consumer => kafka::GroupProtocol::Consumer,
        },
        producer_client: client_choice(config.kafka.producer_client),
        consumer_client: client_choice(config.kafka.consumer_client),
        session_timeout: config.kafka.session_timeout,
        transaction_timeout: config.kafka.transaction_timeout,
        consumer,
        producer: properties(&config.kafka.producer),
        admin: properties(&config.kafka.admin),
    }
}

/// How models are run.
pub fn onnx_config(config: &Config) -> OnnxConfig {
    let providers =
        |providers: &[Provider]| providers.iter().map(|provider| onnx_provider(*provider)).collect();
    let models = config.models.overrides.iter().map(|(id, model)| {
        let rows_max = Some(config.batch_ceiling(id).size_max());
        let providers = model.providers.as_deref().map(providers);
        let options = ModelOptions { providers, rows_max, buckets: model.buckets.clone() };
        (id.clone(), options)
    });
    OnnxConfig {
        library: config.onnx.library.clone(),
        providers: providers(&config.onnx.providers),
        require_gpu: config.onnx.require_gpu,
        devices: config.onnx.devices.clone(),
        fp16: config.onnx.fp16,
        engine_cache: config.onnx.engine_cache.clone(),
        intra_threads: config.onnx.intra_threads,
        shared_arena: true,
        rows_max: config.batch_ceiling_default().size_max(),
        buckets: config.onnx.buckets.clone(),
        bytes_max: store::BYTES_MAX,
        models: models.collect(),
    }
}

fn client_choice(choice: ClientChoice) -> kafka::ClientChoice {
    match choice {
        ClientChoice::Auto => kafka::ClientChoice::Auto,
        ClientChoice::Direct => kafka::ClientChoice::Direct,
        ClientChoice::Librdkafka => kafka::ClientChoice::Librdkafka,
    }
}

fn onnx_provider(provider: Provider) -> OnnxProvider {
    match provider {
        Provider::Tensorrt => OnnxProvider::TensorRt,
        Provider::Cuda => OnnxProvider::Cuda,
        Provider::Cpu => OnnxProvider::Cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Sources, load};

    #[test]
    fn every_setting_of_onnx_reaches_the_sessions() {
        let sets = [
            "onnx.library=/lib/o.so",
            "onnx.providers=[\"tensorrt\"]",
            "onnx.require_gpu=true",
            "onnx.devices=[1]",
            "onnx.fp16=true",
            "onnx.engine_cache=/engines",
            "onnx.intra_threads=3",
            "batch.size_max=7",
        ];
        let sources = Sources {
            sets: sets.map(str::to_owned).to_vec(),
            machine: Machine { host: Some("h".into()), cores: 2, ..Machine::default() },
            ..Sources::default()
        };
        let config = onnx_config(&load(&sources).unwrap().config);
        assert_eq!(config.library, Some("/lib/o.so".into()));
        assert_eq!(config.providers, [OnnxProvider::TensorRt]);
        assert!(config.require_gpu && config.fp16);
        assert_eq!((&config.devices[..], config.intra_threads, config.rows_max), (&[1][..], 3, 7));
        assert_eq!(config.engine_cache, Some("/engines".into()));
    }
}
