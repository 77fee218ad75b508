//! Topics, and what groups have committed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{FromClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use rdkafka_sys::types::RDKafkaRespErr;

use super::config::{KafkaConfig, Settings};
use super::log::ReaderContext;
use super::{error, member, offsets};
use crate::broker::{Admin, BrokerError, Committed, Isolation, LogRange, TopicDescription, TopicSpec};
use crate::clock::{Clock, SystemClock};
use crate::lease::{NextOffset, Offset, Partition};

/// An admin client on librdkafka.
pub(super) struct KafkaAdmin {
    config: KafkaConfig,
    client: AdminClient<DefaultClientContext>,
}

impl KafkaAdmin {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, BrokerError> {
        let client = AdminClient::from_config(&Settings::admin(config)?)
            .map_err(|error| error::of("make an admin client", &error))?;
        Ok(Self { config: config.clone(), client })
    }

    fn options(&self) -> AdminOptions {
        let wait = Some(self.config.start_up_max);
        AdminOptions::new().request_timeout(wait).operation_timeout(wait)
    }

    fn metadata(&self, operation: &'static str, topic: Option<&str>) -> Result<Metadata, BrokerError> {
        self.client
            .inner()
            .fetch_metadata(topic, self.config.start_up_max)
            .map_err(|error| error::of(operation, &error))
    }

    /// The configuration of a topic; `None` if there is no such topic.
    fn topic_config(
        &self,
        operation: &'static str,
        topic: &str,
    ) -> Result<Option<BTreeMap<String, String>>, BrokerError> {
        let resources = [ResourceSpecifier::Topic(topic)];
        let described = block_on(self.client.describe_configs(&resources, &self.options()))
            .map_err(|error| error::of(operation, &error))?;
        match described.into_iter().next() {
            Some(Ok(resource)) => Ok(Some(
                resource
                    .entries
                    .into_iter()
                    .filter_map(|entry| entry.value.map(|value| (entry.name, value)))
                    .collect(),
            )),
            Some(Err(Code::UnknownTopicOrPartition)) | None => Ok(None),
            Some(Err(code)) => Err(error::by_code(operation, code, "")),
        }
    }

    /// Whether every partition of a topic has a leader.
    fn has_leaders(&self, topic: &TopicSpec) -> Result<bool, BrokerError> {
        let metadata = self.metadata("see the new topic", Some(&topic.name))?;
        Ok(metadata.topics().iter().any(|seen| {
            seen.name() == topic.name
                && seen.error().is_none()
                && i32::try_from(seen.partitions().len()) == Ok(topic.partitions)
                && seen
                    .partitions()
                    .iter()
                    .all(|partition| partition.error().is_none() && partition.leader() >= 0)
        }))
    }
}

impl Admin for KafkaAdmin {
    fn describe(&mut self, topic: &str) -> Result<Option<TopicDescription>, BrokerError> {
        const OPERATION: &str = "describe a topic";
        let metadata = self.metadata(OPERATION, Some(topic))?;
        let Some(seen) = metadata.topics().iter().find(|seen| seen.name() == topic) else { return Ok(None) };
        match seen.error() {
            None => {}
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Ok(None),
            Some(code) => return Err(error::by_code(OPERATION, code.into(), "")),
        }
        let partitions = seen.partitions();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let replication = partitions.first().map_or(0, |partition| count(partition.replicas().len()));
        let partitions = count(partitions.len());
        let config = self.topic_config(OPERATION, topic)?;
        Ok(config.map(|config| TopicDescription { partitions, replication, config }))
    }

    fn create(&mut self, topic: &TopicSpec) -> Result<(), BrokerError> {
        const OPERATION: &str = "make a topic";
        let mut new =
            NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
        for (key, value) in &topic.config {
            new = new.set(key, value);
        }
        let results = block_on(self.client.create_topics([&new], &self.options()))
            .map_err(|error| error::of(OPERATION, &error))?;
        if let Some(Err((name, code))) = results.into_iter().next() {
            return Err(error::by_code(OPERATION, code, format!("{name}: {code}")));
        }
        let clock = SystemClock::new();
        let start = clock.now();
        while !self.has_leaders(topic)? {
            if clock.now().since(start) > self.config.start_up_max {
                let message = format!("{}: not every partition has a leader", topic.name);
                return Err(error::by_code(OPERATION, Code::OperationTimedOut, message));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn delete(&mut self, topic: &str) -> Result<(), BrokerError> {
        const OPERATION: &str = "delete a topic";
        let results = block_on(self.client.delete_topics(&[topic], &self.options()))
            .map_err(|error| error::of(OPERATION, &error))?;
        match results.into_iter().next() {
            Some(Err((name, code))) => Err(error::by_code(OPERATION, code, format!("{name}: {code}"))),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        const OPERATION: &str = "read the committed offsets of a group";
        let client = Settings::observer(&self.config, group, Isolation::ReadCommitted)?;
        offsets::observed(OPERATION, &client, topic, partitions, member::ANSWER_MAX)
    }

    fn range(&mut self, topic: &str, partition: Partition) -> Result<LogRange, BrokerError> {
        let client = self.client.inner();
        let range = client.fetch_watermarks(topic, partition.0, self.config.start_up_max);
        let (first, end) =
            range.map_err(|error| error::of("read where a partition begins and ends", &error))?;
        Ok(LogRange { first: NextOffset(first), end: NextOffset(end) })
    }

    fn since(&mut self, topic: &str, partition: Partition, millis: i64) -> Result<Offset, BrokerError> {
        const OPERATION: &str = "find the offset of a time";
        let client = Settings::reader(&self.config, Isolation::ReadUncommitted)?;
        let failed = |error: KafkaError| error::of(OPERATION, &error);
        let consumer = BaseConsumer::from_config_and_context(&client, ReaderContext).map_err(failed)?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(topic, partition.0, ListOffset::Offset(millis.max(0))).map_err(failed)?;
        let found = consumer.offsets_for_times(asked, self.config.start_up_max).map_err(failed)?;
        match found.elements().first().map(|element| (element.error(), element.offset())) {
            Some((Ok(()), ListOffset::Offset(offset))) => Ok(Offset(offset)),
            // No record is as late.
            Some((Ok(()), _)) => Ok(Offset(self.range(topic, partition)?.end.0)),
            Some((Err(error), _)) => Err(failed(error)),
            None => Err(error::by_code(OPERATION, Code::UnknownPartition, "")),
        }
    }

    fn identity(&mut self) -> Result<String, BrokerError> {
        let metadata = self.metadata("reach the broker", None)?;
        let cluster = self.client.inner().fetch_cluster_id(self.config.start_up_max);
        let brokers = metadata.brokers();
        let reached = brokers.iter().find(|broker| broker.id() == metadata.orig_broker_id());
        let reached = reached.map_or_else(
            || metadata.orig_broker_name().to_owned(),
            |broker| format!("{}:{}", broker.host(), broker.port()),
        );
        let plural = if brokers.len() == 1 { "" } else { "s" };
        Ok(format!(
            "Apache Kafka cluster {} of {} broker{plural}, reached at {reached}",
            cluster.as_deref().unwrap_or("without an id"),
            brokers.len(),
        ))
    }
}

/// Waits for a future on this thread. The admin client's futures are completed by a thread of its own, within their time-out.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
