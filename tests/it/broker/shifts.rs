//! The log changes under an engine: records are deleted, the topic is made anew, partitions are added, offsets are reset.

use std::collections::BTreeSet;

use operators::broker::{Broker, Isolation};
use operators::lease::Partition;

use super::engine::Engine;
use super::offsets::{commit, committed, rig, write};
use super::operator::Cluster;
use super::rig::Rig;
use super::wait::until;
use crate::conformance::Operator;

/// How members of a group are coordinated: it is they, or the broker, who see that a topic has changed.
const PROTOCOLS: [&str; 2] = ["kafka.group_protocol=classic", "kafka.group_protocol=consumer"];

/// Waits until the engine has stopped because of the log, and checks that it says this.
fn stops_saying(engine: &mut Engine, says: &[String]) {
    assert_eq!(engine.end().code(), Some(13), "{}", engine.log());
    for says in says {
        assert!(engine.log().contains(says), "{says:?} is not in\n{}", engine.log());
    }
}

fn stop(mut engine: Engine) -> String {
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0), "{}", engine.log());
    engine.log()
}

fn next(rig: &Rig) -> Option<i64> {
    committed(rig).map(|committed| committed.next.0)
}

/// The requests that have a dead letter each, by their values, and how many letters there are.
fn letters(rig: &Rig) -> (BTreeSet<String>, usize) {
    let (mut values, mut count) = (BTreeSet::new(), 0);
    for partition in 0..4 {
        let mut each = |record: operators::broker::LogRecord<'_>| {
            values.insert(String::from_utf8_lossy(record.record.value().unwrap()).into_owned());
            count += 1;
        };
        rig.broker
            .read(&rig.dead_letters(), Partition(partition), Isolation::ReadCommitted, &mut each)
            .unwrap();
    }
    (values, count)
}

#[test]
fn records_deleted_before_they_were_read_stop_the_engine_until_exactly_that_loss_is_accepted() {
    let rig = rig("deleted", 2, "");
    let argument = |range: &str| format!("{}:0:{range}", rig.requests());
    Cluster::new(rig.bootstrap()).delete_before(&rig.requests(), 0, 5);
    let mut engine = rig.engine("one");
    let gone = "partition 0: offsets 2..5 were deleted before they were read, and its log holds 5..10";
    stops_saying(&mut engine, &[gone.to_owned(), format!("--accept-loss {}", argument("2..5"))]);
    assert_eq!((next(&rig), engine.counted("commits")), (Some(2), 0));

    let mut engine = rig.engine_told("one", 2, &["--accept-loss", &argument("2..4")]);
    stops_saying(&mut engine, &[gone.to_owned()]);

    Cluster::new(rig.bootstrap()).delete_before(&rig.requests(), 0, 6);
    let mut engine = rig.engine_told("one", 2, &["--accept-loss", &argument("2..5")]);
    stops_saying(&mut engine, &[format!("--accept-loss {}", argument("2..6"))]);
    assert_eq!(next(&rig), Some(2), "nothing was skipped");

    let mut engine = rig.engine_told("one", 2, &["--accept-loss", &argument("2..6")]);
    engine.until_drained(1);
    assert_eq!(engine.count("tidemill_lost_records_total"), 4);
    let log = stop(engine);
    assert!(log.contains("records are lost, as was accepted"), "{log}");
    let report = rig.audit();
    assert_eq!((report.requests, report.dead_letters), (4, 4));

    let mut engine = rig.engine("one");
    engine.until_drained(1);
    stop(engine);
}

#[test]
fn an_engine_that_was_away_while_its_log_was_cut_saves_what_it_has_and_names_the_rest() {
    let rig = Rig::new("away", 1);
    let mut engine = rig.engine("one");
    rig.load(500, None).finish();
    engine.until_at_least("tidemill_committed_records_total", 500);
    engine.signal("STOP");
    rig.load(3_000, None).finish();
    Cluster::new(rig.bootstrap()).delete_before(&rig.requests(), 0, 3_400);
    engine.signal("CONT");
    assert_eq!(engine.end().code(), Some(13), "{}", engine.log());
    let from = next(&rig).unwrap();
    let argument = format!("--accept-loss {}:0:{from}..3400", rig.requests());
    assert!(engine.log().contains(&argument), "{from}\n{}", engine.log());
    let argument = argument.split_once(' ').unwrap().1;
    let mut engine = rig.engine_told("one", 2, &["--accept-loss", argument]);
    engine.until_drained(1);
    assert_eq!(engine.count("tidemill_lost_records_total"), 3_400 - u64::try_from(from).unwrap());
    stop(engine);
    // The second load's log of acknowledgements has replaced the first one's.
    let report = rig.report();
    let lost = 3_400 - u64::try_from(from.max(500)).unwrap();
    assert_eq!(
        (report.lost, report.duplicated, report.wrong, report.unexpected, report.missing),
        (lost, 0, 0, 0, 0),
        "{report}"
    );
}

