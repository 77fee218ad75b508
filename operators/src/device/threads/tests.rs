//! Real threads and a clock that is moved by hand, against models that do not return until they are let go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use timely::worker::Worker;

use super::*;
use crate::catalog::{BatchPolicy, Limits, NotFinite};
use crate::clock::ManualClock;
use crate::dead_letter::{Reason, Stage};
use crate::device::QUEUED;
use crate::fixtures::{Recorder, TestModels, block, execute_parts, lease, models_within, on_a_worker};
use crate::model::simulated::{SimulatedBackend, SimulatedModel};
use crate::model::{Backend, Cancel, Model, ModelError, ModelFile, RunError, Signature};
use crate::observe::CloseReason;
use crate::tensor::Column;
use crate::tuning::Tuning;
use crate::window::Run;

const MAX: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
/// A run of a row that begins with this does not return by itself.
const STUCK: f32 = 13.0;

/// What holds runs back, and lets them go.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether a run returns when it is cancelled.
    heeds_cancel: AtomicBool,
    /// Whether a run of whatever rows is held back, once a model is open.
    holds_all: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Runs that were ever held back.
    begun: usize,
    held: usize,
    cancelled: bool,
    open: bool,
}

impl Gate {
    /// Waits until it is cancelled, if it heeds that, or let go.
    fn hold(&self) -> Result<(), RunError> {
        let mut state = self.state.lock().unwrap();
        state.begun += 1;
        state.held += 1;
        state.cancelled = false;
        while !(state.open || state.cancelled && self.heeds_cancel.load(Ordering::SeqCst)) {
            state = self.changed.wait(state).unwrap();
        }
        state.held -= 1;
        Err(RunError("it was held back".to_owned()))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn held(&self) -> usize {
        self.state.lock().unwrap().held
    }
}

impl Cancel for Gate {
    fn cancel(&self) {
        self.change(|state| state.cancelled = true);
    }
}

struct Gated {
    inner: Arc<SimulatedBackend>,
    gate: Arc<Gate>,
}

struct GatedModel {
    inner: Box<dyn Model>,
    gate: Arc<Gate>,
}

impl Backend for Gated {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        Ok(Box::new(GatedModel { inner: self.inner.open(file)?, gate: Arc::clone(&self.gate) }))
    }

    fn name(&self) -> String {
        "gated".to_owned()
    }
}

impl Model for GatedModel {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        if inputs[0].floats().contains(&STUCK) || self.gate.holds_all.load(Ordering::SeqCst) {
            return self.gate.hold();
        }
        self.inner.run(rows, inputs, outputs)
    }

    fn cancel(&self) -> Option<Arc<dyn Cancel>> {
        Some(Arc::clone(&self.gate) as Arc<dyn Cancel>)
    }
}

struct Rig {
    gate: Arc<Gate>,
    models: TestModels,
    clock: Arc<ManualClock>,
    observer: Arc<Recorder>,
    faults: Arc<Faults>,
    device: Threads,
}

impl Rig {
    fn new(worker: &Worker, stuck_max: usize) -> Self {
        Self::tuned(worker, stuck_max, 1, Arc::default())
    }

