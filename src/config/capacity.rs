//! Capacity analysis in the configuration: how far it looks, and what is to be kept.

use std::time::Duration;

use dataflows::capacity::Objective;
use serde::Deserialize;

use super::autopilot::{Autopilot, AutopilotFile};
use super::tenants::Within;
use super::units::Interval;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CapacityFile {
    observe: bool,
    span: Interval,
    horizon: Interval,
    lag_max: Interval,
    utilisation: Within<1, 100>,
    keys_max: Within<1, 100_000>,
    pub(super) autopilot: AutopilotFile,
}

/// What capacity analysis goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Whether the engine gathers what it needs.
    pub observe: bool,
    /// How far it looks back.
    pub span: Duration,
    /// How many keys of each partition are told apart in a second.
    pub keys_max: usize,
    /// What is to be kept, and how far it looks ahead.
    pub objective: Objective,
    /// What the engine may change of itself.
    pub autopilot: Autopilot,
}

pub(super) fn capacity(written: &CapacityFile, autopilot: Autopilot) -> Capacity {
    Capacity {
        autopilot,
        observe: written.observe,
        span: written.span.0,
        keys_max: usize::try_from(written.keys_max.0).unwrap_or(usize::MAX),
        objective: Objective {
            lag_seconds_max: written.lag_max.0.as_secs_f64(),
            horizon_seconds: written.horizon.0.as_secs_f64(),
            utilisation: f64::from(written.utilisation.0) / 100.0,
        },
    }
}
