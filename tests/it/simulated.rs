//! The promise under seeded faults: the engine in lock-step on the simulated broker, crashed and restarted, and then audited.
//!
//! A failing seed prints how to run it alone: `TIDEMILL_SEED=17 cargo test --test it simulated`. `TIDEMILL_SEEDS=5000` runs more of
//! them. Each seed runs twice, and both runs must have the same history.

mod at_least_once;
mod shifts;
mod world;
mod wrong;

use std::time::Duration;

use dataflows::lockstep::{End, Lots, Next};
use operators::broker::Class;
use operators::broker::simulated::{Fault, FaultPlan, FaultRule, Step, When};
use operators::codec::form::ResultForm;
use operators::commit_order::CommitOrder;
use operators::fault::Fault as EngineFault;
use operators::quota::Quota;
use operators::share::Share;
use world::{World, WorldOptions};

const ORDERS: [CommitOrder; 3] = [CommitOrder::Partition, CommitOrder::Key, CommitOrder::None];

/// The seeds of this run: one, or the first so many.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    match (number("TIDEMILL_SEED"), number("TIDEMILL_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(default),
    }
}

/// A small deterministic stream, so that everything about a run follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A few of these faults, each at a chance, and never so often that a run could not end.
    fn plan(&mut self, menu: &[(Step, Fault)]) -> FaultPlan {
        let rules = (0..3 + self.roll(4))
            .map(|_| {
                let (step, fault) = menu[usize::try_from(self.roll(menu.len() as u64)).unwrap()];
                let chance = if step == Step::Send || step == Step::MemberPoll { 0.005 } else { 0.15 };
                FaultRule { step, when: When::Chance(chance), fault }
            })
            .collect();
        FaultPlan { rules, faults_max: Some(12) }
    }
}

/// What goes wrong under a seed.
fn plan(dice: &mut Dice) -> FaultPlan {
    let menu = [
        (Step::Commit, Fault::After(Class::Retriable)),
        (Step::Commit, Fault::Before(Class::Retriable)),
        (Step::Commit, Fault::After(Class::Fatal)),
        (Step::Commit, Fault::Before(Class::Fatal)),
        (Step::Commit, Fault::Before(Class::Abortable)),
        (Step::SendOffsets, Fault::Before(Class::Abortable)),
        (Step::SendOffsets, Fault::Before(Class::Retriable)),
        (Step::SendOffsets, Fault::After(Class::Retriable)),
        (Step::Send, Fault::Before(Class::QueueFull)),
        (Step::Send, Fault::Before(Class::Fatal)),
        (Step::Drain, Fault::Unfinished),
        (Step::Drain, Fault::Before(Class::Abortable)),
        (Step::Begin, Fault::Before(Class::Fatal)),
        (Step::Abort, Fault::Before(Class::Retriable)),
        (Step::Abort, Fault::After(Class::Fatal)),
        (Step::Committed, Fault::Before(Class::Retriable)),
        (Step::MemberPoll, Fault::Expelled),
        (Step::QueuePoll, Fault::Again(3)),
        (Step::QueuePoll, Fault::Hidden(Duration::from_millis(40))),
        (Step::QueuePoll, Fault::Short(2)),
    ];
    dice.plan(&menu)
}

/// Long enough that whatever may not wait for longer has its turn.
const WAIT: Duration = Duration::from_mins(5);

/// A share of which each tenant of a world asks for more.
fn narrow(wait_max: Duration) -> Share {
    let quota = Some(Quota { rate: 200, burst: 4 });
    Share { quota, in_flight_max: Some(5), wait_max, ..Share::default() }
}

