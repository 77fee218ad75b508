//! Inference with shares: tenants and models take turns.

use super::*;
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
