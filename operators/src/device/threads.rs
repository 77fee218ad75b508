//! A device of executor threads: one queue of batches, and threads that take from it, each with its own session of every model.
//!
//! Whoever asks what is finished also keeps watch over what is not: a run that takes longer than it may is cancelled, and where it does
//! not return even so, its executor is given up and another takes its place. A thread can't be ended from outside, so the one that was
//! given up stays behind until its run returns, if ever; how many may be so is bounded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use timely::scheduling::SyncActivator;

use crate::catalog::{ModelIndex, Served};
use crate::clock::{Clock, Moment};
use crate::device::{Batch, Device, Executed, Left};
use crate::execute::Executor;
use crate::fault::{Fault, Faults};
use crate::observe::Observer;
use crate::tuning::Tuning;
use crate::watch::{Done, Running, Watch};

/// How long the end of a device waits for a batch that is being run. A model that never returns must not keep the process from ending.
const LAST_BATCH_MAX: Duration = Duration::from_secs(5);

/// How long a batch that is finished may lie there at most before somebody looks.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// What a device of executor threads is made of.
pub struct ThreadsParts {
    /// What the device is called in logs and faults.
    pub name: String,
    /// Makes an executor: for each thread at the start, and for each that takes the place of one that was given up.
    pub executor: Box<dyn Fn() -> Executor>,
    /// Its number of threads.
    pub executors: usize,
    /// How many of them run batches; the others have nothing to do.
    pub tuning: Arc<Tuning>,
    /// While a thread runs a batch, so many more may wait for it.
    pub queued: usize,
    /// Woken when a batch is finished, unless enough of them wait for the threads to be busy until another one is.
    pub home: SyncActivator,
    /// Called by each thread of the start once its models are open.
    pub warm: Arc<dyn Fn() + Send + Sync>,
    /// How long a run that was cancelled may take to return.
    pub grace: Duration,
    /// How many threads that were given up may be left behind.
    pub stuck_max: usize,
    /// Where it is told that there are more.
    pub faults: Arc<Faults>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Executor threads behind one queue.
pub struct Threads {
    parts: ThreadsParts,
    batches: Option<Sender<Batch>>,
    /// The executors' end of the queue.
    queue: Receiver<Batch>,
    finished: Sender<Executed>,
    executed: Receiver<Executed>,
    under_way: BTreeMap<u64, (ModelIndex, Arc<Served>)>,
    slots: usize,
    /// While more batches than this wait, nobody is told of one that is finished: the next one will tell.
    quiet: Arc<AtomicUsize>,
    seats: Vec<Seat>,
    stuck: Vec<JoinHandle<()>>,
    started: usize,
}

/// One of the executor threads.
struct Seat {
    thread: JoinHandle<()>,
    watch: Arc<Watch>,
    /// Closed when the thread ends. Nothing is ever sent.
    alive: Receiver<Infallible>,
}

impl Threads {
    /// Starts the threads.
    ///
    /// # Panics
    ///
    /// If the system gives no more threads.
    pub fn start(parts: ThreadsParts) -> Self {
        let slots = parts.executors * (1 + parts.queued);
        let (batches, queue) = bounded::<Batch>(slots);
        let (finished, executed) = bounded(slots);
        let mut device = Self {
            parts,
            batches: Some(batches),
            queue,
            finished,
            executed,
            under_way: BTreeMap::new(),
            slots,
            quiet: Arc::default(),
            seats: Vec::new(),
            stuck: Vec::new(),
            started: 0,
        };
        for _ in 0..device.parts.executors {
            let warm = Arc::clone(&device.parts.warm);
            let seat = device.seat(warm);
            device.seats.push(seat);
        }
        device
    }

    fn seat(&mut self, warm: Arc<dyn Fn() + Send + Sync>) -> Seat {
        let mut executor = (self.parts.executor)();
        let watch = executor.watch();
        let (queue, finished, home) = (self.queue.clone(), self.finished.clone(), self.parts.home.clone());
        let quiet = Arc::clone(&self.quiet);
        let (lives, alive) = bounded(0);
        let thread = thread::Builder::new()
            .name(format!("executor-{}", self.started))
            .spawn(move || {
                executor.warm_up();
                warm();
                run(executor, &queue, &finished, &quiet, &home);
                drop(lives);
            })
            .expect("the system gives a thread");
        self.started += 1;
        Seat { thread, watch, alive }
    }

