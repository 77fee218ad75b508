//! Fetches from one broker, on a thread of its own: whatever partitions it leads that have room for more, one question after the other.
//!
//! A question stays with the broker until enough has come together, or for a while. A partition that gets room, or is opened, meanwhile is
//! in the next one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, ProducerId};
use uuid::Uuid;

use super::cluster::{Node, greeted};
use super::connection::Connection;
use super::failure;
use super::incoming::{Answer, Incoming, Question};
use super::reader::Shared;
use super::stored::Malformed;
use crate::broker::kafka::signal::Signal;
use crate::broker::{BrokerError, Class};
use crate::clock::{Clock as _, Moment};
use crate::lease::{NextOffset, Offset, Partition};

/// How long a thread without anything to ask sleeps at most.
const IDLE: Duration = Duration::from_secs(5);
/// How long it may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a broker may take longer than it was given until more of its answer has come, and until all of it has.
const LATE_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// For how long a broker can't be read from until that is told, and told again.
const TELL_AFTER: Duration = Duration::from_secs(10);
/// Transactions that are open, and all behind them, are not to be told.
const READ_COMMITTED: i8 = 1;
/// A question that stands for itself, rather than for what changed since another one.
const WITHOUT_SESSION: i32 = -1;
const OPERATION: &str = "read a partition";

/// What one partition is asked for.
pub(super) struct Wanted {
    pub(super) incoming: Arc<Incoming>,
    pub(super) question: Question,
    /// The epoch in which the broker is believed to lead it.
    pub(super) leader_epoch: i32,
}

/// The thread of one broker.
pub(super) struct Fetcher {
    node: Node,
    shared: Arc<Shared>,
    /// Raised when there may be something to ask for.
    signal: Arc<Signal>,
    connection: Option<Connection>,
    /// Whose batches were the first of an answer. An answer has an end, and a batch that is larger than a partition's part of it comes only
    /// to whom it is asked for first: so everybody comes first in turn.
    turn: Option<Partition>,
    /// When an answer came last, or none was waited for, or that there was none was told.
    answered: Moment,
}

impl Fetcher {
    pub(super) fn new(node: Node, shared: Arc<Shared>, signal: Arc<Signal>) -> Self {
        Self { node, shared, signal, connection: None, turn: None, answered: Moment::START }
    }

    /// Fetches until nobody reads any more.
    pub(super) fn run(mut self) {
        let mut asked_at = Moment::START;
        self.answered = self.shared.clock.now();
        while !self.shared.is_stopped() {
            let (topic, wanted, full) = self.wanted();
            if wanted.is_empty() {
                self.connection = self.connection.take().filter(|it| it.is_fresh(&self.shared.clock));
                self.signal.wait(self.shared.until_resume().min(IDLE));
                self.answered = self.shared.clock.now();
                continue;
            }
            let now = self.shared.clock.now();
            let gathering = asked_at.after(self.shared.settings.gather).since(now);
            if wanted.len() < full && !gathering.is_zero() {
                // Nobody is in need of more: a question for many costs the broker, and us, hardly more than one for a few.
                std::thread::sleep(gathering);
                continue;
            }
            asked_at = now;
            if let Err(error) = self.fetch(topic, &wanted) {
                self.tell(&error);
                self.connection = None;
                if error.class == Class::Refused {
                    wanted.iter().for_each(|it| it.incoming.fail(error.clone()));
                } else {
                    self.shared.look_again();
                    std::thread::sleep(self.shared.settings.back_off);
                }
            } else {
                self.answered = self.shared.clock.now();
            }
        }
    }

    /// What is to be asked for now, in turn.
    fn wanted(&self) -> (Uuid, Vec<Wanted>, usize) {
        let (topic, mut wanted, full) = self.shared.wanted(self.node);
        wanted.sort_by_key(|it| (Some(it.incoming.partition) <= self.turn, it.incoming.partition));
        (topic, wanted, full)
    }

