//! Producers of outcomes without a client library between them and the broker.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `producer` | the transactional producer: what it asks in which order, and what it makes of errors |
//! | `plain` | the producer outside of transactions |
//! | `feed` | what both do with a record, and with a question: bounds, and patience |
//! | `sender` | records: which broker has what under way, and what is sent again |
//! | `outgoing` `batch` `frame` | what waits for each partition, as batches in the format of a log, and how they are compressed |
//! | `cluster` | brokers, leaders, coordinators, and the connections to them |
//! | `connection` `request` | one connection, and the requests that are made, each in one version |
//! | `failure` | what an error of the protocol means to the engine |
//! | `settings` | which of librdkafka's properties it has too |
//! | `identity` | who it is to the broker |
//!
//! The messages of the protocol are those of the crate `kafka-protocol`. Batches, of which each record is a part, are written here.

mod batch;
mod cluster;
mod connection;
mod failure;
mod feed;
mod frame;
mod identity;
mod outgoing;
mod plain;
mod producer;
mod request;
mod sender;
mod settings;

use self::plain::DirectPlainProducer;
use self::producer::DirectProducer;
use self::settings::DirectSettings;
use super::config::{KafkaConfig, ProducerClient};
use super::error;
use super::plain::KafkaPlainProducer;
use super::producer::KafkaProducer;
use crate::broker::{BrokerError, PlainProducer, Producer};

/// The code of a cluster that lacks what the direct producer needs.
const TOO_OLD: &str = "UNSUPPORTED_VERSION";

/// Makes the transactional producer that is configured, and fences every other one of its id.
pub(super) fn transactional(config: &KafkaConfig, id: &str) -> Result<Box<dyn Producer>, BrokerError> {
    let direct = |settings| -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(DirectProducer::new(config, settings, id)?))
    };
    chosen(config, direct, || Ok(Box::new(KafkaProducer::new(config, id)?)))
}

/// Makes the producer outside of transactions that is configured.
pub(super) fn plain(config: &KafkaConfig) -> Result<Box<dyn PlainProducer>, BrokerError> {
    let direct = |settings| -> Result<Box<dyn PlainProducer>, BrokerError> {
        Ok(Box::new(DirectPlainProducer::new(config, settings)?))
    };
    chosen(config, direct, || Ok(Box::new(KafkaPlainProducer::new(config)?)))
}

/// The direct producer where it was asked for, or can be; else that of the library.
fn chosen<P>(
    config: &KafkaConfig,
    direct: impl FnOnce(DirectSettings) -> Result<P, BrokerError>,
    library: impl FnOnce() -> Result<P, BrokerError>,
) -> Result<P, BrokerError> {
    let reason = match (config.producer_client, DirectSettings::of(config)) {
        (ProducerClient::Librdkafka, _) => "it was asked for".to_owned(),
        (ProducerClient::Direct, settings) => {
            return direct(settings.map_err(|property| not_direct(&property))?);
        }
        (ProducerClient::Auto, Ok(settings)) => match direct(settings) {
            Err(error) if error.code == TOO_OLD => error.to_string(),
            made => return made,
        },
        (ProducerClient::Auto, Err(property)) => format!("only it has {property} as it is set"),
    };
    tracing::info!(reason, "the producer is librdkafka's");
    library()
}

/// Why a configuration asks for more than the producer that it names has, if it does.
pub(super) fn contradiction(config: &KafkaConfig) -> Option<BrokerError> {
    (config.producer_client == ProducerClient::Direct)
        .then(|| DirectSettings::of(config).err())
        .flatten()
        .map(|property| not_direct(&property))
}

fn not_direct(property: &str) -> BrokerError {
    let message = format!(
        "the direct producer has no {property} as it is set: take it away, or let librdkafka produce"
    );
    error::refused("configure the producer", "_INVALID_ARG", message)
}
