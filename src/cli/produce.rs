//! `tidemill produce`: sends requests, from JSON lines or generated.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args as ClapArgs};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use operators::broker::{Broker, BrokerError, Class};
use operators::clock::{Clock, Moment};
use serde::Serialize;

use crate::load::{BAD_KINDS, BadKind, Load, LoadError, LoadForm, LoadOptions, ModelRow, Schedule};
use crate::produce::{ProduceError, Sender, Tally, Validator, Watcher, send_lines, send_load};

/// Send requests: from lines of JSON, or generated.
///
/// Each request is checked first. One that could only become a dead letter (no `model_id`, a body that is no request, an id that no model
/// may have, a row of the wrong length, too many bytes) is refused with the number of its line and the field that is to blame; the others
/// are sent all the same. Exits with 1 unless every request was sent and acknowledged.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("source").required(true).args(["input", "generate"]))]
pub struct Args {
    /// The topic, instead of the configured requests topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,

    /// Read requests from a file, one JSON object a line; `-` is standard input. Key and header are derived
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Generate so many requests
    #[arg(long, value_name = "N")]
    pub generate: Option<u64>,

    /// Requests a second, evenly spaced, in an open loop; as fast as possible if absent
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,

    /// Models as `id:floats` or `id:axes:input` (`cnn:6x64:image`), or `id` with --row-len, separated by commas; those of the model folder if absent. Axes and
    /// input matter to the forms of the Open Inference Protocol
    #[arg(long, value_name = "ID:LEN,...", value_delimiter = ',')]
    pub models: Vec<ModelArg>,

    /// Floats a row, for the models that are given without
    #[arg(long, value_name = "LEN")]
    pub row_len: Option<usize>,

    /// Tenants that requests are generated for
    #[arg(long, value_name = "T", default_value_t = 8, conflicts_with = "input")]
    pub tenants: usize,

    /// Exponent of the Zipf distribution over tenants; 0 is even
    #[arg(long, value_name = "S", default_value_t = 0.0, conflicts_with = "input")]
    pub skew: f64,

    /// The form of generated requests; bad ones have that of their kind
    #[arg(long, value_name = "FORM", value_enum, default_value_t, conflicts_with = "input")]
    pub form: LoadForm,

    /// The same seed generates the same bytes
    #[arg(long, value_name = "X", default_value_t = 1, conflicts_with = "input")]
    pub seed: u64,

    /// Fraction of bad requests among the generated ones, every kind equally often. They are refused unless --allow-invalid
    #[arg(long, value_name = "F", default_value_t = 0.0, conflicts_with = "input")]
    pub bad: f64,

    /// The kinds of bad requests, separated by commas; all if absent
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', conflicts_with = "input")]
    pub bad_kinds: Vec<BadKind>,

    /// The size that an oversized bad request exceeds, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024, conflicts_with = "input")]
    pub oversized_bytes: usize,

    /// Decimals of each generated float
    #[arg(long, value_name = "D", default_value_t = 4, conflicts_with = "input")]
    pub decimals: u8,

    /// Send generated bad requests on purpose, for tests
    #[arg(long, conflicts_with = "input")]
    pub allow_invalid: bool,

    /// Note each acknowledged request in a file: a line of JSON with topic, partition, offset and `request_id`
    #[arg(long, value_name = "FILE")]
    pub ack_log: Option<PathBuf>,

    /// Refuse records of more bytes, key and headers included
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000, value_parser = up_to_a_gigabyte())]
    pub record_bytes_max: usize,

    /// Wait so many seconds for the last acknowledgements
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,

    /// Print the summary as JSON: the global `--json`
    #[arg(skip)]
    pub json: bool,
}

/// No Kafka client takes a larger record; and a line far larger would be more than [`operators::records::Records`] can hold.
fn up_to_a_gigabyte() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_000_000_000)
}

/// A model on the command line: `id`, or what [`ModelRow`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelArg {
    id: String,
    row: Option<ModelRow>,
}

