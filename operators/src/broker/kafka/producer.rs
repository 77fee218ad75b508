//! The transactional producer.
//!
//! Calls come from one thread, the transaction thread. A second one, which sleeps in librdkafka until something happens, serves
//! delivery reports, logs and token refreshes: transactions need somebody to do that while a call blocks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use super::config::{KafkaConfig, Settings};
use super::limits::TopicLimits;
use super::native::{self, Destination, WhenFull};
use super::offsets::offset_list;
use super::signal::Signal;
use super::token::KafkaToken;
use super::{bounded, diagnostics, error};
use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, Producer};
use crate::clock::{Clock, Moment, SystemClock};
use crate::lease::{Offset, Partition};
use crate::records::RecordView;

/// How long one call waits for the broker before it returns [`Class::Retriable`], to be called again.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);

/// How long after its bound a call is given up that should have returned by then.
const CALL_LATE: Duration = Duration::from_secs(1);

/// What became of a record: its tag, and where it went or why not.
pub(super) type Delivery = (usize, Result<(Partition, Offset), RDKafkaErrorCode>);

/// Collects the delivery reports of a producer.
#[derive(Default)]
pub(super) struct Deliveries {
    reports: Mutex<Vec<Delivery>>,
}

impl Deliveries {
    /// The reports since the last call.
    pub(super) fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        diagnostics::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        diagnostics::client_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        let result = match result {
            Ok(message) => Ok((Partition(message.partition()), Offset(message.offset()))),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push((tag, result));
    }
}

/// A client that produces, the thread that serves it, and the topics it has sent to.
pub(super) struct Sender {
    topics: BTreeMap<String, native::Topic<Deliveries>>,
    client: Arc<BaseProducer<Deliveries>>,
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

/// What a serving thread waits for.
#[derive(Default)]
struct Work {
    signal: Signal,
    stop: AtomicBool,
}

impl Sender {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, BrokerError> {
        const OPERATION: &str = "make a producer";
        let failed = |reason: String| error::refused(OPERATION, "_FAIL", reason);
        let client = BaseProducer::from_config_and_context(config, Deliveries::default())
            .map_err(|error| error::of(OPERATION, &error))?;
        let client = Arc::new(client);
        let work = Arc::new(Work::default());
        let waker = {
            let work = Arc::clone(&work);
            Arc::new(move || work.signal.raise())
        };
        let queue = native::producer_queue(&client, waker)
            .ok_or_else(|| failed("the client has no queue".to_owned()))?;
        let thread = std::thread::Builder::new()
            .name("kafka producer".to_owned())
            .spawn({
                let (client, work) = (Arc::clone(&client), Arc::clone(&work));
                move || {
                    while !work.stop.load(Ordering::Acquire) {
                        if queue.is_empty() {
                            work.signal.wait(Duration::MAX);
                        } else {
                            client.poll(Duration::ZERO);
                        }
                    }
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { topics: BTreeMap::new(), client, work, thread: Some(thread) })
    }

    pub(super) fn client(&self) -> &BaseProducer<Deliveries> {
        &self.client
    }

    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        self.client.context().take()
    }

    /// Copies a record to the client's queue.
    pub(super) fn produce(
        &mut self,
        topic: &str,
        to: Destination,
        record: RecordView<'_>,
        when_full: WhenFull,
    ) -> Result<(), RDKafkaErrorCode> {
        if let Some(topic) = self.topics.get(topic) {
            return topic.produce(to, record, when_full);
        }
        let handle = native::Topic::new(&self.client, topic).ok_or(RDKafkaErrorCode::InvalidTopic)?;
        self.topics.entry(topic.to_owned()).or_insert(handle).produce(to, record, when_full)
    }

    /// Why a record was not delivered, if one was not: the cause, rather than that others were thrown away because of it.
    pub(super) fn failed_delivery(&self) -> Option<RDKafkaErrorCode> {
        let failures: Vec<_> = self.deliveries().into_iter().filter_map(|(_, result)| result.err()).collect();
        failures.iter().copied().find(|code| !thrown_away(*code)).or(failures.first().copied())
    }

    /// The error that has made the client unusable, if one has.
    pub(super) fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.client.client().fatal_error()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.work.stop.store(true, Ordering::Release);
        self.work.signal.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that served a producer had panicked");
        }
    }
}

/// A transactional producer on librdkafka.
pub(super) struct KafkaProducer {
    sender: Sender,
    limits: TopicLimits,
    client: ClientConfig,
    start_up_max: Duration,
    transaction_timeout: Duration,
    clock: SystemClock,
    begun: Option<Moment>,
    /// Whether a record was not delivered, and librdkafka 2.12 may be wrong about the next sequence number of its partition. Where the
    /// broker has refused it, its number is missing, which is found out only by the failure of the next transaction with a record for
    /// that partition. Where it was thrown away by an abort, its number is given to the next record; had it been sent, and the answer
    /// been lost, the broker takes that one for a repetition, and both say that it is there when it is not.
    sequence_broken: bool,
}

