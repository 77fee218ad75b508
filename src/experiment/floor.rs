//! The floor: what each stage costs alone, in CPU time a record.
//!
//! Nothing of the engine is between the stages here: no partitions' order, no exactly-once, no batches mixed of many partitions, no
//! metrics. Decode, inference and encoding use one thread; consuming and producing count the client library's threads as well.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use operators::broker::{Broker as _, Class, GroupEvent, PollLimit, Polled, Waker};
use operators::catalog::NotFinite;
use operators::clock::{Clock as _, Moment, SystemClock};
use operators::codec::facts::{BatchFacts, RowFacts};
use operators::codec::json::{self, ResultTemplate};
use operators::lease::{Lease, NextOffset, Offset, Partition, Term};
use operators::model::onnx::OnnxBackend;
use operators::model::{Backend as _, Signature, store};
use operators::records::{RecordView, Records};
use operators::tensor::Column;
use serde::Serialize;

use super::Failure;
use super::cpu::Stopwatch;
use super::world::World;
use crate::surroundings::onnx_config;

/// Requests that decode, inference and encoding are measured with: more do not fit a cache either.
const SAMPLE: u64 = 10_000;

/// How long a stage is repeated.
const ALONE: Duration = Duration::from_millis(300);

/// Results that are produced.
const PRODUCED: u64 = 100_000;

/// What the stages cost, in nanoseconds of CPU a record.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Floor {
    #[serde(rename = "floor_cpu_ns_per_record")]
    sum: u64,
    #[serde(rename = "floor_consume_ns")]
    consume: u64,
    #[serde(rename = "floor_decode_ns")]
    decode: u64,
    #[serde(rename = "floor_infer_ns")]
    infer: u64,
    #[serde(rename = "floor_encode_ns")]
    encode: u64,
    #[serde(rename = "floor_produce_ns")]
    produce: u64,
}

impl Floor {
    /// The names of its figures.
    pub const KEYS: [&str; 6] = [
        "floor_cpu_ns_per_record",
        "floor_consume_ns",
        "floor_decode_ns",
        "floor_infer_ns",
        "floor_encode_ns",
        "floor_produce_ns",
    ];

