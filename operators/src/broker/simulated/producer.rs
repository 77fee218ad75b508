//! A transactional producer, with the rules of librdkafka's about which call may follow which error.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, Producer};
use crate::lease::Partition;
use crate::partitioner::partition_for_key;
use crate::records::{RecordView, Records};

use super::Process;
use super::cluster::{Cluster, Shared, check_size, error, unknown_partition};
use super::faults::{Fault, Step};
use super::log::{End, copy_record};
use super::transactions::Identity;

/// Dropped with a transaction open, it leaves it open: until the next producer of its id, or until its time is over.
pub(super) struct SimulatedProducer {
    shared: Arc<Shared>,
    client: Client,
}

/// What the producer's client knows by itself.
struct Client {
    identity: Identity,
    state: State,
    message_bytes_max: usize,
    /// The call that has to be made again, and whether it was done already.
    resume: Option<(Step, bool)>,
    queue: LocalQueue,
}

#[derive(Debug)]
enum State {
    Idle,
    InTransaction,
    /// Nothing but an abort may follow.
    MustAbort(BrokerError),
    /// Nothing may follow.
    Dead(BrokerError),
}

/// Records handed over that are not in the log yet.
#[derive(Default)]
struct LocalQueue {
    records: Records,
    targets: Vec<Target>,
    /// Those before this index are in the log.
    sent: usize,
}

struct Target {
    topic: Arc<str>,
    partition: Partition,
    created: i64,
}

impl SimulatedProducer {
    pub(super) fn init(
        shared: Arc<Shared>,
        transactional_id: &str,
        process: &Process,
    ) -> Result<Self, BrokerError> {
        let timeout = process.transaction_timeout;
        let identity = shared.step(|cluster| init(cluster, transactional_id, timeout))?;
        let client = Client {
            identity,
            state: State::Idle,
            message_bytes_max: process.message_bytes_max,
            resume: None,
            queue: LocalQueue::default(),
        };
        Ok(Self { shared, client })
    }
}

fn init(cluster: &mut Cluster, transactional_id: &str, timeout: Duration) -> Result<Identity, BrokerError> {
    const OPERATION: &str = "make the transactional producer";
    let fault = cluster.faults.next(Step::Init);
    if let Some(Fault::Before(class)) = fault {
        return Err(simulated_fault(class, OPERATION));
    }
    let (identity, ended) = cluster.coordinator.init(transactional_id, timeout);
    cluster.history.note(format_args!("{identity:?} at {:?}", cluster.now));
    if let Some(ended) = ended {
        cluster.carry_out(ended);
    }
    match fault {
        Some(Fault::After(class)) => Err(simulated_fault(class, OPERATION)),
        _ => Ok(identity),
    }
}

impl Producer for SimulatedProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| {
            client.call(cluster, Step::Begin, |client, _| {
                client.state = State::InTransaction;
                Ok(())
            })
        })
    }

    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| {
            client.call(cluster, Step::Send, |client, cluster| {
                client.enqueue(cluster, topic, partition, record)
            })
        })
    }

    fn drain(&mut self, _wait: Duration) -> Result<bool, BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| client.drain(cluster))
    }

    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| {
            client.call(cluster, Step::SendOffsets, |client, cluster| {
                cluster.add_offsets(&client.identity, topic, offsets, token)
            })
        })
    }

    fn commit(&mut self) -> Result<(), BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| {
            client.call(cluster, Step::Commit, |client, cluster| {
                client.flush(cluster, usize::MAX);
                client.end(cluster, End::Commit);
                Ok(())
            })
        })
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        let client = &mut self.client;
        self.shared.step(|cluster| {
            client.call(cluster, Step::Abort, |client, cluster| {
                client.queue = LocalQueue::default();
                client.end(cluster, End::Abort);
                Ok(())
            })
        })
    }
}

impl Client {
    /// Makes a call that is done once, however often it has to be made: what has failed after it was done is not done again.
    fn call(
        &mut self,
        cluster: &mut Cluster,
        step: Step,
        act: impl FnOnce(&mut Self, &mut Cluster) -> Result<(), BrokerError>,
    ) -> Result<(), BrokerError> {
        let operation = operation(step);
        self.admit(cluster, step)?;
        let fault = cluster.faults.next(step);
        if let Some(Fault::Before(class)) = fault {
            return Err(self.fail(cluster, step, simulated_fault(class, operation)));
        }
        if !matches!(self.resume, Some((_, true))) {
            act(self, cluster).map_err(|error| self.fail(cluster, step, error))?;
        }
        self.resume = None;
        if let Some(Fault::After(class)) = fault {
            self.resume = Some((step, true));
            return Err(self.fail(cluster, step, simulated_fault(class, operation)));
        }
        Ok(())
    }

    /// Whether the call may be made at all.
    fn admit(&mut self, cluster: &mut Cluster, step: Step) -> Result<(), BrokerError> {
        if let State::Dead(error) = &self.state {
            return Err(error.clone());
        }
        let operation = operation(step);
        let held = cluster.check(&self.identity, operation);
        held.map_err(|error| self.fail(cluster, step, error))?;
        if let Some((open, _)) = self.resume.filter(|(open, _)| *open != step) {
            let message = format!("{open:?} has to be called again first: its outcome is not known");
            return Err(error(Class::Fatal, operation, "CONFLICT", message));
        }
        match (&self.state, step) {
            _ if self.resume.is_some() => Ok(()),
            (State::MustAbort(error), step) if step != Step::Abort => Err(error.clone()),
            (State::InTransaction, Step::Begin) => {
                Err(error(Class::Fatal, operation, "STATE", "a transaction is open already"))
            }
            (State::Idle, Step::Send | Step::SendOffsets | Step::Commit | Step::Abort) => {
                Err(error(Class::Fatal, operation, "STATE", "no transaction is open; begin one first"))
            }
            _ => Ok(()),
        }
    }

