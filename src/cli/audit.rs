//! `tidemill audit`: checks that each request ended exactly once, and rightly.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use operators::broker::{Broker, BrokerError, Class};
use operators::clock::{Clock, Moment};
use operators::codec::form::ResultForm;
use operators::lease::{Offset, Partition};

use crate::audit::{AuditError, AuditOptions, Oracle, ResultKey, Tolerance, Watcher, audit};

/// Between two looks for outcomes that are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Check that each request ended exactly once, as a right result or as a dead letter with a right reason.
///
/// Reads the requests, results and dead letters from their beginning with `read_committed`, runs each model on each request by itself,
/// and compares. It shares no code with the engine's ledger, batching or sink. Counts requests that were lost (no outcome), duplicated
/// (more than one) or wrong (an outcome that is not theirs, or not right), outcomes that are unexpected (of no request) and, with
/// --ack-log, acknowledged requests that are missing. Exits with 1 if any of these is not 0; with `delivery = "at-least-once"`
/// duplicated requests are counted and allowed.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The producer's acknowledgement log: every request in it must be in the topic
    #[arg(long, value_name = "FILE")]
    pub ack_log: Option<PathBuf>,

    /// Look again until every request has its outcome, for up to so long: `30s`, `2m`
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait: Duration,

    /// Audit requests from this offset on, of every partition or of one; needed where retention has deleted older ones
    #[arg(long, value_name = "[PARTITION:]OFFSET")]
    pub from: Vec<Start>,

    /// Run no models: outputs are not compared, and reasons that depend on a model are taken on trust
    #[arg(long)]
    pub no_infer: bool,

    /// How far an output may be from what the model says: absolute, and again as a fraction of it
    #[arg(long, value_name = "T", default_value_t = 1e-4)]
    pub tolerance: f64,

    /// Allow no dead letter of a request that can be served, whatever got in its way
    #[arg(long)]
    pub strict: bool,

    /// Tell so many faults of each kind in detail
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub details: usize,

    /// Print the report as JSON: the global `--json`
    #[arg(skip)]
    pub json: bool,
}

/// A start offset on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    partition: Option<Partition>,
    offset: Offset,
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an offset: write it as 1200, or as 3:1200 for partition 3");
        let (partition, offset) = match text.split_once(':') {
            Some((partition, offset)) => (Some(Partition(partition.parse().map_err(|_| wrong())?)), offset),
            None => (None, text),
        };
        let offset = offset.parse().ok().filter(|&offset| offset >= 0).ok_or_else(wrong)?;
        Ok(Self { partition, offset: Offset(offset) })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    let wrong = || format!("{text:?} is not a duration: write it as 500ms, 30s or 2m");
    parsed.and_then(|duration| Duration::try_from(duration).ok()).ok_or_else(wrong)
}

/// What the audit takes from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The requests topic.
    pub requests: String,
    /// The results topic.
    pub results: String,
    /// The dead-letter topic.
    pub dlq: String,
    /// The consumer group that dead letters must name; `None` for any.
    pub group: Option<String>,
    /// Whether a request may have several outcomes.
    pub duplicates_allowed: bool,
    /// What the key of a result is.
    pub result_key: ResultKey,
    /// In which form results are.
    pub result_form: ResultForm,
    /// The models whose rows and outputs may hold NaN and infinities.
    pub not_finite_allowed: BTreeSet<String>,
    /// The largest request that the engine reads, if there is such a bound.
    pub record_bytes_max: Option<usize>,
    /// The largest dead letter that the engine sends, if it differs from the topic's bound.
    pub letter_bytes_max: Option<usize>,
}

impl Settings {
    /// An audit of everything, as the configuration has it.
    pub fn options(&self) -> AuditOptions {
        AuditOptions {
            duplicates_allowed: self.duplicates_allowed,
            result_key: self.result_key,
            result_form: self.result_form,
            not_finite_allowed: self.not_finite_allowed.clone(),
            group: self.group.clone(),
            letter_bytes_max: self.letter_bytes_max,
            record_bytes_max: self.record_bytes_max,
            ..AuditOptions::new(&self.requests, &self.results, &self.dlq)
        }
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The audit could not be made.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The report could not be printed.
    #[error("could not print the report: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Audit(AuditError::Broker(BrokerError { class: Class::Unreachable, .. })) => 10,
            Self::Audit(AuditError::AckLog { .. }) => 2,
            Self::Audit(_) | Self::Output(_) => 1,
        }
    }
}

