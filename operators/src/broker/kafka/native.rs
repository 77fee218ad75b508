//! What this broker needs of librdkafka that the safe bindings do not offer, behind a safe face. The only `unsafe` of the broker.
//!
//! * Header names are bytes: the bindings panic on a name, or on offset metadata, that is not UTF-8, and any client may send one.
//! * A queue of a partition is polled without an allocation for each record, and its waker can be replaced.
//! * A record is produced through a cached handle of its topic, without a C string for each.
//! * A question that wakes the threads that fetch.
//! * Which topic bears a name now: its id, asked for without waiting.
//! * The position of a single partition, the generation of a member, a commit with a bound, and a flush that returns as soon as it is
//!   done.

#![allow(unsafe_code, reason = "librdkafka is a C library; every block says why it is sound")]

mod nudge;
mod question;

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka_sys as sys;

pub(super) use self::nudge::nudge;
pub(super) use self::question::TopicQuestion;
use super::token::Membership;
use crate::broker::{RecordTime, Waker};
use crate::lease::Offset;
use crate::records::{RecordView, Records};

/// A duration as librdkafka takes it, rounded up so that a short wait does not become none.
fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// The bytes at `data`; `None` if it is null.
///
/// # Safety
///
/// Unless it is null, `data` must point to `size` bytes that live and do not change for `'a`.
unsafe fn bytes<'a>(data: *const c_void, size: usize) -> Option<&'a [u8]> {
    if data.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { slice::from_raw_parts(data.cast(), size) })
}

/// A text of librdkafka's.
///
/// # Safety
///
/// Unless it is null, it must be a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The name of an error in Kafka's own notation, as `ILLEGAL_GENERATION`; the client's own errors begin with an underscore.
pub(super) fn error_name(code: RDKafkaErrorCode) -> String {
    let mut descriptions = ptr::null();
    let mut count = 0;
    // SAFETY: both pointers are valid for a write; librdkafka sets them to a table that lives as long as the program.
    let descriptions = unsafe {
        sys::rd_kafka_get_err_descs(&raw mut descriptions, &raw mut count);
        slice::from_raw_parts(descriptions, count)
    };
    descriptions
        .iter()
        .find(|description| description.code as i32 == code as i32 && !description.name.is_null())
        .map_or_else(
            || format!("{code:?}"),
            // SAFETY: the name is a C string of the same static table, and was found not to be null.
            |description| unsafe { CStr::from_ptr(description.name) }.to_string_lossy().into_owned(),
        )
}

// ---- reading ---------------------------------------------------------------------------------------------------------

/// A record that librdkafka holds.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    raw: &'a sys::rd_kafka_message_t,
}

impl<'a> From<&'a BorrowedMessage<'_>> for Message<'a> {
    fn from(message: &'a BorrowedMessage<'_>) -> Self {
        // SAFETY: a `BorrowedMessage` owns a valid message, which lives as long as it does.
        Self { raw: unsafe { &*message.ptr() } }
    }
}

impl Message<'_> {
    /// Its offset.
    pub(super) fn offset(self) -> Offset {
        Offset(self.raw.offset)
    }

    /// Its timestamp.
    pub(super) fn time(self) -> RecordTime {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid, and `kind` may be written.
        let millis = unsafe { sys::rd_kafka_message_timestamp(self.raw, &raw mut kind) };
        RecordTime {
            millis,
            append: kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME,
        }
    }

    /// Copies key, value and headers to the end of `records`.
    ///
    /// A header's name that holds a NUL ends there: librdkafka tells no length of it.
    pub(super) fn append_to(self, records: &mut Records) {
        // SAFETY: key and value of a valid message are null or have their length, and live as long as it.
        let (key, value) =
            unsafe { (bytes(self.raw.key, self.raw.key_len), bytes(self.raw.payload, self.raw.len)) };
        records.push(key, value);
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid and used by this thread alone; the headers that are parsed here live as long as it.
        let parsed = unsafe { sys::rd_kafka_message_headers(self.raw, &raw mut headers) };
        if parsed != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers are valid, and each out-pointer may be written. Past the last header this is an error.
            let found = unsafe {
                sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size)
            };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: the name is a C string and the value null or `size` bytes, both owned by the message.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, size)) };
            records.push_header(name.to_bytes(), value);
        }
    }
}

