//! Micro-benches: the pieces of the hot path, each by itself. `cargo bench --bench micro -- codec` runs one subject.
//!
//! Only ratios within one run mean something: the machine is whatever it is.

mod codec;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec::bench(&mut criterion);
    criterion.final_summary();
}