/// Everything that a seed does; returns the history's hash.
fn run_seed(seed: u64) -> String {
    // What the engine logs, for a seed that is looked at by itself.
    if std::env::var("TIDEMILL_SEED").is_ok() {
        // The first run of the two has started it already.
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
    }
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1));
    // What is promised does not depend on when batches close.
    let slo = seed.is_multiple_of(3).then_some(Duration::from_millis(20));
    // Nor on how much of what is asked for may be asked for now.
    let share = if seed.is_multiple_of(5) { narrow(WAIT) } else { Share::default() };
    // Nor on how results are written. Their order by key is looked at where they are JSON.
    let form = if seed % 4 == 3 { ResultForm::Request } else { ResultForm::default() };
    let world = World::new(seed, WorldOptions { slo, share, form, ..WorldOptions::default() });
    world.broker.set_faults(plan(&mut dice));
    if dice.roll(4) == 0 {
        world.backend.break_device(dice.roll(20));
    }
    let slow = 1 + dice.roll(12) * dice.roll(2);
    let order = ORDERS[usize::try_from(dice.roll(3)).unwrap()];
    // Whoever reads on after a crash may be configured otherwise.
    let mixed = dice.roll(3) == 0;
    let mut crashes = dice.roll(4);
    for round in 0.. {
        let crash_at = (crashes > 0).then(|| 1 + dice.roll(60));
        world.set_order(if mixed { ORDERS[usize::try_from(dice.roll(3)).unwrap()] } else { order });
        let lots = Lots { device_one_in: slow, ..World::lots(seed * 1_000 + round) };
        let crash = move |progress: dataflows::lockstep::Progress| {
            crash_at.is_some_and(|at| progress.transaction_turns >= at)
        };
        match world.run(lots, crash) {
            End::Stopped => break,
            End::Crashed => crashes -= 1,
            // Another member of the same id has been there: the fault plan made a fenced producer of a fatal one.
            end => panic!("the engine ended by itself: {end:?}"),
        }
    }
    world.assert_clean();
    if !mixed && order != CommitOrder::None && form == ResultForm::default() {
        for (key, offsets) in world.results_by_key() {
            assert!(offsets.is_sorted(), "the results of {key:?} are out of order: {offsets:?}");
        }
    }
    world.broker.history_hash()
}

/// Runs each seed twice, on every core; both runs must have the same history. Returns how many seeds there were.
fn each_seed_twice(default: u64, test: &str, run_seed: impl Fn(u64) -> String + Sync) -> u64 {
    let seeds = seeds(default);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let run =
                        || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_seed(seed)));
                    match (run(), run()) {
                        (Ok(first), Ok(second)) => {
                            assert_eq!(first, second, "seed {seed} is not repeatable");
                        }
                        _ => panic!(
                            "seed {seed} failed; run it alone: TIDEMILL_SEED={seed} cargo test --test it {test}"
                        ),
                    }
                }
            });
        }
    });
    seeds.end - seeds.start
}

#[test]
fn every_request_ends_once_whatever_crashes_and_whatever_fails() {
    each_seed_twice(300, "simulated::every", run_seed);
}

/// Deadlines that some requests meet and others miss, a few rows that end while the device has them, and a breaker that holds.
#[test]
fn every_request_ends_once_where_deadlines_pass_and_the_breaker_holds() {
    let (mut results, mut late) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed + 1);
        let deadline = Some(Duration::from_millis(25 + dice.roll(150)));
        let world = World::new(seed, WorldOptions { deadline, ..WorldOptions::default() });
        world.broker.set_faults(plan(&mut dice));
        if dice.roll(3) == 0 {
            world.backend.break_device(dice.roll(20));
        }
        let letters_max = (dice.roll(2) == 0).then_some(20);
        let device_one_in = 1 + dice.roll(30);
        for round in 0.. {
            let crash_at = (round < dice.roll(3)).then(|| 1 + dice.roll(60));
            let lots = Lots {
                device_one_in,
                // Else a breaker that holds takes all the turns that there are.
                time_step_max: Duration::from_millis(if round == 0 { 5 } else { 100 }),
                ..World::lots(seed * 1_000 + round)
            };
            let mut engine = world.engine();
            engine.config.dead_letters_per_minute_max = letters_max;
            let end = world.run_with(engine, lots, move |progress| {
                let crash = crash_at.is_some_and(|at| progress.transaction_turns >= at);
                if crash { Next::Crash } else { Next::Go }
            });
            match end {
                End::Stopped => break,
                End::Crashed => {}
                end => panic!("seed {seed}: the engine ended by itself: {end:?}"),
            }
        }
        world.assert_clean();
        let report = world.audit();
        results += report.results;
        late += report.dead_letters_by_reason.get("deadline_exceeded").copied().unwrap_or(0);
    }
    assert!(results > 1_000 && late > 1_000, "{results} results, {late} were late: not worth the name");
}

