//! A broker of three nodes, each partition in three copies of which two must have a record: one node is killed at a time.

use super::own::OwnBroker;
use super::rig::Rig;

const COMMITTED: &str = "tidemill_committed_records_total";

/// Each node in turn is the coordinator of the transactions, or of the group, or leads a third of the partitions. With the others the
/// engine goes on, also before the one that was killed comes back.
#[test]
#[ignore = "it takes more than a minute: cargo test --test it nodes -- --ignored, or make chaos NODES=3"]
fn each_of_three_nodes_is_killed_in_the_middle_and_nothing_is_lost_or_doubled() {
    let broker = OwnBroker::start_with(3, &[], None);
    let rig = Rig::replicated(broker.bootstrap(), "nodes", 8, 3);
    let mut engine = rig.engine("one");
    let load = rig.load(10_000, Some(60.0));
    engine.until_at_least(COMMITTED, 100);
    for node in 0..3 {
        broker.kill_node(node);
        let before = engine.count(COMMITTED);
        engine.until_at_least(COMMITTED, before + 100);
        broker.start_node(node);
    }
    load.hurry();
    engine.until_drained(8);
    assert_eq!(rig.audit().requests, 10_000);
    rig.until_committed();
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0), "it was the same process throughout");
}
