//! Brings records to the leaders of their partitions: one request at a time to each broker, while the next one grows.
//!
//! Nothing here has a thread of its own. A request is written when a broker is free, and its answer is looked for when there is nothing
//! else to do: the time that a broker takes is the time in which the next batches fill.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::ProduceResponse;
use kafka_protocol::messages::{ProduceRequest, TransactionalId};

use super::batch::Compression;
use super::cluster::{Cluster, Leader, Node, Use, named};
use super::failure;
use super::identity::Identity;
use super::outgoing::{Outgoing, Target, TopicIndex};
use super::settings::DirectSettings;
use crate::broker::{BrokerError, Class};
use crate::clock::{Clock as _, Moment};
use crate::partitioner::partition_for_key;
use crate::records::RecordView;

/// How long a leader may take until all in-sync replicas have a batch, and how long until it has answered.
const REPLICAS_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long a topic is looked for that a record is for.
const TOPIC_MAX: Duration = Duration::from_secs(5);
/// How long it may take to find leaders and to connect to them, before what was answered meanwhile is looked at.
const CLUSTER_MAX: Duration = Duration::from_secs(5);
/// Bytes of a request that more batches are added to, at most: a broker closes the connection on which a very large one comes.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// How long a pause may be that a broker asks for. It keeps to a longer one by itself.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After how long the topics are looked at again: they may have got more partitions.
const LOOK_AGE: Duration = Duration::from_mins(5);
/// All in-sync replicas.
const ACKS_ALL: i16 = -1;
/// The name of a delivery in errors.
const DELIVER: &str = "deliver a record";

/// What is sent, to whom, and what is under way.
pub(super) struct Sender {
    /// `None` outside of transactions.
    transactional_id: Option<TransactionalId>,
    topics: Vec<Topic>,
    outgoing: Outgoing,
    compression: Compression,
    /// By broker: what it was sent last, and has not answered.
    under_way: BTreeMap<Node, UnderWay>,
    back_off: Duration,
    /// Nothing is sent before this moment.
    resume: Moment,
    /// When the topics are to be looked at.
    look: Moment,
    /// Where records without a key go, for as long as a transaction lasts.
    keyless: usize,
}

struct Topic {
    name: String,
    leaders: Vec<Option<Leader>>,
}

/// Who leads a partition, if anybody does now.
fn leader(topics: &[Topic], of: Target) -> Option<Node> {
    topics[of.topic.0].leaders.get(of.partition).copied().flatten().map(|leader| leader.node)
}

struct UnderWay {
    targets: Vec<Target>,
    since: Moment,
}

impl Sender {
    pub(super) fn new(transactional_id: Option<TransactionalId>, settings: &DirectSettings) -> Self {
        Self {
            transactional_id,
            topics: Vec::new(),
            outgoing: Outgoing::new(settings.bounds),
            compression: settings.compression,
            under_way: BTreeMap::new(),
            back_off: settings.back_off,
            resume: Moment::START,
            look: Moment::NEVER,
            keyless: 0,
        }
    }

