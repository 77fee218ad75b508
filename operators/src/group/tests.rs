//! The group thread against a simulated broker: in which order leases begin and end, and what is told of offsets that cannot be used.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::broker::simulated::{Fault as BrokerFault, FaultPlan, FaultRule, SimulatedBroker, Step, When};
use crate::broker::{
    Broker, Committed, GroupToken, LogRange, OffsetCommit, Ownership, Producer, Queue, Waker,
};
use crate::budget::{BudgetConfig, LeaseAccount};
use crate::clock::ManualClock;
use crate::continuity::{AcceptedLoss, How, Missing};
use crate::done::Done;
use crate::fixtures::{Recorder, broker, broker_error, committed, lease, results};
use crate::lease::{NextOffset, Offset};
use crate::metadata::{Metadata, MetadataError};
use crate::outbox::{Retained, TransactionLimit};
use crate::records::Records;

const DRAIN_MAX: Duration = Duration::from_secs(2);
const LAST_DRAIN_MAX: Duration = Duration::from_secs(20);

struct Rig {
    broker: SimulatedBroker,
    clock: Arc<ManualClock>,
    observer: Arc<Recorder>,
    parts: GroupParts,
    group: Group,
    /// The account of each lease that was granted.
    accounts: BTreeMap<Partition, Arc<LeaseAccount>>,
    /// How many more times the member cannot take what it is assigned.
    refusals: Arc<AtomicUsize>,
}

/// A group thread that has just joined, with two workers to order about.
fn rig(broker: SimulatedBroker, clock: Arc<ManualClock>) -> Rig {
    rig_with(broker, clock, Policy::default())
}

fn rig_with(broker: SimulatedBroker, clock: Arc<ManualClock>, policy: Policy) -> Rig {
    let observer = Arc::<Recorder>::default();
    let parts = GroupParts {
        ports: Arc::new(Ports::new(2)),
        tenure: Arc::default(),
        outbox: Arc::default(),
        budget: Arc::new(Budget::new(BudgetConfig { records_max: 100, bytes_max: 1 << 20, partitions: 4 })),
        faults: Arc::default(),
        health: Arc::default(),
        observer: Arc::clone(&observer) as Arc<dyn Observer>,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        topic: "requests".into(),
        policy: Arc::new(policy),
        drain_max: DRAIN_MAX,
        last_drain_max: LAST_DRAIN_MAX,
    };
    let member = broker.member("workers", "requests").unwrap();
    let refusals = Arc::new(AtomicUsize::new(0));
    let member = Strict { inner: member, tenure: Arc::clone(&parts.tenure), refusals: Arc::clone(&refusals) };
    let group = Group::new(parts.clone(), Box::new(member));
    Rig { broker, clock, observer, parts, group, accounts: BTreeMap::new(), refusals }
}

/// A rig that has its four partitions, with a record of each in flight.
fn working_rig() -> Rig {
    let (broker, clock) = broker();
    let mut rig = rig(broker, clock);
    assert_eq!(
        rig.settle(),
        ["grant 0/1 from 0", "grant 2/3 from 0", "grant 1/2 from 0", "grant 3/4 from 0"]
    );
    assert!(rig.parts.health.is_ready());
    for account in rig.accounts.values() {
        rig.parts.budget.charge(account, 1, 10);
    }
    rig
}

/// A member that lets nobody give back a partition whose lease he still holds, nor take one whose lease he has already.
struct Strict {
    inner: Box<dyn Member>,
    tenure: Arc<Tenure>,
    refusals: Arc<AtomicUsize>,
}

