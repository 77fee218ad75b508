//! A device of executor threads: one queue of batches, and threads that take from it, each with its own session of every model.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use timely::scheduling::SyncActivator;

use crate::device::{Batch, Device, Executed};
use crate::execute::Executor;

/// How long the end of a device waits for a batch that is being run. A model that never returns must not keep the process from ending.
const LAST_BATCH_MAX: Duration = Duration::from_secs(5);

/// Executor threads behind one queue.
pub struct Threads {
    batches: Option<Sender<Batch>>,
    /// The executors' end of the queue.
    queue: Receiver<Batch>,
    executed: Receiver<Executed>,
    submitted: usize,
    slots: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts a thread for each executor. While a thread runs a batch, `queued` more may wait for it: 1 hides the hand-off between a
    /// worker and an executor where that costs a good part of a batch's time. `home` is woken when a batch is finished; `warm` is called
    /// by each thread once its models are open.
    ///
    /// # Panics
    ///
    /// If the system gives no more threads.
    pub fn start(
        executors: Vec<Executor>,
        queued: usize,
        home: &SyncActivator,
        warm: &Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let slots = executors.len() * (1 + queued);
        let (batches, queue) = bounded::<Batch>(slots);
        let (finished, executed) = bounded(slots);
        let threads = executors
            .into_iter()
            .enumerate()
            .map(|(place, executor)| {
                let (queue, finished) = (queue.clone(), finished.clone());
                let (home, warm) = (home.clone(), Arc::clone(warm));
                thread::Builder::new()
                    .name(format!("executor-{place}"))
                    .spawn(move || {
                        run(executor, &queue, &finished, &home, &*warm);
                    })
                    .expect("the system gives a thread")
            })
            .collect();
        Self { batches: Some(batches), queue, executed, submitted: 0, slots, threads }
    }
}

fn run(
    mut executor: Executor,
    queue: &Receiver<Batch>,
    finished: &Sender<Executed>,
    home: &SyncActivator,
    warm: &(dyn Fn() + Send + Sync),
) {
    executor.warm_up();
    warm();
    for batch in queue {
        if finished.send(executor.execute(&batch)).is_err() || home.activate().is_err() {
            break; // the worker has ended
        }
    }
}

impl Device for Threads {
    fn room(&self) -> usize {
        self.slots - self.submitted
    }

    fn submit(&mut self, batch: Batch) {
        assert!(self.room() > 0, "a batch is submitted only where there is room");
        self.submitted += 1;
        let batches = self.batches.as_ref().expect("the queue is open while the device lives");
        batches.send(batch).expect("the executors live as long as their queue");
    }

    fn finished(&mut self) -> Option<Executed> {
        let executed = self.executed.try_recv().ok()?;
        self.submitted -= 1;
        Some(executed)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.batches = None;
        // Nobody wants the outcomes of what has not begun.
        self.queue.try_iter().for_each(drop);
        // Each thread has a sender of its own: once all have ended, the channel is closed.
        loop {
            match self.executed.recv_timeout(LAST_BATCH_MAX) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("a model has not returned; its thread is left to the end of the process");
                    return;
                }
            }
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an executor thread panicked");
            }
        }
    }
}
