//! Every kind of damage is found, and none is found where there is none.

mod acks;
mod tensors;
mod world;

use std::io::Write;

use operators::dead_letter::Reason;
use proptest::prelude::*;

use super::*;
use crate::load::{BAD_KINDS, BadKind, LoadOptions};
use crate::request::{Names, Request};
use world::{Rec, Sums, World, letter_of, models, oracle, result_of};

fn load() -> LoadOptions {
    LoadOptions {
        requests: 400,
        models: models(),
        bad: 0.1,
        oversized_bytes: 9_000,
        ..LoadOptions::default()
    }
}

fn options() -> AuditOptions {
    AuditOptions::new("requests", "results", "dlq")
}

fn run(world: &World, options: &AuditOptions) -> AuditReport {
    audit(world, options, &mut oracle(), &mut Unwatched).unwrap()
}

/// `[lost, duplicated, wrong, unexpected, missing]`
fn faults(report: &AuditReport) -> [u64; 5] {
    let AuditReport { lost, duplicated, wrong, unexpected, missing, .. } = *report;
    [lost, duplicated, wrong, unexpected, missing]
}

/// The audit of a world in which one result was changed.
fn with_result(change: impl FnOnce(&mut Rec)) -> AuditReport {
    let world = World::of(load());
    world.edit("results", world.places("results")[5], change);
    run(&world, &options())
}

/// The audit of a world in which one dead letter, for undecodable text, was changed.
fn with_letter(change: impl FnOnce(&mut Rec)) -> AuditReport {
    let world = World::of(LoadOptions { bad_kinds: vec![BadKind::NotJson], ..load() });
    world.edit("dlq", world.places("dlq")[5], change);
    run(&world, &options())
}

#[test]
fn a_faultless_run_is_clean() {
    let report = run(&World::of(load()), &options());
    assert!(report.clean(), "{report}");
    assert_eq!((report.requests, report.results, report.dead_letters), (400, 360, 40));
    assert_eq!(report.dead_letters_by_reason.values().sum::<u64>(), 40);
    assert_eq!((report.inferred, report.outside, report.repeated_request_ids), (360, 0, 0));
    let last = "audit: requests=400 results=360 dead_letters=40 lost=0 duplicated=0 wrong=0";
    assert_eq!(report.to_string().lines().last(), Some(last));
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<AuditReport>(&json).unwrap(), report);
}

#[test]
fn every_kind_of_bad_request_warrants_the_reason_expected() {
    for kind in BAD_KINDS {
        let world = World::of(LoadOptions { requests: 40, bad: 1.0, bad_kinds: vec![kind], ..load() });
        let strict = AuditOptions { strict: true, ..options() };
        let report = run(&world, &strict);
        assert!(report.clean(), "{kind:?}: {report}");
        assert_eq!(report.dead_letters_by_reason, BTreeMap::from([(kind.reason().name().to_owned(), 40)]));
    }
}

#[test]
fn a_bad_request_must_not_have_a_result() {
    for kind in [BadKind::WrongLength, BadKind::MissingHeader, BadKind::Mismatch, BadKind::UnknownModel] {
        let world = World::of(LoadOptions { bad_kinds: vec![kind], ..load() });
        let letter = world.remove("dlq", world.places("dlq")[3]);
        let origin = place_of(&letter);
        world.append("results", result_of(&world.get("requests", origin), origin.0, origin.1));
        let report = run(&world, &options());
        assert_eq!(faults(&report), [0, 0, 1, 0, 0], "{kind:?}: {report}");
        assert!(report.faults[0].what.contains(kind.reason().name()), "{report}");
    }
}

#[test]
fn a_lost_request_is_found() {
    let world = World::of(load());
    let origin = world.remove("results", world.places("results")[17]).json()["origin"].clone();
    world.remove("dlq", world.places("dlq")[4]);
    let report = run(&world, &options());
    assert_eq!(faults(&report), [2, 0, 0, 0, 0]);
    let lost = serde_json::to_value(report.faults[0].origin.clone().unwrap()).unwrap();
    assert!(report.faults.len() == 2 && (lost == origin || report.faults[1].origin.is_some()));
    assert!(!report.clean());
}

