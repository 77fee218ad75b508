//! At least once under seeded faults: nothing is lost, whatever crashes and whatever fails; and what is doubled is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dataflows::lockstep::{End, Lots};
use operators::broker::Class;
use operators::broker::simulated::{Fault, FaultPlan, Step};
use operators::commit::Delivery;
use tidemill::audit::AuditReport;

use super::world::{World, WorldOptions};
use super::{Dice, ORDERS, each_seed_twice};

fn world(seed: u64) -> World {
    World::new(
        seed,
        WorldOptions { requests: 120, delivery: Delivery::AtLeastOnce, ..WorldOptions::default() },
    )
}

/// What goes wrong under a seed.
fn plan(dice: &mut Dice) -> FaultPlan {
    let menu = [
        (Step::CommitOffsets, Fault::Before(Class::Retriable)),
        (Step::CommitOffsets, Fault::After(Class::Unreachable)),
        (Step::CommitOffsets, Fault::Before(Class::Abortable)),
        (Step::CommitOffsets, Fault::After(Class::Abortable)),
        (Step::Send, Fault::Before(Class::QueueFull)),
        (Step::Send, Fault::Before(Class::Fatal)),
        (Step::Drain, Fault::Unfinished),
        (Step::Drain, Fault::Before(Class::Abortable)),
        (Step::Drain, Fault::After(Class::Fatal)),
        (Step::Init, Fault::Before(Class::Unreachable)),
        (Step::Committed, Fault::Before(Class::Retriable)),
        (Step::MemberPoll, Fault::Expelled),
        (Step::QueuePoll, Fault::Again(3)),
        (Step::QueuePoll, Fault::Hidden(Duration::from_millis(40))),
        (Step::QueuePoll, Fault::Short(2)),
    ];
    dice.plan(&menu)
}

/// Everything that a seed does; returns the history's hash and what was doubled.
fn run_seed(seed: u64) -> (String, u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9).wrapping_add(2));
    let world = world(seed);
    world.broker.set_faults(plan(&mut dice));
    let slow = 1 + dice.roll(12) * dice.roll(2);
    let mut crashes = dice.roll(4);
    for round in 0.. {
        let crash_at = (crashes > 0).then(|| 1 + dice.roll(40));
        world.set_order(ORDERS[usize::try_from(dice.roll(3)).unwrap()]);
        let lots = Lots { device_one_in: slow, ..World::lots(seed * 1_000 + round) };
        let crash = move |progress: dataflows::lockstep::Progress| {
            crash_at.is_some_and(|at| progress.transaction_turns >= at)
        };
        match world.run(lots, crash) {
            End::Stopped => break,
            End::Crashed => crashes -= 1,
            // The fault plan may have it that not even the first producer can be made.
            End::Fault(fault) if fault.to_string().contains("SIMULATED_FAULT") => {}
            end => panic!("the engine ended by itself: {end:?}"),
        }
    }
    world.assert_clean();
    (world.broker.history_hash(), world.audit().duplicated)
}

#[test]
fn at_least_once_no_request_is_lost_whatever_crashes_and_whatever_fails() {
    let duplicated = AtomicU64::new(0);
    let ran = each_seed_twice(150, "simulated::at_least_once", |seed| {
        let (history, doubled) = run_seed(seed);
        duplicated.fetch_add(doubled, Ordering::SeqCst);
        history
    });
    // A single seed may well double nothing.
    assert!(ran < 100 || duplicated.into_inner() > 0, "the crashes came at no moment that matters");
}

/// Runs with a crash before the call of this number, and once more; returns the audit.
fn crashed_at(crash_at: u64) -> AuditReport {
    let world = world(crash_at);
    let crash = move |progress: dataflows::lockstep::Progress| progress.transaction_turns >= crash_at;
    if world.run(World::lots(crash_at), crash) == End::Crashed {
        assert_eq!(world.run(World::lots(crash_at + 1_000), |_| false), End::Stopped);
    }
    world.assert_clean();
    world.audit()
}

#[test]
fn at_least_once_a_crash_before_any_call_loses_nothing_and_after_some_doubles_a_few() {
    let duplicated: u64 = (1..40).map(|crash_at| crashed_at(crash_at).duplicated).sum();
    assert!(duplicated > 0, "an outcome whose offset was not committed is sent again");
}

#[test]
fn at_least_once_without_a_failure_nothing_is_doubled() {
    for seed in 0..10 {
        let world = world(seed);
        assert_eq!(world.run(World::lots(seed), |_| false), End::Stopped);
        world.assert_clean();
        assert_eq!(world.audit().duplicated, 0);
    }
}
