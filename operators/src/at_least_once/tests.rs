//! Commits outside of transactions against a simulated broker that fails on demand: whatever goes wrong, no outcome is lost, none is
//! released before its offset is committed, and no offset is committed before its outcomes are in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::broker::simulated::{Fault as BrokerFault, FaultPlan, FaultRule, SimulatedBroker, Step, When};
use crate::broker::{Broker, GroupEvent, Isolation, Member, OffsetCommit, TopicSeen};
use crate::budget::{Budget, BudgetConfig, LeaseAccount};
use crate::clock::{Clock, ManualClock, Moment};
use crate::commit::FAILING_COMMITS;
use crate::fixtures::{Recorder, broker, committed, lease, results};
use crate::lease::{NextOffset, Partition};
use crate::observe::Observer;
use crate::outbox::{Retained, TransactionLimit};

/// What is charged for a record of these tests.
const BYTES: usize = 10;

struct Rig {
    broker: SimulatedBroker,
    clock: Arc<ManualClock>,
    observer: Arc<Recorder>,
    /// It stays a member for as long as it is there.
    member: Box<dyn Member>,
    parts: CommitParts,
    committer: AtLeastOnce,
    accounts: BTreeMap<i32, Arc<LeaseAccount>>,
}

/// A rig that holds the leases of partitions 0 and 1, both from offset 0.
fn rig() -> Rig {
    let (broker, clock) = broker();
    let mut member = broker.member("workers", "requests").unwrap();
    while let Some(event) = member.poll(Duration::ZERO) {
        if let GroupEvent::Assigned(partitions) = event {
            let starts: Vec<_> = partitions.into_iter().map(|partition| (partition, NextOffset(0))).collect();
            member.assign(&starts).unwrap();
        }
    }
    let observer = Arc::<Recorder>::default();
    let parts = CommitParts {
        broker: Arc::new(broker.clone()),
        ownership: member.ownership(),
        outbox: Arc::default(),
        tenure: Arc::default(),
        budget: Arc::new(Budget::new(BudgetConfig { records_max: 100, bytes_max: 1 << 20, partitions: 4 })),
        faults: Arc::default(),
        health: Arc::default(),
        wake_sources: Arc::new(|| ()),
        observer: Arc::clone(&observer) as Arc<dyn Observer>,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
    };
    let config = CommitConfig {
        transactional_id: String::new(),
        group: "workers".into(),
        requests: "requests".into(),
        results: "results".into(),
        dead_letters: "dlq".into(),
        interval: Duration::from_millis(20),
        limit: TransactionLimit { records: 100, bytes: 1 << 20 },
        records_full: 50,
        timeout: Duration::from_secs(30),
    };
    let seen = parts.ownership.look().seen(Duration::ZERO).unwrap().unwrap();
    let TopicSeen::There(Some(topic)) = seen else { panic!("{seen:?}") };
    parts.tenure.topic_is(topic);
    let committer = AtLeastOnce::new(config, parts.clone(), broker.plain_producer().unwrap());
    let mut rig = Rig { broker, clock, observer, member, parts, committer, accounts: BTreeMap::new() };
    for partition in 0..2 {
        let account = Arc::new(LeaseAccount::default());
        rig.parts.tenure.lock().grant(lease(partition, 1), Arc::clone(&account));
        rig.accounts.insert(partition, account);
    }
    rig
}

impl Rig {
    /// The frontiers of both partitions have passed three results each.
    fn offer(&self) {
        for (&partition, account) in &self.accounts {
            let outcomes = results(lease(partition, 1), 0..3);
            self.parts.budget.charge(account, 3, 3 * BYTES);
            let retained = (0..3).map(|index| Retained::new(Arc::clone(&outcomes), index, BYTES));
            self.parts.outbox.offer(lease(partition, 1), account, NextOffset(3), retained);
        }
    }

    fn fails(&self, rules: &[(Step, When, BrokerFault)]) {
        let rules = rules.iter().map(|&(step, when, fault)| FaultRule { step, when, fault }).collect();
        self.broker.set_faults(FaultPlan { rules, faults_max: None });
    }

