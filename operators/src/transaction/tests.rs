//! The transaction thread against a simulated broker that fails on demand: whatever goes wrong, each outcome is seen once, with its
//! offset, and its budget comes back after that and not before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::broker::simulated::{
    Fault as BrokerFault, FaultPlan, FaultRule, OwnedRecord, SimulatedBroker, Step, When,
};
use crate::broker::{Broker, GroupEvent, Isolation, Member, OffsetCommit, TopicSeen};
use crate::budget::{Budget, BudgetConfig, LeaseAccount, Record};
use crate::clock::{Clock, ManualClock};
use crate::commit::FAILING_COMMITS;
use crate::done::Done;
use crate::fixtures::{Recorder, broker, committed, lease, results};
use crate::lease::NextOffset;
use crate::lease::Offset;
use crate::observe::Observer;
use crate::outbox::{Retained, TransactionLimit};
use crate::outcome::{Kind, Outcomes};

const TIMEOUT: Duration = Duration::from_secs(30);
const ID: &str = "tidemill.workers.one";
/// What is charged for a record of these tests.
const BYTES: usize = 10;

struct Rig {
    broker: SimulatedBroker,
    clock: Arc<ManualClock>,
    observer: Arc<Recorder>,
    /// It stays a member for as long as it is there.
    member: Box<dyn Member>,
    parts: CommitParts,
    committer: ExactlyOnce,
    accounts: BTreeMap<i32, Arc<LeaseAccount>>,
    woken: Arc<AtomicUsize>,
    offered: usize,
    /// Whether leases were lost: what was in flight for them is released without being seen.
    lossy: bool,
}

/// A rig that holds the leases of partitions 0 and 1, both from offset 0.
fn rig() -> Rig {
    rig_with(TransactionLimit { records: 100, bytes: 1 << 20 })
}

fn rig_with(limit: TransactionLimit) -> Rig {
    let (broker, clock) = broker();
    let producer = broker.producer(ID).unwrap();
    let mut member = broker.member("workers", "requests").unwrap();
    while let Some(event) = member.poll(Duration::ZERO) {
        if let GroupEvent::Assigned(partitions) = event {
            let starts: Vec<_> = partitions.into_iter().map(|partition| (partition, NextOffset(0))).collect();
            member.assign(&starts).unwrap();
        }
    }
    let (observer, woken) = (Arc::<Recorder>::default(), Arc::<AtomicUsize>::default());
    let wakes = Arc::clone(&woken);
    let parts = CommitParts {
        broker: Arc::new(broker.clone()),
        ownership: member.ownership(),
        outbox: Arc::default(),
        tenure: Arc::default(),
        budget: Arc::new(Budget::new(BudgetConfig { records_max: 100, bytes_max: 1 << 20, partitions: 4 })),
        faults: Arc::default(),
        health: Arc::default(),
        wake_sources: Arc::new(move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        }),
        observer: Arc::clone(&observer) as Arc<dyn Observer>,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
    };
    let config = CommitConfig {
        transactional_id: ID.into(),
        group: "workers".into(),
        requests: "requests".into(),
        results: "results".into(),
        dead_letters: "dlq".into(),
        interval: Duration::from_millis(20),
        limit,
        records_full: 50,
        timeout: TIMEOUT,
    };
    let committer = ExactlyOnce::new(config, parts.clone(), producer);
    let seen = parts.ownership.look().seen(Duration::ZERO).unwrap().unwrap();
    let TopicSeen::There(Some(topic)) = seen else { panic!("{seen:?}") };
    parts.tenure.topic_is(topic);
    let (accounts, offered, lossy) = (BTreeMap::new(), 0, false);
    let mut rig = Rig { broker, clock, observer, member, parts, committer, accounts, woken, offered, lossy };
    for partition in 0..2 {
        let account = Arc::new(LeaseAccount::default());
        rig.parts.tenure.lock().grant(lease(partition, 1), Arc::clone(&account));
        rig.accounts.insert(partition, account);
    }
    rig
}

impl Rig {
    /// The frontier of a partition has passed these results.
    fn offer(&mut self, partition: i32, offsets: std::ops::Range<i64>) {
        let next = NextOffset(offsets.end);
        self.put(partition, next, &results(lease(partition, 1), offsets));
    }

