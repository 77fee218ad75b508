//! A transactional producer, with the rules of librdkafka's about which call may follow which error.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{BrokerError, Class, GroupToken, OffsetCommit, Producer};
use crate::records::RecordView;

use super::Process;
use super::cluster::{Cluster, Shared, error};
use super::faults::{Fault, Step};
use super::local_queue::LocalQueue;
use super::log::End;
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
                client.queue.push(cluster, client.message_bytes_max, topic, partition, record)
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

    fn drain(&mut self, cluster: &mut Cluster) -> Result<bool, BrokerError> {
        self.admit(cluster, Step::Drain)?;
        let fault = cluster.faults.next(Step::Drain);
        let sent = self.queue.sent_until(cluster, fault);
        self.flush(cluster, sent);
        self.resume = None;
        match fault {
            Some(Fault::Before(class) | Fault::After(class)) => {
                Err(self.fail(cluster, Step::Drain, simulated_fault(class, operation(Step::Drain))))
            }
            _ => Ok(self.queue.waiting() == 0),
        }
    }

    /// Appends the oldest records of the local queue to their partitions, `most` at most.
    fn flush(&mut self, cluster: &mut Cluster, most: usize) {
        let identity = &self.identity;
        self.queue.flush(cluster, most, |cluster, topic, partition, created, record| {
            cluster.coordinator.add_partition(identity, topic, partition, cluster.now);
            cluster.append(topic, partition, Some(identity.producer), created, record);
        });
    }

    fn end(&mut self, cluster: &mut Cluster, end: End) {
        self.state = State::Idle;
        if let Some(ended) = cluster.coordinator.end(&self.identity, end) {
            cluster.carry_out(ended);
        }
    }
}

pub(super) fn simulated_fault(class: Class, operation: &'static str) -> BrokerError {
    error(class, operation, "SIMULATED_FAULT", "the plan has it so")
}

pub(super) fn operation(step: Step) -> &'static str {
    match step {
        Step::Begin => "begin a transaction",
        Step::Send => "send a record",
        Step::Drain => "wait for the records of the transaction",
        Step::SendOffsets => "add offsets to the transaction",
        Step::CommitOffsets => "commit offsets",
        Step::Commit => "commit the transaction",
        Step::Abort => "abort the transaction",
        Step::Init => "make the transactional producer",
        Step::Committed => "read the committed offsets",
        Step::MemberPoll => "serve the group",
        Step::QueuePoll => "read the partition",
    }
}
