//! `tidemill capacity`: which partition will miss its objective, when, why, and what would mend it.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use dataflows::capacity::{Basis, Objective, Report, Setup, Tick, WhatIf, analyse, replay, together};
use operators::broker::Broker;

use super::{CliError, Context, Exit};
use crate::capacity::{
    History, HistoryError, Recorder, Seen, basis, configured, fetch, look, page, parse, read, retention,
    table, what_if_table,
};
use crate::config::{Config, parse_duration};

/// Time from one page to the next with `--watch`.
const PAGE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a group is watched that tells nothing of itself.
const STRANGER_TIME: Duration = Duration::from_secs(30);

/// A moment to look back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this moment, in milliseconds since the Unix epoch.
    At(i64),
}

impl Since {
    fn millis(self, now_millis: i64) -> i64 {
        match self {
            Self::Ago(time) => now_millis.saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
            Self::At(millis) => millis,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(time) = text.strip_prefix('-') {
            return parse_duration(time).map(Self::Ago);
        }
        let moment = text.parse::<jiff::Timestamp>();
        let wrong = |_| "it must be a time ago, as `-2h`, or a moment, as `2026-11-29T12:00:00Z`".to_owned();
        moment.map(|moment| Self::At(moment.as_millisecond())).map_err(wrong)
    }
}

/// What `tidemill capacity` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It exits with code 3 if a partition will miss its objective within the horizon, and with 0 if none will: fit for CI and cron.

Examples:
  tidemill capacity                                    of the engine at `http.address`
  tidemill capacity --watch                            again and again
  tidemill capacity --attach edge-7:9464 --what-if load=+50% --what-if load=+100%
  tidemill capacity --attach box-1:9464,box-2:9464 --what-if processes=-1
  tidemill capacity --record trace.jsonl --for 1m      keep what is seen
  tidemill capacity --trace trace.jsonl --html report.html
  tidemill capacity --from -2h                         what Kafka remembers of this engine
  tidemill capacity --group billing --topic orders     a group that is not Tidemill's

Changes for --what-if, several of one case with commas:
  load=+50%  executors=4  workers=2  processes=-1  keys=spread
  batch.size_max=128  batch.delay_max=20ms  batch.slo=80ms  in_flight.records_max=20000
  model.A=B  cost.A=2ms+350us

How long requests would take comes of a replay of those that came, on a simulated device.")]
pub struct Args {
    /// The engine to ask: the `http.address` of another one than this configuration's. Several, with commas or given again, are the processes
    /// of one group
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "trace")]
    pub attach: Vec<String>,
    /// A trace to read instead of an engine, as `--record` writes it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// What Kafka remembers since then, of requests, results and dead letters, without inferring anything: `-2h`, or a moment as
    /// `2026-11-29T12:00:00Z`
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with_all = ["attach", "trace"])]
    pub from: Option<Since>,
    /// With `--from`: read no more records than this
    #[arg(long, value_name = "N", default_value_t = 2_000_000, requires = "from")]
    pub records_max: u64,
    /// A consumer group that may be anybody's, from its offsets and the ends of the log alone; watched for 30 seconds, or `--for`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["attach", "trace", "from"])]
    pub group: Option<String>,
    /// The topic that this group reads [default: `topics.requests.name`]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["attach", "trace", "from"])]
    pub topic: Option<String>,
    /// Show a page every two seconds until it is stopped
    #[arg(long, conflicts_with_all = ["trace", "from", "html", "duration"])]
    pub watch: bool,
    /// Watch for so long before anything is said; the engine has its last minute ready at once
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, conflicts_with_all = ["trace", "from"])]
    pub duration: Option<Duration>,
    /// Write what is seen to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "from"])]
    pub record: Option<PathBuf>,
    /// Write the report as a page with plots to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// A case to think through: changes, separated by commas. May be given again
    #[arg(long, value_name = "CHANGE[,CHANGE…]")]
    pub what_if: Vec<String>,
    /// The objective: how old the oldest request that is not committed may be: `--set capacity.lag_max=…`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub lag_max: Option<Duration>,
    /// How far to look ahead: `--set capacity.horizon=…`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub horizon: Option<Duration>,
}

