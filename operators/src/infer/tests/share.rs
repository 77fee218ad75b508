//! Inference with shares: tenants and models take turns, and tenants have no more than they may.

use std::collections::BTreeMap;

use super::*;
use crate::quota::Quota;
use crate::share::Share;

#[test]
fn a_model_of_weight_two_has_two_places_of_three() {
    on_a_worker(|worker| {
        let shares = Shares { models: [("b".to_owned(), 2)].into(), ..Shares::default() };
        let mut rig = Rig::sharing(worker, shares, None);
        rig.push(0, 8 * SIZE_MAX, 0);
        rig.push(1, 8 * SIZE_MAX, 0);
        let mut turns = Vec::new();
        for _ in 0..12 {
            turns.push(rig.waiting()[0].0);
            rig.run(0);
        }
        // The first of all began before the other model had anything.
        assert_eq!(turns[3..].iter().filter(|model| **model == 1).count(), 6, "{turns:?}");
    });
}

#[test]
fn a_tenant_with_a_backlog_leaves_room_in_each_batch_by_the_weights() {
    on_a_worker(|worker| {
        let heavy = Share { weight: 3, ..Share::default() };
        let shares = Shares { tenants: [("heavy".to_owned(), heavy)].into(), ..Shares::default() };
        let mut rig = Rig::sharing(worker, shares, None);
        rig.push_of(0, &["flood"; 5 * SIZE_MAX], 0);
        rig.push_of(0, &["quiet"], 1);
        rig.run(0);
        assert_eq!(rig.tenants(), ["flood", "flood", "flood", "quiet"]);
        rig.push_of(0, &["heavy"; 12], 2);
        rig.run(0);
        let mut turns = Vec::new();
        for _ in 0..3 {
            rig.run(0);
            turns.extend(rig.tenants());
        }
        let heavy = turns.iter().filter(|tenant| *tenant == "heavy").count();
        assert!((8..=10).contains(&heavy), "three rows of four: {turns:?}");
        rig.advance_to(9);
        rig.run_all();
        rig.later(DELAY);
        rig.run_all();
        assert_eq!((rig.outcomes().len(), rig.watched.frontier()), (5 * SIZE_MAX + 13, Some(9)));
    });
}

fn bounded(quota: Option<Quota>, in_flight_max: Option<usize>, wait_max: Duration) -> Shares {
    let share = Share { quota, in_flight_max, wait_max, ..Share::default() };
    Shares { tenants: [("bound".to_owned(), share)].into(), ..Shares::default() }
}

#[test]
fn what_is_over_a_quota_waits_before_its_window_and_holds_its_epoch_alone() {
    on_a_worker(|worker| {
        let quota = Some(Quota { rate: 10, burst: 2 });
        let mut rig = Rig::sharing(worker, bounded(quota, None, Duration::from_secs(9)), None);
        rig.push_of(0, &["bound", "bound", "bound", "free"], 3);
        rig.advance_to(5);
        rig.later(DELAY);
        assert_eq!(rig.tenants(), ["bound", "bound", "free"]);
        rig.run_all();
        assert_eq!((rig.outcomes().len(), rig.watched.frontier()), (3, Some(3)));
        rig.later(DELAY);
        // The token has come, and the row had waited for its delay by then.
        assert_eq!(rig.waiting(), [(0, 1)]);
        rig.run_all();
        assert_eq!((rig.outcomes().len(), rig.watched.frontier()), (4, Some(5)));
        assert_eq!(rig.observer.seen().dead_letters, []);
        assert_eq!(rig.observer.seen().parked, BTreeMap::from([("bound".to_owned(), 0)]));
    });
}

#[test]
fn a_place_in_inference_is_given_back_with_the_outcome() {
    on_a_worker(|worker| {
        let mut rig = Rig::sharing(worker, bounded(None, Some(SIZE_MAX), Duration::from_secs(9)), None);
        rig.push_of(0, &["bound"; 2 * SIZE_MAX + 1], 0);
        for (rows, wait) in [(SIZE_MAX, Duration::ZERO), (SIZE_MAX, Duration::ZERO), (1, DELAY)] {
            rig.later(wait);
            assert_eq!(rig.waiting(), [(0, rows)]);
            rig.run(0);
        }
        assert_eq!(rig.outcomes().len(), 2 * SIZE_MAX + 1);
    });
}

#[test]
fn what_may_not_wait_for_its_quota_is_a_dead_letter_at_once_and_counts_for_no_breaker() {
    on_a_worker(|worker| {
        let mut rig = Rig::sharing(worker, bounded(None, Some(1), Duration::ZERO), None);
        let rows = LETTERS_MAX as usize + 9;
        rig.push_of(0, &vec!["bound"; rows], 0);
        let over = rig.observer.seen().dead_letters;
        assert_eq!(over, vec![(Reason::OverQuota, Stage::Infer); rows - 1]);
        assert_eq!(rig.observer.seen().over_quota, rows - 1);
        rig.later(DELAY);
        rig.run(0);
        assert_eq!((rig.outcomes().len(), rig.breaker.held_until(rig.clock.now())), (rows, None));
    });
}

#[test]
fn while_the_device_is_broken_nobody_is_over_its_quota_for_too_long() {
    on_a_worker(|worker| {
        let wait = Duration::from_millis(200);
        let mut rig = Rig::sharing(worker, bounded(None, Some(SIZE_MAX), wait), None);
        rig.models.backend.break_device(u64::MAX);
        rig.push_of(0, &["bound"; SIZE_MAX + 1], 0);
        rig.run(0);
        rig.later(10 * wait);
        rig.models.backend.break_device(0);
        rig.later(BACK_OFF.1);
        rig.run_all();
        rig.later(DELAY);
        rig.run_all();
        assert_eq!((rig.outcomes().len(), rig.observer.seen().dead_letters), (SIZE_MAX + 1, vec![]));
    });
}
