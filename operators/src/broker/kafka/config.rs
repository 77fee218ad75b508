//! How clients of Kafka are configured: our defaults, what the user passes through, and what nobody may change.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::error;
use crate::broker::{BrokerError, Isolation};

/// How Kafka is reached, and what its clients are told besides.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// How long a call that starts something may take, and any call that asks the broker and waits for its answer.
    pub start_up_max: Duration,
    /// How members of a group are coordinated.
    pub group_protocol: GroupProtocol,
    /// Who speaks to the broker for producers of outcomes, transactional and plain.
    pub producer_client: ClientChoice,
    /// Who speaks to the broker for the partitions of a member of a group. Its membership is librdkafka's.
    pub consumer_client: ClientChoice,
    /// After how long without a sign of life a member is out of its group. With [`GroupProtocol::Consumer`] the broker decides.
    pub session_timeout: Duration,
    /// After how long the broker aborts a transaction that nobody commits.
    pub transaction_timeout: Duration,
    /// Properties of librdkafka passed through to consumers.
    pub consumer: BTreeMap<String, String>,
    /// Properties of librdkafka passed through to producers.
    pub producer: BTreeMap<String, String>,
    /// Properties of librdkafka passed through to admin clients.
    pub admin: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// The defaults, for the brokers at `bootstrap_servers`.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            start_up_max: Duration::from_secs(30),
            group_protocol: GroupProtocol::default(),
            producer_client: ClientChoice::default(),
            consumer_client: ClientChoice::default(),
            session_timeout: Duration::from_secs(45),
            transaction_timeout: Duration::from_secs(30),
            consumer: BTreeMap::new(),
            producer: BTreeMap::new(),
            admin: BTreeMap::new(),
        }
    }
}

/// How members of a group are coordinated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// By a leader among them, cooperatively: a partition that stays with its member goes on.
    #[default]
    Classic,
    /// By the broker (KIP-848).
    Consumer,
}

/// Who speaks to the broker where records are many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientChoice {
    /// Our own code where it can be; else librdkafka.
    #[default]
    Auto,
    /// Our own code: for clusters with transactions of version 2, and without TLS and SASL.
    Direct,
    /// librdkafka.
    Librdkafka,
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// It reads.
    Consumer,
    /// It writes.
    Producer,
    /// It asks about topics and groups, and makes topics.
    Admin,
}

const OWN_KEY: &str = "it has a key of its own in the configuration";
const INTERNAL: &str = "it belongs to how this program talks to its client library";
const COMMITS: &str =
    "offsets are committed with the transaction of their outcomes and nowhere else, or records would be lost";

/// Why a property may not be passed through to a client of this kind; `None` if it may.
pub fn refused_property(kind: ClientKind, name: &str) -> Option<&'static str> {
    if let Some(reason) = refused_by_any(name) {
        return Some(reason);
    }
    match kind {
        ClientKind::Consumer => refused_by_consumers(name),
        ClientKind::Producer => refused_by_producers(name),
        ClientKind::Admin => None,
    }
}

fn refused_by_any(name: &str) -> Option<&'static str> {
    match name {
        "bootstrap.servers" | "metadata.broker.list" => Some(OWN_KEY),
        "opaque" | "default_topic_conf" | "interceptors" | "enabled_events" | "log.queue" | "log_level" => {
            Some(INTERNAL)
        }
        name if name.ends_with("_cb") => Some(INTERNAL),
        "allow.auto.create.topics" => {
            Some("a topic made by accident has the broker's defaults; make it with `tidemill topics create`")
        }
        _ => None,
    }
}

fn refused_by_consumers(name: &str) -> Option<&'static str> {
    match name {
        "group.id" | "group.protocol" | "session.timeout.ms" => Some(OWN_KEY),
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "offset.store.method"
        | "offset.store.path" => Some(COMMITS),
        "isolation.level" => Some(
            "only `read_committed` keeps aborted requests out, and waits for offsets that are about to be committed",
        ),
        "auto.offset.reset" => Some(
            "an offset outside the log must stop the partition, not move it; see `offsets.missing` and `offsets.out_of_range`",
        ),
        "enable.partition.eof" => Some("the end of a partition is no event for the engine"),
        "partition.assignment.strategy" => {
            Some("only `cooperative-sticky` leaves partitions that stay with their member alone")
        }
        "statistics.interval.ms" => {
            Some("the ends of partitions, and so their lag, are read from the statistics")
        }
        _ => None,
    }
}

