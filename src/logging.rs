//! Logs: to stderr, never to stdout, which belongs to what a command was asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

use crate::config::{Config, Fault, LogFormat};

/// Starts to log, unless the process does already.
///
/// # Errors
///
/// If `log.filter` is none.
pub fn start(config: &Config) -> Result<(), Fault> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|error| {
        Fault::new(format!("`log.filter` can't be used: {error}"))
            .help("write a level such as \"info\", or \"warn,operators::group=debug\"")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Text => try_init(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))),
        LogFormat::Json => try_init(lines.json().flatten_event(true)),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging had been started before");
    }
    Ok(())
}

fn try_init(lines: impl tracing_subscriber::util::SubscriberInitExt) -> Result<(), TryInitError> {
    lines.try_init()
}
