//! Reading a partition from its start to its end, outside of any group.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::config::{KafkaConfig, Settings};
use super::{diagnostics, error, native};
use crate::broker::{BrokerError, Class, Isolation, LogRecord};
use crate::clock::{Clock, SystemClock};
use crate::lease::{NextOffset, Offset, Partition};
use crate::records::Records;

const OPERATION: &str = "read a log";

/// Only passes on what librdkafka logs.
pub(super) struct ReaderContext;

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        diagnostics::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for ReaderContext {}

/// A consumer that reads one partition after the other.
pub(super) struct LogReader {
    consumer: BaseConsumer<ReaderContext>,
    silence_max: Duration,
}

impl LogReader {
    pub(super) fn new(config: &KafkaConfig, isolation: Isolation) -> Result<Self, BrokerError> {
        let client = Settings::reader(config, isolation)?;
        let consumer = BaseConsumer::from_config_and_context(&client, ReaderContext)
            .map_err(|error| error::of(OPERATION, &error))?;
        Ok(Self { consumer, silence_max: config.start_up_max })
    }

    /// Reads a partition from an offset up to what is its end now; for `read_committed` that is its last stable offset.
    pub(super) fn read(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        // Of a client that reads what is committed, the watermark is asked for with that isolation: it is the last stable offset.
        let (first, end) = self
            .consumer
            .fetch_watermarks(topic, partition.0, self.silence_max)
            .map_err(|error| error::of(OPERATION, &error))?;
        let first = first.max(from.0);
        if first < end {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition.0, ListOffset::Offset(first))
                .and_then(|()| self.consumer.assign(&list))
                .map_err(|error| error::of(OPERATION, &error))?;
            let read = self.read_to(end, each);
            self.consumer.unassign().map_err(|error| error::of(OPERATION, &error))?;
            read?;
        }
        Ok(NextOffset(end))
    }

    fn read_to(&self, end: i64, each: &mut dyn FnMut(LogRecord<'_>)) -> Result<(), BrokerError> {
        let mut records = Records::default();
        let clock = SystemClock::new();
        let mut heard = clock.now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let message = native::Message::from(&message);
                    if message.offset().0 < end {
                        message.append_to(&mut records);
                        each(LogRecord {
                            offset: message.offset(),
                            timestamp: message.time(),
                            record: records.get(0),
                        });
                        records.pop();
                    }
                    if message.offset().next().0 >= end {
                        return Ok(());
                    }
                    heard = clock.now();
                }
                // Nothing is left up to an end that is no earlier than ours: what lies between is of no record.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => {
                    let error = error::of(OPERATION, &error);
                    // The group that a reader is named after is none of its business.
                    let of_group = error.code.starts_with("GROUP_");
                    if !of_group && !matches!(error.class, Class::Retriable | Class::Unreachable) {
                        return Err(error);
                    }
                }
                None if clock.now().since(heard) > self.silence_max => {
                    let message = "the partition's leader did not answer";
                    return Err(error::by_code(OPERATION, Code::OperationTimedOut, message));
                }
                None => {}
            }
        }
    }
}