    fn put(&mut self, partition: i32, next: NextOffset, outcomes: &Arc<Outcomes>) {
        let account = &self.accounts[&partition];
        self.parts.budget.charge(account, outcomes.len(), outcomes.len() * BYTES);
        self.offered += outcomes.len();
        let retained = (0..outcomes.len()).map(|index| Retained::new(Arc::clone(outcomes), index, BYTES));
        self.parts.outbox.offer(lease(partition, 1), account, next, retained);
    }

    /// Two partitions have results, one of them a dead letter besides.
    fn offer_some(&mut self) {
        self.offer(0, 0..3);
        let mut letter = Outcomes::new(0);
        letter.push(lease(1, 1), Offset(0), Kind::DeadLetter(1), |records| {
            records.push(None, Some(b"1/0"));
        });
        self.put(1, NextOffset(1), &Arc::new(letter));
        self.offer(1, 1..3);
    }

    fn lose(&mut self, partition: i32) {
        assert!(self.parts.tenure.lock().end(Partition(partition)).is_some());
        self.lossy = true;
    }

    fn fails(&self, rules: &[(Step, When, BrokerFault)]) {
        let rules = rules.iter().map(|&(step, when, fault)| FaultRule { step, when, fault }).collect();
        self.broker.set_faults(FaultPlan { rules, faults_max: None });
    }

    /// One step, and time goes on to where the next one is due. What is not in flight any more must have been seen.
    fn step(&mut self) -> Pace {
        let pace = self.committer.step();
        let seen = self.values("results", 0).len() + self.values("dlq", 1).len();
        let released = self.offered - self.parts.budget.in_flight();
        assert!(self.lossy || released <= seen, "{released} released and {seen} seen");
        if let Pace::BackOff(moment) | Pace::Until(moment) = pace
            && moment != Moment::NEVER
        {
            self.clock.advance(moment.since(self.clock.now()));
        }
        pace
    }

    fn step_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if is_so(self) {
                return;
            }
            self.step();
        }
        panic!("10000 steps were not enough for {what}");
    }

    fn step_to(&mut self, phase: Phase) {
        self.step_until(&format!("{phase:?}"), |rig| rig.committer.phase == phase);
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

    fn values(&self, topic: &str, partition: i32) -> Vec<String> {
        let records = self.broker.records(topic, Partition(partition), Isolation::ReadCommitted);
        let value = |record: OwnedRecord| String::from_utf8(record.value.unwrap()).unwrap();
        records.into_iter().map(value).collect()
    }

    /// All of [`Rig::offer_some`] is committed, once, and nothing is held any more.
    fn assert_all_done(&mut self, why: &str) {
        assert_eq!(self.run(), Pace::Until(Moment::NEVER), "{why}: {:?}", self.parts.faults.get());
        assert_eq!(self.values("results", 0), ["0/0", "0/1", "0/2", "1/1", "1/2"], "{why}");
        assert_eq!(self.values("dlq", 1), ["1/0"], "{why}");
        assert_eq!(committed(&self.broker), [Some(3), Some(3), None, None], "{why}");
        assert_eq!(self.accounts[&1].committed(), NextOffset(3), "{why}");
        assert_eq!(self.parts.budget.in_flight(), 0, "{why}");
        assert_eq!(self.observer.seen().committed.iter().sum::<usize>(), 6, "{why}");
        assert_eq!(self.parts.health.reasons(), [], "{why}");
    }
}

/// Every way in which a step of the protocol can fail and the engine goes on.
fn failures(step: Step) -> Vec<BrokerFault> {
    use BrokerFault::{After, Before};
    let classes = [Class::Retriable, Class::Abortable, Class::Fatal, Class::Unreachable];
    let both = classes.into_iter().flat_map(|class| [Before(class), After(class)]);
    // What must be aborted was not committed; and a record that was taken is never said not to have been.
    let lies = |fault: &BrokerFault| match step {
        Step::Commit => *fault == After(Class::Abortable),
        Step::Send => matches!(fault, After(Class::Retriable | Class::Unreachable)),
        _ => false,
    };
    both.filter(|fault| !lies(fault)).collect()
}

