//! Apache Kafka: the only place that makes its clients.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `config` | what clients are told: our defaults, what is passed through, what is refused |
//! | `member` | a member of a group |
//! | `lanes` `queue` | what comes of its partitions, and librdkafka's queues of them |
//! | `look` | which topic bears the name that the group's offsets are of |
//! | `producer` `limits` | the transactional producer, and the largest record that a topic takes |
//! | `direct` | producing and reading without librdkafka, and the choice between the two |
//! | `token` | proof of membership in a group |
//! | `plain` | the producer of outcomes outside of transactions |
//! | `writer` | the producer of the tools around the engine |
//! | `admin` `log` | topics and committed offsets; a partition read from start to end |
//! | `error` | what an error of librdkafka means to the engine |
//! | `signal` `bounded` | how a thread waits at no cost, and how it waits for a call that may never return |
//! | `native` | what the safe bindings do not offer; the only `unsafe` |

mod admin;
mod bounded;
mod config;
mod diagnostics;
mod direct;
mod error;
mod lanes;
mod limits;
mod log;
mod look;
mod member;
mod native;
mod offsets;
mod plain;
mod producer;
mod queue;
mod signal;
mod token;
mod told;
mod writer;

use std::sync::{Mutex, PoisonError};

pub use config::{ClientChoice, ClientKind, GroupProtocol, KafkaConfig, refused_property};
pub use token::KafkaToken;

/// What the fuzzers get hold of.
#[cfg(fuzzing)]
pub mod fuzzed {
    pub use super::direct::fuzzed::{Claims, read, read_frame};
}

use self::config::Settings;
use self::log::LogReader;
use super::{Admin, Broker, BrokerError, Isolation, LogRecord, Member, PlainProducer, Producer, Writer};
use crate::lease::{NextOffset, Offset, Partition};

/// A cluster of Apache Kafka.
pub struct KafkaBroker {
    config: KafkaConfig,
    /// Readers of logs that are not in use, to be used again.
    readers: Mutex<Vec<(Isolation, LogReader)>>,
}

impl KafkaBroker {
    /// The cluster that `config` names. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If a property is passed through that may not be; see [`refused_property`].
    pub fn new(config: KafkaConfig) -> Result<Self, BrokerError> {
        Settings::member(&config, "any")?;
        Settings::producer(&config, None)?;
        Settings::admin(&config)?;
        if let Some(error) = direct::contradiction(&config) {
            return Err(error);
        }
        Ok(Self { config, readers: Mutex::default() })
    }

    /// A reader of logs: one that is free, or a new one.
    fn reader(&self, isolation: Isolation) -> Result<LogReader, BrokerError> {
        let mut free = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|(of, _)| *of == isolation) {
            Some(index) => Ok(free.swap_remove(index).1),
            None => LogReader::new(&self.config, isolation),
        }
    }
}

impl Broker for KafkaBroker {
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, BrokerError> {
        direct::transactional(&self.config, transactional_id)
    }

    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError> {
        direct::plain(&self.config)
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, BrokerError> {
        Ok(Box::new(member::KafkaMember::new(&self.config, group, topic)?))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError> {
        Ok(Box::new(admin::KafkaAdmin::new(&self.config)?))
    }

    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError> {
        Ok(Box::new(writer::KafkaWriter::new(&Settings::producer(&self.config, None)?)?))
    }

    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        let reader = self.reader(isolation)?;
        let end = reader.read(topic, partition, from, each)?;
        // One that has failed is dropped.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push((isolation, reader));
        Ok(end)
    }
}
