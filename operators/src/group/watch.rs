//! Whether the logs that are read go on where the group has left them. It is looked at when partitions come, when one of them can't be
//! read on, when a transaction finds another topic under the name, and every few seconds.
//!
//! Whoever finds that a log does not go on stops the process, and nobody else does: so what is missing is told once, of all partitions,
//! with its ranges. Before that, what was read already is finished and committed: it lies in no log any more.

use super::{Arc, BTreeMap, BrokerError, Class, Duration, Fault, Group, Moment, Order, Partition, Record};
use crate::broker::{Committed, Look, TopicSeen};
use crate::budget::LeaseAccount;
use crate::continuity::{AcceptedLoss, Break, Breaks, How, Policy, Standing};
use crate::done::Done;
use crate::lease::NextOffset;
use crate::metadata::{Metadata, TopicId};

/// How often the topic is looked at while nothing gives reason to.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long an answer is waited for that nothing can go on without.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// For how long a topic may be gone before the process stops: a broker that has just started may not know of it yet.
const GONE_MAX: Duration = Duration::from_secs(10);

/// The pause before a question is asked again that had no answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Where a partition that was assigned goes on.
pub(super) struct Place {
    pub(super) partition: Partition,
    /// What of it is done.
    pub(super) done: Done,
    /// Owed where the start, the topic's id or a loss is not on record yet: then it is committed before anything is read.
    pub(super) record: Record,
    /// Whether the group had committed nothing.
    is_new: bool,
    /// The loss that was accepted for it, and how many records it is at most.
    lost: Option<(AcceptedLoss, u64)>,
}

/// What the group thread knows of the topic, and is about to find out.
pub(super) struct Watch {
    look: Option<Box<dyn Look>>,
    due: Moment,
    gone_since: Option<Moment>,
    retry_at: Moment,
    stranded: Option<Stranded>,
    /// How far each partition was committed when its lease ended here.
    left_at: BTreeMap<Partition, NextOffset>,
}

/// A lease that can't be read on. What was read of it, and of all others, is finished first.
struct Stranded {
    partition: Partition,
    account: Arc<LeaseAccount>,
    until: Moment,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            look: None,
            due: Moment::START,
            gone_since: None,
            retry_at: Moment::START,
            stranded: None,
            left_at: BTreeMap::new(),
        }
    }

    /// Notes how far a partition was committed when its lease ended.
    pub(super) fn left(&mut self, partition: Partition, at: NextOffset) {
        self.left_at.insert(partition, at);
    }
}

impl Group {
    /// Where to read each assigned partition from: what was committed, or, where nothing was, what the policy says.
    pub(super) fn places(&mut self) -> Result<Vec<Place>, BrokerError> {
        let TopicSeen::There(topic) = self.look()? else { return Err(self.no_topic()) };
        let assigned = self.assigned.clone();
        let committed = self.member.committed(&assigned)?;
        let logs = self.member.log_ranges(&assigned)?;
        let (mut places, mut breaks) = (Vec::with_capacity(assigned.len()), Vec::new());
        for ((partition, committed), log) in assigned.into_iter().zip(committed).zip(logs) {
            let committed = match decoded(partition, committed.as_ref()) {
                Ok(committed) => committed,
                Err(fault) => {
                    self.parts.faults.raise(fault);
                    continue;
                }
            };
            let done = committed.as_ref().map(|committed| &committed.done);
            let of = committed.as_ref().and_then(|committed| committed.topic);
            let (next, reach) = (done.map(Done::base), done.map(Done::reach));
            let standing = Standing { partition, committed: next, reach, of, log, topic };
            match standing.start(&self.parts.policy) {
                Ok(start) => {
                    let lost =
                        start.lost.map(|loss| (loss, done.map_or(0, |done| done.open_before(loss.to))));
                    // Where nothing is on record, what is deleted from now on would be missed by nobody.
                    let kept = next.is_some() && lost.is_none() && (topic.is_none() || of == topic);
                    let record = if kept { Record::Kept } else { Record::Owed };
                    // What lies past a gap is done also behind it; of another topic nothing is.
                    let mut done = done.filter(|_| start.goes_on).cloned().unwrap_or(Done::before(start.at));
                    done.pass(start.at);
                    places.push(Place { partition, done, record, is_new: next.is_none(), lost });
                }
                Err(broken) => breaks.push(broken),
            }
        }
        if !breaks.is_empty() {
            self.raise_breaks(breaks);
            return Ok(Vec::new());
        }
        if let Some(is) = topic {
            let was = self.parts.tenure.topic_is(is);
            if was != is {
                self.parts.faults.raise(Fault::TopicChanged { topic: self.parts.topic.clone(), was, is });
            }
        }
        Ok(places)
    }

