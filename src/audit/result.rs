//! One result, against the request that it says it is of.

mod numbers;
mod open_inference;
mod tensor;

use operators::broker::LogRecord;
use operators::codec::form::Form;
use operators::lease::{Offset, Partition};
use operators::records::RecordView;
use serde::Deserialize;

use self::numbers::{Numbers, Outputs};
use super::book::Entry;
use super::expected::Expected;
use super::fingerprint;

/// The origin that a result names.
#[derive(Debug, Deserialize)]
pub(super) struct Origin {
    pub(super) topic: String,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
}

impl Origin {
    /// The origin that a result names.
    pub(super) fn read(record: RecordView<'_>) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            origin: Origin,
        }
        if tensor::is_one(record) {
            return tensor::origin(record);
        }
        if let Some(binary) = open_inference::is_one(record) {
            return open_inference::origin(record, binary);
        }
        let value = record.value().ok_or("the value is null")?;
        let body: Body =
            serde_json::from_slice(value).map_err(|error| format!("the origin can't be read: {error}"))?;
        Ok(body.origin)
    }
}

/// Every field of a result.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    request_id: String,
    model_id: String,
    tenant_id: String,
    /// The one output.
    #[serde(default)]
    output: Option<Numbers>,
    /// Or several, by name.
    #[serde(default)]
    outputs: Option<Outputs>,
    latency_ms: f64,
    inferred_at: String,
    model_version: String,
    batch_size: u64,
    queue_ms: f64,
    inference_ms: f64,
}

impl Body {
    fn read(record: RecordView<'_>) -> Result<Self, String> {
        if tensor::is_one(record) {
            return tensor::body(record);
        }
        if let Some(binary) = open_inference::is_one(record) {
            return open_inference::body(record, binary);
        }
        let body: Self =
            serde_json::from_slice(record.value().unwrap_or_default()).map_err(|error| error.to_string())?;
        if body.output.is_some() == body.outputs.is_some() {
            return Err("it has neither `output` nor `outputs`, or both".to_owned());
        }
        Ok(body)
    }

    /// The numbers of all outputs, one behind the other; nothing for one that is not finite.
    fn numbers(&self) -> &[Option<f64>] {
        match (&self.output, &self.outputs) {
            (Some(Numbers(numbers)), _) | (None, Some(Outputs(numbers))) => numbers,
            (None, None) => &[],
        }
    }
}

/// What a result tells beside its output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// The partition of its request.
    pub(crate) partition: Partition,
    /// The offset of its request.
    pub(crate) offset: Offset,
    /// The model.
    pub(crate) model: String,
    /// Rows of its batch.
    pub(crate) batch_size: i64,
    /// The time of the model's run.
    pub(crate) inference_ms: f64,
    /// From poll to outcome.
    pub(crate) latency_ms: f64,
    /// When: the same of all rows of a batch.
    pub(crate) inferred_at: String,
}

/// What a record tells as a result; nothing if it is none.
pub(crate) fn told(record: RecordView<'_>) -> Option<Told> {
    let (origin, body) = (Origin::read(record).ok()?, Body::read(record).ok()?);
    Some(Told {
        partition: origin.partition,
        offset: origin.offset,
        model: body.model_id,
        batch_size: i64::try_from(body.batch_size).ok()?,
        inference_ms: body.inference_ms,
        latency_ms: body.latency_ms,
        inferred_at: body.inferred_at,
    })
}

/// What is wrong with a result of the request that `entry` is of; empty if nothing is.
pub(super) fn complaints(record: LogRecord<'_>, entry: &Entry, expected: &mut Expected) -> Vec<String> {
    let body = match Body::read(record.record) {
        Ok(body) => body,
        Err(error) => return vec![format!("the value is no result: {error}")],
    };
    let record = record.record;
    let print = |bytes: &[u8]| fingerprint::name(Some(bytes));
    let header = |name: &[u8]| fingerprint::name(record.header(name).flatten());
    let milliseconds = [body.latency_ms, body.queue_ms, body.inference_ms];
    let checks = [
        (print(body.request_id.as_bytes()) == entry.request_id, "field `request_id` is not the request's"),
        (print(body.tenant_id.as_bytes()) == entry.tenant_id, "field `tenant_id` is not the request's"),
        (print(body.model_id.as_bytes()) == entry.model_id, "field `model_id` is not the request's"),
        (fingerprint::name(record.key()) == entry.result_key, "the key is not the one of this request"),
        (Form::of(record) == Some(entry.result_form), "it is of another form than was configured"),
        (header(b"model_id") == entry.model_id, "header `model_id` is not the request's"),
        (header(b"tenant_id") == entry.tenant_id, "header `tenant_id` is not the request's"),
        (header(b"traceparent") == entry.traceparent, "header `traceparent` is not the request's"),
        (milliseconds.iter().all(|&value| value >= 0.0), "a time is below 0"),
        (body.batch_size > 0, "field `batch_size` is 0"),
        (!body.model_version.is_empty(), "field `model_version` is empty"),
        (body.inferred_at.parse::<jiff::Timestamp>().is_ok(), "field `inferred_at` is not in RFC 3339"),
    ];
    let failed = checks.into_iter().filter(|(kept, _)| !kept).map(|(_, complaint)| complaint.to_owned());
    failed.chain(expected.compare(entry, body.numbers())).collect()
}

/// What is wrong with the output of a result; nothing if it can't be read, which has been said before.
pub(super) fn output_complaint(
    record: LogRecord<'_>,
    entry: &Entry,
    expected: &mut Expected,
) -> Option<String> {
    let body = Body::read(record.record).ok()?;
    expected.compare(entry, body.numbers())
}
