//! `tidemill demo`: the main job, from a built-in load to the audit, in one process.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use dataflows::engine::Stop;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use operators::broker::Broker;
use operators::broker::simulated::SimulatedBroker;
use operators::clock::{Clock, Moment};
use operators::fault::Fault;
use serde_json::json;

use super::run::{abort_on_panic, stop_on_signals};
use super::{CliError, Context, Exit, tools};
use crate::audit::{AuditOptions, AuditReport, Unwatched, audit};
use crate::config::Config;
use crate::load::{Load, LoadOptions, ModelRow, Schedule};
use crate::metrics::{Metrics, Snapshot};
use crate::produce::{Sender, send_load};
use crate::runtime::{Prepared, fault_error, model_rows, prepare};
use crate::topics;

/// What `tidemill demo` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The last line is the audit's: every request must have ended exactly once, and its result must be what the model says by
itself. Exit code 1 if not.")]
pub struct Args {
    /// Where the topics are: in memory, or on the Kafka broker that `TIDEMILL_BOOTSTRAP` or the configuration names
    #[arg(long, value_enum, default_value_t = BrokerArg::Simulated)]
    broker: BrokerArg,

    /// Requests to send
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    requests: u64,

    /// Tenants that send them
    #[arg(long, value_name = "N", default_value_t = 8)]
    tenants: usize,

    /// The fraction of bad requests, of every kind in turn
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01)]
    bad: f64,

    /// Requests a second; as fast as they can be written without
    #[arg(long, value_name = "N")]
    rate: Option<f64>,

    /// Equal seeds make equal requests
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,

    /// Give up when no request was committed for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BrokerArg {
    Simulated,
    Kafka,
}

/// The largest request that the demonstration's engine takes: so small that the topic takes the oversized ones.
const RECORD_BYTES_MAX: usize = 256 << 10;

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the command.
///
/// # Errors
///
/// If the demonstration can't be set up, or the engine stops by itself.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let config = configure(args, context)?;
    abort_on_panic();
    let stop = stop_on_signals(|| ())?;
    let broker: Arc<dyn Broker> = match args.broker {
        BrokerArg::Simulated => {
            Arc::new(SimulatedBroker::new(Arc::clone(&context.clock), args.seed).blocking(true))
        }
        BrokerArg::Kafka => context.surroundings().broker(&config)?,
    };
    for spec in config.topics.specs(false) {
        topics::make(&mut *broker.admin()?, &spec)?;
    }
    let Prepared { engine, metrics, .. } = prepare(&config, context, Arc::clone(&broker))?;
    let models: Vec<ModelRow> = model_rows(&engine.models.catalog);
    let mut oracle = tools::oracle(&config, context)?;

    let started = context.clock.now();
    let engine_stop = stop.clone();
    let engine = thread::Builder::new().name("engine".to_owned()).spawn(move || engine.run(&engine_stop));
    let engine = engine
        .map_err(|error| CliError::failed(Exit::Failed, format!("could not start a thread: {error}")))?;
    let writer = spawn_load(args, &config, context, models, &broker)?;
    let seen = watch(args, context, &metrics, &stop, || engine.is_finished());
    let took = context.clock.now().since(started);
    stop.ask();
    let load = writer.join().unwrap_or_else(|_| std::process::abort());
    let ended: Result<(), Fault> = engine.join().unwrap_or_else(|_| std::process::abort());
    load?;
    ended.map_err(|fault| fault_error(&fault))?;

    let options = AuditOptions { strict: true, ..tools::audit_settings(&config).options() };
    let report = audit(&*broker, &options, &mut oracle, &mut Unwatched)
        .map_err(|error| CliError::failed(Exit::Failed, error.to_string()))?;
    let whole = report.clean() && report.requests == args.requests;
    context.print(&summary(context.json, took, &seen, &report)?)?;
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

/// The configuration, with topics and a group of this run's own, so that it meets nothing that was there before.
fn configure(args: &Args, context: &Context) -> Result<Config, CliError> {
    let mut config = context.load()?.config;
    config.records_bytes_max = config.records_bytes_max.min(RECORD_BYTES_MAX);
    if args.broker == BrokerArg::Kafka {
        if let Some(servers) = std::env::var("TIDEMILL_BOOTSTRAP").ok().filter(|servers| !servers.is_empty())
        {
            config.kafka.bootstrap_servers = servers;
        }
        let run = format!("demo-{}-{}", std::process::id(), context.clock.wall_micros());
        let topics = &mut config.topics;
        for spec in [&mut topics.requests, &mut topics.results, &mut topics.dlq, &mut topics.events] {
            spec.name = format!("{run}.{}", spec.name);
        }
        config.kafka.group = run;
    }
    Ok(config)
}