impl Member for Strict {
    fn poll(&mut self, wait: Duration) -> Option<GroupEvent> {
        self.inner.poll(wait)
    }
    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.inner.committed(partitions)
    }
    fn log_ranges(&mut self, partitions: &[Partition]) -> Result<Vec<LogRange>, BrokerError> {
        self.inner.log_ranges(partitions)
    }
    fn assign(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        let held = self.tenure.lock().partitions();
        assert!(!starts.iter().any(|(partition, _)| held.contains(partition)), "{starts:?} of {held:?}");
        let left = self.refusals.load(Ordering::SeqCst);
        if left > 0 {
            self.refusals.store(left - 1, Ordering::SeqCst);
            return Err(broker_error(Class::Retriable));
        }
        self.inner.assign(starts)
    }
    fn queue(&mut self, partition: Partition, wake: Waker) -> Result<Box<dyn Queue>, BrokerError> {
        self.inner.queue(partition, wake)
    }
    fn unassign(&mut self, partitions: &[Partition]) -> Result<(), BrokerError> {
        let held = self.tenure.lock().partitions();
        assert!(!partitions.iter().any(|partition| held.contains(partition)), "{partitions:?} of {held:?}");
        self.inner.unassign(partitions)
    }
    fn ownership(&self) -> Arc<dyn Ownership> {
        self.inner.ownership()
    }
    fn leave(&mut self) -> Result<(), BrokerError> {
        self.inner.leave()
    }
}

impl Rig {
    /// What the workers were ordered since the last call, worker by worker: a lease is written partition/term.
    fn orders(&mut self) -> Vec<String> {
        let mut orders = Vec::new();
        for worker in 0..2 {
            for order in self.parts.ports.receive(worker) {
                let name = |lease: Lease| format!("{}/{}", lease.partition.0, lease.term.0);
                orders.push(match order {
                    Order::Grant(grant) => {
                        assert_eq!(self.parts.ports.worker_of(grant.lease.partition), worker);
                        self.accounts.insert(grant.lease.partition, Arc::clone(&grant.account));
                        format!("grant {} from {}", name(grant.lease), grant.start.0)
                    }
                    Order::Drain(lease) => format!("drain {}", name(lease)),
                    Order::Drop(lease) => format!("drop {}", name(lease)),
                    Order::Stop => "stop".to_owned(),
                });
            }
        }
        orders
    }

    /// Serves the group until nothing happens any more, and returns what the workers were ordered.
    fn settle(&mut self) -> Vec<String> {
        for _ in 0..20 {
            self.group.step(Duration::ZERO);
        }
        self.orders()
    }

    /// The same, while another member serves the group too; returns what the other was assigned besides.
    fn settle_with(&mut self, other: &mut dyn Member) -> (Vec<String>, Vec<Partition>) {
        let mut assigned = Vec::new();
        for _ in 0..20 {
            self.group.step(Duration::ZERO);
            match other.poll(Duration::ZERO) {
                Some(GroupEvent::Assigned(partitions)) => {
                    let held = self.held();
                    assert!(!partitions.iter().any(|partition| held.contains(partition)), "{held:?}");
                    assigned.extend(partitions);
                }
                Some(GroupEvent::Revoked(partitions)) => other.unassign(&partitions).unwrap(),
                _ => {}
            }
        }
        (self.orders(), assigned)
    }

    /// The partitions whose logs do not go on, what is committed of each, and how it came to that.
    fn breaks(&self) -> Vec<(i32, i64, How)> {
        let Some(Fault::LogChanged(breaks)) = self.parts.faults.get() else { return Vec::new() };
        let breaks = breaks.breaks.iter();
        breaks.map(|broken| (broken.partition.0, broken.committed.0, broken.how)).collect()
    }

    fn held(&self) -> Vec<Partition> {
        self.parts.tenure.lock().partitions()
    }

    /// The worker has polled the lease for the last time, and everything of it was committed.
    fn finish(&self, partition: i32) {
        let account = &self.accounts[&Partition(partition)];
        account.stop();
        self.parts.budget.release(account, account.records(), 10);
    }

