//! Results as `serde_json` reads them back.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::catalog::NotFinite;
use crate::lease::{Offset, Partition};
use crate::model::{Signature, TensorSpec};
use crate::tensor::Dtype;

/// A result, as a reader that is not ours would have it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    request_id: String,
    model_id: String,
    tenant_id: String,
    output: Vec<Option<f32>>,
    latency_ms: f64,
    inferred_at: String,
    model_version: String,
    origin: ReadOrigin,
    batch_size: usize,
    queue_ms: f64,
    inference_ms: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadOrigin {
    topic: String,
    partition: i32,
    offset: i64,
}

fn batch<'a>(
    texts: &'a [String; 4],
    size: usize,
    inference: Duration,
    not_finite: NotFinite,
    columns: &'a [Column],
) -> BatchFacts<'a> {
    let [model_id, model_version, topic, inferred_at] = texts.each_ref().map(String::as_str);
    let outputs = floats();
    BatchFacts {
        model_id,
        model_version,
        topic,
        batch_size: size,
        inference,
        inferred_at,
        not_finite,
        outputs,
        columns,
    }
}

/// One output of floats.
fn floats() -> &'static [TensorSpec] {
    static FLOATS: std::sync::OnceLock<Vec<TensorSpec>> = std::sync::OnceLock::new();
    FLOATS.get_or_init(|| Signature::of_floats(&[1], 1).outputs)
}

fn millis(duration: Duration) -> f64 {
    format!("{}.{:03}", duration.as_millis(), duration.subsec_micros() % 1_000).parse().expect("a number")
}

/// Times of up to a few centuries, beyond which nobody waits.
fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![0..10_000_000_000_u64, any::<u64>()].prop_map(Duration::from_nanos)
}

proptest! {
    #[test]
    fn a_result_says_what_it_was_told(
        texts: [String; 4],
        ids: (String, String),
        (size, partition, offset) in any::<(usize, i32, i64)>(),
        (inference, latency, queue) in (duration(), duration(), duration()),
        output: Vec<f32>,
        before: Vec<u8>,
    ) {
        let columns = [Column::of_floats(output.len(), output.clone())];
        let template = ResultTemplate::new(&batch(&texts, size, inference, NotFinite::Allow, &columns));
        let row = RowFacts {
            request_id: &ids.0,
            tenant_id: &ids.1,
            partition: Partition(partition),
            offset: Offset(offset),
            latency,
            queue,
            index: 0,
        };
        let mut out = before.clone();
        template.encode(&row, &mut out).unwrap();
        prop_assert_eq!(&out[..before.len()], &before[..]);
        let read: Read = serde_json::from_slice(&out[before.len()..]).unwrap();
        prop_assert_eq!((read.request_id, read.tenant_id), ids);
        prop_assert_eq!([read.model_id, read.model_version, read.origin.topic, read.inferred_at], texts);
        prop_assert_eq!((read.batch_size, read.origin.partition, read.origin.offset), (size, partition, offset));
        let times = [read.latency_ms, read.queue_ms, read.inference_ms].map(f64::to_bits);
        prop_assert_eq!(times, [latency, queue, inference].map(|time| millis(time).to_bits()));
        let floats: Vec<_> = read.output.iter().map(|value| value.map(f32::to_bits)).collect();
        let told: Vec<_> = output.iter().map(|value| value.is_finite().then(|| value.to_bits())).collect();
        prop_assert_eq!(floats, told);
    }
}

#[test]
fn what_is_not_finite_is_refused_where_it_must_not_pass() {
    let texts = ["mlp-16", "0123456789abcdef", "requests", "2026-01-01T00:00:00.000000Z"].map(str::to_owned);
    let columns = [Column::of_floats(3, vec![1.0, 2.0, 3.0, 1.0, f32::NEG_INFINITY, f32::NAN])];
    let template = ResultTemplate::new(&batch(&texts, 1, Duration::ZERO, NotFinite::Refuse, &columns));
    let mut out = b"before".to_vec();
    let row = RowFacts {
        request_id: "r",
        tenant_id: "t",
        partition: Partition(0),
        offset: Offset(0),
        latency: Duration::ZERO,
        queue: Duration::ZERO,
        index: 1,
    };
    let error = template.encode(&row, &mut out).unwrap_err();
    assert_eq!(error, NotFiniteOutput { output: None, index: 1, value: f64::NEG_INFINITY });
    assert!(error.to_string().starts_with("the output holds -inf at index 1"));
    assert_eq!(out, b"before");
}

