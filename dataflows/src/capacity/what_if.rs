//! What if: the same ground, with one thing changed.

use std::str::FromStr;

use super::basis::{Basis, ModelCost, whole};
use super::replay::efficient;

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub enum WhatIf {
    /// So many times what comes now.
    Load(f64),
    /// So many executors of each device.
    Executors(usize),
    /// So many processes more, or fewer, each as this one; the partitions are shared anew.
    Processes(i32),
    /// So many dataflow workers in each process.
    Workers(usize),
    /// Batches of so many rows at most.
    Rows(usize),
    /// A row waits for others for so many seconds at most, of every model.
    Delay(f64),
    /// Every model has its outcomes within so many seconds of their polls.
    Slo(f64),
    /// So many records are in flight at most.
    InFlight(usize),
    /// A model is replaced by another one that is served.
    Model {
        /// The model that is replaced.
        from: String,
        /// The one that takes its place.
        to: String,
    },
    /// Batches of a model take `fixed + n * row`, in seconds.
    Cost {
        /// The model.
        model: String,
        /// Of any batch.
        fixed: f64,
        /// Of each of its rows.
        row: f64,
    },
    /// Keys are spread evenly over all partitions.
    Spread,
}

/// The changes there are, as they are written.
pub const CHANGES: &str = "`load=+50%`, `executors=4`, `workers=2`, `processes=-1`, `batch.size_max=128`, `batch.delay_max=20ms`, `batch.slo=80ms`, `in_flight.records_max=20000`, `model.A=B`, `cost.A=2ms+350us` or `keys=spread`";

/// Why a change can't be thought through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// It is not written as one.
    #[error("`{0}` is no change: write {CHANGES}")]
    Written(String),
    /// It names a model of which nothing was seen.
    #[error("of model `{0}` nothing was seen: what its batches take is not known")]
    Model(String),
    /// It leaves nothing to work.
    #[error("of {processes} processes `processes={more}` would leave none")]
    Processes {
        /// How many there are.
        processes: usize,
        /// How many more there would be.
        more: i32,
    },
}

impl FromStr for WhatIf {
    type Err = WhatIfError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| WhatIfError::Written(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<WhatIf> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    match key {
        "load" => {
            let percent = value.strip_suffix('%')?.parse::<f64>().ok()?;
            let signed = value.starts_with(['+', '-']);
            let times = if signed { 1.0 + percent / 100.0 } else { percent / 100.0 };
            (times.is_finite() && times >= 0.0).then_some(WhatIf::Load(times))
        }
        "executors" => value.parse().ok().filter(|n| (1..=4_096).contains(n)).map(WhatIf::Executors),
        "processes" => {
            let signed = value.starts_with(['+', '-']);
            value.parse().ok().filter(|n: &i32| signed && *n != 0 && n.abs() <= 4_096).map(WhatIf::Processes)
        }
        "workers" => value.parse().ok().filter(|n| (1..=4_096).contains(n)).map(WhatIf::Workers),
        "in_flight.records_max" => {
            value.parse().ok().filter(|n| (1..=100_000_000).contains(n)).map(WhatIf::InFlight)
        }
        "batch.delay_max" => seconds(value).filter(|delay| *delay <= 3_600.0).map(WhatIf::Delay),
        "batch.slo" => seconds(value).filter(|slo| *slo > 0.0 && *slo <= 3_600.0).map(WhatIf::Slo),
        "batch.size_max" => value.parse().ok().filter(|n| (1..=65_536).contains(n)).map(WhatIf::Rows),
        "keys" => (value == "spread").then_some(WhatIf::Spread),
        _ => {
            if let Some(from) = key.strip_prefix("model.") {
                let named = !from.is_empty() && !value.is_empty();
                return named.then(|| WhatIf::Model { from: from.to_owned(), to: value.to_owned() });
            }
            let model = key.strip_prefix("cost.").filter(|model| !model.is_empty())?;
            let (fixed, row) = value.split_once('+')?;
            Some(WhatIf::Cost { model: model.to_owned(), fixed: seconds(fixed)?, row: seconds(row)? })
        }
    }
}

/// "2ms", "350us", "1s".
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let (number, unit) =
        units.into_iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

impl WhatIf {
    /// The models that it names.
    pub fn models(&self) -> Vec<&str> {
        match self {
            Self::Model { from, to } => vec![from, to],
            Self::Cost { model, .. } => vec![model],
            _ => Vec::new(),
        }
    }

