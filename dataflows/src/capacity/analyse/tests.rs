//! What is said of engines that are made up: their loads, costs and lags are known, and so is what has to be said.

use proptest::prelude::*;

use super::super::picture::Picture;
use super::super::tick::{CellTick, Cost, ModelSetup, ModelTick, Setup, StageTick, Tick};
use super::super::what_if::WhatIf;
use super::*;

/// A partition of an engine that is made up.
#[derive(Clone, Debug)]
struct Made {
    /// Records a second that come, and that are committed.
    comes: i64,
    done: i64,
    /// By how much what comes grows in a second.
    grows: i64,
    /// Its tenants and their shares, in hundredths.
    tenants: Vec<(&'static str, i64)>,
}

fn made(comes: i64, done: i64) -> Made {
    Made { comes, done, grows: 0, tenants: vec![("a", 50), ("b", 50)] }
}

/// Batches of `rows` rows that take 2 ms and half a millisecond a row, on one executor.
fn picture(partitions: &[Made], rows: i64, seconds: i64) -> Picture {
    let (mut ends, mut committed) = (vec![0; partitions.len()], vec![0; partitions.len()]);
    let mut came: Vec<Vec<(i64, i64)>> = vec![Vec::new(); partitions.len()];
    let mut ticks = Vec::new();
    for second in 0..=seconds {
        let at_millis = 1_800_000_000_000 + second * 1_000;
        let mut tick = Tick { at_millis, millis: 1_000, ..Tick::default() };
        let mut inferred = 0;
        for (place, made) in partitions.iter().enumerate() {
            ends[place] += made.comes + made.grows * second;
            came[place].push((ends[place], at_millis));
            let done = made.done.min(ends[place] - committed[place]);
            committed[place] += done;
            inferred += done;
            let oldest = came[place].iter().find(|(end, _)| *end > committed[place]).map(|(_, at)| *at);
            let partition = i32::try_from(place).unwrap();
            tick.partitions.push(PartitionTick {
                partition,
                end: Some(ends[place]),
                committed: Some(committed[place]),
                oldest_millis: oldest,
                in_flight: 0,
            });
            tick.cells.extend(made.tenants.iter().map(|(tenant, share)| CellTick {
                partition,
                model: "m".to_owned(),
                tenant: (*tenant).to_owned(),
                tally: Tally { records: done * share / 100, ..Tally::default() },
            }));
        }
        let mut batches = Line::default();
        (0..inferred / rows).for_each(|_| batches.add(Line::point(rows, 2_000 + 500 * rows)));
        tick.models.push(ModelTick {
            model: "m".to_owned(),
            batches,
            handoffs: Line::default(),
            latency: vec![(100, inferred)],
            cost: Some(Cost { fixed: 2_000.0, row: 500.0, efficient: 64 }),
        });
        tick.stages.push(StageTick { stage: Stage::Worker, threads: 2, on_cpu: 200_000, ready: 0 });
        ticks.push(tick);
    }
    Picture::of(&ticks, ticks.len() - 1, 15)
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
    Setup { executors, devices: 1, workers: 2, partitions: 2, models: vec![model], ..Setup::default() }
}

fn basis(partitions: &[Made], rows: i64) -> Basis {
    Basis::new(picture(partitions, rows, 60), setup(1))
}

fn verdicts(report: &Report) -> Vec<Verdict> {
    report.partitions.iter().map(|partition| partition.finding.verdict).collect()
}

/// One executor bears 64 rows in 34 ms: 1,882 a second.
#[test]
fn a_load_that_is_borne_is_told_with_what_is_to_spare() {
    let report = analyse(&basis(&[made(300, 300), made(600, 600)], 32), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Ok; 2]);
    let rate = report.total.rate_max.unwrap();
    assert!(
        (rate.value / 1_882.0 - 1.0).abs() < 0.01 && rate.low < rate.value && rate.high > rate.value,
        "{rate:?}"
    );
    // The first gets what the second leaves, with full batches; less with batches as they are.
    let first = &report.partitions[0];
    assert!((first.rate_max.unwrap().value / 1_282.0 - 1.0).abs() < 0.01, "{first:?}");
    assert!(first.rate_max_now.unwrap() < first.rate_max.unwrap().value);
    assert!(report.partitions.iter().all(|partition| partition.missed_in.is_none()));
    assert_eq!(report.total.limit.as_deref(), Some("infer"));
    assert_eq!(report.tenants.len(), 2);
}