#[test]
fn whatever_two_calls_fail_each_outcome_is_seen_once_and_its_budget_comes_back_after_that() {
    let steps =
        [Step::Begin, Step::Send, Step::Drain, Step::SendOffsets, Step::Commit, Step::Abort, Step::Init];
    let all: Vec<(Step, BrokerFault)> = steps
        .into_iter()
        .flat_map(|step| failures(step).into_iter().map(move |fault| (step, fault)))
        .collect();
    for &first in &all {
        for &second in &all {
            let mut rig = rig();
            // The second failure of a step that fails twice is its next call.
            let again = When::Nth(if first.0 == second.0 { 2 } else { 1 });
            rig.fails(&[(first.0, When::Nth(1), first.1), (second.0, again, second.1)]);
            rig.offer_some();
            rig.assert_all_done(&format!("{first:?}, then {second:?}"));
        }
    }
}

#[test]
fn nothing_is_released_and_no_source_is_woken_before_the_commit_is_acknowledged() {
    let mut rig = rig();
    rig.offer_some();
    rig.parts.budget.starve();
    rig.step_to(Phase::Commit);
    assert_eq!((rig.parts.budget.in_flight(), rig.woken.load(Ordering::SeqCst)), (6, 0));
    rig.step();
    assert_eq!((rig.parts.budget.in_flight(), rig.woken.load(Ordering::SeqCst)), (0, 1));
    assert_eq!(rig.accounts[&0].committed(), NextOffset(3));
    rig.assert_all_done("no fault");
    assert_eq!(rig.observer.seen().committed, [6]);
}

#[test]
fn offsets_without_outcomes_are_committed_too() {
    let mut rig = rig();
    rig.put(0, NextOffset(7), &Arc::default());
    rig.run();
    assert_eq!(committed(&rig.broker), [Some(7), None, None, None]);
}

#[test]
fn a_lease_that_ended_before_the_transaction_is_left_out_of_it() {
    let mut rig = rig();
    rig.offer_some();
    rig.step_to(Phase::Begin);
    rig.lose(1);
    rig.run();
    assert_eq!(rig.values("results", 0), ["0/0", "0/1", "0/2"]);
    assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![Some(3), None, None, None], 0));
    assert_eq!(rig.observer.seen().aborted, 0);
}

#[test]
fn a_lease_lost_while_its_outcomes_are_sent_costs_the_transaction_and_none_of_them_is_seen() {
    for lost_at in [Phase::Send, Phase::Drain, Phase::Offsets] {
        let mut rig = rig();
        rig.offer_some();
        rig.step_to(lost_at);
        rig.lose(1);
        rig.run();
        assert_eq!(rig.values("results", 0), ["0/0", "0/1", "0/2"], "{lost_at:?}");
        assert!(rig.values("dlq", 1).is_empty(), "{lost_at:?}");
        assert_eq!(committed(&rig.broker), [Some(3), None, None, None], "{lost_at:?}");
        assert_eq!((rig.parts.budget.in_flight(), rig.observer.seen().aborted), (0, 1), "{lost_at:?}");
    }
}

#[test]
fn a_member_that_has_lost_its_place_commits_nothing_and_is_not_at_fault() {
    let mut rig = rig();
    rig.fails(&[(Step::MemberPoll, When::Nth(1), BrokerFault::Expelled)]);
    rig.offer_some();
    rig.step_to(Phase::Offsets);
    assert!(matches!(rig.member.poll(Duration::ZERO), Some(GroupEvent::Lost(_))));
    for _ in 0..20 {
        rig.step();
    }
    assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 6));
    rig.lose(0);
    rig.lose(1);
    assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
    assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 0));
    assert!(rig.values("results", 0).is_empty() && rig.parts.faults.get().is_none());
}

#[test]
fn a_commit_that_needed_a_second_call_is_followed_by_a_new_producer() {
    let mut rig = rig();
    rig.fails(&[(Step::Commit, When::Nth(1), BrokerFault::After(Class::Retriable))]);
    rig.offer_some();
    let epochs = |rig: &Rig| rig.broker.history_hash();
    rig.step_until("the acknowledgement", |rig| rig.parts.budget.in_flight() == 0);
    let (before, phase) = (epochs(&rig), rig.committer.phase);
    assert_eq!(phase, Phase::Rebuild, "the old one could be hit by a late request of the first call");
    rig.step();
    assert_ne!(epochs(&rig), before, "a producer was made");
    rig.assert_all_done("a lost answer");
    assert_eq!((rig.observer.seen().aborted, rig.observer.seen().rebuilt), (0, 1));
}

