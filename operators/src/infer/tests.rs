//! Inference on a worker, with a device that runs its batches when it is told to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::vec::input::Handle;
use timely::worker::Worker;

use super::*;
use crate::catalog::{BatchPolicy, NotFinite};
use crate::clock::ManualClock;
use crate::execute::Executor;
use crate::fixtures::{Recorder, TestModels, Watched, block, execute_parts, lease, models, on_a_worker};
use crate::model::simulated::{SimulatedBackend, SimulatedModel};

const DELAY: Duration = Duration::from_millis(50);
const SIZE_MAX: usize = 4;

/// The batches that were submitted, until a test has them run.
#[derive(Default)]
struct Bench {
    waiting: VecDeque<Batch>,
    executed: VecDeque<Executed>,
    wake: Option<SyncActivator>,
}

/// What the operator sees of a bench.
struct Seat {
    bench: Rc<RefCell<Bench>>,
    slots: usize,
}

impl Device for Seat {
    fn room(&self) -> usize {
        let bench = self.bench.borrow();
        self.slots - bench.waiting.len() - bench.executed.len()
    }

    fn submit(&mut self, batch: Batch) {
        assert!(self.room() > 0, "a batch is submitted only where there is room");
        self.bench.borrow_mut().waiting.push_back(batch);
    }

    fn finished(&mut self) -> Option<Executed> {
        self.bench.borrow_mut().executed.pop_front()
    }
}

/// The operator with two models, `a` and `b`, and everything around it that a test moves by hand.
struct Rig<'w> {
    worker: &'w mut Worker,
    alarms: Alarms,
    clock: Arc<ManualClock>,
    observer: Arc<Recorder>,
    models: TestModels,
    health: Arc<Health>,
    bench: Rc<RefCell<Bench>>,
    executor: Executor,
    input: Option<Handle<u64, Arc<Block>>>,
    watched: Watched<Arc<Outcomes>>,
    /// How many blocks were sent: each is of a lease of its own.
    blocks: i32,
}

impl<'w> Rig<'w> {
    fn new(worker: &'w mut Worker, slots: usize) -> Self {
        let (clock, observer, alarms) = (Arc::new(ManualClock::new()), Arc::default(), Alarms::new());
        let backend = SimulatedBackend::new(["a", "b"].map(|id| SimulatedModel::new(id, 1, 1)));
        let batch = BatchPolicy { size_max: SIZE_MAX, delay_max: DELAY };
        let models = models(backend, batch, NotFinite::Refuse);
        let health = Arc::<Health>::default();
        let bench = Rc::<RefCell<Bench>>::default();
        let parts = InferParts {
            catalog: Arc::clone(&models.catalog),
            health: Arc::clone(&health),
            observer: Arc::clone(&observer) as Arc<dyn Observer>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let mut executor = Executor::new(execute_parts(&models, &clock, &observer));
        executor.warm_up();
        let (input, watched) = worker.dataflow(|scope| {
            let (input, stream) = scope.new_input();
            let outcomes = stream.infer(parts, &alarms, |wake| {
                bench.borrow_mut().wake = Some(wake);
                Box::new(Seat { bench: Rc::clone(&bench), slots })
            });
            (Some(input), Watched::new(outcomes))
        });
        Self { worker, alarms, clock, observer, models, health, bench, executor, input, watched, blocks: 0 }
    }

    /// Rows for a model, polled now, under an epoch. Returns the partition that stands for them.
    fn push(&mut self, model: u32, rows: usize, epoch: u64) -> i32 {
        let partition = self.blocks;
        self.blocks += 1;
        let rows = block(ModelIndex(model), lease(partition, 1), &vec![vec![1.0]; rows], self.clock.now());
        let input = self.input.as_mut().unwrap();
        input.advance_to(epoch);
        input.send(rows);
        self.turn();
        partition
    }

    fn advance_to(&mut self, epoch: u64) {
        self.input.as_mut().unwrap().advance_to(epoch);
        self.turn();
    }

    /// Rings the alarms that are due, and steps until nothing happens.
    fn turn(&mut self) {
        self.input.iter_mut().for_each(Handle::flush);
        for _ in 0..10 {
            self.alarms.ring(self.clock.now());
            self.worker.step();
        }
    }

    fn later(&mut self, wait: Duration) {
        self.clock.advance(wait);
        self.turn();
    }

    /// The device runs one of the batches that wait there.
    fn run(&mut self, place: usize) {
        let batch = self.bench.borrow_mut().waiting.remove(place).expect("a batch waits there");
        let mut executed = self.executor.execute(&batch);
        // Models that are simulated take no time; for the fair order each batch costs the same.
        executed.inference = Duration::from_millis(1);
        self.bench.borrow_mut().executed.push_back(executed);
        self.bench.borrow().wake.as_ref().unwrap().activate().unwrap();
        self.turn();
    }

    fn run_all(&mut self) {
        while !self.bench.borrow().waiting.is_empty() {
            self.run(0);
        }
    }

    /// The model and the rows of each batch that waits at the device.
    fn waiting(&self) -> Vec<(u32, usize)> {
        self.bench.borrow().waiting.iter().map(|batch| (batch.model.0, batch.rows())).collect()
    }

    /// Epoch, partition and offset of each outcome, in order.
    fn outcomes(&self) -> Vec<(u64, i32, i64)> {
        let mut all = Vec::new();
        for (epoch, outcomes) in self.watched.out.borrow().iter() {
            all.extend((0..outcomes.len()).map(|index| {
                let (lease, offset, _) = outcomes.origin(index);
                (*epoch, lease.partition.0, offset.0)
            }));
        }
        all
    }
}

#[test]
fn a_batch_mixes_epochs_and_each_outcome_leaves_at_the_epoch_of_its_record() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 2);
        rig.push(0, 1, 3);
        rig.push(0, 3, 5);
        rig.advance_to(9);
        assert_eq!((rig.waiting(), rig.watched.frontier()), (vec![(0, 4)], Some(3)));
        rig.run_all();
        assert_eq!(rig.outcomes(), [(3, 0, 0), (5, 1, 0), (5, 1, 1), (5, 1, 2)]);
        assert_eq!(rig.watched.frontier(), Some(9));
        assert_eq!(rig.observer.seen().batches, [(CloseReason::Full, 4, 1)]);
    });
}