    /// Whether there is no room for another record.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.is_full()
    }

    /// Whether everything that was handed over is in the log.
    pub(super) fn is_empty(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.outgoing.waiting_bytes()
    }

    /// Takes a record over. The caller has asked for room.
    ///
    /// # Errors
    ///
    /// If there is no such topic or partition.
    pub(super) fn push(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
        batch_bytes: usize,
    ) -> Result<(), BrokerError> {
        let target = self.target(cluster, topic, partition, record.key())?;
        let millis = cluster.clock().wall_micros() / 1_000;
        self.outgoing.push(target, millis, record, batch_bytes);
        Ok(())
    }

    /// Sends to each broker that is free what waits for it, and takes in what was answered: by now, or, where nothing can be sent, within
    /// `wait`.
    ///
    /// # Errors
    ///
    /// If a record was refused, or nothing can be sent to this cluster: [`Class::Abortable`] or [`Class::Refused`], and never one after which
    /// the same record might be handed over once more.
    pub(super) fn pump(
        &mut self,
        cluster: &mut Cluster,
        identity: Identity,
        wait: Duration,
    ) -> Result<(), BrokerError> {
        cluster.give(CLUSTER_MAX);
        self.take_answers(cluster, Duration::ZERO)?;
        if self.is_empty() || self.send(cluster, identity)? || wait.is_zero() {
            return Ok(());
        }
        if self.under_way.is_empty() {
            // No leader, or it was just tried in vain.
            let until_resume = self.resume.since(cluster.clock().now());
            std::thread::sleep(until_resume.clamp(Duration::from_millis(1), self.back_off).min(wait));
            return Ok(());
        }
        self.take_answers(cluster, wait)
    }

    /// Forgets everything that is not in the log yet, and what of it is under way.
    pub(super) fn abandon(&mut self, cluster: &mut Cluster) {
        for node in std::mem::take(&mut self.under_way).into_keys() {
            cluster.close(node, Use::Records);
        }
        self.outgoing.clear();
    }

    /// A transaction ends, and another may begin: sequence numbers begin anew, and records without a key go elsewhere.
    pub(super) fn turn_over(&mut self, cluster: &mut Cluster) {
        self.abandon(cluster);
        self.keyless = self.keyless.wrapping_add(1);
    }

    /// Where a record goes.
    ///
    /// # Errors
    ///
    /// If there is no such place, however long it is looked for: it may have just been made.
    fn target(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
    ) -> Result<Target, BrokerError> {
        if let Some(target) = self.known_target(topic, partition, key) {
            return Ok(target);
        }
        if !self.topics.iter().any(|known| known.name == topic) {
            self.topics.push(Topic { name: topic.to_owned(), leaders: Vec::new() });
        }
        let until = cluster.give(TOPIC_MAX);
        loop {
            let looked = self.look_at_topics(cluster);
            if let Some(target) = self.known_target(topic, partition, key) {
                return Ok(target);
            }
            match looked {
                Err(error) if error.class == Class::Refused => return Err(error),
                Err(error) if cluster.clock().now() >= until => return Err(error),
                Ok(()) if cluster.clock().now() >= until => {
                    let partition =
                        partition.map_or_else(String::new, |it| format!(", or it has no partition {it}"));
                    let message = format!("there is no topic {topic}{partition}");
                    return Err(failure::of(Class::Refused, DELIVER, Code::UnknownTopicOrPartition, message));
                }
                Ok(()) | Err(_) => std::thread::sleep(self.back_off),
            }
        }
    }

    /// Where a record goes, as far as is known.
    fn known_target(&self, topic: &str, partition: Option<i32>, key: Option<&[u8]>) -> Option<Target> {
        let index = self.topics.iter().position(|known| known.name == topic)?;
        let count = self.topics[index].leaders.len();
        let place = match (partition, key) {
            _ if count == 0 => None,
            (Some(partition), _) => usize::try_from(partition).ok().filter(|&place| place < count),
            (None, Some(key)) => {
                let of = partition_for_key(key, i32::try_from(count).unwrap_or(i32::MAX));
                usize::try_from(of.0).ok()
            }
            (None, None) => Some(self.keyless % count),
        };
        place.map(|partition| Target { topic: TopicIndex(index), partition })
    }

    fn look_at_topics(&mut self, cluster: &mut Cluster) -> Result<(), BrokerError> {
        let names: Vec<&str> = self.topics.iter().map(|topic| topic.name.as_str()).collect();
        let mut seen = cluster.look(&names)?;
        for topic in &mut self.topics {
            topic.leaders = seen.remove(&topic.name).unwrap_or_default().leaders;
        }
        self.look = cluster.clock().now().after(LOOK_AGE);
        Ok(())
    }

    /// Sends to every leader that is free; whether anything was sent.
    fn send(&mut self, cluster: &mut Cluster, identity: Identity) -> Result<bool, BrokerError> {
        let now = cluster.clock().now();
        if now < self.resume {
            return Ok(false);
        }
        if now >= self.look
            && let Err(error) = self.look_at_topics(cluster)
        {
            self.later(cluster);
            return if error.class == Class::Refused { Err(error) } else { Ok(false) };
        }
        let mut nodes: Vec<Node> =
            self.outgoing.ready().filter_map(|target| leader(&self.topics, target)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|node| !self.under_way.contains_key(node));
        if nodes.is_empty() && self.under_way.is_empty() {
            // What waits has no leader.
            self.lost(cluster);
        }
        let mut is_sent = false;
        for node in nodes {
            is_sent |= self.send_to(cluster, identity, node)?;
        }
        Ok(is_sent)
    }

    fn send_to(
        &mut self,
        cluster: &mut Cluster,
        identity: Identity,
        node: Node,
    ) -> Result<bool, BrokerError> {
        match cluster.connection(node, Use::Records) {
            Ok(_) => {}
            Err(error) if error.class == Class::Refused => return Err(error),
            Err(error) => {
                tracing::debug!(%error, node = node.0, "a leader can't be reached");
                self.lost(cluster);
                return Ok(false);
            }
        }
        let topics = &self.topics;
        let is_led = |target: Target| leader(topics, target) == Some(node);
        let batches = self.outgoing.take(is_led, REQUEST_BYTES_MAX, identity, self.compression);
        let mut data: Vec<TopicProduceData> = Vec::new();
        let mut last = None;
        for (target, bytes) in &batches {
            if last != Some(target.topic) {
                data.push(TopicProduceData::default().with_name(named(&self.topics[target.topic.0].name)));
                last = Some(target.topic);
            }
            let index = i32::try_from(target.partition).unwrap_or(i32::MAX);
            let batch = PartitionProduceData::default().with_index(index).with_records(Some(bytes.clone()));
            if let Some(topic) = data.last_mut() {
                topic.partition_data.push(batch);
            }
        }
        let request = ProduceRequest::default()
            .with_transactional_id(self.transactional_id.clone())
            .with_acks(ACKS_ALL)
            .with_timeout_ms(i32::try_from(REPLICAS_MAX.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(data);
        let since = cluster.clock().now();
        let targets = batches.into_iter().map(|(target, _)| target).collect();
        self.under_way.insert(node, UnderWay { targets, since });
        let Some((connection, clock)) = cluster.waiting(node, Use::Records) else { return Ok(false) };
        if let Err(error) = connection.ask(&request, clock) {
            self.connection_lost(cluster, node, &error.to_string());
        }
        Ok(true)
    }

    /// Takes in what was answered; waits for the first answer up to `wait`.
    fn take_answers(&mut self, cluster: &mut Cluster, wait: Duration) -> Result<(), BrokerError> {
        let mut wait = wait;
        for node in self.under_way.keys().copied().collect::<Vec<_>>() {
            let Some((connection, clock)) = cluster.waiting(node, Use::Records) else {
                self.connection_lost(cluster, node, "there is no connection");
                continue;
            };
            match connection.answer::<ProduceRequest>(wait, clock) {
                Ok(Some(answer)) => {
                    wait = Duration::ZERO;
                    self.take_answer(cluster, node, &answer)?;
                }
                Ok(None) => {
                    wait = Duration::ZERO;
                    let since = self.under_way.get(&node).map_or(Moment::START, |it| it.since);
                    if cluster.clock().now().since(since) >= ANSWER_MAX {
                        self.connection_lost(cluster, node, "no answer in time");
                    }
                }
                Err(error) => self.connection_lost(cluster, node, &error.to_string()),
            }
        }
        Ok(())
    }

    fn take_answer(
        &mut self,
        cluster: &mut Cluster,
        node: Node,
        answer: &ProduceResponse,
    ) -> Result<(), BrokerError> {
        let Some(UnderWay { mut targets, .. }) = self.under_way.remove(&node) else { return Ok(()) };
        if let Ok(pause @ 1..) = u64::try_from(answer.throttle_time_ms) {
            // Over its quota. The broker reads nothing of us for so long.
            self.resume = cluster.clock().now().after(Duration::from_millis(pause).min(PAUSE_MAX));
        }
        let mut failed = None;
        for topic in &answer.responses {
            let Some(index) = self.topics.iter().position(|known| known.name == topic.name.0.as_str()) else {
                continue;
            };
            for partition in &topic.partition_responses {
                let place = targets.iter().position(|target| {
                    target.topic == TopicIndex(index)
                        && i32::try_from(target.partition) == Ok(partition.index)
                });
                let Some(target) = place.map(|place| targets.swap_remove(place)) else { continue };
                match failure::code(partition.error_code) {
                    // It was there already, and the first answer was lost.
                    None | Some(Code::DuplicateSequenceNumber) => self.outgoing.acknowledged(target),
                    Some(code) if failure::is_passing(code) => {
                        tracing::debug!(%code, topic = topic.name.0.as_str(), partition = partition.index, "sent again");
                        self.outgoing.again(target);
                        self.later(cluster);
                        if code != Code::ConcurrentTransactions {
                            self.look = Moment::START;
                        }
                    }
                    Some(code) => {
                        self.outgoing.again(target);
                        let said = partition.error_message.as_ref().map_or("", |message| message.as_str());
                        let class = failure::class_of_delivery(code);
                        failed = Some(failure::of(class, DELIVER, code, said));
                    }
                }
            }
        }
        for target in targets {
            // The broker has not said what became of it.
            self.outgoing.again(target);
            self.later(cluster);
        }
        failed.map_or(Ok(()), Err)
    }

    fn connection_lost(&mut self, cluster: &mut Cluster, node: Node, reason: &str) {
        tracing::debug!(
            node = node.0,
            reason,
            "a leader's connection is lost, and what was sent on it is sent again"
        );
        cluster.close(node, Use::Records);
        if let Some(UnderWay { targets, .. }) = self.under_way.remove(&node) {
            targets.into_iter().for_each(|target| self.outgoing.again(target));
        }
        self.lost(cluster);
    }

    /// Somebody does not lead any more, or is away: who does is looked at, after a pause.
    fn lost(&mut self, cluster: &Cluster) {
        self.look = Moment::START;
        self.later(cluster);
    }

    fn later(&mut self, cluster: &Cluster) {
        self.resume = self.resume.max(cluster.clock().now().after(self.back_off));
    }
}