#[test]
fn a_transaction_that_nears_its_timeout_is_given_up_and_sent_again() {
    // Records that are never acknowledged, and a commit that never answers.
    for (step, fault) in
        [(Step::Drain, BrokerFault::Unfinished), (Step::Commit, BrokerFault::Before(Class::Retriable))]
    {
        let mut rig = rig();
        rig.fails(&[(step, When::Chance(1.0), fault)]);
        rig.offer_some();
        rig.step_until("the call that does not end", |rig| rig.broker.fault_count() > 0);
        let begun = rig.committer.round.begun;
        while rig.observer.seen().aborted == 0 {
            rig.clock.advance(Duration::from_millis(500));
            rig.step();
            let open = rig.clock.now().since(begun);
            assert!(open < TIMEOUT, "{step:?}: after {open:?} the broker would have aborted it");
        }
        rig.fails(&[]);
        rig.assert_all_done(&format!("{step:?}"));
    }
}

#[test]
fn a_local_queue_that_stays_full_is_not_waited_for_longer_than_a_transaction_may_take() {
    let mut rig = rig();
    // What is never acknowledged makes no room.
    drop(rig.broker.clone().queue_records_max(1));
    rig.fails(&[(Step::Drain, When::Chance(1.0), BrokerFault::Unfinished)]);
    rig.offer_some();
    rig.step_until("a full queue", |rig| rig.broker.fault_count() > 0);
    while rig.observer.seen().aborted == 0 {
        rig.clock.advance(Duration::from_millis(500));
        rig.step();
        assert!(rig.clock.now() < Moment::START.after(TIMEOUT), "the broker would have aborted it");
    }
    assert!(!rig.parts.health.is_ready());
    rig.fails(&[]);
    rig.assert_all_done("a full queue");
}

#[test]
fn fenced_by_a_rival_it_stops_but_not_if_only_its_time_was_over() {
    let mut rig = rig();
    rig.offer_some();
    rig.step_to(Phase::Commit);
    let rival = rig.broker.producer(ID).unwrap();
    assert_eq!(rig.run(), Pace::Stopped);
    assert_eq!(rig.parts.faults.get(), Some(&Fault::Fenced { transactional_id: ID.into() }));
    assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 6));
    drop(rival);

    let mut rig = self::rig();
    rig.fails(&[(Step::Commit, When::Nth(1), BrokerFault::Before(Class::Fenced))]);
    rig.offer_some();
    rig.step_to(Phase::Commit);
    rig.clock.advance(TIMEOUT / 10 * 8);
    rig.assert_all_done("its time was over");
}

#[test]
fn what_no_further_call_would_change_stops_the_engine() {
    for step in [Step::Begin, Step::Send, Step::SendOffsets, Step::Commit, Step::Init] {
        let mut rig = rig();
        let rebuilt = (Step::Drain, When::Nth(1), BrokerFault::Before(Class::Fatal));
        rig.fails(&[(step, When::Nth(1), BrokerFault::Before(Class::Refused)), rebuilt]);
        rig.offer_some();
        assert_eq!(rig.run(), Pace::Stopped, "{step:?}");
        let fault = rig.parts.faults.get();
        assert!(matches!(fault, Some(Fault::Broker(error)) if error.class == Class::Refused), "{fault:?}");
        // The next producer of the id ends what the engine has left open.
        drop(rig.broker.producer(ID).unwrap());
        assert_eq!((committed(&rig.broker), rig.parts.budget.in_flight()), (vec![None; 4], 6), "{step:?}");
    }
}

/// Commits an offset of partition 0 for the group, under an id of its own.
fn stranger_commits(rig: &Rig, next: i64) {
    let mut stranger = rig.broker.producer("stranger").unwrap();
    stranger.begin().unwrap();
    let offset = OffsetCommit { partition: Partition(0), next: NextOffset(next), metadata: String::new() };
    stranger.send_offsets("requests", &[offset], &rig.parts.ownership.token().unwrap()).unwrap();
    stranger.commit().unwrap();
}

