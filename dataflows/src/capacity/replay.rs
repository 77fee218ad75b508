//! What would have come of the records that came, on a machine that is like the engine but for what a case changes: replay of the trace on a
//! simulated device.
//!
//! What [bearing](super::bearing) says is of rates in the long run. A replay says what rates don't: how long records would have taken, how large
//! batches would have been, how far a burst would have thrown a partition back.
//!
//! ```text
//!   ticks ─▶ arrivals ─▶ polls ─▶ gates ─▶ lines ─▶ batches ─▶ outcomes ─▶ commits
//!                          ▲                                                 │
//!                          └──────────────── budget ─────────────────────────┘
//! ```

mod arrivals;
mod gates;
mod line;
mod machine;
mod plan;

use serde::Serialize;

use super::basis::{Basis, ModelCost, whole};
use super::report::{Estimate, Report};
use super::tick::{Tick, bucket_micros};
use arrivals::Arrivals;
use machine::{Machine, ModelOutcome, Outcome};
use plan::Plan;

/// What came of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// How long the trace is.
    pub seconds: f64,
    /// Its records.
    pub records: usize,
    /// The part of the executors' time that was used.
    pub used: Estimate,
    /// What came of each model's records, by its id.
    pub models: Vec<ReplayedModel>,
    /// What came of each partition's, by its number.
    pub partitions: Vec<ReplayedPartition>,
}

/// What came of a model's records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayedModel {
    /// Its id.
    pub model: String,
    /// Rows of a batch, on average.
    pub batch_rows: f64,
    /// From poll to outcome, in milliseconds: half of the records took less.
    pub p50_millis: Estimate,
    /// 99 of 100 took less.
    pub p99_millis: Estimate,
}

/// What came of a partition's records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayedPartition {
    /// Its number.
    pub partition: i32,
    /// Records without an outcome at the end.
    pub lag: Estimate,
    /// How old the oldest record without an outcome ever was, in seconds.
    pub lag_seconds_max: Estimate,
}

impl Replay {
    /// The longest of the models' p99, in milliseconds, and whose it is.
    pub fn p99_millis(&self) -> Option<(&str, Estimate)> {
        let models = self.models.iter().map(|model| (&*model.model, model.p99_millis));
        models.max_by(|left, right| left.1.value.total_cmp(&right.1.value))
    }

    /// How old the oldest record of any partition ever was, in seconds.
    pub fn lag_seconds_max(&self) -> Option<Estimate> {
        let ages = self.partitions.iter().map(|partition| partition.lag_seconds_max);
        ages.max_by(|left, right| left.value.total_cmp(&right.value))
    }

    /// The same with what the replay of what was seen missed of what was measured: where that took longer than its replay, so may this.
    #[must_use]
    pub fn doubted(mut self, now: &Self, measured: &Report) -> Self {
        for model in &mut self.models {
            let seen = measured.models.iter().find(|seen| seen.model == model.model);
            let replayed = now.models.iter().find(|replayed| replayed.model == model.model);
            if let (Some(seen), Some(replayed)) = (seen, replayed) {
                model.p50_millis = doubted(model.p50_millis, replayed.p50_millis, seen.p50_millis);
                model.p99_millis = doubted(model.p99_millis, replayed.p99_millis, seen.p99_millis);
            }
        }
        self
    }
}

/// What the engine does beside batches takes its time whatever a case changes: what the replay of what was seen missed moves the end that it was
/// missed towards.
fn doubted(estimate: Estimate, replayed: Estimate, measured: Option<f64>) -> Estimate {
    let Some(measured) = measured else { return estimate };
    let missed = measured - replayed.value;
    Estimate {
        low: (estimate.low + missed.min(0.0)).max(0.0),
        high: estimate.high + missed.max(0.0),
        ..estimate
    }
}

/// Replays what these ticks tell of on the machine that the ground describes; nothing where they say nothing of keys or batches.
///
/// It is run three times: with batches as they are thought to be, and as slow and as quick as they may be.
pub fn replay(basis: &Basis, ticks: &[Tick]) -> Option<Replay> {
    let trace = Arrivals::of(basis, ticks)?;
    let error = basis.error();
    let run = |slow: f64| Machine::new(&Plan::of(basis, &trace.models, slow), &trace).run();
    let outcomes = [run(1.0), run(1.0 - error), run(1.0 + error)];
    let estimate = |of: &dyn Fn(&Outcome) -> f64| {
        let [value, quick, slow] = outcomes.each_ref().map(of);
        Estimate { value, low: value.min(quick).min(slow), high: value.max(quick).max(slow) }
    };
    let model = |(place, id): (usize, &String)| {
        let quantile = |quantile| move |outcome: &Outcome| latency(&outcome.models[place], quantile);
        let ModelOutcome { batches, rows, .. } = outcomes[0].models[place];
        ReplayedModel {
            model: id.clone(),
            batch_rows: whole(rows) / whole(batches.max(1)),
            p50_millis: estimate(&quantile(0.5)),
            p99_millis: estimate(&quantile(0.99)),
        }
    };
    let partition = |(lane, partition): (usize, &i32)| ReplayedPartition {
        partition: *partition,
        lag: estimate(&|outcome| whole(outcome.lanes[lane].0)),
        lag_seconds_max: estimate(&|outcome| outcome.lanes[lane].1),
    };
    let mut models: Vec<ReplayedModel> = trace.models.iter().enumerate().map(model).collect();
    models.sort_by(|left, right| left.model.cmp(&right.model));
    Some(Replay {
        seconds: trace.length.as_secs_f64(),
        records: trace.records.len(),
        used: estimate(&|outcome| outcome.used),
        models,
        partitions: trace.partitions.iter().enumerate().map(partition).collect(),
    })
}

/// The smallest batch that gives nearly as many rows a second as any of at most `size_max`, as the engine works it out.
pub(super) fn efficient(cost: &ModelCost, size_max: usize) -> usize {
    plan::learned(cost.fixed, cost.row, size_max).efficient()
}

/// A quantile of what records of a model took, in milliseconds; 0 where none has an outcome.
#[expect(clippy::cast_precision_loss, reason = "records of a trace")]
fn latency(model: &ModelOutcome, quantile: f64) -> f64 {
    let all: u64 = model.latency.iter().sum();
    let mut below = 0;
    let found = model.latency.iter().zip(0..=u8::MAX).find(|(count, _)| {
        below += **count;
        **count > 0 && below as f64 >= quantile * all as f64
    });
    found.map_or(0.0, |(_, bucket)| bucket_micros(bucket) / 1e3)
}

#[cfg(test)]
mod tests;
