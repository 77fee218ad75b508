//! The budget: how much of the input may be in flight, from the poll of a record to the acknowledgement of its commit.
//!
//! Backpressure is a budget in records and bytes, not a pause. Half of it is reserved in equal shares, one a partition, so that a
//! stuck partition cannot starve the others; the other half is common. A lease over its share takes from the common half, and a lease
//! that can take from neither is not polled until something is committed. One record may always be polled by a lease that has
//! nothing in flight, however large it is: else a record larger than a share would never move.
//!
//! The bounds hold up to what is polled before it can be weighed: the last record of a poll may be larger than what was left, and
//! workers that poll at the same moment do not see each other's charge. An outcome is charged when it comes home, whether there is room
//! or not. All operations are sequentially consistent: a source that starves looks once more at its room, and whoever releases asks
//! after that whether one starves, so one of both sees the other.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::Committed;
use crate::broker::PollLimit;
use crate::done::Done;
use crate::lease::{NextOffset, Partition};
use crate::metadata::Metadata;
use crate::tuning::Tuning;

/// What is charged for a record beside its bytes: its places in the ledger, in blocks and in outcomes.
pub const OVERHEAD_BYTES: usize = 256;

/// Bounds of the budget of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Records in flight at most.
    pub records_max: usize,
    /// Bytes in flight at most: originals and retained outcomes.
    pub bytes_max: usize,
    /// Among how many partitions the reserved half is shared.
    pub partitions: usize,
}

/// The budget of a process. Shared by its workers and the transaction thread.
#[derive(Debug)]
pub struct Budget {
    partitions: usize,
    records: Pool,
    bytes: Pool,
    in_flight: AtomicUsize,
    starved: AtomicBool,
    tuning: Arc<Tuning>,
}

#[derive(Debug)]
struct Pool {
    max: usize,
    share: usize,
    /// What all shares take.
    reserved: usize,
    /// Below zero for a moment when a release overtakes the charge that it follows.
    common_used: AtomicIsize,
}

/// What the broker has on record of a lease, as far as this process knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    #[default]
    None,
    /// What this process goes on from, or has committed since.
    Kept,
    /// Something else, which is to be replaced with the next commit.
    Owed,
}

#[derive(Debug, Default)]
struct Account {
    done: Done,
    record: Record,
}

/// What one lease has in flight. Shared by its worker, the transaction thread and the group thread.
#[derive(Debug, Default)]
pub struct LeaseAccount {
    records: AtomicUsize,
    bytes: AtomicUsize,
    stopped: AtomicBool,
    /// What of the partition is committed, as far as the process knows.
    committed: Mutex<Account>,
    /// Whether everything is taken from the common half.
    shareless: bool,
}

impl Pool {
    fn new(max: usize, partitions: usize) -> Self {
        let share = max / 2 / partitions.max(1);
        Self { max, share, reserved: share * partitions.max(1), common_used: AtomicIsize::new(0) }
    }

    fn share(&self, lease: &LeaseAccount) -> usize {
        if lease.shareless { 0 } else { self.share }
    }

    /// What a lease may take that has so much, where `max` holds now. Shares stay as they were made: what was taken from the common part is
    /// given back to it.
    fn room(&self, lease: &LeaseAccount, used: usize, max: usize) -> usize {
        let used_of_common = usize::try_from(self.common_used.load(Ordering::SeqCst)).unwrap_or(0);
        let common = max.saturating_sub(self.reserved).saturating_sub(used_of_common);
        self.share(lease).saturating_sub(used) + common
    }

    /// Moves an account from `before` to `after`: what lies over the share is taken from, or returned to, the common half.
    fn moved(&self, lease: &LeaseAccount, before: usize, after: usize) {
        let share = self.share(lease);
        let (before, after) = (before.saturating_sub(share), after.saturating_sub(share));
        self.common_used.fetch_add(after.cast_signed().wrapping_sub(before.cast_signed()), Ordering::SeqCst);
    }
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(config: BudgetConfig) -> Self {
        Self::tuned(config, Arc::default())
    }

