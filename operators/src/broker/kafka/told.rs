//! What librdkafka tells of a group, in its callbacks: notes for the thread of the member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys::types::RDKafkaRespErr;
use serde::Deserialize;

use super::diagnostics;
use super::signal::Signal;
use crate::broker::GroupEvent;
use crate::lease::{NextOffset, Partition};

/// Takes notes of what librdkafka tells of a group.
#[derive(Default)]
pub(super) struct GroupContext {
    pub(super) events: Mutex<VecDeque<GroupEvent>>,
    pub(super) ends: Mutex<BTreeMap<i32, i64>>,
    /// The client's words for the error that comes next.
    pub(super) reason: Mutex<String>,
    pub(super) leaving: AtomicBool,
    /// Whether the client had no connection to any broker when it last told of them.
    pub(super) cut_off: AtomicBool,
    /// Whether a rebalance was told of that is not answered yet.
    pub(super) unanswered: AtomicBool,
    /// Raised when there is something for the member's own thread to do.
    pub(super) work: Signal,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupContext {
    pub(super) fn push(&self, event: GroupEvent) {
        locked(&self.events).push_back(event);
        self.work.raise();
    }

    /// The last stable offset of a partition, as last heard.
    pub(super) fn end(&self, partition: Partition) -> Option<NextOffset> {
        locked(&self.ends).get(&partition.0).map(|end| NextOffset(*end))
    }

    /// Notes where a partition ends for a reader of what is committed.
    pub(super) fn set_end(&self, partition: Partition, end: NextOffset) {
        locked(&self.ends).insert(partition.0, end.0);
    }

    /// Tells that a partition has no such offset as it was to be read from.
    pub(super) fn out_of_range(&self, partition: Partition) {
        self.push(GroupEvent::OutOfRange(partition));
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        diagnostics::log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let mut ends = locked(&self.ends);
        let connected = read_statistics(statistics, |partition, end| {
            ends.insert(partition, end);
        });
        if let Some(connected) = connected {
            self.cut_off.store(!connected, Ordering::Release);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        diagnostics::client_error(&error, reason);
        reason.clone_into(&mut locked(&self.reason));
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.is_leaving() {
            // A member that the group does not wait for is gone as soon as it has answered once, and then librdkafka never returns from a
            // second answer.
            if consumer.closed() {
                return;
            }
            if let Err(error) = consumer.unassign() {
                tracing::debug!(%error, "partitions could not be given back while leaving");
            }
            return;
        }
        self.unanswered.store(true, Ordering::Release);
        let partitions: Vec<_> =
            partitions.elements().iter().map(|element| Partition(element.partition())).collect();
        self.push(match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => GroupEvent::Assigned(partitions),
            _ if consumer.assignment_lost() => GroupEvent::Lost(partitions),
            _ => GroupEvent::Revoked(partitions),
        });
    }
}

/// Calls `each` with every partition in librdkafka's statistics and its last stable offset; whether a broker is connected, if they tell.
fn read_statistics(statistics: &[u8], mut each: impl FnMut(i32, i64)) -> Option<bool> {
    #[derive(Deserialize)]
    struct Statistics {
        #[serde(default)]
        brokers: BTreeMap<String, Connection>,
        #[serde(default)]
        topics: BTreeMap<String, Topic>,
    }
    #[derive(Deserialize)]
    struct Connection {
        #[serde(default)]
        state: String,
    }
    #[derive(Deserialize)]
    struct Topic {
        #[serde(default)]
        partitions: BTreeMap<String, Ends>,
    }
    #[derive(Deserialize)]
    struct Ends {
        partition: i32,
        ls_offset: i64,
    }
    let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else {
        tracing::debug!("the statistics of a consumer could not be read");
        return None;
    };
    let partitions = statistics.topics.into_values().flat_map(|topic| topic.partitions.into_values());
    for ends in partitions.filter(|ends| ends.partition >= 0 && ends.ls_offset >= 0) {
        each(ends.partition, ends.ls_offset);
    }
    let mut states = statistics.brokers.values().map(|connection| &*connection.state).peekable();
    states.peek().is_some().then(|| states.any(|state| state == "UP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_tell_where_each_partition_ends_for_a_reader_of_what_is_committed() {
        let statistics =
            br#"{"name":"x","brokers":{"a":{"state":"DOWN","toppars":{}},"b":{"state":"UP"}},"topics":{"requests":{"age":1,"partitions":{
            "0":{"partition":0,"ls_offset":12,"hi_offset":15},
            "7":{"partition":7,"ls_offset":-1001,"hi_offset":-1001},
            "-1":{"partition":-1,"ls_offset":3,"hi_offset":3}}}}}"#;
        let mut ends = Vec::new();
        assert_eq!(read_statistics(statistics, |partition, end| ends.push((partition, end))), Some(true));
        assert_eq!(ends, [(0, 12)]);
        let down = br#"{"brokers":{"a":{"state":"DOWN"},"b":{"state":"TRY_CONNECT"}}}"#;
        assert_eq!(read_statistics(down, |_, _| ()), Some(false));
    }

    #[test]
    fn statistics_of_an_unknown_shape_change_nothing() {
        for statistics in [&b"{}"[..], b"", b"{\"topics\":7}"] {
            let told = read_statistics(statistics, |partition, _| panic!("partition {partition}"));
            assert_eq!(told, None);
        }
    }
}