    /// One step, and time goes on to where the next one is due. Whatever is committed must be in the log, and what is not committed
    /// must still be charged.
    fn step(&mut self) -> Pace {
        let pace = self.committer.step();
        let seen: BTreeSet<String> = self.values().into_iter().collect();
        let committed: Vec<i64> = committed(&self.broker).into_iter().map(|next| next.unwrap_or(0)).collect();
        for partition in 0..2_i32 {
            for offset in 0..committed[usize::try_from(partition).unwrap()] {
                assert!(seen.contains(&format!("{partition}/{offset}")), "{committed:?} and {seen:?}");
            }
        }
        if let Pace::BackOff(moment) | Pace::Until(moment) = pace
            && moment != Moment::NEVER
        {
            self.clock.advance(moment.since(self.clock.now()));
        }
        pace
    }

    fn step_to(&mut self, phase: Phase) {
        for _ in 0..1_000 {
            if self.committer.phase == phase {
                return;
            }
            self.step();
        }
        panic!("1000 steps were not enough for {phase:?}");
    }

    /// Steps until there is nothing to do any more, or there is a fault.
    fn run(&mut self) -> Pace {
        for _ in 0..10_000 {
            let pace = self.step();
            if matches!(pace, Pace::Until(Moment::NEVER) | Pace::Stopped) {
                return pace;
            }
        }
        panic!("10000 steps were not enough: {:?}", self.committer.phase);
    }

    fn values(&self) -> Vec<String> {
        let records = self.broker.records("results", Partition(0), Isolation::ReadCommitted);
        records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
    }

    /// All of [`Rig::offer`] is committed, and nothing is held any more. How many outcomes were seen.
    fn finish(&mut self, why: &str) -> usize {
        assert_eq!(self.run(), Pace::Until(Moment::NEVER), "{why}: {:?}", self.parts.faults.get());
        assert_eq!(committed(&self.broker), [Some(3), Some(3), None, None], "{why}");
        assert_eq!(self.accounts[&1].committed(), NextOffset(3), "{why}");
        assert_eq!(self.parts.budget.in_flight(), 0, "{why}");
        assert_eq!(self.observer.seen().committed.iter().sum::<usize>(), 6, "{why}");
        assert_eq!(self.parts.health.reasons(), [], "{why}");
        self.values().len()
    }
}

#[test]
fn where_nothing_fails_each_outcome_is_sent_once_in_order() {
    let mut rig = rig();
    rig.offer();
    assert_eq!(rig.finish("no fault"), 6);
    assert_eq!(rig.values(), ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]);
}

#[test]
fn whatever_two_calls_fail_no_outcome_is_lost_and_no_offset_is_committed_before_it() {
    use BrokerFault::{After, Before};
    let classes = [Class::Retriable, Class::Abortable, Class::Fatal, Class::Unreachable, Class::Fenced];
    let faults = |step: Step| {
        let both = classes.into_iter().flat_map(|class| [Before(class), After(class)]);
        both.chain([BrokerFault::Unfinished]).map(move |fault| (step, fault)).collect::<Vec<_>>()
    };
    let all: Vec<_> =
        [Step::Send, Step::Drain, Step::CommitOffsets, Step::Init].into_iter().flat_map(faults).collect();
    let mut twice = 0;
    for &first in &all {
        for &second in &all {
            let mut rig = rig();
            // The second failure of a step that fails twice is its next call.
            let again = When::Nth(if first.0 == second.0 { 2 } else { 1 });
            rig.fails(&[(first.0, When::Nth(1), first.1), (second.0, again, second.1)]);
            rig.offer();
            twice += rig.finish(&format!("{first:?}, then {second:?}")) - 6;
        }
    }
    assert!(twice > 0, "records whose acknowledgement was lost were sent again");
}

#[test]
fn an_offset_that_could_not_be_committed_costs_no_outcome_a_second_sending() {
    for class in [Class::Retriable, Class::Abortable, Class::Fatal, Class::Unreachable] {
        let mut rig = rig();
        rig.fails(&[1, 2, 3].map(|nth| (Step::CommitOffsets, When::Nth(nth), BrokerFault::Before(class))));
        rig.offer();
        assert_eq!(rig.finish(&format!("{class:?}")), 6);
        assert_eq!(rig.observer.seen().aborted, 0);
    }
}

#[test]
fn of_a_lease_that_is_lost_nothing_is_committed_and_the_others_go_on() {
    for lost_at in [Phase::Send, Phase::Drain, Phase::Commit] {
        let mut rig = rig();
        rig.offer();
        rig.step_to(lost_at);
        assert!(rig.parts.tenure.lock().end(Partition(1)).is_some());
        assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
        assert_eq!(committed(&rig.broker), [Some(3), None, None, None], "{lost_at:?}");
        assert_eq!((rig.parts.budget.in_flight(), rig.accounts[&1].committed()), (0, NextOffset(0)));
    }
}

