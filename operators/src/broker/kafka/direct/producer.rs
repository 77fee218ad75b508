//! The transactional producer without a client library: transactions of version 2, in which each has an epoch of its own.
//!
//! ```text
//!   InitProducerId ─▶ Produce, Produce, … ─▶ TxnOffsetCommit ─▶ EndTxn ─▶ the answer has the next epoch ─┐
//!                        ▲                                                                               │
//!                        └───────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The next epoch is what makes repetition harmless. A request that was sent, is late, and arrives behind the end of its transaction is
//! refused because its epoch is over; with transactions of version 1 it would have been taken for one of the next (KIP-890, KAFKA-17754).
//! So each call here is repeated within its bound for as long as nobody has answered, and none leaves anything behind.

use std::time::Duration;

use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    EndTxnRequest, GroupId, InitProducerIdRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Cluster, Coordinated, named};
use super::failure;
use super::identity::Identity;
use super::sender::Sender;
use super::settings::DirectSettings;
use crate::broker::kafka::config::KafkaConfig;
use crate::broker::kafka::limits::TopicLimits;
use crate::broker::kafka::producer::CALL_MAX;
use crate::broker::kafka::token::Membership;
use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, Producer};
use crate::clock::{Clock as _, Moment};
use crate::records::RecordView;

/// What waits to be sent before a leader that is free is looked for, in bytes: the larger a batch, the less each record costs everybody.
const REQUEST_BYTES: usize = 1 << 20;
/// How long an answer is waited for before the same is asked again, over another connection.
const TRY_MAX: Duration = Duration::from_secs(2);
/// What no broker has: the offset's leader epoch, and the identity of who has none yet.
const NONE: i32 = -1;
/// The code of a record that is too large, as librdkafka names it.
const TOO_LARGE: &str = "MSG_SIZE_TOO_LARGE";

/// A transactional producer that speaks Kafka's protocol itself.
pub(super) struct DirectProducer {
    id: TransactionalId,
    timeout: Duration,
    settings: DirectSettings,
    cluster: Cluster,
    sender: Sender,
    limits: TopicLimits,
    identity: Identity,
    begun: Option<Moment>,
    /// Whether the broker may know of the transaction: then its end has to be told.
    is_known: bool,
    /// How much waited when a leader was looked for last.
    looked_at: usize,
    /// Why the transaction can only be aborted, or the producer is dead.
    failed: Option<BrokerError>,
}

impl DirectProducer {
    /// Makes it, and fences every other one of its id.
    ///
    /// # Errors
    ///
    /// [`Class::Unreachable`] if the broker could not be reached within the start-up bound, [`Class::Refused`] if it has no such
    /// transactions, or this process may not use the id.
    pub(super) fn new(
        config: &KafkaConfig,
        settings: DirectSettings,
        transactional_id: &str,
    ) -> Result<Self, BrokerError> {
        let id = TransactionalId(StrBytes::from_string(transactional_id.to_owned()));
        let mut producer = Self {
            cluster: Cluster::new(&config.bootstrap_servers, &settings.client),
            sender: Sender::new(id.clone(), &settings),
            limits: TopicLimits::of_any_batch(config, CALL_MAX),
            id,
            timeout: config.transaction_timeout,
            settings,
            identity: Identity { id: -1, epoch: -1 },
            begun: None,
            is_known: false,
            looked_at: 0,
            failed: None,
        };
        let taken = producer.patiently(config.start_up_max, Self::take_over);
        producer.identity = taken.map_err(|error| match error.class {
            Class::Retriable => BrokerError { class: Class::Unreachable, ..error },
            _ => error,
        })?;
        Ok(producer)
    }