/// A queue of librdkafka's, with a waker that is called when it turns from empty to not empty.
struct WatchedQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    waker: Box<Mutex<Waker>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and the waker is behind a lock.
unsafe impl Send for WatchedQueue {}
// SAFETY: as above.
unsafe impl Sync for WatchedQueue {}

impl WatchedQueue {
    /// # Safety
    ///
    /// The queue must be valid and a reference of its own, which is given up here, and its client must outlive the result.
    unsafe fn new(queue: NonNull<sys::rd_kafka_queue_t>, waker: Waker) -> Self {
        let waker = Box::new(Mutex::new(waker));
        // SAFETY: the queue is valid by the caller's promise. The opaque pointer is that of the boxed lock, which `drop` frees only
        // after it has disabled the callback.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(wake),
                ptr::from_ref::<Mutex<Waker>>(&waker).cast_mut().cast(),
            );
        }
        Self { queue, waker }
    }

    fn is_empty(&self) -> bool {
        // SAFETY: the queue is valid.
        unsafe { sys::rd_kafka_queue_length(self.queue.as_ptr()) == 0 }
    }
}

impl Drop for WatchedQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid and ours. Disabling the callback takes the queue's lock, under which it is called: when it
        // returns no call is under way, and none will come.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// The queue of one partition, split off the consumer's own.
///
/// Dropping it would leave the partition silent for as long as the consumer lives: its owner keeps it.
pub(super) struct PartitionQueue<C: ConsumerContext + 'static> {
    // Dropped before the client, without which it is nothing.
    watched: WatchedQueue,
    consumer: Arc<BaseConsumer<C>>,
}

impl<C: ConsumerContext + 'static> PartitionQueue<C> {
    /// Splits the queue of a partition off; `None` if librdkafka knows no such partition and can't make it.
    pub(super) fn split(
        consumer: &Arc<BaseConsumer<C>>,
        topic: &CStr,
        partition: i32,
        waker: Waker,
    ) -> Option<Self> {
        // SAFETY: the client is valid and kept alive beside the queue; the topic is a C string. The queue is a new reference.
        // Forwarding to null ends the forwarding to the consumer's queue.
        let watched = unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition);
            let queue = NonNull::new(queue)?;
            sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            WatchedQueue::new(queue, waker)
        };
        Some(Self { watched, consumer: Arc::clone(consumer) })
    }

    /// The consumer that the queue was split off.
    pub(super) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// Replaces the waker.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.watched.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Calls the waker, as if the queue had turned from empty to not empty.
    pub(super) fn wake(&self) {
        let waker = Arc::clone(&self.watched.waker.lock().unwrap_or_else(PoisonError::into_inner));
        waker();
    }

    /// The next event, if there is one. Never waits.
    pub(super) fn poll(&self) -> Option<Event> {
        // SAFETY: the queue is valid. The event is ours, and is destroyed once, by `Event::drop`.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.watched.queue.as_ptr(), 0) }).map(Event)
    }
}

/// The queue of what a client has to tell besides records.
pub(super) struct ClientQueue<T> {
    // Dropped before the client, without which it is nothing.
    watched: WatchedQueue,
    _client: Arc<T>,
}

impl<T> ClientQueue<T> {
    /// Whether there is nothing to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

/// The queue that a consumer with a group polls.
pub(super) fn consumer_queue<C: ConsumerContext + 'static>(
    consumer: &Arc<BaseConsumer<C>>,
    waker: Waker,
) -> Option<ClientQueue<BaseConsumer<C>>> {
    // SAFETY: the client is valid and kept alive beside the queue, which is a new reference.
    let watched = unsafe {
        let queue = NonNull::new(sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()))?;
        WatchedQueue::new(queue, waker)
    };
    Some(ClientQueue { watched, _client: Arc::clone(consumer) })
}

