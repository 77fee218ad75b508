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

fn serve(workers: usize) {
    let rig = Rig::new(&format!("served-{workers}"), 64);
    let mut engine = rig.engine_with("one", workers);
    rig.load(20_000, None).finish();
    engine.until_drained(64);
    let report = rig.audit();
    assert_eq!((report.requests, report.dead_letters), (20_000, 200), "{report}");
    assert_eq!(report.acknowledged, Some(20_000));
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
    assert_eq!(engine.counted("inferred"), report.results, "nothing is inferred twice");
}
