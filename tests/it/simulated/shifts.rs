//! The log changes under seeded engines: what is lost is what was accepted, and nothing else.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use dataflows::lockstep::{End, Lots, Next};
use operators::broker::simulated::SimulatedBroker;
use operators::broker::{Broker, Isolation};
use operators::continuity::{AcceptedLoss, Policy};
use operators::fault::Fault;
use operators::lease::{NextOffset, Partition};
use operators::records::Records;

use super::world::{PARTITIONS, World, WorldOptions};
use super::{Dice, ORDERS};

/// Every request of the world, as acknowledged.
fn ack_log(world: &World) -> (tempfile::NamedTempFile, Vec<i64>) {
    let mut log = tempfile::NamedTempFile::new().unwrap();
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        let mut each = |record: operators::broker::LogRecord<'_>| {
            let line = serde_json::json!({
                "topic": "requests", "partition": partition, "offset": record.offset.0, "request_id": null,
            });
            writeln!(log, "{line}").unwrap();
        };
        let read = world.broker.read("requests", Partition(partition), Isolation::ReadCommitted, &mut each);
        ends.push(read.unwrap().0);
    }
    (log, ends)
}

/// Whether the group's place in each partition is on record: before that it has none, and begins wherever a log begins.
fn is_on_record(broker: &SimulatedBroker) -> bool {
    let partitions: Vec<Partition> = (0..PARTITIONS).map(Partition).collect();
    let committed = broker.admin().unwrap().committed("workers", "requests", &partitions);
    committed.is_ok_and(|committed| committed.iter().all(Option::is_some))
}

/// Deletes, crashes and accepts under a seed; returns what was accepted.
fn run_seed(seed: u64, world: &World, ends: &[i64]) -> BTreeSet<(i32, i64)> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9).wrapping_add(7));
    let (mut accepted, mut lost) = (Vec::new(), BTreeSet::new());
    let mut deletions = 6;
    for round in 0.. {
        assert!(round < 100, "seed {seed}: it does not come to its end");
        world.set_order(ORDERS[usize::try_from(dice.roll(3)).unwrap()]);
        let mut engine = world.engine();
        engine.config.policy = Arc::new(Policy { accepted: accepted.clone(), ..Policy::default() });
        let mut delete_at: Vec<u64> =
            (0..dice.roll(3).min(deletions)).map(|_| 1 + dice.roll(3_000)).collect();
        deletions -= delete_at.len() as u64;
        let crash_at = (dice.roll(3) == 0 && round < 8).then(|| 1 + dice.roll(4_000));
        let (broker, ends, mut inner) = (world.broker.clone(), ends.to_vec(), Dice(dice.roll(1 << 30)));
        let lots = Lots { device_one_in: 1 + dice.roll(8), ..World::lots(seed * 1_000 + round) };
        let end = world.run_with(engine, lots, move |progress| {
            if crash_at == Some(progress.turns) {
                return Next::Crash;
            }
            while let Some(place) = delete_at.iter().position(|at| *at <= progress.turns) {
                if !is_on_record(&broker) {
                    break;
                }
                delete_at.remove(place);
                let partition = inner.roll(u64::try_from(PARTITIONS).unwrap());
                let end = ends[usize::try_from(partition).unwrap()];
                // The last record stays, so that there is something to commit.
                let before = i64::try_from(inner.roll(u64::try_from(end.max(1)).unwrap())).unwrap();
                let partition = Partition(i32::try_from(partition).unwrap());
                broker.delete_before("requests", partition, NextOffset(before));
            }
            Next::Go
        });
        match end {
            End::Stopped => return lost,
            End::Crashed => {}
            End::Fault(Fault::LogChanged(breaks)) => {
                for broken in breaks.breaks {
                    let loss: AcceptedLoss = broken.loss().expect("deleted records have a range");
                    lost.extend((loss.from.0..loss.to.0).map(|offset| (loss.partition.0, offset)));
                    accepted.push(loss);
                }
            }
            end => panic!("seed {seed}: {end:?}"),
        }
    }
    unreachable!()
}

#[test]
fn whatever_is_deleted_under_an_engine_nothing_is_lost_but_what_was_named_and_accepted() {
    let mut losses = 0;
    for seed in super::seeds(80) {
        let world = World::new(seed, WorldOptions { requests: 400, ..WorldOptions::default() });
        let (log, ends) = ack_log(&world);
        let accepted = run_seed(seed, &world, &ends);
        let report = world.audit_with(Some(log.path().to_owned()));
        let counts = [report.duplicated, report.wrong, report.unexpected, report.missing];
        assert_eq!(counts, [0; 4], "seed {seed}: {report}");
        for fault in &report.faults {
            let origin = fault.origin.as_ref().expect("what was lost has a place");
            let place = (origin.partition.0, origin.offset.0);
            assert!(accepted.contains(&place), "seed {seed}: {fault} was not accepted as lost");
        }
        losses += report.lost;
    }
    assert!(losses > 0, "nothing was ever lost: this has found nothing to look at");
}

/// Deletes the topic, and makes another one whose logs hold as many records as the old one's held, so that every offset lies within.
fn make_anew(broker: &SimulatedBroker) {
    let held = |partition| broker.records("requests", Partition(partition), Isolation::ReadCommitted).len();
    let held: Vec<usize> = (0..PARTITIONS).map(held).collect();
    broker.make_anew("requests", PARTITIONS);
    let (mut writer, mut new) = (broker.writer().unwrap(), Records::default());
    new.push(None, Some(b"new"));
    for (partition, held) in (0..).zip(held) {
        for tag in 0..held {
            writer.write("requests", Some(partition), None, new.get(0), tag as u64).unwrap();
        }
    }
}

#[test]
fn a_topic_made_anew_under_an_engine_stops_it_before_anything_of_the_new_one_is_committed() {
    let mut stopped = 0;
    for seed in super::seeds(80) {
        let world = World::new(seed, WorldOptions { requests: 400, ..WorldOptions::default() });
        let (at, broker, mut is_new) = (Dice(seed + 1).roll(2_000), world.broker.clone(), false);
        let end = world.run_with(world.engine(), World::lots(seed), move |progress| {
            if progress.turns >= at && !is_new && is_on_record(&broker) {
                is_new = true;
                make_anew(&broker);
            }
            Next::Go
        });
        match end {
            // It was done before that.
            End::Stopped => {}
            End::Fault(Fault::LogChanged(_) | Fault::TopicChanged { .. }) => stopped += 1,
            end => panic!("seed {seed}: {end:?}"),
        }
        for partition in 0..2 {
            let letters = world.broker.records("dlq", Partition(partition), Isolation::ReadCommitted);
            let of_new = letters.iter().filter(|letter| letter.value.as_deref() == Some(b"new")).count();
            assert_eq!(of_new, 0, "seed {seed}: outcomes of the new topic were committed");
        }
    }
    assert!(stopped > 0, "it was never made anew in the middle");
}