fn refused_by_producers(name: &str) -> Option<&'static str> {
    match name {
        "transactional.id" | "transaction.timeout.ms" => Some(OWN_KEY),
        "enable.idempotence" | "enable.gapless.guarantee" => {
            Some("without idempotence a retry would write a record twice")
        }
        "acks" | "request.required.acks" => Some(
            "a record acknowledged by fewer than all in-sync replicas can be lost after its offset was committed",
        ),
        "retries" | "message.send.max.retries" => Some(
            "a producer that gives up early leaves gaps; bound the time instead, with the transaction's timeout",
        ),
        "queuing.strategy" | "msg_order_cmp" => {
            Some("records must be sent in the order in which they were handed over")
        }
        "delivery.report.only.error" | "produce.offset.report" => Some(INTERNAL),
        "partitioner" => {
            Some("a key must land in the partition where Java's clients put it (`murmur2_random`)")
        }
        _ => None,
    }
}

/// One client's configuration in the making.
pub(super) struct Settings(ClientConfig);

impl Settings {
    /// Ours, then what the user passes through. What follows by [`Self::set`] overrides both.
    fn new(config: &KafkaConfig, kind: ClientKind, defaults: &[(&str, &str)]) -> Result<Self, BrokerError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that configures clients of Kafka"
        )]
        let mut client = ClientConfig::new();
        client.set_log_level(log_level());
        client.set("client.id", "tidemill");
        // Without this each client would offer its metrics to the broker every few minutes.
        client.set("enable.metrics.push", "false");
        client.set("socket.keepalive.enable", "true");
        // With the default of ten seconds it took more than twenty until all was well again after a broker was.
        client.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in defaults {
            client.set(*name, *value);
        }
        let passed_through = match kind {
            ClientKind::Consumer => &config.consumer,
            ClientKind::Producer => &config.producer,
            ClientKind::Admin => &config.admin,
        };
        for (name, value) in passed_through {
            if let Some(reason) = refused_property(kind, name) {
                let message = format!("the property {name} can't be set: {reason}");
                return Err(error::refused("configure the client", "_INVALID_ARG", message));
            }
            client.set(name, value);
        }
        client.set("bootstrap.servers", &config.bootstrap_servers);
        Ok(Self(client))
    }

    fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.set(name, value);
        self
    }

    fn set_unless_given(self, name: &str, value: impl Into<String>) -> Self {
        if self.0.get(name).is_some() { self } else { self.set(name, value) }
    }

    fn unset(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Of an engine's member of `group`.
    pub(super) fn member(config: &KafkaConfig, group: &str) -> Result<ClientConfig, BrokerError> {
        let heartbeat = HEARTBEAT_INTERVAL.min(config.session_timeout / 3).as_millis().to_string();
        let settings = Self::new(config, ClientKind::Consumer, CONSUMER)?
            .set("group.id", group)
            .set("isolation.level", isolation_level(Isolation::ReadCommitted))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        let settings = match config.group_protocol {
            GroupProtocol::Classic => settings
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", config.session_timeout.as_millis().to_string())
                .set_unless_given("heartbeat.interval.ms", heartbeat),
            GroupProtocol::Consumer => settings.set("group.protocol", "consumer"),
        };
        Ok(settings.0)
    }

    /// Of a reader of logs, which is in no group though librdkafka wants the name of one.
    pub(super) fn reader(config: &KafkaConfig, isolation: Isolation) -> Result<ClientConfig, BrokerError> {
        let settings = Self::new(config, ClientKind::Consumer, CONSUMER)?
            .unset("group.instance.id")
            .set("group.id", "tidemill-reader")
            .set("queued.max.messages.kbytes", "16384")
            // A partition's last fetch is still under way when the next partition is read, and must end before that begins.
            .set("fetch.wait.max.ms", "5")
            .set("isolation.level", isolation_level(isolation))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        Ok(settings.0)
    }

    /// Of who looks at the topic that a member reads: with the member's own rights, and in no group. What goes wrong is in the answers.
    pub(super) fn looker(config: &KafkaConfig) -> Result<ClientConfig, BrokerError> {
        let settings = Self::new(config, ClientKind::Consumer, &[])?
            .unset("group.instance.id")
            // Refused where it is shorter than a session, of which this client has none.
            .unset("max.poll.interval.ms")
            .set("enable.auto.commit", "false");
        let mut client = settings.0;
        client.set_log_level(RDKafkaLogLevel::Emerg);
        Ok(client)
    }

    /// Of who asks for the offsets that `group` has committed, without ever joining it. Of one that reads what is committed the broker
    /// makes the answer wait until no transaction with offsets of these partitions is open, so that it is the truth.
    pub(super) fn observer(
        config: &KafkaConfig,
        group: &str,
        isolation: Isolation,
    ) -> Result<ClientConfig, BrokerError> {
        let settings = Self::new(config, ClientKind::Admin, &[])?
            .set("group.id", group)
            .set("isolation.level", isolation_level(isolation))
            .set("enable.auto.commit", "false");
        Ok(settings.0)
    }

    /// Of a producer; without a transactional id it is idempotent only.
    pub(super) fn producer(
        config: &KafkaConfig,
        transactional_id: Option<&str>,
    ) -> Result<ClientConfig, BrokerError> {
        let settings = Self::new(config, ClientKind::Producer, PRODUCER)?
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random");
        let Some(id) = transactional_id else { return Ok(settings.0) };
        let settings = settings
            .set("transactional.id", id)
            .set("transaction.timeout.ms", config.transaction_timeout.as_millis().to_string())
            .of_outcomes();
        Ok(settings.0)
    }

    /// Of the producer of outcomes outside of transactions.
    pub(super) fn plain_producer(config: &KafkaConfig) -> Result<ClientConfig, BrokerError> {
        Ok(Self(Self::producer(config, None)?).of_outcomes().0)
    }

    /// Successes are counted by the flush; only failures need to be told of.
    fn of_outcomes(self) -> Self {
        self.set("delivery.report.only.error", "true")
    }

    /// Of an admin client.
    pub(super) fn admin(config: &KafkaConfig) -> Result<ClientConfig, BrokerError> {
        let mut client = Self::new(config, ClientKind::Admin, &[])?.0;
        // Nobody serves an admin client's log queue; what goes wrong is in the answers.
        client.set_log_level(RDKafkaLogLevel::Emerg);
        Ok(client)
    }
}

