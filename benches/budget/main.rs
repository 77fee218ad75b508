//! What the pieces of the hot path may take of a machine, counted rather than timed: allocations and instructions a record. Counts do not
//! depend on who else is on the machine, so that CI can hold them against what was recorded.
//!
//! ```text
//!   make budget                   counts, and compares with benches/budget/budget.toml
//!   make budget ARGS=--record     writes them there
//! ```
//!
//! Instructions are counted by callgrind; without valgrind they are left out, and that is said. They depend on the compiler, on how well
//! it was asked to optimize and on the processor's kind: those of the file are of the profile that it names, and are compared only there.

#[path = "../micro/block.rs"]
#[expect(dead_code, reason = "what it gives to measure is used, and its benches are not")]
mod block;
mod callgrind;
#[path = "../micro/given.rs"]
#[expect(dead_code, reason = "it is made for more benches than this")]
mod given;
#[path = "../micro/ledger.rs"]
#[expect(dead_code, reason = "as above")]
mod ledger;
mod pieces;
mod recorded;
#[path = "../micro/window.rs"]
#[expect(dead_code, reason = "as above")]
mod window;

use std::process::ExitCode;

use clap::Parser;

use self::pieces::{Piece, measured};
use self::recorded::{Budget, Count};

/// Rounds before anything is counted: by then every buffer has grown to its size.
const WARM_UP: usize = 5;

/// Rounds that are counted.
const ROUNDS: usize = 5;

#[derive(Debug, Parser)]
#[command(
    name = "budget",
    about = "What the pieces of the hot path may take: allocations and instructions a record"
)]
struct Args {
    /// Write what is counted to benches/budget/budget.toml, in place of comparing it
    #[arg(long)]
    record: bool,

    /// Do one piece, for callgrind to look at
    #[arg(long, hide = true)]
    piece: Option<String>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let pieces = pieces::all();
    if let Some(name) = args.piece {
        let piece = pieces.into_iter().find(|piece| piece.name == name);
        return piece.map_or(ExitCode::from(2), |piece| {
            run(piece);
            ExitCode::SUCCESS
        });
    }
    match weigh(pieces, args.record) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("budget: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all of it; whether everything is within its budget.
fn weigh(pieces: Vec<Piece>, record: bool) -> Result<bool, String> {
    let has_callgrind = callgrind::is_there();
    if !has_callgrind {
        eprintln!("budget: instructions are not counted: there is no valgrind (Debian: valgrind)");
    }
    let mut counts = Vec::new();
    for piece in pieces {
        let name = piece.name;
        let instructions =
            has_callgrind.then(|| callgrind::instructions(name)).transpose()?.map(per_record(piece.records));
        let allocations = per_record(piece.records)(allocations(piece));
        counts.push((name, Count { allocations, instructions }));
    }
    if record {
        if !has_callgrind {
            return Err("a budget without instructions is not recorded".to_owned());
        }
        return Budget::of(counts).write().map(|()| true);
    }
    let budget = Budget::read()?;
    Ok(budget.compare(&counts))
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn per_record(records: usize) -> impl Fn(u64) -> f64 {
    move |count| count as f64 / (records * ROUNDS) as f64
}

fn run(mut piece: Piece) {
    (0..WARM_UP).for_each(|_| (piece.round)());
    (0..ROUNDS).for_each(|_| measured(&mut piece));
}

/// Allocations in all rounds, those that make a buffer larger included.
fn allocations(mut piece: Piece) -> u64 {
    (0..WARM_UP).for_each(|_| (piece.round)());
    let counted = allocation_counter::measure(|| (0..ROUNDS).for_each(|_| (piece.round)()));
    counted.count_total
}