    fn fails(&self, step: Step, fault: BrokerFault) {
        let rules = vec![FaultRule { step, when: When::Nth(1), fault }];
        self.broker.set_faults(FaultPlan { rules, faults_max: None });
    }
}

/// Somebody who was in the group before: a member with the right to commit, until it leaves.
struct Predecessor {
    member: Box<dyn Member>,
    producer: Box<dyn Producer>,
}

impl Predecessor {
    fn new(broker: &SimulatedBroker) -> Self {
        let mut member = broker.member("workers", "requests").unwrap();
        let mut had = 0;
        while let Some(event) = member.poll(Duration::ZERO) {
            if let GroupEvent::Assigned(partitions) = event {
                had += partitions.len();
            }
        }
        assert_eq!(had, 4);
        Self { member, producer: broker.producer("predecessor").unwrap() }
    }

    /// Begins a transaction with these offsets.
    fn begin(&mut self, offsets: &[(i32, i64, &str)]) {
        let commit = |(partition, next, metadata): &(i32, i64, &str)| OffsetCommit {
            partition: Partition(*partition),
            next: NextOffset(*next),
            metadata: (*metadata).to_owned(),
        };
        let offsets: Vec<_> = offsets.iter().map(commit).collect();
        let token: GroupToken = self.member.ownership().token().unwrap();
        self.producer.begin().unwrap();
        self.producer.send_offsets("requests", &offsets, &token).unwrap();
    }

    fn commit(&mut self, offsets: &[(i32, i64, &str)]) {
        self.begin(offsets);
        self.producer.commit().unwrap();
    }
}

fn write(broker: &SimulatedBroker, partition: i32, count: u64) {
    let (mut writer, mut record) = (broker.writer().unwrap(), Records::default());
    record.push(None, Some(b"x"));
    (0..count).for_each(|tag| writer.write("requests", Some(partition), None, record.get(0), tag).unwrap());
}

#[test]
fn partitions_are_granted_once_their_committed_offsets_are_known_and_from_there() {
    let (broker, clock) = broker();
    [(0, 5), (1, 9), (2, 6)].into_iter().for_each(|(partition, count)| write(&broker, partition, count));
    broker.delete_before("requests", Partition(2), NextOffset(3));
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(0, 5, "")]);
    predecessor.begin(&[(1, 9, "")]);
    predecessor.member.leave().unwrap();
    let mut rig = rig(broker, clock);
    assert_eq!(
        (rig.settle(), rig.held()),
        (vec![], vec![]),
        "an open transaction may still move partition 1"
    );
    assert_eq!(rig.parts.health.reasons()[0].0, NO_ASSIGNMENT);
    predecessor.producer.commit().unwrap();
    assert_eq!(rig.settle(), [""; 0], "the coordinator is not asked again at once");
    rig.clock.advance(RETRY_PAUSE);
    let expected = ["grant 0/1 from 5", "grant 2/3 from 3", "grant 1/2 from 9", "grant 3/4 from 0"];
    assert_eq!(rig.settle(), expected);
    assert_eq!(rig.accounts[&Partition(1)].committed(), NextOffset(9));
    assert!(rig.parts.health.is_ready());
}

#[test]
fn what_the_member_cannot_take_now_is_nobodys_lease_and_is_asked_for_again() {
    let (broker, clock) = broker();
    let mut rig = rig(broker, clock);
    rig.refusals.store(2, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!((rig.settle(), rig.held()), (vec![], vec![]));
        assert!(!rig.parts.health.is_ready());
        rig.clock.advance(RETRY_PAUSE);
    }
    assert_eq!((rig.settle().len(), rig.held().len()), (4, 4));
    assert!(rig.parts.health.is_ready() && rig.parts.faults.get().is_none());
}

