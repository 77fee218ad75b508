//! Blocks: filled row by row, made of what a poll brings, and gathered into the input of a batch.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::block::Block;
use operators::breaker::Breaker;
use operators::catalog::{BatchPolicy, Limits, ModelIndex, NotFinite};
use operators::clock::{ManualClock, SystemClock};
use operators::dead_letter::Letterhead;
use operators::decode::DecodeParts;
use operators::device::Batch;
use operators::letters::Letters;
use operators::model::load::{Loaded, ModelSettings, load_catalog};
use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use operators::observe::{CloseReason, Silent};
use operators::tensor::Column;
use operators::window::Run;

use crate::given::{block, numbers, polled, push_row};

/// Floats a row.
const WIDTHS: [usize; 2] = [16, 784];

/// Rows of a batch, and records of a poll.
pub(crate) const ROWS: usize = 512;

/// The models that requests are for.
pub(crate) const MODELS: [&str; 4] = ["mlp-16", "mlp-17", "mlp-18", "mlp-19"];

/// Runs every bench of blocks.
pub(crate) fn bench(criterion: &mut Criterion) {
    fill(criterion);
    decode(criterion);
    gather(criterion);
}

/// Rows into an empty block: what decode does beside reading JSON.
fn fill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block/fill");
    group.throughput(Throughput::Elements(ROWS as u64));
    for floats in WIDTHS {
        let (values, polled) = (numbers(floats), polled(&MODELS[..1], ROWS, floats));
        group.bench_function(BenchmarkId::from_parameter(format!("{floats}-floats")), |bencher| {
            bencher.iter(|| {
                let mut block = Block::new(
                    ModelIndex(0),
                    0,
                    vec![Column::of_floats(floats, Vec::new())],
                    Arc::clone(&polled),
                );
                (0..ROWS).for_each(|_| push_row(&mut block, black_box(&values)));
                block
            });
        });
    }
    group.finish();
}

/// A polled piece into the blocks of its models: the whole of decode.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block/decode");
    group.throughput(Throughput::Elements(ROWS as u64));
    for floats in WIDTHS {
        let parts = parts(floats);
        for models in [1, MODELS.len()] {
            let polled = polled(&MODELS[..models], ROWS, floats);
            let name = format!("{floats}-floats/{models}-models");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    let decoded = parts.decode(black_box(&polled), 0);
                    assert_eq!((decoded.blocks.len(), decoded.letters.len()), (models, 0));
                    decoded
                });
            });
        }
    }
    group.finish();
}

/// The rows of several blocks into the input of one batch, as an executor does it before each run.
fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block/gather");
    group.throughput(Throughput::Elements(ROWS as u64));
    for floats in WIDTHS {
        for blocks in [ROWS, ROWS / 8, 1] {
            let batch = batch(blocks, floats);
            let name = format!("{floats}-floats/{blocks}-blocks");
            let mut input = Column::of_floats(floats, Vec::new());
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    input.values.truncate(0);
                    for run in black_box(&batch).cut(0..ROWS) {
                        let rows = run.rows.start * floats..run.rows.end * floats;
                        input.values.push_of(&run.block.columns[0].values, rows);
                    }
                    assert_eq!(input.values.len(), ROWS * floats);
                    black_box(&input);
                });
            });
        }
    }
    group.finish();
}

/// What decode works with, every model simulated.
pub(crate) fn parts(floats: usize) -> DecodeParts {
    let loaded = loaded(&backend(floats));
    DecodeParts { catalog: Arc::new(loaded.catalog), letters: letters(), bytes_max: 1 << 20 }
}

/// The models, which cost nothing.
pub(crate) fn backend(floats: usize) -> SimulatedBackend {
    SimulatedBackend::new(MODELS.map(|id| SimulatedModel::new(id, floats, 1)))
}

/// Their catalog.
pub(crate) fn loaded(backend: &SimulatedBackend) -> Loaded {
    let batch = BatchPolicy::Static { size_max: 64, delay_max: Duration::ZERO };
    let settings = |_: &str| ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch,
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        open_bytes_max: None,
        devices: vec![0],
    };
    load_catalog(backend, backend.found(), &ManualClock::new(), settings)
        .expect("simulated models can be served")
}

/// How dead letters are written.
pub(crate) fn letters() -> Letters {
    let (topic, group) = ("inference.requests".to_owned(), "tidemill".to_owned());
    let head = Letterhead { topic, group, partitions: 32, bytes_max: 1 << 20 };
    Letters {
        head: Arc::new(head),
        clock: Arc::new(SystemClock::new()),
        observer: Arc::new(Silent),
        breaker: Arc::new(Breaker::new(None, Arc::default(), Arc::new(Silent))),
    }
}

/// A batch of so many blocks of one size.
pub(crate) fn batch(blocks: usize, floats: usize) -> Batch {
    let rows = ROWS / blocks;
    let run = |_| Run { block: block(rows, floats), rows: 0..rows, token: 0 };
    let catalog = parts(floats).catalog;
    Batch {
        id: 0,
        model: ModelIndex(0),
        served: Arc::clone(catalog.served(ModelIndex(0)).expect("every model is served")),
        runs: (0..blocks).map(run).collect(),
        closed: CloseReason::Full,
        attempt: 1,
        hangs: 0,
    }
}
