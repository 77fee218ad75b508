//! What changes would do, beside what is: the rows of a table, for people and for pages.

use dataflows::capacity::Replay;
use dataflows::capacity::advice::time;
use dataflows::capacity::report::{Estimate, Report};

/// Partitions that are named one by one at most.
const NAMED_MAX: usize = 8;

/// The heads of its columns.
pub(super) const HEAD: [&str; 8] =
    ["what if", "comes/s", "bears/s", "used", "worst partition", "p99", "oldest", "will miss the objective"];

/// A row of it.
pub(super) type Row = [String; 8];

/// A row for what is, and one for each case.
pub(super) fn rows(now: &Report, others: &[(String, Report)]) -> Vec<Row> {
    let others = others.iter().map(|(name, report)| row(name, report));
    [row("now", now)].into_iter().chain(others).collect()
}

fn row(name: &str, report: &Report) -> Row {
    let dash = || "–".to_owned();
    let total = &report.total;
    let worst = report.partitions.iter().filter_map(|partition| partition.utilisation).fold(0.0, f64::max);
    let replay = report.replay.as_ref();
    let p99 = replay.and_then(|replay| replay.p99_millis());
    let oldest = replay.and_then(Replay::lag_seconds_max);
    [
        name.to_owned(),
        number(total.arriving.mean),
        total.rate_max.map_or_else(dash, estimate),
        total.utilisation.map_or_else(dash, |used| format!("{:.0} %", 100.0 * used)),
        format!("{:.0} %", 100.0 * worst),
        p99.map_or_else(dash, |(_, millis)| times(millis, 1e-3)),
        oldest.map_or_else(dash, |seconds| times(seconds, 1.0)),
        missing(report),
    ]
}

fn missing(report: &Report) -> String {
    let missing: Vec<String> = report.missing().iter().map(i32::to_string).collect();
    match missing.len() {
        0 => "none".to_owned(),
        1..=NAMED_MAX => missing.join(", "),
        many => format!("{many} partitions"),
    }
}

/// How well the replay of what was seen meets what was measured; nothing if nothing was replayed.
pub(super) fn replayed(now: &Report) -> Option<String> {
    let replay = now.replay.as_ref()?;
    let (model, p99) = replay.p99_millis()?;
    let measured = now.models.iter().find(|seen| seen.model == model).and_then(|seen| seen.p99_millis);
    let measured = measured.map_or_else(
        || "none was measured".to_owned(),
        |millis| format!("{} was measured", time(millis / 1e3)),
    );
    Some(format!(
        "p99 (from poll to outcome, of the slowest model) and oldest (of the requests without an outcome) come of a replay of the {} requests of the last {}. Replayed as it was, p99 is {}; {measured}",
        replay.records,
        time(replay.seconds),
        time(p99.value / 1e3),
    ))
}

pub(super) fn estimate(estimate: Estimate) -> String {
    format!("{} ({} to {})", number(estimate.value), number(estimate.low), number(estimate.high))
}

/// A time with what it may be, given in units of so many seconds.
fn times(estimate: Estimate, unit: f64) -> String {
    let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|value| time(value * unit));
    if low == high { value } else { format!("{value} ({low} to {high})") }
}

/// A rate, with three digits or so.
pub(super) fn number(rate: f64) -> String {
    if rate.is_infinite() {
        return "any".to_owned();
    }
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}