#[test]
fn a_backlog_that_never_empties_a_window_does_not_hold_the_frontier_back() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, 3 * SIZE_MAX, 0);
        for epoch in 1..20 {
            rig.push(0, SIZE_MAX, epoch);
            rig.run(0);
            assert_eq!(rig.waiting(), [(0, SIZE_MAX)], "there is always another full batch");
            // Three batches are ahead of what has just come.
            assert_eq!(rig.watched.frontier(), Some((epoch + 1).saturating_sub(3)));
        }
    });
}

#[test]
fn a_lone_row_waits_its_delay_and_full_windows_wait_for_room() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, 1, 0);
        rig.later(DELAY.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(rig.waiting(), []);
        rig.later(Duration::from_nanos(1));
        assert_eq!(rig.waiting(), [(0, 1)]);
        // While the device is busy the window goes on filling: the batch that follows is a full one.
        for _ in 0..3 {
            rig.push(0, 2, 0);
            rig.later(DELAY);
        }
        rig.run(0);
        assert_eq!(rig.waiting(), [(0, SIZE_MAX)]);
        rig.run_all();
        assert_eq!(rig.outcomes().len(), 7);
        let reasons: Vec<_> = rig.observer.seen().batches.iter().map(|(reason, ..)| *reason).collect();
        assert_eq!(reasons, [CloseReason::Deadline, CloseReason::Full, CloseReason::Deadline]);
    });
}

#[test]
fn a_model_with_a_long_backlog_leaves_its_neighbour_every_second_place() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, 8 * SIZE_MAX, 0);
        rig.push(1, 2 * SIZE_MAX, 0);
        let mut turns = Vec::new();
        for _ in 0..5 {
            turns.push(rig.waiting()[0].0);
            rig.run(0);
        }
        assert_eq!(turns.iter().filter(|model| **model == 1).count(), 2, "{turns:?}");
    });
}

