//! When a window gives up a batch: now, with a reason and a size, or not before a moment.
//!
//! *Late binding* is common to all policies: while every executor is busy nothing closes. The window goes on filling, whoever comes meanwhile may
//! still have a turn in the batch, and nobody is later for it.
//!
//! A static policy is obeyed to the letter: a batch is so many rows, or what is there when the oldest has waited so long.
//!
//! With an objective (*SLO*), the time from poll to outcome, size and wait follow from what batches cost ([`CostModel`]) and from what the
//! device is doing:
//!
//! - *Size*. The efficient one at most, and no more than is done in half of the time there is: a row that has just missed a batch waits
//!   for that one and then runs in the next. Once the oldest row can't be saved any more, the efficient size empties the backlog soonest.
//! - *Wait*. An executor that is idle takes what there is, unless its time is in demand: on a device that was busy for a share `d` of its
//!   time lately, rows may wait for others for a share `d` of what their objective leaves beside the run. So nobody waits on an idle
//!   machine, on a busy one batches save the time that others need, and no wait goes past the latest safe start.

use std::time::Duration;

use crate::catalog::BatchPolicy;
use crate::clock::Moment;
use crate::cost::CostModel;
use crate::observe::CloseReason;

/// The share of an objective that is planned with, in tenths. The rest is for what no cost of batches tells: threads that wake late.
const PLANNED_TENTHS: u32 = 9;

/// While all executors are busy, a batch that is full or due is handed over if each of them has less than this to do before it would be
/// done: of batches so short a hand-off takes a good part of the time, and one wake-up of each thread can serve several.
const SHORT: Duration = Duration::from_millis(2);

/// How fast the demand for a device is forgotten.
const DEMAND_MEMORY: Duration = Duration::from_secs(1);

/// The rows of a window; there is at least one.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Their number.
    pub rows: usize,
    /// When the oldest was polled.
    pub oldest: Moment,
}

/// What a device that takes at least one more batch looks like.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Whether an executor has nothing to do.
    pub idle: bool,
    /// How many batches wait for each executor already, beside the one that it runs.
    pub ahead: usize,
    /// The share of its time for which it was busy lately, from 0 to 1.
    pub demand: f64,
}

impl Offer {
    /// Whether a batch of so many rows is handed over before an executor is free. The others that wait are taken to cost as much.
    fn takes_ahead(self, cost: &CostModel, rows: usize) -> bool {
        let took = cost.safe(rows);
        let batches = u32::try_from(self.ahead).unwrap_or(u32::MAX).saturating_add(1);
        // Of what nobody has seen run yet it is not known that several are short.
        if took.is_zero() { self.ahead == 0 } else { took.saturating_mul(batches) < SHORT }
    }
}

/// What a window does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Gives up its oldest rows.
    Close {
        /// Why.
        reason: CloseReason,
        /// How many, at most as many as there are.
        rows: usize,
    },
    /// Nothing before this moment, unless more rows come or a batch is finished.
    Wait(Moment),
}

/// What a window of this policy does now.
pub fn decide(
    policy: BatchPolicy,
    now: Moment,
    waiting: Waiting,
    cost: &CostModel,
    device: Offer,
) -> Decision {
    match policy {
        BatchPolicy::Static { size_max, delay_max } => {
            let due = waiting.oldest.after(delay_max);
            let rows = waiting.rows.min(size_max);
            if !device.idle && (rows == size_max || due <= now) && !device.takes_ahead(cost, rows) {
                Decision::Wait(Moment::NEVER)
            } else if waiting.rows >= size_max {
                Decision::Close { reason: CloseReason::Full, rows: size_max }
            } else if due <= now {
                Decision::Close { reason: CloseReason::Deadline, rows: waiting.rows }
            } else {
                Decision::Wait(due)
            }
        }
        BatchPolicy::Slo { size_max, slo } => {
            let plan = slo * PLANNED_TENTHS / 10;
            let size = size(plan, now, waiting.oldest, cost).min(size_max);
            let rows = waiting.rows.min(size);
            let spare = plan.saturating_sub(cost.safe(rows));
            let wait = spare.mul_f64(device.demand.clamp(0.0, 1.0));
            if waiting.rows >= size && (device.idle || device.takes_ahead(cost, size)) {
                Decision::Close { reason: CloseReason::Full, rows }
            } else if !device.idle {
                Decision::Wait(Moment::NEVER)
            } else if waiting.oldest.after(spare) <= now {
                Decision::Close { reason: CloseReason::Deadline, rows }
            } else if waiting.oldest.after(wait) <= now {
                Decision::Close { reason: CloseReason::Idle, rows }
            } else {
                Decision::Wait(waiting.oldest.after(wait))
            }
        }
    }
}

