//! A member of a consumer group.
//!
//! librdkafka tells of a rebalance in a callback and waits, as the group does, until assign or unassign is called; it need not be
//! called in the callback. So the callback only takes a note, which [`KafkaMember::poll`] returns, and the engine answers when it has
//! finished what it still owns. While an answer is outstanding librdkafka pauses *every* partition of the member, also those that stay.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::config::{KafkaConfig, Settings};
use super::direct;
use super::lanes::Lanes;
use super::look::{Looker, cut_off};
use super::offsets::{self, committed, offset_list};
use super::producer::CALL_MAX;
use super::token::KafkaToken;
use super::told::{GroupContext, locked};
use super::{error, native};
use crate::broker::{
    BrokerError, Class, Committed, GroupEvent, GroupToken, Isolation, LogRange, Look, Member, OffsetCommit,
    Ownership, Queue, Waker,
};
use crate::clock::{Clock, Moment, SystemClock};
use crate::lease::{NextOffset, Partition};

/// How long a question to the broker may take. Short, because the member does not serve its group meanwhile: who gets no answer asks
/// again.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long the second question may take, after the first had no answer: see [`KafkaMember::explained`].
const DOUBT_MAX: Duration = Duration::from_secs(2);

/// How long a look between two transactions may take: nothing is committed meanwhile.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long after it was told that no broker can be reached the engine is told again, if it is still so.
const UNREACHABLE_AGAIN: Duration = Duration::from_secs(10);

/// How long a member waits for its group to let it go.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// A member on librdkafka.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    queue: native::ClientQueue<BaseConsumer<GroupContext>>,
    lanes: Lanes,
    clock: SystemClock,
    /// Of a client that sees committed offsets although a transaction may change them.
    doubter: ClientConfig,
    /// When the engine was last told that no broker can be reached.
    unreachable: Option<Moment>,
    left: bool,
}

/// What the member shares with who proves its membership.
struct Shared {
    consumer: Arc<BaseConsumer<GroupContext>>,
    looker: Looker,
    topic: String,
    /// The partitions that the member has taken and not given back.
    assigned: Mutex<BTreeSet<Partition>>,
}

impl Shared {
    fn list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition.0);
        }
        list
    }

    fn committed_within(
        &self,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        const OPERATION: &str = "read the committed offsets";
        let list = self.list(partitions.iter().copied());
        let list =
            self.consumer.committed_offsets(list, wait).map_err(|error| error::of(OPERATION, &error))?;
        committed(OPERATION, &list)
    }

    /// The offsets at one end of these partitions, asked for at once.
    fn offsets(&self, partitions: &[Partition], which: ListOffset) -> Result<Vec<i64>, BrokerError> {
        const OPERATION: &str = "read the ranges of partitions";
        let mut list = self.list(partitions.iter().copied());
        list.set_all_offsets(which).map_err(|error| error::of(OPERATION, &error))?;
        let list = self
            .consumer
            .offsets_for_times(list, ANSWER_MAX)
            .map_err(|error| error::of(OPERATION, &error))?;
        native::committed_offsets(&list)
            .into_iter()
            .map(|found| match found.error {
                Code::NoError if found.offset >= 0 => Ok(found.offset),
                Code::NoError => {
                    Err(error::by_code(OPERATION, Code::OffsetNotAvailable, "no offset was told"))
                }
                code => Err(error::by_code(OPERATION, code, "")),
            })
            .collect()
    }
}