    /// Does what is to be done about runs that take too long. A batch whose executor was given up comes back.
    fn look(&mut self) -> Option<Executed> {
        let now = self.parts.clock.now();
        for place in 0..self.seats.len() {
            match self.seats[place].watch.look(now, self.parts.grace) {
                None => {}
                Some(Done::Cancelled(running)) => {
                    let (model, served) = &self.under_way[&running.batch()];
                    tracing::warn!(model = served.id, max = ?served.limits.run_max, "run cancelled: it took too long");
                    self.parts.observer.run_cancelled(*model);
                }
                Some(Done::GivenUp(running)) => return Some(self.replace(place, running)),
            }
        }
        None
    }

    /// Gives up the executor at `place`, whose run does not return.
    fn replace(&mut self, place: usize, running: Running) -> Executed {
        let (_, served) = self.under_way.remove(&running.batch()).expect("a run is of a batch under way");
        let replacement = self.seat(Arc::new(|| {}));
        let seat = std::mem::replace(&mut self.seats[place], replacement);
        self.stuck.retain(|thread| !thread.is_finished());
        self.stuck.push(seat.thread);
        let stuck = self.stuck.len();
        tracing::error!(
            model = served.id,
            device = self.parts.name,
            stuck,
            "executor replaced: its run does not return"
        );
        self.parts.observer.executor_replaced();
        if stuck > self.parts.stuck_max {
            let (device, model) = (self.parts.name.clone(), served.id.clone());
            self.parts.faults.raise(Fault::Stuck { device, model, executors: stuck });
        }
        let left = Some(Left::Hung { rows: matches!(running, Running::Rows(_)) });
        let inference = served.limits.run_max.unwrap_or_default() + self.parts.grace;
        Executed { id: running.batch(), outcomes: Vec::new(), left, inference, sample: None }
    }
}

fn run(
    mut executor: Executor,
    queue: &Receiver<Batch>,
    finished: &Sender<Executed>,
    quiet: &AtomicUsize,
    home: &SyncActivator,
) {
    for batch in queue {
        // It was given up: another thread has its place.
        let Some(executed) = executor.execute(&batch) else { return };
        if finished.send(executed).is_err() {
            break; // the worker has ended
        }
        // To wake a worker takes longer than some batches do, and what waits is short.
        if queue.len() <= quiet.load(Ordering::Relaxed) && home.activate().is_err() {
            break;
        }
    }
}

impl Device for Threads {
    fn executors(&self) -> usize {
        self.parts.tuning.executors(self.parts.executors)
    }

    fn room(&self) -> usize {
        let executors = self.executors();
        // All threads take from the one queue: where some are not to run, nothing may wait in it.
        let slots = if executors < self.parts.executors { executors } else { self.slots };
        slots.saturating_sub(self.under_way.len())
    }

    fn submit(&mut self, batch: Batch) {
        assert!(self.room() > 0, "a batch is submitted only where there is room");
        self.under_way.insert(batch.id, (batch.model, Arc::clone(&batch.served)));
        let batches = self.batches.as_ref().expect("the queue is open while the device lives");
        batches.send(batch).expect("the device holds the executors' end too");
        // Woken when half of them are gone, the worker can do for several at once what it would do for each.
        self.quiet.store((batches.len() / 2).max(self.parts.executors), Ordering::Relaxed);
    }

    fn finished(&mut self) -> Option<Executed> {
        if let Ok(executed) = self.executed.try_recv() {
            self.under_way.remove(&executed.id);
            return Some(executed);
        }
        self.look()
    }

    fn due(&self) -> Moment {
        let seats = self.seats.iter().map(|seat| seat.watch.due(self.parts.grace));
        // A run that has not begun yet begins at some time from now on.
        let shortest = self.under_way.values().filter_map(|(_, served)| served.limits.run_max).min();
        let begins = shortest.map(|max| self.parts.clock.now().after(max));
        // Where more waited than there are threads, nobody has told of what was finished if none of what they took next returns.
        let untold = self.under_way.len() > self.parts.executors + 1;
        let look = untold.then(|| self.parts.clock.now().after(LOOK_AFTER));
        seats.chain(begins).chain(look).min().unwrap_or(Moment::NEVER)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.batches = None;
        // Nobody wants the outcomes of what has not begun. The threads end with what they run; for what they say of it there is room.
        self.queue.try_iter().for_each(drop);
        for seat in self.seats.drain(..) {
            if seat.alive.recv_timeout(LAST_BATCH_MAX) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("a model has not returned; its thread is left to the end of the process");
                return;
            }
            if seat.thread.join().is_err() {
                tracing::error!("an executor thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