impl KafkaProducer {
    /// Makes it, and fences every other one of its id.
    pub(super) fn new(config: &KafkaConfig, transactional_id: &str) -> Result<Self, BrokerError> {
        let client = Settings::producer(config, Some(transactional_id))?;
        Ok(Self {
            sender: initialized(&client, config.start_up_max)?,
            limits: TopicLimits::new(config, CALL_MAX),
            client,
            start_up_max: config.start_up_max,
            transaction_timeout: config.transaction_timeout,
            clock: SystemClock::new(),
            begun: None,
            sequence_broken: false,
        })
    }

    /// The error of a transactional call.
    fn failed(&self, operation: &'static str, failure: &KafkaError) -> BrokerError {
        self.in_time(error::of(operation, failure))
    }

    /// The error of a client that can't be used any more, if it is one.
    fn fatal(&self, operation: &'static str) -> Option<BrokerError> {
        let (code, message) = self.sender.fatal()?;
        let facts = error::Facts { code, fatal: true, abortable: false, retriable: false };
        Some(self.in_time(error::with_class(error::class_of_transaction(facts), operation, code, message)))
    }

    /// A broker that has given up a transaction after its timeout fences the producer as a successor would. When that time is over,
    /// the timeout is the likelier reason: a new producer with the same id may go on.
    fn in_time(&self, mut error: BrokerError) -> BrokerError {
        let timed_out =
            self.begun.is_some_and(|begun| self.clock.now().since(begun) >= self.transaction_timeout);
        if error.class == Class::Fenced && timed_out {
            error.class = Class::Fatal;
            error.message.push_str("; the transaction had outlived its timeout");
        }
        error
    }

    /// Why a record was not delivered, if one was not.
    fn failed_delivery(&mut self) -> Option<RDKafkaErrorCode> {
        let failure = self.sender.failed_delivery();
        self.sequence_broken |= failure.is_some();
        failure
    }

    /// The error of a record that was not delivered.
    fn refused_delivery(&mut self, operation: &'static str) -> Option<BrokerError> {
        let failure = self.failed_delivery();
        if let Some(fatal) = self.fatal(operation) {
            return Some(fatal);
        }
        failure.map(|code| error::with_class(error::class_of_delivery(code), operation, code, ""))
    }
}

/// Whether librdkafka has given up a record only because of the transaction that it was in.
fn thrown_away(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
}

/// A client that has taken over its transactional id.
fn initialized(config: &ClientConfig, start_up_max: Duration) -> Result<Sender, BrokerError> {
    let sender = Sender::new(config)?;
    sender.client().init_transactions(start_up_max).map_err(|error| {
        let mut error = error::of("take over the transactional id", &error);
        if error.class == Class::Retriable {
            error.class = Class::Unreachable;
        }
        error
    })?;
    Ok(sender)
}

