//! The group coordinator: who is a member, in which generation, and which partitions each is to have.
//!
//! ```text
//!   stable ──join, leave, expiry, partitions given back──▶ round ──everyone has rejoined──▶ stable, generation + 1
//! ```
//!
//! The protocol is the classic one with cooperative assignment: in a round each member says what it owns and is told what it shall
//! own. A partition that moves is in nobody's share until its owner has given it back, which opens the next round; a partition that
//! stays is never touched. A member that has not heard of the new generation yet still has the old one, and is refused with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::lease::Partition;

/// The number of a member: never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

/// How many partitions a topic has.
pub(super) type PartitionCount<'a> = &'a dyn Fn(&str) -> i32;

/// One consumer group.
#[derive(Debug, Default)]
pub(super) struct Group {
    generation: u64,
    members: BTreeMap<MemberId, Seat>,
    round: Option<Round>,
}

/// What the coordinator knows of a member.
#[derive(Debug)]
struct Seat {
    topic: String,
    instance: Option<String>,
    seen: Moment,
    /// What it said in this round that it owns.
    owned: BTreeSet<Partition>,
    /// Its share, as of the last round.
    share: BTreeSet<Partition>,
    /// Whether it has yet to hear of that share.
    news: bool,
}

#[derive(Debug)]
struct Round {
    joined: BTreeSet<MemberId>,
    deadline: Moment,
}

/// Why a member's proof of membership was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoMember {
    Unknown,
    StaleGeneration,
}

impl Group {
    /// Takes in a member. One with the instance name of another takes its place and its share at once, without a round.
    pub(super) fn join(
        &mut self,
        member: MemberId,
        topic: &str,
        instance: Option<&str>,
        now: Moment,
        session: Duration,
        count: PartitionCount<'_>,
    ) {
        let predecessor = instance.and_then(|instance| self.remove_instance(instance));
        let mut seat = Seat {
            topic: topic.to_owned(),
            instance: instance.map(str::to_owned),
            seen: now,
            owned: BTreeSet::new(),
            share: BTreeSet::new(),
            news: false,
        };
        seat.news = predecessor.is_some() && self.round.is_none();
        seat.share = predecessor.map_or_else(BTreeSet::new, |predecessor| predecessor.share);
        self.members.insert(member, seat);
        // What the predecessor was about to give back is in no share, and it will never say that it has.
        let shared: usize =
            self.members.values().filter(|seat| seat.topic == topic).map(|seat| seat.share.len()).sum();
        if !self.members[&member].news || i32::try_from(shared) != Ok(count(topic)) {
            self.open_round(now, session);
        }
    }

    /// A sign of life. `false` if the member is not known, or no more.
    pub(super) fn heartbeat(&mut self, member: MemberId, now: Moment) -> bool {
        self.members.get_mut(&member).map(|seat| seat.seen = now).is_some()
    }

    /// Whether another member has taken the place of this instance.
    pub(super) fn is_taken(&self, instance: &str) -> bool {
        self.members.values().any(|seat| seat.instance.as_deref() == Some(instance))
    }

    /// Opens a round, if none is open: a member has come, gone, or given partitions back.
    pub(super) fn open_round(&mut self, now: Moment, session: Duration) {
        if self.round.is_none() && !self.members.is_empty() {
            self.round = Some(Round { joined: BTreeSet::new(), deadline: now.after(session) });
            self.members.values_mut().for_each(|seat| seat.news = false);
        }
    }

    /// Takes part in the open round; the last member to do so completes it. `false` if there is nothing to take part in.
    pub(super) fn rejoin(
        &mut self,
        member: MemberId,
        owned: &BTreeSet<Partition>,
        count: PartitionCount<'_>,
    ) -> bool {
        let (Some(round), Some(seat)) = (&mut self.round, self.members.get_mut(&member)) else {
            return false;
        };
        let joined = round.joined.insert(member);
        if joined {
            seat.owned.clone_from(owned);
            self.complete_round(count);
        }
        joined
    }

    /// Takes a member out. `false` if it was not in.
    pub(super) fn leave(
        &mut self,
        member: MemberId,
        now: Moment,
        session: Duration,
        count: PartitionCount<'_>,
    ) -> bool {
        let left = self.remove(member);
        if left {
            self.open_round(now, session);
            self.complete_round(count);
        }
        left
    }

