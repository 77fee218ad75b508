//! Asks a running engine for what it has seen.

use std::time::Duration;

use dataflows::capacity::{Setup, Tick};

use super::trace::{TraceError, parse};

/// How long an engine may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What an answer holds at most: the ticks of many cells.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why an engine did not tell.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It can't be asked.
    #[error("no engine answers at {url}: {source}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why it could not be.
        source: Box<ureq::Error>,
    },
    /// It is asked, and does not watch over itself.
    #[error("the engine at {0} does not observe its capacity")]
    Silent(String),
    /// What it says can't be read.
    #[error("what answers at {url} is no engine of this version: {source}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        source: TraceError,
    },
}

/// The ticks of the engine at `address` (`host:port`, or a URL) that ended after a moment, in milliseconds since the Unix epoch; and what engine
/// it is.
///
/// # Errors
///
/// If it does not answer.
pub fn fetch(address: &str, after_millis: i64) -> Result<(Setup, Vec<Tick>), AttachError> {
    let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = format!("{}/capacity/ticks?after={after_millis}", base.trim_end_matches('/'));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(ANSWER_TIME_MAX)).build().into();
    let unreachable = |source| match source {
        ureq::Error::StatusCode(404) => AttachError::Silent(base.clone()),
        source => AttachError::Unreachable { url: base.clone(), source: Box::new(source) },
    };
    let mut answer = agent.get(&url).call().map_err(unreachable)?;
    let text =
        answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(unreachable)?;
    let (mut setup, ticks) =
        parse(&text).map_err(|source| AttachError::Answer { url: base.clone(), source })?;
    setup.source = base;
    Ok((setup, ticks))
}