#[test]
fn a_second_outcome_is_found() {
    let world = World::of(load());
    let again = world.get("results", world.places("results")[40]);
    world.append("results", again.clone());
    world.append("results", again);
    world.append("dlq", world.get("dlq", world.places("dlq")[2]));
    let report = run(&world, &options());
    assert_eq!(faults(&report), [0, 2, 0, 0, 0], "requests are counted, not outcomes");
    assert_eq!((report.results, report.dead_letters), (362, 41));
    assert_eq!(report.faults[0].outcome.as_ref().unwrap().topic, "results");
}

#[test]
fn a_result_beside_a_dead_letter_is_found() {
    let world = World::of(LoadOptions { bad: 0.0, ..load() });
    world.append("dlq", letter_of(&world.get("requests", (3, 7)), 3, 7, "inference_failed"));
    assert_eq!(faults(&run(&world, &options())), [0, 1, 0, 0, 0]);
}

#[test]
fn a_wrong_output_is_found() {
    let report = with_result(|result| result.edit(|json| json["output"][1] = 1e6.into()));
    assert_eq!(faults(&report), [0, 0, 1, 0, 0]);
    assert!(report.faults[0].what.starts_with("output 1 is 1000000"), "{report}");
    let short = with_result(|result| result.edit(|json| json["output"] = serde_json::json!([1.0])));
    assert_eq!(faults(&short), [0, 0, 1, 0, 0]);
    let null = with_result(|result| result.edit(|json| json["output"][0] = serde_json::Value::Null));
    assert_eq!(faults(&null), [0, 0, 1, 0, 0]);
}

#[test]
fn an_output_within_the_tolerance_is_right() {
    let nudge = |result: &mut Rec| {
        result.edit(|json| json["output"][0] = (json["output"][0].as_f64().unwrap() + 5e-5).into());
    };
    let report = with_result(nudge);
    assert!(report.clean(), "{report}");
    assert!((4e-5..6e-5).contains(&report.largest_difference));
    let world = World::of(load());
    world.edit("results", world.places("results")[5], nudge);
    let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
    assert_eq!(faults(&run(&world, &AuditOptions { tolerance, ..options() })), [0, 0, 1, 0, 0]);
    assert!(run(&world, &AuditOptions { infer: false, ..options() }).clean());
}

#[test]
fn two_swapped_rows_are_found() {
    let world = World::of(load());
    let places = world.places("results");
    let model = |place| world.get("results", place).json()["model_id"].clone();
    let (left, right) =
        (places[0], *places[1..].iter().find(|&&place| model(place) == model(places[0])).unwrap());
    let outputs = [left, right].map(|place| world.get("results", place).json()["output"].clone());
    world.edit("results", left, |result| result.edit(|json| json["output"] = outputs[1].clone()));
    world.edit("results", right, |result| result.edit(|json| json["output"] = outputs[0].clone()));
    assert_eq!(faults(&run(&world, &options())), [0, 0, 2, 0, 0]);
}

#[test]
fn a_result_that_disagrees_with_its_request_is_found() {
    let changes: [(&str, fn(&mut Rec)); 13] = [
        ("the key", |result| result.key = Some(b"other".to_vec())),
        ("the key", |result| result.key = None),
        ("request_id", |result| result.edit(|json| json["request_id"] = "other".into())),
        ("tenant_id", |result| result.edit(|json| json["tenant_id"] = "other".into())),
        ("model_id", |result| result.edit(|json| json["model_id"] = "other".into())),
        ("header `model_id`", |result| result.set("model_id", "other")),
        ("header `tenant_id`", |result| result.set("tenant_id", "other")),
        ("traceparent", |result| result.headers.push((b"traceparent".to_vec(), Some(b"00-1".to_vec())))),
        ("batch_size", |result| result.edit(|json| json["batch_size"] = 0.into())),
        ("a time", |result| result.edit(|json| json["queue_ms"] = (-1).into())),
        ("inferred_at", |result| result.edit(|json| json["inferred_at"] = "today".into())),
        ("`model_version`", |result| {
            result.edit(|json| drop(json.as_object_mut().unwrap().remove("model_version")));
        }),
        ("output", |result| result.edit(|json| json["output"] = "none".into())),
    ];
    for (name, change) in changes {
        let report = with_result(change);
        assert_eq!(faults(&report), [0, 0, 1, 0, 0], "{name}: {report}");
        assert!(report.faults[0].what.contains(name) || name == "output", "{name}: {report}");
    }
}