fn isolation_level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadUncommitted => "read_uncommitted",
        Isolation::ReadCommitted => "read_committed",
    }
}

/// How often a member shows that it is alive. With the answer it hears that its group changes: a hand-over takes about two intervals.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How often the statistics tell where partitions end.
const STATISTICS_INTERVAL_MS: &str = "1000";

const CONSUMER: &[(&str, &str)] = &[
    // Per partition, because each has a queue of its own: 64 partitions may hold 32 MiB.
    ("queued.max.messages.kbytes", "512"),
    ("queued.min.messages", "1000"),
    // A fetch brings at most this of each partition: a megabyte of all of them at once would be memory that only waits.
    ("fetch.message.max.bytes", "131072"),
    // Of all partitions together: what holds a whole answer is allocated for each, and the kernel clears its pages each time.
    ("fetch.max.bytes", "2097152"),
    // The default of a second would stall a partition whose small queue was full for that long.
    ("fetch.queue.backoff.ms", "10"),
    // A poll that brings a few records costs as much as one that brings many, and the broker answers as soon as it has this much, or
    // after this long. A partition that has room again waits for the fetch under way, at most so long, too.
    ("fetch.min.bytes", "65536"),
    ("fetch.wait.max.ms", "25"),
    ("max.poll.interval.ms", "300000"),
    // Partitions that are added are noticed so: the default of five minutes is long for somebody who waits for them.
    ("topic.metadata.refresh.interval.ms", "30000"),
    ("check.crcs", "true"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "65536"),
    // Also the back-off between two attempts to begin a transaction while the last one's markers are being written.
    ("retry.backoff.ms", "20"),
];