    /// All stages together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Its figures, by name.
    pub fn figures(&self) -> [(&'static str, u64); 6] {
        let figures = [self.sum, self.consume, self.decode, self.infer, self.encode, self.produce];
        std::array::from_fn(|place| (Self::KEYS[place], figures[place]))
    }
}

/// Measures the stages with the requests that are in the topic.
///
/// # Errors
///
/// If the broker or the model fails.
pub fn measure(world: &World, requests: u64) -> Result<Floor, Failure> {
    let (model, row_len) = (world.model.id.as_str(), world.model.row_len);
    let consume = consume(world, requests)?;
    let sample = SAMPLE.min(requests);
    let batch = world.config.batch_policy(model).size_max();
    let mut load = world.load(sample)?;
    let mut originals = Records::default();
    while load.push_next(&mut originals).is_some() {}

    let mut scratch = Decoded::default();
    let decode = alone(sample, || {
        originals.iter().enumerate().for_each(|(place, original)| {
            if place % batch == 0 {
                scratch.clear();
            }
            scratch.push(original, row_len);
        });
    });
    let mut decoded = Decoded::default();
    originals.iter().for_each(|original| decoded.push(original, row_len));
    let mut outputs = Vec::new();
    let infer = infer(world, model, row_len, batch, &decoded.values, &mut outputs, sample)?;
    let outputs: Vec<[Column; 1]> = batches(&outputs, outputs.len() / decoded.ids.len().max(1), batch);
    let mut value = Vec::new();
    let encode = alone(sample, || {
        encode_each(world, model, batch, &decoded, &outputs, |facts, template| {
            value.clear();
            template.encode(facts, &mut value).expect("the outputs are finite");
            black_box(&value);
        });
    });
    let mut results = Records::default();
    encode_each(world, model, batch, &decoded, &outputs, |facts, template| {
        results.push_with(Some(facts.request_id.as_bytes()), |out| {
            template.encode(facts, out).expect("the outputs are finite");
        });
        results.push_header(b"model_id", Some(model.as_bytes()));
        results.push_header(b"tenant_id", Some(facts.tenant_id.as_bytes()));
    });
    let produce = produce(world, &results)?;
    let sum = consume + decode + infer + encode + produce;
    Ok(Floor { sum, consume, decode, infer, encode, produce })
}

/// What `stage` costs for each of so many records. It is repeated, because the kernel books CPU time in ticks of milliseconds.
fn alone(records: u64, mut stage: impl FnMut()) -> u64 {
    stage(); // fills caches and buffers
    let clock = SystemClock::new();
    let watch = Stopwatch::start();
    let mut times = 0;
    while times == 0 || clock.now().since(Moment::START) < ALONE {
        stage();
        times += 1;
    }
    watch.nanos() / (records * times).max(1)
}

/// The whole topic, once, read as a member of a group reads it: each record is looked at and dropped.
fn consume(world: &World, requests: u64) -> Result<u64, Failure> {
    const SILENCE: Duration = Duration::from_secs(10);
    // Small enough for a cache: larger pieces cost the kernel their pages anew each time.
    const LIMIT: PollLimit = PollLimit { records: 64, bytes: 64 << 10 };
    let late = |what| Failure::Late { what, limit: SILENCE };
    let mut member =
        world.broker.member(&format!("{}-floor", world.name), &world.config.topics.requests.name)?;
    let clock = SystemClock::new();
    let partitions = loop {
        match member.poll(Duration::from_millis(100)) {
            Some(GroupEvent::Assigned(partitions)) if !partitions.is_empty() => break partitions,
            Some(GroupEvent::Failed(error)) => return Err(error.into()),
            _ if clock.now().since(Moment::START) > SILENCE => return Err(late("joining a group")),
            _ => {}
        }
    };
    let reader = std::thread::current();
    let waker: Waker = Arc::new(move || reader.unpark());
    let mut queues = Vec::with_capacity(partitions.len());
    for partition in &partitions {
        let lease = Lease { partition: *partition, term: Term(1) };
        queues.push((lease, member.queue(*partition, Arc::clone(&waker))?));
    }
    let starts: Vec<_> = partitions.into_iter().map(|partition| (partition, NextOffset(0))).collect();
    let watch = Stopwatch::start();
    member.assign(&starts)?;
    let (mut seen, mut last) = (0, clock.now());
    while seen < requests {
        let before = seen;
        for (lease, queue) in &mut queues {
            let mut polled = Polled::default();
            queue.poll(*lease, &mut polled, LIMIT)?;
            for record in polled.records.iter() {
                black_box(record.value());
            }
            seen += polled.records.len() as u64;
        }
        if seen > before {
            last = clock.now();
        } else if clock.now().since(last) > SILENCE {
            return Err(late("reading the next request"));
        } else {
            drop(member.poll(Duration::ZERO));
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    let nanos = watch.nanos() / requests.max(1);
    member.leave()?;
    Ok(nanos)
}

/// The requests, as decode leaves them.
#[derive(Default)]
struct Decoded {
    values: Vec<f32>,
    text: String,
    ids: Vec<(Range<u32>, Range<u32>)>,
}

impl Decoded {
    fn push(&mut self, original: RecordView<'_>, row_len: usize) {
        let value = original.value().unwrap_or_default();
        let request = json::decode(value, row_len, &mut self.values, &mut self.text)
            .expect("the load has only good requests");
        self.ids.push((request.request_id, request.tenant_id));
    }

    fn clear(&mut self) {
        self.values.clear();
        self.text.clear();
        self.ids.clear();
    }

    fn text(&self, range: &Range<u32>) -> &str {
        &self.text[range.start as usize..range.end as usize]
    }
}

fn infer(
    world: &World,
    model: &str,
    row_len: usize,
    batch: usize,
    values: &[f32],
    outputs: &mut Vec<f32>,
    records: u64,
) -> Result<u64, Failure> {
    let found = store::find(&world.config.models.path, store::BYTES_MAX)?;
    let file = found.files.into_iter().find(|file| file.id == model);
    let file = file.ok_or_else(|| Failure::Unexpected(format!("there is no model {model}")))?;
    let mut opened = OnnxBackend::new(onnx_config(&world.config))?.open(&file)?;
    let batches = batches(values, row_len, batch);
    let mut output = Vec::new();
    let mut failed = None;
    let nanos = alone(records, || {
        outputs.clear();
        for inputs in &batches {
            let rows = inputs[0].values.len() / row_len;
            failed = opened.run(rows, inputs, &mut output).err().or(failed.take());
            outputs.extend_from_slice(output[0].floats());
        }
    });
    failed.map_or(Ok(nanos), |error| Err(error.into()))
}

/// Rows of so many floats each, in batches of so many rows.
fn batches(floats: &[f32], row_len: usize, batch: usize) -> Vec<[Column; 1]> {
    let rows = floats.chunks((batch * row_len).max(1));
    rows.map(|rows| [Column::of_floats(row_len, rows.to_vec())]).collect()
}

/// Calls `each` with what is known of every result, in batches.
fn encode_each(
    world: &World,
    model: &str,
    batch: usize,
    decoded: &Decoded,
    outputs: &[[Column; 1]],
    mut each: impl FnMut(&RowFacts<'_>, &ResultTemplate<'_>),
) {
    let signature = Signature::of_floats(&[1], 1);
    for (columns, ids) in outputs.iter().zip(decoded.ids.chunks(batch)) {
        let template = ResultTemplate::new(&BatchFacts {
            model_id: model,
            model_version: "0123456789abcdef",
            topic: &world.config.topics.requests.name,
            batch_size: ids.len(),
            inference: Duration::from_micros(120),
            inferred_at: "2026-01-01T00:00:00.000250Z",
            not_finite: NotFinite::Refuse,
            outputs: &signature.outputs,
            columns,
        });
        for (place, (request_id, tenant_id)) in ids.iter().enumerate() {
            let facts = RowFacts {
                request_id: decoded.text(request_id),
                tenant_id: decoded.text(tenant_id),
                partition: Partition(17),
                offset: Offset(1_234_567),
                latency: Duration::from_micros(12_345),
                queue: Duration::from_micros(11_200),
                index: place,
            };
            each(&facts, &template);
        }
    }
}

/// Results in transactions, as large and as long as the engine's.
fn produce(world: &World, results: &Records) -> Result<u64, Failure> {
    let mut producer = world.broker.producer(&format!("{}-floor", world.name))?;
    let topic = &world.config.topics.results.name;
    let commit = world.config.commit;
    let clock = SystemClock::new();
    let mut transactions = |count: u64| -> Result<(), Failure> {
        let mut sent = 0;
        while sent < count {
            producer.begin()?;
            let begun = clock.now();
            let end = count.min(sent + commit.records_max as u64);
            while sent < end && clock.now().since(begun) < commit.interval {
                let place = usize::try_from(sent).unwrap_or(0) % results.len();
                match producer.send(topic, None, results.get(place)) {
                    Ok(()) => sent += 1,
                    Err(error) if error.class == Class::QueueFull => {
                        producer.drain(Duration::from_millis(100))?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            while !producer.drain(Duration::from_millis(100))? {}
            producer.commit()?;
        }
        Ok(())
    };
    transactions(results.len() as u64 / 10)?;
    let watch = Stopwatch::start();
    transactions(PRODUCED)?;
    Ok(watch.nanos() / PRODUCED)
}
