//! The campaign: engines on a real broker under seeded schedules of faults, each of them audited.
//!
//! ```text
//!   make chaos SEEDS=5 MINUTES=5      at most five schedules, the last of them begun within five minutes
//!   make chaos SEED=17                one schedule again
//!   make chaos SEEDS=20 NODES=3       on three nodes, of which one is killed at a time
//! ```
//!
//! | | |
//! | --- | --- |
//! | `schedule` | what goes wrong, with whom and when: plain data out of a seed |
//! | `run` | carries a schedule out, waits until all is done, audits |
//! | `tally` | what was injected, what it cost, whether anything was lost |
//!
//! Without arguments, as among the other tests, it carries out a few schedules that are always the same. The schedules share a broker
//! of the campaign's own; between it and the engines stands the proxy.

#![expect(clippy::unwrap_used, reason = "a schedule panics where it fails, and the campaign goes on")]

#[path = "../it/broker/engine.rs"]
#[expect(dead_code, reason = "the tests on a real broker use the rest")]
mod engine;
#[path = "../it/broker/own.rs"]
#[expect(dead_code, reason = "the tests on a real broker use the rest")]
mod own;
#[path = "../it/broker/proxy.rs"]
#[expect(dead_code, reason = "the tests on a real broker use the rest")]
mod proxy;
#[path = "../it/broker/rig.rs"]
#[expect(dead_code, reason = "the tests on a real broker use the rest")]
mod rig;
mod run;
mod schedule;
mod tally;
#[path = "../it/broker/wait.rs"]
mod wait;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use operators::clock::{Clock, Moment, SystemClock};

use run::Ground;
use schedule::{CORPUS, Schedule};
use tally::{Campaign, Outcome};

/// A broker is renewed after so many schedules: their topics stay in it, and make it slow.
const GROUND_MAX: usize = 20;

/// What an engine can't mend.
const FORGOTTEN: &str =
    "Kafka has passed over the markers of a transaction at its start, which hangs since then";

/// Where failures leave their logs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/chaos");

#[derive(Debug, Parser)]
#[command(name = "chaos", about = "Engines on a real broker under seeded schedules of faults, audited")]
struct Args {
    /// Schedules to carry out at most
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,

    /// Begin no further schedule after so many minutes
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,

    /// The first seed; the others follow it
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,

    /// Carry out the schedule of this seed alone
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "from"])]
    seed: Option<u64>,

    /// Nodes of the broker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,

    /// Print the schedules, and carry out none
    #[arg(long)]
    dry_run: bool,

    /// Print an object of JSON for each schedule, and one for all of them
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    harness: Harness,
}

/// What `cargo test` hands to every test binary: options of the usual harness, of which there is none here.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of another program")]
struct Harness {
    /// Names of other tests
    #[arg(hide = true)]
    filters: Vec<String>,

    #[arg(long, hide = true)]
    list: bool,

    #[arg(long, hide = true)]
    ignored: bool,

    #[arg(long, hide = true)]
    include_ignored: bool,

    #[arg(long, hide = true)]
    exact: bool,

    #[arg(long, hide = true)]
    nocapture: bool,

    #[arg(long, hide = true)]
    show_output: bool,

    #[arg(long, short, hide = true)]
    quiet: bool,

    #[arg(long, hide = true)]
    test_threads: Option<usize>,

    #[arg(long, hide = true)]
    skip: Vec<String>,
}

impl Harness {
    /// Whether only other tests were asked for.
    fn asks_for_others(&self) -> bool {
        !self.filters.is_empty() || self.list || self.ignored || self.skip.iter().any(|name| name == "chaos")
    }
}

