//! A request of the Open Inference Protocol: read with `serde_json` for the tools around the engine, by another road than the engine's own.

use operators::records::RecordView;
use serde::Deserialize;
use serde_json::Value;

use super::tensor::{AXES_MAX, text};
use super::tensors::{Tensor, not_null, number, size_of};
use super::{MODEL_ID, Names, Number, Request, RequestError, text as text_of};

#[derive(Deserialize)]
struct Wire {
    id: String,
    #[serde(default, deserialize_with = "not_null")]
    model_name: Option<String>,
    inputs: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    #[serde(default, deserialize_with = "not_null")]
    data: Option<Value>,
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default, deserialize_with = "not_null")]
    binary_data_size: Option<usize>,
}

/// Reads a record that says of itself that it is one; `binary` says whether tensors may stand behind the JSON.
pub(super) fn read(record: RecordView<'_>, binary: bool) -> Result<Request, RequestError> {
    let (json, rest) = parts(record, binary)?;
    let Wire { id, model_name, inputs } =
        serde_json::from_str(text_of(json)?).map_err(|error| wrong(error.to_string()))?;
    let tenant_id = text(record, b"tenant_id")?;
    for (field, id) in [("id", &id), ("tenant_id", &tenant_id)] {
        if id.is_empty() {
            return Err(RequestError::Empty(field));
        }
    }
    let header = || record.header(MODEL_ID).flatten().map(|id| String::from_utf8_lossy(id).into_owned());
    let model_id = model_name.or_else(header).unwrap_or_default();
    let tensors = tensors_of(inputs, rest)?;
    Ok(Request { request_id: id, tenant_id, model_id, input: Vec::new(), shape: None, tensors })
}

/// The names in a record, as far as it has them.
pub(super) fn names(record: RecordView<'_>, binary: bool) -> Names {
    let json = parts(record, binary).map_or(&[][..], |(json, _)| json);
    let fields = serde_json::from_slice::<Value>(json).unwrap_or_default();
    let field = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Names {
        request_id: field("id"),
        tenant_id: text(record, b"tenant_id").ok(),
        model_id: field("model_name").or_else(|| text(record, MODEL_ID).ok()),
    }
}

fn wrong(why: String) -> RequestError {
    RequestError::Undecodable(why)
}

fn parts(record: RecordView<'_>, binary: bool) -> Result<(&[u8], &[u8]), RequestError> {
    let value = record.value().unwrap_or_default();
    if !binary {
        return Ok((value, &[]));
    }
    let header = text(record, b"inference-header-content-length")?;
    let digits = header.chars().all(|digit| digit.is_ascii_digit());
    let length: Option<usize> = header.parse().ok().filter(|_| digits);
    let parts = length.and_then(|length| value.split_at_checked(length));
    parts.ok_or_else(|| wrong(format!("its JSON has not the {header:?} bytes that the header says")))
}

fn tensors_of(inputs: Vec<Given>, mut rest: &[u8]) -> Result<Vec<Tensor>, RequestError> {
    let mut tensors = Vec::new();
    for Given { name, datatype, shape, data, parameters } in inputs {
        let size = parameters.and_then(|parameters| parameters.binary_data_size);
        let dtype = dtype(&datatype).unwrap_or(&datatype).to_owned();
        let numbers = match (data, size) {
            (Some(data), None) => numbers_of(&data, &shape),
            (None, Some(size)) => {
                let (own, others) = rest
                    .split_at_checked(size)
                    .ok_or_else(|| wrong(format!("input {name:?} ends after the value")))?;
                rest = others;
                numbers_in(&dtype, own)
            }
            _ => return Err(wrong(format!("input {name:?} has its numbers nowhere, or twice"))),
        };
        if shape.len() > AXES_MAX {
            return Err(wrong(format!("input {name:?} has more than {AXES_MAX} axes")));
        }
        let due = shape.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis));
        let foreign = numbers.as_ref().is_none_or(|numbers| due != Some(numbers.len()));
        tensors.push(Tensor {
            name: Some(name),
            dtype: Some(dtype),
            shape: Some(shape),
            batch: true,
            foreign,
            numbers: numbers.unwrap_or_default(),
        });
    }
    if !rest.is_empty() {
        return Err(wrong(format!("{} bytes behind the JSON are of no input", rest.len())));
    }
    if tensors.is_empty() { Err(wrong("it has no input".to_owned())) } else { Ok(tensors) }
}

/// The engine's name of a type.
pub fn dtype(datatype: &str) -> Option<&'static str> {
    Some(match datatype {
        "FP16" => "f16",
        "FP32" => "f32",
        "FP64" => "f64",
        "INT8" => "i8",
        "INT16" => "i16",
        "INT32" => "i32",
        "INT64" => "i64",
        "UINT8" => "u8",
        "UINT16" => "u16",
        "UINT32" => "u32",
        "UINT64" => "u64",
        "BOOL" => "bool",
        _ => return None,
    })
}

/// The numbers of a type in bytes; `None` if they are none.
pub fn numbers_in(dtype: &str, bytes: &[u8]) -> Option<Vec<Number>> {
    let size = size_of(dtype)?;
    bytes.chunks(size).map(|bytes| if bytes.len() == size { number(dtype, bytes) } else { None }).collect()
}

/// The numbers in an array, or in arrays that nest as the shape says; `None` if they are none.
fn numbers_of(data: &Value, shape: &[usize]) -> Option<Vec<Number>> {
    let elements = data.as_array()?;
    if let Some(flat) = elements.iter().map(scalar).collect() {
        return Some(flat);
    }
    let mut numbers = Vec::new();
    nested(data, shape, &mut numbers).map(|()| numbers)
}

fn scalar(value: &Value) -> Option<Number> {
    (value.is_boolean() || value.is_number()).then(|| serde_json::from_value(value.clone()).ok())?
}

fn nested(data: &Value, shape: &[usize], numbers: &mut Vec<Number>) -> Option<()> {
    let [axis, inner @ ..] = shape else { return scalar(data).map(|number| numbers.push(number)) };
    let elements = data.as_array().filter(|elements| elements.len() == *axis)?;
    elements.iter().try_for_each(|element| nested(element, inner, numbers))
}
