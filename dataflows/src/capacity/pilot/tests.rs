//! What the autopilot does of reports that are made up: when it acts, what it takes back, and that it comes to rest whatever it is shown.

use proptest::prelude::*;

use super::*;
use crate::capacity::report::{PartitionReport, Total};
use crate::capacity::sums::Mean;
use crate::capacity::verdict::{Finding, Verdict};

/// Reports come every five seconds, and a change takes half a minute to be seen.
const INTERVAL: i64 = 5_000;
const SETTLE: i64 = 30_000;

fn size() -> Setting {
    Setting::SizeMax("m".to_owned())
}

fn pilot() -> Pilot {
    let first = Values::from([(Setting::Executors, 2), (size(), 64), (Setting::InFlight, 1_000)]);
    let most = Values::from([(Setting::Executors, 8), (size(), 256)]);
    Pilot::new(first, most, SETTLE)
}

/// A partition whose lag grows by so many a second, and what is advised.
fn report(at_millis: i64, growing: f64, action: Option<Action>) -> Report {
    let is_behind = growing > 0.0;
    let partition = PartitionReport {
        share: 1.0,
        lag_growing: Some(Mean { mean: growing, error: 0.0 }),
        missed_in: is_behind.then_some(60.0),
        finding: Finding {
            verdict: if is_behind { Verdict::Saturated } else { Verdict::Ok },
            evidence: vec!["so it is".to_owned()],
            action,
            ..Finding::default()
        },
        ..PartitionReport::default()
    };
    let total = Total { executors_needed: Some(2), ..Total::default() };
    Report { at_millis, total, partitions: vec![partition], ..Report::default() }
}

fn executors(to: u64) -> Action {
    Action { setting: Setting::Executors, to }
}

/// Shows it a report each five seconds until it acts, and makes the change; `None` if it has not within so long.
fn until(pilot: &mut Pilot, at: &mut i64, within: i64, of: impl Fn(i64) -> Report) -> Option<Change> {
    let end = *at + within;
    while *at < end {
        *at += INTERVAL;
        let report = of(*at);
        if let Some(change) = pilot.look(&report) {
            pilot.made(&change, &report);
            return Some(change);
        }
    }
    None
}

#[test]
fn what_is_advised_has_to_be_advised_several_times() {
    let (mut pilot, mut at) = (pilot(), 0);
    assert_eq!(pilot.look(&report(0, 50.0, Some(executors(4)))), None);
    assert_eq!(pilot.look(&report(5_000, 50.0, None)), None, "that was not for long");
    let change = until(&mut pilot, &mut at, 60_000, |at| report(at, 50.0, Some(executors(4)))).unwrap();
    assert_eq!((at, change.from, change.to, change.kind), (15_000, 2, 4, Kind::Advised));
    assert!(change.why.contains("partition 0 is SATURATED: so it is"), "{}", change.why);
    assert_eq!(pilot.values()[&Setting::Executors], 4);
    // It helps, and still is not enough: nothing for as long as it takes to be seen, and then three reports.
    let next = until(&mut pilot, &mut at, 60_000, |at| report(at, 20.0, Some(executors(6)))).unwrap();
    assert_eq!((at, next.from, next.to), (15_000 + SETTLE + 2 * INTERVAL, 4, 6));
}

#[test]
fn what_did_not_help_is_taken_back_and_not_tried_again_for_ever_longer() {
    let (mut pilot, mut at) = (pilot(), 0);
    let behind = |at| report(at, 50.0, Some(executors(4)));
    let mut tried = Vec::new();
    for _ in 0..4 {
        let change = until(&mut pilot, &mut at, 1_000_000_000, behind).unwrap();
        assert_eq!((change.kind, change.to), (Kind::Advised, 4));
        tried.push(at);
        let back = until(&mut pilot, &mut at, SETTLE + INTERVAL, behind).unwrap();
        assert_eq!((back.kind, back.to), (Kind::TakenBack, 2));
        assert!(back.why.contains("50.0"), "{}", back.why);
    }
    let pauses: Vec<i64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses[0] > SETTLE * HELD_TIMES && pauses.windows(2).all(|pair| pair[1] > pair[0] * 18 / 10),
        "{pauses:?}"
    );
}

