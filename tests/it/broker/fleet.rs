//! Three processes under load: they join, leave, crash and are restarted one after the other, with either protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use operators::broker::{Broker as _, Isolation};
use operators::clock::{Clock as _, SystemClock};
use operators::lease::Partition;

use super::engine::Engine;
use super::rig::Rig;
use super::wait::until;

const PARTITIONS: i32 = 12;

/// Waits until the engines share the partitions evenly, and returns whose are whose.
fn until_shared(engines: &[&Engine]) -> Vec<BTreeSet<i32>> {
    let share = usize::try_from(PARTITIONS).unwrap() / engines.len();
    until("the partitions to be shared", || {
        let held: Vec<_> = engines.iter().map(|engine| engine.partitions()).collect::<Option<_>>()?;
        let all: BTreeSet<i32> = held.iter().flatten().copied().collect();
        let even = held.iter().all(|held: &BTreeSet<i32>| held.len() == share);
        (even && all.len() == share * engines.len()).then_some(held)
    })
}

/// Every engine goes on committing.
fn until_all_work(engines: &mut [&mut Engine]) {
    for engine in engines {
        let before = engine.count("tidemill_committed_records_total");
        engine.until_at_least("tidemill_committed_records_total", before + 50);
    }
}

fn stop(mut engine: Engine) {
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0));
}

/// When each result was sent, by the partition of its request; checks that the results of a key are in the order of its requests and all
/// in one partition.
fn results(rig: &Rig) -> BTreeMap<i32, Vec<i64>> {
    let mut sent: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut last: BTreeMap<(Vec<u8>, i32), i64> = BTreeMap::new();
    let mut homes: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    for home in 0..PARTITIONS {
        rig.broker
            .read(&rig.results(), Partition(home), Isolation::ReadCommitted, &mut |found| {
                let value: serde_json::Value = serde_json::from_slice(found.record.value().unwrap()).unwrap();
                let number = |field: &str| value["origin"][field].as_i64().unwrap();
                let (partition, offset) = (i32::try_from(number("partition")).unwrap(), number("offset"));
                let key = found.record.key().unwrap().to_vec();
                assert_eq!(*homes.entry(key.clone()).or_insert(home), home, "a key has one partition");
                let before = last.insert((key, partition), offset);
                assert!(before.is_none_or(|before| before < offset), "{before:?} before {offset}");
                sent.entry(partition).or_default().push(found.timestamp.millis);
            })
            .unwrap();
    }
    sent
}

/// The longest time without a result of any of these partitions, between two moments.
fn pause(sent: &BTreeMap<i32, Vec<i64>>, of: &BTreeSet<i32>, from: i64, to: i64) -> Duration {
    let within = of.iter().flat_map(|partition| &sent[partition]).copied();
    let mut moments: Vec<i64> = within.filter(|at| (from..to).contains(at)).chain([from, to]).collect();
    moments.sort_unstable();
    let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    Duration::from_millis(longest.unsigned_abs())
}

fn a_fleet_changes_under_load(protocol: &str) {
    let rig = Rig::new("fleet", PARTITIONS)
        .with_short_sessions()
        .with("commit.interval=50ms")
        .with("results.key=request_key")
        .with(&format!("kafka.group_protocol={protocol}"));
    let wall = || SystemClock::new().wall_micros() / 1_000;
    let mut one = rig.engine("one");
    let load = rig.load(60_000, Some(600.0));
    until_all_work(&mut [&mut one]);

    // Two join.
    let quiet = wall();
    std::thread::sleep(Duration::from_secs(1));
    let began = wall();
    let mut two = rig.engine("two");
    let stayed = until_shared(&[&one, &two]).remove(0);
    until_all_work(&mut [&mut two]);
    let joined = wall();
    let mut three = rig.engine("three");
    until_shared(&[&one, &two, &three]);
    until_all_work(&mut [&mut one, &mut two, &mut three]);

    // One crashes, and comes back.
    two.kill();
    until_shared(&[&one, &three]);
    until_all_work(&mut [&mut one, &mut three]);
    let two = rig.engine("two");
    until_shared(&[&one, &two, &three]);

    // All are restarted, one after the other.
    let mut fleet = std::collections::VecDeque::from([("one", one), ("two", two), ("three", three)]);
    for _ in 0..fleet.len() {
        let (name, old) = fleet.pop_front().unwrap();
        stop(old);
        fleet.push_back((name, rig.engine(name)));
        until_shared(&fleet.iter().map(|(_, engine)| engine).collect::<Vec<_>>());
    }
    load.hurry();
    for (_, engine) in &mut fleet {
        engine.until_drained(4);
    }
    assert_eq!(rig.audit().requests, 60_000);
    for (_, engine) in fleet {
        stop(engine);
    }

    let sent = results(&rig);
    let moved: BTreeSet<i32> = (0..PARTITIONS).filter(|partition| !stayed.contains(partition)).collect();
    writeln!(
        std::io::stderr(),
        "{protocol}: longest time without a result: {:?} at rest; while a member joined {:?} of the partitions that stayed, {:?} of those \
         that moved",
        pause(&sent, &stayed, quiet, began),
        pause(&sent, &stayed, began, joined),
        pause(&sent, &moved, began, joined),
    )
    .expect("stderr takes it");
}

#[test]
fn three_members_join_crash_and_are_restarted_in_turn_under_load() {
    a_fleet_changes_under_load("classic");
}

#[test]
fn three_members_of_a_group_that_the_broker_coordinates_do_the_same() {
    a_fleet_changes_under_load("consumer");
}
