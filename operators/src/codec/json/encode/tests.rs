//! Results as `serde_json` reads them back.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::lease::{Offset, Partition};

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
) -> BatchFacts<'a> {
    let [model_id, model_version, topic, inferred_at] = texts.each_ref().map(String::as_str);
    BatchFacts { model_id, model_version, topic, batch_size: size, inference, inferred_at, not_finite }
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
        let template = ResultTemplate::new(&batch(&texts, size, inference, NotFinite::Allow));
        let row = RowFacts {
            request_id: &ids.0,
            tenant_id: &ids.1,
            partition: Partition(partition),
            offset: Offset(offset),
            latency,
            queue,
            output: &output,
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
    let template = ResultTemplate::new(&batch(&texts, 1, Duration::ZERO, NotFinite::Refuse));
    let mut out = b"before".to_vec();
    let row = RowFacts {
        request_id: "r",
        tenant_id: "t",
        partition: Partition(0),
        offset: Offset(0),
        latency: Duration::ZERO,
        queue: Duration::ZERO,
        output: &[1.0, f32::NEG_INFINITY, f32::NAN],
    };
    let error = template.encode(&row, &mut out).unwrap_err();
    assert_eq!(error, NotFiniteOutput { index: 1, value: f32::NEG_INFINITY });
    assert!(error.to_string().starts_with("the output holds -inf at index 1"));
    assert_eq!(out, b"before");
}

#[test]
fn strings_are_escaped_as_serde_json_escapes_them_up_to_rare_controls() {
    let every: String = (0..=0x7f_u8).map(char::from).chain("ü€😀\u{2028}".chars()).collect();
    let mut out = Vec::new();
    write_string(&every, &mut out);
    let theirs = serde_json::to_string(&every).unwrap().replace("\\b", "\\u0008").replace("\\f", "\\u000c");
    assert_eq!(String::from_utf8(out).unwrap(), theirs);
}
