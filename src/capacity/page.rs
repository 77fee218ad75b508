//! A report as a page: load and capacity, lags and what becomes of them, who sends what where, what batches cost, and what changes would do.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use dataflows::capacity::advice::time;
use dataflows::capacity::report::{PartitionReport, Report};
use dataflows::capacity::verdict::Verdict;
use dataflows::capacity::{Basis, Tick};

use super::cases;
use crate::experiment::figures::short;
use crate::html::{begin, escape};
use crate::plot::{Series, bars, lines};

/// Partitions that have lines of their own, those with the most records.
const PARTITIONS_PLOTTED: usize = 6;

/// Partitions and tenants of the heat map.
const MAP: (usize, usize) = (64, 24);

/// The page.
///
/// # Errors
///
/// If a plot can't be drawn.
pub fn page(
    report: &Report,
    cases: &[(String, Report)],
    basis: &Basis,
    ticks: &[Tick],
) -> Result<String, fmt::Error> {
    let mut page = String::new();
    begin(&mut page, &format!("Capacity of {}", report.group))?;
    write!(page, "<h1>Capacity of {}</h1>", escape(&report.group))?;
    write!(
        page,
        "<p class=\"where\">Topic {}, seen by {}, the last {} before {}.</p>",
        escape(&report.topic),
        escape(&report.source),
        time(report.seconds),
        moment(report.at_millis)
    )?;
    summary(&mut page, report)?;
    partitions(&mut page, report)?;
    findings(&mut page, report)?;
    plots(&mut page, report, ticks)?;
    map(&mut page, basis)?;
    costs(&mut page, report)?;
    what_if(&mut page, report, cases)?;
    if !report.unknown.is_empty() {
        page.push_str("<h2>Not known</h2><ul>");
        for line in &report.unknown {
            write!(page, "<li>{}</li>", escape(line))?;
        }
        page.push_str("</ul>");
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |moment| moment.to_string())
}

fn summary(page: &mut String, report: &Report) -> fmt::Result {
    let total = &report.total;
    let missing = report.missing().len();
    write!(
        page,
        "<p>{} requests a second come, {} are committed. ",
        short(total.arriving.mean),
        short(total.committing.mean)
    )?;
    if let (Some(rate), Some(used)) = (total.rate_max, total.utilisation) {
        write!(
            page,
            "{} could be borne ({} to {}), of which {:.0} % is used; then <b>{}</b> gives out. ",
            short(rate.value),
            short(rate.low),
            short(rate.high),
            100.0 * used,
            escape(total.limit.as_deref().unwrap_or(""))
        )?;
    }
    let (objective, horizon) =
        (time(report.objective.lag_seconds_max), time(report.objective.horizon_seconds));
    let class = if missing > 0 { " class=\"bad\"" } else { "" };
    write!(
        page,
        "<span{class}>{missing} of {} partitions will be more than {objective} behind in the next {horizon}.</span></p>",
        report.partitions.len()
    )
}

fn partitions(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<h2>Partitions</h2><div class=\"wide\"><table><thead><tr>");
    for head in [
        "partition",
        "comes/s",
        "bears/s",
        "used",
        "lag",
        "age",
        "drained in",
        "hottest key",
        "of it",
        "key bears/s",
        "verdict",
    ] {
        write!(page, "<th>{head}</th>")?;
    }
    page.push_str("</tr></thead><tbody>");
    for partition in &report.partitions {
        let cells = row(partition);
        page.push_str("<tr>");
        for cell in cells {
            write!(page, "<td>{}</td>", escape(&cell))?;
        }
        let is_bad = partition.missed_in.is_some() || partition.finding.verdict > Verdict::Unknown;
        let class = if is_bad { " class=\"bad\"" } else { "" };
        write!(page, "<td{class}>{}</td></tr>", partition.finding.verdict.name())?;
    }
    page.push_str("</tbody></table></div>");
    Ok(())
}

fn row(partition: &PartitionReport) -> [String; 10] {
    let dash = || "–".to_owned();
    let key = partition.hot_key.as_ref();
    [
        partition.partition.to_string(),
        partition.arriving.map_or_else(dash, |mean| short(mean.mean)),
        partition.rate_max.map_or_else(dash, |rate| {
            format!("{} ({}–{})", short(rate.value), short(rate.low), short(rate.high))
        }),
        partition.utilisation.map_or_else(dash, |used| format!("{:.0} %", 100.0 * used)),
        partition.lag.map_or_else(dash, |lag| lag.to_string()),
        partition.lag_seconds.map_or_else(dash, time),
        match partition.drained_in {
            Some(left) => time(left.value),
            None if partition.rate_max.is_some() => "never".to_owned(),
            None => dash(),
        },
        key.map_or_else(dash, |key| format!("{}|{}", key.tenant, key.model)),
        key.map_or_else(dash, |key| format!("{:.0} %", 100.0 * key.share)),
        key.and_then(|key| key.rate_max).map_or_else(dash, short),
    ]
}

