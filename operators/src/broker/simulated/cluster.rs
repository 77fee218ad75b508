//! Everything that the broker holds, behind one lock, and what a step of the protocol does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, RecordTime, TopicSpec, Waker};
use crate::clock::{Clock, Moment};
use crate::lease::{Offset, Partition};
use crate::metadata::TopicId;
use crate::records::RecordView;

use super::client::Client;
use super::faults::{Fault, Faults, Step};
use super::group::{Group, MemberId, NoMember};
use super::history::History;
use super::log::{End, PartitionLog, ProducerId};
use super::producer::{operation, simulated_fault};
use super::transactions::{Coordinator, Ended, GroupOffsets, Identity, Stale};

/// Kafka's default for `max.message.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;
/// Kafka's default for `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

/// The cluster and who waits for it to change.
pub(super) struct Shared {
    cluster: Mutex<Cluster>,
    changed: Condvar,
}

/// How the broker is set up.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) blocking: bool,
    pub(super) session_timeout: Duration,
    pub(super) queue_records_max: usize,
}

/// The state of the broker.
pub(super) struct Cluster {
    pub(super) settings: Settings,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) coordinator: Coordinator,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) offsets: BTreeMap<String, GroupOffsets>,
    pub(super) clients: BTreeMap<ClientId, Client>,
    pub(super) faults: Faults,
    pub(super) history: History,
    /// When the step in progress began.
    pub(super) now: Moment,
    clock: Arc<dyn Clock>,
    /// The last number given to a client or a member.
    pub(super) ids: u64,
    /// To be called once the lock is released.
    wakers: Vec<Waker>,
    /// Grows with everything that a waiting member may want to know.
    version: u64,
}

/// The number of a member's client, which stays the same when the group takes it in anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(pub(super) u64);

