//! The command line: what can be typed, and what becomes of it.

pub mod audit;
pub mod bench;
pub mod capacity;
pub mod check;
mod context;
pub mod demo;
mod error;
mod exit;
pub mod models;
pub mod produce;
pub mod run;
mod tools;
pub mod topics;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use operators::clock::SystemClock;

use crate::config::Sources;
pub use context::{Candidate, Context, Surroundings};
pub use error::CliError;
pub use exit::Exit;

/// The environment's name for `log.filter`.
const LOG_FILTER: &str = "TIDEMILL__LOG__FILTER";

/// Shown at the end of every `--help`.
const EXIT_CODES: &str = "\
Exit codes:
   0  done, or stopped cleanly
   1  the thing asked for failed: an audit with losses, a check with faults
   2  unusable arguments or configuration
   3  an objective will be missed
  10  the broker was not reachable, or did not allow it, within the start-up bound
  11  fenced: another process uses this transactional id
  12  an outcome is missing: a defect of the engine; nothing was committed past it
  13  committed offsets lie outside the log, and the policy is to stop
  14  the model store or an execution provider is required and absent";

const EXAMPLES: &str = "\
Examples:
  tidemill demo                                        try it, without any broker
  tidemill topics create                               make the four topics
  tidemill check                                       see what is in force and whether it can work
  tidemill run --set workers=4 --set models.path=/srv/models
  tidemill capacity                                    see what each partition could bear
  TIDEMILL__KAFKA__BOOTSTRAP_SERVERS=kafka:9092 tidemill run --config tidemill.toml";

/// Exactly-once streaming inference: Kafka in, ONNX models, Kafka out.
///
/// Settings come from built-in defaults, then a file, then the environment (`TIDEMILL__BATCH__SIZE_MAX=32`), then `--set`; the last
/// one counts. `tidemill check --explain` lists every one.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, arg_required_else_help = true, after_help = EXIT_CODES)]
#[command(after_long_help = const_format(EXAMPLES, EXIT_CODES))]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
struct Globals {
    /// The configuration file [default: tidemill.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over all others: `--set batch.size_max=32`. May be given again.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Results and errors as JSON: results on stdout, errors as one object on stderr.
    #[arg(long, global = true)]
    json: bool,
    /// How logs are written to stderr: `--set log.format=…`.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormatArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models: read requests, run them, write results and dead letters, each exactly once.
    Run(run::Args),
    /// Try everything at once with a built-in load, and audit the outcome.
    Demo(demo::Args),
    /// Send requests, each checked before it is sent.
    Produce(produce::Args),
    /// Compare requests with results and dead letters: has each ended exactly once, and rightly?
    Audit(audit::Args),
    /// Make the four topics, or compare them with the configuration.
    Topics(topics::Args),
    /// Show the configuration in force, and whether models, broker and topics fit it.
    Check(check::Args),
    /// See what the models do by themselves, without a broker.
    Models(models::Args),
    /// Say which partition will miss its objective, when, why, and what would mend it.
    Capacity(capacity::Args),
    /// Carry out experiments on a real broker, and compare their figures.
    Bench(bench::Args),
}

fn const_format(examples: &str, exit_codes: &str) -> String {
    format!("{examples}\n\n{exit_codes}")
}

/// Runs the command that `arguments` name, in `surroundings`.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    surroundings: impl Surroundings + 'static,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, arguments.iter().any(|argument| argument == "--json")).into(),
    };
    let Globals { config, mut set, json, log_format } = cli.globals;
    if let Some(format) = log_format {
        let name = format.to_possible_value().expect("every format has a name");
        set.push(format!("log.format={}", name.get_name()));
    }
    let mut sources = Sources::of_process(config, set);
    if let Command::Demo(_)
    | Command::Produce(_)
    | Command::Audit(_)
    | Command::Topics(_)
    | Command::Models(_)
    | Command::Capacity(_)
    | Command::Bench(_) = cli.command
    {
        // What these print is what people look at; `--set log.filter=info` shows the rest.
        sources
            .machine
            .environment
            .entry(LOG_FILTER.to_owned())
            .or_insert_with(|| "warn,librdkafka=error".to_owned());
    }
    let context = Context::new(sources, json, Arc::new(SystemClock::new()), Arc::new(surroundings));
    let done = match cli.command {
        Command::Run(args) => run::run(&args, &context),
        Command::Demo(args) => demo::run(&args, &context),
        Command::Produce(args) => tools::produce(args, &context),
        Command::Audit(args) => tools::audit(args, &context),
        Command::Topics(args) => topics::run(&args, &context),
        Command::Check(args) => check::run(&args, &context),
        Command::Models(args) => models::run(&args, &context),
        Command::Capacity(args) => capacity::run(&args, &context),
        Command::Bench(args) => bench::run(&args, &context),
    };
    done.unwrap_or_else(|error| error::report(error, json)).into()
}

/// Arguments that can't be understood, or a request for help.
fn misused(error: &clap::Error, json: bool) -> Exit {
    let exit = if error.use_stderr() { Exit::Unusable } else { Exit::Done };
    if json && exit == Exit::Unusable {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        return error::report(CliError::failed(exit, message), json);
    }
    // Nobody is left to tell, if even this can't be written.
    error.print().map_or(Exit::Failed, |()| exit)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::experiment::plan::Parameters;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_experiments_names_all_that_a_file_can_say() {
        let mut command = Cli::command();
        let bench = command.find_subcommand_mut("bench").unwrap().find_subcommand_mut("run").unwrap();
        let help = bench.render_long_help().to_string();
        let words: Vec<&str> =
            help.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
        for name in Parameters::NAMES {
            assert!(words.contains(&name), "{name}");
        }
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in exit::ALL {
            let line = format!("\n{:>4}  ", u8::from(exit));
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }
}
