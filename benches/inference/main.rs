//! Inference by itself: the infer operator and real executor threads, without a broker, on models that take a time that is known.
//!
//! ```text
//!   cargo bench --bench inference -- slo --json FILE
//! ```
//!
//! | subject | what is measured |
//! | --- | --- |
//! | `slo` | with nothing but an objective given: whether it is kept, and the throughput beside that of the best static policy |

#[path = "../end_to_end/machine.rs"]
mod machine;
mod rig;
mod slo;
mod timed;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use machine::Machine;

#[derive(Debug, Parser)]
#[command(name = "inference", about = "Inference by itself, on models that take a time that is known")]
struct Args {
    #[command(subcommand)]
    subject: Subject,

    /// Write the figures to a file too, one JSON object a line
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,

    /// Given by `cargo bench`
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Subject {
    /// An objective over a load that grows a hundred times, beside static policies; about three minutes
    Slo,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let figures = match args.subject {
        Subject::Slo => slo::run(),
    };
    match tell(&args, &figures) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("could not write the file of figures: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the figures, each with the machine that they are of.
fn tell(args: &Args, figures: &[Value]) -> std::io::Result<()> {
    let machine = serde_json::to_value(Machine::look()).expect("a machine is text and numbers");
    let mut file = args.json.as_ref().map(File::create).transpose()?;
    for figures in figures {
        let mut line = figures.clone();
        if let (Some(line), Some(machine)) = (line.as_object_mut(), machine.as_object()) {
            line.extend(machine.clone());
        }
        println!("{line}");
        if let Some(file) = &mut file {
            writeln!(file, "{line}")?;
        }
    }
    Ok(())
}