impl KafkaMember {
    pub(super) fn new(config: &KafkaConfig, group: &str, topic: &str) -> Result<Self, BrokerError> {
        const OPERATION: &str = "join the consumer group";
        let topic_c = CString::new(topic)
            .map_err(|_| error::refused(OPERATION, "_INVALID_ARG", format!("{topic:?} is no topic")))?;
        let doubter = Settings::observer(config, group, Isolation::ReadUncommitted)?;
        let topic_c = Arc::new(topic_c);
        let looker = Looker::new(config, &topic_c)?;
        let settings = Settings::member(config, group)?;
        let consumer = BaseConsumer::from_config_and_context(&settings, GroupContext::default())
            .map_err(|error| error::of(OPERATION, &error))?;
        let consumer = Arc::new(consumer);
        let reader = direct::reader(config, topic, consumer.context())?;
        let lanes = Lanes::new(Arc::clone(&consumer), topic, topic_c, reader);
        let waker = {
            let context = Arc::clone(consumer.context());
            Arc::new(move || context.work.raise())
        };
        let queue = native::consumer_queue(&consumer, waker)
            .ok_or_else(|| error::refused(OPERATION, "_FAIL", "the client has no queue"))?;
        let assigned = Mutex::default();
        let shared = Shared { consumer, looker, topic: topic.to_owned(), assigned };
        let member = Self {
            shared: Arc::new(shared),
            queue,
            lanes,
            clock: SystemClock::new(),
            doubter,
            unreachable: None,
            left: false,
        };
        member.consumer().subscribe(&[topic]).map_err(|error| error::of(OPERATION, &error))?;
        Ok(member)
    }

    fn consumer(&self) -> &BaseConsumer<GroupContext> {
        &self.shared.consumer
    }

