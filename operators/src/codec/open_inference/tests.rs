//! Requests as model servers take them, what is wrong with others, and results as they answer.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::catalog::NotFinite;
use crate::codec::facts::{BatchFacts, RowFacts};
use crate::lease::{Offset, Partition};
use crate::records::Records;
use crate::tensor::{DTYPES, Values};

fn spec(name: &str, dtype: Dtype, axes: &[usize], batch_axis: Option<usize>) -> TensorSpec {
    // An axis of length 0 is one that stays open.
    let axes = axes.iter().map(|axis| (*axis > 0).then_some(*axis)).collect();
    TensorSpec { name: name.to_owned(), dtype, axes, batch_axis }
}

/// A recurrent net: a chunk of any length, a state with the batch on axis 1, and a rate that the batch shares.
fn net() -> Vec<TensorSpec> {
    vec![
        spec("input", Dtype::F32, &[0], Some(0)),
        spec("state", Dtype::F32, &[2, 2], Some(1)),
        spec("sr", Dtype::I64, &[], None),
    ]
}

fn record(value: &[u8], json_length: Option<&str>) -> Records {
    let mut records = Records::default();
    records.push(None, Some(value));
    records.push_header(b"model_id", Some(b"vad"));
    records.push_header(b"tenant_id", Some(b"acme"));
    if let Some(length) = json_length {
        records.push_header(JSON_LENGTH, Some(length.as_bytes()));
    }
    records
}

fn read(inputs: &[TensorSpec], records: &Records, body: Body) -> Result<Vec<Column>, OpenInferenceError> {
    let (mut row, mut text) = (Vec::new(), "before".to_owned());
    let read = decode(records.get(0), body, inputs, &mut row, &mut text);
    assert_eq!(text.len(), if read.is_ok() { 11 } else { 6 });
    let read = read?;
    assert_eq!((read.request_id, read.tenant_id, &*read.model_id), (6..7, 7..11, "vad"));
    let mut text = String::new();
    assert_eq!(decode_names(records.get(0), body, &mut text).unwrap().model_id, "vad");
    Ok(row)
}

