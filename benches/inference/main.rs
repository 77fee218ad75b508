//! Inference by itself: the infer operator and real executor threads, without a broker, on models that take a time that is known.
//!
//! ```text
//!   cargo bench --bench inference -- slo|fairness|poison|decode|memory --json FILE
//! ```
//!
//! | subject | what is measured |
//! | --- | --- |
//! | `slo` | with nothing but an objective given: whether it is kept, and the throughput beside that of the best static policy |
//! | `fairness` | what a flood of one tenant does to the latency of others, and what fair share costs in throughput |
//! | `poison` | one row that a model can't take among 64, on ONNX Runtime: its calls, its letter and the results of the others |
//! | `decode` | our decoder of requests beside `serde_json` |
//! | `memory` | what a session takes where all share an arena, and where each has its own, on ONNX Runtime |

mod decode;
mod fairness;
mod figures;
#[path = "../micro/given.rs"]
mod given;
mod memory;
mod poison;
mod rig;
mod slo;
mod timed;
#[path = "../micro/typed.rs"]
mod typed;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use tidemill::experiment::machine::Machine;

#[derive(Debug, Parser)]
#[command(name = "inference", about = "Inference by itself, on models that take a time that is known")]
struct Args {
    /// What to measure; everything, one after the other, where none is named
    #[command(subcommand)]
    subject: Option<Subject>,

    /// Write the figures to a file too, one JSON object a line
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,

    /// Given by `cargo bench`
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Subject {
    /// An objective over a load that grows a hundred times, beside static policies; about three minutes
    Slo,
    /// A tenant that sends a thousand times what others send, beside them; about two minutes
    Fairness,
    /// One row that a model can't take among 64, on ONNX Runtime, which has to be there; some seconds
    Poison,
    /// Our decoder of requests beside `serde_json`; half a minute
    Decode,
    /// What sessions take of the memory, on ONNX Runtime, which has to be there, as the models of other people; a minute
    Memory {
        /// Of which sessions this process is to tell, rather than to ask others
        #[arg(long, hide = true, requires = "model")]
        arena: Option<memory::Arena>,

        /// And of which model
        #[arg(long, hide = true, requires = "arena")]
        model: Option<String>,
    },
}

impl Subject {
    /// What needs the most to be there comes last.
    const ALL: [Self; 5] =
        [Self::Decode, Self::Fairness, Self::Slo, Self::Poison, Self::Memory { arena: None, model: None }];

    /// Its figures, or what is missing for it.
    fn run(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::Slo => Ok(slo::run()),
            Self::Fairness => Ok(fairness::run()),
            Self::Poison => poison::run(),
            Self::Decode => Ok(decode::run()),
            Self::Memory { arena: Some(arena), model: Some(model) } => memory::child(*arena, model),
            Self::Memory { .. } => memory::run(),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let subjects = args.subject.clone().map_or_else(|| Subject::ALL.to_vec(), |subject| vec![subject]);
    let mut figures = Vec::new();
    for subject in subjects {
        match subject.run() {
            Ok(of_subject) => figures.extend(of_subject),
            Err(reason) => {
                eprintln!("could not run {subject:?}: {reason}");
                return ExitCode::FAILURE;
            }
        }
    }
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