#[test]
fn a_revoked_lease_is_drained_then_ended_and_only_then_given_back() {
    let mut rig = working_rig();
    let mut other = rig.broker.member("workers", "requests").unwrap();
    let (orders, theirs) = rig.settle_with(&mut *other);
    assert_eq!((orders, theirs), (vec!["drain 2/3".into(), "drain 3/4".into()], vec![]));
    assert_eq!(rig.held().len(), 4, "it may still commit what it has");
    assert!(rig.parts.outbox.waiting().hurry, "whoever waits for a lease waits for no interval");
    rig.finish(2);
    assert_eq!(rig.settle_with(&mut *other), (vec![], vec![]), "partition 3 is not drained yet");
    rig.finish(3);
    let (orders, theirs) = rig.settle_with(&mut *other);
    assert_eq!(orders, ["drop 2/3", "drop 3/4"]);
    assert_eq!((theirs, rig.held()), (vec![Partition(2), Partition(3)], vec![Partition(0), Partition(1)]));

    // A partition that comes back is a new lease.
    other.leave().unwrap();
    assert_eq!(rig.settle(), ["grant 2/5 from 0", "grant 3/6 from 0"]);
}

#[test]
fn a_lease_that_is_not_drained_in_time_is_dropped_with_what_it_had_waiting() {
    let mut rig = working_rig();
    let account = Arc::clone(&rig.accounts[&Partition(2)]);
    rig.parts.budget.charge(&account, 1, 10);
    let outcome = Retained::new(results(lease(2, 3), [0]), 0, 10);
    rig.parts.outbox.offer(lease(2, 3), &account, NextOffset(1), [outcome]);
    let mut other = rig.broker.member("workers", "requests").unwrap();
    rig.settle_with(&mut *other);
    rig.finish(3);
    rig.clock.advance(DRAIN_MAX.saturating_sub(Duration::from_nanos(1)));
    assert_eq!(rig.settle_with(&mut *other), (vec![], vec![]));
    rig.clock.advance(Duration::from_nanos(1));
    let (orders, theirs) = rig.settle_with(&mut *other);
    assert_eq!((orders, theirs.len()), (vec!["drop 2/3".to_owned(), "drop 3/4".to_owned()], 2));
    // Its record in the outbox is released here, the one in the ledger by its worker.
    assert_eq!((rig.parts.outbox.waiting().records, account.records()), (0, 1));
}

#[test]
fn lost_leases_are_dropped_at_once_also_while_they_drain() {
    for is_draining in [false, true] {
        let mut rig = working_rig();
        let mut other = rig.broker.member("workers", "requests").unwrap();
        if is_draining {
            rig.settle_with(&mut *other);
        } else {
            other.leave().unwrap();
        }
        rig.fails(Step::MemberPoll, BrokerFault::Expelled);
        assert!(rig.group.step(Duration::ZERO));
        assert_eq!(rig.orders(), ["drop 0/1", "drop 2/3", "drop 1/2", "drop 3/4"]);
        assert_eq!((rig.held(), rig.group.draining.len()), (vec![], 0));
        assert_eq!(rig.parts.health.reasons()[0].0, NO_ASSIGNMENT, "who reads nothing is not ready");
        // It joins anew; what it is given then are other leases.
        let (orders, _) = rig.settle_with(&mut *other);
        assert!(!orders.is_empty() || is_draining, "{orders:?}");
        assert!(rig.held().into_iter().all(|partition| {
            rig.parts.tenure.lock().lease(partition).is_some_and(|lease| lease.term.0 > 4)
        }));
        assert!(rig.parts.faults.get().is_none());
    }
}

#[test]
fn a_partition_revoked_before_it_was_granted_goes_back_without_a_word_to_the_workers() {
    let (broker, clock) = broker();
    let mut predecessor = Predecessor::new(&broker);
    predecessor.begin(&[(0, 5, "")]);
    predecessor.member.leave().unwrap();
    let mut rig = rig(broker, clock);
    assert_eq!(rig.settle(), [""; 0]);
    let mut other = rig.broker.member("workers", "requests").unwrap();
    let (orders, theirs) = rig.settle_with(&mut *other);
    assert_eq!((orders, theirs), (vec![], vec![Partition(2), Partition(3)]));
    predecessor.producer.abort().unwrap();
    rig.clock.advance(RETRY_PAUSE);
    assert_eq!(rig.settle(), ["grant 0/1 from 0", "grant 1/2 from 0"]);
}

