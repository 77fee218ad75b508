//! What both producers do with a record, and with a question to the broker: bounds are kept here, and patience.

use std::time::Duration;

use kafka_protocol::messages::{InitProducerIdRequest, ProducerId, TransactionalId};

use super::cluster::{Cluster, Coordinated};
use super::failure;
use super::identity::Identity;
use super::sender::Sender;
use super::settings::DirectSettings;
use crate::broker::kafka::config::KafkaConfig;
use crate::broker::kafka::limits::TopicLimits;
use crate::broker::kafka::producer::CALL_MAX;
use crate::broker::{BrokerError, Class};
use crate::clock::Clock as _;
use crate::records::RecordView;

/// What waits to be sent before a leader that is free is looked for, in bytes: the larger a batch, the less each record costs everybody.
const REQUEST_BYTES: usize = 1 << 20;
/// The operation of everything that is about a single record.
const SEND: &str = "send a record";
/// The operation by which a producer begins.
const TAKE_OVER: &str = "take over the transactional id";

/// A producer's way to the broker.
pub(super) struct Feed {
    pub(super) cluster: Cluster,
    pub(super) identity: Identity,
    settings: DirectSettings,
    sender: Sender,
    limits: TopicLimits,
    /// How much waited when a leader was looked for last.
    looked_at: usize,
}

impl Feed {
    /// Takes over the transactional id, if there is one: whatever a predecessor has left open is aborted, and it can do nothing more.
    ///
    /// # Errors
    ///
    /// [`Class::Unreachable`] if the broker could not be reached within the start-up bound, [`Class::Refused`] if it does not speak as we
    /// do, or this process may not use the id.
    pub(super) fn new(
        config: &KafkaConfig,
        settings: DirectSettings,
        transactional_id: Option<TransactionalId>,
    ) -> Result<Self, BrokerError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(transactional_id.clone())
            .with_transaction_timeout_ms(
                i32::try_from(config.transaction_timeout.as_millis()).unwrap_or(i32::MAX),
            )
            // Of nobody yet.
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut feed = Self {
            cluster: Cluster::new(&config.bootstrap_servers, &settings.client),
            identity: Identity::none(transactional_id.is_some()),
            sender: Sender::new(transactional_id, &settings),
            limits: TopicLimits::of_any_batch(config, CALL_MAX),
            settings,
            looked_at: 0,
        };
        let taken = feed.patiently(config.start_up_max, |feed| feed.take_over(&request));
        feed.identity = taken.map_err(|error| match error.class {
            Class::Retriable => BrokerError { class: Class::Unreachable, ..error },
            _ => error,
        })?;
        Ok(feed)
    }

    fn take_over(&mut self, request: &InitProducerIdRequest) -> Result<Identity, BrokerError> {
        let coordinated = request.transactional_id.as_ref().map(Coordinated::transaction);
        let answer = match &coordinated {
            Some(coordinated) => self.cluster.ask_coordinator(coordinated, TAKE_OVER, request)?,
            None => self.cluster.ask_anyone(TAKE_OVER, request)?,
        };
        self.checked(TAKE_OVER, coordinated.as_ref(), answer.error_code)?;
        self.identity.renewed(TAKE_OVER, answer.producer_id, answer.producer_epoch)
    }

    /// The error of an answer, if it has one. A coordinator that has moved is looked for with the next question.
    pub(super) fn checked(
        &mut self,
        operation: &'static str,
        coordinated: Option<&Coordinated>,
        number: i16,
    ) -> Result<(), BrokerError> {
        let Some(code) = failure::code(number) else { return Ok(()) };
        if let Some(coordinated) = coordinated.filter(|_| failure::has_moved(code)) {
            self.cluster.forget_coordinator(coordinated);
        }
        Err(failure::of(failure::class_of_call(code), operation, code, ""))
    }

    /// Calls until there is an answer that stays, or there is no time for another try.
    pub(super) fn patiently<T>(
        &mut self,
        bound: Duration,
        mut call: impl FnMut(&mut Self) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let until = self.cluster.give(bound);
        loop {
            let called = call(self);
            let Err(error) = &called else { return called };
            let next = self.cluster.clock().now().after(self.settings.back_off);
            if error.class != Class::Retriable || next >= until {
                return called;
            }
            tracing::debug!(%error, "the broker is asked again");
            std::thread::sleep(self.settings.back_off);
        }
    }

    /// Takes a record over.
    ///
    /// # Errors
    ///
    /// [`Class::TooLarge`] and [`Class::QueueFull`]: it was not taken. Else those of [`Self::pump`].
    pub(super) fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        let refused = |class, code: &str, message: String| {
            Err(BrokerError { class, operation: SEND, code: code.to_owned(), message })
        };
        let largest = self.limits.largest(topic).min(self.settings.record_bytes);
        if record.wire_bytes() > largest {
            let message = format!("the topic {topic}, or this producer, takes no more than {largest} bytes");
            return refused(Class::TooLarge, "MSG_SIZE_TOO_LARGE", message);
        }
        if self.sender.is_full() {
            self.pump(Duration::ZERO)?;
        }
        if self.sender.is_full() {
            let message = "the broker has not acknowledged enough of what was sent before".to_owned();
            return refused(Class::QueueFull, "_QUEUE_FULL", message);
        }
        let batch_bytes = self.settings.batch_bytes.min(largest);
        self.sender.push(&mut self.cluster, topic, partition, record, batch_bytes)?;
        // It is taken. What can fail from here on ends the transaction, and with it the record.
        if self.sender.waiting_bytes() >= self.looked_at + REQUEST_BYTES {
            self.pump(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Waits up to `wait` until everything is acknowledged; whether it is.
    ///
    /// # Errors
    ///
    /// If a record was refused.
    pub(super) fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        let until = self.cluster.clock().now().after(wait);
        loop {
            let left = until.since(self.cluster.clock().now());
            self.pump(left)?;
            if self.sender.is_empty() || left.is_zero() {
                return Ok(self.sender.is_empty());
            }
        }
    }

    /// Forgets what is not acknowledged.
    pub(super) fn abandon(&mut self) {
        self.sender.abandon(&mut self.cluster);
    }

    /// A transaction has ended, and the next is this producer's.
    pub(super) fn turn_over(&mut self, identity: Identity) {
        self.sender.turn_over(&mut self.cluster);
        (self.identity, self.looked_at) = (identity, 0);
    }

    fn pump(&mut self, wait: Duration) -> Result<(), BrokerError> {
        let pumped = self.sender.pump(&mut self.cluster, self.identity, wait);
        self.looked_at = self.sender.waiting_bytes();
        if pumped.is_err() {
            // One of the limits may be another one by now.
            self.limits.forget();
        }
        pumped
    }
}
