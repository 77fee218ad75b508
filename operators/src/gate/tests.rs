//! The gate, against what was asked for.
#![expect(clippy::single_range_in_vec_init, reason = "ranges of rows are what the gate gives")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::catalog::ModelIndex;
use crate::fixtures::{block_of, lease};
use crate::outcome::Kind;
use crate::quota::Quota;
use crate::share::{Share, Shares};

fn bounded(rate: Option<(u32, u32)>, in_flight_max: Option<usize>, wait_max: u64) -> Share {
    let quota = rate.map(|(rate, burst)| Quota { rate, burst });
    Share { quota, in_flight_max, wait_max: Duration::from_millis(wait_max), ..Share::default() }
}

fn allowances(tenants: &[(&str, Share)]) -> Arc<Allowances> {
    let tenants = tenants.iter().map(|(id, share)| ((*id).to_owned(), *share)).collect();
    Arc::new(Allowances::new(Arc::new(Shares { tenants, ..Shares::default() })))
}

fn gate(tenants: &[(&str, Share)]) -> Gate<u64> {
    Gate::new(allowances(tenants))
}

fn at(millis: u64) -> Moment {
    Moment::START.after(Duration::from_millis(millis))
}

fn outcomes(rows: &[(Lease, Offset)]) -> Outcomes {
    let mut outcomes = Outcomes::new(0);
    for (lease, offset) in rows {
        outcomes.push(*lease, *offset, Kind::Result, |records| {
            records.push(None, Some(b"{}"));
        });
    }
    outcomes
}

/// The block of the rows of these tenants that was polled `number`th.
fn block(number: i32, tenants: &[&str], polled_at: Moment) -> Arc<Block> {
    block_of(ModelIndex(0), lease(number, 1), tenants, polled_at)
}

fn rows(runs: &[Run<u64>]) -> Vec<(u64, Range<usize>)> {
    runs.iter().map(|run| (run.token, run.rows.clone())).collect()
}

#[test]
fn without_bounds_the_gate_is_open() {
    assert!(gate(&[("a", Share { weight: 3, ..Share::default() })]).is_open());
    assert!(!gate(&[("a", bounded(Some((1, 1)), None, 0))]).is_open());
}

#[test]
fn what_is_over_a_rate_waits_for_its_token_and_others_pass_by() {
    let mut gate = gate(&[("slow", bounded(Some((10, 2)), None, 9_000))]);
    let first = block(0, &["slow", "free", "slow", "slow", "free", "slow"], at(0));
    let admission = gate.admit(&first, 0..6, &7, None, at(0));
    assert_eq!((admission.pass, admission.parked), (vec![0..3, 4..5], vec![3..4, 5..6]));
    assert_eq!((gate.due(), gate.release(at(99)).len()), (at(100), 0));
    assert_eq!(rows(&gate.release(at(100))), [(7, 3..4)]);
    assert_eq!(gate.due(), at(200));
    let second = block(1, &["slow"], at(150));
    let admission = gate.admit(&second, 0..1, &8, None, at(1_000));
    assert_eq!((admission.pass, admission.parked), (vec![], vec![0..1]), "behind what waits already");
    assert_eq!(rows(&gate.release(at(1_000))), [(7, 5..6), (8, 0..1)]);
    assert_eq!((gate.due(), gate.late_at(at(0)), gate.tenants.len()), (Moment::NEVER, Moment::NEVER, 0));
}

#[test]
fn what_is_over_the_bound_in_inference_waits_for_an_outcome() {
    let mut gate = gate(&[("a", bounded(None, Some(2), 9_000))]);
    let block = block(0, &["a"; 5], at(0));
    let admission = gate.admit(&block, 0..5, &0, None, at(0));
    assert_eq!((admission.pass, admission.parked), (vec![0..2], vec![2..5]));
    assert_eq!((gate.release(at(9)).len(), gate.due()), (0, Moment::NEVER));
    gate.ended(&outcomes(&[block.origin(1), block.origin(4)]), at(9));
    assert_eq!(rows(&gate.release(at(9))), [(0, 2..3)], "of what is not in inference nothing counts");
    gate.ended(&outcomes(&[block.origin(0), block.origin(2)]), at(9));
    assert_eq!(rows(&gate.release(at(9))), [(0, 3..5)]);
    gate.ended(&outcomes(&[block.origin(3), block.origin(4)]), at(9));
    assert!(gate.inside.is_empty() && gate.tenants.is_empty());
}