#[test]
fn metadata_of_another_program_stops_the_engine_before_anything_of_that_partition_is_read() {
    let (broker, clock) = broker();
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(1, 9, "a savepoint of somebody's")]);
    predecessor.member.leave().unwrap();
    let mut rig = rig(broker, clock);
    let orders = rig.settle();
    assert_eq!(
        rig.parts.faults.get(),
        Some(&Fault::Metadata { partition: Partition(1), error: MetadataError::Foreign })
    );
    assert!(!orders.iter().any(|order| order.contains(" 1/")), "{orders:?}");
    assert_eq!(committed(&rig.broker), [None, Some(9), None, None]);
}

#[test]
fn offsets_outside_of_the_log_stop_the_engine_and_are_named() {
    let (broker, clock) = broker();
    write(&broker, 3, 8);
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(3, 4, "")]);
    predecessor.member.leave().unwrap();
    broker.delete_before("requests", Partition(3), NextOffset(6));
    let mut rig = rig(broker, clock);
    rig.settle();
    assert_eq!(rig.breaks(), [(3, 4, How::Deleted)]);
    assert_eq!(rig.held(), []);
}

#[test]
fn every_loss_is_named_at_once_and_all_of_them_can_be_accepted() {
    let accept = |partition, from, to| AcceptedLoss {
        partition: Partition(partition),
        from: NextOffset(from),
        to: NextOffset(to),
    };
    let (broker, clock) = broker();
    [1, 3].into_iter().for_each(|partition| write(&broker, partition, 8));
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(1, 2, ""), (3, 4, "")]);
    predecessor.member.leave().unwrap();
    broker.delete_before("requests", Partition(1), NextOffset(5));
    broker.delete_before("requests", Partition(3), NextOffset(6));
    let run = |accepted: Vec<AcceptedLoss>| {
        let policy = Policy { accepted, ..Policy::default() };
        let mut rig = rig_with(broker.clone(), Arc::clone(&clock), policy);
        let orders = rig.settle();
        rig.group.stop(Duration::ZERO);
        rig.settle();
        (rig, orders)
    };
    assert_eq!(run(vec![]).0.breaks(), [(1, 2, How::Deleted), (3, 4, How::Deleted)]);
    assert_eq!(run(vec![accept(1, 2, 5)]).0.breaks(), [(3, 4, How::Deleted)]);
    broker.delete_before("requests", Partition(3), NextOffset(7));
    assert_eq!(
        run(vec![accept(1, 2, 5), accept(3, 4, 6)]).0.breaks(),
        [(3, 4, How::Deleted)],
        "it has moved on"
    );
    let (rig, orders) = run(vec![accept(1, 2, 5), accept(3, 4, 7)]);
    assert_eq!((rig.parts.faults.get(), orders.len()), (None, 4));
    assert!(
        orders.contains(&"grant 1/2 from 5".to_owned()) && orders.contains(&"grant 3/4 from 7".to_owned())
    );
    assert_eq!(rig.observer.seen().lost, [(Partition(1), 3), (Partition(3), 3)]);
    assert!(rig.accounts[&Partition(3)].is_owed(), "the broker does not know it yet");
}

