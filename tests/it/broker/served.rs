//! The main job, undisturbed.

use super::rig::Rig;

#[test]
fn twenty_thousand_requests_end_once_with_two_workers() {
    serve(2);
}

#[test]
fn twenty_thousand_requests_end_once_with_four_workers() {
    serve(4);
}

#[test]
fn models_that_have_no_room_beside_each_other_take_turns() {
    // Each executor has room for the largest of the four and two small ones, or for the two largest and none.
    let rig = Rig::new("turns", 4).with("onnx.executors=2").with("onnx.open_bytes_max=260000");
    let mut engine = rig.engine("one");
    rig.load(4_000, None).finish();
    engine.until_drained(4);
    let report = rig.audit();
    assert_eq!((report.requests, report.dead_letters), (4_000, 40), "{report}");
    let opened: u64 = engine.series("tidemill_sessions_opened_total").unwrap().iter().sum();
    assert!(opened > 8, "{opened} sessions were opened: each of two executors has four at least");
    let open: u64 = engine.series("tidemill_sessions_open").unwrap().iter().sum();
    assert!((2..8).contains(&open), "{open} are open");
}

#[test]
fn two_devices_share_the_models_that_are_placed_on_both() {
    let rig = Rig::new("devices", 8)
        .with("onnx.devices=[0, 1]")
        .with("onnx.executors=1")
        .with("models.mlp-16.devices=[1]");
    let mut engine = rig.engine_with("one", 2);
    rig.load(6_000, None).finish();
    engine.until_drained(8);
    let report = rig.audit();
    assert_eq!((report.requests, report.dead_letters), (6_000, 60), "{report}");
    let (_, page) = engine.page("/metrics").unwrap();
    let learned = |model: &str, device: usize| {
        // Either part of what a batch costs may be nothing, and not both.
        let parts = ["fixed", "row"].map(|part| {
            let series = format!("tidemill_batch_{part}_seconds{{model=\"{model}\",device=\"{device}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&*series)?.parse::<f64>().ok())
        });
        Some(parts[0]? + parts[1]? > 0.0)
    };
    for model in ["anomaly-32", "cnn-6x64", "ffnn-784"] {
        assert_eq!(
            [learned(model, 0), learned(model, 1)],
            [Some(true); 2],
            "{model} has run on both: {page}"
        );
    }
    assert_eq!([learned("mlp-16", 0), learned("mlp-16", 1)], [None, Some(true)], "{page}");
    let opened: u64 = engine.series("tidemill_sessions_opened_total").unwrap().iter().sum();
    assert_eq!(opened, 7, "each executor has opened what is placed on its device");
}

#[test]
fn a_model_that_never_has_room_is_named_and_the_others_are_served() {
    let rig = Rig::new("too-large", 4).with("onnx.executors=2").with("onnx.open_bytes_max=200kB");
    let mut engine = rig.engine("one");
    rig.load(1_000, None).finish();
    engine.until_drained(4);
    // The audit of a test has room for every model, and would have had results of this one.
    let report = rig.report();
    assert_eq!((report.requests, report.lost, report.duplicated), (1_000, 0, 0), "{report}");
    let unavailable = report.dead_letters_by_reason["model_unavailable"];
    assert!(unavailable > 200 && report.results + unavailable + 10 >= 1_000, "{report}");
    let log = engine.log();
    assert!(log.contains("115470 bytes, and an executor keeps 100000 open at most"), "{log}");
}

fn serve(workers: usize) {
    // With four, results are in as many forms as requests.
    let form = match workers {
        4 => "request",
        2 => "open_inference_binary",
        _ => "json",
    };
    let rig = Rig::new(&format!("served-{workers}"), 64).with(&format!("results.form={form}"));
    // And with two, batches are filled up.
    let buckets = if workers == 2 { "[8, 24, 64]" } else { "\"auto\"" };
    let rig = rig.with(&format!("onnx.buckets={buckets}"));
    let mut engine = rig.engine_with("one", workers);
    rig.load(20_000, None).finish();
    engine.until_drained(64);
    let report = rig.audit();
    assert_eq!((report.requests, report.dead_letters), (20_000, 200), "{report}");
    let padded: u64 = engine.series("tidemill_padded_records_total").unwrap().iter().sum();
    assert_eq!(padded > 0, workers == 2, "{padded} rows were computed in vain");
    assert_eq!(report.acknowledged, Some(20_000));
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
    assert_eq!(engine.counted("inferred"), report.results, "nothing is inferred twice");
}