/// How many rows a batch has at most, for outcomes `plan` after their poll.
fn size(plan: Duration, now: Moment, oldest: Moment, cost: &CostModel) -> usize {
    let lost = oldest.after(plan.saturating_sub(cost.safe(1))) < now;
    if lost { cost.efficient() } else { cost.within(plan / 2) }
}

/// How busy a device was lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    share: f64,
    /// The share that is busy now, and since when that is known.
    busy: f64,
    since: Moment,
}

impl Demand {
    /// So many of its executors are busy from now on.
    pub fn tell(&mut self, now: Moment, busy: usize, executors: usize) {
        let passed = now.since(self.since).as_secs_f64() / DEMAND_MEMORY.as_secs_f64();
        self.share += (self.busy - self.share) * (1.0 - (-passed).exp());
        #[expect(clippy::cast_precision_loss, reason = "executors are few")]
        let share = busy as f64 / executors.max(1) as f64;
        self.busy = share.min(1.0);
        self.since = now;
    }

    /// The share of its time for which the device was busy lately, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cost::Sample;

    const IDLE: Offer = Offer { idle: true, ahead: 0, demand: 0.0 };
    const SLO: Duration = Duration::from_millis(80);

    fn moment(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    /// Batches that take `fixed` and `row` for each row.
    fn cost(size_max: usize, fixed: Duration, row: Duration) -> CostModel {
        let mut cost = CostModel::new(size_max);
        for rows in [1, 4, 16, 64, 256] {
            let took = fixed + row * u32::try_from(rows).unwrap();
            (0..40).for_each(|_| cost.observe(Sample { rows, took }));
        }
        cost
    }

    fn slow() -> CostModel {
        cost(256, Duration::from_millis(4), Duration::from_micros(500))
    }

    fn slo(now: Moment, rows: usize, cost: &CostModel, device: Offer) -> Decision {
        let policy = BatchPolicy::Slo { size_max: 256, slo: SLO };
        decide(policy, now, Waiting { rows, oldest: Moment::START }, cost, device)
    }

    #[test]
    fn a_static_policy_is_obeyed_to_the_letter_wherever_an_executor_is_free_or_the_batch_is_short() {
        let policy = BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(50) };
        let busy = Offer { idle: false, ahead: 0, demand: 1.0 };
        let quick = cost(256, Duration::from_micros(50), Duration::from_nanos(500));
        let nothing_known = CostModel::new(256);
        for (device, cost) in [(IDLE, &slow()), (busy, &quick), (busy, &nothing_known)] {
            let at = |now, rows| {
                let waiting = Waiting { rows, oldest: moment(7) };
                decide(policy, Moment::from_nanos(now), waiting, cost, device)
            };
            assert_eq!(at(7_000_000, 63), Decision::Wait(moment(57)));
            assert_eq!(at(56_999_999, 1), Decision::Wait(moment(57)));
            let close = |reason, rows| Decision::Close { reason, rows };
            assert_eq!(at(57_000_000, 1), close(CloseReason::Deadline, 1));
            assert_eq!(at(7_000_000, 64), close(CloseReason::Full, 64));
            assert_eq!(at(57_000_000, 90), close(CloseReason::Full, 64));
        }
    }

