//! `tidemill run`: serves models.

use std::thread;

use dataflows::engine::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{CliError, Context, Exit};
use crate::http::Server;
use crate::runtime::{fault_error, prepare};

/// What `tidemill run` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
On SIGTERM or SIGINT it stops polling, finishes and commits what is in flight for up to `stop.drain_timeout`, leaves the
group and exits 0; a call to a broker that does not answer may add its own time-out. A second signal ends it at once: nothing is lost, what was not committed is done again.")]
pub struct Args {
    /// Dataflow workers: `--set workers=N`
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Runs the command.
///
/// # Errors
///
/// If the engine can't be started, or stops by itself.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let mut config = context.load()?.config;
    if let Some(workers) = args.workers {
        if !(1..=64).contains(&workers) {
            return Err(CliError::failed(Exit::Unusable, "`--workers` must be 1 to 64"));
        }
        config.workers = workers;
    }
    abort_on_panic();
    let stop = stop_on_signals()?;
    let broker = context.surroundings().broker(&config)?;
    let prepared = prepare(&config, context, broker)?;
    let server = config
        .http_address
        .as_deref()
        .map(|address| Server::start(address, prepared.metrics.clone(), prepared.health.clone()))
        .transpose()?;
    let ended = prepared.engine.run(&stop);
    drop(server);
    let seen = prepared.metrics.snapshot();
    tracing::info!(
        committed = seen.committed,
        commits = seen.commits,
        aborts = seen.aborts,
        batches = seen.batches,
        inferred = seen.inferred,
        "stopped"
    );
    ended.map(|()| Exit::Done).map_err(|fault| fault_error(&fault))
}

/// A panic anywhere ends the process at once: no thread may go on committing, or sending heartbeats, beside one that is gone.
pub(super) fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The first signal asks for a graceful stop; the second ends the process where it stands.
pub(super) fn stop_on_signals() -> Result<Stop, CliError> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| CliError::failed(Exit::Failed, format!("could not listen for signals: {error}")))?;
    let stop = Stop::new();
    let asked = stop.clone();
    let spawned = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if asked.is_asked() {
                tracing::warn!(signal, "stopped at once; what was not committed is done again");
                signal_hook::low_level::exit(128 + signal);
            }
            tracing::info!(signal, "asked to stop");
            asked.ask();
        }
    });
    match spawned {
        Ok(_) => Ok(stop),
        Err(error) => Err(CliError::failed(Exit::Failed, format!("could not start a thread: {error}"))),
    }
}