#[test]
fn a_broken_device_is_told_tried_again_with_growing_pauses_and_works_again() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 4);
        rig.models.backend.break_device(u64::MAX);
        rig.push(0, SIZE_MAX, 1);
        rig.push(1, SIZE_MAX, 2);
        rig.push(0, SIZE_MAX, 3);
        rig.advance_to(9);
        rig.run_all();
        let reasons = rig.health.reasons();
        assert_eq!((reasons.len(), reasons[0].0.as_str()), (1, BROKEN_DEVICE));
        rig.push(1, SIZE_MAX, 9);
        assert_eq!(rig.waiting(), [], "nothing new goes to a broken device");
        let mut pause = BACK_OFF.0;
        for _ in 0..10 {
            rig.later(pause.saturating_sub(Duration::from_nanos(1)));
            assert_eq!(rig.waiting(), []);
            rig.later(Duration::from_nanos(1));
            assert_eq!(rig.waiting().len(), 1, "one batch tries, after {pause:?}");
            rig.later(Duration::from_mins(1));
            rig.run_all();
            pause = (pause * 2).min(BACK_OFF.1);
        }
        assert_eq!((rig.outcomes(), rig.watched.frontier()), (vec![], Some(1)));
        rig.models.backend.break_device(0);
        rig.later(pause);
        while !rig.bench.borrow().waiting.is_empty() {
            assert_eq!(
                rig.health.is_ready(),
                rig.bench.borrow().waiting[0].id > 2,
                "until all that was left is done"
            );
            rig.run(0);
        }
        assert!(rig.health.is_ready());
        let epochs: Vec<u64> = rig.outcomes().iter().map(|(epoch, ..)| *epoch).collect();
        assert_eq!((epochs.len(), epochs.iter().collect::<BTreeSet<_>>().len()), (4 * SIZE_MAX, 4));
        assert_eq!((rig.watched.frontier(), rig.observer.seen().dead_letters), (Some(9), vec![]));
    });
}

#[test]
fn the_end_of_the_input_closes_every_window() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, 1, 0);
        rig.push(1, 1, 0);
        rig.input = None;
        rig.turn();
        rig.run_all();
        assert_eq!(rig.outcomes().len(), 2);
        assert!(rig.observer.seen().batches.iter().all(|(reason, ..)| *reason == CloseReason::Drained));
        assert!(rig.watched.probe.done());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever comes, in whatever epochs, however the device dawdles and breaks: each row has one outcome, at its own epoch, and the
    /// frontier never passes a row that has none.
    #[test]
    fn each_row_has_one_outcome_at_its_epoch_and_the_frontier_waits_for_it(
        moves in prop::collection::vec((0_u32..2, 0_usize..9, 0_u64..2, 0_u64..60, any::<prop::sample::Index>(), 0_u64..12), 1..40),
        slots in 1_usize..4,
    ) {
        let (rows, outcomes, early) = on_a_worker(|worker| {
            let mut rig = Rig::new(worker, slots);
            let (mut epoch, mut rows, mut early) = (0, BTreeSet::new(), false);
            for (model, count, ahead, millis, place, breaks) in moves {
                epoch += ahead;
                let partition = rig.push(model, count, epoch);
                rows.extend((0_i64..).take(count).map(|offset| (epoch, partition, offset)));
                rig.later(Duration::from_millis(millis));
                if breaks > 9 {
                    rig.models.backend.break_device(breaks);
                }
                let waiting = rig.waiting().len();
                if waiting > 0 {
                    rig.run(place.index(waiting));
                }
                let done: BTreeSet<_> = rig.outcomes().into_iter().collect();
                let oldest = rows.difference(&done).map(|(epoch, ..)| *epoch).min();
                early |= oldest.is_some_and(|oldest| rig.watched.frontier().is_none_or(|frontier| frontier > oldest));
            }
            rig.models.backend.break_device(0);
            rig.input = None;
            rig.turn();
            for _ in 0..200 {
                rig.later(BACK_OFF.1);
                rig.run_all();
            }
            assert!(rig.watched.probe.done() && rig.health.is_ready());
            (rows, rig.outcomes(), early)
        });
        prop_assert!(!early);
        prop_assert_eq!(outcomes.len(), rows.len());
        prop_assert_eq!(outcomes.into_iter().collect::<BTreeSet<_>>(), rows);
    }
}
