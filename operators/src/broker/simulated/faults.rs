//! What goes wrong, and when: a plan as plain data, carried out by a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broker::Class;

/// A step of the protocol that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Making a producer of the engine's.
    Init,
    /// [`Producer::begin`](crate::broker::Producer::begin).
    Begin,
    /// [`Producer::send`](crate::broker::Producer::send).
    Send,
    /// [`Producer::drain`](crate::broker::Producer::drain).
    Drain,
    /// [`Producer::send_offsets`](crate::broker::Producer::send_offsets).
    SendOffsets,
    /// [`Ownership::commit`](crate::broker::Ownership::commit).
    CommitOffsets,
    /// [`Producer::commit`](crate::broker::Producer::commit).
    Commit,
    /// [`Producer::abort`](crate::broker::Producer::abort).
    Abort,
    /// [`Member::committed`](crate::broker::Member::committed).
    Committed,
    /// [`Member::poll`](crate::broker::Member::poll).
    MemberPoll,
    /// [`Queue::poll`](crate::broker::Queue::poll), where there are records to bring.
    QueuePoll,
}

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has done nothing. With [`Class::Retriable`], the same call again does it.
    Before(Class),
    /// It fails though it was done: the answer was lost. With [`Class::Retriable`], the same call again succeeds. Not for a commit
    /// with [`Class::Abortable`], which promises that nothing was committed.
    After(Class),
    /// [`Step::Drain`]: some records are still under way when the wait is over.
    Unfinished,
    /// [`Step::MemberPoll`]: the group has taken the member out, which hears of it now.
    Expelled,
    /// [`Step::QueuePoll`]: up to so many offsets before the position are delivered again.
    Again(u32),
    /// [`Step::QueuePoll`]: for so long nothing new is seen of the partition.
    Hidden(Duration),
    /// [`Step::QueuePoll`]: not more than so many records come.
    Short(usize),
}

/// At which calls of a step a fault happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At the n-th call of the step, counted from 1 over all producers and members of the broker, since the plan was set.
    Nth(u64),
    /// At each call, with this probability.
    Chance(f64),
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaultRule {
    /// At which step.
    pub step: Step,
    /// At which of its calls.
    pub when: When,
    /// In which way.
    pub fault: Fault,
}

/// Everything that goes wrong. The first rule that applies to a call is carried out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// The rules, in order.
    pub rules: Vec<FaultRule>,
    /// How many faults there are at most, so that a run with chances comes to its end.
    pub faults_max: Option<u64>,
}

/// A plan in progress.
#[derive(Debug)]
pub(super) struct Faults {
    plan: FaultPlan,
    random: Random,
    calls: BTreeMap<Step, u64>,
    count: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { plan: FaultPlan::default(), random: Random(seed), calls: BTreeMap::new(), count: 0 }
    }

    /// Starts a new plan: calls and faults are counted from here.
    pub(super) fn set(&mut self, plan: FaultPlan) {
        let lies =
            |rule: &FaultRule| rule.step == Step::Commit && rule.fault == Fault::After(Class::Abortable);
        assert!(!plan.rules.iter().any(lies), "no broker has committed what it says must be aborted");
        self.plan = plan;
        self.calls.clear();
        self.count = 0;
    }

    /// How many faults there have been.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What goes wrong at this call of the step.
    pub(super) fn next(&mut self, step: Step) -> Option<Fault> {
        let call = self.calls.entry(step).or_default();
        *call += 1;
        if self.plan.faults_max.is_some_and(|most| self.count >= most) {
            return None;
        }
        let (call, random) = (*call, &mut self.random);
        let rule = self.plan.rules.iter().filter(|rule| rule.step == step).find(|rule| match rule.when {
            When::Nth(n) => n == call,
            When::Chance(chance) => random.chance(chance),
        })?;
        self.count += 1;
        Some(rule.fault)
    }

    /// The seed's next numbers, for everything that is left to chance beside the plan.
    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

/// A stream of numbers from a seed (`SplitMix64`).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let scaled = (self.next() >> 32) * u64::from(bound);
        u32::try_from(scaled >> 32).expect("the product of two 32-bit numbers has 64 bits")
    }

    fn chance(&mut self, chance: f64) -> bool {
        f64::from(self.below(1 << 31)) < chance * f64::from(1u32 << 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(when: When, faults_max: Option<u64>) -> FaultPlan {
        let rule = FaultRule { step: Step::Commit, when, fault: Fault::Before(Class::Fatal) };
        FaultPlan { rules: vec![rule], faults_max }
    }

    #[test]
    fn the_nth_call_fails_and_no_other() {
        let mut faults = Faults::new(1);
        faults.set(plan(When::Nth(2), None));
        let failed: Vec<bool> = (0..4).map(|_| faults.next(Step::Commit).is_some()).collect();
        assert_eq!(failed, [false, true, false, false]);
        assert_eq!(faults.next(Step::Abort), None);
    }

    #[test]
    fn a_seed_decides_every_chance() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            faults.set(plan(When::Chance(0.3), None));
            (0..1000).map(|_| faults.next(Step::Commit).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let hits = run(7).iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&hits), "{hits} of 1000 with a chance of 0.3");
    }

    #[test]
    fn a_plan_ends_with_its_last_fault() {
        let mut faults = Faults::new(1);
        faults.set(plan(When::Chance(1.0), Some(2)));
        let failed: Vec<bool> = (0..4).map(|_| faults.next(Step::Commit).is_some()).collect();
        assert_eq!(failed, [true, true, false, false]);
        assert_eq!(faults.count(), 2);
    }
}