fn spawn_load(
    args: &Args,
    config: &Config,
    context: &Context,
    models: Vec<ModelRow>,
    broker: &Arc<dyn Broker>,
) -> Result<thread::JoinHandle<Result<(), CliError>>, CliError> {
    let unusable = |error: crate::load::LoadError| CliError::failed(Exit::Unusable, error.to_string());
    let load = Load::new(LoadOptions {
        requests: args.requests,
        tenants: args.tenants,
        models,
        seed: args.seed,
        bad: args.bad,
        oversized_bytes: config.records_bytes_max,
        enqueued_from_micros: context.clock.wall_micros(),
        ..LoadOptions::default()
    })
    .map_err(unusable)?;
    let schedule = args.rate.map_or(Ok(Schedule::at_once()), Schedule::at_rate).map_err(unusable)?;
    let mut pace = Pace { clock: Arc::clone(&context.clock), start: context.clock.now() };
    let (writer, topic) = (broker.writer()?, config.topics.requests.name.clone());
    let write = move || {
        let mut sender = Sender::new(writer, &topic, None);
        send_load(load, None, schedule, &mut sender, &mut pace)
            .and_then(|()| sender.finish(Duration::from_mins(1)))
            .map_err(|error| CliError::failed(Exit::Failed, error.to_string()))?;
        if sender.tally().complete() {
            return Ok(());
        }
        let complaints = sender.tally().complaints.join("; ");
        Err(CliError::failed(Exit::Failed, format!("some requests could not be written: {complaints}")))
    };
    let spawned = thread::Builder::new().name("load".to_owned()).spawn(write);
    spawned.map_err(|error| CliError::failed(Exit::Failed, format!("could not start a thread: {error}")))
}

/// Keeps the schedule of the load.
struct Pace {
    clock: Arc<dyn Clock>,
    start: Moment,
}

impl crate::produce::Watcher for Pace {
    fn wait_until(&mut self, due: Duration) -> bool {
        let wait = self.start.after(due).since(self.clock.now());
        thread::sleep(wait);
        !wait.is_zero()
    }
}

/// Shows the progress until every request is committed, nothing moves any more, or somebody stops it.
fn watch(
    args: &Args,
    context: &Context,
    metrics: &Metrics,
    stop: &Stop,
    finished: impl Fn() -> bool,
) -> Snapshot {
    let bar = ProgressBar::with_draw_target(Some(args.requests), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} committed  {per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    let (mut committed, mut moved) = (0, context.clock.now());
    let seen = loop {
        let seen = metrics.snapshot();
        let now = context.clock.now();
        if seen.committed > committed {
            (committed, moved) = (seen.committed, now);
        }
        bar.set_position(committed);
        let stuck = now.since(moved) > Duration::from_secs(args.patience);
        if committed >= args.requests || stuck || stop.is_asked() || finished() {
            break seen;
        }
        thread::sleep(LOOK);
    };
    bar.finish_and_clear();
    seen
}

fn summary(json: bool, took: Duration, seen: &Snapshot, report: &AuditReport) -> Result<String, CliError> {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = report.requests as f64 / took.as_secs_f64();
    if json {
        let object = json!({
            "requests_per_second": rate,
            "p50_ms": millis(seen.p50),
            "p99_ms": millis(seen.p99),
            "batch_size_mean": seen.batch_size_mean(),
            "audit": report,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:<28}{value:>12}");
    let mut lines = || -> std::fmt::Result {
        line("requests per second", format!("{rate:.0}"))?;
        line("latency p50, ms", format!("{:.1}", millis(seen.p50)))?;
        line("latency p99, ms", format!("{:.1}", millis(seen.p99)))?;
        line("batch size, mean", format!("{:.1}", seen.batch_size_mean()))?;
        line("results", report.results.to_string())?;
        line("dead letters", report.dead_letters.to_string())?;
        for (reason, letters) in &report.dead_letters_by_reason {
            line(&format!("  {reason}"), letters.to_string())?;
        }
        Ok(())
    };
    lines().map_err(|error| CliError::Output(io::Error::other(error)))?;
    for fault in &report.faults {
        writeln!(text, "{fault:?}").map_err(|error| CliError::Output(io::Error::other(error)))?;
    }
    Ok(text + &report.last_line() + "\n")
}
