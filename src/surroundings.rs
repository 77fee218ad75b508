//! The real world: a Kafka cluster, ONNX Runtime and a folder of models, as the configuration has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use operators::broker::Broker;
use operators::broker::kafka::{self, KafkaBroker, KafkaConfig};
use operators::model::onnx::{ModelOptions, OnnxBackend, OnnxConfig, Provider as OnnxProvider};
use operators::model::{Backend, store};

use crate::cli::{Candidate, CliError, Surroundings};
use crate::config::{Config, GroupProtocol, Properties, Provider};

/// What the binary reaches outside of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real;

impl Surroundings for Real {
    fn broker(&self, config: &Config) -> Result<Arc<dyn Broker>, CliError> {
        Ok(Arc::new(KafkaBroker::new(kafka_config(config))?))
    }

    fn backend(&self, config: &Config) -> Result<Arc<dyn Backend>, CliError> {
        Ok(Arc::new(OnnxBackend::new(onnx_config(config))?))
    }

    fn models(&self, config: &Config) -> Result<Vec<Candidate>, CliError> {
        let found = store::find(&config.models.path, store::BYTES_MAX)?;
        let usable = found.files.into_iter().map(|mut file| {
            file.output = config.output(&file.id).map(str::to_owned);
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
    KafkaConfig {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        start_up_max: config.kafka.start_timeout,
        group_protocol: match config.kafka.group_protocol {
            GroupProtocol::Classic => kafka::GroupProtocol::Classic,
            GroupProtocol::Consumer => kafka::GroupProtocol::Consumer,
        },
        session_timeout: config.kafka.session_timeout,
        transaction_timeout: config.kafka.transaction_timeout,
        consumer: properties(&config.kafka.consumer),
        producer: properties(&config.kafka.producer),
        admin: properties(&config.kafka.admin),
    }
}

/// How models are run.
pub fn onnx_config(config: &Config) -> OnnxConfig {
    let providers =
        |providers: &[Provider]| providers.iter().map(|provider| onnx_provider(*provider)).collect();
    let models = config.models.overrides.iter().map(|(id, model)| {
        let options =
            ModelOptions { providers: model.providers.as_deref().map(providers), rows_max: model.size_max };
        (id.clone(), options)
    });
    OnnxConfig {
        library: config.onnx.library.clone(),
        providers: providers(&config.onnx.providers),
        require_gpu: config.onnx.require_gpu,
        intra_threads: config.onnx.intra_threads,
        rows_max: config.batch.size_max,
        models: models.collect(),
        ..OnnxConfig::default()
    }
}

fn onnx_provider(provider: Provider) -> OnnxProvider {
    match provider {
        Provider::Tensorrt => OnnxProvider::TensorRt,
        Provider::Cuda => OnnxProvider::Cuda,
        Provider::Cpu => OnnxProvider::Cpu,
    }
}