#[test]
fn where_a_log_goes_on_is_on_record_before_anything_is_read() {
    let (broker, clock) = broker();
    write(&broker, 3, 8);
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(3, 4, "")]);
    predecessor.member.leave().unwrap();
    broker.delete_before("requests", Partition(3), NextOffset(6));
    let loss = AcceptedLoss { partition: Partition(3), from: NextOffset(4), to: NextOffset(6) };
    let mut rig = rig_with(broker, clock, Policy { accepted: vec![loss], ..Policy::default() });
    rig.settle();
    let parts = rig.parts.outbox.take(TransactionLimit { records: 10, bytes: 10 });
    let parts: Vec<_> =
        parts.iter().map(|part| (part.lease.partition, part.done.base(), part.outcomes.len())).collect();
    let expected = [(0, 0), (1, 0), (2, 0), (3, 6)];
    assert_eq!(parts, expected.map(|(partition, next)| (Partition(partition), NextOffset(next), 0)));
}

#[test]
fn what_overtook_a_lost_record_is_neither_lost_nor_done_again() {
    let (broker, clock) = broker();
    write(&broker, 3, 9);
    let mut done = Done::before(NextOffset(2));
    [3, 7].into_iter().for_each(|offset| done.complete_one(Offset(offset)));
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(3, 2, &Metadata { topic: None, done }.encode())]);
    predecessor.member.leave().unwrap();
    broker.delete_before("requests", Partition(3), NextOffset(6));
    let loss = AcceptedLoss { partition: Partition(3), from: NextOffset(2), to: NextOffset(6) };
    let mut rig = rig_with(broker, clock, Policy { accepted: vec![loss], ..Policy::default() });
    rig.settle();
    assert_eq!(rig.observer.seen().lost, [(Partition(3), 3)]);
    let mut expected = Done::before(NextOffset(6));
    expected.complete_one(Offset(7));
    assert_eq!(rig.accounts[&Partition(3)].done(), expected);
}

#[test]
fn a_log_that_loses_what_was_not_read_yet_stops_the_engine_once_what_was_read_is_done() {
    let mut rig = working_rig();
    write(&rig.broker, 2, 9);
    rig.broker.delete_before("requests", Partition(2), NextOffset(5));
    assert_eq!(rig.settle(), ["drain 0/1", "drain 2/3", "drain 1/2", "drain 3/4"]);
    assert_eq!(rig.parts.faults.get(), None, "what was read is in no log any more");
    rig.accounts[&Partition(2)].commit(Done::before(NextOffset(1)));
    (0..4).for_each(|partition| rig.finish(partition));
    rig.settle();
    assert_eq!(rig.breaks(), [(2, 1, How::Deleted)]);
}

#[test]
fn what_was_read_is_not_waited_for_without_end() {
    let mut rig = working_rig();
    write(&rig.broker, 2, 9);
    rig.broker.delete_before("requests", Partition(2), NextOffset(5));
    rig.settle();
    rig.clock.advance(LAST_DRAIN_MAX);
    rig.settle();
    assert_eq!(rig.breaks(), [(2, 0, How::Deleted)]);
}

#[test]
fn a_topic_made_anew_is_told_with_every_partition_though_its_logs_hold_the_offsets() {
    let mut rig = working_rig();
    rig.broker.make_anew("requests", 4);
    (0..4).for_each(|partition| write(&rig.broker, partition, 9));
    rig.clock.advance(Duration::from_secs(5));
    rig.settle();
    let Some(Fault::LogChanged(breaks)) = rig.parts.faults.get() else { panic!("{:?}", rig.parts.faults) };
    assert!(breaks.breaks.iter().all(|broken| matches!(broken.how, How::MadeAnew { was, is } if was != is)));
    assert_eq!(breaks.arguments().len(), 4);
    assert_eq!(breaks.arguments()[2], "--accept-loss requests:2:0..0");
}

