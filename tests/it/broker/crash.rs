//! The engine is killed, again and again.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::engine::Engine;
use super::rig::Rig;

const KILLS: u64 = 10;

/// Looks at an engine's metrics until `millis` have passed, and returns the rows that it had inferred when they were last seen.
fn watch(engine: &Engine, millis: u64) -> u64 {
    let mut inferred = 0;
    for _ in 0..=millis / 20 {
        inferred = inferred.max(engine.count("tidemill_model_records_total"));
        thread::sleep(Duration::from_millis(20));
    }
    inferred
}

/// The kills come at moments that a seed gives: some while it starts, some while it joins its group, most while it works.
#[test]
fn an_engine_killed_ten_times_loses_and_doubles_nothing() {
    // Two devices, so that the outcomes of a partition come from both.
    let rig =
        Rig::new("killed", 16).with_short_sessions().with("commit.interval=50ms").with("onnx.devices=[0, 1]");
    let mut random = ChaCha8Rng::seed_from_u64(0x7464_6d69);
    let load = rig.load(20_000, Some(100.0));
    let mut inferred = 0;
    for kill in 0..KILLS {
        let mut engine = rig.engine("one");
        if kill % 5 != 4 {
            engine.until_at_least("tidemill_committed_records_total", 1);
        }
        inferred += watch(&engine, u64::from(random.next_u32() % 1_000));
        engine.kill();
    }
    load.hurry();
    let mut engine = rig.engine("one");
    engine.until_drained(16);
    let report = rig.audit();
    assert_eq!(report.requests, 20_000);
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
    // Each engine's count was last looked at some time before it was killed: the sum may be less than what was inferred.
    let twice = (inferred + engine.counted("inferred")).saturating_sub(report.results);
    // Not by `println!`: of a test that passes, that is never seen.
    writeln!(
        std::io::stderr(),
        "{twice} of {} requests were inferred twice over {KILLS} kills, or a few more",
        report.requests
    )
    .unwrap();
}
