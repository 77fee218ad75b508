//! The lanes of a member's partitions: what comes of each, be it read by librdkafka or by the direct reader.
//!
//! With the direct reader librdkafka is a member of the group and nothing else: it has every partition that it is assigned, and reads
//! none, because each is paused before it is assigned, and never resumed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::direct::{DirectLane, Reader};
use super::queue::{KafkaQueue, Lane};
use super::told::GroupContext;
use super::{error, native};
use crate::broker::{BrokerError, Class, Queue, Waker};
use crate::clock::{Clock as _, Moment, SystemClock};
use crate::lease::{NextOffset, Partition};

/// How long a partition that was just given back may take to come to rest before it can be taken again.
const REST_MAX: Duration = Duration::from_secs(5);

/// The lanes that a member has ever had.
pub(super) struct Lanes {
    consumer: Arc<BaseConsumer<GroupContext>>,
    topic: String,
    topic_c: Arc<CString>,
    /// Who reads, if it is not librdkafka.
    reader: Option<Reader>,
    lanes: BTreeMap<Partition, OneOf>,
}

/// A lane of either kind.
enum OneOf {
    Library(Arc<Lane>),
    Direct(DirectLane),
}

impl Lanes {
    pub(super) fn new(
        consumer: Arc<BaseConsumer<GroupContext>>,
        topic: &str,
        topic_c: Arc<CString>,
        reader: Option<Reader>,
    ) -> Self {
        Self { consumer, topic: topic.to_owned(), topic_c, reader, lanes: BTreeMap::new() }
    }

    /// The queue of a partition, whose waker is this one from now on.
    ///
    /// # Errors
    ///
    /// If librdkafka knows no such partition.
    pub(super) fn queue(
        &mut self,
        partition: Partition,
        waker: Waker,
    ) -> Result<Box<dyn Queue>, BrokerError> {
        Ok(match self.lane(partition, Some(waker))? {
            OneOf::Library(lane) => Box::new(KafkaQueue(Arc::clone(lane))),
            OneOf::Direct(lane) => Box::new(lane.clone()),
        })
    }

    /// Lets partitions be read, each from its start. They were given back before, or never taken.
    ///
    /// # Errors
    ///
    /// If librdkafka still reads one of them, or does not know it.
    pub(super) fn open(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        if self.reader.is_some() {
            self.silence(starts)?;
        }
        // All of them before the first is opened, and within one bound: the group waits for this thread.
        let clock = SystemClock::new();
        for (partition, _) in starts {
            if let OneOf::Library(lane) = self.lane(*partition, None)? {
                await_rest(lane, &clock)?;
            }
        }
        for (partition, start) in starts {
            match self.lane(*partition, None)? {
                OneOf::Library(lane) => lane.open(*start),
                OneOf::Direct(lane) => lane.open(*start),
            }
        }
        Ok(())
    }

    /// Lets nothing out of these partitions any more. When this returns no read of them is under way.
    pub(super) fn close(&self, partitions: &[Partition]) {
        partitions.iter().filter_map(|partition| self.lanes.get(partition)).for_each(OneOf::close);
    }

    /// The same of all.
    pub(super) fn close_all(&self) {
        self.lanes.values().for_each(OneOf::close);
    }

    /// Wakes who reads these: nobody else tells a worker that was told of an empty queue, should something old still lie in it.
    pub(super) fn wake(&self, partitions: &[Partition]) {
        for lane in partitions.iter().filter_map(|partition| self.lanes.get(partition)) {
            match lane {
                OneOf::Library(lane) => lane.queue().wake(),
                OneOf::Direct(lane) => lane.wake(),
            }
        }
    }

    /// Lets what was held up by a rebalance go on at once. The direct reader never stops for one.
    pub(super) fn go_on(&self, partitions: impl Iterator<Item = Partition>) {
        let mut list = self.list(partitions);
        if self.reader.is_none() && list.count() > 0 && list.set_all_offsets(ListOffset::End).is_ok() {
            native::nudge(&*self.consumer, &list);
        }
    }

    fn list(&self, partitions: impl Iterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition.0);
        }
        list
    }

    /// The lane of a partition, made now if it is its first time.
    fn lane(&mut self, partition: Partition, waker: Option<Waker>) -> Result<&OneOf, BrokerError> {
        if let Some(lane) = self.lanes.get(&partition) {
            if let Some(waker) = waker {
                match lane {
                    OneOf::Library(lane) => lane.queue().set_waker(waker),
                    OneOf::Direct(lane) => lane.set_waker(waker),
                }
            }
        } else {
            let waker = waker.unwrap_or_else(|| Arc::new(|| ()));
            let lane = self.new_lane(partition, waker)?;
            self.lanes.insert(partition, lane);
        }
        Ok(&self.lanes[&partition])
    }

    fn new_lane(&self, partition: Partition, waker: Waker) -> Result<OneOf, BrokerError> {
        if let Some(reader) = &self.reader {
            return Ok(OneOf::Direct(reader.lane(partition, waker)));
        }
        let lane = Lane::new(self.split(partition, waker)?, Arc::clone(&self.topic_c), partition);
        Ok(OneOf::Library(Arc::new(lane)))
    }

    fn split(
        &self,
        partition: Partition,
        waker: Waker,
    ) -> Result<native::PartitionQueue<GroupContext>, BrokerError> {
        let queue = native::PartitionQueue::split(&self.consumer, &self.topic_c, partition.0, waker);
        queue.ok_or_else(|| error::by_code("split off a partition's queue", Code::UnknownPartition, ""))
    }

    /// Keeps librdkafka from reading what it is about to be assigned. Each time: it forgets a partition whose topic was away for a while.
    fn silence(&self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        for (partition, _) in starts {
            // Split off, librdkafka knows the partition; dropped, its queue is silent.
            drop(self.split(*partition, Arc::new(|| ()))?);
        }
        let paused = self.consumer.pause(&self.list(starts.iter().map(|(partition, _)| *partition)));
        paused.map_err(|error| error::of("pause partitions", &error))
    }
}

impl OneOf {
    fn close(&self) {
        match self {
            Self::Library(lane) => lane.close(),
            Self::Direct(lane) => lane.close(),
        }
    }
}

/// Waits until librdkafka has stopped reading a partition that was given back before. Then no position is left of that time,
/// which could be taken for one of the new.
fn await_rest(lane: &Lane, clock: &SystemClock) -> Result<(), BrokerError> {
    while lane.has_position() {
        if clock.now().since(Moment::START) > REST_MAX {
            let message = "librdkafka had not stopped reading it since it was given back";
            return Err(error::with_class(Class::Retriable, "take a partition", Code::InProgress, message));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
