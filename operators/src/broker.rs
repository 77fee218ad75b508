//! What the engine needs of a broker: a member of a consumer group, a producer, transactional or plain, and, for the tools around the
//! engine, topics, a writer and a reader of logs.
//!
//! [`kafka`] talks to Apache Kafka through librdkafka and is the only place that makes its clients. [`simulated`] is a broker in memory
//! with the same transactions, fencing and isolation, seeded faults included. One conformance suite runs against both.

pub mod kafka;
pub mod simulated;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::lease::{Lease, NextOffset, Offset, Partition};
use crate::metadata::TopicId;
use crate::records::{RecordView, Records, Size};

/// A broker, as a factory of what the engine uses of it.
pub trait Broker: Send + Sync {
    /// Makes a transactional producer and fences every other one of this id: the predecessor's open transaction is aborted, and it can
    /// commit nothing more.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached within the start-up bound, or refused.
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, BrokerError>;

    /// Makes a producer outside of transactions. It shuts nobody out.
    ///
    /// # Errors
    ///
    /// If the client could not be made.
    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError>;

    /// Joins the consumer group as one member, which reads `topic` with `read_committed`. Make the producer first: its fencing must
    /// come before the group's offsets are read.
    ///
    /// # Errors
    ///
    /// If the client could not be made, or the broker could not be reached within the start-up bound.
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, BrokerError>;

    /// Topics: what exists, what to make.
    ///
    /// # Errors
    ///
    /// If the client could not be made.
    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError>;

    /// A producer outside any transaction, idempotent: for requests, not for the engine's outcomes.
    ///
    /// # Errors
    ///
    /// If the client could not be made.
    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError>;

    /// Reads one partition of a topic, outside any group, from an offset, or from its start where that is later, up to what is its end (for
    /// `read_committed`: its last stable offset) when it is called.
    ///
    /// `each` sees every record in order; control records and, with `read_committed`, aborted ones are left out.
    ///
    /// # Errors
    ///
    /// If the partition could not be read to that end.
    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError>;

    /// The same, from its start.
    ///
    /// # Errors
    ///
    /// If the partition could not be read to that end.
    fn read(
        &self,
        topic: &str,
        partition: Partition,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        self.read_from(topic, partition, Offset(0), isolation, each)
    }
}

/// What a reader of a log sees of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything, also what was aborted or is still open.
    ReadUncommitted,
    /// Only what was committed, up to the first open transaction.
    ReadCommitted,
}

/// A record read from a log.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: RecordTime,
    /// Key, value and headers.
    pub record: RecordView<'a>,
}

/// A record's timestamp: milliseconds since the Unix epoch, and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTime {
    /// Milliseconds since the Unix epoch; -1 where the record has none.
    pub millis: i64,
    /// Whether the broker set it when it appended the record, rather than the producer.
    pub append: bool,
}

/// Records polled in one activation, from any of a worker's leases.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Polled {
    /// Keys, values and headers.
    pub records: Records,
    /// Where each record stands, in the order of `records`.
    pub origins: Vec<(Lease, Offset)>,
    /// The timestamp of each record, in the order of `records`.
    pub times: Vec<RecordTime>,
    /// When they were polled; set by the source.
    pub polled_at: Moment,
    /// Places of records that were delivered before, and must not be decoded again.
    pub skipped: Vec<usize>,
}

impl Polled {
    /// Nothing polled yet at `polled_at`, with room for as much as `like`.
    pub fn with_room(polled_at: Moment, like: Size) -> Self {
        let mut polled = Self { polled_at, ..Self::default() };
        polled.records.reserve_like(like);
        polled.origins.reserve(like.records);
        polled.times.reserve(like.records);
        polled
    }

    /// Notes that the record at `place` was delivered before.
    pub fn skip(&mut self, place: usize) {
        self.skipped.push(place);
    }
}

/// How much one poll of a queue may bring. At least one record may always come, however large.
#[derive(Clone, Copy, Debug)]
pub struct PollLimit {
    /// Records at most.
    pub records: usize,
    /// Bytes of keys, values and headers after which no further record is taken; their lengths in a batch may count too.
    pub bytes: usize,
}