#[test]
fn a_dead_letter_with_a_changed_byte_is_found() {
    let changes: [(&str, fn(&mut Rec)); 12] = [
        ("changed", |letter| letter.value.as_mut().unwrap()[3] ^= 1),
        ("changed", |letter| letter.value = None),
        ("changed", |letter| letter.key.as_mut().unwrap()[0] ^= 1),
        ("changed", |letter| letter.headers[0].1 = Some(b"other".to_vec())),
        ("changed", |letter| letter.headers[0].0 = b"model-id".to_vec()),
        ("changed", |letter| letter.headers.swap(0, 1)),
        ("timestamp", |letter| letter.set("inference.dlq.timestamp", "1")),
        ("timestamp_type", |letter| letter.set("inference.dlq.timestamp_type", "append")),
        ("`inference.dlq.reason`", |letter| letter.set("inference.dlq.reason", "bad_luck")),
        ("stage", |letter| letter.set("inference.dlq.stage", "source")),
        ("`reason`", |letter| letter.headers.retain(|(name, _)| name != b"reason")),
        ("`extra`", |letter| letter.headers.push((b"extra".to_vec(), None))),
    ];
    for (name, change) in changes {
        let report = with_letter(change);
        assert_eq!(faults(&report), [0, 0, 1, 0, 0], "{name}: {report}");
        assert!(report.faults[0].what.contains(name), "{name}: {report}");
    }
}

#[test]
fn a_reason_that_the_request_does_not_warrant_is_found() {
    let report = with_letter(|letter| letter.set("inference.dlq.reason", "unknown_model"));
    assert_eq!(faults(&report), [0, 0, 1, 0, 0]);
    assert!(report.faults[0].what.contains("undecodable"), "{report}");
}

#[test]
fn a_good_request_is_a_dead_letter_only_for_reasons_outside_of_it() {
    let of = |reason: Reason, strict: bool| {
        let world = World::of(load());
        let result = world.remove("results", world.places("results")[9]);
        let (partition, offset) = place_of_result(&result);
        let request = world.get("requests", (partition, offset));
        world.append("dlq", letter_of(&request, partition, offset, reason.name()));
        faults(&run(&world, &AuditOptions { strict, ..options() }))
    };
    assert_eq!(of(Reason::WrongShape, false), [0, 0, 1, 0, 0]);
    assert_eq!(of(Reason::Undecodable, false), [0, 0, 1, 0, 0]);
    assert_eq!(of(Reason::DeadlineExceeded, false), [0; 5]);
    assert_eq!(of(Reason::DeadlineExceeded, true), [0, 0, 1, 0, 0]);
}

#[test]
fn a_request_that_reaches_no_model_does_not_end_there() {
    for reason in ["deadline_exceeded", "crashed", "inference_failed"] {
        let report = with_letter(|letter| {
            letter.set("inference.dlq.reason", reason);
            letter.set("inference.dlq.stage", "infer");
        });
        assert!(report.faults.iter().any(|fault| fault.what.contains("only these ends")), "{report}");
    }
}

#[test]
fn an_outcome_of_no_request_is_found() {
    let strays: [fn(&mut Rec); 4] = [
        |result| result.edit(|json| json["origin"]["offset"] = 4_711.into()),
        |result| result.edit(|json| json["origin"]["partition"] = 77.into()),
        |result| result.edit(|json| json["origin"]["topic"] = "elsewhere".into()),
        |result| result.value = Some(b"nothing".to_vec()),
    ];
    for stray in strays {
        let world = World::of(load());
        let mut result = world.get("results", world.places("results")[0]);
        stray(&mut result);
        world.append("results", result);
        assert_eq!(faults(&run(&world, &options())), [0, 0, 0, 1, 0]);
    }
    let world = World::of(load());
    let mut letter = world.get("dlq", world.places("dlq")[0]);
    letter.set("inference.dlq.offset", "-1");
    world.append("dlq", letter);
    assert_eq!(faults(&run(&world, &options())), [0, 0, 0, 1, 0]);
}

