//! An experiment as a file: what stays the same, and what is swept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::parse_duration;
use crate::load::{Bursts, LoadForm, Schedule};

/// The most points of one experiment, repetitions not counted.
const POINTS_MAX: usize = 1_000;

/// A burst that is shorter is none: requests are sent a millisecond late.
const BURST_MIN: Duration = Duration::from_millis(10);

/// An experiment.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is called.
    pub title: String,
    /// What it is to find out.
    pub question: String,
    /// How often each point is measured.
    pub repetitions: u32,
    /// What differs between points, in the order in which it is told.
    pub swept: Vec<String>,
    /// The points.
    pub points: Vec<Point>,
}

/// A point: what is measured there.
#[derive(Clone, Debug)]
pub struct Point {
    /// The value of each parameter that is swept.
    pub swept: Vec<String>,
    /// What the instrument has to know.
    pub parameters: Parameters,
    /// Settings of the engine, as for `--set`.
    pub sets: Vec<String>,
}

/// What is measured at a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// A backlog of `requests`, until the last is done.
    #[default]
    Drain,
    /// The same, and the system is killed in the middle and started again.
    Kill,
    /// Requests at `rate`, whatever comes back.
    Rate,
    /// The highest rate that the system bears, by bisection up to `rate`.
    Sustainable,
}

/// What the instrument has to know of a point.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// `tidemill`, or the folder of a peer.
    pub system: String,
    /// What is measured.
    pub measure: Measure,
    /// The model that requests are for.
    pub model: String,
    /// Requests of a drain.
    pub requests: u64,
    /// Requests a second.
    pub rate: f64,
    /// Requests a second in bursts that come over the rate; 0 for none.
    pub burst_rate: f64,
    /// How long a burst lasts.
    #[serde(deserialize_with = "duration")]
    pub burst_length: Duration,
    /// The time from the beginning of a burst to that of the next; the first begins with the window.
    #[serde(deserialize_with = "duration")]
    pub burst_every: Duration,
    /// What is sent of a rate before anything counts.
    #[serde(deserialize_with = "duration")]
    pub warm_up: Duration,
    /// What counts of it.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// What the 99th percentile may be at a sustainable rate.
    #[serde(deserialize_with = "duration")]
    pub p99_max: Duration,
    /// The number of tenants.
    pub tenants: usize,
    /// The exponent of the Zipf distribution over them.
    pub skew: f64,
    /// The form of requests.
    pub form: String,
    /// Decimals of each number in them.
    pub decimals: u8,
    /// Whether the floor is measured beside.
    pub floor: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            system: "tidemill".to_owned(),
            measure: Measure::Drain,
            model: String::new(),
            requests: 100_000,
            rate: 10_000.0,
            burst_rate: 0.0,
            burst_length: Duration::from_secs(2),
            burst_every: Duration::from_secs(10),
            warm_up: Duration::from_secs(5),
            window: Duration::from_secs(20),
            p99_max: Duration::from_millis(250),
            tenants: 8,
            skew: 0.0,
            form: "json".to_owned(),
            decimals: 4,
            floor: true,
        }
    }
}

impl Parameters {
    /// What no setting of the engine is called.
    pub(crate) const NAMES: [&str; 16] = [
        "system",
        "measure",
        "model",
        "requests",
        "rate",
        "burst_rate",
        "burst_length",
        "burst_every",
        "warm_up",
        "window",
        "p99_max",
        "tenants",
        "skew",
        "form",
        "decimals",
        "floor",
    ];

