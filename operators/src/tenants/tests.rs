//! Turns of tenants, against what they were served.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::share::{ID_KEPT_MAX, Share};

fn shares(tenants: &[(&str, u32, u8)]) -> Arc<Shares> {
    let share = |(id, weight, priority): &(&str, u32, u8)| {
        ((*id).to_owned(), Share { weight: *weight, priority: *priority, ..Share::default() })
    };
    Arc::new(Shares { tenants: tenants.iter().map(share).collect(), ..Shares::default() })
}

/// Forms a batch at a price, and returns the rows of each tenant in it.
fn batch(tenants: &mut Tenants, size: usize, price: Duration) -> (BTreeMap<TenantId, usize>, Bill) {
    let (mut rows, mut bill, mut room) = (BTreeMap::new(), Bill::new(price, size), size);
    while let Some(turn) = tenants.next(&mut bill, room, |_| usize::MAX) {
        room -= turn.rows;
        *rows.entry(turn.tenant).or_default() += turn.rows;
    }
    (rows, bill)
}

const PRICE: Duration = Duration::from_micros(100);

#[test]
fn a_batch_is_shared_row_by_row_and_a_tenant_of_one_row_is_in_the_next() {
    let mut tenants = Tenants::new(shares(&[]));
    let (flood, quiet) = (tenants.find("flood"), tenants.find("quiet"));
    tenants.add(flood, 1_000);
    let (rows, bill) = batch(&mut tenants, 8, PRICE);
    assert_eq!((rows, bill.is_empty()), (BTreeMap::from([(flood, 8)]), true), "who waits alone pays nothing");
    tenants.add(quiet, 1);
    let (rows, bill) = batch(&mut tenants, 8, PRICE);
    assert_eq!(rows, BTreeMap::from([(flood, 7), (quiet, 1)]));
    tenants.settle(bill, 8 * PRICE);
    tenants.add(quiet, 100);
    let (rows, bill) = batch(&mut tenants, 8, PRICE);
    assert_eq!(rows, BTreeMap::from([(flood, 4), (quiet, 4)]));
    tenants.settle(bill, 8 * PRICE);
}

#[test]
fn a_higher_priority_comes_first_and_what_it_leaves_is_for_the_others() {
    let mut tenants = Tenants::new(shares(&[("first", 1, 2), ("second", 3, 1), ("third", 1, 1)]));
    let [first, second, third] = ["first", "second", "third"].map(|id| tenants.find(id));
    tenants.add(second, 100);
    tenants.add(third, 100);
    tenants.add(first, 10);
    assert_eq!(batch(&mut tenants, 8, PRICE).0, BTreeMap::from([(first, 8)]));
    let (rows, bill) = batch(&mut tenants, 10, PRICE);
    assert_eq!(rows, BTreeMap::from([(first, 2), (second, 6), (third, 2)]), "by their weights");
    tenants.settle(bill, 10 * PRICE);
}

#[test]
fn rows_that_turn_out_dear_are_paid_for_in_turns() {
    let mut tenants = Tenants::new(shares(&[]));
    let [dear, cheap] = ["dear", "cheap"].map(|id| tenants.find(id));
    tenants.add(dear, 1_000);
    tenants.add(cheap, 1_000);
    let mut turns = BTreeMap::<TenantId, u32>::new();
    for _ in 0..220 {
        let (rows, bill) = batch(&mut tenants, 1, PRICE);
        let tenant = *rows.keys().next().unwrap();
        *turns.entry(tenant).or_default() += 1;
        tenants.settle(bill, if tenant == dear { 10 * PRICE } else { PRICE });
    }
    assert!(turns[&cheap].abs_diff(200) <= 10 && turns[&dear].abs_diff(20) <= 2, "{turns:?}");
}

#[test]
fn a_debt_of_hours_is_not_paid_off_round_by_round() {
    let mut tenants = Tenants::new(shares(&[]));
    let [one, other] = ["one", "other"].map(|id| tenants.find(id));
    tenants.add(one, 10);
    tenants.add(other, 10);
    let (_, bill) = batch(&mut tenants, 4, Duration::from_nanos(1));
    tenants.settle(bill, Duration::from_hours(100));
    let (rows, bill) = batch(&mut tenants, 4, Duration::from_nanos(1));
    assert_eq!(rows, BTreeMap::from([(one, 2), (other, 2)]), "both owe the same");
    tenants.settle(bill, Duration::ZERO);
}

#[test]
fn a_long_id_is_told_from_every_other_and_takes_no_more_than_a_short_one() {
    let mut tenants = Tenants::new(shares(&[]));
    let long = "x".repeat(1 << 20);
    let found = [&long, &long[1..], &long[..ID_KEPT_MAX], "x"].map(|id| tenants.find(id));
    let again = [&long, &long[1..], &long[..ID_KEPT_MAX], "x"].map(|id| tenants.find(id));
    assert_eq!((found, found.iter().collect::<std::collections::BTreeSet<_>>().len()), (again, 4));
    assert!(tenants.ids.keys().all(|id| id.len() <= ID_KEPT_MAX + 1));
}