    fn tuned(worker: &Worker, stuck_max: usize, executors: usize, tuning: Arc<Tuning>) -> Self {
        let backend = SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]);
        let batch = BatchPolicy::Static { size_max: 8, delay_max: Duration::ZERO };
        let models =
            models_within(backend, batch, NotFinite::Refuse, Limits { deadline: None, run_max: Some(MAX) });
        let (clock, observer) = (Arc::new(ManualClock::new()), Arc::<Recorder>::default());
        let (gate, faults) = (Arc::<Gate>::default(), Arc::<Faults>::default());
        let mut execute = execute_parts(&models, &clock, &observer);
        execute.backend = Arc::new(Gated { inner: Arc::clone(&models.backend), gate: Arc::clone(&gate) });
        let device = Threads::start(ThreadsParts {
            name: "gated".to_owned(),
            executor: Box::new(move || Executor::new(execute.clone())),
            executors,
            tuning,
            queued: QUEUED,
            home: worker.sync_activator_for(vec![0]),
            warm: Arc::new(|| {}),
            grace: GRACE,
            stuck_max,
            faults: Arc::clone(&faults),
            observer: Arc::clone(&observer) as Arc<dyn Observer>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        });
        Self { gate, models, clock, observer, faults, device }
    }

    fn submit(&mut self, id: u64, rows: &[f32], hangs: u32) {
        let model = ModelIndex(0);
        let rows: Vec<Vec<f32>> = rows.iter().map(|value| vec![*value]).collect();
        let block = block(model, lease(0, 1), &rows, self.clock.now());
        let runs = vec![Run { rows: 0..block.len(), block, token: 0 }];
        let served = Arc::clone(self.models.catalog.served(model).unwrap());
        self.device.submit(Batch { id, model, served, runs, closed: CloseReason::Full, attempt: 1, hangs });
    }

    /// Waits until something is so that other threads bring about.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..6_000 {
            if let Some(found) = look(self) {
                return found;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!("waited for a minute: {what}");
    }

    fn until_held(&mut self, runs: usize) {
        self.until("runs to be held", |rig| (rig.gate.held() == runs).then_some(()));
    }

    /// As the infer operator does: moves to the moment at which the device wants to be looked at, and looks.
    fn look_when_due(&mut self) -> Option<Executed> {
        let due = self.device.due();
        assert!(due < Moment::NEVER, "somebody keeps watch");
        self.clock.advance(due.since(self.clock.now()));
        self.device.finished()
    }

    /// Ends the model's part, so that no thread outlives the test for long.
    fn let_go(&mut self) {
        self.gate.change(|state| state.open = true);
    }
}

#[test]
fn executors_that_are_not_to_run_have_nothing_to_do() {
    on_a_worker(|worker| {
        let tuning = Arc::new(Tuning::default());
        let mut rig = Rig::tuned(worker, 1, 3, Arc::clone(&tuning));
        assert_eq!(
            (rig.device.executors(), rig.device.room()),
            (3, 3 * (1 + QUEUED)),
            "some may wait behind each"
        );
        tuning.set_executors(1);
        assert_eq!(
            (rig.device.executors(), rig.device.room()),
            (1, 1),
            "another thread would take what waits"
        );
        rig.submit(1, &[STUCK], 0);
        rig.until_held(1);
        assert_eq!(rig.device.room(), 0);
        tuning.set_executors(2);
        assert_eq!(rig.device.room(), 1);
        rig.submit(2, &[STUCK], 0);
        rig.until_held(2);
        tuning.set_executors(1);
        assert_eq!(rig.device.room(), 0, "two run where one is to");
        rig.let_go();
        for _ in 0..2 {
            rig.until("a batch to come back", |rig| rig.device.finished());
        }
        assert_eq!(rig.device.room(), 1);
    });
}

#[test]
fn a_run_that_takes_too_long_is_cancelled_and_its_row_ends_after_the_second_time() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.gate.heeds_cancel.store(true, Ordering::SeqCst);
        rig.submit(1, &[1.0, STUCK, 2.0], 0);
        // The whole batch, then the row by itself, then once more after a good row.
        for run in 1..=3 {
            rig.until("the run to begin", |rig| (rig.gate.state.lock().unwrap().begun == run).then_some(()));
            assert!(rig.look_when_due().is_none());
            assert_eq!(rig.observer.seen().cancelled.len(), run);
        }
        let executed = rig.until("the batch", |rig| rig.device.finished());
        assert!(executed.left.is_none());
        assert_eq!(executed.outcomes.iter().map(|(_, page)| page.len()).sum::<usize>(), 3);
        assert_eq!(rig.observer.seen().dead_letters, [(Reason::DeadlineExceeded, Stage::Infer)]);
        assert_eq!((rig.observer.seen().replaced, rig.faults.get().is_none()), (0, true));
    });
}