    /// Says what is out of the ordinary about a start: a loss that was accepted, or offsets that somebody else has set.
    pub(super) fn tell_place(&mut self, place: &Place) {
        let partition = place.partition;
        let left_at = self.watch.left_at.remove(&partition).map(|left_at| left_at.0);
        if let Some((AcceptedLoss { from: NextOffset(from), to: NextOffset(to), .. }, records)) = place.lost {
            tracing::warn!(
                partition = partition.0,
                from,
                to,
                records,
                "records are lost, as was accepted; reading goes on behind them"
            );
            self.parts.observer.lost(partition, records);
        } else if place.record == Record::Owed && !place.is_new {
            let next = place.done.base().0;
            tracing::warn!(
                partition = partition.0,
                next,
                ?left_at,
                "offsets of an operator, of another program or of an earlier version are followed"
            );
        }
    }

    /// What bears the topic's name now.
    fn look(&mut self) -> Result<TopicSeen, BrokerError> {
        let seen = self.member.ownership().look().seen(LOOK_MAX);
        seen.unwrap_or_else(|| Err(look_error("the broker did not answer in time")))
    }

    fn no_topic(&self) -> BrokerError {
        look_error(&format!("there is no topic {:?}", self.parts.topic))
    }

    /// Looks after the logs: called with every step.
    pub(super) fn watch_log(&mut self) {
        if self.stopping || self.parts.faults.get().is_some() {
            return;
        }
        let now = self.parts.clock.now();
        if self.is_stranded_done(now) || self.parts.tenure.is_doubted() || self.watch.gone_since.is_some() {
            if now >= self.watch.retry_at {
                self.examine(now);
            }
            return;
        }
        if let Some(look) = &mut self.watch.look {
            let Some(seen) = look.seen(Duration::ZERO) else { return };
            self.watch.look = None;
            let known = self.parts.tenure.topic();
            if let Ok(seen) = seen
                && seen != TopicSeen::There(known)
            {
                self.examine(now);
            }
        } else if now >= self.watch.due && self.parts.tenure.topic().is_some() {
            self.watch.due = now.after(LOOK_INTERVAL);
            self.watch.look = Some(self.member.ownership().look());
        }
    }

    /// A partition can't be read on. Nobody will read what follows in any, so all that was read is finished; then it is told.
    pub(super) fn out_of_range(&mut self, partition: Partition) {
        if self.stopping || self.watch.stranded.is_some() {
            return;
        }
        let tenure = self.parts.tenure.lock();
        // What was read before the partition went back is the next owner's to find out.
        let Some(account) = tenure.account(partition).cloned() else { return };
        tracing::warn!(
            partition = partition.0,
            "a partition can't be read on; what was read is finished, then the engine stops"
        );
        let until = self.parts.clock.now().after(self.parts.last_drain_max);
        for held in tenure.partitions() {
            let Some(lease) = tenure.lease(held) else { continue };
            self.parts.ports.send(self.parts.ports.worker_of(held), Order::Drain(lease));
        }
        self.watch.stranded = Some(Stranded { partition, account, until });
    }