/// A topic and its partitions.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) spec: TopicSpec,
    pub(super) logs: Vec<PartitionLog>,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>, seed: u64, settings: Settings) -> Self {
        let cluster = Cluster {
            settings,
            topics: BTreeMap::new(),
            coordinator: Coordinator::default(),
            groups: BTreeMap::new(),
            offsets: BTreeMap::new(),
            clients: BTreeMap::new(),
            faults: Faults::new(seed),
            history: History::default(),
            now: clock.now(),
            clock,
            ids: 0,
            wakers: Vec::new(),
            version: 0,
        };
        Self { cluster: Mutex::new(cluster), changed: Condvar::new() }
    }

    /// Takes one step of the protocol, after whatever has become due on the clock. Wakers are called outside the lock.
    pub(super) fn step<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = self.lock();
        let before = cluster.version;
        cluster.expire();
        let result = act(&mut cluster);
        let wakers = std::mem::take(&mut cluster.wakers);
        let changed = cluster.version != before;
        drop(cluster);
        if changed {
            self.changed.notify_all();
        }
        for wake in wakers {
            wake();
        }
        result
    }

    /// In blocking mode, waits until something changes that a member may want to know, but not longer than `wait`. Otherwise it
    /// returns `false` at once.
    pub(super) fn wait(&self, wait: Duration, seen: u64) -> bool {
        let cluster = self.lock();
        let blocking = cluster.settings.blocking;
        if blocking {
            let waited = self.changed.wait_timeout_while(cluster, wait, |cluster| cluster.version == seen);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        blocking
    }

    /// A thread that panicked while it held the lock has failed its own test; the others may still finish.
    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Tells waiting members that the group has changed.
    pub(super) fn touch(&mut self) {
        self.version += 1;
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Makes a topic, or another one of the same name.
    pub(super) fn make_topic(&mut self, spec: TopicSpec) {
        let partitions = usize::try_from(spec.partitions).unwrap_or(0);
        let logs = std::iter::repeat_with(PartitionLog::default).take(partitions).collect();
        let id = TopicId(u128::from(self.next_id()).to_be_bytes());
        self.history.note(format_args!("created {spec:?} as {id}"));
        self.topics.insert(spec.name.clone(), Topic { id, spec, logs });
    }

    /// The members hear of a topic that is no longer as it was: each takes part in a round.
    pub(super) fn regroup(&mut self, topic: &str) {
        let (now, session) = (self.now, self.settings.session_timeout);
        let groups = self.clients.values().filter(|client| client.topic == topic);
        for name in groups.map(|client| client.group.clone()).collect::<BTreeSet<_>>() {
            if let Some(group) = self.groups.get_mut(&name) {
                group.open_round(now, session);
            }
        }
        self.touch();
    }

    pub(super) fn wall_millis(&self) -> i64 {
        self.clock.wall_micros() / 1000
    }

    /// Carries out what has become due: transactions over their time, members that fell silent, partitions hidden for a while.
    fn expire(&mut self) {
        self.now = self.clock.now();
        for ended in self.coordinator.expire(self.now) {
            self.history.note(format_args!("transaction of {:?} timed out", ended.producer));
            self.carry_out(ended);
        }
        let (now, session) = (self.now, self.settings.session_timeout);
        let Self { groups, topics, history, version, .. } = self;
        for (name, group) in groups {
            for member in group.expire(now, session, &|topic| partition_count(topics, topic)) {
                history.note(format_args!("{member:?} of {name} fell silent"));
                *version += 1;
            }
        }
        self.unhide();
    }

    pub(super) fn topic(&self, topic: &str, operation: &'static str) -> Result<&Topic, BrokerError> {
        self.topics.get(topic).ok_or_else(|| unknown_topic(topic, operation))
    }

    pub(super) fn log(&self, topic: &str, partition: Partition) -> Option<&PartitionLog> {
        self.topics.get(topic)?.logs.get(usize::try_from(partition.0).ok()?)
    }

    /// Whether the topic takes a record of this size.
    pub(super) fn check_topic_size(
        &self,
        topic: &str,
        record: RecordView<'_>,
        operation: &'static str,
    ) -> Result<(), BrokerError> {
        let most = self.topic(topic, operation)?.message_bytes_max();
        check_size(record, most, operation)
    }

    /// Appends a record to a partition that exists.
    pub(super) fn append(
        &mut self,
        topic: &str,
        partition: Partition,
        producer: Option<ProducerId>,
        created: i64,
        record: RecordView<'_>,
    ) -> Offset {
        let wall = self.wall_millis();
        let found = self.topics.get_mut(topic).expect("the topic was looked up when the record was sent");
        let append = found.stamps_at_append();
        let time = RecordTime { millis: if append { wall } else { created }, append };
        let log = &mut found.logs[usize::try_from(partition.0).expect("a partition is not negative")];
        let stable = log.stable_end();
        let offset = log.append(producer, time, record);
        let moved = log.stable_end() != stable;
        self.history.record(topic, partition, offset, producer, time, record);
        if moved {
            self.wake(topic, partition);
        }
        offset
    }

    /// Writes the control records of a transaction that has ended, and applies its offsets if it was committed.
    pub(super) fn carry_out(&mut self, ended: Ended) {
        let Ended { producer, end, partitions, offsets } = ended;
        for (topic, partition) in
            partitions.iter().flat_map(|(topic, at)| at.iter().map(move |at| (topic, *at)))
        {
            let logs = self.topics.get_mut(topic).map(|topic| &mut topic.logs);
            let index = usize::try_from(partition.0).expect("a partition is not negative");
            if let Some(log) = logs.and_then(|logs| logs.get_mut(index)) {
                let marker = log.end_transaction(producer, end);
                self.history.note(format_args!("{producer:?} {end:?} {topic} {partition:?} {marker:?}"));
                self.wake(topic, partition);
            }
        }
        for (group, offsets) in offsets.into_iter().filter(|_| end == End::Commit) {
            self.history.note(format_args!("{producer:?} {group} {offsets:?}"));
            self.offsets.entry(group).or_default().extend(offsets);
        }
    }

    /// Adds offsets to the producer's transaction, if the group still knows the token.
    pub(super) fn add_offsets(
        &mut self,
        identity: &Identity,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        let (group, offsets) = self.admitted(topic, offsets, token, operation(Step::SendOffsets))?;
        self.coordinator.add_offsets(identity, &group, offsets, self.now);
        Ok(())
    }

    /// Commits offsets outside of any transaction, if the group still knows the token.
    pub(super) fn commit_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        let operation = operation(Step::CommitOffsets);
        let fault = self.faults.next(Step::CommitOffsets);
        if let Some(Fault::Before(class)) = fault {
            return Err(simulated_fault(class, operation));
        }
        let (group, offsets) = self.admitted(topic, offsets, token, operation)?;
        self.history.note(format_args!("{group} at {:?} {offsets:?}", self.now));
        self.offsets.entry(group).or_default().extend(offsets);
        match fault {
            Some(Fault::After(class)) => Err(simulated_fault(class, operation)),
            _ => Ok(()),
        }
    }

    /// The group of a token, if it still knows it, and offsets as the group keeps them.
    fn admitted(
        &self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
        operation: &'static str,
    ) -> Result<(String, GroupOffsets), BrokerError> {
        let GroupToken::Simulated { group, member, generation } = token else {
            let message = "the token belongs to a member of a real broker; take it from a simulated one";
            return Err(error(Class::Refused, operation, "INVALID_REQUEST", message));
        };
        let known = self
            .groups
            .get(group)
            .map_or(Err(NoMember::Unknown), |found| found.check(MemberId(*member), *generation));
        known.map_err(|reason| refused_token(reason, operation, group, *member, *generation))?;
        if let Some(offset) = offsets.iter().find(|offset| offset.metadata.len() > METADATA_BYTES_MAX) {
            let message = format!(
                "{} bytes of metadata for partition {} are more than {METADATA_BYTES_MAX}",
                offset.metadata.len(),
                offset.partition.0
            );
            return Err(error(Class::Abortable, operation, "OFFSET_METADATA_TOO_LARGE", message));
        }
        let committed = |offset: &OffsetCommit| crate::broker::Committed {
            next: offset.next,
            metadata: offset.metadata.clone(),
        };
        let offsets = offsets.iter().map(|offset| ((topic.to_owned(), offset.partition), committed(offset)));
        Ok((group.clone(), offsets.collect()))
    }

    /// Whether the producer may still act.
    pub(super) fn check(&self, identity: &Identity, operation: &'static str) -> Result<(), BrokerError> {
        self.coordinator.check(identity).map_err(|stale| match stale {
            Stale::Fenced => {
                let message = "another producer was made with the same transactional id";
                error(Class::Fenced, operation, "PRODUCER_FENCED", message)
            }
            Stale::TimedOut => {
                let message =
                    "the transaction was open for longer than its timeout, and the broker has aborted it";
                error(Class::Fatal, operation, "INVALID_PRODUCER_EPOCH", message)
            }
        })
    }

    /// Calls the waker of every queue that was found empty and now has something new to see of the partition.
    pub(super) fn wake(&mut self, topic: &str, partition: Partition) {
        let Some(end) = self.log(topic, partition).map(PartitionLog::stable_end) else { return };
        for client in self.clients.values_mut().filter(|client| client.topic == topic) {
            self.wakers.extend(client.wake(partition, end));
        }
    }

    /// Calls the wakers of queues whose hidden time is over.
    fn unhide(&mut self) {
        for client in self.clients.values_mut() {
            self.wakers.extend(client.unhide(self.now));
        }
    }
}

