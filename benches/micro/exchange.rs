//! The keyed exchange: blocks to the home of their device, worker 0, from one worker and from two.
//!
//! One worker hands its blocks on as they are; that is what the graph around the exchange costs. With two, the half of them come from
//! the other thread, and each round is over only when both workers know it.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::block::Block;
use operators::clock::{Clock, SystemClock};
use operators::exchange::KeyedExchange;
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
    let block = block(ROWS, 16);
    let started = Arc::new(Barrier::new(workers));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        rounds_of(worker, &block, blocks, rounds, &started)
    });
    let guards = guards.expect("threads can be started");
    guards.join().into_iter().map(|took| took.expect("no worker panics")).max().unwrap_or_default()
}

/// What one worker does: sends its blocks of a round, and waits until all blocks of the round have arrived.
fn rounds_of(
    worker: &mut Worker,
    block: &Arc<Block>,
    blocks: usize,
    rounds: u64,
    started: &Barrier,
) -> Duration {
    let mut input = InputHandle::new();
    let probe = worker.dataflow(|scope| {
        let stream = scope.input_from(&mut input);
        stream.keyed_exchange().probe().0
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