    /// Whether a lease is stranded, and all that was read is finished, or will not be in time.
    fn is_stranded_done(&self, now: Moment) -> bool {
        let Some(stranded) = &self.watch.stranded else { return false };
        let tenure = self.parts.tenure.lock();
        let held = tenure.partitions();
        let mut accounts = held.iter().filter_map(|partition| tenure.account(*partition));
        let done = accounts.all(|account| account.is_drained());
        if !done && now < stranded.until {
            self.parts.outbox.hurry();
        }
        done || now >= stranded.until
    }

    /// Finds out what is missing of each log, and stops; or finds that nothing is.
    fn examine(&mut self, now: Moment) {
        match self.found(now) {
            Ok(Some(fault)) => self.parts.faults.raise(fault),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "waiting to hear whether the logs go on");
                self.watch.retry_at = now.after(RETRY_PAUSE);
            }
        }
    }

    fn found(&mut self, now: Moment) -> Result<Option<Fault>, BrokerError> {
        let name = self.parts.topic.clone();
        let TopicSeen::There(topic) = self.look()? else {
            let since = *self.watch.gone_since.get_or_insert(now);
            if now.since(since) >= GONE_MAX {
                return Ok(Some(Fault::TopicGone { topic: name }));
            }
            return Err(self.no_topic());
        };
        self.watch.gone_since = None;
        let changed = match (self.parts.tenure.topic(), topic) {
            (Some(was), Some(is)) if was != is => Some(Fault::TopicChanged { topic: name, was, is }),
            _ => None,
        };
        match (self.breaks(topic), changed) {
            (Ok(breaks), changed) if breaks.is_empty() => {
                if changed.is_none() {
                    self.parts.tenure.settle();
                }
                Ok(changed)
            }
            (Ok(breaks), _) => {
                Ok(Some(Fault::LogChanged(Breaks { topic: self.parts.topic.clone(), breaks })))
            }
            // The new topic may have fewer partitions: what can't be told in detail is told all the same.
            (Err(_), Some(changed)) => Ok(Some(changed)),
            (Err(error), None) => Err(error),
        }
    }

    /// Every log that does not go on, of the leases that are held and of the one that is stranded.
    fn breaks(&mut self, topic: Option<TopicId>) -> Result<Vec<Break>, BrokerError> {
        let mut accounts: BTreeMap<Partition, Arc<LeaseAccount>> = {
            let tenure = self.parts.tenure.lock();
            let held = tenure.partitions().into_iter();
            held.filter_map(|partition| Some((partition, Arc::clone(tenure.account(partition)?)))).collect()
        };
        let stranded = self.watch.stranded.as_ref();
        accounts.extend(stranded.map(|stranded| (stranded.partition, Arc::clone(&stranded.account))));
        let stranded = stranded.map(|stranded| stranded.partition);
        let partitions: Vec<Partition> = accounts.keys().copied().collect();
        let logs = self.member.log_ranges(&partitions)?;
        let of = self.parts.tenure.topic();
        let broken = accounts.iter().zip(logs).filter_map(|((partition, account), log)| {
            let (partition, done) = (*partition, account.done());
            let (committed, reach) = (done.base(), Some(done.reach()));
            let standing = Standing { partition, committed: Some(committed), reach, of, log, topic };
            let unreadable = Break { partition, committed, log, how: How::Unreadable };
            let broken = standing.start(&Policy::default()).err();
            broken.or_else(|| (stranded == Some(partition)).then_some(unreadable))
        });
        Ok(broken.collect())
    }

    fn raise_breaks(&self, breaks: Vec<Break>) {
        self.parts.faults.raise(Fault::LogChanged(Breaks { topic: self.parts.topic.clone(), breaks }));
    }
}

/// What was committed of a partition, if anything was.
fn decoded(partition: Partition, committed: Option<&Committed>) -> Result<Option<Metadata>, Fault> {
    let decoded = committed.map(|committed| Metadata::decode(committed.next, &committed.metadata));
    decoded.transpose().map_err(|error| Fault::Metadata { partition, error })
}

fn look_error(message: &str) -> BrokerError {
    BrokerError {
        class: Class::Retriable,
        operation: "look at the topic",
        code: "UNKNOWN_TOPIC_OR_PART".to_owned(),
        message: message.to_owned(),
    }
}