fn findings(page: &mut String, report: &Report) -> fmt::Result {
    let told = report.partitions.iter().filter(|partition| partition.finding.advice.is_some());
    for partition in told {
        let finding = &partition.finding;
        write!(page, "<h2>Partition {}: {}</h2><ul>", partition.partition, finding.verdict.name())?;
        for line in &finding.evidence {
            write!(page, "<li>{}</li>", escape(line))?;
        }
        write!(page, "</ul><p><b>Advice:</b> {}</p>", escape(finding.advice.as_deref().unwrap_or("")))?;
    }
    Ok(())
}

fn draw(page: &mut String, title: &str, svg: Result<String, impl Sized>) -> fmt::Result {
    write!(page, "<h2>{}</h2>{}", escape(title), svg.map_err(|_| fmt::Error)?)
}

fn plots(page: &mut String, report: &Report, ticks: &[Tick]) -> fmt::Result {
    let busiest = busiest(report);
    let bears: Vec<(String, Vec<f64>)> = report
        .partitions
        .iter()
        .filter(|partition| busiest.contains(&partition.partition))
        .filter_map(|partition| {
            let (comes, bears) = (partition.arriving?.mean, partition.rate_max?.value);
            Some((format!("partition {}", partition.partition), vec![comes, (bears - comes).max(0.0)]))
        })
        .collect();
    if !bears.is_empty() {
        draw(page, "What comes, and what could", bars("requests a second", &["comes", "to spare"], &bears))?;
    }
    let Some(last) = ticks.last().map(|tick| seconds(ticks, tick.at_millis)) else { return Ok(()) };
    draw(
        page,
        "What comes to each partition",
        lines("seconds", "requests a second", &arrivals(ticks, &busiest)),
    )?;
    let mut lags = lags(ticks, &busiest);
    lags.extend(
        report
            .partitions
            .iter()
            .filter(|partition| busiest.contains(&partition.partition))
            .filter_map(|partition| drain(partition, last)),
    );
    draw(page, "Lag, and its forecast", lines("seconds", "requests not committed", &lags))
}

