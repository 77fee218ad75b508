//! The main job in one thread, a turn at a time: under one seed and a manual clock a run is always the same run.
//!
//! The worker, the group's thread, the transaction thread and the executors are state machines; here one of them, or time, gets the next
//! turn by lot. A run may be told to crash before any turn, and then nothing is cleaned up: the member does not leave and the open
//! transaction stays open, as after `kill -9`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use operators::alarm::Alarms;
use operators::clock::{Clock, ManualClock, Moment};
use operators::commit::{CommitParts, Committer, Outlet, Pace};
use operators::device::{Batch, Device, Executed};
use operators::execute::Executor;
use operators::fault::Fault;
use operators::group::Group;
use timely::worker::Worker;

use crate::engine::{Engine, commit_config};
use crate::inference::{Shared, build};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to stop, and did.
    Stopped,
    /// It was told to crash.
    Crashed,
    /// The engine stopped by itself.
    Fault(Fault),
    /// It took more turns than it was given.
    Stuck,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another turn.
    Go,
    /// A graceful stop, from now on.
    Stop,
    /// A crash, at once.
    Crash,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Turns taken.
    pub turns: u64,
    /// Turns of the transaction thread in which it made a call.
    pub transaction_turns: u64,
    /// Records in flight.
    pub in_flight: usize,
}

/// How a run is driven.
#[derive(Clone, Copy, Debug)]
pub struct Lots {
    /// Decides whose turn it is.
    pub seed: u64,
    /// One turn in so many is an executor's: a large number makes the model slow.
    pub device_one_in: u64,
    /// The longest that time moves in one turn.
    pub time_step_max: Duration,
    /// Turns after which the run counts as stuck.
    pub turns_max: u64,
}

/// Runs `engine` until `each`, asked before every turn, or the engine itself, ends it.
pub fn run(
    engine: &Engine,
    clock: &Arc<ManualClock>,
    lots: Lots,
    each: impl FnMut(Progress) -> Next + Send + 'static,
) -> End {
    let (engine, clock) = (engine.clone(), Arc::clone(clock));
    // Timely wants what it runs to be shareable, though it shares it with nobody here.
    let each = Mutex::new(each);
    timely::execute_directly(move |worker| {
        let end = match Run::start(worker, &engine, clock, lots) {
            Ok(mut run) => run.drive(worker, each.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(fault) => End::Fault(fault),
        };
        worker.installed_dataflows().into_iter().for_each(|graph| worker.drop_dataflow(graph));
        end
    })
}

struct Run {
    clock: Arc<ManualClock>,
    lots: Lots,
    random: u64,
    shared: Shared,
    alarms: Alarms,
    group: Group,
    committer: Box<dyn Committer>,
    pace: Pace,
    bench: Rc<RefCell<Bench>>,
    executor: Executor,
}

/// The batches that wait for an executor's turn, and those that have had it.
#[derive(Default)]
struct Bench {
    waiting: Vec<Batch>,
    executed: VecDeque<Executed>,
}

/// What the infer operator sees of the bench.
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
        self.bench.borrow_mut().waiting.push(batch);
    }

    fn finished(&mut self) -> Option<Executed> {
        self.bench.borrow_mut().executed.pop_front()
    }
}

impl Run {
    fn start(
        worker: &mut Worker,
        engine: &Engine,
        clock: Arc<ManualClock>,
        lots: Lots,
    ) -> Result<Self, Fault> {
        let config = &engine.config;
        let outlet = Outlet::new(config.delivery, &*engine.broker, &config.transactional_id)?;
        let member = engine.broker.member(&config.group, &config.requests)?;
        let shared = Shared::new(
            config,
            Arc::clone(&engine.health),
            Arc::clone(&engine.observer),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        let alarms = Alarms::new();
        let bench = Rc::new(RefCell::new(Bench::default()));
        let executors = config.executors;
        let slots = executors * (1 + config.queued_batches);
        let seat = Seat { bench: Rc::clone(&bench), slots, executors };
        build(worker, config, &engine.models, &shared, &alarms, |_activator| match &engine.wrap_device {
            Some(wrap) => wrap(Box::new(seat)),
            None => Box::new(seat),
        });
        let group = Group::new(shared.group_parts(config), member);
        let ports = Arc::clone(&shared.ports);
        let parts = CommitParts {
            broker: Arc::clone(&engine.broker),
            ownership: group.ownership(),
            outbox: Arc::clone(&shared.outbox),
            tenure: Arc::clone(&shared.tenure),
            budget: Arc::clone(&shared.budget),
            faults: Arc::clone(&shared.faults),
            health: Arc::clone(&shared.health),
            wake_sources: Arc::new(move || ports.wake_all()),
            observer: Arc::clone(&shared.observer),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let committer = outlet.committer(commit_config(config), parts);
        let executor = Executor::new(shared.execute_parts(config, &engine.models, 0));
        let pace = Pace::Again;
        Ok(Self { clock, lots, random: lots.seed, shared, alarms, group, committer, pace, bench, executor })
    }

    fn drive(&mut self, worker: &mut Worker, mut each: impl FnMut(Progress) -> Next) -> End {
        let mut progress = Progress::default();
        let mut stopping = false;
        let mut member = true;
        while progress.turns < self.lots.turns_max {
            progress.turns += 1;
            progress.in_flight = self.shared.budget.in_flight();
            match each(progress) {
                Next::Crash => return End::Crashed,
                Next::Stop if !stopping => {
                    stopping = true;
                    self.group.stop(Duration::from_hours(1));
                }
                Next::Stop | Next::Go => {}
            }
            match self.lot(5) {
                0 => self.worker_turn(worker),
                1 => member = self.group.step(Duration::ZERO),
                2 => progress.transaction_turns += u64::from(self.transaction_turn()),
                3 if self.lot(self.lots.device_one_in.max(1)) == 0 => self.device_turn(),
                3 => {}
                _ => {
                    let nanos = u64::try_from(self.lots.time_step_max.as_nanos()).unwrap_or(u64::MAX);
                    let step = Duration::from_nanos(self.lot(nanos.max(1)));
                    self.clock.advance(step);
                }
            }
            if let Some(fault) = self.shared.faults.get() {
                return End::Fault(fault.clone());
            }
            if !member {
                return End::Stopped;
            }
        }
        End::Stuck
    }

    fn worker_turn(&mut self, worker: &mut Worker) {
        self.alarms.ring(self.clock.now());
        self.alarms.ring_all();
        worker.step();
    }

    fn transaction_turn(&mut self) -> bool {
        let due = match self.pace {
            Pace::BackOff(moment) => moment,
            _ => Moment::START,
        };
        if due > self.clock.now() {
            return false;
        }
        self.pace = self.committer.step();
        matches!(self.pace, Pace::Again | Pace::BackOff(_))
    }

    /// One of the waiting batches runs, not always the one that waits the longest.
    fn device_turn(&mut self) {
        let waiting = self.bench.borrow().waiting.len() as u64;
        if waiting == 0 {
            return;
        }
        let place = usize::try_from(self.lot(waiting)).unwrap_or(0);
        let batch = self.bench.borrow_mut().waiting.remove(place);
        let executed =
            self.executor.execute(&batch).expect("nobody gives up the executor of a lock-step run");
        self.bench.borrow_mut().executed.push_back(executed);
    }

    /// A number below `bound`, the next of the seed's (`SplitMix64`).
    fn lot(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