fn place_of(letter: &Rec) -> (usize, i64) {
    let header = |name: &str| {
        let header = letter.headers.iter().rev().find(|(other, _)| other == name.as_bytes()).unwrap();
        String::from_utf8(header.1.clone().unwrap()).unwrap()
    };
    (header("inference.dlq.partition").parse().unwrap(), header("inference.dlq.offset").parse().unwrap())
}

fn place_of_result(result: &Rec) -> (usize, i64) {
    let origin = &result.json()["origin"];
    let partition = origin["partition"].as_u64().unwrap();
    (usize::try_from(partition).unwrap(), origin["offset"].as_i64().unwrap())
}

#[test]
fn slices_give_the_same_report_as_one_pass() {
    let world = World::of(load());
    let places = world.places("results");
    for &place in &places[..50] {
        world.edit("results", place, |result| result.edit(|json| json["output"][0] = 1e6.into()));
    }
    world.append("results", world.get("results", places[60]));
    let whole = run(&world, &AuditOptions { details_max: 1_000, ..options() });
    assert_eq!(faults(&whole), [0, 1, 50, 0, 0]);
    for held_floats_max in [0, 1, 70, 719, 720] {
        let sliced = run(&world, &AuditOptions { held_floats_max, details_max: 1_000, ..options() });
        assert_eq!(faults(&sliced), faults(&whole), "{held_floats_max}");
        let origins = |report: &AuditReport| -> BTreeSet<_> {
            report.faults.iter().map(|fault| fault.origin.clone()).collect()
        };
        assert_eq!(origins(&sliced), origins(&whole));
        assert_eq!(sliced.inferred, whole.inferred);
    }
}

#[test]
fn a_truncated_letter_is_right_only_where_the_whole_would_not_have_fitted() {
    let world =
        World::of(LoadOptions { bad_kinds: vec![BadKind::Oversized], oversized_bytes: 60_000, ..load() });
    for place in world.places("dlq") {
        world.edit("dlq", place, |letter| {
            letter.value.as_mut().unwrap().truncate(4096);
            letter.headers.push((b"inference.dlq.truncated".to_vec(), Some(b"4096".to_vec())));
        });
    }
    let bounded = |bytes| AuditOptions { letter_bytes_max: Some(bytes), ..options() };
    assert!(run(&world, &bounded(60_000)).clean());
    assert_eq!(faults(&run(&world, &options())), [0, 0, 40, 0, 0]);
    let place = world.places("dlq")[7];
    let changes: [fn(&mut Rec); 4] = [
        |letter| letter.value.as_mut().unwrap()[4_000] ^= 1,
        |letter| letter.value.as_mut().unwrap().truncate(4_000),
        |letter| letter.key.as_mut().unwrap()[0] ^= 1,
        |letter| letter.headers[0].1 = None,
    ];
    let whole = world.get("dlq", place);
    for change in changes {
        world.edit("dlq", place, change);
        assert_eq!(faults(&run(&world, &bounded(60_000))), [0, 0, 1, 0, 0]);
        world.edit("dlq", place, |letter| *letter = whole.clone());
    }
    world.edit("dlq", place, |letter| {
        // Too large for all of the key and any header.
        letter.headers.remove(0);
        letter.key.as_mut().unwrap().truncate(3);
    });
    assert!(run(&world, &bounded(60_000)).clean());
}

#[test]
fn a_letter_that_says_it_was_cut_and_was_not_is_found() {
    let report = with_letter(|letter| {
        letter.headers.push((b"inference.dlq.truncated".to_vec(), Some(b"value=1/2".to_vec())));
    });
    assert_eq!(faults(&report), [0, 0, 1, 0, 0]);
    assert!(report.faults[0].what.contains("whole"), "{report}");
}

