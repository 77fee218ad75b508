//! A result as a model server answers, its tensors in the JSON or behind it.

use operators::codec::form::Form;
use operators::lease::{Offset, Partition};
use operators::records::RecordView;
use serde::Deserialize;

use super::{Body, Numbers, Origin};
use crate::request::{dtype, numbers_in};

/// Whether a result says of itself that it is one, and if so, whether tensors may stand behind its JSON.
pub(super) fn is_one(record: RecordView<'_>) -> Option<bool> {
    match Form::of(record)? {
        Form::OpenInference => Some(false),
        Form::OpenInferenceBinary => Some(true),
        Form::Json | Form::Tensor => None,
    }
}

#[derive(Deserialize)]
struct Wire {
    model_name: String,
    model_version: String,
    id: String,
    parameters: Parameters,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Parameters {
    tenant_id: String,
    latency_ms: f64,
    queue_ms: f64,
    inference_ms: f64,
    batch_size: u64,
    inferred_at: String,
    origin_topic: String,
    origin_partition: Partition,
    origin_offset: Offset,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Option<Numbers>,
    parameters: Option<Behind>,
}

#[derive(Deserialize)]
struct Behind {
    binary_data_size: usize,
}

/// The origin in the parameters.
pub(super) fn origin(record: RecordView<'_>, binary: bool) -> Result<Origin, String> {
    let (Wire { parameters, .. }, _) = read(record, binary)?;
    Ok(Origin {
        topic: parameters.origin_topic,
        partition: parameters.origin_partition,
        offset: parameters.origin_offset,
    })
}

/// Every field of the result.
pub(super) fn body(record: RecordView<'_>, binary: bool) -> Result<Body, String> {
    let (Wire { model_name, model_version, id, parameters, outputs }, mut rest) = read(record, binary)?;
    let mut numbers = Vec::new();
    for Output { name, datatype, shape, data, parameters } in outputs {
        let wrong = |what: &str| format!("output {name:?} {what}");
        let dtype = dtype(&datatype).ok_or_else(|| wrong("is of no type"))?;
        let found = match (data, parameters) {
            (Some(Numbers(found)), None) => found,
            (None, Some(Behind { binary_data_size })) => {
                let (own, others) =
                    rest.split_at_checked(binary_data_size).ok_or_else(|| wrong("ends after the value"))?;
                rest = others;
                let found = numbers_in(dtype, own).ok_or_else(|| wrong("has bytes that are no numbers"))?;
                // What is not finite is written as null in JSON, and compared as that.
                let floats =
                    found.into_iter().map(|number| Some(number.float()).filter(|float| float.is_finite()));
                floats.collect()
            }
            _ => return Err(wrong("has its numbers nowhere, or twice")),
        };
        if shape.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis)) != Some(found.len()) {
            return Err(wrong("has other numbers than its `shape` says"));
        }
        numbers.extend(found);
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes behind the JSON are of no output", rest.len()));
    }
    Ok(Body {
        request_id: id,
        model_id: model_name,
        tenant_id: parameters.tenant_id,
        output: Some(Numbers(numbers)),
        outputs: None,
        latency_ms: parameters.latency_ms,
        inferred_at: parameters.inferred_at,
        model_version,
        batch_size: parameters.batch_size,
        queue_ms: parameters.queue_ms,
        inference_ms: parameters.inference_ms,
    })
}

/// The JSON, and what stands behind it.
fn read(record: RecordView<'_>, binary: bool) -> Result<(Wire, &[u8]), String> {
    let value = record.value().ok_or("the value is null")?;
    let (json, rest) = if binary {
        let header = record.header(b"inference-header-content-length").flatten();
        let length = header.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let parts = length.and_then(|length| value.split_at_checked(length));
        parts.ok_or("header `inference-header-content-length` is not where its JSON ends")?
    } else {
        (value, &[][..])
    };
    let wire = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((wire, rest))
}

#[cfg(test)]
mod tests {
    use operators::records::Records;

    use super::*;

    /// A result with an output in its JSON and another one behind it, some of it changed.
    fn read<T>(
        (from, to): (&str, &str),
        behind: &[u8],
        read: impl Fn(RecordView<'_>, bool) -> Result<T, String>,
    ) -> Result<T, String> {
        let json = concat!(
            r#"{"model_name":"m","model_version":"0123","id":"r","parameters":{"tenant_id":"acme","latency_ms":12.345,"#,
            r#""queue_ms":11.000,"inference_ms":0.850,"batch_size":64,"inferred_at":"2026-01-31T12:00:00Z","#,
            r#""origin_topic":"requests","origin_partition":3,"origin_offset":17},"outputs":["#,
            r#"{"name":"p","datatype":"FP32","shape":[1,2],"data":[0.5,null]},"#,
            r#"{"name":"n","datatype":"INT16","shape":[1,1],"parameters":{"binary_data_size":2}}]}"#,
        );
        assert!(json.contains(from));
        let json = json.replacen(from, to, 1);
        let mut records = Records::default();
        records.push(Some(b"r"), Some(&[json.as_bytes(), behind].concat()));
        records.push_header(b"content-type", Some(b"application/octet-stream"));
        records.push_header(b"inference-header-content-length", Some(json.len().to_string().as_bytes()));
        assert_eq!(is_one(records.get(0)), Some(true));
        read(records.get(0), true)
    }

    #[test]
    fn it_is_read_with_its_tensors_wherever_they_stand() {
        let found = read(("", ""), &[0xfe, 0xff], body).unwrap();
        assert_eq!(found.numbers(), [Some(0.5), None, Some(-2.0)]);
        assert_eq!((found.batch_size, &*found.tenant_id, &*found.model_id), (64, "acme", "m"));
        let found = read(("", ""), &[0xfe, 0xff], origin).unwrap();
        assert_eq!((&*found.topic, found.partition, found.offset), ("requests", Partition(3), Offset(17)));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let told = |change, behind: &[u8]| read(change, behind, body).map(|_| ()).unwrap_err();
        for (change, behind, message) in [
            ((r#""id":"r","#, ""), &[0, 0][..], "missing field `id`"),
            ((r#""origin_offset":17"#, r#""x":17"#), &[0, 0], "missing field `origin_offset`"),
            (("[1,2]", "[1,3]"), &[0, 0], "output \"p\" has other numbers than its `shape` says"),
            (("FP32", "FP31"), &[0, 0], "output \"p\" is of no type"),
            (("INT16", "INT32"), &[0, 0], "output \"n\" has bytes that are no numbers"),
            ((r#""data":[0.5,null]"#, r#""x":0"#), &[0, 0], "output \"p\" has its numbers nowhere, or twice"),
            (("", ""), &[0], "output \"n\" ends after the value"),
            (("", ""), &[0, 0, 0], "1 bytes behind the JSON are of no output"),
        ] {
            assert!(told(change, behind).contains(message), "{change:?}: {}", told(change, behind));
        }
    }
}
