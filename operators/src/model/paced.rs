//! Models that take at least the time that they are told to: a faster device in the place of a slower one, for experiments.
//!
//! What a run answers is the model's own. Only when it answers is set: the executor sleeps until the time is over, so that the machine's
//! cores are free for everything around the model, as they are beside a GPU.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Backend, Cancel, Model, ModelError, ModelFile, RunError, Signature};
use crate::clock::{Clock as _, SystemClock};
use crate::tensor::Column;

/// The least that a run of so many rows takes.
pub type Pace = Arc<dyn Fn(usize) -> Duration + Send + Sync>;

/// The pace of a device whose runs take so long whatever is in them, and so long for each row besides.
///
/// ```
/// use std::time::Duration;
/// use operators::model::linear_pace;
///
/// let pace = linear_pace(Duration::from_millis(2), Duration::from_micros(500));
/// assert_eq!(pace(64), Duration::from_millis(34));
/// ```
pub fn linear_pace(fixed: Duration, row: Duration) -> Pace {
    Arc::new(move |rows| fixed.saturating_add(row.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))))
}

/// Opens models that keep to a pace.
pub struct PacedBackend<B> {
    inner: B,
    pace: Pace,
}

impl<B> PacedBackend<B> {
    /// What `inner` opens, at this pace.
    pub fn new(inner: B, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl<B> fmt::Debug for PacedBackend<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PacedBackend").finish_non_exhaustive()
    }
}

impl<B: Backend> Backend for PacedBackend<B> {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        self.open_on(file, 0)
    }

    fn open_on(&self, file: &ModelFile, device: usize) -> Result<Box<dyn Model>, ModelError> {
        let inner = self.inner.open_on(file, device)?;
        let run = Arc::new(Run { phase: Mutex::default(), cancelled: Condvar::new(), inner: inner.cancel() });
        Ok(Box::new(Paced { inner, pace: Arc::clone(&self.pace), run, clock: SystemClock::new() }))
    }

    fn name(&self) -> String {
        format!("{}, paced", self.inner.name())
    }
}

struct Paced {
    inner: Box<dyn Model>,
    pace: Pace,
    run: Arc<Run>,
    clock: SystemClock,
}

impl Model for Paced {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        let until = self.clock.now().after((self.pace)(rows));
        *self.run.phase() = Phase::Running;
        let ran = self.inner.run(rows, inputs, outputs);
        let mut phase = self.run.phase();
        while ran.is_ok() && *phase == Phase::Running {
            let left = until.since(self.clock.now());
            if left.is_zero() {
                break;
            }
            let waited = self.run.cancelled.wait_timeout(phase, left);
            phase = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let ended = std::mem::take(&mut *phase);
        ran?;
        if ended == Phase::Cancelled { Err(RunError("the run was cancelled".to_owned())) } else { Ok(()) }
    }

    fn cancel(&self) -> Option<Arc<dyn Cancel>> {
        Some(Arc::clone(&self.run) as Arc<dyn Cancel>)
    }
}

/// A run, for the thread that waits in it and the one that may end it.
struct Run {
    phase: Mutex<Phase>,
    cancelled: Condvar,
    inner: Option<Arc<dyn Cancel>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Running,
    Cancelled,
}

impl Run {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancel for Run {
    fn cancel(&self) {
        let mut phase = self.phase();
        if *phase == Phase::Running {
            *phase = Phase::Cancelled;
            self.cancelled.notify_all();
        }
        drop(phase);
        if let Some(inner) = &self.inner {
            inner.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::model::simulated::{SimulatedBackend, SimulatedModel};

    fn open(pace: Duration) -> (Box<dyn Model>, SimulatedBackend) {
        let simulated = || SimulatedBackend::new([SimulatedModel::new("m", 2, 1)]);
        let (file, paced) =
            (simulated().files().remove(0), PacedBackend::new(simulated(), Arc::new(move |_| pace)));
        (paced.open(&file).unwrap(), simulated())
    }

    #[test]
    fn it_answers_what_the_model_answers_and_no_sooner_than_it_may() {
        let (mut paced, plain) = open(Duration::from_millis(30));
        let mut plain = plain.open(&plain.files()[0]).unwrap();
        let clock = SystemClock::new();
        let answer = paced.run_floats(2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(clock.now().nanos() >= 30_000_000);
        assert_eq!(answer, plain.run_floats(2, &[1.0, 2.0, 3.0, 4.0]).unwrap());
    }

    #[test]
    fn a_run_that_waits_can_be_cancelled_and_the_next_one_is_not() {
        let (mut paced, _) = open(Duration::from_hours(1));
        let cancel = paced.cancel().unwrap();
        // Between two runs there is nothing to cancel.
        cancel.cancel();
        let runs =
            thread::spawn(move || (paced.run_floats(1, &[1.0, 2.0]), paced.run_floats(1, &[1.0, 2.0])));
        // Each is cancelled some time after it has begun; before that the call changes nothing.
        while !runs.is_finished() {
            cancel.cancel();
            thread::sleep(Duration::from_millis(1));
        }
        let (first, second) = runs.join().unwrap();
        assert_eq!(first, Err(RunError("the run was cancelled".to_owned())));
        assert_eq!(second, first);
    }
}