#[test]
fn a_request_that_the_model_fails_on_must_not_have_a_result() {
    let world = World::of(LoadOptions { bad: 0.0, ..load() });
    let request = world.get("requests", (2, 5));
    let first = Request::of(request.records().get(0)).unwrap().input[0];
    let mut failing = Sums { fails_on: Some(first), ..oracle() };
    let report = audit(&world, &options(), &mut failing, &mut Unwatched).unwrap();
    assert_eq!(faults(&report), [0, 0, 1, 0, 0]);
    assert!(report.oracle_failure.unwrap().contains("it failed"));
}

#[test]
fn a_request_s_own_headers_with_the_names_of_ours_are_told_apart() {
    let world = World::of(LoadOptions { requests: 4, bad: 0.0, ..load() });
    let own = |value: &str| Some(value.as_bytes().to_vec());
    world.edit("requests", (0, 0), |request| {
        request.headers.push((b"inference.dlq.offset".to_vec(), own("3")));
        request.headers.push((b"inference.dlq.reason".to_vec(), own("crashed")));
        request.headers.push((b"traceparent".to_vec(), own("00-abc")));
    });
    let place = world
        .places("results")
        .into_iter()
        .find(|&place| place_of_result(&world.get("results", place)) == (0, 0));
    let place = place.unwrap();
    assert_eq!(faults(&run(&world, &options())), [0, 0, 1, 0, 0], "the result has no traceparent");
    world.edit("results", place, |result| result.headers.push((b"traceparent".to_vec(), own("00-abc"))));
    assert!(run(&world, &options()).clean());

    world.remove("results", place);
    world.append("dlq", letter_of(&world.get("requests", (0, 0)), 0, 0, "deadline_exceeded"));
    let report = run(&world, &options());
    assert!(report.clean(), "{report}");
    assert_eq!(report.dead_letters_by_reason, BTreeMap::from([("deadline_exceeded".to_owned(), 1)]));
}

#[test]
fn requests_before_the_start_are_left_out_with_their_outcomes() {
    let world = World::of(load());
    for place in world.places("requests").into_iter().filter(|place| place.1 < 30) {
        world.remove("requests", place);
    }
    let from = AuditOptions { from: Offset(30), ..options() };
    let report = run(&world, &from);
    assert!(report.clean(), "{report}");
    assert_eq!((report.requests, report.outside), (280, 120));
    let one = AuditOptions { from_partition: BTreeMap::from([(Partition(1), Offset(40))]), ..from };
    assert_eq!((run(&world, &one).requests, run(&world, &one).outside), (270, 130));
    assert_eq!(run(&world, &options()).unexpected, 120);
}

/// Puts an outcome into the world each time that it is asked to look again.
struct Late<'a> {
    world: &'a World,
    outcomes: Vec<Rec>,
    looks: Vec<u64>,
}

impl Watcher for Late<'_> {
    fn look_again(&mut self, open: u64) -> bool {
        self.looks.push(open);
        let outcome = self.outcomes.pop();
        outcome.map(|outcome| self.world.append("results", outcome)).is_some()
    }
}

#[test]
fn the_audit_looks_again_until_every_request_has_its_outcome() {
    let world = World::of(load());
    let outcomes =
        world.places("results")[10..13].iter().map(|&place| world.remove("results", place)).collect();
    let mut late = Late { world: &world, outcomes, looks: Vec::new() };
    let report = audit(&world, &options(), &mut oracle(), &mut late).unwrap();
    assert!(report.clean(), "{report}");
    assert_eq!((late.looks, report.results), (vec![3, 2, 1], 360));

    let last = world.places("results")[0];
    world.remove("results", last);
    let mut late = Late { world: &world, outcomes: Vec::new(), looks: Vec::new() };
    let report = audit(&world, &options(), &mut oracle(), &mut late).unwrap();
    assert_eq!((faults(&report), late.looks), ([1, 0, 0, 0, 0], vec![1]));
}

/// Puts a request and its result into the world while the audit waits.
struct Busy<'a>(&'a World);

impl Watcher for Busy<'_> {
    fn look_again(&mut self, _open: u64) -> bool {
        let request = self.0.get("requests", (0, 0));
        self.0.topics.lock().unwrap().get_mut("requests").unwrap()[0].insert(500, request.clone());
        self.0.append("results", result_of(&request, 0, 500));
        self.0.append("results", result_of(&request, 0, 600));
        self.0.append("results", result_of(&request, 0, 0));
        true
    }
}