/// Runs the command.
///
/// # Errors
///
/// If there is nothing to look at, or a case can't be thought through.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.load()?.config;
    let span = config.capacity.span;
    let asked = Asked { args, context, objective: objective(args, &config), cases: cases(args)?, span };
    if let Some(path) = &args.trace {
        return asked.show(&[traced(path)?]);
    }
    if let Some(from) = args.from {
        let seen = remembered(args, context, &config, from)?;
        let span = Duration::from_millis(seen.ticks.iter().map(|tick| tick.millis.unsigned_abs()).sum());
        return Asked { span, ..asked }.show(&[seen]);
    }
    if args.group.is_some() || args.topic.is_some() {
        let broker = context.surroundings().broker(&config)?;
        let setup = stranger(args, &config, &*broker)?;
        let mut last = context.clock.wall_micros() / 1_000;
        return asked.follow(args.duration.unwrap_or(STRANGER_TIME), Duration::from_secs(1), |_| {
            let now = context.clock.wall_micros() / 1_000;
            let tick = look(&*broker, &setup, now, (now - last).max(1))?;
            last = now;
            Ok(vec![Seen { setup: setup.clone(), ticks: vec![tick] }])
        });
    }
    let addresses = addresses(args, &config)?;
    asked.follow(args.duration.unwrap_or_default(), PAGE_INTERVAL, |seen| {
        let after = |place: usize| seen.get(place).map_or(i64::MIN, Seen::last_millis);
        let processes = addresses.len();
        addresses.iter().enumerate().map(|(place, address)| ask(address, processes, after(place))).collect()
    })
}

/// The engines to ask.
fn addresses(args: &Args, config: &Config) -> Result<Vec<String>, CliError> {
    if args.record.is_some() && args.attach.len() > 1 {
        let message = "a trace is of one process: `--record` goes with one `--attach`".to_owned();
        return Err(failed(Exit::Unusable, message));
    }
    if !args.attach.is_empty() {
        return Ok(args.attach.clone());
    }
    let own = config.http_address.clone().ok_or_else(|| {
        failed(
            Exit::Unusable,
            "`http.address` is off, so no engine of this configuration can be asked".to_owned(),
        )
        .with_help("name one with `--attach HOST:PORT`, or read a trace with `--trace FILE`")
    })?;
    Ok(vec![own])
}

/// What is asked, of whatever is seen.
struct Asked<'a> {
    args: &'a Args,
    context: &'a Context,
    objective: Objective,
    cases: Cases,
    span: Duration,
}

impl Asked<'_> {
    /// Looks again and again until so long has passed, or for ever, and shows what was seen.
    fn follow(
        self,
        length: Duration,
        interval: Duration,
        mut look: impl FnMut(&[Seen]) -> Result<Vec<Seen>, CliError>,
    ) -> Result<Exit, CliError> {
        let asked = Self { span: self.span.max(length), ..self };
        let clock = &asked.context.clock;
        let until = clock.now().after(length);
        let mut seen = look(&[])?;
        let mut recorder = match &asked.args.record {
            Some(path) => {
                let setup = seen.first().map(|seen| seen.setup.clone()).unwrap_or_default();
                Some((path, Recorder::create(path, &setup).map_err(|error| written(path, &error))?))
            }
            None => None,
        };
        let progress = progress(length, !asked.args.watch && !asked.context.json);
        loop {
            if let Some((path, recorder)) = &mut recorder {
                let ticks = seen.first().map(|seen| &*seen.ticks).unwrap_or_default();
                recorder.write(ticks).map_err(|error| written(path, &error))?;
            }
            let left = until.since(clock.now());
            if asked.args.watch {
                // The terminal's own: clear, and begin at the top.
                if std::io::stdout().is_terminal() {
                    asked.context.print("\x1b[2J\x1b[H")?;
                }
                asked.show(&seen)?;
            } else if left.is_zero() {
                progress.finish_and_clear();
                return asked.show(&seen);
            }
            progress.set_position(length.saturating_sub(left).as_secs());
            thread::sleep(if asked.args.watch { interval } else { interval.min(left) });
            let later = look(&seen)?;
            seen.iter_mut().zip(later).for_each(|(seen, later)| seen.follow(later, asked.span));
        }
    }

    fn show(&self, seen: &[Seen]) -> Result<Exit, CliError> {
        let (args, context) = (self.args, self.context);
        let Thought { report, others } = think(seen, self.objective, &self.cases, self.span)?;
        if let Some(path) = &args.html {
            let ticks: Vec<&[Tick]> = seen.iter().map(|seen| &*seen.ticks).collect();
            let ticks = together::ticks(&ticks);
            let setup = seen.first().map(|seen| seen.setup.clone()).unwrap_or_default();
            let text = page(&report, &others, &basis(setup, &ticks, self.span), &ticks)
                .map_err(|_| failed(Exit::Failed, "the page could not be drawn".to_owned()))?;
            std::fs::write(path, text).map_err(|error| written(path, &error))?;
        }
        if context.json {
            let mut object = serde_json::json!({ "report": report });
            if !others.is_empty() {
                let cases = others
                    .iter()
                    .map(|(name, report)| serde_json::json!({ "what_if": name, "report": report }));
                object["cases"] = cases.collect();
            }
            context.print(&format!("{object}\n"))?;
        } else {
            let mut text = table(&report);
            if !others.is_empty() {
                text.push_str(&what_if_table(&report, &others));
            }
            context.print(&text)?;
        }
        Ok(if report.missing().is_empty() { Exit::Done } else { Exit::Capacity })
    }
}

