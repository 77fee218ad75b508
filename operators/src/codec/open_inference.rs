//! Requests and results of the Open Inference Protocol, version 2: what clients of model servers write and read already.
//!
//! ```text
//!   application/x-open-inference+json   the JSON object
//!   application/octet-stream            the JSON object, then the bytes of its tensors; `inference-header-content-length` says where it ends
//!
//!   {"id": "r-1", "inputs": [{"name": "audio", "datatype": "FP32", "shape": [1, 2, 2], "data": [[[0.5, 1], [2, 4]]]},
//!                            {"name": "rate",  "datatype": "INT64", "shape": [], "parameters": {"binary_data_size": 8}}]}
//! ```
//!
//! The protocol is written for HTTP, where the path names the model. Here the header `model_id` does, and the header `tenant_id` says what
//! the protocol has no place for. A shape is that of a batch, as the model has it; and a record is a batch of one row.
//!
//! Sources: `KServe`'s "Open Inference Protocol (V2 Inference Protocol)" and its "Binary Tensor Data Extension".

mod encode;
mod read;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use self::read::Reader;
use super::{Tensors, position};
use crate::model::TensorSpec;
use crate::records::RecordView;
use crate::tensor::{Column, Dtype};

pub use encode::OpenInferenceResults;

/// The header that says how many bytes of the value are JSON, where tensors stand behind it.
pub const JSON_LENGTH: &[u8] = b"inference-header-content-length";

/// Where the numbers of a request or a result may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the JSON, which is all of the value.
    Json,
    /// In the JSON or behind it.
    Binary,
}

/// What the protocol calls a type.
pub fn datatype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "FP16",
        Dtype::F32 => "FP32",
        Dtype::F64 => "FP64",
        Dtype::I8 => "INT8",
        Dtype::I16 => "INT16",
        Dtype::I32 => "INT32",
        Dtype::I64 => "INT64",
        Dtype::U8 => "UINT8",
        Dtype::U16 => "UINT16",
        Dtype::U32 => "UINT32",
        Dtype::U64 => "UINT64",
        Dtype::Bool => "BOOL",
    }
}

/// Decodes one request to a model with these inputs: `row` becomes a column of one row for each of them, and the request id and tenant
/// id are appended to `text`.
///
/// ```
/// use operators::codec::open_inference::{Body, decode};
/// use operators::model::Signature;
/// use operators::records::Records;
/// use operators::tensor::Values;
///
/// let mut records = Records::default();
/// let value = br#"{"id": "r-1", "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}]}"#;
/// records.push(Some(b"acme|mlp-2"), Some(value));
/// records.push_header(b"model_id", Some(b"mlp-2"));
/// records.push_header(b"tenant_id", Some(b"acme"));
/// let (mut row, mut text) = (Vec::new(), String::new());
/// let inputs = Signature::of_floats(&[2], 1).inputs;
/// let request = decode(records.get(0), Body::Json, &inputs, &mut row, &mut text).unwrap();
/// assert_eq!((&row[0].axes, &row[0].values), (&vec![2], &Values::F32(vec![0.5, 1.0])));
/// assert_eq!((&text[..], request.request_id, request.tenant_id), ("r-1acme", 0..3, 3..7));
/// assert_eq!(request.model_id, "mlp-2");
/// ```
///
/// # Errors
///
/// If the record is not a request, or its inputs are not those of the model. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode<'a>(
    record: RecordView<'a>,
    body: Body,
    inputs: &[TensorSpec],
    row: &mut Vec<Column>,
    text: &mut String,
) -> Result<Tensors<'a>, OpenInferenceError> {
    row.resize_with(inputs.len(), || Column::new(Vec::new(), Dtype::F32));
    let (json, binary) = parts(record, body)?;
    let mut reader = Reader::of(inputs, row, binary);
    let request = reader.request(json).and_then(|request| reader.finish().map(|()| request));
    let names = names(record, request, text)?;
    let finite = row.iter().all(|column| column.values.are_finite(0..column.values.len()));
    Ok(Tensors { finite, ..names })
}

/// Decodes what a request says of itself, whatever its inputs are: its request id and tenant id are appended to `text`.
///
/// # Errors
///
/// If the record is not a request. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode_names<'a>(
    record: RecordView<'a>,
    body: Body,
    text: &mut String,
) -> Result<Tensors<'a>, OpenInferenceError> {
    let (json, binary) = parts(record, body)?;
    names(record, Reader::of_any(binary).request(json), text)
}

/// What a request's JSON says, besides its tensors.
struct Named<'a> {
    id: Cow<'a, str>,
    model_name: Option<Cow<'a, str>>,
}

/// What a request says of itself, in its JSON and in its headers.
fn names<'a>(
    record: RecordView<'a>,
    request: Result<Named<'a>, Wrong>,
    text: &mut String,
) -> Result<Tensors<'a>, OpenInferenceError> {
    let tenant = tenant(record);
    let of_tenant = |wrong| OpenInferenceError { wrong, tenant: tenant.map(str::to_owned) };
    let Named { id, model_name } = request.map_err(of_tenant)?;
    let tenant_id = tenant
        .ok_or_else(|| of_tenant(Wrong::request("the header `tenant_id` is missing, empty or not UTF-8")))?;
    let model_id = match (model_name, record.header(b"model_id").flatten()) {
        (Some(name), _) => name,
        (None, header) => String::from_utf8_lossy(header.unwrap_or_default()),
    };
    let (request_id, tenant_id) = (append(&id, text), append(tenant_id, text));
    Ok(Tensors { request_id, tenant_id, model_id, finite: true })
}

fn tenant(record: RecordView<'_>) -> Option<&str> {
    let tenant = std::str::from_utf8(record.header(b"tenant_id").flatten()?).ok()?;
    (!tenant.is_empty()).then_some(tenant)
}

fn append(id: &str, text: &mut String) -> Range<u32> {
    let start = position(text);
    text.push_str(id);
    start..position(text)
}

/// The JSON of a record, and what stands behind it, if anything may.
fn parts(record: RecordView<'_>, body: Body) -> Result<(&[u8], Option<&[u8]>), OpenInferenceError> {
    let value = record.value().unwrap_or_default();
    if body == Body::Json {
        return Ok((value, None));
    }
    let header = record.header(JSON_LENGTH).flatten();
    let length = header.and_then(|header| std::str::from_utf8(header).ok()).and_then(|digits| {
        // A sign is no digit, and `parse` would take one.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    });
    if let Some((json, binary)) = length.and_then(|length| value.split_at_checked(length)) {
        return Ok((json, Some(binary)));
    }
    let what = "the header `inference-header-content-length` does not say how long the JSON is that begins the value";
    let wrong = Wrong::request(format!("{what}, which has {} bytes", value.len()));
    Err(OpenInferenceError { wrong, tenant: tenant(record).map(str::to_owned) })
}

/// Why a record is no request to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .wrong.message)]
pub struct OpenInferenceError {
    /// What is wrong.
    pub wrong: Wrong,
    /// The request's tenant, if its header is in order.
    pub tenant: Option<String>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Of what kind it is.
    pub kind: Kind,
    /// What it is, for people.
    pub message: String,
}

/// Kinds of what can be wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is none, or contradicts itself, or its inputs are others than the model's.
    Request,
    /// All is in order but a type, which is not the model's.
    Type,
    /// All is in order but a shape, which is not the model's.
    Shape,
}

impl Wrong {
    fn request(what: impl std::fmt::Display) -> Self {
        Self { kind: Kind::Request, message: format!("could not decode the request: {what}") }
    }
}