#[test]
fn outcomes_of_requests_that_came_later_are_no_fault() {
    let world = World::of(LoadOptions { bad: 0.0, ..load() });
    let place = world
        .places("results")
        .into_iter()
        .find(|&place| place_of_result(&world.get("results", place)) == (0, 0));
    world.remove("results", place.unwrap());
    let report = audit(&world, &options(), &mut oracle(), &mut Busy(&world)).unwrap();
    assert_eq!(faults(&report), [0, 0, 0, 1, 0], "only request 600 does not exist");
    assert_eq!((report.requests, report.outside), (400, 1));
}

#[test]
fn a_repeated_request_id_is_counted_and_no_fault() {
    let world = World::of(LoadOptions { requests: 8, bad: 0.0, ..load() });
    let request = world.get("requests", (0, 0));
    world.topics.lock().unwrap().get_mut("requests").unwrap()[3].insert(9, request.clone());
    world.append("results", result_of(&request, 3, 9));
    let report = run(&world, &options());
    assert!(report.clean(), "{report}");
    assert_eq!((report.requests, report.repeated_request_ids), (9, 1));
}

#[test]
fn without_an_oracle_outcomes_are_counted_all_the_same() {
    let world = World::of(load());
    world.remove("results", world.places("results")[0]);
    world.edit("results", world.places("results")[3], |result| {
        result.edit(|json| json["output"][0] = 9.into());
    });
    let counted = AuditOptions { infer: false, ..options() };
    let report = audit(&world, &counted, &mut NoOracle, &mut Unwatched).unwrap();
    assert_eq!((faults(&report), report.inferred), ([1, 0, 0, 0, 0], 0));
}

#[test]
fn a_key_that_keeps_the_request_s_order_is_checked_too() {
    let world = World::of(load());
    let keyed = AuditOptions { result_key: ResultKey::RequestKey, ..options() };
    assert_eq!(run(&world, &keyed).wrong, 360);
    for place in world.places("results") {
        let key = world.get("requests", place_of_result(&world.get("results", place))).key;
        world.edit("results", place, |result| result.key = key);
    }
    assert!(run(&world, &keyed).clean());
    assert_eq!(run(&world, &options()).wrong, 360);
}

#[test]
fn a_missing_topic_is_named() {
    let world = World::of(load());
    world.topics.lock().unwrap().remove("dlq");
    let error = audit(&world, &options(), &mut oracle(), &mut Unwatched).unwrap_err();
    assert!(matches!(&error, AuditError::NoTopic(topic) if topic == "dlq"), "{error}");
}

#[test]
fn details_are_bounded_and_the_rest_is_counted() {
    let world = World::of(load());
    for place in world.places("results") {
        world.remove("results", place);
    }
    let report = run(&world, &AuditOptions { details_max: 3, ..options() });
    assert_eq!((report.lost, report.faults.len()), (360, 3));
    assert!(report.to_string().contains("lost: and 357 more"), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However outcomes are dropped, repeated and changed, each count is the number of requests that it happened to.
    #[test]
    fn each_fault_is_counted_once(what in proptest::collection::vec(0_u8..8, 60), seed: u64, held in 0_usize..200) {
        let world = World::of(LoadOptions { requests: 60, bad: 0.0, seed, ..load() });
        let mut expected = [0; 5];
        for (place, what) in world.places("results").into_iter().zip(what) {
            match what {
                0 => {
                    world.remove("results", place);
                    expected[0] += 1;
                }
                1 => {
                    world.append("results", world.get("results", place));
                    expected[1] += 1;
                }
                2 => {
                    world.edit("results", place, |result| result.edit(|json| json["output"][0] = 1e6.into()));
                    expected[2] += 1;
                }
                3 => {
                    let mut stray = world.get("results", place);
                    stray.edit(|json| json["origin"]["offset"] = 1_000.into());
                    world.append("results", stray);
                    expected[3] += 1;
                }
                _ => {}
            }
        }
        let report = run(&world, &AuditOptions { held_floats_max: held, ..options() });
        prop_assert_eq!(faults(&report), expected);
        prop_assert_eq!(report.clean(), expected == [0; 5]);
    }
}