    /// Takes over the transactional id: whatever a predecessor has left open is aborted.
    fn take_over(&mut self, wait: Duration) -> Result<Identity, BrokerError> {
        const OPERATION: &str = "take over the transactional id";
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_transaction_timeout_ms(i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(NONE.into()))
            .with_producer_epoch(-1);
        let answer = self.cluster.ask_coordinator(&self.coordinated(), OPERATION, &request, wait)?;
        self.checked(OPERATION, answer.error_code)?;
        Ok(Identity { id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    /// Ends the transaction. The broker's answer to a repetition is that to the first time.
    fn end(&mut self, operation: &'static str, committed: bool) -> Result<(), BrokerError> {
        if self.is_known {
            let identity = self.identity;
            let request = EndTxnRequest::default()
                .with_transactional_id(self.id.clone())
                .with_producer_id(ProducerId(identity.id))
                .with_producer_epoch(identity.epoch)
                .with_committed(committed);
            self.identity = self.patiently(CALL_MAX, |producer, wait| {
                let answer =
                    producer.cluster.ask_coordinator(&producer.coordinated(), operation, &request, wait)?;
                producer.checked(operation, answer.error_code)?;
                Ok(Identity { id: answer.producer_id.0, epoch: answer.producer_epoch })
            })?;
        }
        self.sender.turn_over(&mut self.cluster);
        (self.begun, self.is_known, self.failed, self.looked_at) = (None, false, None, 0);
        Ok(())
    }

    /// Adds offsets to the transaction, once.
    fn commit_offsets(
        &mut self,
        operation: &'static str,
        request: &TxnOffsetCommitRequest,
        wait: Duration,
    ) -> Result<(), BrokerError> {
        let group = Coordinated::Group(request.group_id.0.as_str().to_owned());
        let answer = self.cluster.ask_coordinator(&group, operation, request, wait)?;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
        let asked: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        if codes.len() != asked {
            return Err(failure::unanswered(operation, "the broker has not answered for every partition"));
        }
        for number in codes {
            if let Some(code) = failure::code(number) {
                if failure::has_moved(code) {
                    self.cluster.forget_coordinator(&group);
                }
                let class = failure::class_of_call(code);
                return Err(failure::of(class, operation, code, ""));
            }
        }
        Ok(())
    }

    /// Whose coordinator the transaction's is.
    fn coordinated(&self) -> Coordinated {
        Coordinated::Transaction(self.id.0.as_str().to_owned())
    }

    /// The error of an answer about the transaction, if it has one.
    fn checked(&mut self, operation: &'static str, number: i16) -> Result<(), BrokerError> {
        let Some(code) = failure::code(number) else { return Ok(()) };
        if failure::has_moved(code) {
            let coordinated = self.coordinated();
            self.cluster.forget_coordinator(&coordinated);
        }
        Err(failure::of(failure::class_of_call(code), operation, code, ""))
    }

    /// Calls until there is an answer that stays, or there is no time for another try.
    fn patiently<T>(
        &mut self,
        bound: Duration,
        mut call: impl FnMut(&mut Self, Duration) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let until = self.cluster.clock().now().after(bound);
        loop {
            let left = until.since(self.cluster.clock().now());
            let called = call(self, left.min(TRY_MAX));
            let Err(error) = &called else { return called };
            let next = self.cluster.clock().now().after(self.settings.back_off);
            if error.class != Class::Retriable || next >= until {
                return called;
            }
            tracing::debug!(%error, "the broker is asked again");
            std::thread::sleep(self.settings.back_off);
        }
    }

    /// Notes an error after which the transaction can only be aborted, or the producer is dead. A broker that has given up a transaction
    /// after its timeout fences the producer as a successor would. When that time is over, the timeout is the likelier reason: a new
    /// producer with the same id may go on.
    fn noted(&mut self, mut error: BrokerError) -> BrokerError {
        let now = self.cluster.clock().now();
        if error.class == Class::Fenced && self.begun.is_some_and(|begun| now.since(begun) >= self.timeout) {
            error.class = Class::Fatal;
            error.message.push_str("; the transaction had outlived its timeout");
        }
        if matches!(error.class, Class::Abortable | Class::Fatal | Class::Fenced) {
            self.failed = Some(error.clone());
        }
        error
    }

    /// The error that stands in the way of everything but an abort.
    fn sound(&self) -> Result<(), BrokerError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn pump(&mut self, wait: Duration) -> Result<(), BrokerError> {
        self.is_known |= !self.sender.is_empty();
        let pumped = self.sender.pump(&mut self.cluster, self.identity, wait);
        self.looked_at = self.sender.waiting_bytes();
        pumped.map_err(|error| {
            // One of the limits may be another one by now.
            self.limits.forget();
            self.noted(error)
        })
    }
}

impl Producer for DirectProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        self.sound()?;
        self.begun = Some(self.cluster.clock().now());
        Ok(())
    }

    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "send a record";
        self.sound()?;
        let largest = self.limits.largest(topic).min(self.settings.record_bytes);
        if record.wire_bytes() > largest {
            let message = format!("the topic {topic}, or this producer, takes no more than {largest} bytes");
            return Err(BrokerError {
                class: Class::TooLarge,
                operation: OPERATION,
                code: TOO_LARGE.to_owned(),
                message,
            });
        }
        if self.sender.is_full() {
            self.pump(Duration::ZERO)?;
        }
        if self.sender.is_full() {
            return Err(BrokerError {
                class: Class::QueueFull,
                operation: OPERATION,
                code: "_QUEUE_FULL".to_owned(),
                message: "the broker has not acknowledged enough of what was sent before".to_owned(),
            });
        }
        let batch_bytes = self.settings.batch_bytes.min(largest);
        self.sender
            .push(&mut self.cluster, topic, partition, record, batch_bytes)
            .map_err(|error| self.noted(error))?;
        if self.sender.waiting_bytes() >= self.looked_at + REQUEST_BYTES {
            self.pump(Duration::ZERO)?;
        }
        Ok(())
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.sound()?;
        let until = self.cluster.clock().now().after(wait);
        loop {
            let left = until.since(self.cluster.clock().now());
            self.pump(left)?;
            if self.sender.is_empty() || left.is_zero() {
                return Ok(self.sender.is_empty());
            }
        }
    }

    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "add offsets to the transaction";
        self.sound()?;
        let GroupToken::Kafka(token) = token else {
            return Err(BrokerError {
                class: Class::Refused,
                operation: OPERATION,
                code: "_INVALID_ARG".to_owned(),
                message: "the token is of a simulated member".to_owned(),
            });
        };
        let request = offsets_request(&self.id, self.identity, topic, offsets, &token.membership);
        self.is_known = true;
        self.patiently(CALL_MAX, |producer, wait| producer.commit_offsets(OPERATION, &request, wait))
            .map_err(|error| self.noted(error))
    }

    fn commit(&mut self) -> Result<(), BrokerError> {
        const OPERATION: &str = "commit the transaction";
        self.sound()?;
        if !self.drain(CALL_MAX)? {
            return Err(failure::unanswered(OPERATION, "records were still under way"));
        }
        self.end(OPERATION, true).map_err(|error| self.noted(error))
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        const OPERATION: &str = "abort the transaction";
        if let Some(error) = self.failed.clone().filter(|error| error.class != Class::Abortable) {
            return Err(error);
        }
        self.sender.abandon(&mut self.cluster);
        self.end(OPERATION, false).map_err(|error| match self.noted(error) {
            // An abort is answered by no further one.
            error if error.class == Class::Abortable => BrokerError { class: Class::Fatal, ..error },
            error => error,
        })
    }
}

/// The request that adds these offsets, as the member that this is.
fn offsets_request(
    id: &TransactionalId,
    identity: Identity,
    topic: &str,
    offsets: &[OffsetCommit],
    membership: &Membership,
) -> TxnOffsetCommitRequest {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let partitions = offsets.iter().map(|commit| {
        TxnOffsetCommitRequestPartition::default()
            .with_partition_index(commit.partition.0)
            .with_committed_offset(commit.next.0)
            .with_committed_leader_epoch(NONE)
            .with_committed_metadata(Some(text(&commit.metadata)))
    });
    let topic =
        TxnOffsetCommitRequestTopic::default().with_name(named(topic)).with_partitions(partitions.collect());
    TxnOffsetCommitRequest::default()
        .with_transactional_id(id.clone())
        .with_group_id(GroupId(text(&membership.group)))
        .with_producer_id(ProducerId(identity.id))
        .with_producer_epoch(identity.epoch)
        .with_generation_id(membership.generation)
        .with_member_id(text(&membership.member))
        .with_group_instance_id(membership.instance.as_deref().map(text))
        .with_topics(vec![topic])
}
