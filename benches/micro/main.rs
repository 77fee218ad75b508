//! Micro-benches: the pieces of the hot path, each by itself. `cargo bench --bench micro -- codec` runs one subject; there are `codec`,
//! `block`, `exchange`, `ledger` and `window`.
//!
//! Only ratios within one run mean something: the machine is whatever it is.

mod block;
mod codec;
mod exchange;
mod given;
mod ledger;
mod typed;
mod window;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec::bench(&mut criterion);
    block::bench(&mut criterion);
    exchange::bench(&mut criterion);
    ledger::bench(&mut criterion);
    window::bench(&mut criterion);
    criterion.final_summary();
}
