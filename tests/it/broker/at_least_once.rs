//! At least once: what is lost, which is nothing, and what is doubled.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use super::rig::{AT_LEAST_ONCE, Rig};

const KILLS: u64 = 4;

#[test]
fn at_least_once_an_engine_killed_several_times_loses_nothing() {
    let rig =
        Rig::new("at-least-once", 16).with_short_sessions().with(AT_LEAST_ONCE).with("commit.interval=1s");
    let load = rig.load(20_000, Some(400.0));
    for kill in 0..KILLS {
        let mut engine = rig.engine("one");
        engine.until_at_least("tidemill_committed_records_total", 1);
        thread::sleep(Duration::from_millis(300 + 350 * kill));
        engine.kill();
    }
    load.hurry();
    let mut engine = rig.engine("one");
    engine.until_drained(16);
    let report = rig.audit();
    assert_eq!((report.requests, report.lost, report.wrong), (20_000, 0, 0));
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
    writeln!(std::io::stderr(), "{} of 20000 requests were doubled by {KILLS} kills", report.duplicated)
        .unwrap();
}

#[test]
fn at_least_once_two_engines_of_one_name_share_the_work_and_double_nothing_while_none_fails() {
    let rig = Rig::new("alike", 8).with(AT_LEAST_ONCE);
    let mut engines = [rig.engine("same"), rig.engine("same")];
    let load = rig.load(5_000, Some(500.0));
    for engine in &mut engines {
        engine.until_at_least("tidemill_committed_records_total", 200);
    }
    load.hurry();
    for engine in &mut engines {
        engine.until_drained(4);
    }
    let report = rig.audit();
    assert_eq!((report.requests, report.lost, report.duplicated), (5_000, 0, 0));
    for engine in &mut engines {
        engine.signal("TERM");
        assert_eq!(engine.end().code(), Some(0));
    }
}
