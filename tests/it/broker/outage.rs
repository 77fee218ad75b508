//! The broker goes away for a while, and comes back.

use std::thread;
use std::time::Duration;

use super::own::OwnBroker;
use super::rig::Rig;

#[test]
fn a_broker_stopped_and_started_in_the_middle_loses_and_doubles_nothing() {
    survive(OwnBroker::stop, |rig| rig);
}

/// It is gone for longer than session and transaction live: the engine begins anew in all but its process.
#[test]
fn a_broker_killed_in_the_middle_loses_and_doubles_nothing() {
    survive(OwnBroker::kill, Rig::with_short_sessions);
}

/// Every write of the broker fails, until it has given up.
#[test]
fn a_broker_whose_disk_is_full_loses_and_doubles_nothing() {
    let fill = |broker: &OwnBroker| {
        match broker.fill_disk(0) {
            Ok(()) => thread::sleep(Duration::from_secs(2)),
            Err(why) => eprintln!("skipped, and killed instead: {why}"),
        }
        // It may not have noticed.
        broker.kill();
    };
    survive(fill, Rig::with_short_sessions);
}

fn survive(end: impl Fn(&OwnBroker), with: impl Fn(Rig) -> Rig) {
    let broker = OwnBroker::start();
    let rig = with(Rig::at(broker.bootstrap(), "outage", 8));
    let mut engine = rig.engine("one");
    let load = rig.load(10_000, Some(60.0));
    engine.until_at_least("tidemill_committed_records_total", 200);
    end(&broker);
    thread::sleep(Duration::from_secs(3));
    let committed = engine.count("tidemill_committed_records_total");
    broker.start_again();
    engine.until_at_least("tidemill_committed_records_total", committed + 200);
    load.hurry();
    engine.until_drained(8);
    assert_eq!(rig.audit().requests, 10_000);
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0), "it was the same process throughout");
}