/// A transaction of unknown outcome, and meanwhile somebody else commits.
fn unresolved_rig() -> Rig {
    let mut rig = rig();
    rig.fails(&[(Step::Commit, When::Nth(1), BrokerFault::Before(Class::Fatal))]);
    rig.offer_some();
    rig.step_to(Phase::Rebuild);
    stranger_commits(&rig, 2);
    rig
}

#[test]
fn somebody_elses_commit_while_a_transaction_is_unresolved_stops_the_engine() {
    let mut rig = unresolved_rig();
    assert_eq!(rig.run(), Pace::Stopped);
    let (found, from, to) = (NextOffset(2), NextOffset(0), NextOffset(3));
    let expected = Fault::Unreconciled { partition: Partition(0), found, from, to };
    assert_eq!(rig.parts.faults.get(), Some(&expected));
    assert_eq!((rig.parts.budget.in_flight(), rig.values("results", 0).len()), (6, 0));
}

#[test]
fn the_commit_of_a_partitions_new_owner_is_no_fault_though_its_loss_is_heard_of_later() {
    let mut rig = unresolved_rig();
    rig.step_to(Phase::Reconcile);
    for _ in 0..3 {
        rig.step();
    }
    assert_eq!(rig.parts.faults.get(), None);
    rig.lose(0);
    assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
    assert_eq!(committed(&rig.broker), [Some(2), Some(3), None, None]);
    assert_eq!(
        (rig.values("results", 0), rig.parts.budget.in_flight()),
        (vec!["1/1".into(), "1/2".into()], 0)
    );
}

#[test]
fn the_process_is_unready_while_commits_fail_for_long_and_ready_after_the_next_one() {
    // A broker that is away for a while, and one that answers and refuses each time.
    let away = vec![
        (Step::Commit, BrokerFault::Before(Class::Fatal)),
        (Step::Init, BrokerFault::Before(Class::Unreachable)),
    ];
    let refusing = vec![(Step::SendOffsets, BrokerFault::Before(Class::Abortable))];
    for (rules, what) in [(away, "make the transactional producer"), (refusing, "add offsets")] {
        let mut rig = rig();
        let rules: Vec<_> = rules.into_iter().map(|(step, fault)| (step, When::Chance(1.0), fault)).collect();
        rig.fails(&rules);
        rig.offer_some();
        while rig.parts.health.is_ready() {
            rig.step();
            assert!(rig.clock.now() < Moment::START.after(TIMEOUT), "it is never told");
        }
        let (waited, aborts) = (rig.clock.now().since(Moment::START), rig.observer.seen().aborted);
        assert!(
            waited > Duration::from_secs(5) || aborts > 3,
            "{waited:?} and {aborts} aborts are nothing yet"
        );
        let reasons = rig.parts.health.reasons();
        assert_eq!((reasons.len(), reasons[0].0.as_str()), (1, FAILING_COMMITS));
        assert!(reasons[0].1.contains(what), "{reasons:?}");
        rig.fails(&[]);
        rig.assert_all_done(what);
    }
}

#[test]
fn an_abort_or_a_moment_without_the_broker_leaves_the_process_ready() {
    let mut rig = rig();
    let fault = BrokerFault::Before(Class::Abortable);
    rig.fails(&[(Step::SendOffsets, When::Nth(1), fault), (Step::SendOffsets, When::Nth(2), fault)]);
    rig.offer_some();
    rig.step_until("two aborts", |rig| {
        assert!(rig.parts.health.is_ready());
        rig.observer.seen().aborted == 2
    });
    rig.assert_all_done("two aborts");
}

#[test]
fn more_than_a_transaction_holds_goes_in_several_and_none_waits_for_the_interval() {
    let mut rig = rig_with(TransactionLimit { records: 2, bytes: 1 << 20 });
    rig.offer_some();
    let begun = rig.clock.now();
    assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
    assert_eq!((rig.observer.seen().committed, rig.clock.now()), (vec![2, 2, 2], begun));
    // Within a partition in its order; between them in turn.
    assert_eq!(rig.values("results", 0), ["0/0", "0/1", "1/1", "0/2", "1/2"]);
    assert_eq!(
        (rig.values("dlq", 1), committed(&rig.broker)),
        (vec!["1/0".into()], vec![Some(3), Some(3), None, None])
    );
}