    fn list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        self.shared.list(partitions)
    }

    /// Why committed offsets were not told in time. To who wants only what is committed the broker does not say that a transaction holds
    /// them: it gives no answer that librdkafka would not ask again for.
    fn explained(&self, error: BrokerError, partitions: &[Partition]) -> BrokerError {
        let in_doubt = || {
            let list =
                offsets::observed(error.operation, &self.doubter, &self.shared.topic, partitions, DOUBT_MAX);
            list.is_ok()
        };
        if error.code != native::error_name(Code::OperationTimedOut) || !in_doubt() {
            return error;
        }
        let message = "a transaction that was to commit some of them is neither committed nor aborted yet";
        BrokerError { message: message.to_owned(), ..error }
    }

    /// A rebalance was answered: what stays goes on at once.
    fn answered(&self) {
        self.consumer().context().unanswered.store(false, Ordering::Release);
        self.lanes.go_on(locked(&self.shared.assigned).iter().copied());
    }

    /// The next note, with those answered that nobody needs to know of, and those acted upon that can't wait.
    fn note(&self) -> Option<GroupEvent> {
        loop {
            let event = locked(&self.consumer().context().events).pop_front()?;
            let answered = match &event {
                GroupEvent::Assigned(partitions) if partitions.is_empty() => {
                    self.consumer().incremental_assign(&self.list([]))
                }
                GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) if partitions.is_empty() => {
                    self.consumer().incremental_unassign(&self.list([]))
                }
                GroupEvent::Lost(partitions) => {
                    self.lanes.close(partitions);
                    return Some(event);
                }
                _ => return Some(event),
            };
            if let Err(error) = answered {
                return Some(GroupEvent::Failed(error::of("answer the group", &error)));
            }
            self.answered();
        }
    }

    /// Lets librdkafka tell one thing, if it has one to tell. Called also when there is none: it is the sign of life.
    fn serve(&mut self) -> Option<GroupEvent> {
        const OPERATION: &str = "serve the consumer group";
        let polled = self.consumer().poll(Duration::ZERO);
        let reason = std::mem::take(&mut *locked(&self.consumer().context().reason));
        match polled {
            None => self.note(),
            Some(Ok(message)) => {
                use rdkafka::message::Message as _;
                let (partition, offset) = (message.partition(), message.offset());
                let message = format!("offset {offset} of partition {partition} came outside of its queue");
                Some(GroupEvent::Failed(error::with_class(
                    Class::Fatal,
                    OPERATION,
                    Code::Inconsistent,
                    message,
                )))
            }
            Some(Err(error)) => {
                let mut failed = error::of(OPERATION, &error);
                if matches!(error, KafkaError::MessageConsumptionFatal(_)) && failed.class != Class::Fenced {
                    failed.class = Class::Fatal;
                }
                if error.rdkafka_error_code() == Some(Code::UnknownTopicOrPartition) {
                    // The topic was deleted, or is being made anew: whoever looks at it finds out which.
                    failed.class = Class::Retriable;
                }
                if !reason.is_empty() {
                    failed.message = reason;
                }
                self.is_news(&failed).then_some(GroupEvent::Failed(failed))
            }
        }
    }

    /// Whether an error is worth an event. That a broker can't be reached is told with every attempt to reach it, and librdkafka goes
    /// on trying.
    fn is_news(&mut self, error: &BrokerError) -> bool {
        if error.class != Class::Unreachable {
            return true;
        }
        let now = self.clock.now();
        let is_news = self.unreachable.is_none_or(|told| now.since(told) >= UNREACHABLE_AGAIN);
        if is_news {
            self.unreachable = Some(now);
        }
        is_news
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, wait: Duration) -> Option<GroupEvent> {
        let start = self.clock.now();
        loop {
            if let Some(event) = self.note().or_else(|| self.serve()) {
                return Some(event);
            }
            let left = wait.saturating_sub(self.clock.now().since(start));
            if left.is_zero() {
                return None;
            }
            if self.queue.is_empty() {
                self.consumer().context().work.wait(left);
            }
        }
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.shared
            .committed_within(partitions, ANSWER_MAX)
            .map_err(|error| self.explained(error, partitions))
    }

    fn log_ranges(&mut self, partitions: &[Partition]) -> Result<Vec<LogRange>, BrokerError> {
        let firsts = self.shared.offsets(partitions, ListOffset::Beginning)?;
        let ends = self.shared.offsets(partitions, ListOffset::End)?;
        locked(&self.consumer().context().ends)
            .extend(partitions.iter().zip(&ends).map(|(partition, end)| (partition.0, *end)));
        let range = |(first, end)| LogRange { first: NextOffset(first), end: NextOffset(end) };
        Ok(firsts.into_iter().zip(ends).map(range).collect())
    }

    fn assign(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        const OPERATION: &str = "take partitions";
        if self.consumer().assignment_lost() {
            let message = "the assignment was lost in the meantime";
            return Err(error::with_class(Class::Abortable, OPERATION, Code::AssignmentLost, message));
        }
        let mut list = TopicPartitionList::with_capacity(starts.len());
        self.lanes.open(starts)?;
        for (partition, start) in starts {
            list.add_partition_offset(&self.shared.topic, partition.0, ListOffset::Offset(start.0))
                .map_err(|error| error::of(OPERATION, &error))?;
        }
        let partitions: Vec<_> = starts.iter().map(|(partition, _)| *partition).collect();
        if let Err(error) = self.consumer().incremental_assign(&list) {
            self.lanes.close(&partitions);
            return Err(error::of(OPERATION, &error));
        }
        locked(&self.shared.assigned).extend(&partitions);
        self.answered();
        self.lanes.wake(&partitions);
        Ok(())
    }

    fn queue(&mut self, partition: Partition, wake: Waker) -> Result<Box<dyn Queue>, BrokerError> {
        self.lanes.queue(partition, wake)
    }

    fn unassign(&mut self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.lanes.close(partitions);
        {
            // Some may have been assigned by the group and never taken.
            let mut assigned = locked(&self.shared.assigned);
            assigned.retain(|partition| !partitions.contains(partition));
        }
        let list = self.list(partitions.iter().copied());
        let answered = self.consumer().incremental_unassign(&list);
        answered.map_err(|error| error::of("give partitions back", &error))?;
        self.answered();
        Ok(())
    }

    fn ownership(&self) -> Arc<dyn Ownership> {
        Arc::clone(&self.shared) as Arc<dyn Ownership>
    }

    fn leave(&mut self) -> Result<(), BrokerError> {
        const OPERATION: &str = "leave the consumer group";
        if self.left {
            return Ok(());
        }
        self.left = true;
        self.consumer().context().leaving.store(true, Ordering::Release);
        locked(&self.shared.assigned).clear();
        self.lanes.close_all();
        // The answer to a rebalance that was told of comes before the closing: see the callback.
        if self.consumer().context().unanswered.load(Ordering::Acquire)
            && let Err(error) = self.consumer().unassign()
        {
            tracing::debug!(%error, "there was nothing to give back");
        }
        self.consumer().close_queue().map_err(|error| error::of(OPERATION, &error))?;
        let start = self.clock.now();
        while !self.consumer().closed() {
            if self.clock.now().since(start) > LEAVE_MAX {
                let message = "the group's coordinator did not answer";
                return Err(error::by_code(OPERATION, Code::OperationTimedOut, message));
            }
            if let Some(Err(error)) = self.consumer().poll(Duration::from_millis(10)) {
                tracing::debug!(%error, "an error came while leaving the group");
            }
        }
        Ok(())
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!(%error, "the group will notice by itself");
        }
        if !self.consumer().closed() {
            // The bindings' destructor would wait for ever for a coordinator that does not answer.
            std::mem::forget(Arc::clone(&self.shared.consumer));
        }
    }
}

