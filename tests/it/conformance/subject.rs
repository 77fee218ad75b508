//! The broker under test, and what every check does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use operators::broker::{
    Broker, Class, GroupEvent, Isolation, Member, PollEnd, PollLimit, Polled, Producer, Queue, TopicSpec,
};
use operators::lease::{Lease, NextOffset, Offset, Partition, Term};
use operators::records::{RecordView, Records};

/// How often something that has to come is looked for. With a real broker each look takes about 50 ms or longer.
const TRIES: usize = 1200;
/// How long a member serves its group in one look. A simulated one returns at once.
pub(super) const WAIT: Duration = Duration::from_millis(50);
/// A limit that no check reaches by accident.
pub(super) const PLENTY: PollLimit = PollLimit { records: 1000, bytes: 1 << 20 };

/// A broker under test.
pub(crate) struct Subject {
    /// The broker.
    pub(crate) broker: Box<dyn Broker>,
    /// The same broker, for a process whose transactions may not be open for longer than [`Subject::SHORT`].
    pub(crate) hasty: Box<dyn Broker>,
    /// The same broker, for a process whose members have a name of their own in their group.
    pub(crate) named: Box<dyn Broker>,
    /// Part of every name, so that no two checks and no two runs meet in a topic or a group.
    pub(crate) unique: String,
    /// Lets a little time pass.
    pub(crate) pass_time: Box<dyn Fn()>,
    /// Who changes topics.
    pub(crate) operator: Box<dyn Operator>,
}

/// What an operator of the cluster may do to a topic.
pub(crate) trait Operator {
    /// The records of a partition before an offset are gone.
    fn delete_before(&self, topic: &str, partition: i32, offset: i64);

    /// The topic is deleted, and another one made of the same name, with one partition.
    fn make_anew(&self, topic: &str);

    /// The topic has so many partitions.
    fn add_partitions(&self, topic: &str, partitions: i32);
}

impl Subject {
    /// The transaction timeout of the hasty broker.
    pub(crate) const SHORT: Duration = Duration::from_secs(1);

    /// A name of this check alone.
    pub(super) fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.unique)
    }

    /// Makes a topic, and returns its name.
    pub(super) fn topic(&self, part: &str, partitions: i32) -> String {
        self.topic_with(part, partitions, &[])
    }

    /// Makes a topic with configuration, and returns its name.
    pub(super) fn topic_with(&self, part: &str, partitions: i32, config: &[(&str, &str)]) -> String {
        let spec = self.spec(part, partitions, config);
        self.broker.admin().and_then(|mut admin| admin.create(&spec)).expect("the topic is made");
        spec.name
    }

    pub(super) fn spec(&self, part: &str, partitions: i32, config: &[(&str, &str)]) -> TopicSpec {
        let config = config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        TopicSpec { name: self.name(part), partitions, replication: 1, config }
    }

    /// A producer with a transactional id of this check.
    pub(super) fn producer(&self, part: &str) -> Box<dyn Producer> {
        self.broker.producer(&self.name(part)).expect("the producer is made")
    }

    /// A member of a group that reads a topic, and answers what the group asks of it.
    pub(super) fn reader(&self, group: &str, topic: &str) -> Reader {
        Reader::new(self.broker.member(&self.name(group), topic).expect("the member is made"))
    }

    /// The same, as a member that has a name: of two that are there at once the second takes the place of the first.
    pub(super) fn named_reader(&self, group: &str, topic: &str) -> Reader {
        Reader::new(self.named.member(&self.name(group), topic).expect("the member is made"))
    }

    /// Writes records outside any transaction, and waits until they are in the log.
    pub(super) fn write(&self, topic: &str, partition: i32, values: &[&str]) {
        let mut writer = self.broker.writer().expect("the writer is made");
        let records = records(values);
        for record in records.iter() {
            writer.write(topic, Some(partition), None, record, 0).expect("the record is written");
        }
        self.eventually("the writes are acknowledged", || writer.flush(WAIT).then_some(()));
        let acknowledged = writer.acknowledged();
        assert_eq!(acknowledged.len(), values.len());
        assert!(acknowledged.iter().all(|(_, place)| place.is_ok()), "{acknowledged:?}");
    }

    /// The values that a reader of this isolation sees in a partition now.
    pub(super) fn values(&self, topic: &str, partition: i32, isolation: Isolation) -> Vec<String> {
        let mut values = Vec::new();
        let mut each = |record: operators::broker::LogRecord<'_>| values.push(value_of(record.record));
        self.broker.read(topic, Partition(partition), isolation, &mut each).expect("the partition is read");
        values
    }

    /// Waits until a `read_committed` reader sees exactly these values. A control record may come a moment after its commit returned.
    pub(super) fn sees(&self, topic: &str, partition: i32, values: &[&str]) {
        self.eventually(&format!("{values:?} is all that is seen of partition {partition}"), || {
            (self.values(topic, partition, Isolation::ReadCommitted) == values).then_some(())
        });
    }

    /// Looks until it comes, a bounded number of times.
    pub(super) fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..TRIES {
            if let Some(found) = look() {
                return found;
            }
            (self.pass_time)();
        }
        panic!("{TRIES} times it was not so that {what}");
    }
}

