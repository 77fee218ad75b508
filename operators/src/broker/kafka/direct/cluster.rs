//! The cluster: who its brokers are, who leads which partition, who coordinates what, and the lines to them.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::{
    ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest, TopicName, TransactionalId,
    metadata_request::MetadataRequestTopic, metadata_response::MetadataResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::connection::Connection;
use super::failure;
use super::request::{Ask, SPOKEN};
use crate::broker::{BrokerError, Class};
use crate::clock::{Clock as _, Moment, SystemClock};

/// How long a broker may take to answer a question about the cluster.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a coordinator may take before the same is asked again, over another connection.
const COORDINATOR_MAX: Duration = Duration::from_secs(2);
/// What the cluster is asked for.
const FEATURE: &str = "transaction.version";
/// From this version of it on, each transaction has an epoch of its own.
const FEATURE_LEVEL: i16 = 2;

/// A broker of the cluster, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node(pub(super) i32);

/// What a connection is for: records and questions have one each, so that no question waits behind records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Records,
    Questions,
}

/// Whose coordinator is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Coordinated {
    Group(String),
    Transaction(String),
}

impl Coordinated {
    /// The transactions of this id.
    pub(super) fn transaction(id: &TransactionalId) -> Self {
        Self::Transaction(id.0.as_str().to_owned())
    }
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    bootstrap: Vec<String>,
    client: StrBytes,
    clock: SystemClock,
    /// `host:port` of each broker.
    nodes: BTreeMap<Node, String>,
    connections: BTreeMap<(Node, Use), Connection>,
    coordinators: BTreeMap<Coordinated, Node>,
    /// Until when everything has to be over that is waited for.
    until: Moment,
}

/// What a topic has.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Its id: another one was made under the same name if it is another.
    pub(super) id: Uuid,
    /// The leader of each partition; `None` where there is none now.
    pub(super) leaders: Vec<Option<Leader>>,
}

/// Who leads a partition, and since which election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) node: Node,
    pub(super) epoch: i32,
}

impl Cluster {
    /// The cluster behind these addresses, `host:port` separated by commas. Nothing is connected yet.
    pub(super) fn new(bootstrap: &str, client: &str) -> Self {
        let bootstrap = bootstrap.split(',').map(|address| with_port(address.trim())).collect();
        Self {
            bootstrap,
            client: StrBytes::from_string(client.to_owned()),
            clock: SystemClock::new(),
            nodes: BTreeMap::new(),
            connections: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            until: Moment::NEVER,
        }
    }

    /// Gives everything that is asked from now on so much time together, and returns when it is over.
    pub(super) fn give(&mut self, time: Duration) -> Moment {
        self.until = self.clock.now().after(time);
        self.until
    }

    /// What is left of the time, and no more than this; at least so much that what is there already can be read.
    fn left(&self, most: Duration) -> Duration {
        self.until.since(self.clock.now()).clamp(Duration::from_millis(1), most)
    }

