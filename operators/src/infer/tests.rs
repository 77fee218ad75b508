//! Inference on a worker, with a device that runs its batches when it is told to.

mod share;
mod slo;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::vec::input::Handle;
use timely::worker::Worker;

use super::scheduler::BACK_OFF;
use super::*;
use crate::breaker::Breaker;
use crate::catalog::{BatchPolicy, Limits, ModelIndex, NotFinite};
use crate::clock::ManualClock;
use crate::dead_letter::{Reason, Stage};
use crate::device::{Batch, Executed, Left};
use crate::execute::Executor;
use crate::fixtures::{
    Recorder, TestModels, Watched, block_of, execute_parts, lease, letters, models_within, on_a_worker,
};
use crate::journal::Name;
use crate::lease::{Offset, Partition};
use crate::model::simulated::{SimulatedBackend, SimulatedModel};
use crate::observe::{CloseReason, Silent};
use crate::share::Shares;

const DELAY: Duration = Duration::from_millis(50);
const SIZE_MAX: usize = 4;
const LETTERS_MAX: u32 = 8;
/// What the device says that a batch took.
const FIXED: Duration = Duration::from_millis(4);
const ROW: Duration = Duration::from_millis(1);

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
    executors: usize,
}

impl Device for Seat {
    fn executors(&self) -> usize {
        self.executors
    }

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
    breaker: Arc<Breaker>,
    bench: Rc<RefCell<Bench>>,
    executor: Executor,
    input: Option<Handle<u64, Arc<Block>>>,
    watched: Watched<Arc<Outcomes>>,
    /// How many blocks were sent: each is of a lease of its own.
    blocks: i32,
}

impl<'w> Rig<'w> {
    fn new(worker: &'w mut Worker, slots: usize) -> Self {
        Self::within(worker, slots, None)
    }

    /// The same, with a deadline for each row.
    fn within(worker: &'w mut Worker, slots: usize, deadline: Option<Duration>) -> Self {
        Self::after_crashes(worker, slots, deadline, None)
    }

    /// The same, with shares of tenants and models.
    fn sharing(worker: &'w mut Worker, shares: Shares, deadline: Option<Duration>) -> Self {
        let batch = BatchPolicy::Static { size_max: SIZE_MAX, delay_max: DELAY };
        Self::of(worker, batch, (1, 1), deadline, None, shares)
    }

    /// The same, with what a journal says of the records.
    fn after_crashes(
        worker: &'w mut Worker,
        slots: usize,
        deadline: Option<Duration>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let batch = BatchPolicy::Static { size_max: SIZE_MAX, delay_max: DELAY };
        Self::of(worker, batch, (slots, slots), deadline, journal, Shares::default())
    }