#[test]
fn an_executor_whose_run_does_not_return_is_given_up_and_another_takes_its_place() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.submit(1, &[STUCK], 0);
        rig.submit(2, &[5.0], 0);
        rig.until_held(1);
        assert!(rig.look_when_due().is_none());
        assert!(rig.device.finished().is_none(), "it has its grace to return");
        let hung = rig.look_when_due().expect("its batch comes back");
        assert!(matches!((hung.id, hung.left), (1, Some(Left::Hung { rows: true }))));
        assert_eq!((rig.observer.seen().cancelled.len(), rig.observer.seen().replaced), (1, 1));
        let executed = rig.until("the batch that waited behind it", |rig| rig.device.finished());
        assert_eq!((executed.id, executed.outcomes[0].1.len(), rig.device.room()), (2, 1, 1 + QUEUED));
        // What the run says when it returns after all is nobody's.
        rig.let_go();
        rig.until("the thread that was left behind to end", |rig| {
            rig.device.stuck[0].is_finished().then_some(())
        });
        assert!(rig.device.finished().is_none() && rig.faults.get().is_none());
    });
}

#[test]
fn what_was_finished_before_a_run_that_does_not_return_is_looked_for() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.gate.holds_all.store(true, Ordering::SeqCst);
        (1..=2).for_each(|id| rig.submit(id, &[5.0], 0));
        rig.until_held(1);
        assert_eq!(rig.device.due(), Moment::START.after(MAX), "whoever finishes a batch tells of it");
        // Behind these nobody tells of the first, should the second never return.
        (3..=4).for_each(|id| rig.submit(id, &[5.0], 0));
        assert_eq!(rig.device.due(), Moment::START.after(LOOK_AFTER));
        rig.gate.holds_all.store(false, Ordering::SeqCst);
        rig.let_go();
        for _ in 1..=4 {
            rig.until("a batch to come back", |rig| rig.device.finished());
        }
        assert_eq!(rig.device.due(), Moment::NEVER);
    });
}

#[test]
fn a_row_over_which_an_executor_was_given_up_runs_after_a_good_row_and_that_may_hang_too() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.gate.holds_all.store(true, Ordering::SeqCst);
        rig.submit(1, &[5.0], 1);
        rig.until_held(1);
        assert!(rig.look_when_due().is_none());
        let hung = rig.look_when_due().expect("its batch comes back");
        assert!(matches!(hung.left, Some(Left::Hung { rows: false })), "no row of it is to blame");
        rig.let_go();
    });
}

#[test]
fn more_stuck_executors_than_may_be_are_a_fault_that_names_device_and_model() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        for id in 1..=2 {
            assert_eq!(rig.faults.get(), None);
            rig.submit(id, &[STUCK], 0);
            rig.until_held(usize::try_from(id).unwrap());
            assert!(rig.look_when_due().is_none());
            assert!(rig.look_when_due().is_some());
        }
        let (device, model) = ("gated".to_owned(), "m".to_owned());
        assert_eq!(rig.faults.get(), Some(&Fault::Stuck { device, model, executors: 2 }));
        rig.let_go();
    });
}

#[test]
fn one_that_has_returned_meanwhile_does_not_count_as_stuck() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        for id in 1..=3 {
            rig.submit(id, &[STUCK], 0);
            rig.until_held(1);
            assert!(rig.look_when_due().is_none());
            assert!(rig.look_when_due().is_some());
            rig.let_go();
            rig.until("it to end", |rig| rig.device.stuck.iter().all(JoinHandle::is_finished).then_some(()));
            rig.gate.change(|state| state.open = false);
        }
        assert_eq!((rig.faults.get(), rig.observer.seen().replaced), (None, 3));
    });
}
