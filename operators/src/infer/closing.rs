//! When the windows of a device close: brings to the policy what batches have cost there, and how busy the device is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalog::{BatchPolicy, ModelIndex, Served};
use crate::clock::Moment;
use crate::cost::{CostModel, Sample};
use crate::observe::{CloseReason, CostSeen, Observer};
use crate::policy::{Decision, Demand, Offer, Waiting, decide};
use crate::window::Window;

/// What is known of the batches on one device.
pub(super) struct Closing {
    /// How the device is numbered.
    number: usize,
    costs: BTreeMap<ModelIndex, CostModel>,
    demand: Demand,
    executors: usize,
    /// Executors with something to do.
    busy: usize,
    /// Batches that wait for each of them.
    ahead: usize,
}

impl Closing {
    /// Nothing has run yet on this device.
    pub(super) fn new(number: usize) -> Self {
        Self { number, costs: BTreeMap::new(), demand: Demand::default(), executors: 1, busy: 0, ahead: 0 }
    }

    /// The first rows of a model have come: what was measured when it was loaded is where learning begins.
    pub(super) fn serve(&mut self, model: ModelIndex, served: &Served, observer: &dyn Observer) {
        let number = self.number;
        self.costs.entry(model).or_insert_with(|| {
            let mut cost =
                CostModel::new(served.batch.size_max()).with_buckets(served.signature.buckets.clone());
            served.measured.iter().for_each(|sample| cost.observe(*sample));
            tell(number, model, &cost, observer);
            cost
        });
    }

    /// So many batches are on the device from now on, which has so many executors.
    pub(super) fn busy(&mut self, now: Moment, batches: usize, executors: usize) {
        self.executors = executors;
        self.busy = batches.min(self.executors);
        self.ahead = (batches - self.busy) / executors.max(1);
        self.demand.tell(now, self.busy, self.executors);
    }

    /// Learns from a batch that was run.
    pub(super) fn learn(&mut self, model: ModelIndex, sample: Sample, observer: &dyn Observer) {
        if let Some(cost) = self.costs.get_mut(&model) {
            cost.observe(sample);
            tell(self.number, model, cost, observer);
        }
    }

    /// What each row is expected to cost in a batch of so many.
    pub(super) fn price(&self, model: ModelIndex, rows: usize) -> Duration {
        let cost = self.costs.get(&model).map(|cost| cost.estimate(rows)).unwrap_or_default();
        cost / u32::try_from(rows).unwrap_or(u32::MAX).max(1)
    }

    /// What the window of a model does now, if anything waits in it. Nothing more will come once the engine is `draining`.
    pub(super) fn decide<C: Clone>(
        &self,
        model: ModelIndex,
        policy: BatchPolicy,
        window: &Window<C>,
        now: Moment,
        draining: bool,
    ) -> Option<Decision> {
        let waiting = Waiting { rows: window.fullest(), oldest: window.oldest()? };
        let cost = self.costs.get(&model).expect("a model with a window is served");
        let (idle, ahead) = (self.busy < self.executors, self.ahead);
        let device = Offer { idle, ahead, demand: self.demand.share() };
        match decide(policy, now, waiting, cost, device) {
            Decision::Wait(_) if draining => {
                let rows = match policy {
                    BatchPolicy::Static { size_max, .. } => size_max,
                    BatchPolicy::Slo { .. } => cost.efficient(),
                };
                Some(Decision::Close { reason: CloseReason::Drained, rows: rows.min(waiting.rows) })
            }
            decision => Some(decision),
        }
    }
}

fn tell(device: usize, model: ModelIndex, cost: &CostModel, observer: &dyn Observer) {
    let (fixed, row, efficient) = (cost.fixed(), cost.row(), cost.efficient());
    observer.cost(model, device, CostSeen { fixed, row, efficient });
}
