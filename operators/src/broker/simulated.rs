//! A broker in memory: partitions, transactions, fencing, `read_committed` and consumer groups as Kafka has them, with seeded faults.
//!
//! ```text
//!   Producer ── send ─▶ local queue ── drain ─▶ ┌───────────────── cluster, one lock ────────────────┐
//!      │                                        │ topics ▶ partitions ▶ log (records, control records)│
//!      ├── send_offsets, commit, abort ────────▶│ transaction coordinator   epochs, open transactions │
//!   Member ── poll, assign, unassign ──────────▶│ group coordinator    members, generation, shares    │
//!   Queue ── poll ◀── read_committed ───────────│ committed offsets    faults    history hash         │
//!                                               └────────────────────────────────────────────────────┘
//! ```
//!
//! It has no thread, never sleeps and reads only the clock that it was given: what is due by then (a transaction over its time, a
//! member that fell silent) is carried out before the next step of anybody. Everything left to chance comes from the seed, so one
//! thread that drives it has the same history each time, and [`SimulatedBroker::history_hash`] shows it.
//!
//! A process dies by dropping its producer and its member: an open transaction stays open, and the group waits for the member.

mod client;
mod cluster;
mod faults;
mod group;
mod history;
mod local_queue;
mod log;
mod member;
mod plain;
mod producer;
#[cfg(test)]
mod tests;
mod tools;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

pub use faults::{Fault, FaultPlan, FaultRule, Step, When};

use self::cluster::{Settings, Shared};
use self::log::PartitionLog;
use self::member::SimulatedMember;
use self::plain::SimulatedPlainProducer;
use self::producer::SimulatedProducer;
use self::tools::{SimulatedAdmin, SimulatedWriter};
use super::{
    Admin, Broker, BrokerError, Committed, Isolation, LogRecord, Member, OffsetCommit, PlainProducer,
    Producer, RecordTime, TopicSpec, Writer,
};
use crate::clock::Clock;
use crate::lease::{NextOffset, Offset, Partition};

/// A simulated broker. A clone is another handle to the same one.
///
/// ```
/// use std::sync::Arc;
/// use operators::broker::simulated::SimulatedBroker;
/// use operators::broker::{Broker, Isolation, TopicSpec};
/// use operators::clock::ManualClock;
/// use operators::lease::Partition;
/// use operators::records::Records;
///
/// let broker = SimulatedBroker::new(Arc::new(ManualClock::new()), 7);
/// let topic = TopicSpec { name: "results".into(), partitions: 1, replication: 1, config: Default::default() };
/// broker.admin()?.create(&topic)?;
/// let mut records = Records::default();
/// records.push(Some(b"key"), Some(b"value"));
///
/// let mut producer = broker.producer("engine")?;
/// producer.begin()?;
/// producer.send("results", None, records.get(0))?;
/// producer.drain(Default::default())?;
/// assert!(broker.records("results", Partition(0), Isolation::ReadCommitted).is_empty());
/// producer.commit()?;
/// assert_eq!(broker.records("results", Partition(0), Isolation::ReadCommitted)[0].value, Some(b"value".to_vec()));
/// # Ok::<(), operators::broker::BrokerError>(())
/// ```
#[derive(Clone)]
pub struct SimulatedBroker {
    shared: Arc<Shared>,
    process: Process,
}

/// What a process has configured for its clients.
#[derive(Clone, Debug)]
struct Process {
    instance: Option<String>,
    transaction_timeout: Duration,
    message_bytes_max: usize,
}