/// How much of the time has passed, on a terminal.
fn progress(length: Duration, shown: bool) -> indicatif::ProgressBar {
    if !shown || length.is_zero() || !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("observing {wide_bar} {pos} of {len} s");
    let bar = indicatif::ProgressBar::new(length.as_secs());
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn traced(path: &std::path::Path) -> Result<Seen, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| failed(Exit::Unusable, format!("could not read {}: {error}", path.display())))?;
    let (mut setup, ticks) =
        parse(&text).map_err(|error| failed(Exit::Unusable, format!("{}: {error}", path.display())))?;
    setup.source = path.display().to_string();
    Ok(Seen { setup, ticks })
}

/// What Kafka remembers since a moment.
fn remembered(args: &Args, context: &Context, config: &Config, from: Since) -> Result<Seen, CliError> {
    let broker = context.surroundings().broker(config)?;
    let until_millis = context.clock.wall_micros() / 1_000;
    let topics =
        [&config.topics.requests, &config.topics.results, &config.topics.dlq].map(|topic| topic.name.clone());
    let since_millis = from.millis(until_millis);
    let history = History { since_millis, until_millis, records_max: args.records_max, topics };
    let ticks = read(&*broker, &history, &config.kafka.group).map_err(|error| match error {
        HistoryError::Broker(error) => CliError::Broker(error),
        HistoryError::NoTopic(_) => failed(Exit::Unreachable, error.to_string())
            .with_help("`tidemill check` shows which topics are configured"),
        HistoryError::TooMany(_) => failed(Exit::Unusable, error.to_string())
            .with_help("take a later `--from`, or raise `--records-max`"),
    })?;
    let described = broker.admin()?.describe(&config.topics.requests.name)?;
    let setup = configured(config, described.as_ref().and_then(retention));
    Ok(Seen { setup: Setup { source: "what Kafka remembers".to_owned(), ..setup }, ticks })
}

/// A group that may be anybody's, seen from outside.
fn stranger(args: &Args, config: &Config, broker: &dyn Broker) -> Result<Setup, CliError> {
    let topic = args.topic.clone().unwrap_or_else(|| config.topics.requests.name.clone());
    let group = args.group.clone().unwrap_or_else(|| config.kafka.group.clone());
    let described = broker.admin()?.describe(&topic)?.ok_or_else(|| {
        failed(Exit::Unreachable, format!("there is no topic {topic:?}"))
            .with_help("name it with `--topic NAME`")
    })?;
    Ok(Setup {
        source: "its offsets".to_owned(),
        group,
        topic,
        partitions: usize::try_from(described.partitions).unwrap_or(0),
        retention_millis: retention(&described),
        ..Setup::default()
    })
}