/// The queue that a producer polls.
pub(super) fn producer_queue<C: ProducerContext + 'static>(
    producer: &Arc<BaseProducer<C>>,
    waker: Waker,
) -> Option<ClientQueue<BaseProducer<C>>> {
    // SAFETY: the client is valid and kept alive beside the queue, which is a new reference.
    let watched = unsafe {
        let queue = NonNull::new(sys::rd_kafka_queue_get_main(producer.client().native_ptr()))?;
        WatchedQueue::new(queue, waker)
    };
    Some(ClientQueue { watched, _client: Arc::clone(producer) })
}

/// Called by librdkafka, on a thread of its own, when a queue turns from empty to not empty.
unsafe extern "C" fn wake(_client: *mut sys::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: the pointer is that of the lock boxed by the queue's `WatchedQueue`, which outlives the callback.
    let waker = unsafe { &*waker.cast::<Mutex<Waker>>() };
    (*waker.lock().unwrap_or_else(PoisonError::into_inner))();
}

/// An event of a queue: a record, an error, or something of no interest.
pub(super) struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    /// The record, if the event is one. Taking it moves the partition's position past it.
    pub(super) fn message(&mut self) -> Option<Message<'_>> {
        // SAFETY: the event is valid; the message lives as long as the event, which stays borrowed.
        unsafe {
            if sys::rd_kafka_event_type(self.0.as_ptr()) != sys::RD_KAFKA_EVENT_FETCH {
                return None;
            }
            sys::rd_kafka_event_message_next(self.0.as_ptr()).as_ref().map(|raw| Message { raw })
        }
    }

    /// The error, if the event is one: its code, and the client's words for it.
    pub(super) fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        // SAFETY: the event is valid, and its error string is null or a C string that lives as long as it.
        unsafe {
            if sys::rd_kafka_event_type(self.0.as_ptr()) != sys::RD_KAFKA_EVENT_ERROR {
                return None;
            }
            let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(self.0.as_ptr()));
            Some((code, text(sys::rd_kafka_event_error_string(self.0.as_ptr()))))
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and nothing borrows from it any more.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// The offset after the last record or control record taken from the queue of a partition; `None` before the first since it was
/// assigned.
pub(super) fn position<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &CStr,
    partition: i32,
) -> Option<i64> {
    // SAFETY: client and topic are valid. The list is made, read and destroyed here, and has exactly the one element added.
    let offset = unsafe {
        let list = sys::rd_kafka_topic_partition_list_new(1);
        let element = sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
        (*element).offset = i64::from(sys::RD_KAFKA_OFFSET_INVALID);
        let result = sys::rd_kafka_position(consumer.client().native_ptr(), list);
        let offset = (*element).offset;
        sys::rd_kafka_topic_partition_list_destroy(list);
        (result == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(offset)
    };
    offset.filter(|offset| *offset >= 0)
}

/// One element of a list that librdkafka has filled with committed offsets.
pub(super) struct CommittedOffset {
    /// The offset; negative where nothing is committed.
    pub(super) offset: i64,
    /// The metadata. What is not UTF-8 is another program's, and is replaced.
    pub(super) metadata: String,
    /// What went wrong with this partition.
    pub(super) error: RDKafkaErrorCode,
}

/// The elements of a list, in its order.
pub(super) fn committed_offsets(list: &TopicPartitionList) -> Vec<CommittedOffset> {
    // SAFETY: the list is valid and borrowed; `elems` holds `cnt` elements, and each metadata is null or has its size.
    unsafe {
        let raw = &*list.ptr();
        if raw.elems.is_null() {
            return Vec::new();
        }
        slice::from_raw_parts(raw.elems, usize::try_from(raw.cnt).unwrap_or(0))
            .iter()
            .map(|element| CommittedOffset {
                offset: element.offset,
                metadata: bytes(element.metadata, element.metadata_size)
                    .map_or_else(String::new, |metadata| String::from_utf8_lossy(metadata).into_owned()),
                error: element.err.into(),
            })
            .collect()
    }
}

/// The membership as of now; `None` for a consumer without a group.
pub(super) fn membership<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Membership> {
    // SAFETY: the client is valid. The metadata is ours, is read before it is destroyed, and its names are C strings or null.
    unsafe {
        let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let instance = text(sys::rd_kafka_consumer_group_metadata_group_instance_id(metadata));
        let membership = Membership {
            group: text(sys::rd_kafka_consumer_group_metadata_group_id(metadata)),
            generation: sys::rd_kafka_consumer_group_metadata_generation_id(metadata),
            member: text(sys::rd_kafka_consumer_group_metadata_member_id(metadata)),
            instance: (!instance.is_empty()).then_some(instance),
        };
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        Some(membership)
    }
}

/// Commits offsets as the member that the consumer is, and waits for the answer up to `wait`.
pub(super) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
    wait: Duration,
) -> Result<(), RDKafkaErrorCode> {
    // SAFETY: client and list are valid, and the list is copied before the call returns. The queue is ours, takes this one answer, and is
    // destroyed once; librdkafka throws an answer away that comes after that.
    let (asked, answer) = unsafe {
        let client = consumer.client().native_ptr();
        let queue = sys::rd_kafka_queue_new(client);
        let asked = sys::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, ptr::null_mut());
        let answer = if asked == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            NonNull::new(sys::rd_kafka_queue_poll(queue, millis(wait)))
        } else {
            None
        };
        sys::rd_kafka_queue_destroy(queue);
        (RDKafkaErrorCode::from(asked), answer.map(Event))
    };
    if asked != RDKafkaErrorCode::NoError {
        return Err(asked);
    }
    let answer = answer.ok_or(RDKafkaErrorCode::OperationTimedOut)?;
    // SAFETY: the event is valid and of a commit. Its list lives as long as it, and has `cnt` elements.
    let first = unsafe {
        let whole = RDKafkaErrorCode::from(sys::rd_kafka_event_error(answer.0.as_ptr()));
        let list = sys::rd_kafka_event_topic_partition_list(answer.0.as_ptr());
        let single = list.as_ref().filter(|list| !list.elems.is_null()).and_then(|list| {
            let elements = slice::from_raw_parts(list.elems, usize::try_from(list.cnt).unwrap_or(0));
            let mut errors = elements.iter().map(|element| RDKafkaErrorCode::from(element.err));
            errors.find(|error| *error != RDKafkaErrorCode::NoError)
        });
        single.unwrap_or(whole)
    };
    if first == RDKafkaErrorCode::NoError { Ok(()) } else { Err(first) }
}