/// Reads a request whose tensors are these, as JSON.
fn of_json(inputs: &[TensorSpec], tensors: &str) -> Result<Vec<Column>, OpenInferenceError> {
    let value =
        format!(r#"{{"id":"r","inputs":[{tensors}],"outputs":[{{"name":"any"}}],"parameters":{{"x":1}}}}"#);
    read(inputs, &record(value.as_bytes(), None), Body::Json)
}

const INPUT: &str = r#"{"name":"input","shape":[1,3],"datatype":"FP32","data":[0.5,1,2]}"#;
const STATE: &str = r#"{"data":[[[1,2]],[[3,4]]],"datatype":"FP32","shape":[2,1,2],"name":"state"}"#;
const RATE: &str = r#"{"name":"sr","shape":[],"datatype":"INT64","data":[16000]}"#;

#[test]
fn a_request_is_a_batch_of_one_in_whatever_order_its_fields_come() {
    let row = of_json(&net(), &[RATE, STATE, INPUT].join(",")).unwrap();
    let expected = [
        Column { axes: vec![3], values: Values::F32(vec![0.5, 1.0, 2.0]) },
        Column { axes: vec![2, 2], values: Values::F32(vec![1.0, 2.0, 3.0, 4.0]) },
        Column { axes: vec![], values: Values::I64(vec![16_000]) },
    ];
    assert_eq!(row, expected);
}

#[test]
fn tensors_may_stand_behind_the_json_and_some_of_them_in_it() {
    let binary = |name: &str, shape: &str, datatype: &str, size: usize| {
        format!(
            r#"{{"name":"{name}","shape":{shape},"datatype":"{datatype}","parameters":{{"binary_data_size":{size}}}}}"#
        )
    };
    let (state, rate) = (binary("state", "[2,1,2]", "FP32", 16), binary("sr", "[]", "INT64", 8));
    let json = format!(r#"{{"inputs":[{state},{INPUT},{rate}],"id":"r"}}"#);
    let mut value = json.clone().into_bytes();
    [1.0_f32, 2.0, 3.0, 4.0].iter().for_each(|number| value.extend(number.to_le_bytes()));
    value.extend(16_000_i64.to_le_bytes());
    let length = json.len().to_string();
    let row = read(&net(), &record(&value, Some(&length)), Body::Binary).unwrap();
    assert_eq!(row[1].values, Values::F32(vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!((&row[0].axes, &row[2].values), (&vec![3], &Values::I64(vec![16_000])));

    let refusal = |value: &[u8], length: Option<&str>| {
        let error = read(&net(), &record(value, length), Body::Binary).unwrap_err();
        assert_eq!((error.wrong.kind, error.tenant.as_deref()), (Kind::Request, Some("acme")));
        error.to_string()
    };
    assert!(
        refusal(&value[..value.len() - 1], Some(&length))
            .contains("8 bytes behind the JSON, where 7 are left")
    );
    let longer = [&value[..], &[0]].concat();
    assert!(refusal(&longer, Some(&length)).contains("1 bytes behind the JSON are of no tensor"));
    for wrong in [None, Some(""), Some("-1"), Some("+1"), Some("100000"), Some("x")] {
        assert!(refusal(&value, wrong).contains("`inference-header-content-length`"), "{wrong:?}");
    }
    assert!(
        of_json(&net(), &state)
            .unwrap_err()
            .to_string()
            .contains("16 bytes behind the JSON, where 0 are left")
    );
}

#[test]
fn what_is_wrong_is_told_by_its_kind() {
    let rate = [spec("sr", Dtype::I64, &[], None)];
    let image = [spec("x", Dtype::U8, &[2, 2], Some(0))];
    let tensor = |shape: &str, datatype: &str, data: &str| {
        format!(r#"{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}"#)
    };
    let cases = [
        (&image[..], tensor("[1,2,2]", "INT8", "[1,2,3,4]"), Kind::Type, "is not given as UINT8"),
        (&image, tensor("[1,2,2]", "BYTES", r#"["a"]"#), Kind::Type, "is not given as UINT8"),
        (&image, tensor("[2,2]", "UINT8", "[1,2,3,4]"), Kind::Shape, "it is [1, 2, 2] for a record"),
        (&image, tensor("[2,2,2]", "UINT8", "[1,2,3,4,5,6,7,8]"), Kind::Shape, "a batch of one row"),
        (
            &image,
            tensor("[1,2,2]", "UINT8", "[1,2,3]"),
            Kind::Request,
            "3 numbers, which are not of its shape",
        ),
        (&image, tensor("[1,2,2]", "UINT8", "[[1,2],[3,4]]"), Kind::Request, "not of its shape"),
        (&image, tensor("[1,2,2]", "UINT8", "[[1,2,3],[4]]"), Kind::Request, "equally long"),
        (&image, tensor("[1,2,2]", "UINT8", "[[1,2],3,4]"), Kind::Request, "expected an array of numbers"),
        (&image, tensor("[1,2,2]", "UINT8", "[[[1,2]],[3,4]]"), Kind::Request, "equally deep"),
        (&image, tensor("[1,2,2]", "UINT8", "[1,2,3,256]"), Kind::Request, "has a number that u8 has not"),
        (&image, tensor("[1,2,-2]", "UINT8", "[1]"), Kind::Request, "a whole number as an axis"),
        (&image, tensor("[1,2,2]", "UINT8", "7"), Kind::Request, "an array of numbers"),
        (&image, r#"{"name":"x","shape":[1,2,2],"data":[1,2,3,4]}"#.to_owned(), Kind::Request, "`datatype`"),
        (
            &image,
            r#"{"name":"x","shape":[1,2,2],"datatype":"UINT8"}"#.to_owned(),
            Kind::Request,
            "either `data` or",
        ),
        (
            &image,
            tensor("[1,2,2]", "UINT8", r#"[1,2,3,4],"data":[1]"#),
            Kind::Request,
            "`data` is there twice",
        ),
        (&image, String::new(), Kind::Request, "input `x` is missing"),
        (&rate, [RATE, RATE].join(","), Kind::Request, "input `sr` is there twice"),
        (&rate, INPUT.to_owned(), Kind::Request, "no such input, but sr"),
    ];
    for (inputs, tensors, kind, message) in cases {
        let error = of_json(inputs, &tensors).unwrap_err();
        assert_eq!((error.wrong.kind, error.tenant.as_deref()), (kind, Some("acme")), "{tensors}: {error}");
        assert!(error.to_string().contains(message), "{tensors}: {error}");
    }
}

#[test]
fn a_request_has_an_id_and_a_tenant_and_may_name_its_model() {
    let rate = [spec("sr", Dtype::I64, &[], None)];
    let wrong =
        |value: String| read(&rate, &record(value.as_bytes(), None), Body::Json).unwrap_err().to_string();
    for (value, message) in [
        (format!(r#"{{"inputs":[{RATE}]}}"#), "`id` is missing or empty"),
        (format!(r#"{{"id":"","inputs":[{RATE}]}}"#), "`id` is missing or empty"),
        (format!(r#"{{"id":"r","id":"r","inputs":[{RATE}]}}"#), "`id` is there twice, at byte 10"),
        (r#"{"id":"r"}"#.to_owned(), "`inputs` is missing"),
        (format!(r#"{{"id":"r","inputs":[{RATE}]}} x"#), "nothing after the request"),
        ("[]".to_owned(), "expected an object, at byte 0"),
    ] {
        assert!(wrong(value.clone()).contains(message), "{value}: {}", wrong(value.clone()));
    }
    let value = format!(r#"{{"id":"r","model_name":"other","inputs":[{RATE}]}}"#);
    let mut records = record(value.as_bytes(), None);
    let (mut row, mut text) = (Vec::new(), String::new());
    assert_eq!(decode(records.get(0), Body::Json, &rate, &mut row, &mut text).unwrap().model_id, "other");
    records.push_header(b"tenant_id", Some(b""));
    let error = decode(records.get(0), Body::Json, &rate, &mut row, &mut text).unwrap_err();
    assert!(error.to_string().contains("header `tenant_id`") && error.tenant.is_none(), "{error}");
}

/// What a result of two rows, the second of them, says in this body.
fn result(body: Body, columns: &[Column], outputs: &[TensorSpec], row: &RowFacts<'_>) -> (Records, usize) {
    let facts = BatchFacts {
        model_id: "vad",
        model_version: "0123",
        topic: "requests \"a\"",
        batch_size: 2,
        inference: Duration::from_micros(850),
        inferred_at: "2026-01-01T00:00:00.000250Z",
        not_finite: NotFinite::Allow,
        outputs,
        columns,
    };
    let results = OpenInferenceResults::new(facts, body);
    let (mut records, mut json) = (Records::default(), 0);
    records.push_with(None, |out| json = results.encode(row, out).unwrap());
    results.headers(json, &mut records);
    (records, json)
}

fn row<'a>(request_id: &'a str, tenant_id: &'a str) -> RowFacts<'a> {
    RowFacts {
        request_id,
        tenant_id,
        partition: Partition(3),
        offset: Offset(17),
        latency: Duration::from_micros(12_345),
        queue: Duration::from_millis(11),
        index: 1,
    }
}

#[test]
fn a_result_is_what_a_model_server_answers() {
    let outputs = [spec("p", Dtype::F32, &[2], Some(0)), spec("state", Dtype::I16, &[2, 1], Some(1))];
    let columns = [
        Column { axes: vec![2], values: Values::F32(vec![9.0, 9.0, 0.25, f32::NAN]) },
        Column { axes: vec![2, 1], values: Values::I16(vec![9, 9, 1, -2]) },
    ];
    let (records, json) = result(Body::Json, &columns, &outputs, &row("r-1", "acme"));
    let value = records.get(0).value().unwrap();
    assert_eq!(json, value.len());
    let parameters = json!({
        "tenant_id": "acme", "latency_ms": 12.345, "queue_ms": 11.0, "inference_ms": 0.85, "batch_size": 2,
        "inferred_at": "2026-01-01T00:00:00.000250Z", "origin_topic": "requests \"a\"", "origin_partition": 3, "origin_offset": 17,
    });
    let expected = json!({
        "model_name": "vad", "model_version": "0123", "id": "r-1", "parameters": parameters,
        "outputs": [
            {"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, null]},
            {"name": "state", "datatype": "INT16", "shape": [2, 1, 1], "data": [1, -2]},
        ],
    });
    assert_eq!(serde_json::from_slice::<Value>(value).unwrap(), expected);
    let content_type = records.get(0).header(b"content-type");
    assert_eq!(content_type, Some(Some(&b"application/x-open-inference+json"[..])));

    let (records, json) = result(Body::Binary, &columns, &outputs, &row("r-1", "acme"));
    let (text, bytes) = records.get(0).value().unwrap().split_at(json);
    let size =
        |place: usize| serde_json::from_slice::<Value>(text).unwrap()["outputs"][place]["parameters"].clone();
    assert_eq!([size(0), size(1)], [json!({"binary_data_size": 8}), json!({"binary_data_size": 4})]);
    let expected = [&0.25_f32.to_le_bytes()[..], &f32::NAN.to_le_bytes(), &[1, 0, 0xfe, 0xff]].concat();
    assert_eq!(bytes, expected);
    let length = records.get(0).header(JSON_LENGTH).flatten().unwrap();
    assert_eq!(length, json.to_string().as_bytes());
}

proptest! {
    /// What is written as a result is read as a request: names of every kind, numbers of every type, in either body.
    #[test]
    fn a_result_goes_round_as_a_request(
        id in ".{1,8}", tenant in ".{1,8}", name in ".{0,8}", place in 0..DTYPES.len(), binary: bool, batch_axis in 0_usize..3,
        bytes in prop::collection::vec(0_u8..2, 48),
    ) {
        let dtype = DTYPES[place];
        let outputs = [TensorSpec { name, dtype, axes: vec![Some(1), Some(3)], batch_axis: Some(batch_axis) }];
        let mut values = Values::new(dtype);
        prop_assert!(values.push_bytes(&bytes[..6 * dtype.bytes()]));
        let columns = [Column { axes: vec![1, 3], values }];
        let body = if binary { Body::Binary } else { Body::Json };
        let (result, json) = result(body, &columns, &outputs, &row(&id, &tenant));
        let value = result.get(0).value().unwrap();
        let mut request = value.to_vec();
        // The same object, but for the name of its tensors.
        let text = std::str::from_utf8(&value[..json]).unwrap();
        let at = text.rfind(r#","outputs":["#).unwrap();
        request.splice(at..at + 11, br#","inputs":"#.iter().copied());
        let mut records = record(&request, Some(&(json - 1).to_string()));
        records.push_header(b"tenant_id", Some(tenant.as_bytes()));
        let (mut row, mut text) = (Vec::new(), String::new());
        let read = decode(records.get(0), body, &outputs, &mut row, &mut text).unwrap();
        let part = |range: &Range<u32>| &text[range.start as usize..range.end as usize];
        prop_assert_eq!((part(&read.request_id), part(&read.tenant_id)), (&id[..], &tenant[..]));
        let mut expected = Values::new(dtype);
        expected.push_of(&columns[0].values, 3..6);
        prop_assert_eq!((&row[0].axes, &row[0].values), (&vec![1, 3], &expected));
    }

    /// Whatever the bytes are, they are refused or read, and nothing is left behind of what is refused.
    #[test]
    fn any_bytes_are_refused_or_read(
        cut in 0_usize..400, at in 0_usize..400, byte: u8, length in 0_usize..400, binary: bool,
    ) {
        let value = format!(r#"{{"id":"r","inputs":[{INPUT},{STATE},{RATE}],"parameters":{{"a":[1,"b"]}}}}"#);
        let mut value = value.into_bytes();
        value.truncate(cut);
        if let Some(place) = value.get_mut(at) {
            *place = byte;
        }
        let records = record(&value, Some(&length.to_string()));
        let body = if binary { Body::Binary } else { Body::Json };
        let (mut row, mut text) = (Vec::new(), "before".to_owned());
        let read = decode(records.get(0), body, &net(), &mut row, &mut text);
        prop_assert!(read.is_ok() || text == "before");
    }
}
