//! What the transaction thread looks at besides its own calls: whose offsets it commits, and whether somebody else commits any.
//!
//! Kafka takes offsets by the *name* of the topic. So each round asks which topic bears the name, after its records were polled and before
//! its offsets are sent: had one of them been of another topic, that topic would be seen.

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

/// What was seen of the topic.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Nothing yet.
    Nothing,
    /// The topic that is read.
    Same,
    /// None, or another one of its name.
    Another,
    /// The question failed; it is asked once more.
    Error(BrokerError),
}

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

    /// Whether the topic is the one that is known; waits for that up to `wait`.
    pub(super) fn seen(&mut self, ownership: &dyn Ownership, known: Option<TopicId>, wait: Duration) -> Seen {
        let Some(look) = &mut self.look else { return Seen::Same };
        let seen = match look.seen(wait) {
            None => return Seen::Nothing,
            Some(Ok(seen)) if seen == TopicSeen::There(known) => Seen::Same,
            Some(Ok(_)) => Seen::Another,
            Some(Err(error)) => Seen::Error(error),
        };
        self.look = None;
        if !matches!(seen, Seen::Same) {
            self.look(ownership, known);
        }
        seen
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