#[test]
fn a_place_that_another_gate_gives_back_is_found_soon() {
    let allowances = allowances(&[("a", bounded(None, Some(1), 9_000))]);
    let [mut one, mut other] = [(); 2].map(|()| Gate::new(Arc::clone(&allowances)));
    let (first, second) = (block(0, &["a"], at(0)), block(1, &["a"], at(0)));
    assert_eq!(one.admit(&first, 0..1, &0, None, at(0)).pass, [0..1]);
    assert_eq!(other.admit(&second, 0..1, &1, None, at(0)).parked, [0..1]);
    assert_eq!(other.due(), at(0).after(LOOK_AGAIN));
    assert!(other.release(other.due()).is_empty());
    one.ended(&outcomes(&[first.origin(0)]), at(1));
    assert_eq!(rows(&other.release(other.due())), [(1, 0..1)]);
}

#[test]
fn what_has_waited_for_as_long_as_it_may_is_late() {
    let shares = [("a", bounded(Some((1, 1)), None, 500)), ("shed", bounded(None, Some(1), 0))];
    let mut gate = gate(&shares);
    let quick = block(0, &["a", "a", "shed", "shed"], at(0));
    gate.admit(&quick, 0..4, &0, Some(Duration::from_millis(100)), at(0));
    gate.admit(&block(1, &["a"], at(10)), 0..1, &1, None, at(10));
    assert_eq!((gate.late_at(at(0)), gate.late_at(at(50))), (at(0), at(50)), "nobody waits without a wait");
    let late = |gate: &mut Gate<u64>, excused, now| {
        let late = gate.take_late(at(excused), at(now));
        late.iter().map(|late| (late.run.token, late.run.rows.clone(), late.limit.as_millis())).collect()
    };
    let none: Vec<(u64, Range<usize>, u128)> = Vec::new();
    assert_eq!(late(&mut gate, 50, 20), none);
    assert_eq!(late(&mut gate, 0, 20), [(0, 3..4, 0)]);
    assert_eq!((gate.late_at(at(0)), late(&mut gate, 0, 100)), (at(100), vec![(0, 1..2, 100)]));
    assert_eq!((gate.late_at(at(0)), late(&mut gate, 0, 510)), (at(510), vec![(1, 0..1, 500)]));
    assert_eq!((gate.late_at(at(0)), gate.due()), (Moment::NEVER, Moment::NEVER));
    gate.ended(&outcomes(&[quick.origin(2)]), at(600));
    let next = block(2, &["shed", "a"], at(2_000));
    assert_eq!(gate.admit(&next, 0..2, &2, None, at(2_000)).pass, [0..2], "what ended has cost no token");
}

/// Tenants 1 and 2 never have more in inference than they may, and of 0 and 2 no more have passed in any time.
fn within_bounds(
    inside: &[(usize, Lease, Offset)],
    passed: &[(usize, Moment)],
    (rate, burst): (u32, u32),
    most: usize,
) -> Result<(), TestCaseError> {
    for capped in [1, 2] {
        prop_assert!(inside.iter().filter(|(tenant, ..)| *tenant == capped).count() <= most);
    }
    for rated in [0, 2] {
        let times: Vec<Moment> =
            passed.iter().filter(|(tenant, _)| *tenant == rated).map(|(_, at)| *at).collect();
        for (place, from) in times.iter().enumerate() {
            let now = times.last().expect("there is one");
            let length = now.since(*from).as_nanos();
            let most = u128::from(burst) + 1 + length * u128::from(rate) / 1_000_000_000;
            prop_assert!((times.len() - place) as u128 <= most);
        }
    }
    Ok(())
}

