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
//! Each run of rows keeps the capability of its own epoch while it waits and runs, and its outcome leaves at it. So a batch may mix
//! epochs, no window is closed because an epoch ended, and under a backlog that never empties a window the epoch frontier still moves.
//!
//! A device that fails on a row known to be good is *broken*: what was left of the batch waits, nothing more is submitted, and the batch
//! is tried again after a pause that doubles. Broken devices make no dead letters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::SyncActivator;

use crate::alarm::Alarms;
use crate::block::Block;
use crate::catalog::{Catalog, ModelIndex};
use crate::clock::{Clock, Moment};
use crate::device::{Batch, Device, Executed};
use crate::fair::{Booking, Fair};
use crate::health::Health;
use crate::observe::{CloseReason, Observer};
use crate::outcome::Outcomes;
use crate::window::{Run, Window};

/// What the operator works with.
#[derive(Clone)]
pub struct InferParts {
    /// The models.
    pub catalog: Arc<Catalog>,
    /// Where a broken device is told.
    pub health: Arc<Health>,
    /// Whom to tell how many rows wait.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The name of the condition that a broken device sets in the health of the process.
pub const BROKEN_DEVICE: &str = "device";

/// The first and the longest pause before a broken device is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

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
        self.unary_frontier(Pipeline, "Infer", move |_capability, info| {
            let alarm = alarms.register(scope.activator_for(std::rc::Rc::clone(&info.address)));
            let device = device(scope.worker().sync_activator_for(info.address.to_vec()));
            let mut scheduler = Scheduler::new(parts, device);

            move |(input, frontier), output| {
                input.for_each_stamp(|stamp, data| {
                    let capability = stamp
                        .retain_least(output.output_index())
                        .expect("every block travels under an epoch");
                    for block in data.flat_map(|container| container.drain(..)) {
                        scheduler.push(block, capability.clone());
                    }
                });
                scheduler.finished(|capability, outcomes| {
                    output.session(capability).give(Arc::new(outcomes));
                });
                alarm.set(scheduler.submit(frontier.is_empty()));
            }
        })
    }
}

/// The windows of the models on one device, and the batches under way there.
struct Scheduler {
    parts: InferParts,
    device: Box<dyn Device>,
    windows: BTreeMap<ModelIndex, Window<Capability<u64>>>,
    fair: Fair,
    under_way: BTreeMap<u64, UnderWay>,
    next_id: u64,
    broken: Option<Broken>,
}

struct UnderWay {
    /// What the fair order has booked for it, unless it waits for a broken device.
    booking: Option<Booking>,
    capabilities: BTreeMap<u64, Capability<u64>>,
}

/// What waits for a broken device to work again.
struct Broken {
    left: VecDeque<Batch>,
    pause: Duration,
    again: Moment,
    /// The batch that tries whether the device works again. Others may still be under way from before it broke.
    trial: Option<u64>,
}

impl Scheduler {
    fn new(parts: InferParts, device: Box<dyn Device>) -> Self {
        Self {
            parts,
            device,
            windows: BTreeMap::new(),
            fair: Fair::new(),
            under_way: BTreeMap::new(),
            next_id: 0,
            broken: None,
        }
    }

    fn push(&mut self, block: Arc<Block>, capability: Capability<u64>) {
        let served =
            self.parts.catalog.served(block.model).expect("decode makes blocks of served models only");
        let policy = served.batch;
        let model = block.model;
        let window = self.windows.entry(model).or_insert_with(|| Window::new(policy));
        window.push(block, capability);
        self.parts.observer.queued(model, window.rows());
    }

    /// Gives the outcomes of the batches that came back to `give`.
    fn finished(&mut self, mut give: impl FnMut(&Capability<u64>, Outcomes)) {
        while let Some(Executed { id, outcomes, left, inference }) = self.device.finished() {
            let mut under_way = self.under_way.remove(&id).expect("a device gives back what was submitted");
            if let Some(booking) = under_way.booking.take() {
                self.fair.finished(booking, inference);
            }
            for (epoch, outcomes) in outcomes {
                give(&under_way.capabilities[&epoch], outcomes);
            }
            match left {
                Some((batch, reason)) => self.suspend(batch, under_way, &reason),
                None => self.recover(id),
            }
        }
    }