    /// The same, of a process whose bound on records may change: down to the shares of its partitions, which are half of what it is now.
    pub fn tuned(config: BudgetConfig, tuning: Arc<Tuning>) -> Self {
        Self {
            tuning,
            partitions: config.partitions,
            records: Pool::new(config.records_max, config.partitions),
            bytes: Pool::new(config.bytes_max, config.partitions),
            in_flight: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
        }
    }

    /// An account for the lease of a partition that goes on where so much is done.
    pub fn account(&self, partition: Partition, done: Done, record: Record) -> LeaseAccount {
        let has_share = usize::try_from(partition.0).is_ok_and(|partition| partition < self.partitions);
        let committed = Mutex::new(Account { done, record });
        LeaseAccount { shareless: !has_share, committed, ..LeaseAccount::default() }
    }

    /// How much the lease may poll now; `None` if nothing.
    pub fn room(&self, lease: &LeaseAccount) -> Option<PollLimit> {
        let records_max = self.tuning.in_flight(self.records.max);
        let records = self.records.room(lease, lease.records(), records_max);
        let bytes = self.bytes.room(lease, lease.bytes.load(Ordering::SeqCst), self.bytes.max);
        if records > 0 && bytes > 0 {
            // What a poll is told in bytes is payload; each record costs its overhead besides.
            let records = records.min(bytes / OVERHEAD_BYTES + 1);
            return Some(PollLimit { records, bytes });
        }
        (lease.records() == 0).then_some(PollLimit { records: 1, bytes: 1 })
    }

    /// Charges the lease; returns whether the process had nothing in flight before.
    pub fn charge(&self, lease: &LeaseAccount, records: usize, bytes: usize) -> bool {
        let before = lease.records.fetch_add(records, Ordering::SeqCst);
        self.records.moved(lease, before, before + records);
        let before = lease.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.bytes.moved(lease, before, before + bytes);
        self.in_flight.fetch_add(records, Ordering::SeqCst) == 0
    }

    /// Returns what was charged.
    pub fn release(&self, lease: &LeaseAccount, records: usize, bytes: usize) {
        let before = lease.records.fetch_sub(records, Ordering::SeqCst);
        self.records.moved(lease, before, before - records);
        let before = lease.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.bytes.moved(lease, before, before - bytes);
        self.in_flight.fetch_sub(records, Ordering::SeqCst);
    }

    /// Records in flight in the process.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Notes that a lease had more to poll and no budget for it.
    pub fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
    }

    /// Whether a lease had to go without since the last call: then the sources must be activated after a release.
    pub fn was_starved(&self) -> bool {
        self.starved.swap(false, Ordering::SeqCst)
    }
}

impl LeaseAccount {
    /// The account of a lease that goes on where so much was committed.
    pub fn new(done: Done) -> Self {
        Self { committed: Mutex::new(Account { done, record: Record::None }), ..Self::default() }
    }

    /// Records in flight.
    pub fn records(&self) -> usize {
        self.records.load(Ordering::SeqCst)
    }

