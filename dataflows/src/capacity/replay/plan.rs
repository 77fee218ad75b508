//! What the machine of a replay is like: the engine that was seen, or one with something changed.

use std::time::Duration;

use operators::budget::BudgetConfig;
use operators::catalog::BatchPolicy;
use operators::cost::{CostModel, Sample};
use operators::quota::Quota;
use operators::share::{Share, Shares};

use super::super::basis::{Basis, ModelCost, model_setup, whole};
use super::super::tick::Setup;

/// What is in flight at most where nobody has said.
const IN_FLIGHT_MAX: usize = 50_000;

/// The time between commits where nobody has said.
const COMMIT: Duration = Duration::from_millis(100);

/// The longest that a row waits where nobody has said.
const DELAY: Duration = Duration::from_millis(50);

/// Sizes at which a cost model is shown what batches take, and how often.
const SHOWN: [usize; 6] = [1, 4, 16, 64, 256, 1_024];
const TIMES_SHOWN: usize = 40;

/// A machine.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Its models, as the trace numbers them.
    pub(super) models: Vec<Model>,
    /// Its devices.
    pub devices: usize,
    /// Executors of each.
    pub executors: usize,
    /// What may be in flight.
    pub budget: BudgetConfig,
    /// From the first outcome to the commit.
    pub commit: Duration,
    /// What was said of tenants.
    pub shares: Shares,
}

/// A model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// When its batches close.
    pub policy: BatchPolicy,
    /// The devices that it is placed on; at least one.
    pub devices: Vec<usize>,
    /// Its weight on a device.
    pub weight: u32,
    /// Seconds of a batch.
    pub fixed: f64,
    /// Seconds of each of its rows.
    pub row: f64,
    /// Seconds that an executor waits for it.
    pub handoff: f64,
}

impl Model {
    /// What a batch of so many rows takes.
    pub(super) fn takes(&self, rows: usize) -> Duration {
        seconds(self.fixed + self.row * whole(rows))
    }

    /// What an engine knows that has run batches of it for a while.
    pub(super) fn learned(&self) -> CostModel {
        learned(self.fixed, self.row, self.policy.size_max())
    }
}

/// What an engine knows that has run batches of up to `size_max` rows for a while, whose line this is, in seconds.
pub(super) fn learned(fixed: f64, row: f64, size_max: usize) -> CostModel {
    let mut cost = CostModel::new(size_max);
    for rows in SHOWN.into_iter().filter(|rows| *rows <= size_max) {
        let sample = Sample { rows, took: seconds(fixed + row * whole(rows)) };
        (0..TIMES_SHOWN).for_each(|_| cost.observe(sample));
    }
    cost
}

/// Executors of all processes together: the partitions of each are those of one larger process.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of executors")]
fn executors(number: f64) -> usize {
    number.round().clamp(1.0, 65_536.0) as usize
}

/// A time of so many seconds, if it is one: within a day, and not below nothing.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

impl Plan {
    /// The machine that this ground describes, whose batches take `slow` times what they are thought to.
    pub(super) fn of(basis: &Basis, models: &[String], slow: f64) -> Self {
        let setup = &basis.setup;
        let cost = |id: &str| basis.cost_of(id).expect("the trace has those models only whose cost is known");
        Self {
            models: models.iter().map(|id| model(setup, id, cost(id), slow)).collect(),
            devices: setup.devices.max(1),
            executors: executors(whole(setup.executors.max(1)) / basis.others),
            budget: BudgetConfig {
                records_max: setup.in_flight_max.unwrap_or(IN_FLIGHT_MAX).max(1),
                bytes_max: usize::MAX / 4,
                partitions: setup.partitions.max(1),
            },
            commit: setup.commit_millis.map_or(COMMIT, |millis| seconds(millis / 1e3)),
            shares: shares(setup),
        }
    }
}

fn model(setup: &Setup, id: &str, cost: &ModelCost, slow: f64) -> Model {
    let about = model_setup(setup, id);
    let millis = |millis: f64| seconds(millis / 1e3);
    let size_max = about.map(|about| about.size_max).filter(|size| *size > 0).unwrap_or(64);
    let policy = match about.and_then(|about| about.slo_millis) {
        Some(slo) => BatchPolicy::Slo { size_max, slo: millis(slo) },
        None => BatchPolicy::Static {
            size_max,
            delay_max: about.and_then(|about| about.delay_millis).map_or(DELAY, millis),
        },
    };
    let devices = about.map(|about| about.devices.clone()).unwrap_or_default();
    let mut devices: Vec<usize> =
        devices.into_iter().filter(|device| *device < setup.devices.max(1)).collect();
    if devices.is_empty() {
        devices.push(0);
    }
    let weight = about.map_or(1, |about| about.weight.max(1));
    Model { policy, devices, weight, fixed: cost.fixed * slow, row: cost.row * slow, handoff: cost.handoff }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is a number of 32 bits")]
fn shares(setup: &Setup) -> Shares {
    let quota = |rate: f64| Quota { rate: rate.max(1.0) as u32, burst: rate.max(1.0) as u32 };
    let mut shares = Shares {
        default: Share { quota: setup.rate_default.map(quota), ..Share::default() },
        ..Shares::default()
    };
    let default = shares.default;
    for (tenant, weight) in &setup.weights {
        shares.tenants.entry(tenant.clone()).or_insert(default).weight = *weight;
    }
    for (tenant, rate) in &setup.rates {
        shares.tenants.entry(tenant.clone()).or_insert(default).quota = Some(quota(*rate));
    }
    shares
}
