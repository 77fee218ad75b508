//! What was measured at a point, and how it is told.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use tidemill::experiment::floor::Floor;
use tidemill::experiment::machine::Machine;

/// What was measured at a point. What does not apply is null.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) payload_floats: Option<usize>,
    pub(crate) records: u64,
    pub(crate) records_per_second: Option<u64>,
    pub(crate) records_per_cpu_second: Option<u64>,
    pub(crate) engine_cpu_ns_per_record: Option<u64>,
    #[serde(flatten)]
    pub(crate) floor: Option<Floor>,
    pub(crate) ratio: Option<f64>,
    /// Of the drain of the same requests in the same run.
    pub(crate) drain_cpu_ns_per_record: Option<u64>,
    /// Of draining exactly once rather than at least once, in the same run.
    pub(crate) exactly_once_tax_percent: Option<f64>,
    /// Before anything was stuck, or asked for by others.
    pub(crate) quiet_p99_ms: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    /// From kill -9 to the next result that is seen, and the most that it may be.
    pub(crate) recovery_seconds: Option<f64>,
    pub(crate) recovery_seconds_max: Option<f64>,
    /// How often the engine asked for memory, and for how much.
    pub(crate) allocations_per_record: Option<f64>,
    pub(crate) allocated_bytes_per_record: Option<f64>,
    pub(crate) rss_bytes: u64,
    pub(crate) idle_cpu_percent: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) dead_letters: u64,
}

impl Figures {
    /// Whether every request ended exactly once, with a result.
    pub(crate) fn whole(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.dead_letters == 0
    }

    /// A line of JSON.
    pub(crate) fn line(&self, machine: &Machine) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            figures: &'a Figures,
            #[serde(flatten)]
            machine: &'a Machine,
        }
        let mut line =
            serde_json::to_value(Line { figures: self, machine }).expect("figures are numbers and text");
        for key in Floor::KEYS {
            line.as_object_mut().map(|line| line.entry(key).or_insert(Value::Null));
        }
        line.to_string()
    }

    /// A line for people, beside the bars.
    pub(crate) fn summary(&self) -> String {
        let mut line = format!("{:<22}", self.name);
        let mut add =
            |text: String| write!(line, "  {text}").expect("a string takes all that is written to it");
        if let (Some(rate), Some(efficiency)) = (self.records_per_second, self.records_per_cpu_second) {
            add(format!("{rate}/s, {efficiency} a CPU-second"));
        }
        if let Some(cpu) = self.engine_cpu_ns_per_record {
            add(format!("{cpu} ns of CPU a record"));
        }
        if let (Some(floor), Some(ratio)) = (&self.floor, self.ratio) {
            // The bar is for a drain: the floor of an open loop is measured in full batches, which its records do not come in.
            let bar = if self.p99_ms.is_none() { " (at most 1.5)" } else { "" };
            add(format!("{ratio:.2} times the floor of {} ns{bar}", floor.sum()));
        }
        match (self.p50_ms, self.p99_ms, self.quiet_p99_ms) {
            (Some(p50), Some(p99), None) => add(format!("p50 {p50:.0} ms, p99 {p99:.0} ms (below 250)")),
            (Some(p50), Some(p99), Some(quiet)) => {
                let ratio = p99 / quiet;
                let most = if self.name == "fairness" { "1.5" } else { "2" };
                add(format!(
                    "p50 {p50:.0} ms, p99 {p99:.0} ms, {ratio:.2} times that before (at most {most})"
                ));
            }
            _ => {}
        }
        if let (Some(recovery), Some(most)) = (self.recovery_seconds, self.recovery_seconds_max) {
            add(format!("{recovery:.1} s from kill -9 to the next result (at most {most:.0})"));
        }
        if let (Some(times), Some(bytes)) = (self.allocations_per_record, self.allocated_bytes_per_record) {
            add(format!("memory is asked for {times:.2} times a record, {bytes:.0} bytes"));
        }
        if let Some(idle) = self.idle_cpu_percent {
            add(format!("{idle:.2} % of a core (below 1)"));
        }
        add(format!("{} MB (below 400)", self.rss_bytes / 1_000_000));
        line
    }
}

/// The repetition in the middle, by what matters at the point.
pub(crate) fn median(mut runs: Vec<Figures>) -> Figures {
    let worst = runs.iter().map(|run| (run.lost, run.duplicated, run.dead_letters)).max().unwrap_or_default();
    runs.sort_by(|left, right| left.rank().total_cmp(&right.rank()));
    let mut middle = runs.swap_remove(runs.len() / 2);
    (middle.lost, middle.duplicated, middle.dead_letters) = worst;
    middle
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "it is only compared")]
    fn rank(&self) -> f64 {
        self.p99_ms
            .or(self.recovery_seconds)
            .or(self.idle_cpu_percent)
            .or(self.allocations_per_record)
            .or(self.engine_cpu_ns_per_record.map(|nanos| nanos as f64))
            .unwrap_or_default()
    }
}