    fn fetch(&mut self, topic: Uuid, wanted: &[Wanted]) -> Result<(), BrokerError> {
        let shared = Arc::clone(&self.shared);
        let (settings, clock) = (&shared.settings, &shared.clock);
        let lost = |error: io::Error| failure::unanswered(OPERATION, error.to_string());
        let fresh = self.connection.take().filter(|it| it.is_fresh(clock));
        let mut connection = if let Some(connection) = fresh {
            connection
        } else {
            let address = shared.address(self.node);
            let address = address.ok_or_else(|| failure::unanswered(OPERATION, "the broker has gone"))?;
            greeted(OPERATION, &address, &shared.client, clock, CONNECT_MAX)?
        };
        let request = FetchRequest::default()
            .with_max_wait_ms(millis(settings.wait))
            .with_min_bytes(settings.bytes_min)
            .with_max_bytes(settings.bytes_max)
            .with_isolation_level(READ_COMMITTED)
            .with_session_epoch(WITHOUT_SESSION)
            .with_topics(vec![
                FetchTopic::default()
                    .with_topic_id(topic)
                    .with_partitions(wanted.iter().map(|it| asked(it, settings.partition_bytes)).collect()),
            ]);
        connection.ask(&request, clock).map_err(lost)?;
        let (until, mut come) = (clock.now().after(ANSWER_MAX), 0);
        let answer = loop {
            let answer = connection.answer::<FetchRequest>(settings.wait + LATE_MAX, clock).map_err(lost)?;
            match answer {
                Some(answer) => break answer,
                None if connection.come() > come && clock.now() < until => come = connection.come(),
                None => return Err(failure::unanswered(OPERATION, "no answer in time")),
            }
        };
        self.connection = Some(connection);
        self.take(topic, wanted, answer)
    }

    /// Tells of a broker that can't be read from, once it is more than a moment.
    fn tell(&mut self, error: &BrokerError) {
        let now = self.shared.clock.now();
        tracing::debug!(%error, node = self.node.0, "a broker could not be read from");
        if now.since(self.answered) >= TELL_AFTER {
            self.answered = now;
            tracing::warn!(%error, node = self.node.0, "waiting for the broker");
        }
    }

    fn take(&mut self, topic: Uuid, wanted: &[Wanted], answer: FetchResponse) -> Result<(), BrokerError> {
        if let Some(code) = failure::code(answer.error_code) {
            return Err(failure::of(class_of(code), OPERATION, code, ""));
        }
        let mut first = None;
        let mut missing: BTreeMap<i32, &Wanted> =
            wanted.iter().map(|it| (it.incoming.partition.0, it)).collect();
        let topics = answer.responses.into_iter().filter(|it| it.topic_id == topic);
        for data in topics.flat_map(|topic| topic.partitions) {
            // A partition that was not asked for is nobody's.
            if let Some(wanted) = missing.remove(&data.partition_index) {
                if data.records.as_ref().is_some_and(|records| !records.is_empty()) {
                    first.get_or_insert(wanted.incoming.partition);
                }
                self.take_partition(wanted, data);
            }
        }
        self.turn = first.or(self.turn);
        for Wanted { incoming, question, .. } in missing.into_values() {
            incoming.pause(*question, self.later());
        }
        Ok(())
    }

    fn later(&self) -> Moment {
        self.shared.clock.now().after(self.shared.settings.back_off)
    }

    fn take_partition(&self, Wanted { incoming, question, .. }: &Wanted, data: PartitionData) {
        if !incoming.is_waiting_for(*question) {
            return;
        }
        match failure::code(data.error_code) {
            None if data.diverging_epoch.end_offset >= 0 => {
                let end = data.diverging_epoch.end_offset;
                // An election that lost records: what comes next would not be what came after them.
                self.out_of_range(
                    incoming,
                    *question,
                    &format!("the log was cut off at {end}, before what was read of it"),
                );
            }
            None => {
                if data.last_stable_offset >= 0 {
                    self.shared.told.set_end(incoming.partition, NextOffset(data.last_stable_offset));
                }
                let aborted = data.aborted_transactions.unwrap_or_default();
                let aborted = aborted.into_iter().map(|it| (Offset(it.first_offset), id(it.producer_id)));
                let batches = data.records.unwrap_or_default();
                let answer = Answer { batches: &batches, aborted: aborted.collect() };
                if let Err(malformed) = incoming.arrived(*question, answer) {
                    incoming.pause(*question, self.later());
                    warn(incoming, *question, malformed.0);
                }
            }
            Some(Code::OffsetOutOfRange) => {
                self.out_of_range(incoming, *question, "it has no such offset");
            }
            Some(Code::CorruptMessage) => {
                incoming.damaged(*question, Malformed("the broker's copy is damaged"));
                incoming.pause(*question, self.later());
                self.shared.look_again();
            }
            Some(code) => match class_of(code) {
                Class::Retriable => {
                    tracing::debug!(
                        partition = incoming.partition.0,
                        ?code,
                        "a partition is asked for again"
                    );
                    incoming.pause(*question, self.later());
                    self.shared.look_again();
                }
                class => incoming.fail(failure::of(class, OPERATION, code, "")),
            },
        }
    }

