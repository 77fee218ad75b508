//! The keyed exchange: blocks to the home of their model's device, from one worker and from two.
//!
//! One worker hands its blocks on as they are; that is what the graph around the exchange costs. With two, the half of them come from
//! the other thread, and each round is over only when both workers know it.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::block::Block;
use operators::catalog::{BatchPolicy, Catalog, Limits, ModelIndex, NotFinite};
use operators::clock::{Clock, ManualClock, SystemClock};
use operators::exchange::KeyedExchange;
use operators::model::load::{ModelSettings, load_catalog};
use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Probe};
use timely::worker::Worker;

use crate::given::block;

/// Rows of a block.
const ROWS: usize = 64;

/// Blocks of a round, from all workers together: few make the cost of a round plain, many that of a block.
const BLOCKS: [usize; 2] = [2, 64];

/// Runs every bench of the exchange.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exchange");
    for blocks in BLOCKS {
        group.throughput(Throughput::Elements((blocks * ROWS) as u64));
        for workers in [1, 2] {
            let name = format!("{blocks}-blocks-of-{ROWS}/{workers}-workers");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|rounds| exchange(workers, blocks / workers, rounds));
            });
        }
    }
    group.finish();
}

/// How long the slowest of the workers took for so many rounds. Starting the threads and building the graph is not counted.
fn exchange(workers: usize, blocks: usize, rounds: u64) -> Duration {
    let catalog = catalog();
    let block = block(ROWS, 16);
    let started = Arc::new(Barrier::new(workers));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        rounds_of(worker, &catalog, &block, blocks, rounds, &started)
    });
    let guards = guards.expect("threads can be started");
    guards.join().into_iter().map(|took| took.expect("no worker panics")).max().unwrap_or_default()
}

/// What one worker does: sends its blocks of a round, and waits until all blocks of the round have arrived.
fn rounds_of(
    worker: &mut Worker,
    catalog: &Arc<Catalog>,
    block: &Arc<Block>,
    blocks: usize,
    rounds: u64,
    started: &Barrier,
) -> Duration {
    let mut input = InputHandle::new();
    let probe = worker.dataflow(|scope| {
        let stream = scope.input_from(&mut input);
        stream.keyed_exchange(Arc::clone(catalog)).probe().0
    });
    let clock = SystemClock::new();
    started.wait();
    let before = clock.now();
    for round in 1..=rounds {
        (0..blocks).for_each(|_| input.send(Arc::clone(block)));
        input.advance_to(round);
        while probe.less_than(&round) {
            worker.step_or_park(None);
        }
    }
    clock.now().since(before)
}

/// One model, at home on worker 0: there is one device.
fn catalog() -> Arc<Catalog> {
    let backend = SimulatedBackend::new([SimulatedModel::new("mlp-16", 16, 1)]);
    let batch = BatchPolicy::Static { size_max: ROWS, delay_max: Duration::ZERO };
    let settings = |_: &str| ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch,
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        open_bytes_max: None,
        home: 0,
    };
    let loaded = load_catalog(&backend, backend.found(), &ManualClock::new(), settings)
        .expect("simulated models can be served");
    assert_eq!(loaded.catalog.find(b"mlp-16"), Some(ModelIndex(0)));
    Arc::new(loaded.catalog)
}