    fn of(
        worker: &'w mut Worker,
        batch: BatchPolicy,
        (slots, executors): (usize, usize),
        deadline: Option<Duration>,
        journal: Option<Arc<Journal>>,
        shares: Shares,
    ) -> Self {
        let (clock, observer, alarms) = (Arc::new(ManualClock::new()), Arc::default(), Alarms::new());
        let backend = SimulatedBackend::new(["a", "b"].map(|id| SimulatedModel::new(id, 1, 1)));
        let models = models_within(backend, batch, NotFinite::Refuse, Limits { deadline, run_max: None });
        let health = Arc::<Health>::default();
        let bench = Rc::<RefCell<Bench>>::default();
        let breaker = Arc::new(Breaker::new(Some(LETTERS_MAX), Arc::clone(&health), Arc::new(Silent)));
        let parts = InferParts {
            catalog: Arc::clone(&models.catalog),
            letters: Letters { breaker: Arc::clone(&breaker), ..letters(&clock, &observer) },
            tuning: Arc::default(),
            allowances: Arc::new(Allowances::new(Arc::new(shares))),
            journal,
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
                Box::new(Seat { bench: Rc::clone(&bench), slots, executors })
            });
            (Some(input), Watched::new(outcomes))
        });
        Self {
            worker,
            alarms,
            clock,
            observer,
            models,
            health,
            breaker,
            bench,
            executor,
            input,
            watched,
            blocks: 0,
        }
    }

    /// Rows for a model, polled now, under an epoch. Returns the partition that stands for them.
    fn push(&mut self, model: u32, rows: usize, epoch: u64) -> i32 {
        self.push_of(model, &vec!["acme"; rows], epoch)
    }

    /// The same, each row of a tenant.
    fn push_of(&mut self, model: u32, tenants: &[&str], epoch: u64) -> i32 {
        let partition = self.blocks;
        self.blocks += 1;
        let rows = block_of(ModelIndex(model), lease(partition, 1), tenants, self.clock.now());
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
        let mut executed = self.executor.execute(&batch).unwrap();
        // Models that are simulated take no time.
        executed.inference = FIXED + ROW * u32::try_from(batch.rows()).unwrap();
        if let Some(sample) = &mut executed.sample {
            sample.took = FIXED + ROW * u32::try_from(sample.rows).unwrap();
        }
        self.bench.borrow_mut().executed.push_back(executed);
        self.bench.borrow().wake.as_ref().unwrap().activate().unwrap();
        self.turn();
    }

    /// The device gives an executor up over one of the batches that wait there.
    fn hang(&mut self, place: usize) {
        let id = self.bench.borrow_mut().waiting.remove(place).expect("a batch waits there").id;
        let left = Some(Left::Hung { rows: true });
        let executed =
            Executed { id, outcomes: Vec::new(), left, inference: Duration::from_secs(1), sample: None };
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

    /// The tenants of the rows in the first batch that waits at the device, sorted.
    fn tenants(&self) -> Vec<String> {
        let bench = self.bench.borrow();
        let rows = bench.waiting[0].each_row().map(|(block, row, _)| block.tenant_id(row).to_owned());
        let mut tenants: Vec<String> = rows.collect();
        tenants.sort();
        tenants
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
fn while_the_breaker_holds_no_batch_is_submitted_and_what_is_under_way_goes_on() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, SIZE_MAX, 0);
        rig.push(0, SIZE_MAX, 0);
        (0..LETTERS_MAX).for_each(|_| rig.breaker.count(Reason::InferenceFailed, rig.clock.now()));
        rig.run(0);
        assert_eq!((rig.outcomes().len(), rig.waiting(), rig.health.is_ready()), (SIZE_MAX, vec![], false));
        rig.later(Duration::from_secs(15).saturating_sub(Duration::from_nanos(1)));
        assert_eq!(rig.waiting(), []);
        rig.later(Duration::from_nanos(1));
        assert_eq!((rig.waiting(), rig.health.is_ready()), (vec![(0, SIZE_MAX)], true));
    });
}

const DEADLINE: Duration = Duration::from_millis(200);
const LATE: (Reason, Stage) = (Reason::DeadlineExceeded, Stage::Infer);

#[test]
fn a_row_that_is_overdue_ends_where_it_waits_and_those_after_it_go_on() {
    on_a_worker(|worker| {
        let mut rig = Rig::within(worker, 1, Some(DEADLINE));
        rig.push(1, SIZE_MAX, 0);
        rig.push(0, 2, 3);
        rig.later(DELAY);
        rig.push(0, 1, 5);
        rig.advance_to(9);
        rig.later(DEADLINE.saturating_sub(DELAY + Duration::from_nanos(1)));
        assert_eq!(rig.outcomes(), []);
        rig.later(Duration::from_nanos(1));
        let late = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (3, 1, 0), (3, 1, 1)];
        assert_eq!(rig.outcomes().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(late));
        rig.run_all();
        assert_eq!(rig.outcomes()[6..], [(5, 2, 0)]);
        assert_eq!(rig.observer.seen().dead_letters, [LATE; 6]);
    });
}

#[test]
fn what_the_device_says_of_a_row_that_has_ended_is_dropped_and_its_epoch_is_not_held_back() {
    on_a_worker(|worker| {
        let mut rig = Rig::within(worker, 1, Some(DEADLINE));
        rig.push(0, 2, 3);
        rig.later(DELAY);
        rig.push(0, 2, 5);
        rig.advance_to(9);
        rig.run(0);
        rig.later(DELAY);
        assert_eq!(rig.waiting(), [(0, 2)]);
        rig.push(0, 1, 9);
        rig.later(DEADLINE);
        let ended = rig.outcomes();
        assert_eq!(ended, [(3, 0, 0), (3, 0, 1), (5, 1, 0), (5, 1, 1), (9, 2, 0)]);
        assert_eq!(rig.watched.frontier(), Some(9), "the batch is still on the device");
        rig.run(0);
        assert_eq!(rig.outcomes(), ended);
    });
}

#[test]
fn while_the_device_is_broken_no_deadline_passes() {
    on_a_worker(|worker| {
        let mut rig = Rig::within(worker, 1, Some(DEADLINE));
        rig.models.backend.break_device(u64::MAX);
        rig.push(0, SIZE_MAX, 0);
        rig.push(1, 1, 0);
        rig.run(0);
        rig.later(10 * DEADLINE);
        rig.models.backend.break_device(0);
        rig.later(BACK_OFF.1);
        rig.run(0);
        rig.later(DEADLINE.saturating_sub(Duration::from_nanos(1)));
        rig.run_all();
        assert_eq!((rig.outcomes().len(), rig.observer.seen().dead_letters), (SIZE_MAX + 1, vec![]));
    });
}