impl Args {
    fn seeds(&self) -> Vec<u64> {
        match (self.seed, self.seeds, self.minutes) {
            (Some(seed), _, _) => vec![seed],
            (None, None, None) => CORPUS.to_vec(),
            (None, seeds, _) => {
                (self.from..).take(usize::try_from(seeds.unwrap_or(100_000)).unwrap()).collect()
            }
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.harness.asks_for_others() {
        return ExitCode::SUCCESS;
    }
    let schedules: Vec<Schedule> =
        args.seeds().into_iter().map(|seed| Schedule::new(seed, args.nodes.into())).collect();
    if args.dry_run {
        schedules.iter().for_each(|schedule| println!("{schedule}"));
        return ExitCode::SUCCESS;
    }
    let campaign = carry_out(&args, &schedules);
    println!("{}", if args.json { json(&campaign) } else { campaign.to_string() });
    if campaign.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn carry_out(args: &Args, schedules: &[Schedule]) -> Campaign {
    let clock = SystemClock::new();
    let limit = args.minutes.map_or(Duration::MAX, |minutes| Duration::from_secs(60 * minutes));
    let bar = Bar::new(args, schedules.len());
    let mut campaign = Campaign::default();
    let mut ground: Option<(Ground, usize)> = None;
    for schedule in schedules {
        let passed = clock.now().since(Moment::START);
        if passed >= limit {
            break;
        }
        bar.show(schedule, passed);
        let worn = ground.take_if(|(_, uses)| *uses >= GROUND_MAX);
        drop(worn);
        let (stands, uses) = ground.get_or_insert_with(|| (Ground::new(schedule.nodes), 0));
        *uses += 1;
        let (mut outcome, mut kept) = attempt(stands, schedule);
        if outcome.failure.is_some() && stands.has_forgotten(schedule) {
            // Not one engine can go on from there: docs/operations.md says what people can do.
            bar.0.suspend(|| eprintln!("seed {}: {FORGOTTEN}; once more, on a new broker", schedule.seed));
            ground = None;
            let (stands, _) = ground.get_or_insert_with(|| (Ground::new(schedule.nodes), 1));
            (outcome, kept) = attempt(stands, schedule);
            outcome.skipped.push(format!("a first run: {FORGOTTEN}"));
        }
        bar.0.suspend(|| {
            println!("{}", if args.json { json(&outcome) } else { outcome.to_string() });
            if let Some(failure) = &outcome.failure {
                let line = format!(
                    "seed {} failed, its logs are in {}; again: make chaos SEED={} NODES={}\n{failure}",
                    schedule.seed,
                    kept.display(),
                    schedule.seed,
                    schedule.nodes
                );
                eprintln!("{line}");
            }
        });
        if outcome.failure.is_some() {
            // Nobody knows what it has left in the broker.
            ground = None;
        }
        campaign.add(&outcome);
        bar.0.inc(1);
    }
    bar.0.finish_and_clear();
    campaign
}

/// Carries out a schedule; returns what became of it, and the folder for what is left of a failure.
fn attempt(ground: &Ground, schedule: &Schedule) -> (Outcome, PathBuf) {
    let kept = Path::new(KEPT).join(format!("seed-{}-{}", schedule.seed, std::process::id()));
    std::fs::create_dir_all(&kept).unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(ground, schedule, &kept)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome::broken(schedule, text.unwrap_or_default())
    });
    if outcome.failure.is_some() {
        std::fs::write(kept.join("schedule.txt"), schedule.to_string()).unwrap();
        ground.copy_logs(&kept);
    } else {
        std::fs::remove_dir_all(&kept).unwrap();
    }
    (outcome, kept)
}

/// Shows how far the campaign is, on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(args: &Args, schedules: usize) -> Self {
        let length = args.seeds.or(args.minutes.is_none().then_some(schedules as u64));
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        let template = match length {
            Some(_) => "{wide_bar} {pos}/{len} schedules  {eta} left  {msg}",
            None => "{pos} schedules  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, schedule: &Schedule, passed: Duration) {
        self.0.set_message(format!("seed {}, {} s so far", schedule.seed, passed.as_secs()));
        self.0.tick();
    }
}
