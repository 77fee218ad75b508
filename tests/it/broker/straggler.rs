//! A straggler does not hold back what is behind it, and what has overtaken it is not done again.

use std::collections::BTreeMap;

use operators::broker::{Broker as _, Isolation, LogRecord};
use operators::lease::Partition;
use operators::metadata::Metadata;

use super::engine::Engine;
use super::rig::Rig;
use super::wait::until;

const PARTITIONS: i32 = 4;

/// Every request of one of the four models waits for four seconds, and the others do not.
fn rig(order: &str) -> Rig {
    Rig::new("straggler", PARTITIONS)
        .with_short_sessions()
        .with("commit.interval=50ms")
        .with("results.key=request_key")
        .with("models.anomaly-32.batch.delay_max=4s")
        .with("models.anomaly-32.batch.size_max=4096")
        .with(&format!("commit.order={order}"))
}

/// How many requests are committed past the committed offsets.
fn overtaken(rig: &Rig) -> usize {
    let partitions: Vec<_> = (0..PARTITIONS).map(Partition).collect();
    let committed = rig.broker.admin().unwrap().committed(rig.group(), &rig.requests(), &partitions);
    let past = |committed: &operators::broker::Committed| {
        let done = Metadata::decode(committed.next, &committed.metadata).expect("it is ours").done;
        done.runs().map(|run| usize::try_from(run.end - run.start).unwrap()).sum::<usize>()
    };
    // While a transaction is open the broker tells nothing; it is asked again.
    committed.unwrap_or_default().iter().flatten().map(past).sum()
}

/// Waits until this engine has committed something, and something has overtaken a straggler.
fn until_overtaken(rig: &Rig, engine: &mut Engine) {
    engine.until_at_least("tidemill_committed_records_total", 100);
    until("outcomes to overtake stragglers", || (overtaken(rig) > 100).then_some(()));
}

/// Asserts that the results of each key are in the order of its requests.
fn assert_ordered(rig: &Rig) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut each = |record: LogRecord<'_>| {
            let result: serde_json::Value = serde_json::from_slice(record.record.value().unwrap()).unwrap();
            let key = format!("{}|{}", result["tenant_id"], result["model_id"]);
            let offset = result["origin"]["offset"].as_i64().unwrap();
            let earlier = last.insert(key.clone(), offset);
            assert!(earlier < Some(offset), "{key}: {earlier:?} before {offset}");
        };
        rig.broker.read(&rig.results(), Partition(partition), Isolation::ReadCommitted, &mut each).unwrap();
    }
    assert!(!last.is_empty());
}

#[test]
fn what_has_overtaken_a_straggler_is_done_once_though_engines_are_killed() {
    let mut rig = rig("key");
    let mut engine = rig.engine("one");
    let load = rig.load(6_000, Some(100.0));
    for instance in ["one", "two"] {
        until_overtaken(&rig, &mut engine);
        engine.kill();
        engine = rig.engine(instance);
    }
    until_overtaken(&rig, &mut engine);
    // A third one joins, is given partitions in which something was overtaken, and leaves.
    let mut third = rig.engine("three");
    third.until_at_least("tidemill_committed_records_total", 100);
    until_overtaken(&rig, &mut engine);
    third.signal("TERM");
    assert_eq!(third.end().code(), Some(0));
    load.hurry();
    engine.kill();
    // Whoever commits in the order of offsets has to know as well what was done past them.
    rig = rig.with("commit.order=partition");
    let mut last = rig.engine("four");
    last.until_drained(4);
    assert_eq!((rig.audit().requests, overtaken(&rig)), (6_000, 0));
    assert_ordered(&rig);
}

#[test]
fn without_order_what_has_overtaken_a_straggler_is_done_once_though_the_engine_is_killed() {
    let rig = rig("none");
    let mut engine = rig.engine("one");
    let load = rig.load(3_000, Some(100.0));
    until_overtaken(&rig, &mut engine);
    engine.kill();
    engine = rig.engine("one");
    until_overtaken(&rig, &mut engine);
    load.hurry();
    engine.until_drained(4);
    assert_eq!((rig.audit().requests, overtaken(&rig)), (3_000, 0));
}
