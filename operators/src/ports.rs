//! How the group thread speaks to the workers: an inbox each, and a way to wake the one who reads it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use timely::scheduling::SyncActivator;

use crate::broker::Queue;
use crate::budget::LeaseAccount;
use crate::lease::{Lease, NextOffset, Partition};

/// What a worker is told about its leases.
pub enum Order {
    /// Read this partition from here on.
    Grant(Grant),
    /// Read it no more; finish what was read.
    Drain(Lease),
    /// Forget it: outcomes that still come are stale.
    Drop(Lease),
    /// No more leases will come: finish, and let the dataflow end.
    Stop,
}

/// A lease, with what its worker needs to read it.
pub struct Grant {
    /// The lease.
    pub lease: Lease,
    /// The first offset to read.
    pub start: NextOffset,
    /// Where its records come in.
    pub queue: Box<dyn Queue>,
    /// Set by the queue's waker when it turns from empty to not empty.
    pub dirty: Arc<AtomicBool>,
    /// Its account with the budget.
    pub account: Arc<LeaseAccount>,
}

/// The inboxes of the workers of a process.
pub struct Ports {
    ports: Vec<Port>,
}

#[derive(Default)]
struct Port {
    inbox: Mutex<Vec<Order>>,
    source: OnceLock<SyncActivator>,
}

impl Ports {
    /// An inbox for each of so many workers.
    pub fn new(workers: usize) -> Self {
        Self { ports: (0..workers).map(|_| Port::default()).collect() }
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.ports.len()
    }

    /// The worker that reads a partition.
    pub fn worker_of(&self, partition: Partition) -> usize {
        usize::try_from(partition.0).unwrap_or(0) % self.ports.len()
    }

    /// Says how to wake the source of a worker. Called once a worker, when its dataflow is built.
    pub fn connect(&self, worker: usize, source: SyncActivator) {
        // A second dataflow on the same worker would be a defect of the assembly; the first one stays.
        drop(self.ports[worker].source.set(source));
    }

    /// Puts an order into the inbox of a worker, and wakes its source.
    pub fn send(&self, worker: usize, order: Order) {
        self.ports[worker].inbox.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.wake(worker);
    }

    /// Takes the orders of a worker.
    pub fn receive(&self, worker: usize) -> Vec<Order> {
        std::mem::take(&mut *self.ports[worker].inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the source of a worker.
    pub fn wake(&self, worker: usize) {
        if let Some(source) = self.ports[worker].source.get() {
            // It fails only when the worker has ended, and then there is nobody to wake.
            let _ended = source.activate();
        }
    }

    /// Wakes every source.
    pub fn wake_all(&self) {
        (0..self.ports.len()).for_each(|worker| self.wake(worker));
    }

    /// A waker for the queue of a partition: marks the lease and wakes its worker.
    pub fn waker(self: &Arc<Self>, partition: Partition, dirty: Arc<AtomicBool>) -> crate::broker::Waker {
        let (ports, worker) = (Arc::clone(self), self.worker_of(partition));
        Arc::new(move || {
            if !dirty.swap(true, Ordering::SeqCst) {
                ports.wake(worker);
            }
        })
    }
}
