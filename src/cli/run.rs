//! `tidemill run`: serves models.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::thread;

use dataflows::engine::Stop;
use operators::continuity::{AcceptedLoss, Policy};
use operators::journal::Journal;
use operators::lease::{NextOffset, Partition};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{CliError, Context, Exit};
use crate::capacity::Watch;
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
    /// Go on without records that are gone: exactly these offsets, as the message with exit code 13 names them. May be given again
    #[arg(long, value_name = "TOPIC:PARTITION:FROM..TO")]
    pub accept_loss: Vec<AcceptLoss>,
}

/// A loss that the operator accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptLoss {
    /// The topic of requests, to be sure that it is this one.
    topic: String,
    loss: AcceptedLoss,
}

impl FromStr for AcceptLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (topic, place) = text.split_once(':')?;
            let (partition, range) = place.split_once(':')?;
            let (from, to) = range.split_once("..")?;
            let offset = |text: &str| text.parse().ok().filter(|offset| *offset >= 0).map(NextOffset);
            let partition = Partition(partition.parse().ok().filter(|partition| *partition >= 0)?);
            let loss = AcceptedLoss { partition, from: offset(from)?, to: offset(to)? };
            (!topic.is_empty()).then(|| Self { topic: topic.to_owned(), loss })
        };
        parse().ok_or_else(|| {
            "it must be written TOPIC:PARTITION:FROM..TO, as `inference.requests:3:1200..1450`".to_owned()
        })
    }
}

/// The losses that are accepted, all of the topic that is read.
fn accepted(args: &Args, topic: &str) -> Result<Vec<AcceptedLoss>, CliError> {
    let accepted = args.accept_loss.iter().map(|accepted| {
        if accepted.topic == topic {
            return Ok(accepted.loss);
        }
        let message = format!("`--accept-loss` names the topic {:?}, and {topic:?} is read", accepted.topic);
        Err(CliError::failed(Exit::Unusable, message))
    });
    accepted.collect()
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
    let accepted = accepted(args, &config.topics.requests.name)?;
    abort_on_panic();
    let journal = Arc::new(OnceLock::<Arc<Journal>>::new());
    let kept = Arc::clone(&journal);
    // What it has in flight is not to blame.
    let stop = stop_on_signals(move || kept.get().into_iter().for_each(|journal| journal.close()))?;
    let broker = context.surroundings().broker(&config)?;
    let mut prepared = prepare(&config, context, broker)?;
    let missing = prepared.engine.config.policy.missing;
    prepared.engine.config.policy = Arc::new(Policy { missing, accepted });
    if let Some(kept) = &prepared.engine.journal {
        journal.get_or_init(|| Arc::clone(kept));
    }
    let server = config
        .http_address
        .as_deref()
        .map(|address| {
            let capacity = prepared.watch.as_ref().map(Watch::kept);
            Server::start(address, prepared.metrics.clone(), prepared.health.clone(), capacity)
        })
        .transpose()?;
    let ended = prepared.engine.run(&stop);
    drop(server);
    drop(prepared.watch);
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

/// The first signal asks for a graceful stop; the second ends the process where it stands, after `at_once`.
pub(super) fn stop_on_signals(at_once: impl Fn() + Send + 'static) -> Result<Stop, CliError> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| CliError::failed(Exit::Failed, format!("could not listen for signals: {error}")))?;
    let stop = Stop::new();
    let asked = stop.clone();
    let spawned = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if asked.is_asked() {
                tracing::warn!(signal, "stopped at once; what was not committed is done again");
                at_once();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_accepted_as_it_is_named_and_in_no_other_words() {
        let accepted: AcceptLoss = "inference.requests:3:1200..1450".parse().unwrap();
        assert_eq!(accepted.loss.argument(&accepted.topic), "inference.requests:3:1200..1450");
        let wrong = [
            "",
            "t",
            "t:3",
            "t:3:5",
            "t:3:5..",
            "t:3:..5",
            "t:-1:5..6",
            "t:3:-5..6",
            "t:3:5...6",
            ":3:5..6",
            "t:3:5..6 ",
        ];
        for text in wrong {
            assert!(text.parse::<AcceptLoss>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_loss_of_another_topic_is_refused() {
        let args = Args { workers: None, accept_loss: vec!["other:3:5..6".parse().unwrap()] };
        let error = accepted(&args, "inference.requests").unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
        assert_eq!(accepted(&args, "other").unwrap(), [args.accept_loss[0].loss]);
    }
}