/// Kafka forgets what a group has committed of a topic that is deleted. What is committed a moment later, by a process that does not know
/// it yet, it takes for the new topic: here that is done by hand.
#[test]
fn a_topic_made_anew_is_not_read_at_the_old_ones_offset_though_its_log_holds_it() {
    let rig = Rig::new("anew", 1);
    write(&rig, "old", 7);
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    stop(engine);
    let old = committed(&rig).unwrap();
    Cluster::new(rig.bootstrap()).make_anew(&rig.requests());
    write(&rig, "new", 20);
    until("the old offset to be forgotten", || next(&rig).is_none().then_some(()));
    commit(&rig, 7, &old.metadata);
    let mut engine = rig.engine("one");
    let argument = format!("{}:0:7..0", rig.requests());
    let says = "partition 0: offset 7 was committed of the topic ";
    stops_saying(&mut engine, &[says.to_owned(), format!("--accept-loss {argument}")]);
    assert_eq!((next(&rig), engine.counted("commits")), (Some(7), 0));

    let mut engine = rig.engine_told("one", 2, &["--accept-loss", &argument]);
    engine.until_drained(1);
    stop(engine);
    assert_eq!(next(&rig), Some(20));
    let (values, count) = letters(&rig);
    assert_eq!((values.len(), count), (27, 27), "{values:?}");
}

#[test]
fn a_topic_made_anew_under_a_running_engine_stops_it_before_anything_of_the_new_one_is_committed() {
    for protocol in PROTOCOLS {
        let rig = Rig::new("under", 1).with(protocol);
        write(&rig, "old", 7);
        let mut engine = rig.engine("one");
        engine.until_drained(1);
        Cluster::new(rig.bootstrap()).make_anew(&rig.requests());
        write(&rig, "new", 20);
        stops_saying(&mut engine, &["was made anew".to_owned()]);
        assert_eq!(next(&rig), None);
        assert_eq!(letters(&rig).1, 7, "nothing of the new topic was done");
        let mut engine = rig.engine("one");
        engine.until_drained(1);
        stop(engine);
        let (values, count) = letters(&rig);
        assert_eq!((values.len(), count), (27, 27), "{values:?}");
    }
}

#[test]
fn a_topic_that_is_deleted_stops_the_engine() {
    let rig = Rig::new("gone", 1);
    write(&rig, "old", 7);
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    Cluster::new(rig.bootstrap()).delete(&rig.requests());
    stops_saying(&mut engine, &[format!("the topic {:?} was deleted", rig.requests())]);
}

#[test]
fn partitions_added_under_load_are_served_from_their_start() {
    for protocol in PROTOCOLS {
        let rig = Rig::new("added", 2)
            .with(protocol)
            .with("kafka.consumer.\"topic.metadata.refresh.interval.ms\"=1000");
        let mut engine = rig.engine("one");
        rig.load(1_000, None).finish();
        engine.until_at_least("tidemill_committed_records_total", 500);
        Cluster::new(rig.bootstrap()).add_partitions(&rig.requests(), 5);
        // Some of them get records before the engine knows of them.
        rig.load(2_000, None).finish();
        engine.until_drained(5);
        let report = rig.audit();
        assert_eq!(report.requests, 3_000);
        stop(engine);
    }
}

#[test]
fn offsets_that_an_operator_resets_are_followed_and_told_and_only_while_nobody_reads() {
    let rig = Rig::new("reset", 1);
    write(&rig, "bad", 10);
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    let (done, said) = Cluster::new(rig.bootstrap()).reset_offset(rig.group(), &rig.requests(), 0, 4);
    assert!(!done, "Kafka has done it under a running member: {said}");
    stop(engine);
    let (done, said) = Cluster::new(rig.bootstrap()).reset_offset(rig.group(), &rig.requests(), 0, 4);
    assert!(done && next(&rig) == Some(4), "{said}");
    let mut engine = rig.engine("one");
    engine.until_at_least("tidemill_committed_records_total", 6);
    engine.until_drained(1);
    let log = stop(engine);
    assert!(log.contains("offsets of an operator"), "{log}");
    let (values, count) = letters(&rig);
    assert_eq!((values.len(), count), (10, 16), "the operator has asked for six of them again");
}

#[test]
fn a_stranger_that_commits_for_a_partition_that_is_held_stops_the_engine() {
    let rig = Rig::new("stranger", 1);
    write(&rig, "bad", 10);
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    Cluster::new(rig.bootstrap()).commit_as_a_stranger(rig.group(), &rig.requests(), 0, 4);
    assert_eq!(next(&rig), Some(4), "Kafka takes it");
    assert_eq!(engine.end().code(), Some(1), "{}", engine.log());
    let says = "partition 0 was committed at 4 by somebody else, while this process held it and stood at 10";
    assert!(engine.log().contains(says), "{}", engine.log());
}

#[test]
fn where_nothing_is_committed_an_engine_may_be_told_to_stop() {
    let rig = Rig::new("nothing", 1).with("offsets.missing=stop");
    write(&rig, "bad", 3);
    let mut engine = rig.engine("one");
    let says = "partition 0: the group has committed nothing, and its log holds 0..3";
    stops_saying(&mut engine, &[says.to_owned()]);
    assert_eq!(next(&rig), None);
}