    /// Takes out every member that has been silent for longer than its session, or has let a round wait for as long.
    pub(super) fn expire(
        &mut self,
        now: Moment,
        session: Duration,
        count: PartitionCount<'_>,
    ) -> Vec<MemberId> {
        let late = self.round.as_ref().filter(|round| now > round.deadline).map(|round| round.joined.clone());
        let gone: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(member, seat)| {
                now.since(seat.seen) > session || late.as_ref().is_some_and(|joined| !joined.contains(member))
            })
            .map(|(&member, _)| member)
            .collect();
        for &member in &gone {
            self.leave(member, now, session, count);
        }
        gone
    }

    /// The generation and the share that the member has not heard of yet.
    pub(super) fn news(&mut self, member: MemberId) -> Option<(u64, BTreeSet<Partition>)> {
        let seat = self.members.get_mut(&member)?;
        std::mem::take(&mut seat.news).then(|| (self.generation, seat.share.clone()))
    }

    /// Whether a member may commit with the generation that it has.
    pub(super) fn check(&self, member: MemberId, generation: u64) -> Result<(), NoMember> {
        match self.members.contains_key(&member) {
            false => Err(NoMember::Unknown),
            true if generation != self.generation => Err(NoMember::StaleGeneration),
            true => Ok(()),
        }
    }

    fn remove_instance(&mut self, instance: &str) -> Option<Seat> {
        let known = self.members.iter().find(|(_, seat)| seat.instance.as_deref() == Some(instance));
        let member = *known?.0;
        if let Some(round) = &mut self.round {
            round.joined.remove(&member);
        }
        self.members.remove(&member)
    }

    fn remove(&mut self, member: MemberId) -> bool {
        if let Some(round) = &mut self.round {
            round.joined.remove(&member);
        }
        self.members.remove(&member).is_some()
    }

    fn complete_round(&mut self, count: PartitionCount<'_>) {
        if self.round.as_ref().is_none_or(|round| round.joined.len() < self.members.len()) {
            return;
        }
        self.round = None;
        if self.members.is_empty() {
            return;
        }
        self.generation += 1;
        let topics: BTreeSet<String> = self.members.values().map(|seat| seat.topic.clone()).collect();
        for topic in topics {
            let seats = self.members.iter().filter(|(_, seat)| seat.topic == topic);
            let owned = seats.map(|(&member, seat)| (member, seat.owned.clone())).collect();
            for (member, share) in shares(&owned, count(&topic)) {
                let seat = self.members.get_mut(&member).expect("a share belongs to a member");
                seat.share = share;
                seat.news = true;
            }
        }
    }
}