/// How a poll of a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollEnd {
    /// The limit was reached: there may be more, and no wake-up will tell.
    Limit,
    /// The queue was empty: the queue's waker is called when that changes.
    Empty,
}

/// One member of a consumer group. Served by one thread.
pub trait Member: Send {
    /// Serves the group for up to `wait`, and returns the first thing that happened. Call it at least once a second: it is the member's
    /// sign of life.
    fn poll(&mut self, wait: Duration) -> Option<GroupEvent>;

    /// What the group has committed of these partitions, in their order. Waits until no transaction with offsets of the group is open.
    ///
    /// # Errors
    ///
    /// If the group's coordinator did not answer in time.
    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError>;

    /// What the logs of these partitions hold now, in their order.
    ///
    /// # Errors
    ///
    /// If one of the partitions' leaders did not answer in time.
    fn log_ranges(&mut self, partitions: &[Partition]) -> Result<Vec<LogRange>, BrokerError>;

    /// Takes assigned partitions, each from an offset; the answer to [`GroupEvent::Assigned`]. Reading starts at once.
    ///
    /// # Errors
    ///
    /// If the assignment was lost in the meantime.
    fn assign(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError>;

    /// The queue of a partition. `wake` is called, from any thread, when the queue turns from empty to not empty, and must not block.
    /// Take it before [`Member::assign`]; a later call for the same partition replaces the waker.
    ///
    /// # Errors
    ///
    /// If the client could not make it.
    fn queue(&mut self, partition: Partition, wake: Waker) -> Result<Box<dyn Queue>, BrokerError>;

    /// Gives partitions back; the answer to [`GroupEvent::Revoked`] and [`GroupEvent::Lost`]. Until it is called the group waits, within
    /// the bound of its session.
    ///
    /// # Errors
    ///
    /// If the client refused.
    fn unassign(&mut self, partitions: &[Partition]) -> Result<(), BrokerError>;

    /// The handle with which the transaction thread proves that this member still owns what it commits.
    fn ownership(&self) -> Arc<dyn Ownership>;

    /// Leaves the group.
    ///
    /// # Errors
    ///
    /// If the broker could not be told in time; it will notice by the session's timeout.
    fn leave(&mut self) -> Result<(), BrokerError>;
}

/// What a log holds, for a `read_committed` reader where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Its first offset.
    pub first: NextOffset,
    /// Its end: for such a reader the last stable offset.
    pub end: NextOffset,
}

/// Called when a queue turns from empty to not empty.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What happened to a member of a group.
#[derive(Debug)]
pub enum GroupEvent {
    /// Partitions were assigned, besides those that the member has. Answer with [`Member::assign`].
    Assigned(Vec<Partition>),
    /// Partitions are to be given back. Still owned: what is done may be committed. Answer with [`Member::unassign`].
    Revoked(Vec<Partition>),
    /// Partitions were lost: nothing of them may be committed. Answer with [`Member::unassign`].
    Lost(Vec<Partition>),
    /// A partition cannot be read from where it was to be read: its next offset lies outside the log.
    OutOfRange(Partition),
    /// Something else failed.
    Failed(BrokerError),
}

/// What a group has committed of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The first offset that is not done.
    pub next: NextOffset,
    /// The offset metadata; empty where there is none.
    pub metadata: String,
}

/// The records of one partition as they come in. Served by one worker.
pub trait Queue: Send {
    /// Appends what has arrived, under `lease`, and never waits.
    ///
    /// # Errors
    ///
    /// If the partition can't be read any further. Then nothing was appended.
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError>;

    /// The next offset that a poll would bring, control records and aborted ones passed over; `None` before the first.
    fn position(&self) -> Option<NextOffset>;

    /// The end of the partition as far as a `read_committed` reader can see it, as last heard from the broker.
    fn end(&self) -> Option<NextOffset>;
}

/// Proof of membership, taken fresh for each transaction, and what a transaction asks besides.
pub trait Ownership: Send + Sync {
    /// The member's token as of now.
    ///
    /// # Errors
    ///
    /// If the member has lost its assignment, or has none: then nothing may be committed.
    fn token(&self) -> Result<GroupToken, BrokerError>;

