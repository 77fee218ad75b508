//! What was measured, as a line of JSON each, and as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::plan::Measure;

/// Figures by name; the unit is in the name.
pub type Figures = BTreeMap<String, f64>;

/// One measurement of one point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The title of the experiment.
    pub experiment: String,
    /// What is swept, and its value at this point.
    pub point: BTreeMap<String, String>,
    /// `tidemill`, or the peer's name.
    pub system: String,
    /// The model.
    pub model: String,
    /// What was measured.
    pub measure: Measure,
    /// The how manieth measurement of the point, from 1.
    pub repetition: u32,
    /// The figures; none where it failed.
    pub figures: Figures,
    /// Why there are none.
    pub error: Option<String>,
    /// Where.
    #[serde(flatten)]
    pub machine: Machine,
}

/// Requests that were lost, or ended in a way that is not right.
pub(super) fn faults(figures: &Figures) -> f64 {
    ["lost", "wrong"].iter().filter_map(|name| figures.get(*name)).sum()
}

impl Measured {
    /// What tells the point from others of its experiment.
    pub fn key(&self) -> (String, BTreeMap<String, String>, String, String) {
        (self.experiment.clone(), self.point.clone(), self.system.clone(), self.model.clone())
    }

    /// Requests that were lost, or ended in a way that is not right.
    pub fn faults(&self) -> f64 {
        faults(&self.figures)
    }

    /// Its figures on a line, the few that matter.
    pub fn summary(&self) -> String {
        let point: Vec<String> = self.point.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let point = if point.is_empty() { self.model.clone() } else { point.join(" ") };
        if let Some(error) = &self.error {
            return format!("{point}: failed: {error}");
        }
        let told = TOLD.iter().filter_map(|name| {
            let value = self.figures.get(*name)?;
            Some(format!("{} {}", short(*value), name.replace('_', " ")))
        });
        format!("{point}: {}", told.collect::<Vec<_>>().join(", "))
    }
}

/// Adds a figure.
pub(super) fn insert(figures: &mut Figures, name: &str, value: f64) {
    figures.insert(name.to_owned(), value);
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}

/// What a summary tells, in this order.
const TOLD: [&str; 11] = [
    "sustainable_per_second",
    "not_borne_per_second",
    "records_per_second",
    "records_per_cpu_second",
    "engine_tax",
    "p50_ms",
    "p99_ms",
    "recovery_seconds",
    "lost",
    "duplicated",
    "wrong",
];

/// Whether more of a figure is better; `None` where neither is.
pub fn more_is_better(figure: &str) -> Option<bool> {
    const MORE: [&str; 3] = ["records_per_second", "records_per_cpu_second", "sustainable_per_second"];
    const LESS: [&str; 6] =
        ["engine_tax", "recovery_seconds", "bursts_not_recovered", "lost", "duplicated", "wrong"];
    const LESS_OF: [&str; 4] = ["_ns", "_ns_per_record", "_ms", "_mb"];
    if MORE.contains(&figure) {
        return Some(true);
    }
    let is_less = LESS.contains(&figure) || LESS_OF.iter().any(|unit| figure.ends_with(unit));
    is_less.then_some(false)
}

/// A number for people: three digits that count, and thousands apart.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 100.0 {
        return thousands(value);
    }
    let decimals = if magnitude >= 10.0 || magnitude == 0.0 { 1 } else { 2 };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.123_4, "0.12"),
            (12.34, "12.3"),
            (12.0, "12"),
            (1234.5, "1,234"),
            (-1e6, "-1,000,000"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn it_is_known_what_is_better() {
        assert_eq!(more_is_better("records_per_cpu_second"), Some(true));
        assert_eq!(more_is_better("p99_ms"), Some(false));
        assert_eq!(more_is_better("engine_tax"), Some(false));
        assert_eq!((more_is_better("requests"), more_is_better("lag_slope_per_second")), (None, None));
    }
}