    /// Changes the ground.
    ///
    /// # Errors
    ///
    /// If nothing is known of what it names.
    pub fn apply(&self, basis: &mut Basis) -> Result<(), WhatIfError> {
        basis.is_case = true;
        match self {
            Self::Load(times) => basis.load *= times,
            Self::Executors(executors) => basis.setup.executors = *executors,
            Self::Processes(more) => {
                let now = basis.setup.processes.max(1);
                let then = i32::try_from(now).unwrap_or(i32::MAX).saturating_add(*more);
                if then < 1 {
                    return Err(WhatIfError::Processes { processes: now, more: *more });
                }
                // Partitions are shared anew. A process takes whole ones, and those without any help nobody.
                let most = basis.setup.partitions.max(now);
                let then = usize::try_from(then).unwrap_or(1).min(most);
                basis.others *= whole(now) / whole(then);
            }
            Self::Workers(workers) => {
                basis.workers = whole(*workers) / whole(basis.setup.workers.max(1));
            }
            Self::Delay(delay) => wait(basis, Some(*delay), None),
            Self::Slo(slo) => wait(basis, None, Some(*slo)),
            Self::InFlight(records) => basis.setup.in_flight_max = Some(*records),
            Self::Rows(rows) => {
                for model in basis.setup.models.iter_mut().chain(&mut basis.setup.model_default) {
                    model.size_max = *rows;
                }
                for cost in basis.costs.values_mut() {
                    let far = (whole(*rows) / cost.rows_full).ln().abs().min(2.0);
                    cost.rows_full = whole(*rows);
                    cost.rows_now = cost.rows_now.min(cost.rows_full);
                    // The further from what was seen, the less is known.
                    cost.error += 0.05 * far;
                }
            }
            Self::Model { from, to } => {
                let like = basis.cost_of(to).cloned().ok_or_else(|| WhatIfError::Model(to.clone()))?;
                let place = cost_of(basis, from)?;
                *place = ModelCost { rows_now: place.rows_now, wait: place.wait, ..like };
            }
            Self::Cost { model, fixed, row } => {
                let place = cost_of(basis, model)?;
                (place.fixed, place.row, place.from) = (*fixed, *row, "what-if");
            }
            Self::Spread => spread(basis),
        }
        Ok(())
    }
}

fn cost_of<'a>(basis: &'a mut Basis, name: &str) -> Result<&'a mut ModelCost, WhatIfError> {
    basis.cost_of_mut(name).ok_or_else(|| WhatIfError::Model(name.to_owned()))
}

/// Batches of every model close by another rule: after a wait, or for an objective, in seconds.
fn wait(basis: &mut Basis, delay: Option<f64>, slo: Option<f64>) {
    for model in basis.setup.models.iter_mut().chain(&mut basis.setup.model_default) {
        model.delay_millis = delay.map(|delay| delay * 1e3);
        model.slo_millis = slo.map(|slo| slo * 1e3);
    }
    let setup = &basis.setup;
    for (number, cost) in &mut basis.costs {
        let about = super::basis::model_setup(setup, basis.picture.names.name(*number));
        let Some(size_max) = about.map(|about| about.size_max).filter(|size| *size > 0) else { continue };
        // Under a backlog an objective is lost, and batches are as large as gains anything.
        cost.rows_full = whole(if slo.is_some() { efficient(cost, size_max) } else { size_max });
        cost.wait = delay.or(slo.map(|slo| slo / 2.0)).unwrap_or(0.0);
    }
}

/// Every partition gets an equal part of all there is.
fn spread(basis: &mut Basis) {
    basis.is_spread = true;
    let partitions: Vec<i32> = basis.picture.partitions.keys().copied().collect();
    let n = i64::try_from(partitions.len().max(1)).unwrap_or(1);
    let mut means = basis.arriving.values().fold(super::sums::Mean::default(), |sum, mean| {
        super::sums::Mean { mean: sum.mean + mean.mean, error: sum.error.hypot(mean.error) }
    });
    means.mean /= super::basis::float(n);
    means.error /= super::basis::float(n);
    basis.arriving = partitions.iter().map(|partition| (*partition, means)).collect();
    let sums = std::mem::take(&mut basis.picture.sums.cells);
    for (cell, tally) in sums {
        for partition in &partitions {
            let part = super::sums::Tally {
                records: tally.records / n,
                excess: tally.excess / n,
                bytes: tally.bytes / n,
            };
            let spread = super::picture::Cell { partition: *partition, ..cell };
            basis.picture.sums.cells.entry(spread).or_default().add(part);
            basis.picture.sums.mixes.entry((*partition, cell.model)).or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_are_written() {
        for (text, change) in [
            ("load=+50%", WhatIf::Load(1.5)),
            ("load=-20%", WhatIf::Load(0.8)),
            ("load=300%", WhatIf::Load(3.0)),
            ("executors=4", WhatIf::Executors(4)),
            ("processes=+1", WhatIf::Processes(1)),
            ("batch.size_max=128", WhatIf::Rows(128)),
            ("workers=3", WhatIf::Workers(3)),
            ("batch.delay_max=1s", WhatIf::Delay(1.0)),
            ("batch.slo=2s", WhatIf::Slo(2.0)),
            ("in_flight.records_max=7", WhatIf::InFlight(7)),
            ("model.a.b=c", WhatIf::Model { from: "a.b".to_owned(), to: "c".to_owned() }),
            ("keys=spread", WhatIf::Spread),
        ] {
            let read: WhatIf = text.parse().unwrap();
            let near = match (&read, &change) {
                (WhatIf::Load(read), WhatIf::Load(load)) => (read - load).abs() < 1e-12,
                _ => read == change,
            };
            assert!(near, "{text}: {read:?}");
        }
        let WhatIf::Cost { model, fixed, row } = "cost.m=2ms + 350us".parse().unwrap() else { panic!() };
        assert!(model == "m" && (fixed - 2e-3).abs() < 1e-12 && (row - 350e-6).abs() < 1e-12);
        for text in [
            "",
            "load",
            "load=50",
            "load=-120%",
            "load=NaN%",
            "executors=0",
            "processes=1",
            "processes=0",
            "keys=x",
            "cost.m=2",
            "cost.m=2ms",
            "cost.=1s+1s",
            "model.=b",
            "batch.size_max=0",
            "batch.slo=0s",
            "batch.delay_max=5",
            "workers=0",
            "in_flight.records_max=0",
        ] {
            assert!(text.parse::<WhatIf>().is_err(), "{text}");
        }
    }
}
