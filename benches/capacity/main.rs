//! Capacity analysis: what it costs, and how good its predictions are.
//!
//! ```text
//!   cargo bench --bench capacity -- cost                                   what observing and maintaining cost, without a broker
//!   scripts/kafka.sh run -- cargo bench --bench capacity -- proof          predictions beside what then happened: make capacity-proof
//! ```

mod cost;
mod drain;
mod latency;
mod proof;
mod scene;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "capacity", about = "What capacity analysis costs, and how good it is")]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Write the figures to a file too, one JSON object a line
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// What observing and maintaining cost
    Cost,
    /// Predictions beside what then happened, on a real broker
    Proof(proof::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.what.unwrap_or(What::Cost) {
        What::Cost => cost::run(args.json.as_deref()),
        What::Proof(proof) => proof::run(&proof, args.json.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capacity: {error}");
            ExitCode::FAILURE
        }
    }
}
