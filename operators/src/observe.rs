//! What the engine tells about itself: one call a batch, a poll or a commit, never one a record.

use std::time::Duration;

use crate::block::Block;
use crate::catalog::ModelIndex;
use crate::dead_letter::{Reason, Stage};
use crate::lease::Partition;

/// Receives what operators and threads have to tell: whoever implements it overrides what it wants to hear. Implemented over Prometheus
/// by the binary, and by recorders in tests. Every method is called from several threads and must not block.
pub trait Observer: Send + Sync {
    /// Records were polled.
    fn polled(&self, _records: usize, _bytes: usize) {}

    /// Rows of one model were decoded, on their way to its window.
    fn decoded(&self, _block: &Block) {}

    /// A batch ran.
    fn batch(&self, _batch: &BatchSeen<'_>) {}

    /// A record became a dead letter.
    fn dead_letter(&self, _reason: Reason, _stage: Stage, _model: Option<&str>) {}

    /// What batches of a model are known to cost on a device.
    fn cost(&self, _model: ModelIndex, _device: usize, _cost: CostSeen) {}

    /// Rows wait in the window of a model before a device.
    fn queued(&self, _model: ModelIndex, _device: usize, _rows: usize) {}

    /// So many more rows of a tenant wait because it may not ask for them now; or fewer.
    fn parked(&self, _tenant: &str, _rows: i64) {}

    /// Rows of a tenant ended because it may not ask for so many.
    fn over_quota(&self, _tenant: &str, _rows: usize) {}

    /// A transaction was committed: its records, and how long it took from the first send.
    fn committed(&self, _records: usize, _took: Duration) {}

    /// A transaction was aborted.
    fn aborted(&self) {}

    /// Records of a partition were lost, as an operator has accepted.
    fn lost(&self, _partition: Partition, _records: u64) {}

    /// A new producer has taken over from one that could not be used any more.
    fn rebuilt(&self) {}

    /// The state of a lease, told about once a second and at each grant.
    fn lease(&self, _lease: &LeaseSeen) {}

    /// A lease was released or lost.
    fn lease_ended(&self, _partition: Partition) {}

    /// Ticks between the epoch that the source is in and the epoch frontier at the sink of a worker.
    fn epoch_lag(&self, _worker: usize, _ticks: u64) {}

    /// An executor has opened this model, which it had not open before.
    fn opened(&self, _model: ModelIndex) {}

    /// An executor has closed this model, to have room for another.
    fn closed(&self, _model: ModelIndex) {}

    /// A run of this model took longer than it may, and was cancelled.
    fn run_cancelled(&self, _model: ModelIndex) {}

    /// A run did not return, and another executor took the place of the one that waits for it.
    fn executor_replaced(&self) {}

    /// The breaker holds, or holds no more.
    fn breaker(&self, _holds: bool) {}
}

/// Why a window gave up its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// It held as many rows as a batch may have.
    Full,
    /// Its oldest row had waited as long as it may.
    Deadline,
    /// An executor was idle, and waiting for more rows was worth less than its time.
    Idle,
    /// The engine is stopping.
    Drained,
    /// Rows left of a batch that failed are tried again, or a row has to run by itself.
    Retry,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Full, Self::Deadline, Self::Idle, Self::Drained, Self::Retry];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Deadline => "deadline",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Retry => "retry",
        }
    }
}

/// What is told of a batch.
#[derive(Clone, Debug)]
pub struct BatchSeen<'a> {
    /// The model's place in the catalog.
    pub model: ModelIndex,
    /// Its id.
    pub id: &'a str,
    /// Why the window closed.
    pub closed: CloseReason,
    /// Calls of the model that it took: 1, unless a row had to be isolated.
    pub calls: u32,
    /// Rows that were computed in vain, to fill its calls up to the next [bucket](crate::model::Buckets).
    pub padded: usize,
    /// The time of the model's calls.
    pub inference: Duration,
    /// The useful time of its executor: from its start to its outcomes.
    pub took: Duration,
    /// For how long it could have been running before, had nobody had to hand it over, where that is known.
    pub handoff: Option<Duration>,
    /// Its rows that have an outcome.
    pub rows: &'a [RowSeen<'a>],
}

/// What is told of a row of a batch.
#[derive(Clone, Copy, Debug)]
pub struct RowSeen<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// From poll to the start of inference.
    pub queue: Duration,
    /// From poll to outcome.
    pub total: Duration,
}

/// What batches of a model are known to cost: `fixed + n * row` for `n` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostSeen {
    /// Of any batch.
    pub fixed: Duration,
    /// Of each of its rows.
    pub row: Duration,
    /// The smallest size with nearly the most rows a second.
    pub efficient: usize,
}

/// What is told of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSeen {
    /// The partition.
    pub partition: Partition,
    /// The first offset without an outcome.
    pub frontier: i64,
    /// The first offset that is not committed.
    pub committed: i64,
    /// The end of the partition for a `read_committed` reader, as last heard.
    pub end: Option<i64>,
    /// Records polled whose outcome is not committed.
    pub in_flight: usize,
    /// The timestamp of the oldest record that is not committed: milliseconds since the Unix epoch.
    pub oldest_millis: Option<i64>,
}

/// An observer that hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
