//! A member that answers every rebalance at once, or late, and reads what it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use operators::broker::{
    Broker, BrokerError, GroupEvent, GroupToken, Member, PollLimit, Polled, Queue, Waker,
};
use operators::lease::{Lease, Partition, Term};

/// A member that answers every rebalance at once and reads what it gets.
pub(super) struct Reader {
    pub(super) member: Box<dyn Member>,
    pub(super) queues: BTreeMap<Partition, Box<dyn Queue>>,
    pub(super) owned: BTreeSet<Partition>,
    pub(super) polled: Polled,
    /// How long an answer to the group is put off.
    pub(super) delay: Duration,
    pub(super) wakes: Arc<AtomicU64>,
    pub(super) events: Vec<String>,
}

impl Reader {
    pub(super) fn new(broker: &dyn Broker, group: &str, topic: &str) -> Self {
        Self {
            member: broker.member(group, topic).unwrap(),
            queues: BTreeMap::new(),
            owned: BTreeSet::new(),
            polled: Polled::default(),
            delay: Duration::ZERO,
            wakes: Arc::default(),
            events: Vec::new(),
        }
    }

    pub(super) fn step(&mut self) {
        match self.member.poll(Duration::from_millis(20)) {
            Some(GroupEvent::Assigned(partitions)) => {
                self.events.push(format!("assigned {}", partitions.len()));
                std::thread::sleep(self.delay);
                let committed = self.member.committed(&partitions).unwrap();
                let starts: Vec<_> = partitions
                    .iter()
                    .zip(committed)
                    .map(|(partition, committed)| {
                        let first = self.member.log_ranges(&[*partition]).unwrap()[0].first;
                        (*partition, committed.map_or(first, |committed| committed.next))
                    })
                    .collect();
                for partition in &partitions {
                    let woken = Arc::clone(&self.wakes);
                    let waker: Waker = Arc::new(move || {
                        woken.fetch_add(1, Ordering::Relaxed);
                    });
                    self.queues.insert(*partition, self.member.queue(*partition, waker).unwrap());
                }
                self.member.assign(&starts).unwrap();
                self.owned.extend(partitions);
            }
            Some(GroupEvent::Revoked(partitions)) => {
                self.events.push(format!("revoked {}", partitions.len()));
                std::thread::sleep(self.delay);
                self.give_back(&partitions);
            }
            Some(GroupEvent::Lost(partitions)) => {
                self.events.push(format!("lost {}", partitions.len()));
                self.give_back(&partitions);
            }
            Some(GroupEvent::OutOfRange(partition)) => {
                self.events.push(format!("out of range {}", partition.0));
            }
            Some(GroupEvent::Failed(error)) => self.events.push(format!("failed {error}")),
            None => {}
        }
        let limit = PollLimit { records: 100, bytes: 1 << 20 };
        for (partition, queue) in &mut self.queues {
            let lease = Lease { partition: *partition, term: Term(1) };
            queue.poll(lease, &mut self.polled, limit).unwrap();
        }
    }

    pub(super) fn give_back(&mut self, partitions: &[Partition]) {
        self.member.unassign(partitions).unwrap();
        for partition in partitions {
            self.owned.remove(partition);
        }
    }

    pub(super) fn token(&self) -> Result<GroupToken, BrokerError> {
        self.member.ownership().token()
    }
}
