//! Inference: blocks wait in the windows of their models, leave as batches in the fair order, and come back as outcomes.
//!
//! ```text
//!                 ┌─────────────────────────── Infer, on the home of the device ──────────────────────────┐
//!   blocks @ e ──▶│ window of model a ─┐                                                                   │
//!   blocks @ f ──▶│ window of model b ─┼─ fair order ─▶ batch ─▶ device ─▶ executed ── outcomes @ e, @ f ──│──▶
//!                 │ window of model c ─┘   when there is room, never before                                │
//!                 └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! When a window closes, and how many of its rows a batch takes, is for the [policy](crate::policy) of its model; for that the operator
//! keeps what batches have [cost](crate::cost) on its device.
//!
//! Each run of rows keeps the capability of its own epoch while it waits and runs, and its outcome leaves at it. So a batch may mix
//! epochs, no window is closed because an epoch ended, and under a backlog that never empties a window the epoch frontier still moves.
//!
//! A device that fails on a row known to be good is *broken*: what was left of the batch waits, nothing more is submitted, and the batch
//! is tried again after a pause that doubles. Broken devices make no dead letters.
//!
//! A record that was in flight at two crashes of a process runs with nothing beside it on the device; at three it is a dead letter.
//!
//! What a tenant may not ask for now waits before the windows, at the [gate](crate::gate), or ends as a dead letter there.
//!
//! A row that is past the deadline of its model ends as a dead letter, whether it waits or runs. What the device says of it after that
//! is dropped here. A run that does not return is ended by the device; the rows of its batch then run one by one.

mod closing;
mod scheduler;
mod under_way;

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::SyncActivator;

use self::scheduler::Scheduler;
use crate::alarm::Alarms;
use crate::allowance::Allowances;
use crate::block::Block;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::device::Device;
use crate::health::Health;
use crate::journal::Journal;
use crate::letters::Letters;
use crate::observe::Observer;
use crate::outcome::Outcomes;
use crate::tuning::Tuning;

/// What the operator works with.
#[derive(Clone)]
pub struct InferParts {
    /// The models.
    pub catalog: Arc<Catalog>,
    /// How rows end that the device gives no outcome for; while their breaker holds, nothing is submitted.
    pub letters: Letters,
    /// What tenants and models get of the device, and what tenants may ask for.
    pub allowances: Arc<Allowances>,
    /// What was changed of when batches close.
    pub tuning: Arc<Tuning>,
    /// What tells which records were in flight when a process died, if anything does.
    pub journal: Option<Arc<Journal>>,
    /// Where a broken device is told.
    pub health: Arc<Health>,
    /// Whom to tell how many rows wait.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The name of the condition that a broken device sets in the health of the process; of several devices with its number behind: `device-1`.
pub const BROKEN_DEVICE: &str = "device";

/// Methods to run models on blocks.
pub trait Infer<'scope> {
    /// Gives each row its outcome. `device` makes the device, given how to wake this operator.
    fn infer(
        self,
        parts: InferParts,
        alarms: &Alarms,
        device: impl FnOnce(SyncActivator) -> Box<dyn Device>,
    ) -> StreamVec<'scope, u64, Arc<Outcomes>>;
}

impl<'scope> Infer<'scope> for StreamVec<'scope, u64, Arc<Block>> {
    fn infer(
        self,
        parts: InferParts,
        alarms: &Alarms,
        device: impl FnOnce(SyncActivator) -> Box<dyn Device>,
    ) -> StreamVec<'scope, u64, Arc<Outcomes>> {
        let scope = self.scope();
        // A device is numbered as the worker that is its home.
        let number = scope.worker().index();
        self.unary_frontier(Pipeline, "Infer", move |_capability, info| {
            let alarm = alarms.register(scope.activator_for(std::rc::Rc::clone(&info.address)));
            let device = device(scope.worker().sync_activator_for(info.address.to_vec()));
            let mut scheduler = Scheduler::new(parts, number, device);

            move |(input, frontier), output| {
                input.for_each_stamp(|stamp, data| {
                    let capability = stamp
                        .retain_least(output.output_index())
                        .expect("every block travels under an epoch");
                    for block in data.flat_map(|container| container.drain(..)) {
                        scheduler.push(block, capability.clone());
                    }
                });
                let mut give = |capability: &Capability<u64>, outcomes| {
                    output.session(capability).give(Arc::new(outcomes));
                };
                scheduler.finished(&mut give);
                scheduler.end_condemned(&mut give);
                scheduler.expire(&mut give);
                alarm.set(scheduler.submit(frontier.is_empty()));
            }
        })
    }
}

#[cfg(test)]
mod tests;