fn ask(address: &str, processes: usize, after_millis: i64) -> Result<Seen, CliError> {
    let (setup, ticks) = fetch(address, after_millis).map_err(|error| {
        let help = match error {
            crate::capacity::AttachError::Silent(_) => {
                "set `capacity.observe = true` there, and start it again"
            }
            _ => "is it running, and is this its `http.address`? Name another one with `--attach HOST:PORT`",
        };
        failed(Exit::Failed, error.to_string()).with_help(help)
    })?;
    Ok(Seen { setup: Setup { processes, ..setup }, ticks })
}

fn failed(exit: Exit, message: String) -> CliError {
    CliError::failed(exit, message)
}

fn written(path: &std::path::Path, error: &std::io::Error) -> CliError {
    failed(Exit::Failed, format!("could not write {}: {error}", path.display()))
}

fn objective(args: &Args, config: &Config) -> Objective {
    let configured = config.capacity.objective;
    Objective {
        lag_seconds_max: args.lag_max.map_or(configured.lag_seconds_max, |time| time.as_secs_f64()),
        horizon_seconds: args.horizon.map_or(configured.horizon_seconds, |time| time.as_secs_f64()),
        ..configured
    }
}

/// The cases, each a name and its changes.
type Cases = Vec<(String, Vec<WhatIf>)>;

fn cases(args: &Args) -> Result<Cases, CliError> {
    let case = |text: &String| {
        let changes: Result<Vec<WhatIf>, _> = text.split(',').map(str::parse).collect();
        let changes = changes.map_err(|error| failed(Exit::Unusable, format!("`--what-if`: {error}")))?;
        Ok((text.clone(), changes))
    };
    args.what_if.iter().map(case).collect()
}

/// What is, and what would be.
struct Thought {
    report: Report,
    others: Vec<(String, Report)>,
}

/// Analyses each process by itself, and puts together what is said of them.
fn think(seen: &[Seen], objective: Objective, cases: &Cases, span: Duration) -> Result<Thought, CliError> {
    let mut reports = Vec::new();
    let mut by_case: Vec<Vec<Report>> = vec![Vec::new(); cases.len()];
    let all: Vec<Basis> = seen.iter().map(|seen| basis(seen.setup.clone(), &seen.ticks, span)).collect();
    for (seen, now) in seen.iter().zip(&all) {
        let mut report = analyse(now, objective);
        if !cases.is_empty() {
            report.replay = replay(now, &seen.ticks);
        }
        for ((name, changes), of_case) in cases.iter().zip(&mut by_case) {
            of_case.push(case((now, &all), seen, (name, changes), &report)?);
        }
        reports.push(report);
    }
    let names = cases.iter().map(|(name, _)| name.clone());
    let others = names.zip(by_case).filter_map(|(name, reports)| Some((name, together::reports(reports)?)));
    let others = others.collect();
    let report = together::reports(reports)
        .ok_or_else(|| failed(Exit::Failed, "there is nothing to look at".to_owned()))?;
    Ok(Thought { report, others })
}

/// What would be of one process of all these.
fn case(
    (now, all): (&Basis, &[Basis]),
    seen: &Seen,
    (name, changes): (&str, &[WhatIf]),
    report: &Report,
) -> Result<Report, CliError> {
    let mut changed = now.clone();
    for change in changes {
        for model in change.models() {
            all.iter().for_each(|other| changed.borrow_cost(model, other));
        }
        let applied = change.apply(&mut changed);
        applied.map_err(|error| failed(Exit::Unusable, format!("`--what-if {name}`: {error}")))?;
    }
    let mut case = analyse(&changed, report.objective);
    let replayed = replay(&changed, &seen.ticks);
    case.replay = replayed.zip(report.replay.as_ref()).map(|(case, now)| case.doubted(now, report));
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_ago_or_a_date() {
        assert_eq!("-2h".parse(), Ok(Since::Ago(Duration::from_hours(2))));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Since::At(1_000)));
        assert_eq!(Since::Ago(Duration::from_secs(3)).millis(5_000), 2_000);
        assert!(["2h", "", "-", "yesterday"].iter().all(|text| text.parse::<Since>().is_err()));
    }
}
