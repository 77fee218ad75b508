//! The plain, idempotent producer.

use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::error;
use super::native::{self, Destination, WhenFull};
use super::producer::Sender;
use crate::broker::{Acknowledgement, BrokerError, Writer};
use crate::records::RecordView;

/// A plain producer on librdkafka.
pub(super) struct KafkaWriter {
    sender: Sender,
}

impl KafkaWriter {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, BrokerError> {
        Ok(Self { sender: Sender::new(config)? })
    }
}

impl Writer for KafkaWriter {
    fn write(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        timestamp_millis: Option<i64>,
        record: RecordView<'_>,
        tag: u64,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "write a record";
        let tag = usize::try_from(tag).map_err(|_| {
            error::refused(OPERATION, "_INVALID_ARG", format!("the tag {tag} does not fit a pointer"))
        })?;
        let to = Destination { partition, timestamp: timestamp_millis, tag };
        self.sender.produce(topic, to, record, WhenFull::Wait).map_err(|code| match self.sender.fatal() {
            Some((code, message)) => error::by_code(OPERATION, code, message),
            None => error::by_code(OPERATION, code, ""),
        })
    }

    fn acknowledged(&mut self) -> Vec<Acknowledgement> {
        self.sender
            .deliveries()
            .into_iter()
            .map(|(tag, result)| {
                let place = result
                    .map(|(partition, offset)| (partition, Some(offset).filter(|offset| offset.0 >= 0)));
                (tag as u64, place.map_err(|code| error::by_code("deliver a record", code, "")))
            })
            .collect()
    }

    fn flush(&mut self, wait: Duration) -> bool {
        native::flush(self.sender.client(), wait)
    }
}