#[test]
fn a_load_that_is_too_much_is_saturated_and_says_how_many_executors_it_takes() {
    let report = analyse(&basis(&[made(1_200, 940), made(1_200, 940)], 64), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Saturated; 2]);
    let advice = report.partitions[0].finding.advice.as_deref().unwrap();
    // 2,400 a second of 1,882 at seventy of a hundred.
    assert!(advice.contains("2 executors where there are 1"), "{advice}");
    assert!(
        report
            .partitions
            .iter()
            .all(|partition| partition.missed_in.is_some() && partition.drained_in.is_none())
    );
}

#[test]
fn a_hot_key_is_named_and_more_partitions_are_not_advised_for_it() {
    let mut hot = made(2_200, 1_600);
    hot.tenants = vec![("hot", 90), ("b", 10)];
    let report = analyse(&basis(&[hot, made(200, 200)], 64), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Skewed, Verdict::Ok]);
    let found = &report.partitions[0];
    let key = found.hot_key.as_ref().unwrap();
    assert!(key.tenant == "hot" && (key.share - 0.9).abs() < 0.01, "{key:?}");
    let advice = found.finding.advice.as_deref().unwrap();
    assert!(
        advice.contains("`hot|m`") && advice.contains("More partitions would not help this key"),
        "{advice}"
    );
}

#[test]
fn a_partition_with_many_keys_and_most_of_the_load_is_to_be_split() {
    let mut wide = made(2_000, 1_500);
    wide.tenants = vec![("a", 20), ("b", 20), ("c", 20), ("d", 20), ("e", 20)];
    let report = analyse(&basis(&[wide, made(300, 300)], 64), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Skewed, Verdict::Ok]);
    let advice = report.partitions[0].finding.advice.as_deref().unwrap();
    assert!(advice.contains("go from 2 to") && advice.contains("order of a key is lost"), "{advice}");
}

#[test]
fn a_lag_beside_an_idle_device_is_starved() {
    let report = analyse(&basis(&[made(400, 300), made(400, 300)], 4), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Starved; 2]);
    assert!(report.partitions[0].finding.advice.as_deref().unwrap().contains("batch.delay_max"));
}

#[test]
fn a_partition_that_nobody_commits_stands_still_and_one_that_dries_up_is_upstream_s() {
    let falling = Made { grows: -10, ..made(700, 700) };
    let report = analyse(&basis(&[made(50, 0), falling], 32), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Stalled, Verdict::Upstream]);
    assert_eq!(report.partitions[0].missed_in, Some(0.0));
    assert!(report.partitions[1].missed_in.is_none());
}

#[test]
fn a_load_that_grows_is_told_before_it_is_too_much() {
    // 1,000 at first, 20 more each second: 2,200 at the end of the minute, of which 1,882 can be borne.
    let growing = Made { grows: 20, ..made(600, 9_999) };
    let report = analyse(&basis(&[growing, made(0, 0)], 64), Objective::default());
    let found = &report.partitions[0];
    assert!(found.growing.is_some_and(|growing| (growing / 20.0 - 1.0).abs() < 0.05), "{found:?}");
    assert!(found.missed_in.is_some_and(|missed| missed > 10.0), "{found:?}");
}

#[test]
fn a_stranger_s_offsets_say_less_and_say_so() {
    let mut picture = picture(&[made(100, 60)], 32, 60);
    picture.sums.cells.clear();
    picture.sums.mixes.clear();
    picture.sums.partitions.clear();
    let of_offsets =
        |series: &Series| matches!(series, Series::Arrived(_) | Series::Committed(_) | Series::Lag(_));
    picture.sums.series.retain(|series, _| of_offsets(series));
    picture.recent.series.retain(|series, _| of_offsets(series));
    picture.threads.clear();
    let report = analyse(&Basis::new(picture, Setup::default()), Objective::default());
    assert_eq!(verdicts(&report), [Verdict::Saturated]);
    assert_eq!((report.partitions[0].rate_max, report.partitions[0].hot_key.as_ref()), (None, None));
    assert_eq!(report.unknown.len(), 3, "{:?}", report.unknown);
    assert!(report.partitions[0].missed_in.is_some());
}

