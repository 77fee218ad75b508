//! The client side of a group member: what it believes to own, and where it reads.
//!
//! The belief may be out of date, as with a real client: the group may have taken the member out already, or have moved on to the
//! next generation. It learns of it when it polls, one event at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::{
    BrokerError, Class, Committed, GroupEvent, GroupToken, Isolation, PollEnd, PollLimit, Polled, Waker,
};
use crate::clock::Moment;
use crate::lease::{Lease, NextOffset, Partition};

use super::cluster::{ClientId, Cluster, error, partition_count};
use super::faults::{Fault, Step};
use super::group::MemberId;
use super::log::{PartitionLog, copy_record};

/// What one client of a group knows.
pub(super) struct Client {
    pub(super) topic: String,
    pub(super) group: String,
    instance: Option<String>,
    /// Its number in the group, while it believes to be in.
    member: Option<MemberId>,
    generation: u64,
    owned: BTreeSet<Partition>,
    /// What it was told to give back and has not yet: part of `owned`.
    returning: BTreeSet<Partition>,
    lost: bool,
    fenced: bool,
    readers: BTreeMap<Partition, Reader>,
    /// Partitions of which nothing new is seen until a moment.
    hidden: BTreeMap<Partition, Moment>,
}

#[derive(Default)]
struct Reader {
    waker: Option<Waker>,
    place: Option<Place>,
    /// Whether the waker is to be called when there is something to read.
    armed: bool,
}

/// Where a partition is being read.
struct Place {
    start: i64,
    next: i64,
    polled: bool,
    /// Its offset was outside the log, and the member has been told.
    stuck: bool,
}

impl Client {
    pub(super) fn new(group: &str, topic: &str, instance: Option<&str>) -> Self {
        Self {
            topic: topic.to_owned(),
            group: group.to_owned(),
            instance: instance.map(str::to_owned),
            member: None,
            generation: 0,
            owned: BTreeSet::new(),
            returning: BTreeSet::new(),
            lost: false,
            fenced: false,
            readers: BTreeMap::new(),
            hidden: BTreeMap::new(),
        }
    }

    pub(super) fn set_waker(&mut self, partition: Partition, waker: Waker) {
        self.readers.entry(partition).or_default().waker = Some(waker);
    }

    /// The waker to call now that the partition can be read up to `end`.
    pub(super) fn wake(&mut self, partition: Partition, end: i64) -> Option<Waker> {
        let reader = self.readers.get_mut(&partition)?;
        let place = reader.place.as_ref()?;
        if !reader.armed || place.next >= end || self.hidden.contains_key(&partition) {
            return None;
        }
        reader.armed = false;
        reader.waker.clone()
    }

    /// The wakers of queues whose hidden time is over.
    pub(super) fn unhide(&mut self, now: Moment) -> Vec<Waker> {
        let due: Vec<Partition> =
            self.hidden.iter().filter(|(_, until)| **until <= now).map(|(&partition, _)| partition).collect();
        let wakers = due.into_iter().filter_map(|partition| {
            self.hidden.remove(&partition);
            self.wake(partition, i64::MAX)
        });
        wakers.collect()
    }

    pub(super) fn token(&self) -> Result<GroupToken, BrokerError> {
        const OPERATION: &str = "prove membership of the group";
        let Some(member) = self.member.filter(|_| !self.lost) else {
            return Err(error(
                Class::Abortable,
                OPERATION,
                "ASSIGNMENT_LOST",
                "the member has lost its assignment",
            ));
        };
        if self.owned.is_empty() {
            return Err(error(Class::Abortable, OPERATION, "NO_ASSIGNMENT", "the member has no partition"));
        }
        Ok(GroupToken::Simulated { group: self.group.clone(), member: member.0, generation: self.generation })
    }

