//! The sink on a worker: what closes a record, and what stops the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use timely::dataflow::operators::Input;
use timely::dataflow::operators::vec::input::Handle;
use timely::worker::Worker;

use super::*;
use crate::broker::{PollLimit, Polled};
use crate::budget::{BudgetConfig, LeaseAccount};
use crate::clock::ManualClock;
use crate::commit_order::CommitOrder;
use crate::fixtures::{Recorder, TestQueue, lease, on_a_worker, results};
use crate::holdings::Holding;
use crate::lease::{NextOffset, Offset};
use crate::ledger::CloseError;
use crate::outbox::TransactionLimit;
use crate::ports::Grant;

const OPEN_MAX: Duration = Duration::from_mins(1);

fn parts(clock: &Arc<ManualClock>) -> SinkParts {
    SinkParts {
        outbox: Arc::default(),
        budget: Arc::new(Budget::new(BudgetConfig { records_max: 100, bytes_max: 1 << 20, partitions: 4 })),
        faults: Arc::default(),
        health: Arc::default(),
        observer: Arc::<Recorder>::default(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        progress: Arc::default(),
        open_max: OPEN_MAX,
        epoch_interval: Duration::from_millis(50),
    }
}

/// A lease with `count` records in flight, polled in `epoch`.
fn holding(partition: i32, term: u64, count: usize, epoch: u64, parts: &SinkParts) -> Holding {
    let queue = TestQueue::default();
    queue.append(count);
    let grant = Grant {
        lease: lease(partition, term),
        start: NextOffset(0),
        queue: Box::new(queue),
        dirty: Arc::new(AtomicBool::new(false)),
        account: Arc::new(LeaseAccount::default()),
    };
    let mut holding = Holding::new(grant, CommitOrder::Partition);
    let (limit, now) = (PollLimit { records: count, bytes: 1 << 20 }, parts.clock.now());
    holding.poll(&mut Polled::default(), limit, epoch, now, &parts.budget).unwrap();
    holding
}

/// A sink, and everything around it that a test moves by hand.
struct Rig<'w> {
    worker: &'w mut Worker,
    alarms: Alarms,
    clock: Arc<ManualClock>,
    parts: SinkParts,
    holdings: Holdings,
    input: Handle<u64, Arc<Outcomes>>,
}

impl<'w> Rig<'w> {
    fn new(worker: &'w mut Worker) -> Self {
        let (clock, alarms) = (Arc::new(ManualClock::new()), Alarms::new());
        let parts = parts(&clock);
        let holdings: Holdings = Rc::new(RefCell::new(BTreeMap::new()));
        let input = worker.dataflow(|scope| {
            let (input, stream) = scope.new_input();
            stream.sink_home(parts.clone(), Rc::clone(&holdings), &alarms);
            input
        });
        Self { worker, alarms, clock, parts, holdings, input }
    }

    fn hold(&mut self, partition: i32, term: u64, count: usize, epoch: u64) {
        let holding = holding(partition, term, count, epoch, &self.parts);
        self.holdings.borrow_mut().insert(Partition(partition), holding);
    }

    fn send(&mut self, outcomes: impl IntoIterator<Item = Arc<Outcomes>>) {
        outcomes.into_iter().for_each(|outcomes| self.input.send(outcomes));
        self.turn();
    }

    fn turn(&mut self) {
        self.input.flush();
        for _ in 0..10 {
            self.alarms.ring(self.clock.now());
            self.worker.step();
        }
    }

    /// Lets time pass as a worker does: it wakes for every alarm.
    fn later(&mut self, wait: Duration) {
        let end = self.clock.now().after(wait);
        while self.clock.now() < end {
            let step = DEADLINE_INTERVAL.min(end.since(self.clock.now()));
            self.clock.advance(step);
            self.turn();
        }
    }

    /// Takes what the outbox holds: of each lease the frontier and the offsets of its outcomes.
    fn taken(&self) -> Vec<(i32, i64, Vec<i64>)> {
        let parts = self.parts.outbox.take(TransactionLimit { records: 100, bytes: 1 << 20 });
        let offsets = |outcomes: &[Retained]| outcomes.iter().map(|outcome| outcome.offset().0).collect();
        parts
            .iter()
            .map(|part| (part.lease.partition.0, part.done.base().0, offsets(&part.outcomes)))
            .collect()
    }

    fn fault(&self) -> Option<&Fault> {
        self.parts.faults.get()
    }
}

#[test]
fn what_the_frontier_passes_leaves_in_order_and_nothing_past_a_hole() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 1, 4, 0);
        rig.hold(1, 1, 2, 0);
        rig.send([results(lease(0, 1), [3, 1])]);
        assert_eq!(rig.taken(), []);
        rig.send([results(lease(1, 1), [0]), results(lease(0, 1), [0])]);
        assert_eq!(rig.taken(), [(0, 2, vec![0, 1]), (1, 1, vec![0])]);
        rig.send([results(lease(0, 1), [2])]);
        assert_eq!((rig.taken(), rig.fault()), (vec![(0, 4, vec![2, 3])], None));
    });
}

