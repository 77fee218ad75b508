//! The medians of an experiment, point by point, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Measured, short};
use super::statistics::median;

/// Figures that a table tells, in this order.
const COLUMNS: [&str; 20] = [
    "sustainable_per_second",
    "not_borne_per_second",
    "records_per_second",
    "records_per_cpu_second",
    "cpu_ns_per_record",
    "floor_cpu_ns_per_record",
    "engine_tax",
    "broker_cpu_ns_per_record",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "memory_mb",
    "recovery_seconds",
    "bursts_not_recovered",
    "unfinished",
    "lost",
    "duplicated",
    "wrong",
    "dead_letters",
];

/// A point, with the medians of its measurements.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The title of its experiment.
    pub experiment: String,
    /// What is swept, and its value here.
    pub point: BTreeMap<String, String>,
    /// The system.
    pub system: String,
    /// The model.
    pub model: String,
    /// How often it was measured.
    pub count: usize,
    /// The median of each figure.
    pub medians: BTreeMap<String, f64>,
    /// By how much more records a CPU-second the engine does at the same point; where this is another system, and both were measured.
    pub engine_times: Option<f64>,
    /// Why measurements failed.
    pub errors: Vec<String>,
}

impl Row {
    /// The point as people read it.
    pub fn label(&self) -> String {
        let label = self.label_but("");
        if label.is_empty() { self.model.clone() } else { label }
    }

    /// The point without one of its parameters.
    pub fn label_but(&self, left_out: &str) -> String {
        let part = |(name, value): (&String, &String)| {
            if name == "system" { self.system.clone() } else { format!("{name} {value}") }
        };
        let others = self.point.iter().filter(|(name, _)| *name != left_out);
        others.map(part).collect::<Vec<_>>().join(", ")
    }

    /// The point but for its system.
    fn place(&self) -> (&str, &str, Vec<(&String, &String)>) {
        let others = self.point.iter().filter(|(name, _)| *name != "system").collect();
        (&self.experiment, &self.model, others)
    }
}

/// The points, in the order in which they were measured first.
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut groups: Vec<Vec<&Measured>> = Vec::new();
    for one in measured {
        match groups.iter_mut().find(|group| group[0].key() == one.key()) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    let mut rows: Vec<Row> = groups.iter().map(|group| row(group)).collect();
    let of_engine: Vec<Option<f64>> = rows.iter().map(|row| engine_times(&rows, row)).collect();
    rows.iter_mut().zip(of_engine).for_each(|(row, times)| row.engine_times = times);
    rows
}

fn row(group: &[&Measured]) -> Row {
    let values =
        |name: &str| -> Vec<f64> { group.iter().filter_map(|one| one.figures.get(name).copied()).collect() };
    let names = group.iter().flat_map(|one| one.figures.keys());
    let first = group[0];
    Row {
        experiment: first.experiment.clone(),
        point: first.point.clone(),
        system: first.system.clone(),
        model: first.model.clone(),
        count: group.len(),
        medians: names.filter_map(|name| Some((name.clone(), median(&values(name))?))).collect(),
        engine_times: None,
        errors: group.iter().filter_map(|one| one.error.clone()).collect(),
    }
}

fn engine_times(rows: &[Row], row: &Row) -> Option<f64> {
    const FIGURE: &str = "records_per_cpu_second";
    let engine = rows.iter().find(|other| other.system == "tidemill" && other.place() == row.place())?;
    let ratio = engine.medians.get(FIGURE)? / row.medians.get(FIGURE)?;
    (row.system != "tidemill" && ratio.is_finite()).then_some(ratio)
}

/// The rows as a table for people.
pub fn table(rows: &[Row]) -> String {
    let figures = columns(rows);
    let has_others = rows.iter().any(|row| row.engine_times.is_some());
    let mut lines = vec![head(&figures, has_others)];
    for row in rows {
        let mut cells = vec![row.label(), row.count.to_string()];
        cells.extend(
            figures
                .iter()
                .map(|figure| row.medians.get(*figure).map_or_else(|| "-".to_owned(), |value| short(*value))),
        );
        if has_others {
            cells.push(row.engine_times.map_or_else(|| "-".to_owned(), short));
        }
        lines.push(cells);
    }
    let mut text = aligned(&lines);
    for row in rows {
        for error in &row.errors {
            writeln!(text, "failed: {}: {error}", row.label())
                .expect("a string takes all that is written to it");
        }
    }
    text
}

/// The columns of a table of these rows: of what it tells, what was measured.
pub(super) fn columns(rows: &[Row]) -> Vec<&'static str> {
    let is_measured = |column: &&str| rows.iter().any(|row| row.medians.contains_key(*column));
    COLUMNS.into_iter().filter(is_measured).collect()
}

fn head(figures: &[&str], has_others: bool) -> Vec<String> {
    let mut head = vec!["point".to_owned(), "times".to_owned()];
    head.extend(figures.iter().map(|figure| figure.replace('_', " ")));
    head.extend(has_others.then(|| "tidemill does so many times as much a CPU-second".to_owned()));
    head
}

/// Cells under each other: the first to the left, numbers to the right. A head that is wide is broken at its words.
fn aligned(lines: &[Vec<String>]) -> String {
    const HEAD_WIDTH: usize = 12;
    let broken: Vec<Vec<String>> =
        lines.first().into_iter().flatten().map(|cell| broken(cell, HEAD_WIDTH)).collect();
    let height = broken.iter().map(Vec::len).max().unwrap_or(0);
    let head = (0..height).map(|line| {
        let cell = |parts: &Vec<String>| {
            (line + parts.len()).checked_sub(height).map_or_else(String::new, |part| parts[part].clone())
        };
        broken.iter().map(cell).collect::<Vec<String>>()
    });
    let all: Vec<Vec<String>> = head.chain(lines.iter().skip(1).cloned()).collect();
    let width = |column: usize| all.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &all {
        let cells = line.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", width(0)),
            _ => format!("{cell:>0$}", width(column)),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::machine::Machine;
    use crate::experiment::plan::Measure;

    fn measured(system: &str, rate: f64, lost: f64) -> Measured {
        Measured {
            experiment: "peers".to_owned(),
            point: [
                ("system".to_owned(), format!("benches/peers/{system}")),
                ("workers".to_owned(), "2".to_owned()),
            ]
            .into(),
            system: system.to_owned(),
            model: "m".to_owned(),
            measure: Measure::Drain,
            repetition: 1,
            figures: [("records_per_cpu_second".to_owned(), rate), ("lost".to_owned(), lost)].into(),
            error: (lost > 0.0).then(|| "it fell over".to_owned()),
            machine: Machine::default(),
        }
    }

    #[test]
    fn a_table_says_how_the_engine_stands_to_others() {
        let runs = [
            measured("tidemill", 1_000.0, 0.0),
            measured("go", 240.0, 3.0),
            measured("go", 250.0, 3.0),
            measured("go", 260.0, 3.0),
        ];
        let rows = rows(&runs);
        assert_eq!((rows.len(), rows[1].count, rows[1].engine_times), (2, 3, Some(4.0)));
        let text = table(&rows);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["tidemill,", "workers", "2", "1", "1,000", "0", "-"]), "{text}");
        assert!(lines.contains(&vec!["go,", "workers", "2", "3", "250", "3", "4"]), "{text}");
        assert!(text.ends_with("failed: go, workers 2: it fell over\n"), "{text}");
    }
}