impl Ownership for Shared {
    fn token(&self) -> Result<GroupToken, BrokerError> {
        let consumer = &*self.consumer;
        let before = native::membership(consumer);
        let token = consumer.group_metadata();
        let after = native::membership(consumer);
        let nothing = locked(&self.assigned).is_empty();
        let lost = consumer.context().is_leaving() || nothing || consumer.assignment_lost();
        match (before, token, after) {
            // The broker takes a commit without a generation and a member id for one of a program that manages its partitions
            // itself, and checks nothing. Equal before and after, they are also those of the token.
            (Some(before), Some(token), Some(after))
                if !lost && before == after && before.generation >= 0 && !before.member.is_empty() =>
            {
                Ok(GroupToken::Kafka(KafkaToken { metadata: Arc::new(token), membership: after }))
            }
            _ => Err(error::with_class(
                Class::Abortable,
                "prove the membership in the group",
                Code::AssignmentLost,
                "this process owns no partition of the group any more",
            )),
        }
    }

    fn commit(&self, offsets: &[OffsetCommit]) -> Result<(), BrokerError> {
        const OPERATION: &str = "commit offsets";
        // librdkafka commits with whatever generation it has, and without one too.
        self.token()?;
        let list = offset_list(OPERATION, &self.topic, offsets)?;
        native::commit(&self.consumer, &list, CALL_MAX)
            .map_err(|code| error::with_class(error::class_of_commit(code), OPERATION, code, ""))
    }

    fn look(&self) -> Box<dyn Look> {
        if self.consumer.context().cut_off.load(Ordering::Acquire) { cut_off() } else { self.looker.look() }
    }

    fn committed(&self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.committed_within(partitions, LOOK_MAX)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// A member whose broker was killed spent one and a half cores on attempts to connect, hundreds of thousands of them.
    #[test]
    fn who_is_cut_off_from_the_broker_does_not_storm_it() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("requests", 1, 1).unwrap();
        let config = KafkaConfig::new(cluster.bootstrap_servers());
        let mut member = KafkaMember::new(&config, "group", "requests").unwrap();
        let clock = SystemClock::new();
        // Its notes are read on the way: the statistics are among them. A simulated broker does not know of looks.
        let mut is_asked = || {
            drop(member.poll(Duration::from_millis(100)));
            assert!(
                clock.now().since(Moment::START) < Duration::from_mins(1),
                "the looks have never changed"
            );
            let seen = member.ownership().look().seen(Duration::ZERO);
            !seen.is_some_and(|seen| seen.is_err_and(|error| error.message == "no broker is connected"))
        };
        while !is_asked() {}
        cluster.broker_down(1).unwrap();
        while is_asked() {}
        cluster.broker_up(1).unwrap();
        while !is_asked() {}
    }
}