#[test]
fn a_member_that_has_lost_its_place_commits_nothing_and_is_not_at_fault() {
    let mut rig = rig();
    rig.offer();
    rig.step_to(Phase::Commit);
    rig.member.leave().unwrap();
    for _ in 0..5 {
        assert!(matches!(rig.step(), Pace::BackOff(_)));
    }
    for partition in 0..2 {
        rig.parts.tenure.lock().end(Partition(partition));
    }
    assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
    assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 0));
}

#[test]
fn records_that_are_not_acknowledged_are_waited_for_and_a_stop_is_not_held_up_by_them() {
    let mut rig = rig();
    rig.fails(&[(Step::Drain, When::Chance(1.0), BrokerFault::Unfinished)]);
    rig.offer();
    rig.step_to(Phase::Drain);
    for _ in 0..20 {
        assert!(matches!(rig.step(), Pace::BackOff(_)), "where it may be stopped");
        rig.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(rig.parts.health.reasons()[0].0, FAILING_COMMITS);
    rig.fails(&[]);
    assert_eq!((rig.finish("a broker that came back"), rig.observer.seen().aborted), (6, 0));
}

#[test]
fn a_full_queue_is_drained_and_filled_again() {
    let mut rig = rig();
    drop(rig.broker.clone().queue_records_max(1));
    rig.offer();
    assert_eq!(rig.finish("a queue of one"), 6);
}

#[test]
fn what_no_further_call_would_change_stops_the_engine() {
    for (step, class) in [
        (Step::Send, Class::Refused),
        (Step::Send, Class::TooLarge),
        (Step::Drain, Class::Refused),
        (Step::CommitOffsets, Class::Refused),
        (Step::Init, Class::Refused),
    ] {
        let mut rig = rig();
        let rebuilt = (Step::Drain, When::Nth(1), BrokerFault::Before(Class::Fatal));
        rig.fails(&[(step, When::Nth(1), BrokerFault::Before(class)), rebuilt]);
        rig.offer();
        assert_eq!(rig.run(), Pace::Stopped, "{step:?}");
        let fault = rig.parts.faults.get();
        assert!(matches!(fault, Some(Fault::Broker(error)) if error.class == class), "{fault:?}");
        assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 6), "{step:?}");
    }
}

#[test]
fn the_process_is_unready_while_outcomes_are_sent_in_vain_and_ready_after_the_next_commit() {
    for step in [Step::Drain, Step::CommitOffsets] {
        let mut rig = rig();
        rig.fails(&[(step, When::Chance(1.0), BrokerFault::Before(Class::Unreachable))]);
        rig.offer();
        while rig.parts.health.is_ready() {
            rig.step();
            assert!(rig.clock.now() < Moment::START.after(Duration::from_secs(30)), "it is never told");
        }
        assert_eq!(rig.parts.health.reasons()[0].0, FAILING_COMMITS);
        rig.fails(&[]);
        rig.finish(&format!("{step:?}"));
    }
}

#[test]
fn nothing_is_committed_of_a_topic_that_was_made_anew_and_the_topic_is_doubted() {
    let mut rig = rig();
    rig.offer();
    rig.broker.make_anew("requests", 4);
    for _ in 0..100 {
        rig.step();
    }
    assert!(rig.parts.tenure.is_doubted());
    assert_eq!(committed(&rig.broker), [None; 4]);
    assert_eq!(rig.values().len(), 6, "what is seen is not sent once more");
    assert!(!rig.parts.health.is_ready() && rig.parts.faults.get().is_none(), "the group thread decides");
}

#[test]
fn a_strangers_commit_that_stands_stops_the_engine() {
    let mut rig = rig();
    rig.offer();
    rig.run();
    let offset = OffsetCommit { partition: Partition(0), next: NextOffset(1), metadata: String::new() };
    rig.broker.commit_as_a_stranger("workers", "requests", &[offset]);
    for _ in 0..21 {
        rig.clock.advance(Duration::from_secs(1));
        rig.committer.step();
        rig.committer.step();
    }
    let (partition, found, ours) = (Partition(0), Some(NextOffset(1)), NextOffset(3));
    assert_eq!(rig.parts.faults.get(), Some(&Fault::ForeignCommit { partition, found, ours }));
}