/// A member that takes what it is assigned, from the committed offset or the start, and gives back what is revoked.
pub(super) struct Reader {
    pub(super) member: Box<dyn Member>,
    pub(super) owned: BTreeSet<Partition>,
    /// What it began to read, and where, in order.
    pub(super) starts: Vec<(Partition, NextOffset)>,
    /// What it was told of besides assignments.
    pub(super) events: Vec<GroupEvent>,
    pub(super) polled: Polled,
    pub(super) woken: Arc<AtomicUsize>,
    queues: BTreeMap<Partition, Box<dyn Queue>>,
}

impl Reader {
    fn new(member: Box<dyn Member>) -> Self {
        Self {
            member,
            owned: BTreeSet::new(),
            starts: Vec::new(),
            events: Vec::new(),
            polled: Polled::default(),
            woken: Arc::default(),
            queues: BTreeMap::new(),
        }
    }

    /// Serves the group once and answers.
    pub(super) fn serve(&mut self) {
        match self.member.poll(WAIT) {
            None => {}
            Some(GroupEvent::Assigned(partitions)) => self.take(&partitions, None),
            Some(event) => {
                if let GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) = &event {
                    self.give_back(partitions);
                }
                self.events.push(event);
            }
        }
    }

    /// Serves the group once; what is revoked, which is not answered.
    pub(super) fn revoked(&mut self) -> Option<Vec<Partition>> {
        match self.member.poll(WAIT)? {
            GroupEvent::Revoked(partitions) => Some(partitions),
            event => panic!("{event:?} instead of a partition revoked"),
        }
    }

    pub(super) fn give_back(&mut self, partitions: &[Partition]) {
        self.member.unassign(partitions).expect("the partitions are given back");
        self.owned.retain(|partition| !partitions.contains(partition));
    }

    /// Takes partitions from `start`, or from where the group stands.
    pub(super) fn take(&mut self, partitions: &[Partition], start: Option<NextOffset>) {
        for &partition in partitions {
            let woken = Arc::clone(&self.woken);
            let wake = Arc::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            });
            let queue = self.member.queue(partition, wake).expect("the queue is made");
            self.queues.insert(partition, queue);
        }
        let committed = self.member.committed(partitions).expect("the committed offsets are read");
        let place = |committed: &Option<operators::broker::Committed>| {
            start.or(committed.as_ref().map(|committed| committed.next)).unwrap_or(NextOffset(0))
        };
        let starts: Vec<_> = partitions.iter().copied().zip(committed.iter().map(place)).collect();
        self.member.assign(&starts).expect("the partitions are taken");
        self.starts.extend(starts);
        self.owned.extend(partitions);
    }

    /// Takes in what has arrived in every queue.
    pub(super) fn poll(&mut self) {
        let owned: Vec<Partition> = self.owned.iter().copied().collect();
        for partition in owned {
            while self.poll_one(partition, PLENTY) == PollEnd::Limit {}
        }
    }

    pub(super) fn poll_one(&mut self, partition: Partition, limit: PollLimit) -> PollEnd {
        let lease = Lease { partition, term: Term(1) };
        let queue = self.queues.get_mut(&partition).expect("the partition is assigned");
        queue.poll(lease, &mut self.polled, limit).expect("the queue is read")
    }

    /// Serves and polls once, and returns whether it owns `count` partitions.
    pub(super) fn owns(&mut self, count: usize) -> bool {
        self.serve();
        self.poll();
        self.owned.len() == count
    }

    pub(super) fn queue(&self, partition: i32) -> &dyn Queue {
        self.queues[&Partition(partition)].as_ref()
    }

    /// The values polled so far, in order.
    pub(super) fn values(&self) -> Vec<String> {
        self.polled.records.iter().map(value_of).collect()
    }

    /// The offsets polled so far, in order.
    pub(super) fn offsets(&self) -> Vec<(Partition, Offset)> {
        self.polled.origins.iter().map(|(lease, offset)| (lease.partition, *offset)).collect()
    }
}

/// Records without keys.
pub(super) fn records(values: &[&str]) -> Records {
    let mut records = Records::default();
    for value in values {
        records.push(None, Some(value.as_bytes()));
    }
    records
}

pub(super) fn value_of(record: RecordView<'_>) -> String {
    String::from_utf8_lossy(record.value().unwrap_or(b"null")).into_owned()
}

/// Sends records to a partition within the open transaction, and waits until they are in the log.
pub(super) fn send(
    subject: &Subject,
    producer: &mut dyn Producer,
    topic: &str,
    partition: i32,
    values: &[&str],
) {
    for record in records(values).iter() {
        producer.send(topic, Some(partition), record).expect("the record is sent");
    }
    drain(subject, producer);
}

pub(super) fn drain(subject: &Subject, producer: &mut dyn Producer) {
    subject.eventually("the transaction is drained", || {
        producer.drain(WAIT).expect("it is drained").then_some(())
    });
}

/// Commits, calling again for as long as the outcome is not known.
pub(super) fn commit(subject: &Subject, producer: &mut dyn Producer) {
    subject.eventually("the transaction is committed", || resolved(producer.commit()));
}

/// Aborts, calling again for as long as the outcome is not known.
pub(super) fn abort(subject: &Subject, producer: &mut dyn Producer) {
    subject.eventually("the transaction is aborted", || resolved(producer.abort()));
}

fn resolved(result: Result<(), operators::broker::BrokerError>) -> Option<()> {
    match result {
        Ok(()) => Some(()),
        Err(error) if error.class == Class::Retriable => None,
        Err(error) => panic!("{error}"),
    }
}
