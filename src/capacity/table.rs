//! A report for people.

use dataflows::capacity::advice::{plain, time};
use dataflows::capacity::report::{PartitionReport, Report};
use dataflows::capacity::verdict::Verdict;

use super::cases::{self, estimate, number};

/// Partitions that are well and shown one by one, at most; the others are counted.
const WELL_SHOWN_MAX: usize = 16;

/// The heads of the tables.
const PARTITION_HEAD: [&str; 9] =
    ["partition", "comes/s", "bears/s", "used", "lag", "age", "drained in", "hottest key", "verdict"];
const MODEL_HEAD: [&str; 7] =
    ["model", "rows/s", "batch rows", "a batch takes", "busy", "alone/s", "p50 / p99"];

/// The report as a table, with what is to be known of each partition that is not well below it.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, report);
    let rows: Vec<[String; 9]> = shown(report).map(row).collect();
    lines(&mut out, &PARTITION_HEAD.map(str::to_owned), &rows);
    let hidden = report.partitions.len() - shown(report).count();
    if hidden > 0 {
        push(&mut out, &format!("… and {hidden} more that are OK"));
    }
    models(&mut out, report);
    findings(&mut out, report);
    if !report.unknown.is_empty() {
        push(&mut out, "");
        push(&mut out, "not known:");
        report.unknown.iter().for_each(|line| push(&mut out, &format!("  {line}")));
    }
    out
}

