//! The producer of outcomes outside of transactions.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::config::{KafkaConfig, Settings};
use super::error;
use super::limits::TopicLimits;
use super::native::{self, Destination, WhenFull};
use super::producer::{CALL_MAX, Sender};
use crate::broker::{BrokerError, PlainProducer};
use crate::records::RecordView;

/// An idempotent producer on librdkafka, which repeats by itself what was not acknowledged.
pub(super) struct KafkaPlainProducer {
    sender: Sender,
    limits: TopicLimits,
}

impl KafkaPlainProducer {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, BrokerError> {
        let sender = Sender::new(&Settings::plain_producer(config)?)?;
        Ok(Self { sender, limits: TopicLimits::new(config, CALL_MAX) })
    }

    /// The error of a client that can't be used any more, if it is one; else that of this code.
    fn failed(&self, operation: &'static str, code: Code) -> BrokerError {
        let (code, message) = self.sender.fatal().unwrap_or((code, String::new()));
        error::by_code(operation, code, message)
    }
}

impl PlainProducer for KafkaPlainProducer {
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "send a record";
        if let Some(limit) = self.limits.exceeded(topic, record) {
            let message = format!("the topic {topic} takes no more than {limit} bytes");
            return Err(error::by_code(OPERATION, Code::MessageSizeTooLarge, message));
        }
        let to = Destination { partition, timestamp: None, tag: 0 };
        let sent = self.sender.produce(topic, to, record, WhenFull::Refuse);
        sent.map_err(|code| self.failed(OPERATION, code))
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        const OPERATION: &str = "deliver a record";
        let drained = native::flush(self.sender.client(), wait);
        match self.sender.failed_delivery() {
            Some(code) => {
                Err(BrokerError { class: error::class_of_delivery(code), ..self.failed(OPERATION, code) })
            }
            None => Ok(drained),
        }
    }
}