    /// Commits offsets of the topic that the member reads outside of any transaction, as the member that it is now.
    ///
    /// # Errors
    ///
    /// [`Class::Abortable`] where the group no longer knows the member or its generation, or the member has lost its assignment: nothing
    /// was committed. Else by class; where the answer was lost, the same call again does no harm.
    fn commit(&self, offsets: &[OffsetCommit]) -> Result<(), BrokerError>;

    /// Begins to ask which topic bears the name of the one that the member reads. The answer is younger than this call.
    fn look(&self) -> Box<dyn Look>;

    /// What the group has committed of these partitions, in their order, as [`Member::committed`]. Takes at most about a second.
    ///
    /// # Errors
    ///
    /// If the group's coordinator did not answer in time.
    fn committed(&self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError>;
}

/// A look at a topic, under way.
pub trait Look: Send {
    /// What was seen, once it is known; waits for that up to `wait`. To be called until it answers, and not after that.
    fn seen(&mut self, wait: Duration) -> Option<Result<TopicSeen, BrokerError>>;
}

/// The tag of a record that was written, and where it went or why not. There is no offset where the broker had the record already and its
/// first answer was lost: it does not say again where.
pub type Acknowledgement = (u64, Result<(Partition, Option<Offset>), BrokerError>);

/// What bears the name of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicSeen {
    /// The topic of this id; `None` where the broker is so old that it gives none.
    There(Option<TopicId>),
    /// Nothing.
    Gone,
}

/// A proof of membership, which the broker checks when offsets are sent.
pub enum GroupToken {
    /// Of a member of a group of Kafka's.
    Kafka(kafka::KafkaToken),
    /// Of a simulated member.
    Simulated {
        /// The group.
        group: String,
        /// The member's id.
        member: u64,
        /// The generation in which it was taken.
        generation: u64,
    },
}

/// An offset to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The partition of the requests topic.
    pub partition: Partition,
    /// The first offset that is not done.
    pub next: NextOffset,
    /// Stored beside the offset.
    pub metadata: String,
}

/// A transactional producer. Every call may block for a bounded time; on an error, [`BrokerError::class`] says what to call next.
pub trait Producer: Send {
    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// By class.
    fn begin(&mut self) -> Result<(), BrokerError>;

    /// Hands a record over; without a partition the key decides (murmur2, as Java's clients). It is in the log only after
    /// [`Producer::drain`].
    ///
    /// # Errors
    ///
    /// [`Class::QueueFull`]: drain or wait, and send it again. [`Class::TooLarge`]: it can never be sent. Else by class.
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError>;

    /// Waits up to `wait` until the broker has acknowledged every record sent; `false` if some are still under way.
    ///
    /// # Errors
    ///
    /// If the broker refused one: by class.
    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError>;

    /// Adds offsets to the transaction.
    ///
    /// # Errors
    ///
    /// By class. [`Class::Abortable`] where the group no longer knows the token.
    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError>;

    /// Commits.
    ///
    /// # Errors
    ///
    /// By class. [`Class::Retriable`] means that the outcome is not known yet: nothing but this same call may follow.
    fn commit(&mut self) -> Result<(), BrokerError>;

    /// Aborts. What was sent since [`Producer::begin`] will never be seen by a `read_committed` reader.
    ///
    /// # Errors
    ///
    /// By class.
    fn abort(&mut self) -> Result<(), BrokerError>;
}

/// An idempotent producer outside of transactions: what is sent may be seen at once. Dropped, it takes back what is still in its queue;
/// what is on its way may arrive all the same. Every call may block for a bounded time.
pub trait PlainProducer: Send {
    /// Hands a record over, as [`Producer::send`] does. It is in the log only after [`PlainProducer::drain`].
    ///
    /// # Errors
    ///
    /// [`Class::QueueFull`] and [`Class::TooLarge`] as [`Producer::send`]. [`Class::Refused`] if no further call will change it. After any
    /// other the producer is of no more use.
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError>;

