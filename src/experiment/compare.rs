//! Two runs of an experiment: what has moved, beyond the noise.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::figures::{Measured, more_is_better, short};
use super::statistics::{Ratio, median, ratio};

/// How certain it is that something that is said to have moved has: one in twenty that did not is said to have, all the same.
pub const CONFIDENCE: f64 = 0.95;

/// A figure of a point, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The point, as people read it.
    pub point: String,
    /// The figure.
    pub figure: String,
    /// The median before.
    pub before: f64,
    /// The median after.
    pub after: f64,
    /// After over before.
    pub ratio: f64,
    /// The interval of that, with [`CONFIDENCE`]; `None` where a point was measured once.
    pub between: Option<(f64, f64)>,
    /// Whether it has moved beyond the noise.
    pub moved: bool,
    /// Whether that is for the better; `None` where it has not moved.
    pub better: Option<bool>,
}

/// What two runs say.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Every figure of every point that both have.
    pub changes: Vec<Change>,
    /// Points that only one of them has.
    pub alone: Vec<String>,
    /// Whether both were made on machines of the same kind: else the figures say nothing about each other.
    pub same_machine: bool,
}

type Figures<'a> = BTreeMap<&'a str, Vec<f64>>;
type Points<'a> = BTreeMap<String, Figures<'a>>;

/// Compares two runs.
pub fn compare(before: &[Measured], after: &[Measured]) -> Comparison {
    let (first, second) = (points(before), points(after));
    let mut comparison =
        Comparison { same_machine: machines(before) == machines(after), ..Comparison::default() };
    for (point, figures) in &first {
        let Some(others) = second.get(point) else {
            comparison.alone.push(point.clone());
            continue;
        };
        for (figure, values) in figures {
            let better = more_is_better(figure);
            let (Some(others), true) = (others.get(figure), better.is_some()) else { continue };
            let (Some(was), Some(is)) = (median(values), median(others)) else { continue };
            // Of what is 0 there is no ratio; that it is not 0 any more is a change all the same.
            let found = ratio(values, others, CONFIDENCE);
            let moved = found.map_or((was - is).abs() > 0.0, |found| found.has_moved());
            let Ratio { ratio, between } = found.unwrap_or(Ratio { ratio: is / was, between: None });
            comparison.changes.push(Change {
                point: point.clone(),
                figure: (*figure).to_owned(),
                before: was,
                after: is,
                ratio: if ratio.is_finite() { ratio } else { 1.0 },
                between,
                moved,
                better: better.filter(|_| moved).map(|more| (is > was) == more),
            });
        }
    }
    comparison.alone.extend(second.keys().filter(|point| !first.contains_key(*point)).cloned());
    comparison
}

fn points(measured: &[Measured]) -> Points<'_> {
    let mut points = Points::new();
    for one in measured {
        let (experiment, point, system, model) = one.key();
        let mut parts = vec![experiment, system, model];
        parts.extend(
            point
                .into_iter()
                .filter(|(name, _)| name != "system" && name != "model")
                .map(|(name, value)| format!("{name}={value}")),
        );
        let figures = points.entry(parts.join(" ")).or_default();
        for (name, value) in &one.figures {
            figures.entry(name.as_str()).or_default().push(*value);
        }
    }
    points
}

fn machines(measured: &[Measured]) -> Vec<(&str, usize)> {
    let mut found: Vec<_> =
        measured.iter().map(|one| (one.machine.cpu.as_str(), one.machine.cores)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

impl Comparison {
    /// Whether something has become worse.
    pub fn is_worse(&self) -> bool {
        self.changes.iter().any(|change| change.better == Some(false))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.same_machine {
            writeln!(
                out,
                "the two were not made on the same kind of machine: the figures say nothing about each other"
            )?;
        }
        let moved: Vec<&Change> = self.changes.iter().filter(|change| change.moved).collect();
        for change in &moved {
            let direction = if change.better == Some(true) { "better" } else { "worse" };
            let between =
                change.between.map_or_else(String::new, |(low, high)| format!(", {low:.3} to {high:.3}"));
            let (before, after, figure) = (short(change.before), short(change.after), &change.figure);
            writeln!(
                out,
                "{direction}  {}: {figure} {before} -> {after}, {:.3} times{between}",
                change.point, change.ratio
            )?;
        }
        for point in &self.alone {
            writeln!(out, "alone   {point}: only one of the two has it")?;
        }
        let once = self.changes.iter().filter(|change| change.between.is_none() && !change.moved).count();
        let (still, percent) = (self.changes.len() - moved.len(), CONFIDENCE * 100.0);
        writeln!(
            out,
            "{} of {} figures moved beyond the noise, with {percent:.0} % confidence each; {still} did not",
            moved.len(),
            self.changes.len()
        )?;
        if once > 0 {
            writeln!(
                out,
                "of {once} of them nothing can be said: they were measured once; raise `repetitions`"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::machine::Machine;
    use crate::experiment::plan::Measure;

    fn run(values: &[f64], cpu: &str) -> Vec<Measured> {
        let measured = |value: &f64| Measured {
            experiment: "e".to_owned(),
            point: [("workers".to_owned(), "1".to_owned())].into(),
            system: "tidemill".to_owned(),
            model: "m".to_owned(),
            measure: Measure::Drain,
            repetition: 1,
            figures: [("records_per_second".to_owned(), *value), ("lost".to_owned(), 0.0)].into(),
            error: None,
            machine: Machine { cpu: cpu.to_owned(), cores: 2, commit: String::new() },
        };
        values.iter().map(measured).collect()
    }

    #[test]
    fn a_run_beside_itself_has_not_moved() {
        let run = run(&[100.0, 103.0, 98.0], "cpu");
        let comparison = compare(&run, &run);
        assert_eq!(comparison.changes.len(), 2);
        assert!(comparison.same_machine && !comparison.is_worse());
        assert!(comparison.changes.iter().all(|change| !change.moved));
        assert!(comparison.to_string().contains("0 of 2 figures moved"));
    }

    #[test]
    fn what_moves_beyond_the_noise_is_told_with_its_direction() {
        let (slow, fast) = (run(&[100.0, 101.0, 99.0], "cpu"), run(&[200.0, 201.0, 199.0], "cpu"));
        let comparison = compare(&slow, &fast);
        assert!(
            comparison
                .to_string()
                .contains("better  e tidemill m workers=1: records_per_second 100 -> 200, 2.000 times")
        );
        assert!(!comparison.is_worse() && compare(&fast, &slow).is_worse());
    }

    #[test]
    fn a_loss_is_a_change_also_where_there_was_none_before() {
        let good = run(&[100.0, 101.0], "cpu");
        let mut bad = good.clone();
        bad.iter_mut().for_each(|one| one.figures.extend([("lost".to_owned(), 4.0)]));
        assert!(compare(&good, &bad).is_worse());
    }

    #[test]
    fn another_machine_and_points_that_are_alone_are_told() {
        let (one, mut other) = (run(&[1.0, 2.0], "a"), run(&[1.0, 2.0], "b"));
        other[0].model = "n".to_owned();
        let text = compare(&one, &other).to_string();
        assert!(
            text.contains("not made on the same kind of machine")
                && text.contains("alone   e tidemill n workers=1")
        );
    }
}