/// Divides the partitions of a topic evenly, and moves as few as that takes. What has to move away from its owner is in no share yet.
fn shares(
    owned: &BTreeMap<MemberId, BTreeSet<Partition>>,
    partitions: i32,
) -> BTreeMap<MemberId, BTreeSet<Partition>> {
    let total = usize::try_from(partitions).unwrap_or(0);
    let (least, over) = (total / owned.len().max(1), total % owned.len().max(1));
    // Who owns most keeps most: the larger shares go where they cost no move.
    let mut order: Vec<MemberId> = owned.keys().copied().collect();
    order.sort_by_key(|member| std::cmp::Reverse(owned[member].len()));
    let taken: BTreeSet<Partition> = owned.values().flatten().copied().collect();
    let mut free = (0..partitions).map(Partition).filter(|partition| !taken.contains(partition));
    let share_of = |(rank, member): (usize, MemberId)| {
        let size = least + usize::from(rank < over);
        let mut share: BTreeSet<Partition> = owned[&member].iter().copied().take(size).collect();
        share.extend(free.by_ref().take(size - share.len()));
        (member, share)
    };
    order.into_iter().enumerate().map(share_of).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSION: Duration = Duration::from_secs(45);
    const FOUR: PartitionCount<'static> = &|_| 4;

    fn set(partitions: &[i32]) -> BTreeSet<Partition> {
        partitions.iter().copied().map(Partition).collect()
    }

    fn member(id: u64) -> MemberId {
        MemberId(id)
    }

    fn join(group: &mut Group, id: u64, instance: Option<&str>) {
        group.join(member(id), "requests", instance, Moment::START, SESSION, FOUR);
    }

    #[test]
    fn a_partition_moves_only_after_its_owner_has_given_it_back() {
        let mut group = Group::default();
        join(&mut group, 1, None);
        group.rejoin(member(1), &set(&[]), FOUR);
        assert_eq!(group.news(member(1)), Some((1, set(&[0, 1, 2, 3]))));
        join(&mut group, 2, None);
        group.rejoin(member(2), &set(&[]), FOUR);
        assert_eq!(group.news(member(2)), None);
        group.rejoin(member(1), &set(&[0, 1, 2, 3]), FOUR);
        assert_eq!(group.news(member(2)), Some((2, set(&[]))));
        assert_eq!(group.news(member(1)), Some((2, set(&[0, 1]))));
        group.open_round(Moment::START, SESSION);
        group.rejoin(member(1), &set(&[0, 1]), FOUR);
        group.rejoin(member(2), &set(&[]), FOUR);
        assert_eq!(group.news(member(2)), Some((3, set(&[2, 3]))));
    }

    #[test]
    fn a_generation_is_stale_as_soon_as_everyone_has_rejoined() {
        let mut group = Group::default();
        join(&mut group, 1, None);
        group.rejoin(member(1), &set(&[]), FOUR);
        join(&mut group, 2, None);
        group.rejoin(member(1), &set(&[0, 1, 2, 3]), FOUR);
        assert_eq!(group.check(member(1), 1), Ok(()));
        group.rejoin(member(2), &set(&[]), FOUR);
        assert_eq!(group.check(member(1), 1), Err(NoMember::StaleGeneration));
        assert_eq!(group.check(member(3), 2), Err(NoMember::Unknown));
    }

    #[test]
    fn a_silent_member_is_taken_out_and_its_round_goes_on_without_it() {
        let mut group = Group::default();
        join(&mut group, 1, None);
        group.rejoin(member(1), &set(&[]), FOUR);
        let later = Moment::START.after(SESSION);
        group.join(member(2), "requests", None, later, SESSION, FOUR);
        group.rejoin(member(2), &set(&[]), FOUR);
        assert!(group.expire(later, SESSION, FOUR).is_empty());
        let later = later.after(Duration::from_nanos(1));
        assert_eq!(group.expire(later, SESSION, FOUR), [member(1)]);
        assert_eq!(group.news(member(2)), Some((2, set(&[0, 1, 2, 3]))));
    }

    #[test]
    fn an_instance_that_comes_back_has_its_share_at_once() {
        let mut group = Group::default();
        join(&mut group, 1, Some("a"));
        group.rejoin(member(1), &set(&[]), FOUR);
        join(&mut group, 2, Some("a"));
        assert_eq!(group.check(member(1), 1), Err(NoMember::Unknown));
        assert_eq!(group.news(member(2)), Some((1, set(&[0, 1, 2, 3]))));
    }

    proptest! {
        #[test]
        fn shares_are_even_disjoint_and_take_nothing_from_an_owner(
            owners in prop::collection::vec(prop::option::of(0u64..5), 0..40),
        ) {
            let count = i32::try_from(owners.len()).unwrap();
            let mut owned: BTreeMap<MemberId, BTreeSet<Partition>> =
                (0..5).map(|id| (member(id), BTreeSet::new())).collect();
            for (partition, owner) in (0..).zip(&owners) {
                if let Some(owner) = owner {
                    owned.get_mut(&member(*owner)).unwrap().insert(Partition(partition));
                }
            }
            // A first division withholds what has to move; the second finds it free.
            let first = shares(&owned, count);
            for (id, share) in &first {
                for partition in share {
                    let owner = owners[usize::try_from(partition.0).unwrap()];
                    prop_assert!(owner.is_none_or(|owner| member(owner) == *id));
                }
                let kept = share.intersection(&owned[id]).count();
                prop_assert!(kept == owned[id].len() || share.len() == kept, "a partition moved for nothing");
            }
            let second = shares(&first, count);
            let all: Vec<Partition> = second.values().flatten().copied().collect();
            prop_assert_eq!(all.len(), owners.len());
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), owners.len());
            let sizes: Vec<usize> = second.values().map(BTreeSet::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            for (id, share) in &first {
                prop_assert!(share.is_subset(&second[id]));
            }
        }
    }
}