impl FromStr for ModelArg {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let with_length = if text.contains(':') { text.to_owned() } else { format!("{text}:0") };
        let row: ModelRow = with_length.parse().map_err(|_| LoadError::Model(text.to_owned()))?;
        Ok(Self { id: row.id.clone(), row: text.contains(':').then_some(row) })
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments can't be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No model is known to generate requests for.
    #[error("there is no model to generate requests for: name some with --models mlp-16:16")]
    NoModel,
    /// A model was named without its row.
    #[error("how many floats does a row of model {0:?} have? name it as {0}:16, or add --row-len")]
    NoRowLen(String),
    /// A file could not be opened.
    #[error("could not open {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The producer stopped.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// The summary could not be printed.
    #[error("could not print the summary: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(_) | Self::NoModel | Self::NoRowLen(_) | Self::File { .. } => 2,
            Self::Produce(ProduceError::Broker(BrokerError { class: Class::Unreachable, .. })) => 10,
            Self::Produce(_) | Self::Output(_) => 1,
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::Produce(error.into())
    }
}

/// What is printed in the end.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    topic: &'a str,
    seconds: f64,
    #[serde(flatten)]
    tally: &'a Tally,
    unacknowledged: u64,
}

/// Sends the requests, prints a summary to `out`, and returns the exit code.
///
/// `requests` is the configured requests topic, `known` the models of the model folder, if it has been read.
///
/// # Errors
///
/// If the arguments can't be used, or the broker takes no more.
pub fn run(
    args: &Args,
    broker: &dyn Broker,
    requests: &str,
    known: &[ModelRow],
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let models = models(args, known)?;
    let schedule = args.rate.map_or(Ok(Schedule::at_once()), Schedule::at_rate)?;
    let validator = Validator {
        record_bytes_max: args.record_bytes_max,
        row_lens: models.iter().map(|model| (model.id.clone(), model.row_len)).collect(),
    };
    let topic = args.topic.as_deref().unwrap_or(requests);
    let ack_log = args.ack_log.as_deref().map(create).transpose()?;
    let source = Source::open(args, models)?;

    let mut sender = Sender::new(broker.writer()?, topic, ack_log);
    let mut pace = Pace { clock, start: clock.now(), bar: bar(args.generate) };
    let produced = match source {
        Source::Lines(lines) => send_lines(lines, &validator, schedule, &mut sender, &mut pace),
        Source::Load(load) => {
            let validator = (!args.allow_invalid).then_some(&validator);
            send_load(*load, validator, schedule, &mut sender, &mut pace)
        }
    };
    // Also when the broker has given up: what it acknowledged is noted, and told.
    let finished = sender.finish(Duration::from_secs(args.wait));
    pace.bar.finish_and_clear();
    let seconds = clock.now().since(pace.start).as_secs_f64();
    let tally = sender.tally();
    let summary = Summary { topic, seconds, tally, unacknowledged: tally.unacknowledged() };
    summary.print(args.json, out)?;
    produced?;
    finished?;
    Ok(u8::from(!tally.complete()))
}

/// Where requests come from.
enum Source {
    Lines(Box<dyn BufRead>),
    Load(Box<Load>),
}

impl Source {
    fn open(args: &Args, models: Vec<ModelRow>) -> Result<Self, Failure> {
        match (&args.input, args.generate) {
            (Some(path), _) if path == Path::new("-") => Ok(Self::Lines(Box::new(io::stdin().lock()))),
            (Some(path), _) => {
                let file = File::open(path).map_err(|source| failed_to_open(path, source))?;
                Ok(Self::Lines(Box::new(BufReader::new(file))))
            }
            (None, requests) => {
                if models.is_empty() {
                    return Err(Failure::NoModel);
                }
                let kinds =
                    if args.bad_kinds.is_empty() { BAD_KINDS.to_vec() } else { args.bad_kinds.clone() };
                let options = LoadOptions {
                    requests: requests.unwrap_or_default(),
                    tenants: args.tenants,
                    models,
                    form: args.form,
                    skew: args.skew,
                    seed: args.seed,
                    bad: args.bad,
                    bad_kinds: kinds,
                    oversized_bytes: args.oversized_bytes,
                    decimals: args.decimals,
                    ..LoadOptions::default()
                };
                Ok(Self::Load(Box::new(Load::new(options)?)))
            }
        }
    }
}

/// The models of the arguments, or else the known ones.
impl Args {
    /// Whether requests are made up for models whose row lengths the arguments do not say.
    pub fn needs_row_lens(&self) -> bool {
        let unknown = |model: &ModelArg| model.row.is_none() && self.row_len.is_none();
        self.generate.is_some() && (self.models.is_empty() || self.models.iter().any(unknown))
    }
}