    /// Takes a new share of the partitions, as far as it can before others have been given back.
    fn hear(&mut self, generation: u64, share: &BTreeSet<Partition>) -> Option<GroupEvent> {
        self.generation = generation;
        self.returning = self.owned.difference(share).copied().collect();
        if !self.returning.is_empty() {
            return Some(GroupEvent::Revoked(self.returning.iter().copied().collect()));
        }
        let added: Vec<Partition> = share.difference(&self.owned).copied().collect();
        self.owned.extend(&added);
        (!added.is_empty()).then_some(GroupEvent::Assigned(added))
    }

    /// Gives up everything: the group has taken the member out.
    fn lose(&mut self) -> Option<GroupEvent> {
        self.returning.clone_from(&self.owned);
        self.readers.values_mut().for_each(|reader| reader.place = None);
        self.lost = !self.owned.is_empty();
        self.lost.then(|| GroupEvent::Lost(self.owned.iter().copied().collect()))
    }

    /// Stops reading partitions, and gives back those that were to be given back. Whether that was the last of them.
    fn give_back(&mut self, partitions: &[Partition]) -> bool {
        let mut changed = false;
        for partition in partitions {
            if let Some(reader) = self.readers.get_mut(partition) {
                reader.place = None;
            }
            self.hidden.remove(partition);
            if self.returning.remove(partition) {
                self.owned.remove(partition);
                changed = true;
            }
        }
        changed && self.returning.is_empty()
    }

    fn place(&self, partition: Partition) -> Option<&Place> {
        self.readers.get(&partition)?.place.as_ref()
    }
}

/// What a member asks of the group.
impl Cluster {
    /// Serves the group once, and says what happened.
    pub(super) fn poll_member(&mut self, id: ClientId) -> Option<GroupEvent> {
        let event = match self.faults.next(Step::MemberPoll) {
            Some(Fault::Before(class) | Fault::After(class)) => {
                let message = "the plan has it so";
                Some(GroupEvent::Failed(error(class, "serve the group", "SIMULATED_FAULT", message)))
            }
            Some(Fault::Expelled) => {
                self.take_out(id);
                self.serve(id)
            }
            _ => self.serve(id),
        };
        if let Some(event) = &event {
            self.history.note(format_args!("{id:?} at {:?} {event:?}", self.now));
        }
        event
    }

    fn serve(&mut self, id: ClientId) -> Option<GroupEvent> {
        if let Some(partition) = self.out_of_range(id) {
            return Some(GroupEvent::OutOfRange(partition));
        }
        let (now, session) = (self.now, self.settings.session_timeout);
        let Self { clients, groups, topics, ids, .. } = self;
        let count = |topic: &str| partition_count(topics, topic);
        let client = clients.get_mut(&id)?;
        let group = groups.entry(client.group.clone()).or_default();
        if !client.member.is_some_and(|member| group.heartbeat(member, now)) {
            if client.member.take().is_some() {
                client.fenced = client.instance.as_deref().is_some_and(|instance| group.is_taken(instance));
                if let Some(lost) = client.lose() {
                    return Some(lost);
                }
            }
            if client.fenced {
                return client.returning.is_empty().then(|| GroupEvent::Failed(fenced_instance()));
            }
            if client.returning.is_empty() {
                *ids += 1;
                group.join(MemberId(*ids), &client.topic, client.instance.as_deref(), now, session, &count);
                client.member = Some(MemberId(*ids));
            }
        }
        let member = client.member.filter(|_| client.returning.is_empty())?;
        if let Some((generation, share)) = group.news(member) {
            return client.hear(generation, &share);
        }
        let joined = group.rejoin(member, &client.owned, &count);
        let event = group.news(member).and_then(|(generation, share)| client.hear(generation, &share));
        if joined {
            self.touch();
        }
        event
    }

    /// Makes the group forget the member, which does not know it yet.
    fn take_out(&mut self, id: ClientId) {
        let (now, session) = (self.now, self.settings.session_timeout);
        let Self { clients, groups, topics, .. } = self;
        let Some(client) = clients.get(&id) else { return };
        if let (Some(member), Some(group)) = (client.member, groups.get_mut(&client.group)) {
            group.leave(member, now, session, &|topic| partition_count(topics, topic));
            self.touch();
        }
    }

