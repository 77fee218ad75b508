//! A question to the broker under way: which topic bears a name.

use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::{Event, millis, text};

/// A question to the broker under way: which topic bears a name.
pub(in super::super) struct TopicQuestion<T> {
    // Dropped before the client, without which it is nothing.
    queue: NonNull<sys::rd_kafka_queue_t>,
    _client: Arc<T>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl<T: Send + Sync> Send for TopicQuestion<T> {}

/// The id of a topic, or why it is not told.
pub(in super::super) type TopicAnswer = Result<[u8; 16], (RDKafkaErrorCode, String)>;

impl<C: ConsumerContext + 'static> TopicQuestion<BaseConsumer<C>> {
    /// Asks; the answer, be it that there is none, comes within `wait`.
    pub(in super::super) fn ask(client: &Arc<BaseConsumer<C>>, topic: &CStr, wait: Duration) -> Self {
        let raw = client.client().native_ptr();
        let mut names = [topic.as_ptr()];
        // SAFETY: the client is valid and kept alive beside the queue, which is a new reference. Collection and options are made, used
        // and destroyed here: the call copies what it needs of them. A time-out that is refused leaves the default.
        let queue = unsafe {
            let queue = sys::rd_kafka_queue_new(raw);
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = sys::rd_kafka_AdminOptions_new(raw, kind);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, millis(wait), ptr::null_mut(), 0);
            sys::rd_kafka_DescribeTopics(raw, topics, options, queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            sys::rd_kafka_TopicCollection_destroy(topics);
            queue
        };
        Self { queue: NonNull::new(queue).expect("librdkafka makes a queue"), _client: Arc::clone(client) }
    }
}

impl<T> TopicQuestion<T> {
    /// The answer, if it has come, or comes within `wait`.
    pub(in super::super) fn answer(&self, wait: Duration) -> Option<TopicAnswer> {
        // SAFETY: the queue is valid. The event is ours, and is destroyed once, by `Event::drop`.
        let polled = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), millis(wait)) };
        let event = Event(NonNull::new(polled)?);
        // SAFETY: the event is valid, and what is read of it lives as long as it does; the error strings are C strings or null.
        unsafe {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.0.as_ptr()));
            if code != RDKafkaErrorCode::NoError {
                return Some(Err((code, text(sys::rd_kafka_event_error_string(event.0.as_ptr())))));
            }
            let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            if topics.is_null() || count == 0 {
                return Some(Err((RDKafkaErrorCode::UnknownTopicOrPartition, String::new())));
            }
            let error = sys::rd_kafka_TopicDescription_error(*topics);
            if !error.is_null() {
                let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
                if code != RDKafkaErrorCode::NoError {
                    return Some(Err((code, text(sys::rd_kafka_error_string(error)))));
                }
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(*topics);
            let halves =
                [sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id)];
            let mut bytes = [0; 16];
            for (into, half) in bytes.chunks_exact_mut(8).zip(halves) {
                into.copy_from_slice(&half.to_be_bytes());
            }
            Some(Ok(bytes))
        }
    }
}

impl<T> Drop for TopicQuestion<T> {
    fn drop(&mut self) {
        // SAFETY: the queue is valid and ours. An answer that comes later is dropped with it.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}