    #[test]
    fn a_long_batch_of_a_static_policy_is_formed_when_an_executor_is_free() {
        let policy = BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(50) };
        let busy = Offer { idle: false, ahead: 0, demand: 1.0 };
        let at = |now, rows| decide(policy, moment(now), Waiting { rows, oldest: moment(7) }, &slow(), busy);
        assert_eq!((at(57, 1), at(7, 64), at(99, 90)), [Decision::Wait(Moment::NEVER); 3].into());
        assert_eq!(at(56, 1), Decision::Wait(moment(57)));
    }

    #[test]
    fn an_idle_device_takes_a_lone_row_at_once() {
        let decision = slo(Moment::START, 1, &slow(), IDLE);
        assert_eq!(decision, Decision::Close { reason: CloseReason::Idle, rows: 1 });
    }

    #[test]
    fn while_every_executor_is_busy_a_window_fills() {
        let busy = Offer { idle: false, ahead: 0, demand: 1.0 };
        for rows in [1, 20, 1_000] {
            assert_eq!(slo(moment(79), rows, &slow(), busy), Decision::Wait(Moment::NEVER));
        }
        let quick = cost(256, Duration::from_micros(50), Duration::from_nanos(500));
        let rows = quick.efficient();
        assert_eq!(slo(moment(1), rows - 1, &quick, busy), Decision::Wait(Moment::NEVER));
        let full = Decision::Close { reason: CloseReason::Full, rows };
        assert_eq!(slo(moment(1), rows, &quick, busy), full, "a hand-off would cost as much as the batch");
    }

    #[test]
    fn short_batches_wait_for_each_executor_as_long_as_together_they_are_short() {
        let static_policy = BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(50) };
        let objective = BatchPolicy::Slo { size_max: 64, slo: SLO };
        let cost = cost(64, Duration::from_micros(240), Duration::from_nanos(500));
        let rows = cost.efficient();
        let waiting = Waiting { rows: 1_000, oldest: Moment::START };
        for (policy, rows) in [(static_policy, 64), (objective, rows)] {
            let fits = (SHORT.as_nanos() / cost.safe(rows).as_nanos()) as usize;
            assert!(fits > 2, "a premise");
            for ahead in 0..2 * fits {
                let decision =
                    decide(policy, moment(1), waiting, &cost, Offer { idle: false, ahead, demand: 1.0 });
                let handed_over = decision == Decision::Close { reason: CloseReason::Full, rows };
                assert_eq!(handed_over, ahead < fits, "{policy:?} with {ahead} ahead: {decision:?}");
            }
        }
        let nothing_known = CostModel::new(64);
        for (ahead, expected) in [(0, true), (1, false)] {
            let device = Offer { idle: false, ahead, demand: 1.0 };
            let decision = decide(static_policy, moment(1), waiting, &nothing_known, device);
            assert_eq!(
                matches!(decision, Decision::Close { .. }),
                expected,
                "of what nobody has seen yet one waits"
            );
        }
    }

    #[test]
    fn a_batch_is_done_in_half_of_the_time_unless_its_oldest_row_is_late_anyway() {
        let (cost, backlog) = (slow(), 10_000);
        let Decision::Close { reason: CloseReason::Full, rows } = slo(moment(30), backlog, &cost, IDLE)
        else {
            panic!("the window is full");
        };
        assert!(rows < cost.efficient() && cost.safe(rows) <= SLO / 2 && cost.safe(rows + 2) > SLO * 9 / 20);
        let late = slo(moment(90), backlog, &cost, IDLE);
        assert_eq!(late, Decision::Close { reason: CloseReason::Full, rows: cost.efficient() });
    }

    #[test]
    fn a_net_that_gains_nothing_from_batches_is_run_row_by_row() {
        let cost = cost(256, Duration::ZERO, Duration::from_millis(1));
        let one = Decision::Close { reason: CloseReason::Full, rows: 1 };
        assert_eq!(slo(Moment::START, 40, &cost, Offer { idle: true, ahead: 0, demand: 0.9 }), one);
    }

    #[test]
    fn the_demand_for_a_device_follows_its_share_of_busy_time() {
        let mut demand = Demand::default();
        for turn in 0..1_000 {
            demand.tell(moment(10 * turn), 1, 2);
            demand.tell(moment(10 * turn + 4), 0, 2);
        }
        assert!((demand.share() - 0.2).abs() < 0.01, "{demand:?}");
        demand.tell(moment(30_000), 0, 2);
        assert!(demand.share() < 0.001, "{demand:?}");
    }

    proptest! {
        /// Whatever is asked: caps hold, a wait ends by the latest safe start and before it is asked again nothing is overdue, and an
        /// idle device waits for its share alone.
        #[test]
        fn an_objective_is_never_waited_away(
            rows in 1_usize..2_000, size_max in 1_usize..600, waited in 0_u64..200, slo in 1_u64..200,
            fixed in 0_u64..40_000, row in 0_u64..2_000, demand in 0.0_f64..=1.0, idle in any::<bool>(),
            ahead in 0_usize..20,
        ) {
            let cost = cost(size_max, Duration::from_micros(fixed), Duration::from_micros(row));
            let (policy, slo) = (BatchPolicy::Slo { size_max, slo: Duration::from_millis(slo) }, Duration::from_millis(slo));
            let (now, waiting) = (moment(1_000 + waited), Waiting { rows, oldest: moment(1_000) });
            match decide(policy, now, waiting, &cost, Offer { idle, ahead, demand }) {
                Decision::Close { reason, rows: closed } => {
                    prop_assert!((1..=rows.min(size_max).min(cost.efficient())).contains(&closed));
                    let ahead = u32::try_from(ahead).unwrap();
                    prop_assert!(idle || (reason == CloseReason::Full && cost.safe(closed) * (ahead + 1) < SHORT));
                    prop_assert!(reason == CloseReason::Full || closed == rows);
                }
                Decision::Wait(Moment::NEVER) => prop_assert!(!idle, "an idle device knows when it stops waiting"),
                Decision::Wait(until) => {
                    prop_assert!(idle && until > now);
                    let spare = slo.saturating_sub(cost.safe(rows));
                    prop_assert!(until <= waiting.oldest.after(spare), "the latest safe start");
                    prop_assert!(until <= waiting.oldest.after(spare.mul_f64(demand)), "its share of the slack");
                    let then = decide(policy, until, waiting, &cost, Offer { idle, ahead, demand });
                    prop_assert!(matches!(then, Decision::Close { .. }), "{then:?}");
                }
            }
        }
    }
}
