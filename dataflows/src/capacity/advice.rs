//! One line of advice: the smallest change that mends it, what it would change, and what it would not.

use super::basis::{Basis, whole};
use super::report::{HotKey, Total};
use super::setting::{self, Action, Setting};
use super::verdict::{Signs, Verdict};
use super::{Objective, tick::Stage};

/// What advice is asked for.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The ground.
    pub basis: &'a Basis,
    /// The numbers of the partition.
    pub signs: &'a Signs,
    /// What is the matter with it.
    pub verdict: Verdict,
    /// Its number.
    pub partition: i32,
    /// Its hottest key.
    pub hot: Option<&'a HotKey>,
    /// All partitions together.
    pub total: &'a Total,
    /// What is to be kept.
    pub objective: Objective,
    /// When it is missed.
    pub missed_in: Option<f64>,
}

/// What is advised.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// For people, in one line.
    pub text: String,
    /// What of it a process may do by itself, if anything.
    pub action: Option<Action>,
}

impl From<String> for Advice {
    fn from(text: String) -> Self {
        Self { text, action: None }
    }
}

impl From<&str> for Advice {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// The advice; nothing where nothing is to be done.
pub fn advice(case: &Case<'_>) -> Option<Advice> {
    match case.verdict {
        Verdict::Unknown => None,
        Verdict::Ok => case.missed_in.map(|seconds| {
            let what = if seconds <= 0.0 { "it is behind its objective, and catching up".to_owned() } else { format!("it misses its objective in {}", time(seconds)) };
            let Advice { text, action } = capacity(case);
            Advice { text: format!("{what}: {text}"), action }
        }),
        Verdict::Upstream => Some(
            "look at who sends to this topic; nothing here keeps records waiting, and more capacity would change nothing".into(),
        ),
        Verdict::Stalled => Some(
            "look at the log and at /health/ready of the process that owns it: a commit that fails, a breaker that holds, or nobody who reads it. More capacity would change nothing".into(),
        ),
        Verdict::Starved => Some(starved(case)),
        Verdict::Skewed => Some(skewed(case)),
        Verdict::Saturated => Some(capacity(case)),
    }
}

/// Twice what a setting is now.
fn double(case: &Case<'_>, setting: Setting) -> Option<Action> {
    let now = *setting::values(&case.basis.setup).get(&setting)?;
    Some(Action { setting, to: now.saturating_mul(2).max(1) })
}

fn starved(case: &Case<'_>) -> Advice {
    let model = case.hot.map(|hot| hot.model.clone()).unwrap_or_default();
    let (text, setting) = match case.signs.fill {
        Some(fill) if fill < 0.5 => (
            "raise `batch.delay_max`, or set `batch.slo`: batches run before they are full. It raises latency by as much at low load; more workers or partitions would change little",
            Setting::DelayMax(model),
        ),
        Some(fill) if fill > 0.9 => (
            "raise `batch.size_max`: batches are full while executors have time left between them. Where a larger batch is no cheaper a row it gains nothing; see `tidemill_batch_efficient_records`",
            Setting::SizeMax(model),
        ),
        _ => (
            "raise `in_flight.records_max`, or look at the broker's fetches: executors wait for records. More executors would change nothing",
            Setting::InFlight,
        ),
    };
    Advice { text: text.to_owned(), action: double(case, setting) }
}

fn skewed(case: &Case<'_>) -> Advice {
    let Some(hot) = case.hot else {
        return "spread its keys: add partitions, which moves keys to other partitions; a single hot key stays in one".into();
    };
    let (tenant, key) = (plain(&hot.tenant), format!("`{}|{}`", plain(&hot.tenant), plain(&hot.model)));
    if case.signs.bounded {
        return format!(
            "raise `tenants.{tenant}.rate_max` if this tenant is to have more: its bound holds its partition up. More partitions, workers or executors would change nothing"
        ).into();
    }
    if hot.share >= 0.5 {
        let Advice { text, action } = capacity(case);
        let text = format!(
            "move the tenant of {key} to a topic of its own, or split the key: one key is in one partition, and one partition in one process. More partitions would not help this key, and would move the others; {}",
            lower(&text)
        );
        return Advice { text, action };
    }
    let wanted = partitions(case);
    format!(
        "go from {} to {wanted} partitions, so that its keys fall apart: no key of it has more than {:.0} % of its records. That moves keys to other partitions, so the order of a key is lost across the change; and it does not make the devices faster",
        case.basis.setup.partitions.max(case.basis.picture.partitions.len()),
        100.0 * hot.share
    ).into()
}

/// Partitions that would bring this one's share down to what it can bear at the target, keys spread evenly.
fn partitions(case: &Case<'_>) -> usize {
    let now = case.basis.setup.partitions.max(case.basis.picture.partitions.len()).max(1);
    let bears =
        case.signs.rate_max.unwrap_or(case.signs.committing.mean).max(1e-9) * case.objective.utilisation;
    let over = (case.signs.arriving.mean / bears)
        .max(case.signs.share / case.signs.even_share.max(1e-9))
        .clamp(1.0, 64.0);
    let mut wanted = now;
    while whole(wanted) < whole(now) * over {
        wanted += now;
    }
    wanted.max(now * 2)
}

/// More of what gives out first.
fn capacity(case: &Case<'_>) -> Advice {
    let setup = &case.basis.setup;
    let executors = setup.executors.max(1);
    match (case.total.limit.as_deref(), case.total.executors_needed) {
        (Some(limit), Some(needed)) if limit == Stage::Infer.name() && needed > executors => {
            let more = (whole(needed) / whole(executors)).ceil();
            let to = u64::try_from(needed).unwrap_or(u64::MAX);
            let text = format!(
                "give it {needed} executors where there are {executors} (`onnx.executors`, if cores or the device have room), or run {more} processes of this size; at {:.0} % use both bear what comes. A process takes whole partitions, and none helps a key that is alone in its partition",
                100.0 * case.objective.utilisation
            );
            Advice { text, action: Some(Action { setting: Setting::Executors, to }) }
        }
        (Some(limit), _) if limit == Stage::Worker.name() => {
            format!("raise `workers` from {}, if there are cores, or add a process; more executors would change nothing", setup.workers).into()
        }
        (Some(limit), _) if limit != Stage::Infer.name() => {
            format!("add a process: {limit} gives out first, and a process has one of it. More executors or workers would change nothing").into()
        }
        (Some(_), _) => "wait for the lag to drain: what comes is within what the devices bear. More capacity would only make it sooner".into(),
        (None, _) => "add consumers to the group, if there are fewer than partitions; what one of them could bear is not known from offsets alone".into(),
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// A name as it stands in a line for people. It comes from strangers: whatever is in it, it is no order to a terminal.
pub fn plain(name: &str) -> String {
    name.chars().flat_map(char::escape_debug).collect()
}

/// A time, for people.
pub fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 1.0 => format!("{:.0} ms", 1e3 * seconds),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}