    /// The member leaves the group, and its client is gone.
    pub(super) fn leave(&mut self, id: ClientId) {
        self.history.note(format_args!("{id:?} at {:?} leaves", self.now));
        self.take_out(id);
        self.clients.remove(&id);
    }

    /// The first partition that is to be read from outside its log and of which the member has not been told.
    fn out_of_range(&mut self, id: ClientId) -> Option<Partition> {
        let Self { clients, topics, .. } = self;
        let client = clients.get_mut(&id)?;
        let logs = &topics.get(&client.topic)?.logs;
        client.readers.iter_mut().find_map(|(&partition, reader)| {
            let place = reader.place.as_mut().filter(|place| !place.stuck)?;
            let log = logs.get(usize::try_from(partition.0).ok()?)?;
            place.stuck = place.next < log.start() || place.next > log.end();
            place.stuck.then_some(partition)
        })
    }

    pub(super) fn committed(
        &mut self,
        id: ClientId,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        const OPERATION: &str = "read the committed offsets";
        if let Some(Fault::Before(class) | Fault::After(class)) = self.faults.next(Step::Committed) {
            return Err(error(class, OPERATION, "SIMULATED_FAULT", "the plan has it so"));
        }
        let client = self.clients.get(&id).ok_or_else(|| left(OPERATION))?;
        self.committed_by(&client.group, &client.topic, partitions)
    }

