//! The transaction coordinator: which producer holds a transactional id, and what its open transaction touches.
//!
//! It knows nothing of logs and groups: what it ends is handed back as an [`Ended`], for the cluster to carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::broker::Committed;
use crate::clock::Moment;
use crate::lease::Partition;

use super::log::{End, ProducerId};

/// The offsets of one group, by topic and partition.
pub(super) type GroupOffsets = BTreeMap<(String, Partition), Committed>;

/// The partitions that a transaction has written to, by topic.
pub(super) type Touched = BTreeMap<String, BTreeSet<Partition>>;

/// The state of every transactional id.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    ids: BTreeMap<String, Holder>,
}

/// A producer's proof that it holds its transactional id.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    id: String,
    pub(super) producer: ProducerId,
    epoch: u64,
}

/// Why a producer may do nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Another producer has been made with the same transactional id.
    Fenced,
    /// Its transaction took too long, and the coordinator aborted it.
    TimedOut,
}

/// A transaction that has ended, and what that means for logs and groups.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) producer: ProducerId,
    pub(super) end: End,
    pub(super) partitions: Touched,
    pub(super) offsets: BTreeMap<String, GroupOffsets>,
}

#[derive(Debug)]
struct Holder {
    producer: ProducerId,
    epoch: u64,
    /// The epoch that was given to the producer made last. A lower one has been fenced; this one itself is stale once the
    /// coordinator has raised `epoch` beyond it.
    granted: u64,
    /// How long its transaction may be open.
    timeout: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Moment,
    partitions: Touched,
    offsets: BTreeMap<String, GroupOffsets>,
}

impl Coordinator {
    /// Hands the id to a new producer, and aborts what its predecessor left open.
    pub(super) fn init(&mut self, id: &str, timeout: Duration) -> (Identity, Option<Ended>) {
        let producer = ProducerId(self.ids.len() as u64);
        let fresh = Holder { producer, epoch: 0, granted: 0, timeout, open: None };
        let holder = self.ids.entry(id.to_owned()).or_insert(fresh);
        holder.epoch += 1;
        holder.granted = holder.epoch;
        holder.timeout = timeout;
        let ended = holder.end(End::Abort);
        (Identity { id: id.to_owned(), producer: holder.producer, epoch: holder.epoch }, ended)
    }

    /// Whether this producer still holds its id.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), Stale> {
        let holder = self.holder(identity);
        match identity.epoch {
            epoch if epoch == holder.epoch => Ok(()),
            epoch if epoch < holder.granted => Err(Stale::Fenced),
            _ => Err(Stale::TimedOut),
        }
    }

    /// Adds a partition to the transaction, which it opens if need be.
    pub(super) fn add_partition(
        &mut self,
        identity: &Identity,
        topic: &str,
        partition: Partition,
        now: Moment,
    ) {
        let open = self.open(identity, now);
        // Nearly every call names a topic that is known: it must not cost an allocation.
        match open.partitions.get_mut(topic) {
            Some(partitions) => partitions.insert(partition),
            None => open.partitions.insert(topic.to_owned(), BTreeSet::from([partition])).is_none(),
        };
    }

    /// Adds offsets of a group to the transaction, which it opens if need be.
    pub(super) fn add_offsets(
        &mut self,
        identity: &Identity,
        group: &str,
        offsets: GroupOffsets,
        now: Moment,
    ) {
        let open = self.open(identity, now);
        open.offsets.entry(group.to_owned()).or_default().extend(offsets);
    }

    /// Ends the producer's transaction; `None` if it has touched nothing.
    pub(super) fn end(&mut self, identity: &Identity, end: End) -> Option<Ended> {
        self.holder_mut(identity).end(end)
    }

    /// Aborts every transaction that has been open for longer than its producer wanted, and shuts that producer out.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<Ended> {
        let overdue = self
            .ids
            .values_mut()
            .filter(|holder| holder.open.as_ref().is_some_and(|open| now.since(open.since) > holder.timeout));
        overdue
            .filter_map(|holder| {
                holder.epoch += 1;
                holder.end(End::Abort)
            })
            .collect()
    }

    /// Whether an open transaction is about to change what the group has committed of the partition.
    pub(super) fn is_pending(&self, group: &str, topic: &str, partition: Partition) -> bool {
        let open = self.ids.values().filter_map(|holder| holder.open.as_ref());
        open.filter_map(|open| open.offsets.get(group))
            .any(|offsets| offsets.contains_key(&(topic.to_owned(), partition)))
    }

    fn open(&mut self, identity: &Identity, now: Moment) -> &mut Open {
        self.holder_mut(identity).open.get_or_insert_with(|| Open {
            since: now,
            partitions: Touched::new(),
            offsets: BTreeMap::new(),
        })
    }

    fn holder(&self, identity: &Identity) -> &Holder {
        self.ids.get(&identity.id).expect("an identity is only given to a known id")
    }

    fn holder_mut(&mut self, identity: &Identity) -> &mut Holder {
        self.ids.get_mut(&identity.id).expect("an identity is only given to a known id")
    }
}