impl Producer for KafkaProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        self.sender
            .client()
            .begin_transaction()
            .map_err(|error| self.failed("begin a transaction", &error))?;
        self.begun = Some(self.clock.now());
        Ok(())
    }

    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "send a record";
        if let Some(limit) = self.limits.exceeded(topic, record) {
            let message = format!("the topic {topic} takes no more than {limit} bytes");
            return Err(error::by_code(OPERATION, RDKafkaErrorCode::MessageSizeTooLarge, message));
        }
        let to = Destination { partition, timestamp: None, tag: 0 };
        let Err(code) = self.sender.produce(topic, to, record, WhenFull::Refuse) else { return Ok(()) };
        if let Some(fatal) = self.fatal(OPERATION) {
            return Err(fatal);
        }
        Err(match code {
            // librdkafka takes no more records for a transaction that can only be aborted.
            RDKafkaErrorCode::State if self.begun.is_some() => {
                self.refused_delivery(OPERATION).unwrap_or_else(|| {
                    error::with_class(Class::Abortable, OPERATION, code, "the transaction has failed already")
                })
            }
            code => error::by_code(OPERATION, code, ""),
        })
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        let drained = native::flush(self.sender.client(), wait);
        match self.refused_delivery("deliver a record") {
            Some(error) => Err(error),
            None => Ok(drained),
        }
    }

    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "add offsets to the transaction";
        let GroupToken::Kafka(KafkaToken { metadata, .. }) = token else {
            return Err(error::refused(OPERATION, "_INVALID_ARG", "the token is of a simulated member"));
        };
        let list = offset_list(OPERATION, topic, offsets)?;
        // While the group's coordinator can't be reached librdkafka 2.12 does not return from this call, whatever its bound: its issues
        // 5456 and 5511. The client is then left to the call, and is of no more use: a new one of the same id fences it.
        let (client, metadata) = (Arc::clone(&self.sender.client), Arc::clone(metadata));
        let call = move || client.send_offsets_to_transaction(&list, &metadata, CALL_MAX);
        match bounded::within(CALL_MAX + CALL_LATE, call) {
            Ok(Some(sent)) => sent.map_err(|error| self.failed(OPERATION, &error)),
            Ok(None) => Err(error::with_class(
                Class::Fatal,
                OPERATION,
                RDKafkaErrorCode::OperationTimedOut,
                "the client library did not return from the call in time: the group's coordinator is away",
            )),
            Err(error) => {
                Err(error::with_class(Class::Fatal, OPERATION, RDKafkaErrorCode::Fail, error.to_string()))
            }
        }
    }

    fn commit(&mut self) -> Result<(), BrokerError> {
        const OPERATION: &str = "commit the transaction";
        // The bindings' commit begins with a flush that would poll for 100 ms if anything were still under way.
        let drained = native::flush(self.sender.client(), CALL_MAX);
        if let Some(error) = self.refused_delivery(OPERATION) {
            return Err(error);
        }
        if !drained {
            let message = "records were still under way";
            return Err(error::with_class(
                Class::Retriable,
                OPERATION,
                RDKafkaErrorCode::OperationTimedOut,
                message,
            ));
        }
        match self.sender.client().commit_transaction(CALL_MAX) {
            Ok(()) => {
                self.begun = None;
                Ok(())
            }
            Err(error) => Err(self.failed(OPERATION, &error)),
        }
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        const OPERATION: &str = "abort the transaction";
        let result = self.sender.client().abort_transaction(CALL_MAX);
        // The reports of records that the abort has thrown away are nobody's failure.
        self.failed_delivery();
        result.map_err(|error| self.failed(OPERATION, &error))?;
        self.begun = None;
        if std::mem::take(&mut self.sequence_broken) {
            tracing::info!("a new client takes over, because not every record of the old one was delivered");
            self.limits.forget();
            self.sender = initialized(&self.client, self.start_up_max).map_err(|error| BrokerError {
                class: Class::Fatal,
                operation: OPERATION,
                ..error
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::config::FromClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::{MockCluster, MockCoordinator};

    use super::*;
    use crate::broker::kafka::config::KafkaConfig;
    use crate::lease::NextOffset;
    use crate::records::Records;

    /// Found by the campaign, on three nodes of which one was killed: the transaction thread of an engine stood still in this call, with the
    /// lock of the tenure in its hand, until the coordinator of the group came back.
    #[test]
    fn offsets_are_given_up_in_time_while_the_groups_coordinator_is_away() {
        let cluster = MockCluster::new(2).unwrap();
        for topic in ["requests", "results"] {
            cluster.create_topic(topic, 1, 1).unwrap();
            cluster.partition_leader(topic, 0, Some(1)).unwrap();
        }
        cluster.coordinator(MockCoordinator::Transaction("id".to_owned()), 1).unwrap();
        cluster.coordinator(MockCoordinator::Group("group".to_owned()), 2).unwrap();
        let config = KafkaConfig::new(cluster.bootstrap_servers());
        let member = BaseConsumer::from_config(&Settings::member(&config, "group").unwrap()).unwrap();
        let token = GroupToken::Kafka(KafkaToken {
            metadata: Arc::new(member.group_metadata().unwrap()),
            membership: native::membership(&member).unwrap(),
        });
        let mut producer = KafkaProducer::new(&config, "id").unwrap();
        producer.begin().unwrap();
        let mut record = Records::default();
        record.push(None, Some(b"value"));
        producer.send("results", Some(0), record.get(0)).unwrap();
        while !producer.drain(Duration::from_millis(100)).unwrap() {}
        cluster.broker_down(2).unwrap();
        let offset = OffsetCommit { partition: Partition(0), next: NextOffset(1), metadata: String::new() };
        let clock = SystemClock::new();
        let failed = producer.send_offsets("requests", &[offset], &token).unwrap_err();
        assert!(failed.class == Class::Fatal && failed.message.contains("did not return"), "{failed}");
        let took = clock.now().since(Moment::START);
        assert!(took < CALL_MAX + 2 * CALL_LATE, "{took:?}");
        // So that the call comes to its end, and with it the client.
        cluster.broker_up(2).unwrap();
    }
}
