//! librdkafka's queues of a member's partitions.
//!
//! A partition's queue is split off its consumer once and kept for as long as the member lives: dropped, it would leave the partition
//! silent. A [`Lane`] is that queue, with what must hold between its readers, on the workers, and the member, on its own thread:
//!
//! * It is read only between assign and unassign, under its lock. So nothing of an earlier assignment can come out of it, nor move
//!   the position that librdkafka keeps for the partition.
//! * An offset comes out of it once. While a rebalance waits for its answer librdkafka pauses every partition and then reads on
//!   from that position; a record taken at the same moment would be read again.

use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::RDKafkaErrorCode as Code;

use super::told::GroupContext;
use super::{error, native};
use crate::broker::{BrokerError, Class, PollEnd, PollLimit, Polled, Queue};
use crate::lease::{Lease, NextOffset, Partition};

/// The queue of one partition, and what is read from it.
pub(super) struct Lane {
    queue: native::PartitionQueue<GroupContext>,
    topic: Arc<CString>,
    partition: Partition,
    reading: Mutex<Reading>,
}

/// Whether the partition is assigned, and the lowest offset that has not come out of its queue.
#[derive(Debug, Default)]
struct Reading {
    assigned: bool,
    floor: i64,
    /// Why it can't be read on, to be told by a poll that brings nothing: whoever is told an error looks at nothing else.
    failed: Option<BrokerError>,
}

impl Lane {
    pub(super) fn new(
        queue: native::PartitionQueue<GroupContext>,
        topic: Arc<CString>,
        partition: Partition,
    ) -> Self {
        Self { queue, topic, partition, reading: Mutex::default() }
    }

    pub(super) fn queue(&self) -> &native::PartitionQueue<GroupContext> {
        &self.queue
    }

    /// Lets the partition be read, from `start`.
    pub(super) fn open(&self, start: NextOffset) {
        *self.reading() = Reading { assigned: true, floor: start.0, failed: None };
    }

    /// Lets nothing out any more. When this returns no read is under way.
    pub(super) fn close(&self) {
        self.reading().assigned = false;
    }

    /// Whether librdkafka still keeps a position for the partition, as it does until it has stopped reading it.
    pub(super) fn has_position(&self) -> bool {
        native::position(self.queue.consumer(), &self.topic, self.partition.0).is_some()
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self) -> &GroupContext {
        use rdkafka::consumer::Consumer as _;
        self.queue.consumer().context()
    }

    /// What an error in the queue means: an event of the group, something that librdkafka tries again by itself, or the end.
    fn fail(&self, code: Code, message: String) -> Result<(), BrokerError> {
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                tracing::warn!(partition = self.partition.0, message, "a partition could not be read on");
                self.context().out_of_range(self.partition);
                Ok(())
            }
            code => match error::by_code("read a partition", code, message) {
                error if matches!(error.class, Class::Retriable | Class::Unreachable) => {
                    tracing::debug!(partition = self.partition.0, %error, "reading is tried again");
                    Ok(())
                }
                error => Err(error),
            },
        }
    }
}

/// A worker's hold of a lane.
pub(super) struct KafkaQueue(pub(super) Arc<Lane>);

impl Queue for KafkaQueue {
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        let lane = &*self.0;
        let mut reading = lane.reading();
        if !reading.assigned {
            return Ok(PollEnd::Empty);
        }
        if let Some(error) = reading.failed.take() {
            return Err(error);
        }
        let (records, bytes) = (into.records.len(), into.records.payload_bytes());
        loop {
            let taken = into.records.len() - records;
            let full = taken > 0 && into.records.payload_bytes() - bytes >= limit.bytes;
            if full || taken >= limit.records {
                return Ok(PollEnd::Limit);
            }
            let Some(mut event) = lane.queue.poll() else { return Ok(PollEnd::Empty) };
            if let Some(message) = event.message() {
                let offset = message.offset();
                if offset.0 >= reading.floor {
                    message.append_to(&mut into.records);
                    into.origins.push((lease, offset));
                    into.times.push(message.time());
                    reading.floor = offset.next().0;
                }
            } else if let Some((code, message)) = event.error()
                && let Err(error) = lane.fail(code, message)
            {
                if taken == 0 {
                    return Err(error);
                }
                reading.failed = Some(error);
                return Ok(PollEnd::Limit);
            }
        }
    }

    fn position(&self) -> Option<NextOffset> {
        let lane = &*self.0;
        let reading = lane.reading();
        if !reading.assigned {
            return None;
        }
        let position = native::position(lane.queue.consumer(), &lane.topic, lane.partition.0)?;
        Some(NextOffset(position.max(reading.floor)))
    }

    fn end(&self) -> Option<NextOffset> {
        let heard = self.0.context().end(self.0.partition);
        // What has been read lies before the end, also when the statistics are older than that.
        heard.max(self.position())
    }
}
