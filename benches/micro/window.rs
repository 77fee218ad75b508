//! Windows: blocks go in, batches come out, cut where a batch is full.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::block::Block;
use operators::window::{Taken, Window};

use crate::given::block;

/// Rows that pass the window in a round.
pub(crate) const ROWS: usize = 4000;

/// Rows of a batch.
const BATCH: usize = 64;

/// Rows of a block: of a poll that found little, and of one that found plenty.
const BLOCKS: [usize; 2] = [4, 500];

/// Runs every bench of windows.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window/push-take");
    group.throughput(Throughput::Elements(ROWS as u64));
    for rows in BLOCKS {
        let blocks: Vec<Arc<Block>> = (0..ROWS / rows).map(|_| block(rows, 16)).collect();
        let mut window = Window::new(Arc::default(), usize::MAX);
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}-rows")), |bencher| {
            bencher.iter(|| assert_eq!(round(&mut window, black_box(&blocks)), ROWS));
        });
    }
    group.finish();
}

/// Pushes every block, and takes a batch whenever one is full, and what is left at the end; returns the rows taken.
pub(crate) fn round(window: &mut Window<u64>, blocks: &[Arc<Block>]) -> usize {
    let mut taken = 0;
    let mut take = |window: &mut Window<u64>| {
        let Taken { runs, bill } = window.take(BATCH, Duration::from_micros(1));
        taken += runs.iter().map(|run| run.rows.len()).sum::<usize>();
        black_box(runs);
        bill.into_iter().for_each(|bill| window.settle(bill, Duration::from_micros(64)));
    };
    for (block, epoch) in blocks.iter().zip(0..) {
        window.push(Arc::clone(block), 0..block.len(), epoch);
        while window.rows() >= BATCH {
            take(window);
        }
    }
    while window.rows() > 0 {
        take(window);
    }
    taken
}
