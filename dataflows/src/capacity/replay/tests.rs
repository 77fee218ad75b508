//! What comes of made-up traces: waits, backlogs and bounds whose sizes can be worked out by hand.

use super::*;
use crate::capacity::WhatIf;
use crate::capacity::picture::Picture;
use crate::capacity::sums::{Line, Tally};
use crate::capacity::tick::{CellTick, Cost, ModelSetup, ModelTick, PartitionTick, Setup};

/// A minute of two partitions with so many records a second each, whose batches of `rows` rows take 4 ms and half a millisecond a row.
fn ticks(comes: [i64; 2], rows: i64) -> Vec<Tick> {
    let tick = |second: i64| {
        let mut batches = Line::default();
        (0..(comes[0] + comes[1]) / rows)
            .for_each(|batch| batches.add(Line::point(rows + batch % 2, 4_000 + 500 * (rows + batch % 2))));
        let lane = |partition: i32, comes: i64| PartitionTick {
            partition,
            end: Some(comes * second),
            committed: Some(comes * second),
            oldest_millis: None,
            in_flight: 0,
        };
        let tenant = |partition, name: &str, records| CellTick {
            partition,
            model: "m".to_owned(),
            tenant: name.to_owned(),
            tally: Tally { records, ..Tally::default() },
        };
        Tick {
            at_millis: 1_800_000_000_000 + 1_000 * second,
            millis: 1_000,
            partitions: vec![lane(0, comes[0]), lane(1, comes[1])],
            cells: vec![tenant(0, "a", comes[0] / 2), tenant(0, "b", comes[0] / 2), tenant(1, "c", comes[1])],
            models: vec![ModelTick {
                model: "m".to_owned(),
                batches,
                handoffs: Line::default(),
                latency: vec![(bucket_of(50), comes[0] + comes[1])],
                cost: Some(Cost { fixed: 4_000.0, row: 500.0, efficient: 64 }),
            }],
            stages: Vec::new(),
            bursts: Vec::new(),
        }
    };
    (0..=60).map(tick).collect()
}

fn bucket_of(millis: u64) -> u8 {
    crate::capacity::tick::bucket(millis * 1_000)
}

fn setup(executors: usize) -> Setup {
    let model = ModelSetup {
        id: "m".to_owned(),
        devices: vec![0],
        size_max: 64,
        delay_millis: Some(50.0),
        slo_millis: None,
        weight: 1,
    };
    let models = vec![model];
    Setup { executors, devices: 1, workers: 1, partitions: 2, models, ..Setup::default() }
}

fn basis(ticks: &[Tick], executors: usize) -> Basis {
    Basis::new(Picture::of(ticks, ticks.len() - 1, 15), setup(executors))
}

fn case(ticks: &[Tick], executors: usize, changes: &[&str]) -> Replay {
    let mut basis = basis(ticks, executors);
    changes.iter().for_each(|change| change.parse::<WhatIf>().unwrap().apply(&mut basis).unwrap());
    replay(&basis, ticks).unwrap()
}

/// 300 a second fill 15 rows in the 50 ms that the oldest waits; then they take 11.5 ms.
#[test]
fn at_a_low_load_a_record_waits_for_others_and_for_its_batch() {
    let seen = case(&ticks([200, 100], 16), 2, &[]);
    let model = &seen.models[0];
    assert_eq!(seen.records, 60 * 300, "every record is replayed");
    assert!((14.0..=18.0).contains(&model.batch_rows), "{model:?}");
    assert!((56.0..=68.0).contains(&model.p99_millis.value), "{model:?}");
    assert!(model.p50_millis.value < model.p99_millis.value);
    assert!(
        model.p99_millis.low <= model.p99_millis.value && model.p99_millis.value <= model.p99_millis.high
    );
    assert!(seen.partitions.iter().all(|partition| partition.lag.value < 100.0), "{seen:?}");
    // 15 rows of 11.5 ms each 50 ms, on two executors.
    assert!((seen.used.value - 300.0 / 16.0 * 0.012 / 2.0).abs() < 0.03, "{:?}", seen.used);
}

#[test]
fn the_same_ticks_give_the_same_replay() {
    let ticks = ticks([200, 100], 16);
    assert_eq!(case(&ticks, 2, &[]), case(&ticks, 2, &[]));
}

#[test]
fn a_shorter_wait_and_an_objective_are_worth_their_latency() {
    let ticks = ticks([200, 100], 16);
    let p99 = |change: &str| case(&ticks, 2, &[change]).models[0].p99_millis.value;
    assert!(p99("batch.delay_max=10ms") < 30.0, "{}", p99("batch.delay_max=10ms"));
    assert!(p99("batch.delay_max=200ms") > 150.0, "{}", p99("batch.delay_max=200ms"));
    // With time to spare, an objective waits for nobody.
    assert!(p99("batch.slo=200ms") < 40.0, "{}", p99("batch.slo=200ms"));
}

/// Two executors bear 64 rows in 36 ms each: 3,555 a second.
#[test]
fn what_comes_beyond_what_could_be_borne_waits_ever_longer() {
    let ticks = ticks([2_000, 1_000], 64);
    let well = case(&ticks, 2, &[]);
    assert!(well.lag_seconds_max().unwrap().value < 1.0, "{:?}", well.partitions);
    let over = case(&ticks, 2, &["load=+50%"]);
    // 4,500 come where 3,555 can be borne: after a minute some 57,000 wait.
    let lag: f64 = over.partitions.iter().map(|partition| partition.lag.value).sum();
    assert!((lag / 56_700.0 - 1.0).abs() < 0.05, "{lag}");
    assert!((10.0..=20.0).contains(&over.lag_seconds_max().unwrap().value), "{:?}", over.partitions);
    assert!(over.used.value > 0.99);
    let more = case(&ticks, 2, &["load=+50%", "executors=4"]);
    assert!(more.lag_seconds_max().unwrap().value < 1.0, "{:?}", more.partitions);
    let processes = case(&ticks, 2, &["load=+50%", "processes=+1"]);
    assert!(processes.lag_seconds_max().unwrap().value < 1.0, "{:?}", processes.partitions);
}

