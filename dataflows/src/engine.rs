//! The engine: the main job with real threads.
//!
//! ```text
//!   group thread ──── orders ────▶ workers 0 … W-1 ◀──── batches ────▶ executor threads
//!        │                              │
//!        └── tenure ──┐              outbox
//!                     ▼                 ▼
//!                    transaction thread ──▶ broker
//! ```
//!
//! The producer is made, and so fences its predecessors, before the member joins the group and reads its offsets. A stop drains the
//! leases, commits, leaves the group, and ends the dataflow; a fault ends everything at once and commits nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operators::alarm::Alarms;
use operators::broker::Broker;
use operators::clock::{Clock, Moment};
use operators::commit::{CommitConfig, CommitParts, Committer, Outlet, Pace};
use operators::device::threads::{Threads, ThreadsParts};
use operators::device::{Batch, Device, Executed};
use operators::execute::Executor;
use operators::fault::Fault;
use operators::group::Group;
use operators::health::Health;
use operators::journal::Journal;
use operators::observe::Observer;
use timely::WorkerConfig;
use timely::communication::WorkerGuards;

use crate::inference::{InferenceConfig, Models, Shared, build};

/// The name of the condition in the health of the process until every executor has opened the models.
pub const LOADING: &str = "models";

/// How long the group thread waits for an event before it looks at anything else.
const GROUP_WAIT: Duration = Duration::from_millis(50);

/// Asks a running engine to stop. Cheap to clone, and may be used from a signal's thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a graceful stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Wraps the device of a process: a test puts a wrong device between the engine and its executors, and sees it caught.
pub type WrapDevice = Arc<dyn Fn(Box<dyn Device>) -> Box<dyn Device> + Send + Sync>;

/// What an engine runs with.
#[derive(Clone)]
pub struct Engine {
    /// What it was told.
    pub config: InferenceConfig,
    /// Its models.
    pub models: Models,
    /// Its broker.
    pub broker: Arc<dyn Broker>,
    /// Whether it is ready.
    pub health: Arc<Health>,
    /// Where it is written down what is in the model, if anywhere.
    pub journal: Option<Arc<Journal>>,
    /// Who hears about it.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Put around its device.
    pub wrap_device: Option<WrapDevice>,
}

impl Engine {
    /// Runs until it is asked to stop and has stopped, or has a fault.
    ///
    /// # Errors
    ///
    /// The fault; nothing was committed after it was raised. A broker that can't be reached within its start-up bound is one too.
    pub fn run(self, stop: &Stop) -> Result<(), Fault> {
        let config = Arc::new(self.config.clone());
        self.health.set_unready(LOADING, "the models are being opened");
        let outlet = Outlet::new(config.delivery, &*self.broker, &config.transactional_id)?;
        let member = self.broker.member(&config.group, &config.requests)?;
        let (health, observer) = (Arc::clone(&self.health), Arc::clone(&self.observer));
        let shared = Shared::new(&config, health, observer, Arc::clone(&self.clock));
        let shared = Shared { journal: self.journal.clone(), ..shared };
        let halt = Arc::new(AtomicBool::new(false));
        let workers = self.start_workers(&config, &shared, &halt);
        let mut group = Group::new(shared.group_parts(&config), member);
        let committer = self.committer(&config, &shared, outlet, &group);
        let transactions = spawn_transactions(committer, &shared, &halt);

        let mut stopping = false;
        while group.step(GROUP_WAIT) {
            if let Some(fault) = shared.faults.get() {
                // Told at once: what follows may take a while, and a supervisor need not wait for it.
                self.health.record_fault(fault.to_string());
                break;
            }
            if stop.is_asked() && !stopping {
                stopping = true;
                tracing::info!("stopping: finishing what is in flight");
                group.stop(config.stop_drain_max);
            }
        }
        halt.store(true, Ordering::SeqCst);
        shared.outbox.hurry();
        join(transactions, "transactions");
        shared.ports.wake_all();
        drop(workers); // joins the workers
        if let Some(journal) = &self.journal {
            journal.close();
        }
        let fault = shared.faults.get().cloned();
        if let Some(fault) = &fault {
            self.health.record_fault(fault.to_string());
        }
        fault.map_or(Ok(()), Err)
    }

    fn committer(
        &self,
        config: &InferenceConfig,
        shared: &Shared,
        outlet: Outlet,
        group: &Group,
    ) -> Box<dyn Committer> {
        let ports = Arc::clone(&shared.ports);
        let parts = CommitParts {
            broker: Arc::clone(&self.broker),
            ownership: group.ownership(),
            outbox: Arc::clone(&shared.outbox),
            tenure: Arc::clone(&shared.tenure),
            budget: Arc::clone(&shared.budget),
            faults: Arc::clone(&shared.faults),
            health: Arc::clone(&shared.health),
            wake_sources: Arc::new(move || ports.wake_all()),
            observer: Arc::clone(&shared.observer),
            clock: Arc::clone(&shared.clock),
        };
        outlet.committer(commit_config(config), parts)
    }