proptest! {
    /// Whatever a batch costs, and however wrong the price was.
    #[test]
    fn tenants_that_always_wait_never_differ_by_more_than_two_full_batches(
        weights in prop::collection::vec(1_u32..6, 2..6),
        same in any::<bool>(),
        size in 1_usize..70,
        costs in prop::collection::vec(1_000_u64..1_000_000, 1..300),
        price in 1_u64..100_000,
    ) {
        let ids: Vec<String> = (0..weights.len()).map(|place| format!("t{place}")).collect();
        let weights: Vec<u32> = weights.iter().map(|weight| if same { 1 } else { *weight }).collect();
        let listed: Vec<_> = ids.iter().zip(&weights).map(|(id, weight)| (id.as_str(), *weight, 0)).collect();
        let mut tenants = Tenants::new(shares(&listed));
        let places: Vec<TenantId> = ids.iter().map(|id| tenants.find(id)).collect();
        places.iter().for_each(|tenant| tenants.add(*tenant, 1_000_000));
        let mut served = vec![0_u64; places.len()];
        let mut price = Duration::from_nanos(price);
        let dearest = *costs.iter().max().unwrap();
        for cost in costs {
            let (rows, bill) = batch(&mut tenants, size, price);
            prop_assert_eq!(rows.values().sum::<usize>(), size, "as many as there is room for");
            for (tenant, rows) in rows {
                served[tenant.index()] += cost * rows as u64 / size as u64;
            }
            tenants.settle(bill, Duration::from_nanos(cost));
            price = Duration::from_nanos(cost / size as u64);
            let each = served.iter().zip(&weights).map(|(served, weight)| served / u64::from(*weight));
            let spread = each.clone().max().unwrap() - each.min().unwrap();
            prop_assert!(spread <= 2 * dearest, "{served:?} by weights {weights:?}, of {dearest}");
        }
    }

    /// Rows come, are taken, expire, and bills are settled in any order: every row is taken once, nobody waits while there is room, no
    /// lower priority comes before a higher one, and strangers are forgotten.
    #[test]
    fn every_row_is_taken_once_and_whoever_has_none_is_forgotten(
        moves in prop::collection::vec((0_u8..5, 0_u32..400, 1_usize..20, any::<prop::sample::Index>()), 1..400),
    ) {
        let listed: Vec<(String, u8)> = (0..400).map(|id| (format!("t{id}"), u8::from(id % 7 == 0))).collect();
        let listed: Vec<_> = listed.iter().map(|(id, priority)| (id.as_str(), 1 + u32::from(*priority), *priority)).collect();
        let mut tenants = Tenants::new(shares(&listed));
        let mut waiting = BTreeMap::<u32, usize>::new();
        let mut bills = Vec::new();
        for (kind, id, rows, index) in moves {
            let tenant = tenants.find(&format!("t{id}"));
            match kind {
                0 | 1 => {
                    tenants.add(tenant, rows);
                    *waiting.entry(id).or_default() += rows;
                }
                2 => {
                    let gone = waiting.get(&id).copied().unwrap_or(0).min(rows);
                    tenants.remove(tenant, gone);
                    waiting.entry(id).and_modify(|waiting| *waiting -= gone);
                }
                3 if !bills.is_empty() => {
                    let bill = bills.swap_remove(index.index(bills.len()));
                    tenants.settle(bill, Duration::from_micros(u64::from(id)));
                }
                _ => {
                    let before: usize = waiting.values().sum();
                    let first: usize = waiting.iter().filter(|(id, _)| *id % 7 == 0).map(|(_, rows)| rows).sum();
                    let places: BTreeMap<TenantId, u32> = waiting.keys().map(|id| (tenants.find(&format!("t{id}")), *id)).collect();
                    let (taken, bill) = batch(&mut tenants, rows, PRICE);
                    bills.push(bill);
                    prop_assert_eq!(taken.values().sum::<usize>(), before.min(rows));
                    let of_first: usize = taken.iter().filter(|(tenant, _)| places[tenant].is_multiple_of(7)).map(|(_, rows)| rows).sum();
                    prop_assert_eq!(of_first, first.min(rows));
                    for (tenant, rows) in taken {
                        *waiting.get_mut(&places[&tenant]).unwrap() -= rows;
                    }
                }
            }
            waiting.retain(|_, rows| *rows > 0);
        }
        let all: usize = waiting.values().sum();
        let (taken, bill) = batch(&mut tenants, usize::MAX, PRICE);
        bills.push(bill);
        prop_assert_eq!(taken.values().sum::<usize>(), all);
        bills.into_iter().for_each(|bill| tenants.settle(bill, PRICE));
        tenants.forget_idle();
        prop_assert!(tenants.accounts.iter().all(|account| account.waiting == 0 && account.billed == 0));
        for stranger in 0..3_000 {
            let tenant = tenants.find(&format!("stranger {stranger}"));
            tenants.add(tenant, 1);
            tenants.remove(tenant, 1);
        }
        prop_assert!(tenants.known() <= 400 + IDLE_BYTES_MAX / ACCOUNT_BYTES, "{}", tenants.known());
        prop_assert!(tenants.accounts.len() <= 800 + 2 * IDLE_BYTES_MAX / ACCOUNT_BYTES);
    }
}