    /// The form of requests.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn load_form(&self) -> Result<LoadForm, String> {
        clap::ValueEnum::from_str(&self.form, false).map_err(|_| {
            format!(
                "`form` can't be {:?}: it is json, tensor, open-inference, open-inference-binary or mixed",
                self.form
            )
        })
    }

    /// The bursts that come over the rate, if any do.
    pub fn bursts(&self) -> Option<Bursts> {
        let Self { burst_rate: rate, burst_length: length, burst_every: every, .. } = *self;
        (rate != 0.0).then_some(Bursts { after: self.warm_up, rate, length, every })
    }

    fn check(&self) -> Result<(), String> {
        self.load_form()?;
        if let Some(bursts) = self.bursts() {
            if self.measure != Measure::Rate {
                return Err("`burst_rate` is for `measure = \"rate\"`".to_owned());
            }
            Schedule::at_once().with_bursts(bursts).map_err(|error| error.to_string())?;
            if bursts.length < BURST_MIN || bursts.length >= self.window {
                return Err(format!("`burst_length` must be at least {BURST_MIN:?}, and less than `window`"));
            }
        }
        let in_range = [
            (self.model.is_empty(), "`model` is missing: the id of the model that requests are for"),
            (self.requests < 100, "`requests` must be at least 100"),
            (!self.rate.is_finite() || self.rate < 1.0, "`rate` must be at least 1 a second"),
            (self.window < Duration::from_secs(1), "`window` must be at least a second"),
            (self.tenants == 0, "`tenants` must be at least 1"),
            (!self.skew.is_finite() || self.skew < 0.0, "`skew` must be at least 0"),
            (!(1..=7).contains(&self.decimals), "`decimals` must be from 1 to 7"),
        ];
        in_range.into_iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, what)| Err(what.to_owned()))
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Why an experiment can't be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file can't be read.
    #[error("could not read the experiment {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no TOML, or a key is unknown or has a value of the wrong kind.
    #[error("the experiment is not written as it has to be: {0}")]
    Written(#[from] toml::de::Error),
    /// A parameter can't be so.
    #[error("the experiment can't be carried out: {0}")]
    Parameter(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    question: String,
    repetitions: Option<u32>,
    #[serde(default)]
    fixed: Table,
    #[serde(default)]
    sweep: Table,
    #[serde(default)]
    skip: Vec<Table>,
    #[serde(default)]
    differs: Vec<Differs>,
}

/// What is otherwise at some points.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differs {
    /// At those that have all of these values.
    at: Table,
    /// What is so there, in place of what is fixed.
    fixed: Table,
}

impl Plan {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it can't be read, or says something that can't be meant.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Keeps the points at which a parameter that is swept has one of these values.
    ///
    /// # Errors
    ///
    /// If it is not swept, or has such a value nowhere.
    pub fn keep(&mut self, name: &str, values: &[&str]) -> Result<(), PlanError> {
        let place = self.swept.iter().position(|swept| swept == name);
        let place = place.ok_or_else(|| {
            PlanError::Parameter(format!("`{name}` is not swept: there are {}", self.swept.join(", ")))
        })?;
        let has = |value: &&&str| self.points.iter().any(|point| point.swept[place] == **value);
        if let Some(strange) = values.iter().find(|value| !has(value)) {
            return Err(PlanError::Parameter(format!("`{name}` is {strange:?} nowhere")));
        }
        self.points.retain(|point| values.contains(&point.swept[place].as_str()));
        Ok(())
    }

    /// Reads a text.
    ///
    /// # Errors
    ///
    /// If it says something that can't be meant.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let file: File = toml::from_str(text)?;
        let repetitions = file.repetitions.unwrap_or(3);
        if !(1..=100).contains(&repetitions) {
            return Err(PlanError::Parameter("`repetitions` must be from 1 to 100".to_owned()));
        }
        let fixed = flat(&file.fixed);
        let mut swept = Vec::new();
        for (name, values) in flat(&file.sweep) {
            if fixed.iter().any(|(other, _)| *other == name) {
                return Err(PlanError::Parameter(format!("`{name}` is both fixed and swept")));
            }
            match values {
                Value::Array(values) if !values.is_empty() => swept.push((name, values)),
                _ => {
                    return Err(PlanError::Parameter(format!(
                        "`{name}` is swept: it needs an array of values"
                    )));
                }
            }
        }
        // Systems last: those that are compared with each other are measured one right after the other.
        swept.sort_by_key(|(name, _)| name == "system");
        let count = swept.iter().try_fold(1_usize, |product, (_, values)| product.checked_mul(values.len()));
        let count = count.filter(|count| *count <= POINTS_MAX).ok_or_else(|| {
            PlanError::Parameter(format!("there are more than {POINTS_MAX} points: sweep less at once"))
        })?;
        let names: Vec<String> = swept.iter().map(|(name, _)| name.clone()).collect();
        let differs: Vec<Other> =
            file.differs.iter().map(|differs| Other::new(differs, &swept)).collect::<Result<_, _>>()?;
        let mut points: Vec<Point> =
            (0..count).map(|index| point(index, &fixed, &swept, &differs)).collect::<Result<_, _>>()?;
        for skipped in &file.skip {
            leave_out(&mut points, &names, skipped)?;
        }
        Ok(Self { title: file.title, question: file.question, repetitions, swept: names, points })
    }
}

/// Which points are meant: those that have all of some values, each of a parameter that is swept.
struct Selection(Vec<(usize, String)>);

