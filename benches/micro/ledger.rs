//! The ledger: what a record costs from its opening until the frontier has passed it, by the order in which outcomes come.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use operators::clock::Moment;
use operators::commit_order::{CommitOrder, OrderKey};
use operators::done::Done;
use operators::lease::Offset;
use operators::ledger::{Delivery, Ledger, Opened};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Records of a lease in flight.
pub(crate) const RECORDS: usize = 4096;

/// Outcomes that come home together.
const OUTCOMES: usize = 64;

/// Runs every bench of the ledger.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger/open-close-frontier");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, commit_order, gaps, order) in cases() {
        // One lease throughout, as in the engine: its memory is there after the first rounds.
        let mut ledger = Ledger::new(commit_order, Done::default());
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| round(&mut ledger, gaps, black_box(&order)));
        });
    }
    group.finish();
}

/// Names, the order of commits, whether offsets have gaps, and orders of the places of [`RECORDS`] records.
fn cases() -> [(&'static str, CommitOrder, bool, Vec<usize>); 6] {
    let in_order: Vec<usize> = (0..RECORDS).collect();
    let reversed = in_order.chunks(OUTCOMES).flat_map(|chunk| chunk.iter().rev().copied()).collect();
    let mut shuffled = in_order.clone();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    [
        ("in-order", CommitOrder::Partition, false, in_order),
        ("reversed-in-64", CommitOrder::Partition, false, reversed),
        ("shuffled", CommitOrder::Partition, false, shuffled.clone()),
        ("shuffled-with-gaps", CommitOrder::Partition, true, shuffled.clone()),
        ("shuffled-by-key", CommitOrder::Key, false, shuffled.clone()),
        ("shuffled-unordered", CommitOrder::None, false, shuffled),
    ]
}

/// Opens every record, closes each, and after every few looks at the frontier and lets go what it has passed, as the sink does.
pub(crate) fn round(ledger: &mut Ledger<u64>, gaps: bool, order: &[usize]) {
    let start = ledger.read().0;
    let offset = |place: usize| {
        let place = i64::try_from(place).expect("a place in a vector");
        // A control record after every sixty-fourth, as at the end of a producer's transaction.
        Offset(start + if gaps { place + place / 64 } else { place })
    };
    for place in 0..order.len() {
        let key = OrderKey::of(Some(&[u8::try_from(place % 40).expect("fewer than 40 keys")]));
        let opened =
            Opened { offset: offset(place), epoch: 0, at: Moment::START, millis: 0, bytes: 400, key };
        assert_eq!(ledger.open(opened), Delivery::First);
    }
    let mut left = 0;
    for outcomes in order.chunks(OUTCOMES) {
        for place in outcomes {
            ledger.close(offset(*place), |opened| opened.bytes.into()).expect("it was opened above");
        }
        ledger.drain_ready(|_, outcome| {
            black_box(outcome);
            left += 1;
        });
        black_box(ledger.frontier());
    }
    assert_eq!((left, ledger.open_records()), (order.len(), 0));
}