impl Holder {
    fn end(&mut self, end: End) -> Option<Ended> {
        let Open { partitions, offsets, .. } = self.open.take()?;
        Some(Ended { producer: self.producer, end, partitions, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(0);
    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_second_producer_of_an_id_fences_the_first_and_aborts_its_transaction() {
        let mut coordinator = Coordinator::default();
        let (old, none) = coordinator.init("a", TIMEOUT);
        assert!(none.is_none());
        coordinator.add_partition(&old, "results", P, Moment::START);
        let (new, ended) = coordinator.init("a", TIMEOUT);
        let ended = ended.unwrap();
        assert_eq!((ended.producer, ended.end), (old.producer, End::Abort));
        assert_eq!(coordinator.check(&old), Err(Stale::Fenced));
        assert_eq!(coordinator.check(&new), Ok(()));
    }

    #[test]
    fn another_id_is_not_fenced() {
        let mut coordinator = Coordinator::default();
        let (one, _) = coordinator.init("a", TIMEOUT);
        let (two, _) = coordinator.init("b", TIMEOUT);
        assert_ne!(one.producer, two.producer);
        assert_eq!(coordinator.check(&one), Ok(()));
    }

    #[test]
    fn a_transaction_over_its_time_is_aborted_and_its_producer_is_not_called_fenced() {
        let mut coordinator = Coordinator::default();
        let (producer, _) = coordinator.init("a", TIMEOUT);
        coordinator.add_partition(&producer, "results", P, Moment::START);
        assert!(coordinator.expire(Moment::START.after(TIMEOUT)).is_empty());
        let late = Moment::START.after(TIMEOUT + Duration::from_nanos(1));
        assert_eq!(coordinator.expire(late).len(), 1);
        assert_eq!(coordinator.check(&producer), Err(Stale::TimedOut));
        let (_, ended) = coordinator.init("a", TIMEOUT);
        assert!(ended.is_none());
        assert_eq!(coordinator.check(&producer), Err(Stale::Fenced));
    }

    #[test]
    fn offsets_are_pending_until_their_transaction_has_ended() {
        let mut coordinator = Coordinator::default();
        let (producer, _) = coordinator.init("a", TIMEOUT);
        let committed = Committed { next: crate::lease::NextOffset(3), metadata: String::new() };
        let offsets = GroupOffsets::from([(("requests".to_owned(), P), committed)]);
        coordinator.add_offsets(&producer, "g", offsets.clone(), Moment::START);
        assert!(coordinator.is_pending("g", "requests", P));
        assert!(!coordinator.is_pending("g", "requests", Partition(1)));
        let ended = coordinator.end(&producer, End::Commit).unwrap();
        assert_eq!(ended.offsets, BTreeMap::from([("g".to_owned(), offsets)]));
        assert!(!coordinator.is_pending("g", "requests", P));
    }
}