    /// Keeps what a broken device left, with its capabilities.
    fn suspend(&mut self, batch: Batch, under_way: UnderWay, reason: &str) {
        let now = self.parts.clock.now();
        let broken = self.broken.get_or_insert_with(|| Broken {
            left: VecDeque::new(),
            pause: BACK_OFF.0,
            again: now.after(BACK_OFF.0),
            trial: None,
        });
        if broken.trial == Some(batch.id) {
            broken.pause = (broken.pause * 2).min(BACK_OFF.1);
            broken.again = now.after(broken.pause);
            broken.trial = None;
        }
        tracing::error!(model = batch.served.id, reason, rows = batch.rows(), pause = ?broken.pause, "device failed on a good row");
        self.parts.health.set_unready(BROKEN_DEVICE, reason);
        self.under_way.insert(batch.id, under_way);
        broken.left.push_back(batch);
    }

    /// A batch went through: if that was the trial of a broken device, it works again.
    fn recover(&mut self, id: u64) {
        if let Some(broken) = &mut self.broken
            && broken.trial == Some(id)
        {
            broken.trial = None;
            broken.again = Moment::START;
            broken.pause = BACK_OFF.0;
            if broken.left.is_empty() {
                self.broken = None;
                self.parts.health.clear(BROKEN_DEVICE);
                tracing::info!("device works again");
            }
        }
    }

    /// Submits what the device has room for, and returns when to look again.
    fn submit(&mut self, closing: bool) -> Moment {
        let now = self.parts.clock.now();
        if let Some(broken) = &mut self.broken {
            if broken.trial.is_some() {
                return Moment::NEVER;
            }
            if now < broken.again || self.device.room() == 0 {
                return broken.again.max(now.after(Duration::from_millis(1)));
            }
            let batch = broken.left.pop_front().expect("a device is broken only while something is left");
            broken.trial = Some(batch.id);
            let under_way = self.under_way.get_mut(&batch.id).expect("what is left keeps its capabilities");
            under_way.booking = Some(self.fair.submitted(batch.model));
            self.device.submit(batch);
            return Moment::NEVER;
        }
        while self.device.room() > 0 {
            let ready: Vec<ModelIndex> = self
                .windows
                .iter()
                .filter(|(_, window)| window.closes(now).is_some() || (closing && window.rows() > 0))
                .map(|(model, _)| *model)
                .collect();
            let Some(model) = self.fair.next(&ready) else { break };
            self.submit_one(model, now);
        }
        if self.device.room() == 0 {
            return Moment::NEVER; // a finished batch wakes the operator
        }
        self.windows.values().map(Window::due).min().unwrap_or(Moment::NEVER)
    }

    fn submit_one(&mut self, model: ModelIndex, now: Moment) {
        let window = self.windows.get_mut(&model).expect("a ready model has a window");
        let closed = window.closes(now).unwrap_or(CloseReason::Drained);
        let mut capabilities = BTreeMap::new();
        let runs = window
            .take()
            .into_iter()
            .map(|Run { block, rows, token }| {
                let epoch = *token.time();
                capabilities.entry(epoch).or_insert(token);
                Run { block, rows, token: epoch }
            })
            .collect();
        self.parts.observer.queued(model, window.rows());
        let id = self.next_id;
        self.next_id += 1;
        let booking = Some(self.fair.submitted(model));
        self.under_way.insert(id, UnderWay { booking, capabilities });
        let served = Arc::clone(self.parts.catalog.served(model).expect("a window is of a served model"));
        self.device.submit(Batch { id, model, served, runs, closed, attempt: 1 });
    }
}

#[cfg(test)]
mod tests;
