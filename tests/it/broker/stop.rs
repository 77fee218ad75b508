//! An engine is asked to stop: once, or twice.

use std::time::Duration;

use operators::clock::{Clock, SystemClock};

use super::rig::Rig;

/// The time that a stop may take as it is configured, and some for the process itself.
const STOP_MAX: Duration = Duration::from_secs(20 + 10);

#[test]
fn a_graceful_stop_leaves_nothing_to_be_done_again() {
    let rig = Rig::new("stopped", 16);
    let load = rig.load(20_000, Some(150.0));
    let mut counted = 0;
    for (life, signal) in ["TERM", "INT", "TERM"].into_iter().enumerate() {
        let mut engine = rig.engine("one");
        engine.until_at_least("tidemill_committed_records_total", 200);
        let clock = SystemClock::new();
        let asked = clock.now();
        engine.signal(signal);
        assert_eq!(engine.end().code(), Some(0), "life {life}");
        let took = clock.now().since(asked);
        assert!(took < STOP_MAX, "life {life} took {took:?} to stop");
        counted += engine.counted("inferred");
    }
    load.hurry();
    let mut engine = rig.engine("one");
    engine.until_drained(16);
    let report = rig.audit();
    assert_eq!(report.requests, 20_000);
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
    assert_eq!(counted + engine.counted("inferred"), report.results, "nothing was inferred twice");
}

/// The signals come while the process is held, so that it finds both: two of the same name could become one.
#[test]
fn a_second_signal_ends_the_process_at_once_and_loses_nothing() {
    let rig = Rig::new("stopped-twice", 8).with_short_sessions();
    let load = rig.load(10_000, Some(100.0));
    let mut engine = rig.engine("one");
    engine.until_at_least("tidemill_committed_records_total", 200);
    engine.signal("STOP");
    engine.signal("INT");
    engine.signal("TERM");
    engine.signal("CONT");
    let code = engine.end().code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}: 128 and the number of the second signal");

    let mut engine = rig.engine("one");
    engine.until_at_least("tidemill_committed_records_total", 200);
    load.hurry();
    engine.until_drained(8);
    assert_eq!(rig.audit().requests, 10_000);
}
