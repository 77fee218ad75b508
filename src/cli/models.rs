//! `tidemill models`: what the models of the folder do by themselves, without a broker.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Subcommand;
use operators::model::{Backend, Model, ModelError};
use serde_json::{Value, json};

use super::{Candidate, CliError, Context, Exit};
use crate::config::parse_duration;
use crate::timing::{Timing, time};

/// The most rows of a batch that can be asked for.
const ROWS_MAX: usize = 65_536;

/// What `tidemill models` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run batches of zeros, one after the other in one session: how long does each size take, on the providers in effect?
    ///
    /// Exit code 1 if a model can't be opened or a size can't be run, 14 if nothing can run models. What the engine makes of it, with
    /// its queues and its broker, is another question: for that there is `tidemill demo`.
    Time(TimeArgs),
}

#[derive(Debug, clap::Args)]
struct TimeArgs {
    /// Which models; every one in the folder, where none is named.
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Rows of the batches.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64], value_parser = rows)]
    rows: Vec<usize>,
    /// How long each size runs.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    length: Duration,
}

fn rows(text: &str) -> Result<usize, String> {
    let rows = text.parse().ok().filter(|rows| (1..=ROWS_MAX).contains(rows));
    rows.ok_or_else(|| format!("it is not a number from 1 to {ROWS_MAX}"))
}

/// Runs the command.
///
/// # Errors
///
/// If the configuration can't be used, a model is named that is not there, or nothing can run models.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let Command::Time(args) = &args.command;
    let config = context.load()?.config;
    let mut candidates = context.surroundings().models(&config)?;
    if let Some(absent) = args.models.iter().find(|id| !candidates.iter().any(|one| one.id == **id)) {
        let known: Vec<&str> = candidates.iter().map(|one| one.id.as_str()).collect();
        let path = config.models.path.display();
        let message = format!("there is no model {absent:?} in {path}: there are {}", known.join(", "));
        return Err(
            CliError::failed(Exit::Failed, message).with_help("set `models.path` to the folder of models")
        );
    }
    candidates.retain(|candidate| args.models.is_empty() || args.models.contains(&candidate.id));
    if candidates.is_empty() {
        let message = format!("there is no model in {}", config.models.path.display());
        return Err(CliError::failed(Exit::ModelsAbsent, message)
            .with_help("set `models.path` to the folder of models"));
    }
    let backend = context.surroundings().backend(&config)?;
    let mut exit = Exit::Done;
    for candidate in candidates {
        if !time_model(args, context, &*backend, &candidate)? {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

/// Times one model, and prints each size as soon as it is known. Returns whether everything could be run.
fn time_model(
    args: &TimeArgs,
    context: &Context,
    backend: &dyn Backend,
    Candidate { id, file }: &Candidate,
) -> Result<bool, CliError> {
    let before = context.clock.now();
    let opened = match file {
        Ok(file) => match backend.open(file) {
            Err(error @ (ModelError::Runtime(_) | ModelError::Provider { .. })) => return Err(error.into()),
            opened => opened.map_err(|error| error.to_string()),
        },
        Err(reason) => Err(reason.clone()),
    };
    let mut model = match opened {
        Ok(model) => model,
        Err(reason) => {
            context.print(&failure(context, id, None, &reason))?;
            return Ok(false);
        }
    };
    let open = context.clock.now().since(before);
    if !context.json {
        context.print(&head(id, &*model, &backend.name(), open))?;
    }
    let mut all = true;
    for rows in &args.rows {
        let text = match time(&mut *model, *rows, args.length, &*context.clock) {
            Ok(timing) if context.json => line(&as_json(id, &*model, &backend.name(), open, &timing)),
            Ok(timing) => as_text(&timing),
            Err(error) => {
                all = false;
                failure(context, id, Some(*rows), &error.to_string())
            }
        };
        context.print(&text)?;
    }
    Ok(all)
}

fn head(id: &str, model: &dyn Model, backend: &str, open: Duration) -> String {
    let providers = model.signature().providers.join(", ");
    let mut text = format!("{id} on {providers} ({backend}), opened in {:.1} ms\n", millis(open));
    writeln!(text, "  {:>6} {:>9} {:>9} {:>9} {:>12}", "rows", "first ms", "p50 ms", "p99 ms", "rows/s")
        .expect("a text can be written to");
    text
}

fn as_text(timing: &Timing) -> String {
    let Timing { rows, first, p50, p99, rows_per_second, .. } = timing;
    let [first, p50, p99] = [first, p50, p99].map(|time| millis(*time));
    format!("  {rows:>6} {first:>9.3} {p50:>9.3} {p99:>9.3} {rows_per_second:>12.0}\n")
}

fn as_json(id: &str, model: &dyn Model, backend: &str, open: Duration, timing: &Timing) -> Value {
    json!({
        "model": id,
        "backend": backend,
        "providers": model.signature().providers,
        "open_ms": millis(open),
        "rows": timing.rows,
        "runs": timing.runs,
        "first_ms": millis(timing.first),
        "p50_ms": millis(timing.p50),
        "p99_ms": millis(timing.p99),
        "rows_per_second": timing.rows_per_second,
        "began_at_ms": timing.began_at_millis,
        "ended_at_ms": timing.ended_at_millis,
    })
}

fn failure(context: &Context, id: &str, rows: Option<usize>, reason: &str) -> String {
    if context.json {
        return line(&json!({ "model": id, "rows": rows, "error": reason }));
    }
    match rows {
        Some(rows) => format!("  {rows:>6} could not be run: {reason}\n"),
        None => format!("{id} could not be opened: {reason}\n"),
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
