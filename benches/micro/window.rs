//! Windows: blocks go in, batches come out, cut where a batch is full.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::block::Block;
use operators::catalog::BatchPolicy;
use operators::clock::Moment;
use operators::window::Window;

use crate::given::block;

/// Rows that pass the window in a round.
const ROWS: usize = 4000;

/// Rows of a block: of a poll that found little, and of one that found plenty.
const BLOCKS: [usize; 2] = [4, 500];

/// Runs every bench of windows.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window/push-take");
    group.throughput(Throughput::Elements(ROWS as u64));
    for rows in BLOCKS {
        let blocks: Vec<Arc<Block>> = (0..ROWS / rows).map(|_| block(rows, 16)).collect();
        let mut window = Window::new(BatchPolicy { size_max: 64, delay_max: Duration::from_millis(5) });
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}-rows")), |bencher| {
            bencher.iter(|| assert_eq!(round(&mut window, black_box(&blocks)), ROWS));
        });
    }
    group.finish();
}

/// Pushes every block, and takes a batch whenever one is full, and what is left at the end; returns the rows taken.
fn round(window: &mut Window<u64>, blocks: &[Arc<Block>]) -> usize {
    let mut taken = 0;
    let mut take = |window: &mut Window<u64>| {
        let batch = window.take();
        taken += batch.iter().map(|run| run.rows.len()).sum::<usize>();
        black_box(batch);
    };
    for (block, epoch) in blocks.iter().zip(0..) {
        window.push(Arc::clone(block), 0..block.len(), epoch);
        while window.closes(Moment::START).is_some() {
            take(window);
        }
    }
    while window.closes(Moment::NEVER).is_some() {
        take(window);
    }
    taken
}
