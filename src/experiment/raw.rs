//! A consumer with nothing around it.

use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfig as _};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Failure;
use crate::config::Config;

/// How long a question to the broker may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A consumer that belongs to nobody, with the properties that the engine's has.
pub struct Raw {
    consumer: BaseConsumer,
}

impl Raw {
    /// A reader of what is committed. It is named after `group`, and never joins it.
    ///
    /// # Errors
    ///
    /// If the properties can't be used.
    pub fn new(config: &Config, group: &str) -> Result<Self, Failure> {
        Self::with_isolation(config, group, "read_committed")
    }

    /// Who asks what a group has committed, and has the answer at once: to one that reads what is committed the broker gives none while a
    /// transaction is open that may change it, as one of a system that was killed is until it times out.
    ///
    /// # Errors
    ///
    /// If the properties can't be used.
    pub fn of_offsets(config: &Config, group: &str) -> Result<Self, Failure> {
        Self::with_isolation(config, group, "read_uncommitted")
    }

    fn with_isolation(config: &Config, group: &str, isolation: &str) -> Result<Self, Failure> {
        #[expect(
            clippy::disallowed_methods,
            reason = "what the engine is compared with shares no code with it"
        )]
        let mut client = ClientConfig::new();
        for (property, value) in config.kafka.consumer.iter() {
            client.set(property, value);
        }
        // The engine may be a member with a name: this is none.
        client.remove("group.instance.id");
        client.set("bootstrap.servers", &config.kafka.bootstrap_servers).set("group.id", group);
        client.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        client.set("isolation.level", isolation).set("auto.offset.reset", "error");
        Ok(Self { consumer: BaseConsumer::from_config(&client)? })
    }

    /// Reads every partition of a topic from its start. The broker is known when this returns.
    ///
    /// # Errors
    ///
    /// If the broker does not answer.
    pub fn assign(&self, topic: &str, partitions: i32) -> Result<(), Failure> {
        self.consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        Ok(self.consumer.assign(&list)?)
    }

    /// The next record, if one comes within `wait`.
    ///
    /// # Errors
    ///
    /// If the broker can't be read from.
    pub fn poll(&self, wait: Duration) -> Result<Option<BorrowedMessage<'_>>, KafkaError> {
        self.consumer.poll(wait).transpose()
    }

    /// The sum of the ends of a topic's partitions: of one without transactions and from which nothing was deleted, how many records there are.
    ///
    /// # Errors
    ///
    /// If the broker does not answer.
    pub fn ends(&self, topic: &str, partitions: i32) -> Result<u64, Failure> {
        let mut sum = 0;
        for partition in 0..partitions {
            let (_, end) = self.consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
            sum += u64::try_from(end).unwrap_or(0);
        }
        Ok(sum)
    }

    /// What the group has committed of each partition; 0 where nothing is.
    ///
    /// # Errors
    ///
    /// If the broker does not answer.
    pub fn committed(&self, topic: &str, partitions: i32) -> Result<Vec<u64>, Failure> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let list = self.consumer.committed_offsets(list, ANSWER_MAX)?;
        let offset = |offset: Offset| offset.to_raw().and_then(|offset| u64::try_from(offset).ok());
        Ok(list.elements().iter().map(|element| offset(element.offset()).unwrap_or(0)).collect())
    }
}