    fn start_workers(
        &self,
        config: &Arc<InferenceConfig>,
        shared: &Shared,
        halt: &Arc<AtomicBool>,
    ) -> WorkerGuards<()> {
        let (config, shared, halt) = (Arc::clone(config), shared.clone(), Arc::clone(halt));
        let (models, wrap) = (self.models.clone(), self.wrap_device.clone());
        let timely = timely::Config {
            communication: timely::CommunicationConfig::Process(config.workers),
            worker: WorkerConfig::default(),
        };
        // Ready once the last executor of the last device is.
        let devices = models.catalog.devices();
        let cold = Arc::new(AtomicUsize::new(config.executors * devices));
        timely::execute(timely, move |worker| {
            let alarms = Alarms::new();
            let index = worker.index();
            build(worker, &config, &models, &shared, &alarms, |activator| {
                if index >= devices {
                    return Box::new(NoDevice);
                }
                let device: Box<dyn Device> =
                    Box::new(start_device(index, &cold, &config, &models, &shared, &activator));
                match &wrap {
                    Some(wrap) => wrap(device),
                    None => device,
                }
            });
            loop {
                if halt.load(Ordering::SeqCst) {
                    // The transaction thread has ended: what is still in the graph will never be committed, and a slow or broken
                    // device must not hold the stop up.
                    worker.installed_dataflows().into_iter().for_each(|graph| worker.drop_dataflow(graph));
                    break;
                }
                let now = shared.clock.now();
                let next = alarms.ring(now);
                let wait = if next == Moment::NEVER { None } else { Some(next.since(now)) };
                if !worker.step_or_park(wait) {
                    break;
                }
            }
        })
        .expect("workers of one process need nothing that can be missing")
    }
}

/// How commits are made, as the configuration of the whole tells it.
pub fn commit_config(config: &InferenceConfig) -> CommitConfig {
    CommitConfig {
        transactional_id: config.transactional_id.clone(),
        group: config.group.clone(),
        requests: config.requests.clone(),
        results: config.results.clone(),
        dead_letters: config.dead_letters.clone(),
        interval: config.commit_interval,
        limit: config.commit_limit,
        records_full: config.commit_limit.records,
        timeout: config.transaction_timeout,
    }
}

/// Starts the device that is numbered as the worker that is its home.
fn start_device(
    number: usize,
    cold: &Arc<AtomicUsize>,
    config: &InferenceConfig,
    models: &Models,
    shared: &Shared,
    home: &timely::scheduling::SyncActivator,
) -> Threads {
    let (cold, health) = (Arc::clone(cold), Arc::clone(&shared.health));
    let warm: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        if cold.fetch_sub(1, Ordering::SeqCst) == 1 {
            health.clear(LOADING);
        }
    });
    let parts = shared.execute_parts(config, models, number);
    let name = models.backend.name();
    Threads::start(ThreadsParts {
        name: if models.catalog.devices() > 1 { format!("{name}, device {number}") } else { name },
        executor: Box::new(move || Executor::new(parts.clone())),
        executors: config.executors,
        tuning: Arc::clone(&shared.tuning),
        queued: config.queued_batches,
        home: home.clone(),
        warm,
        grace: config.run_grace,
        stuck_max: config.stuck_max,
        faults: Arc::clone(&shared.faults),
        observer: Arc::clone(&shared.observer),
        clock: Arc::clone(&shared.clock),
    })
}

fn spawn_transactions(
    mut committer: Box<dyn Committer>,
    shared: &Shared,
    halt: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let (outbox, clock, halt) = (Arc::clone(&shared.outbox), Arc::clone(&shared.clock), Arc::clone(halt));
    thread::Builder::new()
        .name("transactions".to_owned())
        .spawn(move || {
            loop {
                let pace = committer.step();
                let now = clock.now();
                match pace {
                    Pace::Again => {}
                    Pace::Stopped => return,
                    // Whoever halts has drained before, or wants nothing more to be committed.
                    Pace::Until(_) | Pace::BackOff(_) if halt.load(Ordering::SeqCst) => return,
                    Pace::Until(moment) => outbox.wait(moment.since(now).min(Duration::from_secs(1))),
                    Pace::BackOff(moment) => thread::sleep(moment.since(now)),
                }
            }
        })
        .expect("the system gives a thread")
}

fn join(thread: JoinHandle<()>, name: &str) {
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread of the engine panicked");
        std::process::abort();
    }
}

/// The device of a worker that is home to none.
struct NoDevice;

impl Device for NoDevice {
    fn executors(&self) -> usize {
        0
    }

    fn room(&self) -> usize {
        0
    }

    fn submit(&mut self, _: Batch) {
        unreachable!("it never has room")
    }

    fn finished(&mut self) -> Option<Executed> {
        None
    }
}
