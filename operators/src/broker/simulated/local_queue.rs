//! The queue of a producer's client: records handed over that are not in the log yet.

use std::sync::Arc;

use crate::broker::{BrokerError, Class};
use crate::lease::Partition;
use crate::partitioner::partition_for_key;
use crate::records::{RecordView, Records};

use super::cluster::{Cluster, check_size, error, unknown_partition};
use super::faults::{Fault, Step};
use super::log::copy_record;
use super::producer::operation;

/// Records in the order in which they were handed over.
#[derive(Default)]
pub(super) struct LocalQueue {
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

impl LocalQueue {
    /// Records that are not in the log.
    pub(super) fn waiting(&self) -> usize {
        self.targets.len() - self.sent
    }

    /// Takes a record, if client, topic and queue have room for it.
    pub(super) fn push(
        &mut self,
        cluster: &mut Cluster,
        message_bytes_max: usize,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        let operation = operation(Step::Send);
        check_size(record, message_bytes_max, operation)?;
        // The real producer asks for the topic's limit too, so that no record costs a transaction.
        cluster.check_topic_size(topic, record, operation)?;
        if self.waiting() >= cluster.settings.queue_records_max {
            let message = "the local queue is full; drain it and send the record again";
            return Err(error(Class::QueueFull, operation, "QUEUE_FULL", message));
        }
        let partition = cluster.choose_partition(topic, partition, record.key(), operation)?;
        let created = cluster.wall_millis();
        // A producer writes to two topics or three, mostly to one: the name is shared with the record before.
        let known = self.targets.iter().rev().take(4).find(|target| *target.topic == *topic);
        let topic = known.map_or_else(|| Arc::from(topic), |target| Arc::clone(&target.topic));
        copy_record(record, &mut self.records);
        self.targets.push(Target { topic, partition, created });
        Ok(())
    }

    /// How many records a drain with this fault sends: how far it came is left to the seed.
    pub(super) fn sent_until(&self, cluster: &mut Cluster, fault: Option<Fault>) -> usize {
        match fault {
            Some(Fault::Unfinished | Fault::Before(_)) if self.waiting() > 0 => {
                let waiting = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
                usize::try_from(cluster.faults.random().below(waiting)).unwrap_or(usize::MAX)
            }
            _ => self.waiting(),
        }
    }

    /// Gives the oldest records to `append`, with their topic, partition and time, `most` at most.
    pub(super) fn flush(
        &mut self,
        cluster: &mut Cluster,
        most: usize,
        mut append: impl FnMut(&mut Cluster, &str, Partition, i64, RecordView<'_>),
    ) {
        let until = self.sent.saturating_add(most).min(self.targets.len());
        for index in self.sent..until {
            let Target { topic, partition, created } = &self.targets[index];
            append(cluster, topic, *partition, *created, self.records.get(index));
        }
        self.sent = until;
        if self.waiting() == 0 {
            *self = Self::default();
        }
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
