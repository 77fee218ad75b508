//! Tuning: what a process may change of itself while it runs, within ceilings that were fixed when it started.
//!
//! Whoever tunes writes it, and operators read it each time they decide: a change is one store, needs no stop, and takes hold with the next batch or
//! poll. What has to be there for the largest value (threads, sessions, room in the journal) is there from the start.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::catalog::{BatchPolicy, ModelIndex};

/// What may change. Nothing has been until somebody does.
#[derive(Debug)]
pub struct Tuning {
    executors: AtomicUsize,
    in_flight: AtomicUsize,
    models: Box<[Model]>,
}

/// Of one model; as configured where nothing else was said.
#[derive(Debug)]
struct Model {
    size_max: AtomicUsize,
    delay_nanos: AtomicU64,
}

/// Nothing was said.
const AS_CONFIGURED: usize = usize::MAX;
const DELAY_AS_CONFIGURED: u64 = u64::MAX;

impl Tuning {
    /// One for so many models.
    pub fn new(models: usize) -> Self {
        let model = |_| Model {
            size_max: AtomicUsize::new(AS_CONFIGURED),
            delay_nanos: AtomicU64::new(DELAY_AS_CONFIGURED),
        };
        Self {
            executors: AtomicUsize::new(AS_CONFIGURED),
            in_flight: AtomicUsize::new(AS_CONFIGURED),
            models: (0..models).map(model).collect(),
        }
    }

    /// How many executors of a device run batches, of so many that there are.
    pub fn executors(&self, started: usize) -> usize {
        self.executors.load(Ordering::Relaxed).clamp(1, started.max(1))
    }

    /// How many records may be in flight, where this is configured.
    pub fn in_flight(&self, configured: usize) -> usize {
        match self.in_flight.load(Ordering::Relaxed) {
            AS_CONFIGURED => configured,
            records => records,
        }
    }

    /// When batches of a model close that is served with this policy, whose size is the ceiling.
    pub fn policy(&self, model: ModelIndex, served: BatchPolicy) -> BatchPolicy {
        let Some(tuned) = self.models.get(model.0 as usize) else { return served };
        let policy = served.within(tuned.size_max.load(Ordering::Relaxed));
        match (policy, tuned.delay_nanos.load(Ordering::Relaxed)) {
            (policy, DELAY_AS_CONFIGURED) | (policy @ BatchPolicy::Slo { .. }, _) => policy,
            (BatchPolicy::Static { size_max, .. }, nanos) => {
                BatchPolicy::Static { size_max, delay_max: Duration::from_nanos(nanos) }
            }
        }
    }

    /// So many executors of each device run batches from now on; no more than there are.
    pub fn set_executors(&self, executors: usize) {
        self.executors.store(executors.max(1), Ordering::Relaxed);
    }

    /// So many records may be in flight from now on.
    pub fn set_in_flight(&self, records: usize) {
        self.in_flight.store(records.max(1), Ordering::Relaxed);
    }

    /// Batches of a model have so many rows at most from now on; no more than it is served with.
    pub fn set_size_max(&self, model: ModelIndex, rows: usize) {
        if let Some(tuned) = self.models.get(model.0 as usize) {
            tuned.size_max.store(rows.max(1), Ordering::Relaxed);
        }
    }

    /// Rows of a model wait for others for so long at most from now on. Of one with an objective, that says how long.
    pub fn set_delay_max(&self, model: ModelIndex, delay: Duration) {
        if let Some(tuned) = self.models.get(model.0 as usize) {
            let nanos = u64::try_from(delay.as_nanos()).unwrap_or(DELAY_AS_CONFIGURED - 1);
            tuned.delay_nanos.store(nanos.min(DELAY_AS_CONFIGURED - 1), Ordering::Relaxed);
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self::new(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED: BatchPolicy = BatchPolicy::Static { size_max: 256, delay_max: Duration::from_millis(50) };

    #[test]
    fn everything_is_as_configured_until_it_is_tuned() {
        let tuning = Tuning::new(1);
        assert_eq!((tuning.executors(4), tuning.in_flight(1_000)), (4, 1_000));
        assert_eq!(tuning.policy(ModelIndex(0), SERVED), SERVED);
        assert_eq!(Tuning::default().policy(ModelIndex(7), SERVED), SERVED);
    }

    #[test]
    fn ceilings_hold_and_something_always_moves() {
        let tuning = Tuning::new(1);
        let model = ModelIndex(0);
        tuning.set_size_max(model, 64);
        tuning.set_delay_max(model, Duration::from_millis(5));
        let tuned = BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(5) };
        assert_eq!(tuning.policy(model, SERVED), tuned);
        tuning.set_size_max(model, 100_000);
        assert_eq!(tuning.policy(model, SERVED).size_max(), 256);
        let slo = BatchPolicy::Slo { size_max: 8, slo: Duration::from_millis(80) };
        assert_eq!(tuning.policy(model, slo), slo, "an objective says how long rows wait");
        tuning.set_executors(0);
        tuning.set_in_flight(0);
        tuning.set_size_max(model, 0);
        assert_eq!((tuning.executors(4), tuning.in_flight(9)), (1, 1));
        assert_eq!(tuning.policy(model, SERVED).size_max(), 1);
        tuning.set_executors(9);
        assert_eq!(tuning.executors(4), 4);
    }
}