#[test]
fn what_if_changes_one_thing() {
    let now = basis(&[made(300, 300), made(600, 600)], 32);
    let bears = |changes: &[&str]| {
        let mut changed = now.clone();
        changes.iter().for_each(|change| change.parse::<WhatIf>().unwrap().apply(&mut changed).unwrap());
        let report = analyse(&changed, Objective::default());
        (report.total.rate_max.unwrap().value, report.total.utilisation.unwrap(), report)
    };
    let (rate, used, _) = bears(&[]);
    let (same, more, _) = bears(&["load=+50%"]);
    assert!((same / rate - 1.0).abs() < 1e-9 && (more / used - 1.5).abs() < 1e-9);
    assert!((bears(&["executors=2"]).0 / rate - 2.0).abs() < 1e-9);
    assert!((bears(&["processes=+1"]).0 / rate - 2.0).abs() < 1e-9);
    assert!((bears(&["processes=+7"]).0 / rate - 2.0).abs() < 1e-9, "there are two partitions");
    // The first bears what a whole process does once the second is another's: half of it beside half of 600.
    let first = bears(&["processes=+1"]).2.partitions[0].rate_max.unwrap().value;
    assert!((first / 1_582.0 - 1.0).abs() < 0.01, "{first}");
    // 16 rows in 10 ms.
    assert!((bears(&["batch.size_max=16"]).0 / 1_600.0 - 1.0).abs() < 0.01);
    assert!((bears(&["cost.m=4ms+250us"]).0 / 3_200.0 - 1.0).abs() < 0.01);
    let spread = bears(&["keys=spread"]).2;
    assert!(spread.partitions.iter().all(|partition| (partition.share - 0.5).abs() < 1e-9));
    assert!(bears(&["load=+150%"]).2.partitions.iter().any(|partition| partition.missed_in.is_some()));
    let behind = basis(&[made(1_200, 940), made(1_200, 940)], 64);
    let verdicts_if = |change: &str| {
        let mut changed = behind.clone();
        change.parse::<WhatIf>().unwrap().apply(&mut changed).unwrap();
        verdicts(&analyse(&changed, Objective::default()))
    };
    assert_eq!(verdicts_if("load=+0%"), [Verdict::Saturated; 2]);
    assert_eq!(verdicts_if("executors=3"), [Verdict::Ok; 2]);
    let mut changed = now.clone();
    assert!("model.m=other".parse::<WhatIf>().unwrap().apply(&mut changed).is_err());
    assert!("processes=-1".parse::<WhatIf>().unwrap().apply(&mut changed).is_err());
}

#[test]
fn nothing_seen_is_nothing_said() {
    let report = analyse(&Basis::new(Picture::default(), Setup::default()), Objective::default());
    assert!(report.partitions.is_empty() && report.total.rate_max.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever was seen: rates are numbers, what is used and what is left make one, and more load never misses later.
    #[test]
    fn a_report_makes_sense(
        loads in prop::collection::vec((0_i64..900, 0_i64..900), 1..5), rows in 1_i64..64, executors in 1_usize..5,
    ) {
        let partitions: Vec<Made> = loads.iter().map(|(comes, done)| made(*comes, *done)).collect();
        let basis = Basis::new(picture(&partitions, rows, 20), setup(executors));
        let report = analyse(&basis, Objective::default());
        prop_assert_eq!(report.partitions.len(), partitions.len());
        let mut more = basis.clone();
        WhatIf::Load(2.0).apply(&mut more).unwrap();
        let doubled = analyse(&more, Objective::default());
        for (now, then) in report.partitions.iter().zip(&doubled.partitions) {
            for rate in [now.rate_max.map(|rate| rate.value), now.rate_max_now, now.utilisation].into_iter().flatten() {
                prop_assert!(rate.is_finite() && rate >= 0.0, "{:?}", now);
            }
            if let (Some(used), Some(left)) = (now.utilisation, now.headroom) {
                prop_assert!((used + left - 1.0).abs() < 1e-9);
            }
            if let Some(missed) = now.missed_in {
                prop_assert!(then.missed_in.is_some_and(|then| then <= missed + 1e-6), "{:?} {:?}", now, then);
            }
        }
    }
}
