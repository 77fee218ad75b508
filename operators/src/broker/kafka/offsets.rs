//! Committed offsets, and offsets to be committed, in the lists that librdkafka takes and fills.

use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfig as _};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::{error, native};
use crate::broker::{BrokerError, Committed, OffsetCommit};
use crate::lease::{NextOffset, Partition};

/// Offsets to be committed, as librdkafka takes them.
pub(super) fn offset_list(
    operation: &'static str,
    topic: &str,
    offsets: &[OffsetCommit],
) -> Result<TopicPartitionList, BrokerError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for commit in offsets {
        let mut element = list.add_partition(topic, commit.partition.0);
        element
            .set_offset(ListOffset::Offset(commit.next.0))
            .map_err(|error| error::of(operation, &error))?;
        if !commit.metadata.is_empty() {
            element.set_metadata(&commit.metadata);
        }
    }
    Ok(list)
}

/// The committed offsets in a list that librdkafka has filled.
pub(super) fn committed(
    operation: &'static str,
    list: &TopicPartitionList,
) -> Result<Vec<Option<Committed>>, BrokerError> {
    native::committed_offsets(list)
        .into_iter()
        .map(|committed| match committed.error {
            Code::NoError if committed.offset < 0 => Ok(None),
            Code::NoError => {
                Ok(Some(Committed { next: NextOffset(committed.offset), metadata: committed.metadata }))
            }
            code => Err(error::by_code(operation, code, "")),
        })
        .collect()
}

/// The committed offsets as an observer sees them, who is no member of the group.
pub(super) fn observed(
    operation: &'static str,
    observer: &ClientConfig,
    topic: &str,
    partitions: &[Partition],
    wait: Duration,
) -> Result<Vec<Option<Committed>>, BrokerError> {
    let failed = |error| error::of(operation, &error);
    let consumer: BaseConsumer = BaseConsumer::from_config(observer).map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, partition.0);
    }
    committed(operation, &consumer.committed_offsets(list, wait).map_err(failed)?)
}
