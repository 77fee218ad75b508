//! Models whose runs take the time that they are told to, and nothing else: the thread sleeps, so that the figures are those of the
//! scheduling, on a machine of few cores too.

use std::sync::Arc;
use std::time::Duration;

use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use operators::model::store::Found;
use operators::model::{Backend, PacedBackend};

/// What a run of so many rows takes.
pub(crate) type Cost = fn(usize) -> Duration;

/// One simulated model, `m`, of rows of one number; and where it is found.
pub(crate) fn timed(cost: Cost) -> (Arc<dyn Backend>, Found) {
    let simulated = SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]);
    let found = simulated.found();
    (Arc::new(PacedBackend::new(simulated, Arc::new(cost))), found)
}
