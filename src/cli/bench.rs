//! `tidemill bench`: experiments on a real broker, and what has moved between two runs of one.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{ArgGroup, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use operators::clock::Moment;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::{CliError, Context, Exit};
use crate::experiment::compare::compare;
use crate::experiment::figures::Measured;
use crate::experiment::instrument::{Instrument, Listener};
use crate::experiment::plan::Plan;
use crate::experiment::{report, summary, system};

/// What `tidemill bench` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry out an experiment: every point of its file, each a few times, on the broker of the configuration or of `TIDEMILL_BOOTSTRAP`.
    ///
    /// Each measurement has topics, a group and a process of the engine of its own. After it every request is counted by its outcome, and
    /// the topics are deleted, unless it has failed. Exit code 1 if a request was lost or wrong, a point could not be measured, or topics
    /// could not be deleted. SIGTERM and SIGINT end the system that is being measured too.
    ///
    /// A file has a `title`, a `question`, `repetitions` and two tables: `fixed` has what all points share, `sweep` an array for each
    /// thing that differs. Every combination is a point, but for those that have all values of a `[[skip]]`; where a point has all
    /// values of `at` in a `[[differs]]`, the `fixed` there counts in place of the one above.
    #[command(after_long_help = "\
In `fixed` and `sweep` can stand any setting of the engine (`tidemill check --explain`), and:
  system      tidemill, or the folder of a peer
  measure     drain: a backlog of `requests`
              kill: a drain with a kill -9
              rate: `rate` requests a second for `warm_up` and `window`; with a `burst_rate` so many
              instead for `burst_length`, once every `burst_every` of the window
              sustainable: the highest rate up to `rate` that is borne with a 99th percentile of
              `p99_max`, and the lowest that is not, if there is one
  model       the id of the model that requests are for
  tenants     how many tenants they are of; `skew`, the exponent of Zipf, says how unequally
  form        json, tensor, open-inference, open-inference-binary or mixed
  decimals    of each number in JSON, 1 to 7
  floor       false to go without the floor")]
    Run(RunArgs),
    /// Compare two runs of an experiment: which figures moved beyond the noise?
    ///
    /// Exit code 1 if one has become worse.
    Compare(CompareArgs),
    /// Print the medians of runs, point by point, as a table or with --json as an array.
    Summary(SummaryArgs),
    /// Make the page of a run again, or its plots alone, from its figures.
    Report(ReportArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The experiment.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the figures go, a JSON object a line [default: stdout, with --json]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the page with the plots goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How often each point is measured, in place of what the file says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: Option<u32>,
    /// Only the points at which a thing that is swept has one of these values. May be given again.
    #[arg(long, value_name = "NAME=VALUE,VALUE")]
    only: Vec<String>,
    /// Leave the topics of every measurement in the broker, to be looked at. What they take on its disk adds up.
    #[arg(long)]
    keep_topics: bool,
    /// See that the experiment can be carried out, and print its points, without measuring.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// The figures of the one, as `bench run --out` writes them.
    before: PathBuf,
    /// The figures of the other.
    after: PathBuf,
}

#[derive(Debug, clap::Args)]
struct SummaryArgs {
    /// The figures, as `bench run --out` writes them.
    #[arg(value_name = "FIGURES", required = true)]
    figures: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("made").args(["html", "plots"]).required(true).multiple(true)))]
struct ReportArgs {
    /// The figures, as `bench run --out` writes them.
    figures: PathBuf,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A folder for the plots, each an SVG file by itself; it is made if there is none. Their names are printed.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// If a file can't be read or written, or the experiment can't be carried out.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    match &args.command {
        Command::Run(args) => run_experiment(args, context),
        Command::Compare(args) => {
            let comparison = compare(&read(&args.before)?, &read(&args.after)?);
            context.print(&if context.json { line(&comparison) } else { comparison.to_string() })?;
            Ok(if comparison.is_worse() { Exit::Failed } else { Exit::Done })
        }
        Command::Summary(args) => {
            let measured: Result<Vec<_>, CliError> = args.figures.iter().map(|path| read(path)).collect();
            let rows = summary::rows(&measured?.concat());
            context.print(&if context.json { line(&rows) } else { summary::table(&rows) })?;
            Ok(Exit::Done)
        }
        Command::Report(args) => {
            let measured = read(&args.figures)?;
            let title = measured.first().map_or("nothing was measured", |one| one.experiment.as_str());
            if let Some(html) = &args.html {
                write_page(html, title, "", &measured)?;
            }
            if let Some(folder) = &args.plots {
                write_plots(folder, &measured, context)?;
            }
            Ok(Exit::Done)
        }
    }
}

