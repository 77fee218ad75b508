//! A member of a group, its queues and its proof of membership: handles, behind which the cluster does the work.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{
    BrokerError, Class, Committed, GroupEvent, GroupToken, LogRange, Look, Member, OffsetCommit, Ownership,
    PollEnd, PollLimit, Polled, Queue, TopicSeen, Waker,
};
use crate::lease::{Lease, NextOffset, Partition};

use super::client::{Client, left};
use super::cluster::{ClientId, Shared, unknown_partition};
use super::faults::Step;
use super::producer::operation;

/// Dropped without [`Member::leave`], it is a member whose process has died: the group waits for it until its session is over.
pub(super) struct SimulatedMember {
    shared: Arc<Shared>,
    id: ClientId,
}

struct SimulatedQueue {
    shared: Arc<Shared>,
    id: ClientId,
    partition: Partition,
}

struct SimulatedOwnership {
    shared: Arc<Shared>,
    id: ClientId,
}

impl SimulatedMember {
    pub(super) fn join(
        shared: Arc<Shared>,
        group: &str,
        topic: &str,
        instance: Option<&str>,
    ) -> Result<Self, BrokerError> {
        let id = shared.step(|cluster| {
            cluster.topic(topic, "join the group")?;
            let id = ClientId(cluster.next_id());
            cluster.clients.insert(id, Client::new(group, topic, instance));
            cluster.history.note(format_args!("{id:?} joins {group} for {topic} as {instance:?}"));
            Ok(id)
        })?;
        Ok(Self { shared, id })
    }

    fn poll_once(&self) -> (Option<GroupEvent>, u64) {
        self.shared.step(|cluster| (cluster.poll_member(self.id), cluster.version()))
    }
}

impl Drop for SimulatedMember {
    fn drop(&mut self) {
        self.shared.step(|cluster| cluster.clients.remove(&self.id));
    }
}

impl Member for SimulatedMember {
    fn poll(&mut self, wait: Duration) -> Option<GroupEvent> {
        let (event, version) = self.poll_once();
        if event.is_some() || !self.shared.wait(wait, version) {
            return event;
        }
        self.poll_once().0
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.shared.step(|cluster| cluster.committed(self.id, partitions))
    }

    fn log_ranges(&mut self, partitions: &[Partition]) -> Result<Vec<LogRange>, BrokerError> {
        const OPERATION: &str = "ask for the ranges of logs";
        self.shared.step(|cluster| {
            let topic = &cluster.clients.get(&self.id).ok_or_else(|| left(OPERATION))?.topic;
            let range = |partition: &Partition| {
                let log = cluster
                    .log(topic, *partition)
                    .ok_or_else(|| unknown_partition(topic, *partition, OPERATION))?;
                Ok(LogRange { first: NextOffset(log.start()), end: NextOffset(log.stable_end()) })
            };
            partitions.iter().map(range).collect()
        })
    }

    fn assign(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        self.shared.step(|cluster| cluster.assign(self.id, starts))
    }

    fn queue(&mut self, partition: Partition, wake: Waker) -> Result<Box<dyn Queue>, BrokerError> {
        const OPERATION: &str = "make the queue of a partition";
        self.shared.step(|cluster| {
            let client = cluster.clients.get_mut(&self.id).ok_or_else(|| left(OPERATION))?;
            client.set_waker(partition, wake);
            Ok(())
        })?;
        Ok(Box::new(SimulatedQueue { shared: Arc::clone(&self.shared), id: self.id, partition }))
    }

    fn unassign(&mut self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.shared.step(|cluster| cluster.unassign(self.id, partitions));
        Ok(())
    }

    fn ownership(&self) -> Arc<dyn Ownership> {
        Arc::new(SimulatedOwnership { shared: Arc::clone(&self.shared), id: self.id })
    }

    fn leave(&mut self) -> Result<(), BrokerError> {
        self.shared.step(|cluster| cluster.leave(self.id));
        Ok(())
    }
}

impl Queue for SimulatedQueue {
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        debug_assert_eq!(lease.partition, self.partition, "a queue brings records of its own partition only");
        self.shared.step(|cluster| cluster.poll_queue(self.id, lease, into, limit))
    }

    fn position(&self) -> Option<NextOffset> {
        self.shared.step(|cluster| cluster.position(self.id, self.partition))
    }

    fn end(&self) -> Option<NextOffset> {
        self.shared.step(|cluster| cluster.end_seen(self.id, self.partition))
    }
}

impl Ownership for SimulatedOwnership {
    fn token(&self) -> Result<GroupToken, BrokerError> {
        self.shared.step(|cluster| {
            cluster.clients.get(&self.id).ok_or_else(|| left("prove membership of the group"))?.token()
        })
    }

    fn commit(&self, offsets: &[OffsetCommit]) -> Result<(), BrokerError> {
        // As with a real client: who has left may not commit, and that is no reason to stop for.
        let token = self.token().map_err(|error| BrokerError { class: Class::Abortable, ..error })?;
        self.shared.step(|cluster| {
            let topic = cluster.clients.get(&self.id).ok_or_else(|| left(operation(Step::CommitOffsets)))?;
            let topic = topic.topic.clone();
            cluster.commit_offsets(&topic, offsets, &token)
        })
    }

    fn look(&self) -> Box<dyn Look> {
        let seen = self.shared.step(|cluster| {
            let topic = &cluster.clients.get(&self.id).ok_or_else(|| left("look at the topic"))?.topic;
            Ok(cluster.topics.get(topic).map_or(TopicSeen::Gone, |topic| TopicSeen::There(Some(topic.id))))
        });
        Box::new(Seen(Some(seen)))
    }

    fn committed(&self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.shared.step(|cluster| {
            let client = cluster.clients.get(&self.id).ok_or_else(|| left("read the committed offsets"))?;
            cluster.committed_by(&client.group, &client.topic, partitions)
        })
    }
}

/// A look that has been answered already.
struct Seen(Option<Result<TopicSeen, BrokerError>>);

impl Look for Seen {
    fn seen(&mut self, _: Duration) -> Option<Result<TopicSeen, BrokerError>> {
        self.0.take()
    }
}