/// The least severe line of librdkafka's that anybody would see.
fn log_level() -> RDKafkaLogLevel {
    if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else if tracing::enabled!(target: "librdkafka", tracing::Level::INFO) {
        RDKafkaLogLevel::Info
    } else {
        RDKafkaLogLevel::Warning
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Class;

    fn settings(kind: ClientKind, name: &str, value: &str) -> Result<ClientConfig, BrokerError> {
        let mut config = KafkaConfig::new("broker:9092");
        let properties = match kind {
            ClientKind::Consumer => &mut config.consumer,
            ClientKind::Producer => &mut config.producer,
            ClientKind::Admin => &mut config.admin,
        };
        properties.insert(name.to_owned(), value.to_owned());
        match kind {
            ClientKind::Consumer => Settings::member(&config, "group"),
            ClientKind::Producer => Settings::producer(&config, Some("id")),
            ClientKind::Admin => Settings::admin(&config),
        }
    }

    #[test]
    fn what_would_break_the_promise_is_refused_by_name_with_the_reason() {
        for (kind, names) in [
            (
                ClientKind::Consumer,
                &[
                    "enable.auto.commit",
                    "enable.auto.offset.store",
                    "isolation.level",
                    "auto.offset.reset",
                    "group.id",
                    "enable.partition.eof",
                    "partition.assignment.strategy",
                    "bootstrap.servers",
                    "rebalance_cb",
                ][..],
            ),
            (
                ClientKind::Producer,
                &[
                    "transactional.id",
                    "enable.idempotence",
                    "acks",
                    "request.required.acks",
                    "retries",
                    "partitioner",
                ][..],
            ),
            (ClientKind::Admin, &["bootstrap.servers", "metadata.broker.list"][..]),
        ] {
            for name in names {
                let reason = refused_property(kind, name).expect(name);
                let error = settings(kind, name, "x").map(|_| ()).unwrap_err();
                assert_eq!(error.class, Class::Refused);
                assert!(error.message.contains(name) && error.message.contains(reason), "{error}");
            }
        }
    }

    #[test]
    fn what_secures_or_tunes_a_client_passes_through() {
        for (kind, name, value) in [
            (ClientKind::Consumer, "security.protocol", "sasl_ssl"),
            (ClientKind::Consumer, "group.instance.id", "box-7"),
            (ClientKind::Consumer, "queued.max.messages.kbytes", "2048"),
            (ClientKind::Producer, "compression.type", "zstd"),
            (ClientKind::Producer, "message.max.bytes", "2000000"),
            (ClientKind::Admin, "sasl.password", "secret"),
        ] {
            assert_eq!(refused_property(kind, name), None, "{name}");
            assert_eq!(settings(kind, name, value).unwrap().get(name), Some(value));
        }
    }

    #[test]
    fn a_member_reads_what_is_committed_and_commits_nothing_itself() {
        let client = Settings::member(&KafkaConfig::new("broker:9092"), "group").unwrap();
        assert_eq!(client.get("isolation.level"), Some("read_committed"));
        assert_eq!(client.get("enable.auto.commit"), Some("false"));
        assert_eq!(client.get("auto.offset.reset"), Some("error"));
        assert_eq!(client.get("partition.assignment.strategy"), Some("cooperative-sticky"));
    }

    #[test]
    fn a_member_shows_its_life_several_times_within_its_session() {
        let heartbeat = |session_timeout, given: Option<&str>| {
            let mut config = KafkaConfig { session_timeout, ..KafkaConfig::new("broker:9092") };
            config.consumer.extend(given.map(|given| ("heartbeat.interval.ms".to_owned(), given.to_owned())));
            let client = Settings::member(&config, "group").unwrap();
            client.get("heartbeat.interval.ms").unwrap().to_owned()
        };
        assert_eq!(heartbeat(Duration::from_secs(45), None), "1000");
        assert_eq!(heartbeat(Duration::from_millis(1500), None), "500");
        assert_eq!(heartbeat(Duration::from_secs(45), Some("300")), "300");
    }

    #[test]
    fn the_brokers_protocol_leaves_session_and_strategy_to_the_broker() {
        let config =
            KafkaConfig { group_protocol: GroupProtocol::Consumer, ..KafkaConfig::new("broker:9092") };
        let client = Settings::member(&config, "group").unwrap();
        assert_eq!(client.get("group.protocol"), Some("consumer"));
        assert_eq!(client.get("session.timeout.ms"), None);
        assert_eq!(client.get("heartbeat.interval.ms"), None);
        assert_eq!(client.get("partition.assignment.strategy"), None);
    }

    #[test]
    fn who_looks_at_a_topic_has_the_rights_of_the_member_and_is_none() {
        let mut config = KafkaConfig::new("broker:9092");
        for (name, value) in
            [("sasl.username", "mill"), ("group.instance.id", "box-7"), ("max.poll.interval.ms", "10000")]
        {
            config.consumer.insert(name.to_owned(), value.to_owned());
        }
        let client = Settings::looker(&config).unwrap();
        assert_eq!(client.get("sasl.username"), Some("mill"));
        assert_eq!(["group.id", "group.instance.id"].map(|name| client.get(name)), [None, None]);
        super::super::look::Looker::new(&config, &std::sync::Arc::default()).map(drop).unwrap();
    }

    #[test]
    fn a_reader_is_never_a_static_member() {
        let mut config = KafkaConfig::new("broker:9092");
        config.consumer.insert("group.instance.id".to_owned(), "box-7".to_owned());
        let client = Settings::reader(&config, Isolation::ReadUncommitted).unwrap();
        assert_eq!(client.get("group.instance.id"), None);
        assert_eq!(client.get("isolation.level"), Some("read_uncommitted"));
    }
}
