//! The autopilot in the configuration: whether it may change anything, and how far.

use std::path::PathBuf;
use std::time::Duration;

use operators::catalog::BatchPolicy;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::Config;
use super::units::{Auto, Count, Interval, Wait};
use super::written::{BatchSize, Count1};

/// How many times what is configured a bound may become that nobody has said.
const TIMES: usize = 4;

/// The least time that a change takes to be seen: verdicts are about the last fifteen seconds.
const SETTLE_MIN: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AutopilotFile {
    mode: Mode,
    settle: Settle,
    executors_max: Count,
    batch_size_max: Auto<BatchSize>,
    batch_delay_max: Wait,
    in_flight_records_max: Auto<Count1>,
    audit: PathBuf,
}

/// Whether it may change anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It does not exist.
    #[default]
    Off,
    /// It says what it would change.
    DryRun,
    /// It changes it.
    On,
}

#[derive(Clone, Copy, Debug)]
struct Settle(Duration);

impl<'de> Deserialize<'de> for Settle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Interval(time) = Interval::deserialize(deserializer)?;
        if time < SETTLE_MIN {
            return Err(D::Error::custom("it must be at least 20s: what is seen is of the last 15 seconds"));
        }
        Ok(Self(time))
    }
}

/// What the autopilot goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autopilot {
    /// Whether it may change anything.
    pub mode: Mode,
    /// How long a change takes to be seen.
    pub settle: Duration,
    /// Executors of each device at most.
    pub executors_max: usize,
    /// Rows of a batch at most, where that is more than what is configured of its model.
    pub batch_size_max: Option<usize>,
    /// The longest that a row waits for others at most.
    pub batch_delay_max: Duration,
    /// Records in flight at most.
    pub in_flight_max: usize,
    /// The file that each change is written to.
    pub audit: Option<PathBuf>,
}

/// What is meant, beside what is configured: so many executors, where the machine suggests so many, and so many records in flight.
pub(super) fn autopilot(
    written: &AutopilotFile,
    executors: usize,
    executors_auto: usize,
    in_flight: usize,
) -> Autopilot {
    Autopilot {
        mode: written.mode,
        settle: written.settle.0,
        executors_max: match written.executors_max {
            Count::Auto => executors_auto.max(executors),
            Count::Exactly(count) => count,
        },
        batch_size_max: written.batch_size_max.clone().exactly().map(|size| size.0),
        batch_delay_max: written.batch_delay_max.0,
        in_flight_max: match written.in_flight_records_max.clone().exactly() {
            Some(records) => records.0,
            None => in_flight.saturating_mul(TIMES),
        },
        audit: Some(written.audit.clone()).filter(|path| !path.as_os_str().is_empty()),
    }
}

impl Config {
    fn may_change(&self) -> bool {
        self.capacity.autopilot.mode == Mode::On
    }

    /// The policy that a model is served with: batches may become as large as the autopilot may make them, and begin as configured.
    pub fn batch_ceiling(&self, model: &str) -> BatchPolicy {
        self.raised(self.batch_policy(model))
    }

    /// The same of a model without rules of its own.
    pub fn batch_ceiling_default(&self) -> BatchPolicy {
        self.raised(self.batch_policy_default())
    }

    fn raised(&self, policy: BatchPolicy) -> BatchPolicy {
        if !self.may_change() {
            return policy;
        }
        let auto = policy.size_max().saturating_mul(TIMES);
        let most = self.capacity.autopilot.batch_size_max.unwrap_or(auto).min(self.in_flight.records_max);
        let rows = most.max(policy.size_max());
        match policy {
            BatchPolicy::Static { delay_max, .. } => BatchPolicy::Static { size_max: rows, delay_max },
            BatchPolicy::Slo { slo, .. } => BatchPolicy::Slo { size_max: rows, slo },
        }
    }

    /// The executors that are started of each device: those that the autopilot may add wait, with their models open.
    pub fn executors_started(&self) -> usize {
        let most = self.capacity.autopilot.executors_max;
        if self.may_change() { most.max(self.onnx.executors) } else { self.onnx.executors }
    }
}
