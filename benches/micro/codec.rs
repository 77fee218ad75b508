//! Requests in, results out: ours beside `serde_json` with derived types.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::catalog::NotFinite;
use operators::codec::facts::{BatchFacts, RowFacts};
use operators::codec::json::{self, ResultTemplate};
use operators::codec::x_tensor;
use operators::lease::{Offset, Partition};
use operators::model::Signature;
use operators::tensor::Column;
use serde::Serialize;

use crate::given::{numbers, request, tensor};
use crate::typed::Request;

/// Runs every bench of the codec.
pub(crate) fn bench(criterion: &mut Criterion) {
    decode(criterion);
    decode_tensors(criterion);
    encode(criterion);
}

/// Floats, and how each is written: with a fixed number of decimals, or as Python writes an `f32` that became a float there.
const SHAPES: [(usize, Option<usize>); 5] =
    [(16, Some(4)), (16, Some(9)), (784, Some(4)), (784, Some(9)), (784, None)];

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/decode");
    for (floats, decimals) in SHAPES {
        let value = request("mlp-16", floats, decimals);
        let name = decimals.map_or_else(
            || format!("{floats}x17-digits"),
            |decimals| format!("{floats}x{decimals}-decimals"),
        );
        group.throughput(Throughput::Bytes(value.len() as u64));
        group.bench_with_input(BenchmarkId::new("ours", &name), value.as_bytes(), |bencher, value| {
            let (mut values, mut text) = (Vec::new(), String::new());
            bencher.iter(|| {
                values.clear();
                text.clear();
                let request =
                    json::decode(black_box(value), floats, &mut values, &mut text).expect("a request");
                assert_eq!(request.floats, floats);
                black_box((&values, &text));
            });
        });
        group.bench_with_input(BenchmarkId::new("serde_json", &name), value.as_bytes(), |bencher, value| {
            bencher.iter(|| {
                let request: Request<'_> = serde_json::from_slice(black_box(value)).expect("a request");
                assert_eq!(request.input.len(), floats);
                black_box(request)
            });
        });
    }
    group.finish();
}

/// The same rows as raw tensors: what is left when nothing has to be parsed.
fn decode_tensors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/decode");
    for floats in [16, 784] {
        let records = tensor(floats);
        group.throughput(Throughput::Bytes(4 * floats as u64));
        group.bench_function(BenchmarkId::new("x-tensor", floats), |bencher| {
            let (mut values, mut text) = (Vec::new(), String::new());
            bencher.iter(|| {
                values.clear();
                text.clear();
                let request = x_tensor::decode(black_box(records.get(0)), &mut values, &mut text);
                assert_eq!(request.expect("a request").floats, floats);
                black_box((&values, &text));
            });
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/encode");
    let output = numbers(10);
    let (latency, queue, inference) =
        (Duration::from_micros(12_345), Duration::from_micros(11_200), Duration::from_micros(850));
    let (model_id, model_version, topic) = ("mlp-16", "0123456789abcdef", "inference.requests");
    let inferred_at = "2026-01-01T00:00:00.000250Z";
    let (request_id, tenant_id) = ("7b0c5f7e-6f0b-4c43-8b0e-2f9d6d1c9a11", "tenant-3");
    let (signature, columns) = (Signature::of_floats(&[16], 10), [Column::of_floats(10, output.clone())]);
    let template = ResultTemplate::new(&BatchFacts {
        model_id,
        model_version,
        topic,
        batch_size: 64,
        inference,
        inferred_at,
        not_finite: NotFinite::Refuse,
        outputs: &signature.outputs,
        columns: &columns,
    });
    let (partition, offset) = (Partition(17), Offset(1_234_567));
    let row = RowFacts { request_id, tenant_id, partition, offset, latency, queue, index: 0 };
    let mut out = Vec::new();
    group.bench_function("ours/10-floats", |bencher| {
        bencher.iter(|| {
            out.clear();
            template.encode(black_box(&row), &mut out).expect("finite");
            black_box(&out);
        });
    });
    let result = Outcome {
        request_id,
        model_id,
        tenant_id,
        output: &output,
        latency_ms: latency.as_secs_f64() * 1e3,
        inferred_at,
        model_version,
        origin: OutcomeOrigin { topic, partition: partition.0, offset: offset.0 },
        batch_size: 64,
        queue_ms: queue.as_secs_f64() * 1e3,
        inference_ms: inference.as_secs_f64() * 1e3,
    };
    group.bench_function("serde_json/10-floats", |bencher| {
        bencher.iter(|| {
            out.clear();
            serde_json::to_writer(&mut out, black_box(&result)).expect("finite");
            black_box(&out);
        });
    });
    group.finish();
}

/// A result by `serde`.
#[derive(Serialize)]
struct Outcome<'a> {
    request_id: &'a str,
    model_id: &'a str,
    tenant_id: &'a str,
    output: &'a [f32],
    latency_ms: f64,
    inferred_at: &'a str,
    model_version: &'a str,
    origin: OutcomeOrigin<'a>,
    batch_size: usize,
    queue_ms: f64,
    inference_ms: f64,
}

#[derive(Serialize)]
struct OutcomeOrigin<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
}
