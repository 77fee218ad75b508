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
use kafka_protocol::messages::{EndTxnRequest, GroupId, ProducerId, TransactionalId, TxnOffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Coordinated, named};
use super::failure;
use super::feed::Feed;
use super::identity::Identity;
use super::settings::DirectSettings;
use crate::broker::kafka::config::KafkaConfig;
use crate::broker::kafka::error;
use crate::broker::kafka::producer::CALL_MAX;
use crate::broker::kafka::token::Membership;
use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, Producer};
use crate::clock::{Clock as _, Moment};
use crate::records::RecordView;

/// The offset's leader epoch, which is told by who has it.
const NO_EPOCH: i32 = -1;

/// A transactional producer that speaks Kafka's protocol itself.
pub(super) struct DirectProducer {
    feed: Feed,
    id: TransactionalId,
    timeout: Duration,
    begun: Option<Moment>,
    /// Whether the broker may know of the transaction: then its end has to be told.
    is_known: bool,
    /// Why the transaction can only be aborted, or the producer is dead.
    failed: Option<BrokerError>,
}

impl DirectProducer {
    /// Makes it, and fences every other one of its id.
    ///
    /// # Errors
    ///
    /// As [`Feed::new`].
    pub(super) fn new(
        config: &KafkaConfig,
        settings: DirectSettings,
        transactional_id: &str,
    ) -> Result<Self, BrokerError> {
        let id = TransactionalId(StrBytes::from_string(transactional_id.to_owned()));
        Ok(Self {
            feed: Feed::new(config, settings, Some(id.clone()))?,
            id,
            timeout: config.transaction_timeout,
            begun: None,
            is_known: false,
            failed: None,
        })
    }

    /// Ends the transaction. The broker's answer to a repetition is that to the first time.
    fn end(&mut self, operation: &'static str, committed: bool) -> Result<(), BrokerError> {
        let before = self.feed.identity;
        let mut identity = before;
        if self.is_known {
            let coordinated = Coordinated::transaction(&self.id);
            let request = EndTxnRequest::default()
                .with_transactional_id(self.id.clone())
                .with_producer_id(ProducerId(before.id))
                .with_producer_epoch(before.epoch)
                .with_committed(committed);
            identity = self.feed.patiently(CALL_MAX, |feed| {
                let answer = feed.cluster.ask_coordinator(&coordinated, operation, &request)?;
                feed.checked(operation, Some(&coordinated), answer.error_code)?;
                before.renewed(operation, answer.producer_id, answer.producer_epoch)
            })?;
        }
        self.feed.turn_over(identity);
        (self.begun, self.is_known, self.failed) = (None, false, None);
        Ok(())
    }

    /// Notes an error after which the transaction can only be aborted, or the producer is dead. A broker that has given up a transaction
    /// after its timeout fences the producer as a successor would. When that time is over, the timeout is the likelier reason: a new
    /// producer with the same id may go on.
    fn noted(&mut self, mut error: BrokerError) -> BrokerError {
        let now = self.feed.cluster.clock().now();
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
}

impl Producer for DirectProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        self.sound()?;
        self.begun = Some(self.feed.cluster.clock().now());
        Ok(())
    }

    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        self.sound()?;
        self.is_known = true;
        self.feed.send(topic, partition, record).map_err(|error| self.noted(error))
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.sound()?;
        self.feed.drain(wait).map_err(|error| self.noted(error))
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
            return Err(error::refused(OPERATION, "_INVALID_ARG", "the token is of a simulated member"));
        };
        let request = offsets_request(&self.id, self.feed.identity, topic, offsets, &token.membership);
        self.is_known = true;
        self.feed
            .patiently(CALL_MAX, |feed| commit_offsets(feed, OPERATION, &request))
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
        self.feed.abandon();
        self.end(OPERATION, false).map_err(|error| match self.noted(error) {
            // An abort is answered by no further one.
            error if error.class == Class::Abortable => BrokerError { class: Class::Fatal, ..error },
            error => error,
        })
    }
}

/// Adds offsets to the transaction, once.
fn commit_offsets(
    feed: &mut Feed,
    operation: &'static str,
    request: &TxnOffsetCommitRequest,
) -> Result<(), BrokerError> {
    let group = Coordinated::Group(request.group_id.0.as_str().to_owned());
    let answer = feed.cluster.ask_coordinator(&group, operation, request)?;
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
    let asked: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    if codes.len() != asked {
        return Err(failure::unanswered(operation, "the broker has not answered for every partition"));
    }
    codes.into_iter().try_for_each(|number| feed.checked(operation, Some(&group), number))
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
            .with_committed_leader_epoch(NO_EPOCH)
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