    /// Waits up to `wait` until the broker has acknowledged every record sent; `false` if some are still under way.
    ///
    /// # Errors
    ///
    /// If a record was not delivered, and nobody is told which: the producer is of no more use. [`Class::Refused`] if a further one would
    /// fare no better.
    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError>;
}

/// What to do about an error of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The same call again, after a while; nothing else. The outcome of the first is unknown.
    Retriable,
    /// The transaction must be aborted; the producer stays good.
    Abortable,
    /// The producer is dead: make a new one, and read the committed offsets to learn what became of the transaction.
    Fatal,
    /// Another producer with the same transactional id has taken over.
    Fenced,
    /// The local queue is full.
    QueueFull,
    /// The record is larger than the topic or the client allows. The transaction stays good.
    TooLarge,
    /// The call was refused for a reason that no further call will change: configuration, authorization, an unknown topic.
    Refused,
    /// No broker could be reached in time.
    Unreachable,
}

/// An error of a broker or of its client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not {operation}: {message} ({code})")]
pub struct BrokerError {
    /// What to do about it.
    pub class: Class,
    /// What was attempted, as a verb with its object: `commit the transaction`.
    pub operation: &'static str,
    /// The broker's or the client's name for the error: `ILLEGAL_GENERATION`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Topics and the records of their partitions.
pub trait Admin: Send {
    /// The topic as it is, or `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// If the broker did not answer.
    fn describe(&mut self, topic: &str) -> Result<Option<TopicDescription>, BrokerError>;

    /// Makes a topic. Succeeds only once every partition has a leader.
    ///
    /// # Errors
    ///
    /// If it exists, or the broker refused.
    fn create(&mut self, topic: &TopicSpec) -> Result<(), BrokerError>;

    /// Deletes a topic, with all that it holds. For a tool whose topics are its own: the engine deletes none.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or the broker refused.
    fn delete(&mut self, topic: &str) -> Result<(), BrokerError>;

    /// What `group` has committed of these partitions of `topic`, in their order. An open transaction with an offset of one of them is
    /// waited for, within a bound: the answer is never out of date.
    ///
    /// # Errors
    ///
    /// If the broker did not answer, or such a transaction stayed open: [`Class::Unreachable`].
    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError>;

    /// What the log of a partition holds: its first offset, before which everything was deleted, and its end, open transactions included.
    ///
    /// # Errors
    ///
    /// If there is no such partition, or its leader did not answer.
    fn range(&mut self, topic: &str, partition: Partition) -> Result<LogRange, BrokerError>;

    /// The first offset of a partition whose record's timestamp is no earlier than this one, in milliseconds since the Unix epoch; its end
    /// where there is none.
    ///
    /// # Errors
    ///
    /// If there is no such partition, or its leader did not answer.
    fn since(&mut self, topic: &str, partition: Partition, millis: i64) -> Result<Offset, BrokerError>;

    /// The broker's version or name, and where it was reached: for people.
    ///
    /// # Errors
    ///
    /// If it could not be reached.
    fn identity(&mut self) -> Result<String, BrokerError>;
}

/// A topic as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// The number of partitions.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication: i32,
    /// Its configuration, every key that the broker tells, as text.
    pub config: std::collections::BTreeMap<String, String>,
}

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// The number of partitions.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication: i32,
    /// What is configured otherwise than the broker's default.
    pub config: std::collections::BTreeMap<String, String>,
}

/// A plain, idempotent producer.
pub trait Writer: Send {
    /// Hands a record over, and waits while the local queue is full. `tag` comes back with its acknowledgement.
    ///
    /// # Errors
    ///
    /// If it can't be sent.
    fn write(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        timestamp_millis: Option<i64>,
        record: RecordView<'_>,
        tag: u64,
    ) -> Result<(), BrokerError>;

    /// Acknowledgements since the last call, in any order.
    fn acknowledged(&mut self) -> Vec<Acknowledgement>;

    /// Waits up to `wait` until everything written is acknowledged or has failed; `false` if not.
    fn flush(&mut self, wait: Duration) -> bool;
}
