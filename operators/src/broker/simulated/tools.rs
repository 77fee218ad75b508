//! The tools around the engine: topics, a plain writer, and reading a log from start to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{
    Acknowledgement, Admin, BrokerError, Class, Committed, Isolation, LogRange, LogRecord, PollEnd,
    PollLimit, RecordTime, TopicDescription, TopicSpec, Writer,
};
use crate::lease::{NextOffset, Offset, Partition};
use crate::records::{RecordView, Records};

use super::cluster::{Shared, check_size, error, unknown_partition};
use super::log::copy_record;

/// How much of a log is copied at a time, so that nobody waits long for the lock.
const CHUNK: PollLimit = PollLimit { records: 1000, bytes: 1 << 20 };

/// What Kafka tells of a topic that was made without any configuration.
const DEFAULTS: [(&str, &str); 8] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
];

pub(super) struct SimulatedAdmin {
    pub(super) shared: Arc<Shared>,
}

impl Admin for SimulatedAdmin {
    fn describe(&mut self, topic: &str) -> Result<Option<TopicDescription>, BrokerError> {
        let spec = self.shared.step(|cluster| cluster.topics.get(topic).map(|topic| topic.spec.clone()));
        let described = spec.map(|spec| {
            let mut config: BTreeMap<String, String> =
                DEFAULTS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            config.extend(spec.config);
            TopicDescription { partitions: spec.partitions, replication: spec.replication, config }
        });
        Ok(described)
    }

    fn delete(&mut self, topic: &str) -> Result<(), BrokerError> {
        self.shared.step(|cluster| {
            if cluster.topics.remove(topic).is_none() {
                let message = format!("there is no topic {topic:?}");
                return Err(error(Class::Refused, "delete the topic", "UNKNOWN_TOPIC_OR_PARTITION", message));
            }
            cluster.history.note(format_args!("deleted {topic}"));
            Ok(())
        })
    }

    fn create(&mut self, topic: &TopicSpec) -> Result<(), BrokerError> {
        const OPERATION: &str = "create the topic";
        let name = &topic.name;
        if topic.partitions < 1 || topic.replication < 1 {
            let message = format!("topic {name:?} needs at least one partition and one copy of it");
            return Err(error(Class::Refused, OPERATION, "INVALID_PARTITIONS", message));
        }
        self.shared.step(|cluster| {
            if cluster.topics.contains_key(name) {
                let message = format!("there is a topic {name:?} already");
                return Err(error(Class::Refused, OPERATION, "TOPIC_ALREADY_EXISTS", message));
            }
            cluster.make_topic(topic.clone());
            Ok(())
        })
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.shared.step(|cluster| cluster.committed_by(group, topic, partitions))
    }

    fn range(&mut self, topic: &str, partition: Partition) -> Result<LogRange, BrokerError> {
        const OPERATION: &str = "ask where a log begins and ends";
        self.shared.step(|cluster| {
            let log = cluster.log(topic, partition);
            let log = log.ok_or_else(|| unknown_partition(topic, partition, OPERATION))?;
            Ok(LogRange { first: NextOffset(log.start()), end: NextOffset(log.end()) })
        })
    }

    fn since(&mut self, topic: &str, partition: Partition, millis: i64) -> Result<Offset, BrokerError> {
        let mut found = None;
        let mut look = |record: LogRecord<'_>| {
            if found.is_none() && record.timestamp.millis >= millis {
                found = Some(record.offset);
            }
        };
        let end = read(&self.shared, topic, partition, Offset(0), Isolation::ReadUncommitted, &mut look)?;
        Ok(found.unwrap_or(Offset(end.0)))
    }

    fn identity(&mut self) -> Result<String, BrokerError> {
        Ok("simulated broker in memory".to_owned())
    }
}

/// Appends at once; what has been acknowledged waits to be asked for.
pub(super) struct SimulatedWriter {
    shared: Arc<Shared>,
    message_bytes_max: usize,
    acknowledged: Vec<Acknowledgement>,
}

impl SimulatedWriter {
    pub(super) fn new(shared: Arc<Shared>, message_bytes_max: usize) -> Self {
        Self { shared, message_bytes_max, acknowledged: Vec::new() }
    }
}

impl Writer for SimulatedWriter {
    fn write(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        timestamp_millis: Option<i64>,
        record: RecordView<'_>,
        tag: u64,
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "write a record";
        check_size(record, self.message_bytes_max, OPERATION)?;
        let place = self.shared.step(|cluster| {
            let partition = cluster.choose_partition(topic, partition, record.key(), OPERATION)?;
            let created = timestamp_millis.unwrap_or_else(|| cluster.wall_millis());
            let fits = cluster.check_topic_size(topic, record, OPERATION);
            Ok(fits.map(|()| (partition, cluster.append(topic, partition, None, created, record))))
        })?;
        self.acknowledged.push((tag, place.map(|(partition, offset)| (partition, Some(offset)))));
        Ok(())
    }

    fn acknowledged(&mut self) -> Vec<Acknowledgement> {
        std::mem::take(&mut self.acknowledged)
    }

    fn flush(&mut self, _wait: Duration) -> bool {
        true
    }
}

/// Reads a partition from an offset up to what is its end now, a chunk at a time: `each` is called outside the lock, and may use the broker.
pub(super) fn read(
    shared: &Shared,
    topic: &str,
    partition: Partition,
    from: Offset,
    isolation: Isolation,
    each: &mut dyn FnMut(LogRecord<'_>),
) -> Result<NextOffset, BrokerError> {
    const OPERATION: &str = "read the log of a partition";
    let missing = || unknown_partition(topic, partition, OPERATION);
    let end =
        shared.step(|cluster| Ok(cluster.log(topic, partition).ok_or_else(missing)?.end_for(isolation)))?;
    let mut next = from.0;
    loop {
        let mut records = Records::default();
        let mut places: Vec<(Offset, RecordTime)> = Vec::new();
        let stopped = shared.step(|cluster| {
            let log = cluster.log(topic, partition).ok_or_else(missing)?;
            Ok(log.read(next, isolation, CHUNK, |offset, time, record| {
                copy_record(record, &mut records);
                places.push((offset, time));
            }))
        })?;
        for (&(offset, timestamp), record) in places.iter().zip(records.iter()) {
            if offset.0 < end {
                each(LogRecord { offset, timestamp, record });
            }
        }
        next = stopped.next;
        if next >= end || stopped.end == PollEnd::Empty {
            return Ok(NextOffset(end));
        }
    }
}
