//! A record's body, read in the form that its content type says.

use super::refusal::Refusal;
use crate::codec::form::{CONTENT_TYPE, FORMS, Form};
use crate::codec::open_inference::{self, Body, Kind, OpenInferenceError};
use crate::codec::{Request, Tensors, json, x_tensor};
use crate::dead_letter::{Reason, Stage};
use crate::model::TensorSpec;
use crate::records::RecordView;
use crate::tensor::Column;

/// How much of a content type a message names, in bytes.
const NAMED_BYTES_MAX: usize = 128;

/// Reads a request to a model of one row of floats: appends its floats and its text. `None` if it is written in a way that only
/// [`tensors`] reads.
pub(super) fn floats<'a>(
    record: RecordView<'a>,
    inputs: &[TensorSpec],
    row_len: usize,
    values: &mut Vec<f32>,
    text: &mut String,
) -> Option<Result<Request<'a>, Refusal<'static>>> {
    Some(match form(record) {
        Ok(Form::Json) => match json::decode(record.value().unwrap_or_default(), row_len, values, text) {
            Err(error) if error.problem == json::Problem::NoArray => return None,
            read => read.map_err(|error| Refusal::undecodable(error.to_string(), error.tenant)),
        },
        Ok(Form::Tensor) => {
            x_tensor::decode(record, values, text).map_err(|error| not_a_tensor(&error, inputs))
        }
        Ok(Form::OpenInference | Form::OpenInferenceBinary) => return None,
        Err(refusal) => Err(refusal),
    })
}

/// Reads a request to a model of these inputs: `row` becomes a column for each, and its text is appended.
pub(super) fn tensors<'a>(
    record: RecordView<'a>,
    inputs: &[TensorSpec],
    row: &mut Vec<Column>,
    text: &mut String,
) -> Result<Tensors<'a>, Refusal<'static>> {
    match form(record)? {
        Form::Json => {
            json::decode_tensors(record.value().unwrap_or_default(), inputs, row, text).map_err(|error| {
                if error.shape {
                    Refusal::route(Reason::WrongShape, error.message, error.tenant.unwrap_or_default())
                } else {
                    Refusal::undecodable(error.message, error.tenant)
                }
            })
        }
        Form::Tensor => {
            x_tensor::decode_tensors(record, inputs, row, text).map_err(|error| not_a_tensor(&error, inputs))
        }
        Form::OpenInference => {
            open_inference::decode(record, Body::Json, inputs, row, text).map_err(no_inference)
        }
        Form::OpenInferenceBinary => {
            open_inference::decode(record, Body::Binary, inputs, row, text).map_err(no_inference)
        }
    }
}

/// Reads what a request says of itself, whatever its inputs are.
pub(super) fn names<'a>(record: RecordView<'a>, text: &mut String) -> Result<Tensors<'a>, Refusal<'static>> {
    match form(record)? {
        Form::Json => json::decode_names(record.value().unwrap_or_default(), text)
            .map_err(|error| Refusal::undecodable(error.to_string(), error.tenant)),
        Form::Tensor => x_tensor::decode_names(record, text).map_err(|error| not_a_tensor(&error, &[])),
        Form::OpenInference => open_inference::decode_names(record, Body::Json, text).map_err(no_inference),
        Form::OpenInferenceBinary => {
            open_inference::decode_names(record, Body::Binary, text).map_err(no_inference)
        }
    }
}

fn no_inference(OpenInferenceError { wrong, tenant }: OpenInferenceError) -> Refusal<'static> {
    let (reason, stage) = match wrong.kind {
        Kind::Request => (Reason::Undecodable, Stage::Decode),
        Kind::Type => (Reason::UnsupportedType, Stage::Decode),
        Kind::Shape => (Reason::WrongShape, Stage::Route),
    };
    Refusal { reason, stage, ..Refusal::undecodable(wrong.message, tenant) }
}

fn not_a_tensor(error: &x_tensor::TensorError, inputs: &[TensorSpec]) -> Refusal<'static> {
    let mut message = error.to_string();
    if !inputs.is_empty() {
        let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        message = format!("{message}; a row of the model is {}", inputs.join("; "));
    }
    let (reason, stage) = match error.problem {
        x_tensor::Problem::Dtype => (Reason::UnsupportedType, Stage::Decode),
        x_tensor::Problem::Axes => (Reason::WrongShape, Stage::Route),
        _ => (Reason::Undecodable, Stage::Decode),
    };
    Refusal { reason, stage, ..Refusal::undecodable(message, error.tenant.clone()) }
}

fn form(record: RecordView<'_>) -> Result<Form, Refusal<'static>> {
    Form::of(record).ok_or_else(|| {
        let found = record.header(CONTENT_TYPE).flatten().unwrap_or_default();
        let found = String::from_utf8_lossy(&found[..found.len().min(NAMED_BYTES_MAX)]);
        let known = FORMS.map(Form::media_type).join(", ");
        let message = format!("the content type is {found:?}, and these can be read: {known}");
        Refusal { reason: Reason::UnsupportedType, ..Refusal::undecodable(message, None) }
    })
}