// ---- producing -------------------------------------------------------------------------------------------------------

/// A topic that a producer sends to.
pub(super) struct Topic<C: ProducerContext + 'static> {
    topic: NonNull<sys::rd_kafka_topic_t>,
    producer: Arc<BaseProducer<C>>,
}

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl<C: ProducerContext + 'static> Send for Topic<C> {}

/// What to do while the producer's own queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// Return [`RDKafkaErrorCode::QueueFull`].
    Refuse,
    /// Wait for room.
    Wait,
}

/// Where a record goes, and what comes back with its delivery report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    /// The partition; without one the key decides.
    pub(super) partition: Option<i32>,
    /// Milliseconds since the Unix epoch; without it, now.
    pub(super) timestamp: Option<i64>,
    /// The delivery opaque.
    pub(super) tag: usize,
}

impl<C: ProducerContext + 'static> Topic<C> {
    /// The handle of a topic; `None` if the name can't be one.
    pub(super) fn new(producer: &Arc<BaseProducer<C>>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: client and name are valid; without a configuration of its own the topic takes the client's.
        let topic = unsafe {
            sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        Some(Self { topic: NonNull::new(topic)?, producer: Arc::clone(producer) })
    }

    /// Copies a record to the producer's queue.
    pub(super) fn produce(
        &self,
        to: Destination,
        record: RecordView<'_>,
        when_full: WhenFull,
    ) -> Result<(), RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as kind;
        let block = if when_full == WhenFull::Wait { sys::RD_KAFKA_MSG_F_BLOCK } else { 0 };
        let headers = Headers::of(record);
        let arguments = [
            argument(kind::RD_KAFKA_VTYPE_RKT, Value { rkt: self.topic.as_ptr() }),
            argument(kind::RD_KAFKA_VTYPE_PARTITION, Value { i32_: to.partition.unwrap_or(-1) }),
            argument(kind::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: sys::RD_KAFKA_MSG_F_COPY | block }),
            argument(kind::RD_KAFKA_VTYPE_VALUE, memory(record.value())),
            argument(kind::RD_KAFKA_VTYPE_KEY, memory(record.key())),
            argument(kind::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: ptr::without_provenance_mut(to.tag) }),
            argument(kind::RD_KAFKA_VTYPE_TIMESTAMP, Value { i64_: to.timestamp.unwrap_or(0) }),
            argument(kind::RD_KAFKA_VTYPE_HEADERS, Value { headers: headers.list }),
        ];
        // SAFETY: each argument holds the member of the union that its kind names. Key and value are copied before this returns
        // (`F_COPY`); on success the headers belong to librdkafka, on an error they stay ours. The error object is destroyed once.
        unsafe {
            let error = sys::rd_kafka_produceva(
                self.producer.client().native_ptr(),
                arguments.as_ptr(),
                arguments.len(),
            );
            if error.is_null() {
                headers.forget();
                return Ok(());
            }
            let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
            sys::rd_kafka_error_destroy(error);
            Err(code)
        }
    }
}