impl Args {
    /// What to audit, and how.
    pub fn options(&self, settings: &Settings) -> AuditOptions {
        let every = self.from.iter().rfind(|start| start.partition.is_none());
        let single: BTreeMap<Partition, Offset> =
            self.from.iter().filter_map(|start| Some((start.partition?, start.offset))).collect();
        AuditOptions {
            from: every.map_or(Offset(0), |start| start.offset),
            from_partition: single,
            infer: !self.no_infer,
            tolerance: Tolerance { absolute: self.tolerance, relative: self.tolerance },
            strict: self.strict,
            ack_log: self.ack_log.clone(),
            details_max: self.details,
            ..settings.options()
        }
    }
}

/// Audits, prints the report to `out`, and returns the exit code. With [`Args::no_infer`] the oracle may be
/// [`NoOracle`](crate::audit::NoOracle).
///
/// # Errors
///
/// If a topic does not exist, or a log can't be read.
pub fn run(
    args: &Args,
    broker: &dyn Broker,
    settings: &Settings,
    oracle: &mut dyn Oracle,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let mut patience = Patience::new(clock, args.wait);
    let report = audit(broker, &args.options(settings), oracle, &mut patience);
    patience.bar.finish_and_clear();
    let report = report?;
    if args.json {
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(u8::from(!report.clean()))
}

/// Waits for outcomes up to a time, and shows what the audit does.
pub struct Patience<'a> {
    clock: &'a dyn Clock,
    deadline: Moment,
    bar: ProgressBar,
}

impl<'a> Patience<'a> {
    /// Waits for up to `wait` from now.
    pub fn new(clock: &'a dyn Clock, wait: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("audit: {msg}");
        let bar = style.map(|style| bar.clone().with_style(style)).unwrap_or(bar);
        Self { clock, deadline: clock.now().after(wait), bar }
    }
}

impl Watcher for Patience<'_> {
    fn reading(&mut self, topic: &str, partition: Partition, partitions: i32) {
        self.bar.set_message(format!("reading {topic}, partition {} of {partitions}", partition.0 + 1));
        self.bar.tick();
    }

    fn look_again(&mut self, open: u64) -> bool {
        let left = self.deadline.since(self.clock.now());
        if left.is_zero() {
            return false;
        }
        self.bar.set_message(format!("waiting for the outcomes of {open} requests"));
        self.bar.tick();
        std::thread::sleep(left.min(LOOK_AGAIN));
        true
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(text: &str) -> Result<Args, clap::Error> {
        Command::try_parse_from(text.split(' ')).map(|command| command.args)
    }

    fn settings() -> Settings {
        Settings {
            requests: "inference.requests".to_owned(),
            results: "inference.results".to_owned(),
            dlq: "inference.dlq".to_owned(),
            group: Some("inference-workers".to_owned()),
            duplicates_allowed: false,
            result_key: ResultKey::RequestId,
            result_form: ResultForm::default(),
            not_finite_allowed: BTreeSet::new(),
            record_bytes_max: None,
            letter_bytes_max: None,
        }
    }

    #[test]
    fn a_start_is_of_every_partition_or_of_one() {
        let options = parse("audit --from 7 --from 3:1200").unwrap().options(&settings());
        assert_eq!(options.from, Offset(7));
        assert_eq!(options.from_partition, BTreeMap::from([(Partition(3), Offset(1200))]));
        assert!(parse("audit --from -1").is_err());
        assert!(parse("audit --from x:1").is_err());
    }

    #[test]
    fn a_wait_is_a_duration() {
        assert_eq!(parse("audit --wait 90s").unwrap().wait, Duration::from_secs(90));
        assert_eq!(parse("audit").unwrap().wait, Duration::ZERO);
        assert!(parse("audit --wait soon").is_err());
    }

    #[test]
    fn without_patience_nothing_is_waited_for() {
        let clock = operators::clock::ManualClock::new();
        assert!(!Patience::new(&clock, Duration::ZERO).look_again(5));
    }

    #[test]
    fn by_default_everything_is_audited() {
        let options = parse("audit").unwrap().options(&settings());
        assert!(options.infer && !options.strict && options.ack_log.is_none());
        assert_eq!(options.tolerance, Tolerance::default());
        assert!(!parse("audit --no-infer").unwrap().options(&settings()).infer);
    }
}