    /// Notes that the source has polled the lease for the last time.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether the lease is polled no more and all that it polled is committed.
    pub fn is_drained(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) && self.records() == 0
    }

    /// Notes what was committed.
    pub fn commit(&self, done: Done) {
        *self.lock() = Account { done, record: Record::Kept };
    }

    /// Whether a commit is owed, be there something new to commit or not.
    pub fn is_owed(&self) -> bool {
        self.lock().record == Record::Owed
    }

    /// Whether this, found on record, was put there by somebody else.
    pub fn is_strange(&self, found: Option<&Committed>) -> bool {
        let account = self.lock();
        match (account.record, found) {
            (Record::Owed, _) => false,
            (Record::None, found) => found.is_some(),
            (Record::Kept, None) => true,
            (Record::Kept, Some(Committed { next, metadata })) => {
                Metadata::decode(*next, metadata).map(|found| found.done).as_ref() != Ok(&account.done)
            }
        }
    }

    /// The offset that was committed last in this term, or from which it began.
    pub fn committed(&self) -> NextOffset {
        self.lock().done.base()
    }

    /// All that is committed.
    pub fn done(&self) -> Done {
        self.lock().done.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(records_max: usize, partitions: usize) -> Budget {
        Budget::new(BudgetConfig { records_max, bytes_max: usize::MAX / 4, partitions })
    }

    #[test]
    fn a_greedy_lease_leaves_the_others_their_shares() {
        let budget = budget(100, 5);
        let (greedy, modest) = (LeaseAccount::default(), LeaseAccount::default());
        let mut taken = 0;
        while let Some(limit) = budget.room(&greedy) {
            let records = limit.records.min(7);
            budget.charge(&greedy, records, 0);
            taken += records;
        }
        assert_eq!(taken, 10 + 50);
        assert_eq!(budget.room(&modest).unwrap().records, 10);
    }

    #[test]
    fn a_partition_added_since_the_start_lives_of_the_common_half() {
        let budget = budget(100, 5);
        let account = |partition| budget.account(Partition(partition), Done::default(), Record::None);
        let (added, known) = (account(5), account(4));
        assert_eq!(budget.room(&added).unwrap().records, 50);
        budget.charge(&added, 50, 0);
        assert!(budget.room(&added).is_none());
        assert_eq!(budget.room(&known).unwrap().records, 10, "nobody loses a share by it");
        budget.release(&added, 50, 0);
        assert_eq!(budget.room(&added).unwrap().records, 50);
    }

    #[test]
    fn a_record_larger_than_every_share_can_still_move() {
        let budget = Budget::new(BudgetConfig { records_max: 8, bytes_max: 8, partitions: 4 });
        let (first, second) = (LeaseAccount::default(), LeaseAccount::default());
        budget.charge(&first, 1, 1_000_000);
        assert!(budget.room(&first).is_none());
        assert_eq!(budget.room(&second).unwrap().records, 1);
        budget.release(&first, 1, 1_000_000);
        assert!(budget.room(&first).is_some());
    }

    #[test]
    fn a_bound_that_is_tuned_leaves_shares_and_what_was_taken_as_they_are() {
        let tuning = Arc::new(Tuning::default());
        let config = BudgetConfig { records_max: 100, bytes_max: usize::MAX / 4, partitions: 5 };
        let budget = Budget::tuned(config, Arc::clone(&tuning));
        let (first, second) = (LeaseAccount::default(), LeaseAccount::default());
        tuning.set_in_flight(200);
        assert_eq!(budget.room(&first).unwrap().records, 10 + 150);
        budget.charge(&first, 160, 0);
        assert!(budget.room(&first).is_none());
        assert_eq!(budget.room(&second).unwrap().records, 10);
        tuning.set_in_flight(60);
        budget.charge(&second, 10, 0);
        assert!(budget.room(&second).is_none(), "more is in flight than there may be now");
        budget.release(&first, 150, 0);
        assert_eq!(budget.room(&second).unwrap().records, 10, "what shares leave of 60");
        budget.release(&first, 10, 0);
        budget.release(&second, 10, 0);
        assert_eq!(budget.records.common_used.load(Ordering::SeqCst), 0);
    }

    proptest! {
        #[test]
        fn what_is_released_is_as_it_was_before(
            moves in prop::collection::vec((0_usize..4, 1_usize..40, 1_usize..64), 1..100),
        ) {
            let tuning = Arc::new(Tuning::default());
            let config = BudgetConfig { records_max: 64, bytes_max: usize::MAX / 4, partitions: 4 };
            let budget = Budget::tuned(config, Arc::clone(&tuning));
            let leases: Vec<LeaseAccount> = (0..4).map(|_| LeaseAccount::default()).collect();
            let mut charged = Vec::new();
            for (place, records, records_max) in moves {
                // Whatever happens to the bound meanwhile.
                tuning.set_in_flight(records_max);
                if let Some(limit) = budget.room(&leases[place]) {
                    let records = records.min(limit.records);
                    budget.charge(&leases[place], records, records);
                    charged.push((place, records));
                    prop_assert!(budget.in_flight() <= 64);
                }
            }
            for (place, records) in charged {
                budget.release(&leases[place], records, records);
            }
            prop_assert_eq!(budget.in_flight(), 0);
            prop_assert_eq!(budget.records.common_used.load(Ordering::SeqCst), 0);
            prop_assert_eq!(budget.bytes.common_used.load(Ordering::SeqCst), 0);
        }
    }
}