    /// Remembers what an error leaves possible.
    fn fail(&mut self, cluster: &mut Cluster, step: Step, error: BrokerError) -> BrokerError {
        cluster.history.note(format_args!("{:?} at {:?} {step:?}: {error}", self.identity, cluster.now));
        let done = self.resume.take().is_some_and(|(_, done)| done);
        match error.class {
            Class::Retriable => self.resume = Some((step, done)),
            Class::Abortable => self.state = State::MustAbort(error.clone()),
            Class::Fatal | Class::Fenced => self.state = State::Dead(error.clone()),
            Class::QueueFull | Class::TooLarge | Class::Refused | Class::Unreachable => {}
        }
        error
    }

    fn enqueue(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        let operation = operation(Step::Send);
        check_size(record, self.message_bytes_max, operation)?;
        // The real producer asks for the topic's limit too, so that no record costs a transaction.
        cluster.check_topic_size(topic, record, operation)?;
        if self.queue.targets.len() - self.queue.sent >= cluster.settings.queue_records_max {
            let message = "the local queue is full; drain it and send the record again";
            return Err(error(Class::QueueFull, operation, "QUEUE_FULL", message));
        }
        let partition = cluster.choose_partition(topic, partition, record.key(), operation)?;
        let created = cluster.wall_millis();
        self.queue.push(topic, partition, created, record);
        Ok(())
    }

    fn drain(&mut self, cluster: &mut Cluster) -> Result<bool, BrokerError> {
        self.admit(cluster, Step::Drain)?;
        let waiting = u32::try_from(self.queue.targets.len() - self.queue.sent).unwrap_or(u32::MAX);
        let fault = cluster.faults.next(Step::Drain);
        let sent = match fault {
            // How far it came is left to the seed.
            Some(Fault::Unfinished | Fault::Before(_)) if waiting > 0 => {
                cluster.faults.random().below(waiting)
            }
            _ => waiting,
        };
        self.flush(cluster, usize::try_from(sent).unwrap_or(usize::MAX));
        self.resume = None;
        match fault {
            Some(Fault::Before(class) | Fault::After(class)) => {
                Err(self.fail(cluster, Step::Drain, simulated_fault(class, operation(Step::Drain))))
            }
            _ => Ok(sent == waiting),
        }
    }

    /// Appends the oldest records of the local queue to their partitions, `most` at most.
    fn flush(&mut self, cluster: &mut Cluster, most: usize) {
        let queue = &mut self.queue;
        let until = queue.sent.saturating_add(most).min(queue.targets.len());
        for index in queue.sent..until {
            let Target { topic, partition, created } = &queue.targets[index];
            let record = queue.records.get(index);
            cluster.coordinator.add_partition(&self.identity, topic, *partition, cluster.now);
            cluster.append(topic, *partition, Some(self.identity.producer), *created, record);
            queue.sent = index + 1;
        }
        if until == queue.targets.len() {
            *queue = LocalQueue::default();
        }
    }

    fn end(&mut self, cluster: &mut Cluster, end: End) {
        self.state = State::Idle;
        if let Some(ended) = cluster.coordinator.end(&self.identity, end) {
            cluster.carry_out(ended);
        }
    }
}

impl LocalQueue {
    fn push(&mut self, topic: &str, partition: Partition, created: i64, record: RecordView<'_>) {
        // A transaction writes to two topics or three, mostly to one: the name is shared with the record before.
        let known = self.targets.iter().rev().take(4).find(|target| *target.topic == *topic);
        let topic = known.map_or_else(|| Arc::from(topic), |target| Arc::clone(&target.topic));
        copy_record(record, &mut self.records);
        self.targets.push(Target { topic, partition, created });
    }
}

impl Cluster {
    /// The partition that was asked for, or else the key's, or else any.
    pub(super) fn choose_partition(
        &mut self,
        topic: &str,
        asked: Option<i32>,
        key: Option<&[u8]>,
        operation: &'static str,
    ) -> Result<Partition, BrokerError> {
        let count = self.topic(topic, operation)?.spec.partitions;
        let partition = match (asked, key) {
            (Some(partition), _) => Partition(partition),
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => {
                let any = self.faults.random().below(count.unsigned_abs());
                Partition(any.cast_signed())
            }
        };
        match self.log(topic, partition) {
            Some(_) => Ok(partition),
            None => Err(unknown_partition(topic, partition, operation)),
        }
    }
}

fn simulated_fault(class: Class, operation: &'static str) -> BrokerError {
    error(class, operation, "SIMULATED_FAULT", "the plan has it so")
}

fn operation(step: Step) -> &'static str {
    match step {
        Step::Begin => "begin a transaction",
        Step::Send => "send a record",
        Step::Drain => "wait for the records of the transaction",
        Step::SendOffsets => "add offsets to the transaction",
        Step::Commit => "commit the transaction",
        Step::Abort => "abort the transaction",
        Step::Init => "make the transactional producer",
        Step::Committed => "read the committed offsets",
        Step::MemberPoll => "serve the group",
        Step::QueuePoll => "read the partition",
    }
}