#[test]
fn nothing_is_committed_of_a_topic_that_was_made_anew_and_the_topic_is_doubted() {
    let mut rig = rig();
    rig.offer_some();
    rig.step_to(Phase::Drain);
    rig.broker.make_anew("requests", 4);
    rig.step_to(Phase::Look);
    assert!(!rig.parts.tenure.is_doubted(), "it was asked before: its answer is of that time");
    let mut rig = self::rig();
    rig.broker.make_anew("requests", 4);
    rig.offer_some();
    rig.step_until("the doubt", |rig| rig.parts.tenure.is_doubted());
    for _ in 0..100 {
        rig.step();
    }
    assert_eq!(committed(&rig.broker), [None; 4]);
    assert_eq!(rig.values("results", 0), [""; 0]);
    assert!(!rig.parts.health.is_ready() && rig.parts.faults.get().is_none(), "the group thread decides");
}

#[test]
fn each_commit_says_of_which_topic_it_is() {
    let mut rig = rig();
    rig.offer(0, 0..3);
    rig.run();
    let partitions = [Partition(0)];
    let committed = rig.broker.admin().unwrap().committed("workers", "requests", &partitions).unwrap();
    let committed = committed[0].as_ref().unwrap();
    let metadata = Metadata::decode(committed.next, &committed.metadata).unwrap();
    assert_eq!((metadata.topic, metadata.done), (rig.parts.tenure.topic(), Done::before(NextOffset(3))));
}

/// A transaction may hold nothing but the start of a partition, which is to be on record before anything is read.
#[test]
fn a_start_that_is_owed_is_put_on_record_though_the_first_commit_of_it_was_not_done() {
    let mut rig = rig();
    let account = rig.parts.budget.account(Partition(0), Done::before(NextOffset(0)), Record::Owed);
    let account = Arc::new(account);
    rig.lose(0);
    rig.parts.tenure.lock().grant(lease(0, 2), Arc::clone(&account));
    rig.fails(&[(Step::Commit, When::Nth(1), BrokerFault::Before(Class::Fatal))]);
    rig.parts.outbox.offer(lease(0, 2), &account, NextOffset(0), []);
    assert_eq!(rig.run(), Pace::Until(Moment::NEVER));
    assert_eq!((committed(&rig.broker)[0], account.is_owed()), (Some(0), false));
}

/// A program that is no member commits, as Kafka lets it, and lets time go by.
fn a_stranger_commits(rig: &mut Rig, next: i64) {
    let (partition, next) = (Partition(0), NextOffset(next));
    let offset = OffsetCommit { partition, next, metadata: String::new() };
    rig.broker.commit_as_a_stranger("workers", "requests", &[offset]);
}

#[test]
fn a_strangers_commit_that_stands_stops_the_engine() {
    let mut rig = rig();
    rig.offer(0, 0..3);
    rig.run();
    a_stranger_commits(&mut rig, 1);
    for _ in 0..9 {
        rig.clock.advance(Duration::from_secs(1));
        rig.run();
    }
    assert_eq!(rig.parts.faults.get(), None);
    for _ in 0..11 {
        rig.clock.advance(Duration::from_secs(1));
        rig.run();
    }
    let (partition, found, ours) = (Partition(0), Some(NextOffset(1)), NextOffset(3));
    assert_eq!(rig.parts.faults.get(), Some(&Fault::ForeignCommit { partition, found, ours }));
}

#[test]
fn a_strangers_commit_that_is_overwritten_changes_nothing() {
    let mut rig = rig();
    rig.offer(0, 0..3);
    rig.run();
    for round in 1..3 {
        a_stranger_commits(&mut rig, 1);
        rig.clock.advance(Duration::from_secs(10));
        rig.run();
        rig.offer(0, 3 * round..3 * round + 3);
        rig.run();
        rig.clock.advance(Duration::from_secs(10));
        rig.run();
    }
    assert_eq!((rig.parts.faults.get(), committed(&rig.broker)[0]), (None, Some(9)));
}