fn busiest(report: &Report) -> Vec<i32> {
    let mut partitions: Vec<&PartitionReport> = report.partitions.iter().collect();
    partitions.sort_by(|left, right| {
        let key = |partition: &PartitionReport| (partition.missed_in.is_some(), partition.share);
        key(right).partial_cmp(&key(left)).unwrap_or(std::cmp::Ordering::Equal)
    });
    partitions.iter().take(PARTITIONS_PLOTTED).map(|partition| partition.partition).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a span, and offsets of it")]
fn float(number: i64) -> f64 {
    number as f64
}

/// Plots begin at zero: time is counted from the first tick.
fn seconds(ticks: &[Tick], at_millis: i64) -> f64 {
    float(at_millis - ticks.first().map_or(at_millis, |first| first.at_millis)) / 1e3
}

fn arrivals(ticks: &[Tick], partitions: &[i32]) -> Vec<Series> {
    let mut series: BTreeMap<i32, Vec<(f64, f64)>> = BTreeMap::new();
    let mut before: BTreeMap<i32, i64> = BTreeMap::new();
    for tick in ticks {
        for now in tick.partitions.iter().filter(|now| partitions.contains(&now.partition)) {
            let Some(end) = now.end else { continue };
            if let Some(before) = before.insert(now.partition, end) {
                let rate = float((end - before).max(0)) * 1e3 / float(tick.millis.max(1));
                series.entry(now.partition).or_default().push((seconds(ticks, tick.at_millis), rate));
            }
        }
    }
    named(series)
}

fn lags(ticks: &[Tick], partitions: &[i32]) -> Vec<Series> {
    let mut series: BTreeMap<i32, Vec<(f64, f64)>> = BTreeMap::new();
    for tick in ticks {
        for now in tick.partitions.iter().filter(|now| partitions.contains(&now.partition)) {
            if let (Some(end), Some(committed)) = (now.end, now.committed) {
                let lag = float((end - committed).max(0));
                series.entry(now.partition).or_default().push((seconds(ticks, tick.at_millis), lag));
            }
        }
    }
    named(series)
}

fn named(series: BTreeMap<i32, Vec<(f64, f64)>>) -> Vec<Series> {
    let series = series.into_iter();
    series
        .map(|(partition, points)| Series { name: format!("partition {partition}"), points, is_law: false })
        .collect()
}

/// From the lag now, at `last` seconds, to nothing, or to where it will be a minute later.
fn drain(partition: &PartitionReport, last: f64) -> Option<Series> {
    let lag = float(partition.lag?);
    let spare = partition.rate_max?.value - partition.arriving?.mean;
    if lag < 1.0 {
        return None;
    }
    let ahead = partition.drained_in.map_or(60.0, |time| time.value.min(300.0));
    let points = vec![(last, lag), (last + ahead, (lag - spare * ahead).max(0.0))];
    Some(Series { name: format!("forecast {}", partition.partition), points, is_law: true })
}

/// Who sends what where: partitions by tenants.
fn map(page: &mut String, basis: &Basis) -> fmt::Result {
    let mut tenants: BTreeMap<u32, i64> = BTreeMap::new();
    let mut cells: BTreeMap<(i32, u32), i64> = BTreeMap::new();
    for (cell, tally) in &basis.picture.sums.cells {
        *tenants.entry(cell.tenant).or_default() += tally.records;
        *cells.entry((cell.partition, cell.tenant)).or_default() += tally.records;
    }
    let mut busiest: Vec<(u32, i64)> = tenants.into_iter().collect();
    busiest.sort_by_key(|(tenant, records)| (-records, *tenant));
    busiest.truncate(MAP.1);
    let (most, all) = (cells.values().copied().max().unwrap_or(0), cells.values().sum::<i64>().max(1));
    if most == 0 {
        return Ok(());
    }
    page.push_str("<h2>Who sends where</h2><p>Requests a second of each tenant in each partition; the tenants with the most.</p><div class=\"wide\"><table><thead><tr><th>partition</th>");
    for (tenant, _) in &busiest {
        write!(page, "<th>{}</th>", escape(basis.picture.names.name(*tenant)))?;
    }
    page.push_str("</tr></thead><tbody>");
    for partition in basis.picture.partitions.keys().take(MAP.0) {
        write!(page, "<tr><td>{partition}</td>")?;
        for (tenant, _) in &busiest {
            let records = cells.get(&(*partition, *tenant)).copied().unwrap_or(0);
            let depth = (float(records) / float(most)).sqrt();
            let text = if records == 0 {
                String::new()
            } else {
                short(float(records) / float(all) * basis.inferred())
            };
            write!(page, "<td style=\"background:rgba(213,94,0,{depth:.2})\">{text}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
    Ok(())
}

fn costs(page: &mut String, report: &Report) -> fmt::Result {
    let mut curves = Vec::new();
    for model in &report.models {
        let took = |rows: f64| (model.fixed_micros + model.row_micros * rows) / 1e3;
        let most = model.batch_rows_full.max(model.batch_rows) * 1.25;
        let law = (0..=20).map(|step| most * f64::from(step) / 20.0).map(|rows| (rows, took(rows)));
        curves.push(Series {
            name: format!("{}: a + b*n", model.model),
            points: law.collect(),
            is_law: true,
        });
        let seen = vec![(model.batch_rows, took(model.batch_rows))];
        curves.push(Series { name: format!("{}: batches now", model.model), points: seen, is_law: false });
    }
    if curves.is_empty() {
        return Ok(());
    }
    draw(page, "What a batch takes", lines("rows of a batch", "ms", &curves))
}

fn what_if(page: &mut String, report: &Report, cases: &[(String, Report)]) -> fmt::Result {
    if cases.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>What if</h2><div class=\"wide\"><table><thead><tr>");
    for head in cases::HEAD {
        write!(page, "<th>{}</th>", escape(head))?;
    }
    page.push_str("</tr></thead><tbody>");
    for row in cases::rows(report, cases) {
        page.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let class = if place + 1 == row.len() { " class=\"text\"" } else { "" };
            write!(page, "<td{class}>{}</td>", escape(cell))?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
    if let Some(line) = cases::replayed(report) {
        write!(page, "<p>{}.</p>", escape(&line))?;
    }
    Ok(())
}