/// A record as it stands in a log, on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: RecordTime,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl SimulatedBroker {
    /// A broker without topics, whose time is that of `clock`.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let settings = Settings {
            blocking: false,
            session_timeout: Duration::from_secs(45),
            queue_records_max: 100_000,
        };
        Self {
            shared: Arc::new(Shared::new(clock, seed, settings)),
            process: Process {
                instance: None,
                transaction_timeout: Duration::from_secs(30),
                message_bytes_max: 1_000_000,
            },
        }
    }

    /// Whether [`Member::poll`] waits when nothing has happened, for use with threads and a real clock. At first it does not.
    #[must_use]
    pub fn blocking(self, blocking: bool) -> Self {
        self.shared.step(|cluster| cluster.settings.blocking = blocking);
        self
    }

    /// The same broker, for a process whose transactions the coordinator aborts when they are open for longer; 30 seconds without.
    #[must_use]
    pub fn with_transaction_timeout(&self, timeout: Duration) -> Self {
        self.with(Process { transaction_timeout: timeout, ..self.process.clone() })
    }

    /// The same broker, for a process whose producers take no larger records; 1,000,000 bytes without, as with librdkafka. A record
    /// that is larger than its topic's `max.message.bytes` is refused as well.
    #[must_use]
    pub fn with_message_bytes_max(&self, bytes: usize) -> Self {
        self.with(Process { message_bytes_max: bytes, ..self.process.clone() })
    }

    fn with(&self, process: Process) -> Self {
        Self { shared: Arc::clone(&self.shared), process }
    }

    /// How long a member may be silent before its group takes it out: 45 seconds at first.
    #[must_use]
    pub fn session_timeout(self, timeout: Duration) -> Self {
        self.shared.step(|cluster| cluster.settings.session_timeout = timeout);
        self
    }

    /// How many records a producer takes before they are drained: 100,000 at first.
    #[must_use]
    pub fn queue_records_max(self, records: usize) -> Self {
        self.shared.step(|cluster| cluster.settings.queue_records_max = records);
        self
    }

    /// The same broker, for a process with an instance name: its members take the place of earlier ones of that name at once.
    #[must_use]
    pub fn as_instance(&self, instance: &str) -> Self {
        self.with(Process { instance: Some(instance.to_owned()), ..self.process.clone() })
    }

    /// Sets what goes wrong from now on.
    ///
    /// # Panics
    ///
    /// If a commit is to be done and yet said to be abortable.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.shared.step(|cluster| cluster.faults.set(plan));
    }

    /// How many faults there have been since the plan was set.
    pub fn fault_count(&self) -> u64 {
        self.shared.step(|cluster| cluster.faults.count())
    }

    /// Takes away the records of a partition before `offset`, as retention does; not beyond its last stable offset.
    ///
    /// # Panics
    ///
    /// If there is no such partition.
    pub fn delete_before(&self, topic: &str, partition: Partition, offset: NextOffset) {
        self.shared.step(|cluster| {
            let index = usize::try_from(partition.0).expect("a partition is not negative");
            let log = cluster.topics.get_mut(topic).and_then(|topic| topic.logs.get_mut(index));
            let start = log.expect("the partition exists").delete_before(offset.0);
            cluster.history.note(format_args!("deleted {topic} {partition:?} before {start}"));
        });
    }

    /// Deletes a topic and makes another one of the same name, with so many partitions. Whoever reads the old one at some offset goes on
    /// there in the new one, as librdkafka does.
    ///
    /// # Panics
    ///
    /// If there is no such topic.
    pub fn make_anew(&self, topic: &str, partitions: i32) {
        self.shared.step(|cluster| {
            let spec = cluster.topics.get(topic).expect("the topic exists").spec.clone();
            cluster.make_topic(TopicSpec { partitions, ..spec });
            cluster.regroup(topic);
        });
    }

    /// Deletes a topic.
    pub fn delete(&self, topic: &str) {
        self.shared.step(|cluster| {
            cluster.topics.remove(topic);
            cluster.history.note(format_args!("deleted {topic}"));
        });
    }

    /// Adds partitions to a topic, so that it has this many.
    ///
    /// # Panics
    ///
    /// If there is no such topic.
    pub fn add_partitions(&self, topic: &str, partitions: i32) {
        self.shared.step(|cluster| {
            let found = cluster.topics.get_mut(topic).expect("the topic exists");
            let total = usize::try_from(partitions).expect("a number of partitions is not negative");
            assert!(total >= found.logs.len(), "a topic never loses partitions");
            found.logs.resize_with(total, PartitionLog::default);
            found.spec.partitions = partitions;
            cluster.history.note(format_args!("{topic} has {partitions} partitions"));
            cluster.regroup(topic);
        });
    }

    /// Commits offsets for a group as a program does that is no member of it: as Kafka takes them, without looking who owns what.
    pub fn commit_as_a_stranger(&self, group: &str, topic: &str, offsets: &[OffsetCommit]) {
        self.shared.step(|cluster| {
            cluster.history.note(format_args!("a stranger commits for {group} of {topic} {offsets:?}"));
            let committed = cluster.offsets.entry(group.to_owned()).or_default();
            committed.extend(offsets.iter().map(|offset| {
                let committed = Committed { next: offset.next, metadata: offset.metadata.clone() };
                ((topic.to_owned(), offset.partition), committed)
            }));
        });
    }

    /// What a reader of this isolation sees of a partition now.
    ///
    /// # Panics
    ///
    /// If there is no such partition.
    pub fn records(&self, topic: &str, partition: Partition, isolation: Isolation) -> Vec<OwnedRecord> {
        let mut records = Vec::new();
        self.read(topic, partition, isolation, &mut |record| records.push(OwnedRecord::from(record)))
            .expect("the partition exists");
        records
    }

    /// A hash over everything that ever happened, in hexadecimal: two runs with the same hash are the same run.
    pub fn history_hash(&self) -> String {
        self.shared.step(|cluster| cluster.history.hash())
    }
}

impl From<LogRecord<'_>> for OwnedRecord {
    fn from(LogRecord { offset, timestamp, record }: LogRecord<'_>) -> Self {
        let headers = record.headers().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)));
        Self {
            offset,
            timestamp,
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: headers.collect(),
        }
    }
}

impl Broker for SimulatedBroker {
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(SimulatedProducer::init(Arc::clone(&self.shared), transactional_id, &self.process)?))
    }

    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimulatedPlainProducer::new(shared, self.process.message_bytes_max)?))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, BrokerError> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimulatedMember::join(shared, group, topic, self.process.instance.as_deref())?))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError> {
        Ok(Box::new(SimulatedAdmin { shared: Arc::clone(&self.shared) }))
    }

    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError> {
        Ok(Box::new(SimulatedWriter::new(Arc::clone(&self.shared), self.process.message_bytes_max)))
    }

    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        tools::read(&self.shared, topic, partition, from, isolation, each)
    }
}
