//! An experiment as a page that needs nothing else: what was found, in plots and a table, and where.

use std::fmt::{self, Write as _};

use super::figures::{Measured, short};
use super::floor::Floor;
use super::scaling::Scaling;
use super::summary::{Row, columns, rows};
use crate::html::{begin, escape};
use crate::plot::{Drawn, Series, bars, lines};

/// Figures that are plotted, with what the axis says.
const PLOTTED: [(&str, &str); 6] = [
    ("records_per_cpu_second", "records a CPU-second of the system"),
    ("records_per_second", "records a second"),
    ("sustainable_per_second", "sustainable records a second"),
    ("engine_tax", "times the floor"),
    ("recovery_seconds", "seconds until all is as before a burst, or a kill"),
    ("memory_mb", "memory, MB"),
];

const PERCENTILES: [(&str, &str); 4] =
    [("p50_ms", "p50"), ("p90_ms", "p90"), ("p99_ms", "p99"), ("p999_ms", "p99.9")];

/// The page.
///
/// # Errors
///
/// If a plot can't be drawn.
pub fn page(title: &str, question: &str, measured: &[Measured]) -> Result<String, fmt::Error> {
    let rows = rows(measured);
    let mut page = String::new();
    begin(&mut page, title)?;
    write!(page, "<h1>{}</h1><p>{}</p>", escape(title), escape(question))?;
    if let Some(one) = measured.first() {
        let machine = &one.machine;
        let (cpu, cores, commit) = (escape(&machine.cpu), machine.cores, escape(&machine.commit));
        write!(
            page,
            "<p class=\"where\">{cpu}, {cores} cores, which broker, load and system share; commit {commit}. "
        )?;
        write!(
            page,
            "Each number is the median of the measurements of its point. Figures of another machine are others.</p>"
        )?;
    }
    for plot in drawn(&rows)? {
        write!(page, "<h2>{}</h2>", escape(&plot.name))?;
        if let Some(note) = &plot.note {
            write!(page, "<p>{}</p>", escape(note))?;
        }
        page.push_str(&plot.svg);
    }
    table(&mut page, &rows)?;
    page.push_str("</body></html>\n");
    Ok(page)
}

/// A plot of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// What it shows.
    pub name: String,
    /// What there is to say of it.
    note: Option<String>,
    /// The plot, which needs nothing around it.
    pub svg: String,
}

impl Plot {
    fn new(name: impl Into<String>, svg: Drawn) -> Result<Self, fmt::Error> {
        Ok(Self { name: name.into(), note: None, svg: svg.map_err(|_| fmt::Error)? })
    }

    /// The name of a file for it: small letters, digits and hyphens, and its kind.
    pub fn file_name(&self) -> String {
        let name = self.name.to_lowercase();
        let words =
            name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-") + ".svg"
    }
}

/// The plots of the page, each by itself.
///
/// # Errors
///
/// If one can't be drawn.
pub fn plots(measured: &[Measured]) -> Result<Vec<Plot>, fmt::Error> {
    drawn(&rows(measured))
}

fn drawn(rows: &[Row]) -> Result<Vec<Plot>, fmt::Error> {
    let axis = axis(rows);
    let mut plots: Vec<Plot> = Vec::new();
    for (figure, name) in PLOTTED {
        if !rows.iter().any(|row| row.medians.contains_key(figure)) {
            continue;
        }
        if let Some(axis) = &axis {
            plots.push(Plot::new(
                format!("{name}, by {axis}"),
                lines(axis, name, &series(rows, axis, figure)),
            )?);
        } else {
            let bar = |row: &Row| Some((row.label(), vec![*row.medians.get(figure)?]));
            let bars = bars(name, &[name], &rows.iter().filter_map(bar).collect::<Vec<_>>());
            plots.push(Plot::new(name, bars)?);
        }
    }
    if let Some(axis) = &axis {
        plots.extend(latencies(rows, axis)?);
    }
    let split: Vec<(String, Vec<f64>)> = rows.iter().filter_map(split).collect();
    if !split.is_empty() {
        let names = ["consume", "decode", "infer", "encode", "produce", "the engine beyond the floor"];
        plots.push(Plot::new("where CPU time goes, in the system", bars("ns a record", &names, &split))?);
    }
    plots.extend(scaling(rows)?);
    Ok(plots)
}

/// All percentiles in one plot; where there are several lines of each, a plot for each percentile: it is the lines that are compared then.
fn latencies(rows: &[Row], axis: &str) -> Result<Vec<Plot>, fmt::Error> {
    let of = |(figure, name): &(&str, &str)| ((*name).to_owned(), series(rows, axis, figure));
    let found: Vec<(String, Vec<Series>)> =
        PERCENTILES.iter().map(of).filter(|(_, lines)| !lines.is_empty()).collect();
    let plot = |title: String, drawn: &[Series]| {
        Plot::new(title, lines(axis, "ms, from the time a request was due", drawn))
    };
    if found.iter().all(|(_, lines)| lines.len() == 1) {
        let named = |(name, lines): &(String, Vec<Series>)| Series { name: name.clone(), ..lines[0].clone() };
        let all: Vec<Series> = found.iter().map(named).collect();
        return (!all.is_empty()).then(|| plot(format!("latency, by {axis}"), &all)).into_iter().collect();
    }
    found.iter().map(|(name, lines)| plot(format!("latency, {name}, by {axis}"), lines)).collect()
}