#[test]
fn offsets_of_a_topic_that_is_gone_are_not_taken_for_those_of_the_next() {
    let (broker, clock) = broker();
    write(&broker, 1, 9);
    let mut first = rig(broker.clone(), Arc::clone(&clock));
    first.settle();
    let topic = first.parts.tenure.topic();
    first.group.stop(Duration::ZERO);
    first.settle();
    let mut predecessor = Predecessor::new(&broker);
    let metadata = Metadata { topic, done: Done::before(NextOffset(4)) }.encode();
    predecessor.commit(&[(1, 4, &metadata)]);
    predecessor.member.leave().unwrap();
    broker.make_anew("requests", 4);
    write(&broker, 1, 9);
    let mut rig = rig(broker, clock);
    rig.settle();
    let is = rig.parts.tenure.topic();
    assert_eq!(is, None, "nothing of it is read");
    let [(1, 4, How::MadeAnew { was, .. })] = rig.breaks()[..] else { panic!("{:?}", rig.parts.faults) };
    assert_eq!(Some(was), topic);
}

#[test]
fn a_topic_that_is_gone_stops_the_engine_unless_it_is_back_at_once() {
    let mut rig = working_rig();
    rig.broker.delete("requests");
    rig.clock.advance(Duration::from_secs(5));
    rig.settle();
    assert_eq!(rig.parts.faults.get(), None, "a broker that starts may not know it yet");
    rig.clock.advance(Duration::from_secs(10));
    rig.settle();
    assert_eq!(rig.parts.faults.get(), Some(&Fault::TopicGone { topic: "requests".into() }));
}

#[test]
fn partitions_added_to_the_topic_are_read_from_their_start() {
    let mut rig = working_rig();
    rig.broker.add_partitions("requests", 6);
    write(&rig.broker, 5, 3);
    assert_eq!(rig.settle(), ["grant 4/5 from 0", "grant 5/6 from 0"]);
    assert_eq!((rig.held().len(), rig.parts.faults.get()), (6, None));
}

#[test]
fn where_nothing_is_committed_the_policy_may_be_to_stop() {
    let (broker, clock) = broker();
    let mut predecessor = Predecessor::new(&broker);
    predecessor.commit(&[(0, 0, ""), (1, 0, ""), (3, 0, "")]);
    predecessor.member.leave().unwrap();
    let mut rig = rig_with(broker, clock, Policy { missing: Missing::Stop, ..Policy::default() });
    rig.settle();
    assert_eq!(rig.breaks(), [(2, 0, How::NothingCommitted)]);
}

#[test]
fn an_error_of_the_member_stops_the_engine_only_if_waiting_does_not_mend_it() {
    for (class, stops) in [(Class::Retriable, false), (Class::Unreachable, false), (Class::Fatal, true)] {
        let mut rig = working_rig();
        rig.fails(Step::MemberPoll, BrokerFault::Before(class));
        rig.settle();
        assert_eq!(rig.parts.faults.get().is_some(), stops, "{class:?}");
        assert_eq!(rig.held().len(), 4);
    }
}

#[test]
fn a_stop_drains_every_lease_leaves_the_group_and_ends_the_dataflow() {
    let mut rig = working_rig();
    rig.group.stop(Duration::from_secs(20));
    assert!(rig.group.step(Duration::ZERO));
    assert_eq!(rig.orders(), ["drain 0/1", "drain 2/3", "drain 1/2", "drain 3/4"]);
    // The bound of a stop is not that of a rebalance.
    rig.clock.advance(DRAIN_MAX * 2);
    assert!(rig.group.step(Duration::ZERO));
    assert_eq!(rig.orders(), [""; 0]);
    (0..4).for_each(|partition| rig.finish(partition));
    assert!(!rig.group.step(Duration::ZERO));
    assert_eq!(rig.orders(), ["drop 0/1", "drop 2/3", "stop", "drop 1/2", "drop 3/4", "stop"]);
    assert!(!rig.group.step(Duration::ZERO), "it has left");
    let mut next = rig.broker.member("workers", "requests").unwrap();
    let event = next.poll(Duration::ZERO);
    assert!(matches!(&event, Some(GroupEvent::Assigned(all)) if all.len() == 4), "{event:?}");
}