fn run_experiment(args: &RunArgs, context: &Context) -> Result<Exit, CliError> {
    // Logs begin as the configuration says; every point loads its own.
    context.load()?;
    let mut plan =
        Plan::read(&args.file).map_err(|error| CliError::failed(Exit::Unusable, error.to_string()))?;
    plan.repetitions = args.repetitions.unwrap_or(plan.repetitions);
    for only in &args.only {
        let (name, values) = only.split_once('=').unwrap_or((only, ""));
        let values: Vec<&str> = values.split(',').collect();
        plan.keep(name, &values).map_err(|error| CliError::failed(Exit::Unusable, error.to_string()))?;
    }
    let program = std::env::current_exe().map_err(CliError::Output)?;
    let (file, mut sets) = context.layers();
    if let Some(servers) = std::env::var("TIDEMILL_BOOTSTRAP").ok().filter(|servers| !servers.is_empty()) {
        sets.insert(0, format!("kafka.bootstrap_servers={servers}"));
    }
    let instrument = Instrument { program, file, sets, keeps_topics: args.keep_topics };
    instrument.check(&plan).map_err(|failure| CliError::failed(Exit::Unusable, failure.to_string()))?;
    if args.dry_run {
        return points(&plan, context);
    }
    end_with_what_was_started()?;
    let mut teller = Teller::new(args.out.as_deref(), context)?;
    let measured = instrument.run(&plan, &mut teller).map_err(CliError::Output)?;
    teller.bar.finish_and_clear();
    if let Some(html) = &args.html {
        write_page(html, &plan.title, &plan.question, &measured)?;
    }
    if !context.json && plan.points.len() * plan.repetitions as usize > 1 {
        context.print(&format!("\n{}", summary::table(&summary::rows(&measured))))?;
    }
    let failed = measured.iter().filter(|one| one.error.is_some() || one.faults() > 0.0).count();
    if failed > 0 {
        let message = format!("{failed} of {} measurements failed, or lost requests", measured.len());
        return Err(CliError::failed(Exit::Failed, message));
    }
    Ok(Exit::Done)
}

/// From here on a signal ends the system that is measured too, and then this process, as the signal would have.
fn end_with_what_was_started() -> Result<(), CliError> {
    let failed =
        |error: io::Error| CliError::failed(Exit::Failed, format!("could not listen for signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let end = move || {
        if let Some(signal) = signals.forever().next() {
            system::kill_all();
            // It returns where the signal's own way to end a process can't be taken.
            let _ended = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(end).map(drop).map_err(failed)
}

/// What would be measured.
fn points(plan: &Plan, context: &Context) -> Result<Exit, CliError> {
    let mut text = format!("{}: {} points, each {} times\n", plan.title, plan.points.len(), plan.repetitions);
    for point in &plan.points {
        let swept = plan.swept.iter().zip(&point.swept).map(|(name, value)| format!("{name}={value}"));
        let swept: Vec<String> = swept.collect();
        let label = if swept.is_empty() { point.parameters.model.clone() } else { swept.join(" ") };
        text.extend(["  ", &label, "\n"]);
    }
    let value = serde_json::json!({
        "title": plan.title,
        "repetitions": plan.repetitions,
        "swept": plan.swept,
        "points": plan.points.iter().map(|point| &point.swept).collect::<Vec<_>>(),
    });
    context.print(&if context.json { line(&value) } else { text })?;
    Ok(Exit::Done)
}

/// Tells of measurements as they are made.
struct Teller<'a> {
    out: Option<File>,
    context: &'a Context,
    begun: Moment,
    bar: ProgressBar,
}

impl<'a> Teller<'a> {
    fn new(out: Option<&Path>, context: &'a Context) -> Result<Self, CliError> {
        let out = out.map(|path| File::create(path).map_err(|error| unwritable(path, &error))).transpose()?;
        // On a terminal only: `indicatif` draws nothing into a pipe.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let bar = style.map(|style| bar.clone().with_style(style)).unwrap_or(bar);
        bar.enable_steady_tick(Duration::from_millis(250));
        Ok(Self { out, context, begun: context.clock.now(), bar })
    }
}

impl Listener for Teller<'_> {
    fn begins(&mut self, done: usize, all: usize, label: &str) {
        let passed = self.context.clock.now().since(self.begun);
        let left = u32::try_from(done).ok().filter(|done| *done > 0).map(|done| {
            let left = passed / done * u32::try_from(all).unwrap_or(u32::MAX).saturating_sub(done);
            format!(", about {} left", minutes(left))
        });
        self.bar.set_message(format!("{} of {all}{}: {label}", done + 1, left.unwrap_or_default()));
    }

    fn measured(&mut self, measured: &Measured) -> io::Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(line(measured).as_bytes())?;
        }
        let text = if self.context.json { line(measured) } else { format!("{}\n", measured.summary()) };
        self.bar.suspend(|| io::stdout().lock().write_all(text.as_bytes()))
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 90 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}

/// A value as a line of JSON.
fn line(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("it is text and numbers that are finite or null");
    format!("{text}\n")
}

/// The figures in a file; lines that are empty are passed over.
fn read(path: &Path) -> Result<Vec<Measured>, CliError> {
    let wrong = |reason: String| {
        let message = format!("could not read the figures in {}: {reason}", path.display());
        CliError::failed(Exit::Unusable, message)
            .with_help("`tidemill bench run FILE --out FIGURES` writes some")
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut measured = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let one = serde_json::from_str(&line);
        measured.push(one.map_err(|error| wrong(format!("line {}: {error}", number + 1)))?);
    }
    Ok(measured)
}

fn write_page(path: &Path, title: &str, question: &str, measured: &[Measured]) -> Result<(), CliError> {
    let page = report::page(title, question, measured)
        .map_err(|_| CliError::failed(Exit::Failed, "the page could not be drawn"))?;
    std::fs::write(path, page).map_err(|error| unwritable(path, &error))
}

fn write_plots(folder: &Path, measured: &[Measured], context: &Context) -> Result<(), CliError> {
    let plots = report::plots(measured)
        .map_err(|_| CliError::failed(Exit::Failed, "the plots could not be drawn"))?;
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    let mut files = Vec::new();
    for plot in plots {
        let path = folder.join(plot.file_name());
        std::fs::write(&path, &plot.svg).map_err(|error| unwritable(&path, &error))?;
        files.push(path.display().to_string());
    }
    context.print(&if context.json { line(&files) } else { files.join("\n") + "\n" })
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(Exit::Failed, format!("could not write {}: {error}", path.display()))
}