#[test]
fn a_bound_on_what_is_in_flight_keeps_batches_small() {
    let ticks = ticks([2_000, 1_000], 64);
    let tight = case(&ticks, 2, &["in_flight.records_max=40"]);
    assert!(tight.models[0].batch_rows < 45.0 && tight.lag_seconds_max().unwrap().value > 10.0, "{tight:?}");
}

#[test]
fn a_tenant_with_a_rate_waits_for_its_tokens() {
    let ticks = ticks([200, 100], 16);
    let bounded = Setup { rates: vec![("a".to_owned(), 50.0)], ..setup(2) };
    let basis = Basis::new(Picture::of(&ticks, ticks.len() - 1, 15), bounded);
    let seen = replay(&basis, &ticks).unwrap();
    // 100 a second come of which 50 pass: half a minute later, with a burst of a second's.
    assert!((seen.partitions[0].lag.value / 2_950.0 - 1.0).abs() < 0.05, "{seen:?}");
    assert!(seen.partitions[1].lag.value < 50.0, "{seen:?}");
}

#[test]
fn what_was_missed_of_what_was_measured_is_doubt() {
    let ticks = ticks([200, 100], 16);
    let basis = basis(&ticks, 2);
    let mut report = crate::capacity::analyse(&basis, crate::capacity::Objective::default());
    let now = replay(&basis, &ticks).unwrap();
    report.models[0].p99_millis = Some(now.models[0].p99_millis.value + 30.0);
    let case = case(&ticks, 2, &["batch.delay_max=10ms"]);
    let (sure, doubted) = (case.models[0].p99_millis, case.doubted(&now, &report).models[0].p99_millis);
    assert!((doubted.high - sure.high - 30.0).abs() < 1e-9 && (doubted.low - sure.low).abs() < 1e-9);
}

#[test]
fn there_is_nothing_to_replay_where_nothing_is_known_of_keys() {
    let mut ticks = ticks([200, 100], 16);
    ticks.iter_mut().for_each(|tick| tick.cells.clear());
    assert_eq!(replay(&basis(&ticks, 2), &ticks), None);
    assert_eq!(replay(&basis(&ticks, 2), &[]), None);
}

#[test]
fn a_backlog_at_the_start_is_drained_and_what_was_on_its_way_is_none() {
    let mut ticks = ticks([200, 100], 16);
    let oldest = |ticks: &[Tick]| case(ticks, 2, &[]).partitions[0].lag_seconds_max.value;
    let set = |ticks: &mut [Tick], lag: i64, in_flight: i64| {
        let first = &mut ticks[0].partitions[0];
        (first.committed, first.in_flight) = (Some(-lag), in_flight);
    };
    let usual = oldest(&ticks);
    set(&mut ticks, 180, 180);
    assert!((oldest(&ticks) - usual).abs() < 0.05, "less than a second's, and all of it polled");
    // 10,000 wait of which 200 are on their way; 3,255 a second are to spare.
    set(&mut ticks, 10_000, 9_000);
    assert!((2.0..=3.2).contains(&oldest(&ticks)), "{}", oldest(&ticks));
}

/// 2,000 a second, now all of them in a tenth of each second: 200 are gone in 60 ms where they come evenly, and 2,000 take 600.
#[test]
fn bursts_within_a_tick_are_replayed_as_bursts() {
    let mut ticks = ticks([1_000, 1_000], 64);
    let p99 = |ticks: &[Tick]| case(ticks, 2, &[]).models[0].p99_millis.value;
    assert!(p99(&ticks) < 120.0, "{}", p99(&ticks));
    ticks.iter_mut().for_each(|tick| tick.bursts = vec![0, 0, 0, 2_000, 0, 0, 0, 0, 0, 0]);
    assert!((450.0..=700.0).contains(&p99(&ticks)), "{}", p99(&ticks));
}

/// What batches of a model take is known of the process that runs it, though this one never did.
#[test]
fn a_model_that_only_another_process_has_seen_can_take_the_place_of_one() {
    let own = ticks([200, 100], 16);
    let mut others = own.clone();
    for tick in &mut others {
        tick.cells.iter_mut().for_each(|cell| cell.model = "n".to_owned());
        for model in &mut tick.models {
            model.model = "n".to_owned();
            model.batches.y *= 4;
            model.cost = None;
        }
    }
    let (mut own, other) = (basis(&own, 2), basis(&others, 2));
    let replaced: WhatIf = "model.m=n".parse().unwrap();
    assert!(replaced.apply(&mut own.clone()).is_err());
    let per_row = |basis: &Basis| basis.costs.values().map(|cost| cost.per_row(16.0)).next().unwrap();
    let before = per_row(&own);
    replaced.models().iter().for_each(|model| own.borrow_cost(model, &other));
    replaced.apply(&mut own).unwrap();
    assert!(per_row(&own) > 3.0 * before, "{} and {before}", per_row(&own));
    // The other has nothing of `m`, and nothing changes there.
    let mut theirs = other.clone();
    replaced.models().iter().for_each(|model| theirs.borrow_cost(model, &basis(&ticks([200, 100], 16), 2)));
    replaced.apply(&mut theirs).unwrap();
    assert_eq!(theirs.costs.len(), 2);
}
