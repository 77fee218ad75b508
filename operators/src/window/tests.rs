//! Windows, against what was pushed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::broker::Polled;
use crate::catalog::ModelIndex;
use crate::model::TensorSpec;
use crate::share::Share;
use crate::tensor::{Column, Dtype};

const PRICE: Duration = Duration::from_micros(50);

/// A block of rows whose records have these numbers, each of a tenant.
fn block(rows: &[(u32, u8)], at: Moment) -> Arc<Block> {
    let polled = Arc::new(Polled { polled_at: at, ..Polled::default() });
    let mut block = Block::new(ModelIndex(0), 0, Vec::new(), polled);
    block.text = ('a'..='z').collect();
    block.rows = rows
        .iter()
        .map(|(record, tenant)| {
            let tenant = u32::from(*tenant);
            crate::block::Row { record: *record, request_id: 0..0, tenant_id: tenant..tenant + 1 }
        })
        .collect();
    Arc::new(block)
}

/// The same, of rows with so many numbers each, in a model whose rows may be of any length.
fn block_of_length(rows: &[(u32, u8)], length: usize, at: Moment) -> Arc<Block> {
    let mut block = Arc::unwrap_or_clone(block(rows, at));
    let inputs =
        [TensorSpec { name: "x".to_owned(), dtype: Dtype::F32, axes: vec![None], batch_axis: Some(0) }];
    block.columns = vec![Column::of_floats(length, vec![0.0; length * rows.len()])];
    block.class = Class::of(&inputs, &block.columns);
    Arc::new(block)
}

fn of_one_tenant(first: u32, rows: u32, at: Moment) -> Arc<Block> {
    block(&(first..first + rows).map(|record| (record, 0)).collect::<Vec<_>>(), at)
}

fn records(batch: &[Run<u64>]) -> Vec<u32> {
    batch.iter().flat_map(|run| run.block.rows[run.rows.clone()].iter().map(|row| row.record)).collect()
}

fn tenants(batch: &[Run<u64>]) -> String {
    let rows = batch.iter().flat_map(|run| run.rows.clone().map(|row| run.block.tenant_id(row)));
    rows.collect()
}

fn window(shares: Shares) -> Window<u64> {
    Window::new(Arc::new(shares), usize::MAX)
}

#[test]
fn a_crowded_window_is_shared_and_what_a_batch_has_of_a_block_stays_together() {
    let mut window = window(Shares::default());
    // Of two tenants by turns, and one more row of a third.
    let flood: Vec<(u32, u8)> = (0..100).map(|record| (record, u8::try_from(record % 2).unwrap())).collect();
    window.push(block(&flood, Moment::from_nanos(1)), 0..100, 0);
    window.push(block(&[(100, 2)], Moment::from_nanos(2)), 0..1, 1);
    let Taken { runs, bill } = window.take(9, PRICE);
    assert_eq!((tenants(&runs).as_str(), runs.len()), ("ababababc", 2));
    window.settle(bill.unwrap(), 9 * PRICE);
    assert_eq!((window.rows(), window.oldest()), (92, Some(Moment::from_nanos(1))));
    let Taken { runs, bill } = window.take(92, PRICE);
    assert_eq!((records(&runs), runs.len(), bill.is_none()), ((8..100).collect(), 1, true));
    assert_eq!((window.rows(), window.oldest()), (0, None));
}

#[test]
fn the_oldest_row_does_not_wait_for_ever_behind_a_higher_priority() {
    let first = Share { priority: 1, ..Share::default() };
    let mut window = window(Shares { tenants: [("b".to_owned(), first)].into(), ..Shares::default() });
    window.push(block(&[(0, 0), (1, 0)], Moment::from_nanos(1)), 0..2, 0);
    let mut batches = 0;
    while window.oldest() == Some(Moment::from_nanos(1)) {
        let rows: Vec<(u32, u8)> = (0..4).map(|record| (10 + record, 1)).collect();
        window.push(block(&rows, Moment::from_nanos(2)), 0..4, 0);
        let Taken { runs, bill } = window.take(4, PRICE);
        assert!(["bbbb", "abbb"].contains(&tenants(&runs).as_str()), "{}", tenants(&runs));
        bill.into_iter().for_each(|bill| window.settle(bill, 4 * PRICE));
        batches += 1;
    }
    assert_eq!(batches, 2 * OLDEST_FIRST);
}