#[test]
fn every_request_ends_once_where_those_over_their_quota_are_shed() {
    let (mut results, mut shed) = (0, 0);
    for seed in 0..30 {
        let mut dice = Dice(seed + 1);
        let world =
            World::new(seed, WorldOptions { share: narrow(Duration::ZERO), ..WorldOptions::default() });
        world.broker.set_faults(plan(&mut dice));
        let crash_at = (dice.roll(2) == 0).then(|| 1 + dice.roll(60));
        let crash = move |progress: dataflows::lockstep::Progress| {
            crash_at.is_some_and(|at| progress.transaction_turns >= at)
        };
        if world.run(World::lots(seed), crash) == End::Crashed {
            assert_eq!(world.run(World::lots(seed + 1_000), |_| false), End::Stopped);
        }
        world.assert_clean();
        let report = world.audit();
        results += report.results;
        shed += report.dead_letters_by_reason.get("over_quota").copied().unwrap_or(0);
    }
    assert!(results > 300 && shed > 300, "{results} results, {shed} were shed: not worth the name");
}

#[test]
fn a_crash_before_any_call_of_the_transaction_loses_and_doubles_nothing() {
    for crash_at in 1..40 {
        let world = World::new(crash_at, WorldOptions { requests: 120, ..WorldOptions::default() });
        let crash = move |progress: dataflows::lockstep::Progress| progress.transaction_turns >= crash_at;
        if world.run(World::lots(crash_at), crash) == End::Crashed {
            assert_eq!(world.run(World::lots(crash_at + 1_000), |_| false), End::Stopped);
        }
        world.assert_clean();
    }
}

/// What the seeds check about order they could miss in silence: here it has something to find.
#[test]
fn without_order_the_results_of_a_key_overtake_each_other() {
    let overtaken = (1..10).any(|seed| {
        let world = World::new(seed, WorldOptions::default());
        world.set_order(CommitOrder::None);
        assert_eq!(world.run(World::lots(seed), |_| false), End::Stopped);
        world.assert_clean();
        world.results_by_key().values().any(|offsets| !offsets.is_sorted())
    });
    assert!(overtaken);
}

#[test]
fn two_processes_of_one_id_do_not_both_go_on() {
    let world = World::new(1, WorldOptions::default());
    let mut rival = None;
    let broker = world.broker.clone();
    let id = world.engine().config.transactional_id;
    let end = world.run_with(world.engine(), World::lots(1), move |progress| {
        if progress.transaction_turns == 20 && rival.is_none() {
            rival = Some(operators::broker::Broker::producer(&broker, &id).expect("it takes over"));
        }
        Next::Go
    });
    assert!(matches!(end, End::Fault(EngineFault::Fenced { .. })), "{end:?}");
    assert_eq!(world.run(World::lots(2), |_| false), End::Stopped);
    world.assert_clean();
}

#[test]
fn under_a_backlog_that_never_empties_a_window_the_epoch_frontier_keeps_advancing() {
    let world = World::new(3, WorldOptions { requests: 3_000, bad: 0.0, ..WorldOptions::default() });
    let lots = Lots { device_one_in: 8, ..World::lots(3) };
    assert_eq!(world.run(lots, |_| false), End::Stopped);
    let lag = world.seen.epoch_lag_max();
    assert!(lag.is_some_and(|lag| lag < 100), "the epoch frontier fell behind: {lag:?} epochs");
    world.assert_clean();
}