/// What is the matter, once for all partitions with the same verdict and advice: with the numbers of the one that has the most records.
fn findings(out: &mut String, report: &Report) {
    let mut groups: Vec<Vec<&PartitionReport>> = Vec::new();
    for partition in &report.partitions {
        let finding = &partition.finding;
        if finding.verdict == Verdict::Ok && finding.advice.is_none() {
            continue;
        }
        let same = |group: &&mut Vec<&PartitionReport>| {
            group.first().is_some_and(|first| {
                (first.finding.verdict, &first.finding.advice) == (finding.verdict, &finding.advice)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(partition),
            None => groups.push(vec![partition]),
        }
    }
    for mut group in groups {
        group.sort_by(|left, right| right.share.total_cmp(&left.share));
        let Some(first) = group.first() else { continue };
        push(out, "");
        let others = match group.len() {
            1 => String::new(),
            count => format!(", and {} others", count - 1),
        };
        push(out, &format!("partition {}{others}: {}", first.partition, first.finding.verdict.name()));
        for line in &first.finding.evidence {
            push(out, &format!("  {line}"));
        }
        if let Some(seconds) = group.iter().filter_map(|partition| partition.lost_in).reduce(f64::min) {
            push(out, &format!("  requests are deleted before they are read in {}", time(seconds)));
        }
        if let Some(advice) = &first.finding.advice {
            push(out, &format!("  advice: {advice}"));
        }
    }
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn head(out: &mut String, report: &Report) {
    let total = &report.total;
    let bears = total.rate_max.map_or("what it could bear is not known".to_owned(), |rate| {
        let limit = total.limit.as_deref().unwrap_or("");
        format!("bears {} (then {limit} gives out)", estimate(rate))
    });
    push(
        out,
        &format!(
            "{} / {}, from {}, the last {}",
            report.group,
            report.topic,
            report.source,
            time(report.seconds)
        ),
    );
    let used = total.utilisation.map_or(String::new(), |used| format!(", {:.0} % used", 100.0 * used));
    push(
        out,
        &format!(
            "{} requests a second come, {} are committed, {bears}{used}; lag {}",
            number(total.arriving.mean),
            number(total.committing.mean),
            total.lag
        ),
    );
    let missing = report.missing().len();
    let objective = time(report.objective.lag_seconds_max);
    let horizon = time(report.objective.horizon_seconds);
    push(
        out,
        &match missing {
            0 => format!("no partition will be more than {objective} behind in the next {horizon}"),
            missing => format!(
                "{missing} of {} partitions will be more than {objective} behind in the next {horizon}",
                report.partitions.len()
            ),
        },
    );
    push(out, "");
}

/// Those that are not well, and of the others the busiest.
fn shown(report: &Report) -> impl Iterator<Item = &PartitionReport> {
    let well = |partition: &&PartitionReport| {
        partition.finding.verdict == Verdict::Ok && partition.missed_in.is_none()
    };
    let mut used: Vec<f64> =
        report.partitions.iter().filter(well).map(|partition| partition.utilisation.unwrap_or(0.0)).collect();
    used.sort_by(|left, right| right.total_cmp(left));
    let least = used.get(WELL_SHOWN_MAX.saturating_sub(1)).copied().unwrap_or(f64::NEG_INFINITY);
    let mut left = WELL_SHOWN_MAX;
    report.partitions.iter().filter(move |partition| {
        if !well(partition) {
            return true;
        }
        let show = partition.utilisation.unwrap_or(0.0) >= least && left > 0;
        left -= usize::from(show);
        show
    })
}

fn row(partition: &PartitionReport) -> [String; 9] {
    let dash = || "–".to_owned();
    let key = partition.hot_key.as_ref().map_or_else(dash, |key| {
        let name: String = plain(&key.tenant).chars().take(32).collect();
        format!("{name}|{} {:.0} %", plain(&key.model), 100.0 * key.share)
    });
    let drained = match partition.drained_in {
        Some(time_left) if time_left.value < 1.0 => "at once".to_owned(),
        Some(time_left) => time(time_left.value),
        None if partition.lag.is_none() || partition.rate_max.is_none() => dash(),
        None => "never".to_owned(),
    };
    let verdict = match partition.missed_in {
        Some(seconds) if seconds <= 0.0 => format!("{}, behind", partition.finding.verdict.name()),
        Some(seconds) => format!("{}, misses in {}", partition.finding.verdict.name(), time(seconds)),
        None => partition.finding.verdict.name().to_owned(),
    };
    [
        partition.partition.to_string(),
        partition.arriving.map_or_else(dash, |mean| number(mean.mean)),
        partition.rate_max.map_or_else(dash, |rate| number(rate.value)),
        partition.utilisation.map_or_else(dash, |used| format!("{:.0} %", 100.0 * used)),
        partition.lag.map_or_else(dash, |lag| lag.to_string()),
        partition.lag_seconds.map_or_else(dash, time),
        drained,
        key,
        verdict,
    ]
}

fn models(out: &mut String, report: &Report) {
    if report.models.is_empty() {
        return;
    }
    push(out, "");
    let rows: Vec<[String; 7]> = report
        .models
        .iter()
        .map(|model| {
            let millis =
                |millis: Option<f64>| millis.map_or("–".to_owned(), |millis| format!("{millis:.0} ms"));
            [
                plain(&model.model),
                number(model.rate),
                format!("{:.0} of {:.0}", model.batch_rows, model.batch_rows_full),
                format!("{:.2} ms + n * {:.0} us", model.fixed_micros / 1e3, model.row_micros),
                format!("{:.0} %", 100.0 * model.busy),
                number(model.rate_max),
                format!("{} / {}", millis(model.p50_millis), millis(model.p99_millis)),
            ]
        })
        .collect();
    lines(out, &MODEL_HEAD.map(str::to_owned), &rows);
}

fn lines<const N: usize>(out: &mut String, head: &[String; N], rows: &[[String; N]]) {
    let width =
        |column: usize| rows.iter().chain([head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in [head].into_iter().chain(rows) {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            // The last is a text and stands to the left.
            let cell = if place + 1 == N { cell.clone() } else { format!("{pad}{cell}  ") };
            line.push_str(&cell);
        }
        push(out, line.trim_end());
    }
}

/// What changes would do, beside what is.
pub fn what_if_table(now: &Report, others: &[(String, Report)]) -> String {
    let mut out = String::new();
    push(&mut out, "");
    let rows: Vec<cases::Row> = cases::rows(now, others)
        .into_iter()
        .map(|mut row| {
            row[0] = plain(&row[0]);
            row
        })
        .collect();
    lines(&mut out, &cases::HEAD.map(str::to_owned), &rows);
    if let Some(line) = cases::replayed(now) {
        push(&mut out, "");
        push(&mut out, &line);
    }
    out
}
