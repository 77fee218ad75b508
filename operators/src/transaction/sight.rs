//! What the transaction thread looks at besides its own calls: whose offsets it commits, and whether somebody else commits any.
//!
//! Kafka takes a transaction's offsets by the *name* of the topic. So each transaction asks which topic bears the name, after its records
//! were polled and before its offsets are sent: had one of them been of another topic, that topic would be seen.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broker::{BrokerError, Look, Ownership, TopicSeen};
use crate::clock::Moment;
use crate::fault::Fault;
use crate::lease::{NextOffset, Partition};
use crate::metadata::TopicId;
use crate::tenure::Tenure;

/// How often the group's committed offsets are compared with what this process has committed, and how often once they differ.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// The looks of a transaction thread.
pub(super) struct Sight {
    look: Option<Box<dyn Look>>,
    /// When others' commits are looked for next.
    pub(super) due: Moment,
    /// Offsets that are not ours, and since when.
    strange: BTreeMap<Partition, (Option<NextOffset>, Moment)>,
}

impl Sight {
    /// Nothing has been looked at yet.
    pub(super) fn new(now: Moment) -> Self {
        Self { look: None, due: now.after(INTERVALS.0), strange: BTreeMap::new() }
    }

    /// Begins to look which topic there is, if it is known which there should be.
    pub(super) fn look(&mut self, ownership: &dyn Ownership, known: Option<TopicId>) {
        self.look = known.map(|_| ownership.look());
    }

    /// Whether the topic is the one that is known; `None` while that is not seen yet.
    pub(super) fn is_same(
        &mut self,
        known: Option<TopicId>,
        wait: Duration,
    ) -> Option<Result<bool, BrokerError>> {
        let Some(look) = &mut self.look else { return Some(Ok(true)) };
        let seen = look.seen(wait)?;
        self.look = None;
        Some(seen.map(|seen| seen == TopicSeen::There(known)))
    }

    /// Compares what is committed of the leases that are held with what this process has committed. Called between two transactions,
    /// when nothing of ours is under way. A difference that stays for longer than `patience` is the fault returned.
    pub(super) fn others(
        &mut self,
        ownership: &dyn Ownership,
        tenure: &Tenure,
        patience: Duration,
        now: Moment,
    ) -> Option<Fault> {
        self.due = now.after(INTERVALS.0);
        let held = tenure.lock().partitions();
        if held.is_empty() {
            return None;
        }
        let committed = match ownership.committed(&held) {
            Ok(committed) => committed,
            Err(error) => {
                tracing::debug!(%error, "others' commits could not be looked for");
                return None;
            }
        };
        let tenure = tenure.lock();
        for (partition, committed) in held.into_iter().zip(committed) {
            // Whoever reads the partition since commits for it rightly.
            let account = tenure.account(partition).filter(|account| account.is_strange(committed.as_ref()));
            let Some(account) = account else {
                self.strange.remove(&partition);
                continue;
            };
            let (found, ours) = (committed.map(|committed| committed.next), account.committed());
            let (seen, since) = *self.strange.entry(partition).or_insert((found, now));
            if seen != found {
                self.strange.insert(partition, (found, now));
            } else if now.since(since) >= patience {
                return Some(Fault::ForeignCommit { partition, found, ours });
            } else if since == now {
                tracing::warn!(
                    partition = partition.0,
                    found = found.map(|next| next.0),
                    ours = ours.0,
                    "somebody else has committed for a partition that is held"
                );
            }
        }
        if !self.strange.is_empty() {
            self.due = now.after(INTERVALS.1);
        }
        None
    }
}