#[test]
fn outcomes_go_home_to_the_worker_that_holds_their_lease() {
    let outboxes: Vec<_> = (0..2).map(|_| Arc::new(Outbox::default())).collect();
    let of_workers = outboxes.clone();
    let guards = timely::execute(timely::Config::process(2), move |worker| {
        let (here, there) = (worker.index(), 1 - worker.index());
        let clock = Arc::new(ManualClock::new());
        let parts = SinkParts { outbox: Arc::clone(&of_workers[here]), ..parts(&clock) };
        let held = holding(i32::try_from(here).unwrap(), 1, 2, 0, &parts);
        let holdings: Holdings = Rc::new(RefCell::new(BTreeMap::from([(held.lease.partition, held)])));
        let mut input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input();
            stream.sink_home(parts.clone(), Rc::clone(&holdings), &Alarms::new());
            input
        });
        let mut outcomes = Outcomes::clone(&results(lease(i32::try_from(there).unwrap(), 1), 0..2));
        outcomes.home = there;
        input.send(Arc::new(outcomes));
        input.close();
        while worker.step_or_park(None) {}
        assert_eq!(parts.faults.get(), None);
    });
    guards.unwrap().join().into_iter().for_each(|worker| worker.unwrap());
    for (partition, outbox) in (0..).zip(outboxes) {
        let parts = outbox.take(TransactionLimit { records: 10, bytes: 1 << 20 });
        assert_eq!((parts.len(), parts[0].lease, parts[0].outcomes.len()), (1, lease(partition, 1), 2));
    }
}

#[test]
fn outcomes_of_leases_that_have_ended_are_ignored() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 7, 2, 0);
        rig.send([results(lease(0, 6), [0, 0, 1]), results(lease(1, 6), [0])]);
        assert_eq!((rig.taken(), rig.fault()), (vec![], None));
        rig.send([results(lease(0, 7), [0])]);
        assert_eq!(rig.taken(), [(0, 1, vec![0])]);
    });
}

#[test]
fn what_an_outcome_weighs_is_charged_until_its_commit() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 1, 3, 0);
        let account = Arc::clone(&rig.holdings.borrow()[&Partition(0)].account);
        let room = |rig: &Rig<'_>| rig.parts.budget.room(&account).unwrap().bytes;
        let before = room(&rig);
        rig.send([results(lease(0, 1), 0..3)]);
        assert!(room(&rig) < before);
        for part in rig.parts.outbox.take(TransactionLimit { records: 100, bytes: 1 << 20 }) {
            rig.parts.budget.release(&part.account, part.outcomes.len(), part.bytes());
        }
        assert_eq!((room(&rig), rig.parts.budget.in_flight()), (room_of_nothing(), 0));
    });
}

/// How many bytes a lease with nothing in flight may poll.
fn room_of_nothing() -> usize {
    parts(&Arc::new(ManualClock::new())).budget.room(&LeaseAccount::default()).unwrap().bytes
}

#[test]
fn a_second_outcome_or_one_that_nobody_asked_for_stops_the_engine_and_nothing_more_is_offered() {
    for (offset, error) in [(0, CloseError::Twice), (9, CloseError::Unopened)] {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker);
            rig.hold(0, 1, 2, 0);
            rig.send([results(lease(0, 1), [0, offset]), results(lease(0, 1), [1])]);
            let (partition, offset) = (Partition(0), Offset(offset));
            assert_eq!(rig.fault(), Some(&Fault::SurplusOutcome { partition, offset, error }));
            assert_eq!(rig.taken(), []);
        });
    }
}

#[test]
fn a_record_that_the_epoch_frontier_has_passed_without_an_outcome_stops_the_engine() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.input.advance_to(5);
        rig.hold(0, 1, 3, 5);
        rig.send([results(lease(0, 1), [0, 2])]);
        rig.later(Duration::from_secs(10));
        assert_eq!((rig.taken(), rig.fault()), (vec![(0, 1, vec![0])], None), "it may still come");
        rig.input.advance_to(6);
        rig.turn();
        let (partition, offset) = (Partition(0), Offset(1));
        assert_eq!(rig.fault(), Some(&Fault::MissingOutcome { partition, offset }));
        rig.send([results(lease(0, 1), [1])]);
        assert_eq!(rig.taken(), [], "after a fault nothing is offered");
    });
}

#[test]
fn a_record_without_an_outcome_for_too_long_stops_the_engine() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 1, 2, 0);
        rig.send([results(lease(0, 1), [0])]);
        rig.later(OPEN_MAX);
        assert_eq!(rig.fault(), None);
        rig.later(Duration::from_nanos(1) + DEADLINE_INTERVAL);
        assert_eq!(rig.fault(), Some(&Fault::Overdue { partition: Partition(0), offset: Offset(1) }));
    });
}

#[test]
fn nobody_is_blamed_for_a_record_that_waited_while_the_process_was_unready() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 1, 1, 0);
        rig.later(OPEN_MAX / 2);
        rig.parts.health.set_unready("device", "broken");
        rig.later(OPEN_MAX * 10);
        assert_eq!(rig.fault(), None);
        rig.parts.health.clear("device");
        rig.later(OPEN_MAX);
        assert_eq!(rig.fault(), None, "there is all of the time again");
        rig.later(DEADLINE_INTERVAL * 2);
        assert!(matches!(rig.fault(), Some(Fault::Overdue { .. })));
    });
}

#[test]
fn a_record_may_wait_for_longer_while_others_of_the_oldest_epoch_get_their_outcomes() {
    on_a_worker(|worker| {
        let mut rig = Rig::new(worker);
        rig.hold(0, 1, 1, 0);
        rig.hold(1, 1, 8, 0);
        for offset in 0..8 {
            rig.later(OPEN_MAX * 3 / 4);
            rig.send([results(lease(1, 1), [offset])]);
        }
        assert_eq!(rig.fault(), None, "a slow model has worked through its backlog all the time");
        rig.later(OPEN_MAX + DEADLINE_INTERVAL * 2);
        assert_eq!(rig.fault(), Some(&Fault::Overdue { partition: Partition(0), offset: Offset(0) }));
    });
}