proptest! {
    /// Whatever comes, in whatever order outcomes come: each row passes once or is late once; the rows of a tenant pass in their order; no
    /// bound is ever broken, and nothing that may pass is held.
    #[test]
    fn every_row_passes_once_or_is_late_and_no_bound_is_broken(
        moves in prop::collection::vec((0_u8..4, prop::collection::vec(0_usize..4, 0..12), 0_u64..400), 1..80),
        rate in 1_u32..40, burst in 1_u32..6, most in 1_usize..6,
    ) {
        const IDS: [&str; 4] = ["rated", "capped", "both", "free"];
        const WAIT: u64 = 2_000;
        let shares = [
            ("rated", bounded(Some((rate, burst)), None, WAIT)),
            ("capped", bounded(None, Some(most), WAIT)),
            ("both", bounded(Some((rate, burst)), Some(most), WAIT)),
        ];
        let mut gate = gate(&shares);
        let (mut now, mut blocks) = (at(0), 0);
        let mut parked = BTreeMap::<(usize, Lease, Offset), Moment>::new();
        let mut tenant_of = BTreeMap::<(Lease, Offset), usize>::new();
        let mut inside: Vec<(usize, Lease, Offset)> = Vec::new();
        let mut passed: Vec<(usize, Moment)> = Vec::new();
        for (kind, tenants, millis) in moves {
            now = now.after(Duration::from_millis(millis));
            let mut through: Vec<(usize, Lease, Offset)> = Vec::new();
            match kind {
                0 | 1 => {
                    let ids: Vec<&str> = tenants.iter().map(|tenant| IDS[*tenant]).collect();
                    let block = block(blocks, &ids, now);
                    blocks += 1;
                    let of = |ranges: &[Range<usize>]| -> Vec<(usize, Lease, Offset)> {
                        let rows = ranges.iter().cloned().flatten();
                        rows.map(|row| { let (lease, offset) = block.origin(row); (tenants[row], lease, offset) }).collect()
                    };
                    tenant_of.extend(tenants.iter().enumerate().map(|(row, tenant)| (block.origin(row), *tenant)));
                    let admission = gate.admit(&block, 0..tenants.len(), &0, None, now);
                    through = of(&admission.pass);
                    let waits = of(&admission.parked);
                    prop_assert_eq!(through.len() + waits.len(), tenants.len());
                    prop_assert!(through.iter().all(|(tenant, ..)| parked.keys().all(|(other, ..)| other != tenant)), "in order");
                    parked.extend(waits.into_iter().map(|row| (row, now)));
                }
                2 => {
                    let ended: Vec<_> = inside.drain(..inside.len() / 2).map(|(_, lease, offset)| (lease, offset)).collect();
                    gate.ended(&outcomes(&ended), now);
                }
                _ => {
                    for Late { run, .. } in gate.take_late(at(0), now) {
                        for (lease, offset) in run.rows.clone().map(|row| run.block.origin(row)) {
                            let polled_at = parked.remove(&(tenant_of[&(lease, offset)], lease, offset));
                            prop_assert!(polled_at.is_some_and(|polled_at| now.since(polled_at).as_millis() >= u128::from(WAIT)));
                        }
                    }
                    prop_assert!(parked.values().all(|polled_at| now.since(*polled_at).as_millis() < u128::from(WAIT)));
                }
            }
            for run in gate.release(now) {
                for (lease, offset) in run.rows.clone().map(|row| run.block.origin(row)) {
                    let tenant = tenant_of[&(lease, offset)];
                    let row = (tenant, lease, offset);
                    prop_assert_eq!(parked.keys().find(|other| other.0 == tenant), Some(&row), "in order");
                    parked.remove(&row);
                    through.push(row);
                }
            }
            passed.extend(through.iter().map(|(tenant, ..)| (*tenant, now)));
            inside.extend(through);
            within_bounds(&inside, &passed, (rate, burst), most)?;
            prop_assert!(gate.due() > now, "whatever may pass has passed");
        }
        let ended: Vec<_> = inside.iter().map(|(_, lease, offset)| (*lease, *offset)).collect();
        gate.ended(&outcomes(&ended), now);
        gate.take_late(at(0), now.after(Duration::from_secs(3)));
        prop_assert!(gate.inside.is_empty() && gate.tenants.is_empty() && gate.ages.is_empty());
    }
}