/// The floor's stages, and what the engine took beyond them.
fn split(row: &Row) -> Option<(String, Vec<f64>)> {
    let mut parts: Vec<f64> =
        Floor::KEYS.iter().skip(1).map(|key| row.medians.get(*key).copied()).collect::<Option<_>>()?;
    let rest = row.medians.get("cpu_ns_per_record")? - parts.iter().sum::<f64>();
    parts.push(rest.max(0.0));
    Some((row.label(), parts))
}

/// The parameter along which plots run: the one with the most different numbers.
fn axis(rows: &[Row]) -> Option<String> {
    let names = rows.first()?.point.keys();
    let numbers = |name: &String| {
        let mut found: Vec<f64> = rows.iter().filter_map(|row| number(row.point.get(name)?)).collect();
        found.sort_by(f64::total_cmp);
        found.dedup();
        found.len()
    };
    names
        .map(|name| (numbers(name), name))
        .filter(|(count, _)| *count > 1)
        .max_by_key(|(count, _)| *count)
        .map(|(_, name)| name.clone())
}

fn number(text: &str) -> Option<f64> {
    let number =
        text.parse().ok().or_else(|| Some(crate::config::parse_duration(text).ok()?.as_secs_f64() * 1e3));
    number.filter(|number: &f64| number.is_finite())
}

/// A series for each combination of the other parameters.
fn series(rows: &[Row], axis: &str, figure: &str) -> Vec<Series> {
    let mut found: Vec<Series> = Vec::new();
    for row in rows {
        let label = row.label_but(axis);
        let point = row.point.get(axis).and_then(|value| number(value)).zip(row.medians.get(figure).copied());
        let Some(point) = point else { continue };
        match found.iter_mut().find(|series| series.name == label) {
            Some(series) => series.points.push(point),
            None => found.push(Series { name: label, points: vec![point], is_law: false }),
        }
    }
    found.iter_mut().for_each(|series| series.points.sort_by(|left, right| left.0.total_cmp(&right.0)));
    found
}

/// Where workers or executors are swept: the law of scaling, fitted.
fn scaling(rows: &[Row]) -> Result<Vec<Plot>, fmt::Error> {
    let axis = axis(rows).filter(|axis| ["workers", "onnx.executors"].contains(&axis.as_str()));
    let Some(axis) = axis else { return Ok(Vec::new()) };
    let mut plots = Vec::new();
    for measured in series(rows, &axis, "records_per_second") {
        let Some(law) = Scaling::fit(&measured.points) else { continue };
        let most = measured.points.last().map_or(1.0, |(workers, _)| *workers);
        let steps = (0..=40).map(|step| 1.0 + (most - 1.0) * f64::from(step) / 40.0);
        let fitted = steps.map(|workers| (workers, law.throughput(workers))).collect();
        let fitted = Series { name: "Universal Scalability Law".to_owned(), points: fitted, is_law: true };
        let name = if measured.name.is_empty() {
            "scaling".to_owned()
        } else {
            format!("scaling, {}", measured.name)
        };
        let speedup =
            measured.points.first().zip(measured.points.last()).map_or(1.0, |(first, last)| last.1 / first.1);
        let measured = Series { name: "measured".to_owned(), ..measured };
        let note = format!(
            "{} times as much with {axis} {}. Universal Scalability Law: {} a second with one, contention {:.3}, coherency {:.4}.",
            short(speedup),
            short(most),
            short(law.rate),
            law.contention,
            law.coherency
        );
        let plot = Plot::new(name, lines(&axis, "records a second", &[measured, fitted]))?;
        plots.push(Plot { note: Some(note), ..plot });
    }
    Ok(plots)
}

fn table(page: &mut String, rows: &[Row]) -> fmt::Result {
    let columns = columns(rows);
    page.push_str("<h2>Figures</h2><div class=\"wide\"><table><thead><tr><th>point</th><th>times</th>");
    for column in &columns {
        write!(page, "<th>{}</th>", escape(&column.replace('_', " ")))?;
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows {
        write!(page, "<tr><td>{}</td><td>{}</td>", escape(&row.label()), row.count)?;
        for column in &columns {
            let value = row.medians.get(*column);
            let is_bad = ["lost", "wrong"].contains(column) && value.is_some_and(|value| *value > 0.0);
            let class = if is_bad { " class=\"bad\"" } else { "" };
            write!(page, "<td{class}>{}</td>", value.map_or_else(|| "–".to_owned(), |value| short(*value)))?;
        }
        page.push_str("</tr>");
        for error in &row.errors {
            write!(
                page,
                "<tr><td class=\"bad\" colspan=\"{}\">failed: {}</td></tr>",
                columns.len() + 2,
                escape(error)
            )?;
        }
    }
    page.push_str("</tbody></table></div>");
    Ok(())
}

#[cfg(test)]
mod tests;