    /// The clock of all waits.
    pub(super) fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// Learns who is there, of which topic each partition has which leader, and whether the cluster speaks as we do.
    ///
    /// # Errors
    ///
    /// [`Class::Retriable`] if nobody answered, [`Class::Refused`] if the cluster is too old, or may not be asked.
    pub(super) fn look(&mut self, topics: &[&str]) -> Result<BTreeMap<String, Layout>, BrokerError> {
        const OPERATION: &str = "look at the cluster";
        let asked = |topic: &&str| MetadataRequestTopic::default().with_name(Some(named(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(asked).collect()))
            .with_allow_auto_topic_creation(false);
        let answer = self.ask_anyone(OPERATION, &request)?;
        self.nodes = answer
            .brokers
            .iter()
            .map(|broker| (Node(broker.node_id.0), format!("{}:{}", broker.host.as_str(), broker.port)))
            .collect();
        layouts(OPERATION, &answer)
    }

    /// `host:port` of each broker, as of the last look.
    pub(super) fn nodes(&self) -> &BTreeMap<Node, String> {
        &self.nodes
    }

    /// The connection to a broker.
    ///
    /// # Errors
    ///
    /// [`Class::Retriable`] if it can't be reached, [`Class::Refused`] if it is too old.
    pub(super) fn connection(&mut self, node: Node, purpose: Use) -> Result<&mut Connection, BrokerError> {
        const OPERATION: &str = "connect to a broker";
        let key = (node, purpose);
        let Some(address) = self.nodes.get(&node) else {
            return Err(failure::unanswered(OPERATION, format!("broker {} is not in the cluster", node.0)));
        };
        let is_fresh = self.connections.get(&key).is_some_and(|connection| connection.is_fresh(&self.clock));
        if !is_fresh {
            self.connections.remove(&key);
            let connection = greeted(OPERATION, address, &self.client, &self.clock, self.left(ANSWER_MAX))?;
            self.connections.insert(key, connection);
        }
        self.connections.get_mut(&key).ok_or_else(|| failure::unanswered(OPERATION, "there is no connection"))
    }

    /// The connection on which something is under way.
    pub(super) fn waiting(&mut self, node: Node, purpose: Use) -> Option<(&mut Connection, &SystemClock)> {
        self.connections.get_mut(&(node, purpose)).map(|connection| (connection, &self.clock))
    }

    /// Closes a connection that is of no more use.
    pub(super) fn close(&mut self, node: Node, purpose: Use) {
        self.connections.remove(&(node, purpose));
    }

    /// Asks the coordinator, wherever it is now. That something is passing is for the caller to see: a coordinator that has moved is
    /// looked for with the next call.
    ///
    /// # Errors
    ///
    /// [`Class::Retriable`] if the coordinator is not known, can't be reached, or has not answered.
    pub(super) fn ask_coordinator<A: Ask>(
        &mut self,
        of: &Coordinated,
        operation: &'static str,
        request: &A,
    ) -> Result<A::Answer, BrokerError> {
        let node = self.coordinator(of, operation)?;
        let asked = self.ask(node, operation, request, COORDINATOR_MAX);
        if asked.is_err() {
            self.forget_coordinator(of);
        }
        asked
    }

    /// The next call looks for the coordinator again.
    pub(super) fn forget_coordinator(&mut self, of: &Coordinated) {
        self.coordinators.remove(of);
    }

    fn coordinator(&mut self, of: &Coordinated, operation: &'static str) -> Result<Node, BrokerError> {
        if let Some(node) = self.coordinators.get(of) {
            return Ok(*node);
        }
        let (kind, name) = match of {
            Coordinated::Group(name) => (0, name),
            Coordinated::Transaction(name) => (1, name),
        };
        let request = FindCoordinatorRequest::default()
            .with_key_type(kind)
            .with_coordinator_keys(vec![StrBytes::from_string(name.clone())]);
        let answer = self.ask_anyone(operation, &request)?;
        let Some(found) = answer.coordinators.first() else {
            return Err(failure::unanswered(operation, "the broker names no coordinator"));
        };
        if let Some(code) = failure::code(found.error_code) {
            let message = found.error_message.as_ref().map_or("", StrBytes::as_str);
            return Err(failure::of(failure::class_of_call(code), operation, code, message));
        }
        let node = Node(found.node_id.0);
        self.nodes.insert(node, format!("{}:{}", found.host.as_str(), found.port));
        self.coordinators.insert(of.clone(), node);
        Ok(node)
    }

    /// Asks a broker, and waits for the answer.
    fn ask<A: Ask>(
        &mut self,
        node: Node,
        operation: &'static str,
        request: &A,
        wait: Duration,
    ) -> Result<A::Answer, BrokerError> {
        self.connection(node, Use::Questions)?;
        let wait = self.left(wait);
        let Some((connection, clock)) = self.waiting(node, Use::Questions) else {
            return Err(failure::unanswered(operation, "there is no connection"));
        };
        let answer = connection.call(request, wait, clock);
        answer.map_err(|error| {
            self.close(node, Use::Questions);
            failure::unanswered(operation, error.to_string())
        })
    }

    /// Asks the first broker that answers: those that are known, then those that were named in the configuration.
    ///
    /// # Errors
    ///
    /// [`Class::Retriable`] if none has, [`Class::Refused`] if one does not speak as we do.
    pub(super) fn ask_anyone<A: Ask>(
        &mut self,
        operation: &'static str,
        request: &A,
    ) -> Result<A::Answer, BrokerError> {
        let mut last = failure::unanswered(operation, "no broker is known");
        let (nodes, until) = (self.nodes.keys().copied().collect::<Vec<_>>(), self.until);
        for (place, node) in nodes.iter().enumerate() {
            // One that is silent must leave time for the others, however often it is asked first.
            let left = until.since(self.clock.now());
            let share = left / u32::try_from(nodes.len() - place).unwrap_or(u32::MAX);
            self.until = self.clock.now().after(share);
            let asked = self.ask(*node, operation, request, ANSWER_MAX);
            self.until = until;
            match asked {
                Ok(answer) => return Ok(answer),
                Err(error) if error.class == Class::Refused => return Err(error),
                Err(error) => last = error,
            }
        }
        for address in &self.bootstrap {
            let wait = self.left(ANSWER_MAX);
            let greeted = greeted(operation, address, &self.client, &self.clock, wait);
            let asked = greeted.and_then(|mut connection| {
                let answer = connection.call(request, self.left(ANSWER_MAX), &self.clock);
                answer.map_err(|error| failure::unanswered(operation, format!("{address}: {error}")))
            });
            match asked {
                Ok(answer) => return Ok(answer),
                Err(error) if error.class == Class::Refused => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A topic's name, as the protocol has it.
pub(super) fn named(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// librdkafka takes an address without a port for one with Kafka's own.
fn with_port(address: &str) -> String {
    let address = address.rsplit_once("://").map_or(address, |(_, address)| address);
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { address.to_owned() } else { format!("{address}:9092") }
}

/// A new connection, whose broker has been asked what it speaks. It may take `wait` to connect, and as long to answer.
///
/// # Errors
///
/// [`Class::Retriable`] if it can't be reached, [`Class::Refused`] if it is too old.
pub(super) fn greeted(
    operation: &'static str,
    address: &str,
    client: &StrBytes,
    clock: &SystemClock,
    wait: Duration,
) -> Result<Connection, BrokerError> {
    let lost = |error: std::io::Error| failure::unanswered(operation, format!("{address}: {error}"));
    let mut connection = Connection::new(address, client, clock, wait).map_err(lost)?;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("tidemill"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    let too_old = |what: String| {
        let message = format!("the broker at {address} has no {what}: it is older than Kafka 4.0");
        failure::of(Class::Refused, operation, Code::UnsupportedVersion, message)
    };
    let answer = connection.call(&request, wait, clock).map_err(|error| match error.kind() {
        // One older than 2.4 answers in the first version of all, whatever it was asked in.
        std::io::ErrorKind::InvalidData => too_old(format!("answer that could be read ({error})")),
        _ => lost(error),
    })?;
    if let Some(code) = failure::code(answer.error_code) {
        return Err(match code {
            Code::UnsupportedVersion => too_old("version of this protocol".to_owned()),
            code => failure::of(failure::class_of_call(code), operation, code, ""),
        });
    }
    for kind in SPOKEN {
        let is_spoken = answer.api_keys.iter().any(|spoken| {
            spoken.api_key == kind.key as i16
                && (spoken.min_version..=spoken.max_version).contains(&kind.version)
        });
        if !is_spoken {
            return Err(too_old(format!("{:?} of version {}", kind.key, kind.version)));
        }
    }
    let level = answer.finalized_features.iter().find(|feature| feature.name.as_str() == FEATURE);
    if level.is_none_or(|feature| feature.max_version_level < FEATURE_LEVEL) {
        let message = format!(
            "the cluster's feature {FEATURE} is not at level {FEATURE_LEVEL}: `kafka-features.sh upgrade` raises it"
        );
        return Err(failure::of(Class::Refused, operation, Code::UnsupportedVersion, message));
    }
    Ok(connection)
}

fn layouts(
    operation: &'static str,
    answer: &MetadataResponse,
) -> Result<BTreeMap<String, Layout>, BrokerError> {
    let mut topics = BTreeMap::new();
    for topic in &answer.topics {
        let name = topic.name.as_ref().map_or("", |name| name.0.as_str());
        match failure::code(topic.error_code) {
            None => {}
            // A topic that is just being made is one of them.
            Some(Code::UnknownTopicOrPartition | Code::LeaderNotAvailable) => continue,
            Some(code) => {
                let class = failure::class_of_call(code);
                return Err(failure::of(class, operation, code, format!("topic {name}: {code}")));
            }
        }
        let mut leaders = vec![None; topic.partitions.len()];
        for partition in &topic.partitions {
            let place = usize::try_from(partition.partition_index).ok().and_then(|at| leaders.get_mut(at));
            if let Some(place) = place {
                let leader = Leader { node: Node(partition.leader_id.0), epoch: partition.leader_epoch };
                *place = (leader.node.0 >= 0).then_some(leader);
            }
        }
        topics.insert(name.to_owned(), Layout { id: topic.topic_id, leaders });
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_has_kafkas_own() {
        for (given, meant) in [
            ("broker", "broker:9092"),
            ("broker:19092", "broker:19092"),
            ("PLAINTEXT://broker:1", "broker:1"),
            ("[::1]:9093", "[::1]:9093"),
            ("[::1]", "[::1]:9092"),
        ] {
            assert_eq!(with_port(given), meant, "{given}");
        }
    }
}