impl<C: ProducerContext + 'static> Drop for Topic<C> {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and ours, and its producer is still alive.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) }
    }
}

use sys::rd_kafka_vu_s__bindgen_ty_1 as Value;

fn argument(vtype: sys::rd_kafka_vtype_t, u: Value) -> sys::rd_kafka_vu_t {
    sys::rd_kafka_vu_t { vtype, u }
}

/// A key or a value; null is not the same as empty.
fn memory(bytes: Option<&[u8]>) -> Value {
    let (data, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    Value { mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: data.cast_mut().cast(), size } }
}

/// The headers of a record on their way to librdkafka; null if it has none.
struct Headers<'a> {
    list: *mut sys::rd_kafka_headers_t,
    _record: PhantomData<&'a ()>,
}

impl<'a> Headers<'a> {
    fn of(record: RecordView<'a>) -> Self {
        let headers = record.headers();
        let mut list = ptr::null_mut();
        if headers.len() > 0 {
            // SAFETY: the new list is ours; names and values are copied, with their lengths given.
            list = unsafe { sys::rd_kafka_headers_new(headers.len()) };
            for (name, value) in headers {
                let (data, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
                // SAFETY: as above.
                unsafe {
                    sys::rd_kafka_header_add(
                        list,
                        name.as_ptr().cast(),
                        name.len().cast_signed(),
                        data.cast(),
                        size.cast_signed(),
                    );
                }
            }
        }
        Self { list, _record: PhantomData }
    }

    /// Leaves the list to librdkafka.
    fn forget(mut self) {
        self.list = ptr::null_mut();
    }
}

impl Drop for Headers<'_> {
    fn drop(&mut self) {
        if !self.list.is_null() {
            // SAFETY: the list is still ours: nobody has taken it.
            unsafe { sys::rd_kafka_headers_destroy(self.list) }
        }
    }
}

/// Sends what waits, without its linger, and waits until nothing is under way; `false` if something still is. The delivery reports
/// must be served by another thread. (The bindings' own flush polls in steps of 100 ms.)
pub(super) fn flush<C: ProducerContext>(producer: &BaseProducer<C>, wait: Duration) -> bool {
    // SAFETY: the client is valid.
    let result = unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), millis(wait)) };
    result == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}