/// What a row of these outputs is written as, between the tenant and the latency.
fn written(outputs: &[TensorSpec], columns: &[Column], index: usize) -> serde_json::Value {
    let texts = ["m", "v", "t", "now"].map(str::to_owned);
    let facts = BatchFacts { outputs, ..batch(&texts, 2, Duration::ZERO, NotFinite::Allow, columns) };
    let (request_id, tenant_id) = ("r", "t");
    let (partition, offset) = (Partition(0), Offset(0));
    let (latency, queue) = (Duration::ZERO, Duration::ZERO);
    let mut out = Vec::new();
    let row = RowFacts { request_id, tenant_id, partition, offset, latency, queue, index };
    ResultTemplate::new(&facts).encode(&row, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

fn spec(name: &str, dtype: Dtype, axes: Vec<Option<usize>>) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, axes, batch_axis: Some(0) }
}

#[test]
fn several_outputs_are_named_and_each_has_its_axes() {
    let outputs = [spec("label\"", Dtype::I64, vec![]), spec("state", Dtype::Bool, vec![Some(1), Some(2)])];
    let columns = [
        Column { axes: vec![], values: Values::I64(vec![i64::MIN, i64::MAX]) },
        Column { axes: vec![1, 2], values: Values::Bool(vec![true, false, false, true]) },
    ];
    let read = written(&outputs, &columns, 1);
    assert_eq!(
        read["outputs"],
        serde_json::json!({
            "label\"": {"shape": [], "data": [i64::MAX]},
            "state": {"shape": [1, 2], "data": [false, true]},
        })
    );
    assert_eq!((read.get("output"), &read["latency_ms"]), (None, &serde_json::json!(0.0)));
}

#[test]
fn one_output_is_an_array_unless_its_axes_have_to_be_told() {
    let fixed = [spec("y", Dtype::U64, vec![Some(2)])];
    let column = [Column { axes: vec![2], values: Values::U64(vec![0, u64::MAX]) }];
    assert_eq!(written(&fixed, &column, 0)["output"], serde_json::json!([0, u64::MAX]));
    let open = [spec("y", Dtype::U64, vec![None])];
    assert_eq!(
        written(&open, &column, 0)["output"],
        serde_json::json!({"shape": [2], "data": [0, u64::MAX]})
    );
}

proptest! {
    /// Numbers of every type are read back as what they are.
    #[test]
    fn numbers_of_every_type_go_round(place in 0..crate::tensor::DTYPES.len(), bytes in prop::collection::vec(0_u8..2, 1..5)) {
        let dtype = crate::tensor::DTYPES[place];
        let mut values = Values::new(dtype);
        let bytes: Vec<u8> = bytes.into_iter().flat_map(|byte| vec![byte; dtype.bytes()]).collect();
        prop_assert!(values.push_bytes(&bytes));
        let column = [Column { axes: vec![values.len()], values: values.clone() }];
        let read = written(&[spec("y", dtype, vec![Some(values.len())])], &column, 0);
        let text = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m","input":{}}}"#, read["output"]);
        let (mut row, mut ids) = (Vec::new(), String::new());
        let inputs = [spec("x", dtype, vec![None])];
        crate::codec::json::decode_tensors(text.as_bytes(), &inputs, &mut row, &mut ids).unwrap();
        prop_assert_eq!(&row[0].values, &values);
    }
}

#[test]
fn strings_are_escaped_as_serde_json_escapes_them_up_to_rare_controls() {
    let every: String = (0..=0x7f_u8).map(char::from).chain("ü€😀\u{2028}".chars()).collect();
    let mut out = Vec::new();
    write_string(&every, &mut out);
    let theirs = serde_json::to_string(&every).unwrap().replace("\\b", "\\u0008").replace("\\f", "\\u000c");
    assert_eq!(String::from_utf8(out).unwrap(), theirs);
}