impl Selection {
    /// What `table`, a table of this name, selects among the points of what is swept.
    fn new(table: &str, values: &Table, names: &[String]) -> Result<Self, PlanError> {
        let place = |(name, value): (String, Value)| {
            let place = names.iter().position(|swept| *swept == name);
            let wrong = || PlanError::Parameter(format!("`{table}` names `{name}`, which is not swept"));
            Ok((place.ok_or_else(wrong)?, label(&value)))
        };
        flat(values).into_iter().map(place).collect::<Result<_, PlanError>>().map(Self)
    }

    /// Whether it means the point with these values; one that names nothing means none.
    fn has(&self, swept: &[String]) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(place, value)| swept[*place] == *value)
    }
}

/// What is fixed otherwise at some points.
struct Other {
    at: Selection,
    fixed: Vec<(String, Value)>,
}

impl Other {
    fn new(Differs { at, fixed }: &Differs, swept: &[(String, Vec<Value>)]) -> Result<Self, PlanError> {
        let names: Vec<String> = swept.iter().map(|(name, _)| name.clone()).collect();
        let (at, fixed) = (Selection::new("differs", at, &names)?, flat(fixed));
        let is_somewhere =
            |(place, value): &(usize, String)| swept[*place].1.iter().any(|it| label(it) == *value);
        if at.0.is_empty() || !at.0.iter().all(is_somewhere) {
            return Err(PlanError::Parameter("a table of `differs` is for no point".to_owned()));
        }
        if let Some((name, _)) = fixed.iter().find(|(name, _)| names.contains(name)) {
            return Err(PlanError::Parameter(format!(
                "`{name}` is swept, and can't be otherwise at some points"
            )));
        }
        Ok(Self { at, fixed })
    }
}

/// Leaves out the points that have all of these values.
fn leave_out(points: &mut Vec<Point>, names: &[String], values: &Table) -> Result<(), PlanError> {
    let skipped = Selection::new("skip", values, names)?;
    let before = points.len();
    points.retain(|point| !skipped.has(&point.swept));
    if points.len() == before {
        return Err(PlanError::Parameter("a table of `skip` leaves out no point".to_owned()));
    }
    Ok(())
}

/// The point at `index`, of all in order: the last parameter changes the fastest.
fn point(
    index: usize,
    fixed: &[(String, Value)],
    swept: &[(String, Vec<Value>)],
    differs: &[Other],
) -> Result<Point, PlanError> {
    let mut rest = index;
    let mut chosen: Vec<(&String, &Value)> = Vec::new();
    for (name, values) in swept.iter().rev() {
        chosen.push((name, &values[rest % values.len()]));
        rest /= values.len();
    }
    chosen.reverse();
    let labels: Vec<String> = chosen.iter().map(|(_, value)| label(value)).collect();
    let mut all: BTreeMap<&String, &Value> = fixed.iter().map(|(name, value)| (name, value)).collect();
    for other in differs.iter().filter(|other| other.at.has(&labels)) {
        all.extend(other.fixed.iter().map(|(name, value)| (name, value)));
    }
    let all = all.into_iter().chain(chosen);
    let (ours, settings): (Vec<_>, Vec<_>) =
        all.partition(|(name, _)| Parameters::NAMES.contains(&name.as_str()));
    let ours: Table = ours.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let parameters: Parameters = ours.try_into()?;
    parameters.check().map_err(PlanError::Parameter)?;
    let sets = settings.into_iter().map(|(name, value)| format!("{name}={}", label(value))).collect();
    Ok(Point { swept: labels, parameters, sets })
}