    /// What a group has committed, once no open transaction holds an offset of these partitions.
    pub(super) fn committed_by(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<Option<Committed>>, BrokerError> {
        let is_pending = |partition: &&Partition| self.coordinator.is_pending(group, topic, **partition);
        if let Some(partition) = partitions.iter().find(is_pending) {
            let message = format!(
                "an open transaction has an offset of partition {}; wait until it has ended",
                partition.0
            );
            // A real client waits for as long as it may, and then gives the same answer as without any broker.
            let operation = "read the committed offsets";
            return Err(error(Class::Unreachable, operation, "UNSTABLE_OFFSET_COMMIT", message));
        }
        let offsets = self.offsets.get(group);
        let committed = |partition: &Partition| offsets?.get(&(topic.to_owned(), *partition)).cloned();
        Ok(partitions.iter().map(committed).collect())
    }

    pub(super) fn assign(
        &mut self,
        id: ClientId,
        starts: &[(Partition, NextOffset)],
    ) -> Result<(), BrokerError> {
        const OPERATION: &str = "take the assigned partitions";
        let client = self.clients.get_mut(&id).ok_or_else(|| left(OPERATION))?;
        let is_owned = |partition| client.owned.contains(partition) && !client.returning.contains(partition);
        if let Some((partition, _)) = starts.iter().find(|(partition, _)| !is_owned(partition)) {
            let message = format!("partition {} is not, or no more, assigned to the member", partition.0);
            return Err(error(Class::Abortable, OPERATION, "ASSIGNMENT_LOST", message));
        }
        let topic = client.topic.clone();
        for &(partition, start) in starts {
            let reader = client.readers.entry(partition).or_default();
            reader.place = Some(Place { start: start.0, next: start.0, polled: false, stuck: false });
            reader.armed = true;
        }
        self.history.note(format_args!("{id:?} at {:?} reads {starts:?}", self.now));
        for &(partition, _) in starts {
            self.wake(&topic, partition);
        }
        Ok(())
    }

    pub(super) fn unassign(&mut self, id: ClientId, partitions: &[Partition]) {
        let (now, session) = (self.now, self.settings.session_timeout);
        let Some(client) = self.clients.get_mut(&id) else { return };
        self.history.note(format_args!("{id:?} at {now:?} gives back {partitions:?}"));
        if client.give_back(partitions) && !std::mem::take(&mut client.lost) {
            if let Some(group) = self.groups.get_mut(&client.group) {
                group.open_round(now, session);
            }
            self.touch();
        }
    }
}

/// What a queue asks of the partition that it reads.
impl Cluster {
    pub(super) fn poll_queue(
        &mut self,
        id: ClientId,
        lease: Lease,
        into: &mut Polled,
        limit: PollLimit,
    ) -> Result<PollEnd, BrokerError> {
        let now = self.now;
        let Self { clients, topics, faults, history, .. } = self;
        let Some(client) = clients.get_mut(&id) else { return Ok(PollEnd::Empty) };
        let index = usize::try_from(lease.partition.0).unwrap_or(usize::MAX);
        let log = topics.get(&client.topic).and_then(|topic| topic.logs.get(index));
        let reader = client.readers.get_mut(&lease.partition);
        let (Some(log), Some(reader)) = (log, reader) else { return Ok(PollEnd::Empty) };
        let Some(place) = &mut reader.place else { return Ok(PollEnd::Empty) };
        place.polled = true;
        reader.armed = true;
        let in_range = (log.start()..=log.end()).contains(&place.next);
        if !in_range || place.stuck || client.hidden.contains_key(&lease.partition) {
            return Ok(PollEnd::Empty);
        }
        let mut limit = limit;
        if place.next < log.stable_end() {
            match faults.next(Step::QueuePoll) {
                Some(Fault::Again(most)) if most > 0 => {
                    let back = i64::from(1 + faults.random().below(most));
                    place.next = (place.next - back).max(place.start).max(log.start());
                }
                Some(Fault::Hidden(wait)) => {
                    client.hidden.insert(lease.partition, now.after(wait));
                    return Ok(PollEnd::Empty);
                }
                Some(Fault::Short(most)) => limit.records = limit.records.min(most),
                Some(Fault::Before(class) | Fault::After(class)) => {
                    return Err(error(class, "read the partition", "SIMULATED_FAULT", "the plan has it so"));
                }
                _ => {}
            }
        }
        let from = place.next;
        let stopped = log.read(from, Isolation::ReadCommitted, limit, |offset, time, record| {
            copy_record(record, &mut into.records);
            into.origins.push((lease, offset));
            into.times.push(time);
        });
        place.next = stopped.next;
        reader.armed = stopped.end == PollEnd::Empty;
        if from != stopped.next {
            history.note(format_args!("{id:?} at {now:?} polls {lease:?} {from} {}", stopped.next));
        }
        Ok(stopped.end)
    }

    /// The offset that the next poll would bring; `None` before the first poll.
    pub(super) fn position(&self, id: ClientId, partition: Partition) -> Option<NextOffset> {
        let (client, log) = self.reading(id, partition)?;
        let place = client.place(partition).filter(|place| place.polled)?;
        let waits = place.stuck || client.hidden.contains_key(&partition);
        Some(NextOffset(if waits { place.next } else { log.pass_over(place.next) }))
    }

    /// The last stable offset, as far as this client sees it; `None` before the first poll.
    pub(super) fn end_seen(&self, id: ClientId, partition: Partition) -> Option<NextOffset> {
        let (client, log) = self.reading(id, partition)?;
        let place = client.place(partition).filter(|place| place.polled)?;
        let hidden = client.hidden.contains_key(&partition);
        Some(NextOffset(if hidden { place.next } else { log.stable_end() }))
    }

    fn reading(&self, id: ClientId, partition: Partition) -> Option<(&Client, &PartitionLog)> {
        let client = self.clients.get(&id)?;
        Some((client, self.log(&client.topic, partition)?))
    }
}

/// The error of a client whose member has left the group.
pub(super) fn left(operation: &'static str) -> BrokerError {
    error(Class::Refused, operation, "UNKNOWN_MEMBER_ID", "the member has left the group")
}

fn fenced_instance() -> BrokerError {
    let message = "another member with the same instance name has taken its place";
    error(Class::Fenced, "serve the group", "FENCED_INSTANCE_ID", message)
}