impl Topic {
    fn message_bytes_max(&self) -> usize {
        let configured = self.spec.config.get("max.message.bytes");
        configured.and_then(|bytes| bytes.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX)
    }

    fn stamps_at_append(&self) -> bool {
        self.spec.config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime")
    }
}

/// Whether a record is within a limit.
pub(super) fn check_size(
    record: RecordView<'_>,
    most: usize,
    operation: &'static str,
) -> Result<(), BrokerError> {
    let size = record.wire_bytes();
    if size <= most {
        return Ok(());
    }
    let message = format!("a record of {size} bytes is larger than the limit of {most}");
    Err(error(Class::TooLarge, operation, "MSG_SIZE_TOO_LARGE", message))
}

/// How many partitions a topic has; none if there is no such topic.
pub(super) fn partition_count(topics: &BTreeMap<String, Topic>, topic: &str) -> i32 {
    topics.get(topic).map_or(0, |topic| topic.spec.partitions)
}

pub(super) fn error(
    class: Class,
    operation: &'static str,
    code: &str,
    message: impl Into<String>,
) -> BrokerError {
    BrokerError { class, operation, code: code.to_owned(), message: message.into() }
}

pub(super) fn unknown_topic(topic: &str, operation: &'static str) -> BrokerError {
    let message = format!("there is no topic {topic:?}; create it first");
    error(Class::Refused, operation, "UNKNOWN_TOPIC_OR_PARTITION", message)
}

pub(super) fn unknown_partition(topic: &str, partition: Partition, operation: &'static str) -> BrokerError {
    let message = format!("topic {topic:?} has no partition {}", partition.0);
    error(Class::Refused, operation, "UNKNOWN_TOPIC_OR_PARTITION", message)
}

fn refused_token(
    reason: NoMember,
    operation: &'static str,
    group: &str,
    member: u64,
    generation: u64,
) -> BrokerError {
    let (code, message) = match reason {
        NoMember::Unknown => ("UNKNOWN_MEMBER_ID", format!("group {group:?} has no member {member}")),
        NoMember::StaleGeneration => {
            ("ILLEGAL_GENERATION", format!("group {group:?} has moved on from generation {generation}"))
        }
    };
    error(Class::Abortable, operation, code, message)
}