#[test]
fn what_is_not_needed_any_more_goes_back_once_all_has_been_well_for_long() {
    let (mut pilot, mut at) = (pilot(), 0);
    until(&mut pilot, &mut at, 60_000, |at| report(at, 50.0, Some(executors(8)))).unwrap();
    let raised = at;
    let well = |at| report(at, 0.0, None);
    let half = until(&mut pilot, &mut at, 3_600_000, well).unwrap();
    assert_eq!((half.kind, half.from, half.to), (Kind::Returned, 8, 5));
    assert!(at - raised >= SETTLE * CALM_TIMES, "{}", at - raised);
    let before = at;
    let more = until(&mut pilot, &mut at, 7_200_000, well).unwrap();
    assert_eq!((more.from, more.to), (5, 3));
    assert!(at - before >= 2 * SETTLE * CALM_TIMES, "each time it waits for longer");
    assert_eq!(until(&mut pilot, &mut at, 86_400_000, well).map(|change| change.to), Some(2));
    assert_eq!(until(&mut pilot, &mut at, 86_400_000, well), None, "it is where it began");
}

#[test]
fn nothing_goes_beyond_its_bound_or_is_touched_that_has_none() {
    let (mut pilot, mut at) = (pilot(), 0);
    let change = until(&mut pilot, &mut at, 60_000, |at| report(at, 50.0, Some(executors(1_000)))).unwrap();
    assert_eq!(change.to, 8);
    let in_flight = Some(Action { setting: Setting::InFlight, to: 2_000 });
    let unknown = Some(Action { setting: Setting::DelayMax("other".to_owned()), to: 9 });
    for action in [in_flight, unknown, Some(executors(8)), Some(executors(1))] {
        assert_eq!(
            until(&mut pilot, &mut at, 600_000, |at| report(at, 1.0, action.clone())),
            None,
            "{action:?}"
        );
    }
}

#[test]
fn what_was_declined_is_not_proposed_again_for_a_while() {
    let mut pilot = pilot();
    let proposed: Vec<i64> = (1..=10_000)
        .filter_map(|place| {
            let change = pilot.look(&report(place * INTERVAL, 50.0, Some(executors(4))))?;
            pilot.declined(&change);
            Some(change.at_millis)
        })
        .collect();
    assert!((4..=7).contains(&proposed.len()), "{proposed:?}");
    assert_eq!(pilot.values()[&Setting::Executors], 2);
}

proptest! {
    /// Whatever it is shown, and however unlucky it is, over ten days: values stay within their bounds, no two changes are nearer than a change
    /// takes to be seen, and there are few of them.
    #[test]
    fn it_comes_to_rest(phases in prop::collection::vec((0_u8..4, 1_i64..400, 0.0..100.0), 1..60)) {
        let (mut pilot, mut at, mut changes) = (pilot(), 0, Vec::new());
        for (what, reports, growing) in phases.iter().cycle().take(60) {
            for _ in 0..*reports {
                at += INTERVAL * 6;
                let action = match what {
                    0 => None,
                    1 => Some(executors(pilot.values()[&Setting::Executors] * 2)),
                    2 => Some(Action { setting: size(), to: pilot.values()[&size()] * 2 }),
                    _ => Some(executors(7)),
                };
                let growing = if action.is_some() { *growing } else { 0.0 };
                let report = report(at, growing, action);
                if let Some(change) = pilot.look(&report) {
                    pilot.made(&change, &report);
                    changes.push(at);
                }
                prop_assert!((2..=8).contains(&pilot.values()[&Setting::Executors]));
                prop_assert!((64..=256).contains(&pilot.values()[&size()]));
                prop_assert_eq!(pilot.values()[&Setting::InFlight], 1_000);
            }
        }
        prop_assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= SETTLE), "{changes:?}");
        prop_assert!(changes.len() <= 150, "{} changes in {} hours", changes.len(), at / 3_600_000);
    }
}