fn models(args: &Args, known: &[ModelRow]) -> Result<Vec<ModelRow>, Failure> {
    if args.models.is_empty() {
        return Ok(known.to_vec());
    }
    let row = |model: &ModelArg| {
        let of_length = || args.row_len.map(|row_len| ModelRow::new(&model.id, &[row_len]));
        let of_folder = || known.iter().find(|row| row.id == model.id).cloned();
        let row = model.row.clone().or_else(of_length).or_else(of_folder);
        row.ok_or_else(|| Failure::NoRowLen(model.id.clone()))
    };
    args.models.iter().map(row).collect()
}

fn create(path: &Path) -> Result<Box<dyn Write>, Failure> {
    let file = File::create(path).map_err(|source| failed_to_open(path, source))?;
    Ok(Box::new(BufWriter::new(file)))
}

fn failed_to_open(path: &Path, source: io::Error) -> Failure {
    Failure::File { path: path.display().to_string(), source }
}

impl Summary<'_> {
    fn print(&self, json: bool, out: &mut dyn Write) -> io::Result<()> {
        let Tally { sent, bytes, acknowledged, failed, refused, complaints } = self.tally;
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for complaint in complaints {
            writeln!(out, "{complaint}")?;
        }
        let untold = (failed + refused).saturating_sub(complaints.len() as u64);
        if untold > 0 {
            writeln!(out, "and {untold} more")?;
        }
        let (topic, seconds, unacknowledged) = (self.topic, self.seconds, self.unacknowledged);
        writeln!(out, "{sent} requests ({bytes} bytes) to {topic} in {seconds:.2} s")?;
        writeln!(
            out,
            "produce: sent={sent} acknowledged={acknowledged} failed={failed} refused={refused} \
             unacknowledged={unacknowledged}"
        )
    }
}

/// Waits until requests are due, and shows how far it has come.
struct Pace<'a> {
    clock: &'a dyn Clock,
    start: Moment,
    bar: ProgressBar,
}

impl Watcher for Pace<'_> {
    fn wait_until(&mut self, due: Duration) -> bool {
        let ahead = due.saturating_sub(self.clock.now().since(self.start));
        if ahead.is_zero() {
            return false;
        }
        std::thread::sleep(ahead);
        true
    }

    fn progress(&mut self, tally: &Tally) {
        self.bar.set_position(tally.sent + tally.refused);
    }
}

/// A bar on a terminal, nothing in a pipe.
fn bar(requests: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(requests, ProgressDrawTarget::stderr());
    let template = match requests {
        Some(_) => "{wide_bar} {pos}/{len} requests, {per_sec}, {eta} left",
        None => "{pos} requests, {per_sec}",
    };
    ProgressStyle::with_template(template).map(|style| bar.clone().with_style(style)).unwrap_or(bar)
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

    #[test]
    fn requests_are_read_or_generated_and_not_both() {
        assert!(parse("produce").is_err());
        assert!(parse("produce --input - --generate 5").is_err());
        assert!(parse("produce --input requests.jsonl --rate 100").is_ok());
        assert!(parse("produce --input - --allow-invalid").is_err());
        let args = parse("produce --generate 5 --bad 0.5 --bad-kinds not_json,null_value").unwrap();
        assert_eq!(args.bad_kinds, [BadKind::NotJson, BadKind::NullValue]);
        assert!(parse("produce --generate 5 --bad 0.5 --bad-kinds strange").is_err());
        assert!(parse("produce --input - --record-bytes-max 1000000000").is_ok());
        assert!(parse("produce --input - --record-bytes-max 1000000001").is_err());
    }

    #[test]
    fn a_row_length_comes_from_the_model_the_option_or_the_folder() {
        let known = ["c:7".parse().unwrap()];
        let rows = |text: &str| models(&parse(text).unwrap(), &known);
        let of = |rows: Vec<ModelRow>| rows.into_iter().map(|row| row.row_len).collect::<Vec<_>>();
        assert_eq!(of(rows("produce --generate 1").unwrap()), [7]);
        assert_eq!(of(rows("produce --generate 1 --models a:3,b,c --row-len 5").unwrap()), [3, 5, 5]);
        assert_eq!(of(rows("produce --generate 1 --models a:3,c").unwrap()), [3, 7]);
        let error = rows("produce --generate 1 --models b").unwrap_err();
        assert!(error.to_string().contains("b:16"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(parse("produce --generate 1 --models ../x:3").is_err());
    }
}