/// A value as it is told to people, and to `--set`.
fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The values of a table and those below it, by their dotted names.
fn flat(table: &Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                found.extend(flat(inner).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
            }
            _ => found.push((name.clone(), value.clone())),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        title = "batches"
        repetitions = 2
        [fixed]
        model = "mlp-16"
        commit.interval = "50ms"
        [sweep]
        "batch.size_max" = [1, 64]
        system = ["tidemill", "benches/peers/go"]
        workers = [1, 2]
    "#;

    #[test]
    fn a_sweep_is_every_combination_and_systems_follow_each_other() {
        let plan = Plan::parse(TEXT).unwrap();
        assert_eq!(plan.swept, ["batch.size_max", "workers", "system"]);
        assert_eq!(plan.points.len(), 8);
        assert_eq!(plan.points[0].swept, ["1", "1", "tidemill"]);
        assert_eq!(plan.points[1].swept, ["1", "1", "benches/peers/go"]);
        assert_eq!(plan.points[7].swept, ["64", "2", "benches/peers/go"]);
        assert_eq!(plan.points[2].sets, ["commit.interval=50ms", "batch.size_max=1", "workers=2"]);
        assert_eq!(plan.points[2].parameters.model, "mlp-16");
    }

    #[test]
    fn some_points_can_be_chosen() {
        let mut plan = Plan::parse(TEXT).unwrap();
        assert!(
            plan.keep("colour", &["red"])
                .unwrap_err()
                .to_string()
                .contains("batch.size_max, workers, system")
        );
        assert!(plan.keep("workers", &["1", "7"]).unwrap_err().to_string().contains("\"7\" nowhere"));
        plan.keep("workers", &["2"]).unwrap();
        plan.keep("batch.size_max", &["1", "64"]).unwrap();
        assert_eq!(plan.points.len(), 4);
        assert!(plan.points.iter().all(|point| point.swept[1] == "2"));
    }

    #[test]
    fn points_that_make_no_sense_are_left_out() {
        let with = |skip: &str| Plan::parse(&format!("{TEXT}\n[[skip]]\n{skip}"));
        let plan = with("workers = 2\nsystem = 'tidemill'").unwrap();
        assert_eq!(plan.points.len(), 6);
        assert!(plan.points.iter().all(|point| point.swept[1..] != ["2", "tidemill"]));
        assert!(with("colour = 'red'").unwrap_err().to_string().contains("not swept"));
        assert!(with("workers = 7").unwrap_err().to_string().contains("leaves out no point"));
    }

    #[test]
    fn what_is_fixed_may_be_otherwise_at_some_points() {
        let with = |differs: &str| Plan::parse(&format!("{TEXT}\n[[differs]]\n{differs}"));
        let plan =
            with("at = { workers = 2 }\nfixed = { requests = 700, commit.interval = '1s', tenants = 3 }")
                .unwrap();
        for point in plan.points {
            let has_two = point.swept[1] == "2";
            let (requests, tenants) = if has_two { (700, 3) } else { (100_000, 8) };
            assert_eq!((point.parameters.requests, point.parameters.tenants), (requests, tenants));
            assert_eq!(point.sets[0], if has_two { "commit.interval=1s" } else { "commit.interval=50ms" });
        }
        let said = |differs: &str| with(differs).unwrap_err().to_string();
        assert!(said("at = { colour = 'red' }\nfixed = { requests = 700 }").contains("not swept"));
        assert!(said("at = { workers = 7 }\nfixed = { requests = 700 }").contains("no point"));
        assert!(said("at = {}\nfixed = { requests = 700 }").contains("no point"));
        assert!(said("at = { workers = 2 }\nfixed = { workers = 1 }").contains("is swept"));
        assert!(said("at = { workers = 2 }\nfixed = { requests = 7 }").contains("at least 100"));
        assert!(said("at = { workers = 2 }").contains("fixed"));
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        let said = |text: &str| Plan::parse(text).unwrap_err().to_string();
        let with = |fixed: &str, sweep: &str| {
            format!("title = 't'\n[fixed]\nmodel = 'm'\n{fixed}\n[sweep]\n{sweep}")
        };
        assert!(said("[fixed]\nmodel = 'm'").contains("title"));
        assert!(said("title = 't'").contains("`model` is missing"));
        assert!(said("title = 't'\ntitel = 't'").contains("titel"));
        assert!(said(&with("workers = 1", "workers = [1, 2]")).contains("both fixed and swept"));
        assert!(said(&with("", "workers = 2")).contains("needs an array"));
        assert!(said(&with("", "workers = []")).contains("needs an array"));
        assert!(said(&with("requests = 1", "")).contains("at least 100"));
        assert!(said(&with("form = 'xml'", "")).contains("json, tensor"));
        assert!(said(&with("window = 'soon'", "")).contains("soon"));
        assert!(said(&with("measure = 'guess'", "")).contains("guess"));
        assert!(said(&with("burst_rate = 9", "")).contains("is for `measure"));
        assert!(said(&with("measure = 'rate'\nburst_rate = -9", "")).contains("rate of bursts"));
        let overlong = "measure = 'rate'\nburst_rate = 9\nburst_length = '9s'\nburst_every = '9s'";
        assert!(said(&with(overlong, "")).contains("length of bursts"));
        let as_long = "measure = 'rate'\nburst_rate = 9\nwindow = '2s'";
        assert!(said(&with(as_long, "")).contains("less than `window`"));
        let many: Vec<u32> = (0..1_001).collect();
        assert!(said(&with("", &format!("workers = {many:?}"))).contains("more than 1000 points"));
    }
}