#[test]
fn two_tenants_whose_rows_can_not_run_together_get_the_same() {
    let mut window = window(Shares::default());
    for (tenant, length) in [(0, 3), (1, 5)] {
        let rows: Vec<(u32, u8)> = (0..400).map(|record| (record, tenant)).collect();
        window.push(block_of_length(&rows, length, Moment::from_nanos(u64::from(tenant))), 0..400, 0);
    }
    let mut served = [0_i64; 2];
    for _ in 0..40 {
        assert!(window.fullest() >= 80);
        let Taken { runs, bill } = window.take(8, PRICE);
        let batch = tenants(&runs);
        assert!(["aaaaaaaa", "bbbbbbbb"].contains(&batch.as_str()), "{batch}");
        served[usize::from(batch.starts_with('b'))] += 8;
        bill.into_iter().for_each(|bill| window.settle(bill, 8 * PRICE));
        assert!((served[0] - served[1]).abs() <= 16, "{served:?}");
    }
}

proptest! {
    /// Whatever comes, a batch is of rows that may run together, within its bytes, and each row leaves once. As long as one waits, a
    /// batch has one.
    #[test]
    fn a_batch_is_of_one_class_and_no_class_waits_for_ever(
        moves in prop::collection::vec((prop::collection::vec(0_u8..3, 1..20), 1_usize..4, 0_u64..4, prop::option::of(1_usize..30)), 1..40),
    ) {
        const BYTES_MAX: usize = 40;
        let mut window = Window::<u64>::new(Arc::default(), BYTES_MAX);
        let (mut waiting, mut next, mut now) = (BTreeMap::<u32, usize>::new(), 0, 10);
        let take = |window: &mut Window<u64>, size: usize, waiting: &mut BTreeMap<u32, usize>| {
            let Taken { runs, bill } = window.take(size, PRICE);
            let lengths: BTreeSet<usize> = runs.iter().map(|run| run.block.columns[0].axes[0]).collect();
            prop_assert_eq!(lengths.len(), 1);
            let records = records(&runs);
            prop_assert!(records.len() <= size && records.len() <= BYTES_MAX / 4 / lengths.first().unwrap());
            for record in records {
                prop_assert_eq!(waiting.remove(&record), lengths.first().copied());
            }
            bill.into_iter().for_each(|bill| window.settle(bill, PRICE));
            Ok(())
        };
        for (rows, length, back, size) in moves {
            now += 1;
            let rows: Vec<(u32, u8)> = (next..).zip(rows).collect();
            next += u32::try_from(rows.len()).unwrap();
            window.push(block_of_length(&rows, length, Moment::from_nanos(now - back)), 0..rows.len(), 0);
            waiting.extend(rows.iter().map(|(record, _)| (*record, length)));
            let of = |length: usize| waiting.values().filter(|other| **other == length).count();
            prop_assert_eq!((window.rows(), window.fullest()), (waiting.len(), (1..4).map(of).max().unwrap()));
            if let Some(size) = size {
                take(&mut window, size, &mut waiting)?;
            }
        }
        let overdue = window.take_overdue(Duration::from_nanos(5), Moment::START, Moment::from_nanos(now));
        for record in records(&overdue) {
            prop_assert!(waiting.remove(&record).is_some());
        }
        while !waiting.is_empty() {
            take(&mut window, 7, &mut waiting)?;
        }
        prop_assert_eq!((window.rows(), window.fullest(), window.oldest()), (0, 0, None));
    }

    /// Against a model of three lines: of one tenant, a window is `chunks` of the rows in their order.
    #[test]
    fn batches_of_one_tenant_are_the_rows_in_their_order_cut_at_the_size(
        blocks in prop::collection::vec(0_u32..200, 0..20),
        size_max in 1_usize..100,
    ) {
        let mut window = window(Shares::default());
        let mut all = 0;
        for (token, rows) in blocks.iter().enumerate() {
            window.push(of_one_tenant(all, *rows, Moment::START), 0..*rows as usize, token as u64);
            all += rows;
        }
        let model: Vec<u32> = (0..all).collect();
        for chunk in model.chunks(size_max) {
            prop_assert_eq!(window.oldest(), Some(Moment::START));
            let Taken { runs, bill } = window.take(size_max, PRICE);
            prop_assert_eq!(records(&runs), chunk);
            prop_assert!(runs.iter().all(|run| !run.rows.is_empty()));
            bill.into_iter().for_each(|bill| window.settle(bill, PRICE));
        }
        prop_assert_eq!(window.rows(), 0);
        prop_assert_eq!(window.oldest(), None);
    }

    /// Whatever comes, from several workers, is taken and expires: each row leaves once, a batch is as large as it can be, the rows of a
    /// tenant leave in the order of their polls, and the oldest is known.
    #[test]
    fn each_row_leaves_once_and_those_of_a_tenant_in_their_order(
        moves in prop::collection::vec((0_u8..4, prop::collection::vec(0_u8..6, 0..30), 0_u64..4, 1_usize..40), 1..60),
    ) {
        let first = Share { priority: 1, weight: 2, ..Share::default() };
        let mut window = window(Shares { tenants: [("a".to_owned(), first)].into(), ..Shares::default() });
        // What waits: its time, its record and its tenant.
        let mut waiting = BTreeSet::<(u64, u32, u8)>::new();
        let (mut next, mut now, mut bills) = (0, 10, Vec::new());
        for (kind, rows, back, size) in moves {
            match kind {
                0 | 1 => {
                    now += 1;
                    let at = now - back;
                    let rows: Vec<(u32, u8)> = (next..).zip(rows).collect();
                    next += u32::try_from(rows.len()).unwrap();
                    window.push(block(&rows, Moment::from_nanos(at)), 0..rows.len(), at);
                    waiting.extend(rows.iter().map(|(record, tenant)| (at, *record, *tenant)));
                }
                2 => {
                    let before = waiting.len();
                    let Taken { runs, bill } = window.take(size, PRICE);
                    bills.extend(bill);
                    prop_assert_eq!(records(&runs).len(), before.min(size));
                    for run in &runs {
                        for row in &run.block.rows[run.rows.clone()] {
                            let tenant = u8::try_from(row.tenant_id.start).unwrap();
                            prop_assert!(waiting.remove(&(run.token, row.record, tenant)), "it waited");
                        }
                    }
                    for tenant in 0..6 {
                        let of = |(at, _, other): &&(u64, u32, u8)| (*other == tenant).then_some(*at);
                        let left = waiting.iter().find_map(|row| of(&row));
                        let taken = runs.iter().filter(|run| run.block.rows[run.rows.clone()].iter().any(|row| row.tenant_id.start == u32::from(tenant)));
                        prop_assert!(left.is_none_or(|left| taken.map(|run| run.token).all(|taken| taken <= left)));
                    }
                    if let Some(bill) = (size % 3 > 0).then(|| bills.pop()).flatten() {
                        window.settle(bill, PRICE);
                    }
                }
                _ => {
                    let overdue: Vec<u32> = records(&window.take_overdue(Duration::from_nanos(9), Moment::START, Moment::from_nanos(now)));
                    let late: BTreeSet<_> = waiting.iter().copied().filter(|(at, ..)| at + 9 <= now).collect();
                    prop_assert_eq!(overdue.into_iter().collect::<BTreeSet<_>>(), late.iter().map(|(_, record, _)| *record).collect());
                    waiting.retain(|row| !late.contains(row));
                }
            }
            prop_assert_eq!(window.rows(), waiting.len());
            prop_assert_eq!(window.oldest(), waiting.first().map(|(at, ..)| Moment::from_nanos(*at)));
        }
    }
}
