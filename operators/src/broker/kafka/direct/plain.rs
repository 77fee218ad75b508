//! The producer of outcomes outside of transactions, without a client library.

use std::time::Duration;

use super::feed::Feed;
use super::settings::DirectSettings;
use crate::broker::kafka::config::KafkaConfig;
use crate::broker::{BrokerError, PlainProducer};
use crate::records::RecordView;

/// An idempotent producer that speaks Kafka's protocol itself, and sends again what was not acknowledged.
pub(super) struct DirectPlainProducer {
    feed: Feed,
    /// Why it is of no more use.
    failed: Option<BrokerError>,
}

impl DirectPlainProducer {
    /// Makes it, and shuts nobody out.
    ///
    /// # Errors
    ///
    /// As [`Feed::new`].
    pub(super) fn new(config: &KafkaConfig, settings: DirectSettings) -> Result<Self, BrokerError> {
        Ok(Self { feed: Feed::new(config, settings, None)?, failed: None })
    }

    /// The error that stands in the way of everything.
    fn sound(&self) -> Result<(), BrokerError> {
        self.failed.clone().map_or(Ok(()), Err)
    }
}

impl PlainProducer for DirectPlainProducer {
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        self.sound()?;
        self.feed.send(topic, partition, record)
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.sound()?;
        self.feed.drain(wait).inspect_err(|error| self.failed = Some(error.clone()))
    }
}
