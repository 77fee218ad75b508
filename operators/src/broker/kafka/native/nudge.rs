//! Wakes the threads that fetch.

use std::ptr;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka_sys as sys;

/// Asks the leaders of these partitions where they end, and waits for no answer: the question is what counts.
///
/// librdkafka pauses every partition of a member until a rebalance is answered. It then resumes those that stay without a word to the
/// thread that fetches from their leader, which may have gone to sleep for a second. A request to the leader wakes that thread.
pub(in super::super) fn nudge<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) {
    let raw = consumer.client().native_ptr();
    // SAFETY: client and list are valid, and the call copies what it needs of the list. The queue is made and dropped here; the client
    // keeps a reference to it until the answer has come, which goes with it.
    unsafe {
        let queue = sys::rd_kafka_queue_new(raw);
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        let options = sys::rd_kafka_AdminOptions_new(raw, kind);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, 1_000, ptr::null_mut(), 0);
        sys::rd_kafka_ListOffsets(raw, partitions.ptr(), options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_queue_destroy(queue);
    }
}