#[test]
fn of_a_batch_that_hangs_each_row_runs_alone_and_only_the_one_that_hangs_again_ends() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, SIZE_MAX, 0);
        rig.push(0, SIZE_MAX, 0);
        rig.hang(0);
        for place in 0..SIZE_MAX {
            assert_eq!(rig.waiting(), [(0, 1)]);
            if place == 2 { rig.hang(0) } else { rig.run(0) }
        }
        assert_eq!(rig.waiting(), [(0, SIZE_MAX)], "what has not hung goes on");
        rig.run_all();
        let offsets: Vec<i64> = rig.outcomes().iter().take(SIZE_MAX).map(|(.., offset)| *offset).collect();
        assert_eq!((offsets, rig.outcomes().len()), (vec![0, 1, 2, 3], 2 * SIZE_MAX));
        assert_eq!(rig.observer.seen().dead_letters, [LATE]);
    });
}

#[test]
fn a_batch_of_one_row_is_given_a_second_chance_when_it_hangs() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker, 1);
        rig.push(0, 1, 0);
        rig.later(DELAY);
        rig.hang(0);
        assert_eq!((rig.waiting(), rig.outcomes()), (vec![(0, 1)], vec![]));
        rig.run(0);
        assert_eq!((rig.outcomes(), rig.observer.seen().dead_letters), (vec![(0, 0, 0)], vec![]));
    });
}

#[test]
fn suspects_run_one_by_one_with_nothing_beside_them_and_those_of_three_crashes_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    // The rows of the second block: see `fixtures::block`.
    let name = |offset: i64| Name { partition: Partition(1), offset: Offset(offset), millis: 1_000 + offset };
    let crashes = [(name(0), 1), (name(1), 2), (name(2), 3), (name(3), 2)];
    let journal = Journal::after_crashes(folder.path(), &crashes);
    on_a_worker(|worker| {
        let mut rig = Rig::after_crashes(worker, 2, None, Some(journal));
        rig.push(0, SIZE_MAX, 0);
        rig.push(0, SIZE_MAX, 1);
        rig.push(0, SIZE_MAX, 2);
        assert_eq!(
            rig.waiting(),
            [(0, SIZE_MAX)],
            "what is on the device is finished first, and nothing follows"
        );
        assert_eq!(rig.outcomes(), [(1, 1, 2)], "the one that has died three times does not run");
        rig.run(0);
        for offset in [1, 3] {
            assert_eq!(rig.waiting(), [(0, 1)]);
            if offset == 1 {
                rig.hang(0);
                assert_eq!(rig.waiting(), [(0, 1)], "also when it is tried again");
            }
            rig.run(0);
        }
        assert_eq!(rig.waiting(), [(0, SIZE_MAX)]);
        rig.later(DELAY);
        rig.run_all();
        assert_eq!(rig.outcomes().len(), 3 * SIZE_MAX);
        assert_eq!(rig.observer.seen().dead_letters, [(Reason::Crashed, Stage::Infer)]);
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

    /// Whatever comes, in whatever epochs, however the device dawdles, breaks and hangs, with a deadline and without: each row has one
    /// outcome, at its own epoch, and the frontier never passes a row that has none.
    #[test]
    fn each_row_has_one_outcome_at_its_epoch_and_the_frontier_waits_for_it(
        moves in prop::collection::vec((0_u32..2, 0_usize..9, 0_u64..2, 0_u64..60, any::<prop::sample::Index>(), 0_u64..12), 1..40),
        slots in 1_usize..4,
        deadline in prop::option::of((60_u64..400).prop_map(Duration::from_millis)),
    ) {
        let (rows, outcomes, early) = on_a_worker(|worker| {
            let mut rig = Rig::within(worker, slots, deadline);
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
                if waiting > 0 && breaks < 2 {
                    rig.hang(place.index(waiting));
                } else if waiting > 0 {
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
            // When nothing is left to do, it is the sources that look at the breaker.
            assert_eq!(rig.breaker.held_until(rig.clock.now()), None);
            assert!(rig.watched.probe.done() && rig.health.is_ready());
            (rows, rig.outcomes(), early)
        });
        prop_assert!(!early);
        prop_assert_eq!(outcomes.len(), rows.len());
        prop_assert_eq!(outcomes.into_iter().collect::<BTreeSet<_>>(), rows);
    }
}
