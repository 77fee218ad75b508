//! The whole engine on a real broker, as a process of its own, beside what its parts cost alone.
//!
//! ```text
//!   scripts/kafka.sh run -- cargo bench --bench end_to_end -- --quick --json FILE
//! ```
//!
//! | point | what is measured |
//! | --- | --- |
//! | `drain-16` `drain-784` | a preloaded topic, of rows of 16 or 784 floats, until the last outcome is committed; and the floor |
//! | `drain-16-at-least-once` | the first once more, with `delivery = "at-least-once"`; beside `drain-16` it tells the exactly-once tax |
//! | `open-loop` | 20,000 requests a second, spread evenly over all partitions, from the scheduled send to a `read_committed` reader |
//! | `straggler` | one key stuck for ten seconds among 1,500 requests a second of one partition, `commit.order = "key"`: its neighbours |
//! | `fairness` | one tenant, alone and beside another on its partition and model that asks 1,000 times as often, in bursts, 80 % of what the device bears |
//! | `recovery` `recovery-static` | kill -9 and a new start, until the next result is seen; as a member with and without a name |
//! | `idle` | every partition assigned, and nothing to do |
//! | `allocations-16` `allocations-784` | how often the engine asks for memory, a record of a drain |
//!
//! The main number is CPU time of the engine's process, not wall time: broker, load and checks share the machine with it. The *floor* is
//! the sum of what consuming, decoding, inferring, encoding and producing cost alone, in the same run. After each point every request
//! is counted by the origin of its outcome. Topics have names of their own for each point, and stay in the broker.

mod allocations;
mod drain;
mod fairness;
mod figures;
mod idle;
mod open_loop;
mod recovery;
mod straggler;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use figures::{Figures, median};
use recovery::Membership;
use tidemill::experiment::machine::Machine;
use tidemill::experiment::system::System;
use tidemill::experiment::{Failure, Setup};

/// Where this is a checkout of.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Debug, Parser)]
#[command(name = "end_to_end", about = "The whole engine on a real broker, beside what its parts cost alone")]
struct Args {
    /// Each point once, and shorter
    #[arg(long)]
    quick: bool,

    /// Write the figures to a file too, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// The points, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Point::value_variants().to_vec())]
    points: Vec<Point>,

    /// A setting of the engine, as for `tidemill`; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// A command to run the engine under, with its arguments: `perf record -g -o FILE`
    #[arg(long, value_name = "COMMAND")]
    under: Option<String>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Point {
    #[value(name = "drain-16")]
    Drain16,
    #[value(name = "drain-16-at-least-once")]
    Drain16AtLeastOnce,
    #[value(name = "drain-784")]
    Drain784,
    OpenLoop,
    Straggler,
    Fairness,
    Recovery,
    RecoveryStatic,
    Idle,
    #[value(name = "allocations-16")]
    Allocations16,
    #[value(name = "allocations-784")]
    Allocations784,
}

impl Point {
    fn run(self, args: &Args, setup: &Setup, drained: Option<u64>) -> Result<Figures, Failure> {
        let size = |quick, long| if args.quick { quick } else { long };
        match self {
            Self::Drain16 => drain::run(setup, "drain-16", "mlp-16", 16, size(300_000, 1_000_000)),
            Self::Drain16AtLeastOnce => {
                let setup = setup.with("delivery=at-least-once");
                drain::run(&setup, "drain-16-at-least-once", "mlp-16", 16, size(300_000, 1_000_000))
            }
            Self::Drain784 => drain::run(setup, "drain-784", "ffnn-784", 784, size(60_000, 200_000)),
            Self::OpenLoop => open_loop::run(setup, if args.quick { 10 } else { 30 }, drained),
            Self::Straggler => straggler::run(setup),
            Self::Fairness => fairness::run(setup, if args.quick { 25 } else { 60 }),
            Self::Recovery => recovery::run(setup, Membership::Dynamic),
            Self::RecoveryStatic => recovery::run(setup, Membership::Static),
            Self::Idle => idle::run(setup),
            Self::Allocations16 => {
                allocations::run(setup, "allocations-16", "mlp-16", 16, size(300_000, 1_000_000))
            }
            Self::Allocations784 => {
                allocations::run(setup, "allocations-784", "ffnn-784", 784, size(60_000, 200_000))
            }
        }
    }
}

fn main() -> ExitCode {
    if let Some(ended) = allocations::as_engine() {
        return ended;
    }
    let args = Args::parse();
    let Some(bootstrap) = std::env::var("TIDEMILL_BOOTSTRAP").ok().filter(|servers| !servers.is_empty())
    else {
        eprintln!("this bench needs a broker: `scripts/kafka.sh run -- cargo bench --bench end_to_end`");
        return ExitCode::FAILURE;
    };
    let own = [format!("kafka.bootstrap_servers={bootstrap}"), format!("models.path={ROOT}/models")];
    let setup = Setup {
        system: System::Tidemill {
            program: env!("CARGO_BIN_EXE_tidemill").into(),
            under: args.under.clone(),
        },
        file: Some(format!("{ROOT}/tidemill.toml").into()),
        sets: [&own, &args.set[..]].concat(),
        keeps_topics: true,
    };
    match run(&args, &setup) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("requests were lost, duplicated or refused");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the points; whether every request ended exactly once.
fn run(args: &Args, setup: &Setup) -> Result<bool, Failure> {
    let mut file = args
        .json
        .as_ref()
        .map(|path| File::create(path).map_err(|source| Failure::io("make the file of figures", source)))
        .transpose()?;
    let machine = Machine::look();
    let repetitions = if args.quick { 1 } else { 5 };
    let mut runs = vec![Vec::with_capacity(repetitions); args.points.len()];
    let mut drained = None;
    // One of each point in turn: what the machine does besides comes over all of them, and two points can be compared.
    for _ in 0..repetitions {
        for (point, runs) in args.points.iter().zip(&mut runs) {
            let figures = point.run(args, setup, drained)?;
            eprintln!("{}", figures.summary());
            if *point == Point::Drain16 {
                drained = figures.engine_cpu_ns_per_record;
            }
            runs.push(figures);
        }
    }
    let whole = runs.iter().flatten().all(Figures::whole);
    let mut medians: Vec<Figures> = runs.into_iter().map(median).collect();
    tell_tax(&args.points, &mut medians);
    for figures in &medians {
        let line = figures.line(&machine);
        println!("{line}");
        if let Some(file) = &mut file {
            writeln!(file, "{line}").map_err(|source| Failure::io("write the file of figures", source))?;
        }
    }
    Ok(whole)
}

/// The exactly-once tax: by how much fewer records a CPU-second drains exactly once than at least once.
fn tell_tax(points: &[Point], medians: &mut [Figures]) {
    let place = |point| points.iter().position(|found| *found == point);
    let (Some(once), Some(least)) = (place(Point::Drain16), place(Point::Drain16AtLeastOnce)) else { return };
    let (once, least) = (medians[once].records_per_cpu_second, &mut medians[least]);
    if let (Some(once), Some(base)) = (once, least.records_per_cpu_second) {
        let tax = (1.0 - drain::ratio(once, base)) * 100.0;
        least.exactly_once_tax_percent = Some((tax * 10.0).round() / 10.0);
        eprintln!(
            "exactly-once tax: {tax:.1} % ({once} against {base} records a CPU-second, medians; at most 10 %)"
        );
    }
}
