//! Tenure: which leases a process holds, as the transaction thread and the group thread agree on it.
//!
//! The broker checks only that a member is of the current generation, not that it owns the partitions it commits. So the process checks
//! that itself: offsets are sent to a transaction under the lock of this table, after each lease of the transaction was found in it, and
//! a lease is taken out of it before its partition is given back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::budget::LeaseAccount;
use crate::lease::{Lease, Partition, Term};
use crate::metadata::TopicId;

/// The leases that a process holds, and the topic that they are of.
#[derive(Debug, Default)]
pub struct Tenure {
    held: Mutex<BTreeMap<Partition, (Term, Arc<LeaseAccount>)>>,
    topic: OnceLock<TopicId>,
    doubted: AtomicBool,
}

/// The table under its lock: nobody can lose or gain a lease meanwhile.
pub struct TenureGuard<'a>(MutexGuard<'a, BTreeMap<Partition, (Term, Arc<LeaseAccount>)>>);

impl Tenure {
    /// No lease is held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Locks the table.
    pub fn lock(&self) -> TenureGuard<'_> {
        TenureGuard(self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The topic that the leases are of, where the broker has told its id.
    pub fn topic(&self) -> Option<TopicId> {
        self.topic.get().copied()
    }

    /// Notes which topic the leases are of, and returns the one that was noted first: a process reads one topic in its life.
    pub fn topic_is(&self, topic: TopicId) -> TopicId {
        *self.topic.get_or_init(|| topic)
    }

    /// Says that the topic was not found as it should be: the group thread is to find out.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }

    /// Whether somebody doubts the topic.
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// Says that the topic is as it should be.
    pub fn settle(&self) {
        self.doubted.store(false, Ordering::SeqCst);
    }
}

impl TenureGuard<'_> {
    /// Adds a lease.
    ///
    /// # Panics
    ///
    /// If an earlier term of its partition is still held.
    pub fn grant(&mut self, lease: Lease, account: Arc<LeaseAccount>) {
        let earlier = self.0.insert(lease.partition, (lease.term, account));
        assert!(earlier.is_none(), "a partition has one lease at a time");
    }

    /// Takes the lease of a partition out, if it is held.
    pub fn end(&mut self, partition: Partition) -> Option<Lease> {
        self.0.remove(&partition).map(|(term, _)| Lease { partition, term })
    }

    /// Whether this very lease is held.
    pub fn holds(&self, lease: Lease) -> bool {
        self.0.get(&lease.partition).is_some_and(|(term, _)| *term == lease.term)
    }

    /// The lease of a partition, if one is held.
    pub fn lease(&self, partition: Partition) -> Option<Lease> {
        self.0.get(&partition).map(|(term, _)| Lease { partition, term: *term })
    }

    /// The account of the lease of a partition, if one is held.
    pub fn account(&self, partition: Partition) -> Option<&Arc<LeaseAccount>> {
        self.0.get(&partition).map(|(_, account)| account)
    }

    /// The partitions that are held.
    pub fn partitions(&self) -> Vec<Partition> {
        self.0.keys().copied().collect()
    }
}