    fn out_of_range(&self, incoming: &Incoming, question: Question, message: &str) {
        if incoming.halt(question) {
            warn(incoming, question, message);
            self.shared.told.out_of_range(incoming.partition);
        }
    }
}

fn warn(incoming: &Incoming, question: Question, message: &str) {
    let (partition, offset) = (incoming.partition.0, question.from);
    tracing::warn!(partition, offset, message, "a partition could not be read on");
}

fn asked(Wanted { incoming, question, leader_epoch }: &Wanted, bytes: i32) -> FetchPartition {
    FetchPartition::default()
        .with_partition(incoming.partition.0)
        .with_current_leader_epoch(*leader_epoch)
        .with_fetch_offset(question.from)
        .with_last_fetched_epoch(question.epoch.unwrap_or(-1))
        .with_log_start_offset(-1)
        .with_partition_max_bytes(bytes)
}

/// What an error of a partition means: whatever may be another's business by now is asked again.
fn class_of(code: Code) -> Class {
    match code {
        Code::UnknownTopicId
        | Code::InconsistentTopicId
        | Code::UnknownTopicOrPartition
        | Code::NotLeaderOrFollower
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::UnknownServerError => Class::Retriable,
        code => failure::class_of_call(code),
    }
}

fn id(ProducerId(id): ProducerId) -> i64 {
    id
}

fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{EpochEndOffset, FetchableTopicResponse};

    use super::*;
    use crate::broker::kafka::direct::batch::{Compression, OpenBatch};
    use crate::broker::kafka::direct::identity::Identity;
    use crate::broker::kafka::direct::reader::DirectLane;
    use crate::broker::kafka::told::{GroupContext, locked};
    use crate::broker::{GroupEvent, PollEnd, PollLimit, Polled, Queue as _};
    use crate::fixtures::lease;
    use crate::records::Records;

    struct Rig {
        fetcher: Fetcher,
        told: Arc<GroupContext>,
        lane: DirectLane,
    }

    impl Rig {
        /// One partition of two, read from offset 5.
        fn new() -> Self {
            let told: Arc<GroupContext> = Arc::default();
            let shared = Shared::of(2, Arc::clone(&told));
            let lane = shared.lane(1);
            lane.open(NextOffset(5));
            Self { fetcher: Fetcher::new(Node(1), shared, Arc::default()), told, lane }
        }

        fn answer(&mut self, data: PartitionData) -> Result<(), BrokerError> {
            let topic = FetchableTopicResponse::default()
                .with_topic_id(Uuid::from_u128(7))
                .with_partitions(vec![data]);
            let answer = FetchResponse::default().with_responses(vec![topic]);
            let (topic, wanted, _) = self.fetcher.wanted();
            self.fetcher.take(topic, &wanted, answer)
        }

        fn is_asked(&self) -> bool {
            !self.fetcher.shared.wanted(Node(1)).1.is_empty()
        }

        fn poll(&mut self) -> Result<PollEnd, BrokerError> {
            self.lane.poll(lease(1, 1), &mut Polled::default(), PollLimit { records: 9, bytes: 9 })
        }

        fn heard(&self) -> Vec<Partition> {
            let heard = |event: &GroupEvent| match event {
                GroupEvent::OutOfRange(partition) => *partition,
                event => panic!("{event:?}"),
            };
            locked(&self.told.events).iter().map(heard).collect()
        }
    }

    fn data(code: i16) -> PartitionData {
        PartitionData::default().with_partition_index(1).with_error_code(code).with_last_stable_offset(9)
    }

    #[test]
    fn where_a_partition_ends_is_told_and_what_was_not_asked_for_is_nobodys() {
        let mut rig = Rig::new();
        rig.answer(data(0).with_partition_index(0)).unwrap();
        assert_eq!((rig.lane.end(), rig.is_asked()), (None, false), "who is not answered waits a little");
        std::thread::sleep(rig.fetcher.shared.settings.back_off);
        rig.answer(data(0)).unwrap();
        assert_eq!((rig.lane.end(), rig.poll().unwrap()), (Some(NextOffset(9)), PollEnd::Empty));
    }

    #[test]
    fn an_offset_outside_of_the_log_is_told_once_and_never_moved() {
        let cut = EpochEndOffset::default().with_epoch(2).with_end_offset(4);
        for data in [data(1), data(0).with_diverging_epoch(cut)] {
            let mut rig = Rig::new();
            let wanted = rig.fetcher.shared.wanted(Node(1)).1;
            for _ in 0..2 {
                rig.fetcher.take_partition(&wanted[0], data.clone());
            }
            assert_eq!((rig.heard(), rig.is_asked()), (vec![Partition(1)], false));
            assert_eq!(rig.poll().unwrap(), PollEnd::Empty);
        }
    }

    #[test]
    fn what_may_pass_is_asked_again_a_little_later() {
        // No leader, a stale epoch of one, an unknown topic id, a disk, something that nobody knows.
        for code in [6, 75, 100, 56, -1] {
            let mut rig = Rig::new();
            rig.answer(data(code)).unwrap();
            assert!(!rig.is_asked(), "{code}");
            std::thread::sleep(rig.fetcher.shared.settings.back_off);
            assert!(rig.is_asked() && rig.heard().is_empty(), "{code}");
            assert_eq!(rig.poll().unwrap(), PollEnd::Empty);
        }
        let mut rig = Rig::new();
        let refused = FetchResponse::default().with_error_code(100);
        assert_eq!(rig.fetcher.take(Uuid::nil(), &[], refused).unwrap_err().class, Class::Retriable);
    }

    #[test]
    fn what_is_refused_is_told_to_who_reads() {
        let mut rig = Rig::new();
        rig.answer(data(29)).unwrap();
        let error = rig.poll().unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (Class::Refused, "TOPIC_AUTHORIZATION_FAILED"));
        assert!(!rig.is_asked());
    }

    /// An answer ends when it has so many bytes: whoever was always asked for last would be told nothing as long as others have a backlog.
    #[test]
    fn who_was_told_something_first_is_asked_for_last() {
        let mut rig = Rig::new();
        let other = rig.fetcher.shared.lane(0);
        other.open(NextOffset(0));
        let order =
            |rig: &Rig| rig.fetcher.wanted().1.iter().map(|it| it.incoming.partition.0).collect::<Vec<_>>();
        assert_eq!(order(&rig), [0, 1]);
        let both = |rig: &mut Rig, data: [PartitionData; 2]| {
            let topic = FetchableTopicResponse::default().with_topic_id(Uuid::from_u128(7));
            let answer = FetchResponse::default().with_responses(vec![topic.with_partitions(data.to_vec())]);
            let (topic, wanted, _) = rig.fetcher.wanted();
            rig.fetcher.take(topic, &wanted, answer).unwrap();
        };
        let nothing = || data(0).with_partition_index(0);
        both(&mut rig, [nothing(), data(0)]);
        assert_eq!(order(&rig), [0, 1], "nothing is not something");
        let (mut records, mut batch) = (Records::default(), OpenBatch::new(0, Vec::new()));
        records.push(None, Some(b"v"));
        batch.push(0, records.get(0));
        let (batch, _) = batch.close(Identity::none(false), 0, Compression::None);
        both(&mut rig, [nothing().with_records(Some(batch.bytes)), data(0)]);
        assert_eq!(order(&rig), [1, 0]);
    }

    #[test]
    fn a_broker_whose_copy_stays_damaged_is_asked_for_so_many_times_only() {
        let mut rig = Rig::new();
        for _ in 0..2 {
            rig.answer(data(2)).unwrap();
            assert_eq!(rig.poll().unwrap(), PollEnd::Empty);
            std::thread::sleep(rig.fetcher.shared.settings.back_off);
        }
        rig.answer(data(2)).unwrap();
        assert_eq!((rig.poll().unwrap_err().code.as_str(), rig.is_asked()), ("CORRUPT_MESSAGE", false));
    }

    #[test]
    fn damage_is_asked_for_again() {
        let mut rig = Rig::new();
        rig.answer(data(0).with_records(Some(vec![7; 100].into()))).unwrap();
        assert_eq!((rig.is_asked(), rig.poll().unwrap()), (false, PollEnd::Empty));
        std::thread::sleep(rig.fetcher.shared.settings.back_off);
        assert!(rig.is_asked());
    }
}
