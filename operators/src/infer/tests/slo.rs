//! Inference with an objective: size and wait follow from what batches cost.

use super::*;

const SLO: Duration = Duration::from_millis(80);

/// The operator on a device with twice as many slots as executors.
fn rig(worker: &mut Worker, executors: usize) -> Rig<'_> {
    let batch = BatchPolicy::Slo { size_max: 64, slo: SLO };
    Rig::of(worker, batch, (2 * executors, executors), None, None, Shares::default())
}

/// Teaches what batches cost: one of each of a few sizes, with time between them in which the device has nothing to do.
fn teach(rig: &mut Rig<'_>) {
    for rows in [1, 2, 4, 8, 16] {
        rig.push(0, rows, 0);
        rig.run_all();
        rig.later(Duration::from_secs(10));
    }
}

#[test]
fn with_an_objective_an_idle_executor_takes_what_there_is_and_while_all_are_busy_the_window_fills() {
    on_a_worker(|worker| {
        let mut rig = rig(worker, 2);
        teach(&mut rig);
        rig.push(0, 1, 0);
        rig.push(0, 1, 0);
        assert_eq!(rig.waiting(), [(0, 1), (0, 1)], "nobody waits for an idle device");
        for _ in 0..3 {
            rig.push(0, 2, 0);
            rig.later(Duration::from_millis(5));
        }
        assert_eq!(
            rig.waiting().len(),
            2,
            "a device with room is no reason to close while its executors are busy"
        );
        rig.run(0);
        assert_eq!(rig.waiting(), [(0, 1), (0, 6)]);
        rig.run_all();
        let batches = rig.observer.seen().batches;
        let reasons: Vec<_> =
            batches.iter().rev().take(3).map(|(reason, rows, _)| (*reason, *rows)).collect();
        assert_eq!(reasons, [(CloseReason::Idle, 6), (CloseReason::Idle, 1), (CloseReason::Idle, 1)]);
    });
}

#[test]
fn what_a_batch_costs_is_learned_and_told_and_bounds_its_size() {
    on_a_worker(|worker| {
        let mut rig = rig(worker, 1);
        teach(&mut rig);
        let cost = rig.observer.seen().cost.unwrap();
        assert!(cost.fixed.abs_diff(FIXED) < FIXED / 10 && cost.row.abs_diff(ROW) < ROW / 10, "{cost:?}");
        assert!((32..=64).contains(&cost.efficient), "{cost:?}");
        rig.push(0, 200, 0);
        rig.run(0);
        // Half of nine tenths of the objective, for a batch and for the one before it.
        let (_, rows) = rig.waiting()[0];
        assert!((20..=32).contains(&rows), "{rows}");
        rig.later(SLO);
        rig.run(0);
        assert_eq!(rig.waiting(), [(0, cost.efficient)], "when all are late, only the backlog counts");
        rig.run_all();
        assert_eq!(rig.outcomes().len(), 31 + 200);
    });
}

#[test]
fn on_a_device_in_demand_rows_wait_for_others_and_never_past_the_latest_safe_start() {
    on_a_worker(|worker| {
        let mut rig = rig(worker, 1);
        teach(&mut rig);
        // The device was busy for three seconds.
        rig.push(1, 1, 0);
        rig.later(Duration::from_secs(3));
        rig.run_all();
        rig.push(0, 1, 0);
        rig.later(Duration::from_millis(40));
        assert_eq!(rig.waiting(), [], "there is time, and its time is in demand");
        rig.push(0, 3, 0);
        rig.later(Duration::from_millis(28));
        assert_eq!(rig.waiting(), [(0, 4)], "68 ms after the poll of the oldest, for a batch of 8 ms");
    });
}

#[test]
fn the_end_of_the_input_closes_a_window_whose_device_is_busy() {
    on_a_worker(|worker| {
        let mut rig = rig(worker, 1);
        teach(&mut rig);
        rig.push(0, 1, 0);
        rig.push(0, 2, 0);
        rig.input = None;
        rig.turn();
        assert_eq!(rig.waiting(), [(0, 1), (0, 2)]);
        rig.run_all();
        assert_eq!(rig.observer.seen().batches.last().unwrap().0, CloseReason::Drained);
        assert!(rig.watched.probe.done());
    });
}

#[test]
fn a_long_batch_is_bound_only_once_an_executor_is_free_for_it() {
    on_a_worker(|worker| {
        let batch = BatchPolicy::Static { size_max: SIZE_MAX, delay_max: DELAY };
        let mut rig = Rig::of(worker, batch, (2, 1), None, None, Shares::default());
        rig.push(0, 3 * SIZE_MAX, 0);
        assert_eq!(rig.waiting(), [(0, SIZE_MAX); 2], "of what nothing is known yet, one more is bound");
        rig.run_all();
        rig.push(0, 2 * SIZE_MAX, 0);
        assert_eq!(rig.waiting(), [(0, SIZE_MAX)], "it takes longer than handing it over by far");
        rig.run(0);
        assert_eq!(rig.waiting(), [(0, SIZE_MAX)]);
        rig.run_all();
        assert_eq!(rig.outcomes().len(), 5 * SIZE_MAX);
    });
}
