//! What an analysis says. Rates are records a second, times seconds.

use serde::Serialize;

use super::replay::Replay;
use super::sums::Mean;
use super::verdict::Finding;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Where it was seen.
    pub source: String,
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The end of what was looked at: milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// How long that is.
    pub seconds: f64,
    /// The objective, and how far ahead it was looked.
    pub objective: super::Objective,
    /// All partitions together.
    pub total: Total,
    /// Each partition, by its number.
    pub partitions: Vec<PartitionReport>,
    /// Each model, by its id.
    pub models: Vec<ModelReport>,
    /// The tenants with the most useful time, the first first.
    pub tenants: Vec<TenantReport>,
    /// What threads did.
    pub stages: Vec<StageReport>,
    /// What can't be known of what was seen, and why.
    pub unknown: Vec<String>,
    /// What came of it when it was replayed, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

impl Report {
    /// The partitions that miss the objective, now or within the horizon.
    pub fn missing(&self) -> Vec<i32> {
        let missing = self.partitions.iter().filter(|partition| partition.missed_in.is_some());
        missing.map(|partition| partition.partition).collect()
    }
}

/// All partitions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Total {
    /// Records that come.
    pub arriving: Mean,
    /// Offsets that are committed.
    pub committing: Mean,
    /// Records that are not committed.
    pub lag: i64,
    /// What could be borne if the load grows as it is, with full batches.
    pub rate_max: Option<Estimate>,
    /// The part of that which is used.
    pub utilisation: Option<f64>,
    /// The longest of the partitions' times to drain; none if one of them never does.
    pub drained_in: Option<f64>,
    /// Executors that would have a load of this size at the target utilisation.
    pub executors_needed: Option<usize>,
    /// The stage that gives out first.
    pub limit: Option<String>,
}

/// A number that was worked out, between what it may be at least and at most, as nine of ten are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

impl Estimate {
    /// `value`, give or take a share of it.
    pub fn within(value: f64, share: f64) -> Self {
        Self { value, low: value * (1.0 - share).max(0.0), high: value * (1.0 + share) }
    }

    /// Both ways less, or more.
    pub fn scaled(self, by: f64) -> Self {
        Self { value: self.value * by, low: self.low * by, high: self.high * by }
    }
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PartitionReport {
    /// Its number.
    pub partition: i32,
    /// Records that come.
    pub arriving: Option<Mean>,
    /// By how much that grows in each second, where it is more than chance.
    pub growing: Option<f64>,
    /// Offsets that are committed.
    pub committing: Option<Mean>,
    /// Its share of all records that come.
    pub share: f64,
    /// What it could bear, the others staying as they are.
    pub rate_max: Option<Estimate>,
    /// The same with batches of the size that they have now.
    pub rate_max_now: Option<f64>,
    /// The part of `rate_max` that is used.
    pub utilisation: Option<f64>,
    /// What is left of it.
    pub headroom: Option<f64>,
    /// Records that are not committed.
    pub lag: Option<i64>,
    /// The age of the oldest of them.
    pub lag_seconds: Option<f64>,
    /// By how much the lag grows in each second.
    pub lag_growing: Option<Mean>,
    /// Until nothing is left; none if that never comes.
    pub drained_in: Option<Estimate>,
    /// Until records are deleted that nobody has read.
    pub lost_in: Option<f64>,
    /// Until the objective is missed; 0 if it is missed now.
    pub missed_in: Option<f64>,
    /// The key with the most records.
    pub hot_key: Option<HotKey>,
    /// What was concluded.
    #[serde(flatten)]
    pub finding: Finding,
}

/// The key with the most records of a partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HotKey {
    /// Its tenant.
    pub tenant: String,
    /// Its model.
    pub model: String,
    /// Its share of the partition's records.
    pub share: f64,
    /// By how much that share may be too high.
    pub share_excess: f64,
    /// Records that come.
    pub arriving: f64,
    /// What one key can get at most, the others staying as they are: partitions and processes beyond its own do not help it.
    pub rate_max: Option<f64>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    /// Its id.
    pub model: String,
    /// Rows inferred.
    pub rate: f64,
    /// Rows of a batch, on average.
    pub batch_rows: f64,
    /// Rows of a batch that the model would have under full load.
    pub batch_rows_full: f64,
    /// Microseconds of a batch of any size.
    pub fixed_micros: f64,
    /// Microseconds that each row adds.
    pub row_micros: f64,
    /// Microseconds that an executor waits for each batch though its rows are there.
    pub handoff_micros: f64,
    /// Where the first two come from: batches of the span, or what the engine had learned before.
    pub cost_from: &'static str,
    /// Its part of the executors' time.
    pub busy: f64,
    /// Rows a second of all its executors, with full batches and nothing else to do.
    pub rate_max: f64,
    /// From poll to outcome, in milliseconds: half of the records took less.
    pub p50_millis: Option<f64>,
    /// 99 of 100 took less.
    pub p99_millis: Option<f64>,
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantReport {
    /// Its id.
    pub tenant: String,
    /// Records inferred.
    pub rate: f64,
    /// Its share of all records.
    pub share: f64,
    /// Its share of the executors' useful time.
    pub busy_share: f64,
    /// The partitions that it was seen in.
    pub partitions: Vec<i32>,
}

/// What the threads of a stage did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// Its name.
    pub stage: &'static str,
    /// Its threads.
    pub threads: usize,
    /// The part of their time for which they were useful: on a processor, or, of executors, with a batch.
    pub useful: f64,
    /// The part of their time for which they waited for a processor.
    pub waited: f64,
}
