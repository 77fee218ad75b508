//! What was seen in about a second, and what of the engine has to be known to read it. Both are what a trace holds, a line each.
//!
//! Whoever sees less leaves more out: a group that is not Tidemill's has offsets and ends and nothing else.

use serde::{Deserialize, Serialize};

use super::sums::{Line, Tally};

/// What an engine is like. Nobody but its autopilot changes it while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// Where it was seen: an address, a file, a topic.
    pub source: String,
    /// The consumer group.
    pub group: String,
    /// The topic that is read.
    pub topic: String,
    /// The partitions of the topic.
    pub partitions: usize,
    /// How long the topic keeps records, in milliseconds; `None` for ever, or unknown.
    pub retention_millis: Option<i64>,
    /// Processes that were seen, each with as much as is said here; 0 and 1 are one.
    pub processes: usize,
    /// Dataflow workers.
    pub workers: usize,
    /// Executor threads of each device.
    pub executors: usize,
    /// Devices.
    pub devices: usize,
    /// Its models.
    pub models: Vec<ModelSetup>,
    /// What holds for a model that is not among them, if anything is known of it.
    pub model_default: Option<ModelSetup>,
    /// The weights of tenants that have one other than 1.
    pub weights: Vec<(String, u32)>,
    /// What tenants may ask for, in records a second, where they are bounded.
    pub rates: Vec<(String, f64)>,
    /// The same, of every tenant that is not listed.
    pub rate_default: Option<f64>,
    /// Records that may be polled and not committed: `in_flight.records_max`.
    pub in_flight_max: Option<usize>,
    /// From an outcome to its commit, in milliseconds: `commit.interval`.
    pub commit_millis: Option<f64>,
}

/// What is known of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSetup {
    /// Its id.
    pub id: String,
    /// The devices that it is placed on.
    pub devices: Vec<usize>,
    /// Rows of a batch at most.
    pub size_max: usize,
    /// The longest that a row waits for others, in milliseconds: `batch.delay_max`. `None` with an objective.
    pub delay_millis: Option<f64>,
    /// The time from poll to outcome that is kept, in milliseconds: `batch.slo`.
    pub slo_millis: Option<f64>,
    /// Its weight on a device.
    pub weight: u32,
}

/// What was seen in about a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tick {
    /// When it ended: milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// How long it was.
    pub millis: i64,
    /// The partitions that were seen at its end.
    pub partitions: Vec<PartitionTick>,
    /// Requests that were read in the tick, by what their keys say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellTick>,
    /// Batches of the tick.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelTick>,
    /// What threads did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageTick>,
    /// Records that were polled in each tenth of a second, the earliest first; empty where that is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bursts: Vec<u32>,
}

/// A partition at the end of a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionTick {
    /// Its number.
    pub partition: i32,
    /// The end of its log, as last heard.
    pub end: Option<i64>,
    /// The first offset that is not committed.
    pub committed: Option<i64>,
    /// The timestamp of the oldest record that is not committed: milliseconds since the Unix epoch.
    pub oldest_millis: Option<i64>,
    /// Records that were polled and are not committed.
    pub in_flight: i64,
}

/// The traffic of one tenant for one model in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellTick {
    /// The partition.
    pub partition: i32,
    /// The model's id.
    pub model: String,
    /// The tenant's id.
    pub tenant: String,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
}

/// The batches of a model in a tick.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelTick {
    /// Its id.
    pub model: String,
    /// A point a batch: its rows, and the useful time of its executor in microseconds.
    pub batches: Line,
    /// A point a batch where it is known: 1, and for how long it could have been running before, in microseconds.
    #[serde(skip_serializing_if = "is_nothing")]
    pub handoffs: Line,
    /// How long records took from poll to outcome: their number by [`bucket`].
    pub latency: Vec<(u8, i64)>,
    /// What the engine has learned of the cost of batches.
    pub cost: Option<Cost>,
}

fn is_nothing(line: &Line) -> bool {
    *line == Line::default()
}

/// What a batch of `n` rows takes: `fixed + n * row`, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of any batch.
    pub fixed: f64,
    /// Of each of its rows.
    pub row: f64,
    /// The smallest size with nearly the most rows a second.
    pub efficient: usize,
}

/// What the threads of a stage did in a tick, in microseconds of all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTick {
    /// The stage.
    pub stage: Stage,
    /// Its threads.
    pub threads: usize,
    /// On a processor.
    pub on_cpu: i64,
    /// Ready, and waiting for a processor.
    pub ready: i64,
}

/// Where a record can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In the client of the broker, on its way in or out: the busiest of its threads, since a connection has one.
    Client,
    /// In the dataflow: decode, exchange, windows, ledger.
    Worker,
    /// On a device.
    Infer,
    /// In a transaction.
    Commit,
}

impl Stage {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Client, Self::Worker, Self::Infer, Self::Commit];

    /// Its name in output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Infer => "infer",
            Self::Commit => "commit",
        }
    }
}

/// How many buckets of times there are.
pub const BUCKETS: usize = 256;

/// So many to each doubling.
const BUCKETS_PER_DOUBLING: f64 = 8.0;

/// The bucket of so many microseconds; the longest that is told apart is an hour.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an hour has bucket 253"
)]
pub fn bucket(micros: u64) -> u8 {
    ((micros.max(1) as f64).log2() * BUCKETS_PER_DOUBLING).min(255.0) as u8
}

/// The middle of a bucket, in microseconds: at most 5 % off.
pub fn bucket_micros(bucket: u8) -> f64 {
    ((f64::from(bucket) + 0.5) / BUCKETS_PER_DOUBLING).exp2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_is_near_what_is_in_it(micros in 1_u32..3_600_000_000) {
            let middle = bucket_micros(bucket(micros.into()));
            prop_assert!((middle / f64::from(micros) - 1.0).abs() < 0.05, "{micros}: {middle}");
        }
    }

    #[test]
    fn nothing_and_for_ever_have_a_bucket() {
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, 255));
    }
}
