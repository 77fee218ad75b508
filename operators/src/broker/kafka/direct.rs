//! Records on their way from the broker and to it without a client library in between.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `producer` | the transactional producer: what it asks in which order, and what it makes of errors |
//! | `plain` | the producer outside of transactions |
//! | `feed` | what both do with a record, and with a question: bounds, and patience |
//! | `sender` | records: which broker has what under way, and what is sent again |
//! | `outgoing` `batch` `frame` | what waits for each partition, as batches in the format of a log, and how they are compressed |
//! | `reader` | who reads which partition, and who leads it |
//! | `fetcher` | what is asked of one broker |
//! | `incoming` | what has come of a partition and was not polled yet |
//! | `stored` `inflate` | batches as they lie in a log, read, and decompressed |
//! | `cluster` | brokers, leaders, coordinators, and the connections to them |
//! | `connection` `request` | one connection, and the requests that are made, each in one version |
//! | `failure` | what an error of the protocol means to the engine |
//! | `settings` | which of librdkafka's properties they have too |
//! | `identity` | who a producer is to the broker |
//! | `fuzzed` | batches that lie, for the fuzzers |
//!
//! The messages of the protocol are those of the crate `kafka-protocol`. Batches, of which each record is a part, are written and read here.

mod batch;
mod cluster;
mod connection;
mod failure;
mod feed;
mod fetcher;
mod frame;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzed;
mod identity;
mod incoming;
mod inflate;
mod outgoing;
mod plain;
mod producer;
mod reader;
mod request;
mod sender;
mod settings;
mod spares;
mod stored;

use std::sync::Arc;

use self::plain::DirectPlainProducer;
use self::producer::DirectProducer;
pub(super) use self::reader::{DirectLane, Reader};
use self::settings::{DirectSettings, ReaderSettings};
use super::config::{ClientChoice, KafkaConfig};
use super::error;
use super::plain::KafkaPlainProducer;
use super::producer::KafkaProducer;
use super::told::GroupContext;
use crate::broker::{BrokerError, PlainProducer, Producer};

/// The code of a cluster that lacks what direct clients need.
const TOO_OLD: &str = "UNSUPPORTED_VERSION";

/// Makes the transactional producer that is configured, and fences every other one of its id.
pub(super) fn transactional(config: &KafkaConfig, id: &str) -> Result<Box<dyn Producer>, BrokerError> {
    let direct = |settings| -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(DirectProducer::new(config, settings, id)?))
    };
    let direct = chosen(PRODUCER, config.producer_client, DirectSettings::of(config), direct)?;
    direct.map_or_else(|| Ok(Box::new(KafkaProducer::new(config, id)?) as _), Ok)
}

/// Makes the producer outside of transactions that is configured.
pub(super) fn plain(config: &KafkaConfig) -> Result<Box<dyn PlainProducer>, BrokerError> {
    let direct = |settings| -> Result<Box<dyn PlainProducer>, BrokerError> {
        Ok(Box::new(DirectPlainProducer::new(config, settings)?))
    };
    let direct = chosen(PRODUCER, config.producer_client, DirectSettings::of(config), direct)?;
    direct.map_or_else(|| Ok(Box::new(KafkaPlainProducer::new(config)?) as _), Ok)
}

/// Makes the reader of a member's partitions, if it is not librdkafka that reads them.
pub(super) fn reader(
    config: &KafkaConfig,
    topic: &str,
    told: &Arc<GroupContext>,
) -> Result<Option<Reader>, BrokerError> {
    chosen(READER, config.consumer_client, ReaderSettings::of(config), |settings| {
        Reader::new(config, settings, topic, Arc::clone(told))
    })
}

const PRODUCER: &str = "producer";
const READER: &str = "reader";

/// The direct client where it was asked for, or can be; `None` if it is to be the library's.
fn chosen<S, C>(
    what: &'static str,
    choice: ClientChoice,
    settings: Result<S, String>,
    direct: impl FnOnce(S) -> Result<C, BrokerError>,
) -> Result<Option<C>, BrokerError> {
    let reason = match (choice, settings) {
        (ClientChoice::Librdkafka, _) => "it was asked for".to_owned(),
        (ClientChoice::Direct, settings) => {
            return direct(settings.map_err(|property| not_direct(what, &property))?).map(Some);
        }
        (ClientChoice::Auto, Ok(settings)) => match direct(settings) {
            Err(error) if error.code == TOO_OLD => error.to_string(),
            made => return made.map(Some),
        },
        (ClientChoice::Auto, Err(property)) => format!("only it has {property} as it is set"),
    };
    tracing::info!(reason, "the {what} is librdkafka's");
    Ok(None)
}

/// Why a configuration asks for more than the client that it names has, if it does.
pub(super) fn contradiction(config: &KafkaConfig) -> Option<BrokerError> {
    let producer =
        DirectSettings::of(config).err().filter(|_| config.producer_client == ClientChoice::Direct);
    let reader = ReaderSettings::of(config).err().filter(|_| config.consumer_client == ClientChoice::Direct);
    let producer = producer.map(|property| not_direct(PRODUCER, &property));
    producer.or_else(|| reader.map(|property| not_direct(READER, &property)))
}

fn not_direct(what: &'static str, property: &str) -> BrokerError {
    let message =
        format!("the direct {what} has no {property} as it is set: take it away, or let librdkafka do it");
    error::refused("configure the client", "_INVALID_ARG", message)
}
