//! The real broker behind the engine's traits: what the conformance suite can't ask of a simulated one, or what librdkafka makes hard.

#![expect(clippy::unwrap_used, reason = "a test panics")]

mod codecs;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use operators::broker::kafka::{ClientChoice, KafkaBroker, KafkaConfig};
use operators::broker::{
    Broker, Class, GroupEvent, Isolation, OffsetCommit, Ownership, PollEnd, PollLimit, Polled, Producer,
    TopicSpec,
};
use operators::clock::{Clock, Moment, SystemClock};
use operators::lease::{Lease, NextOffset, Offset, Partition, Term};
use operators::records::Records;

use reader::Reader;

const PATIENCE: Duration = Duration::from_secs(30);

fn config() -> KafkaConfig {
    let bootstrap = std::env::var("TIDEMILL_BOOTSTRAP")
        .expect("TIDEMILL_BOOTSTRAP is not set: run `make test`, which starts a broker");
    KafkaConfig::new(bootstrap)
}

fn broker() -> KafkaBroker {
    KafkaBroker::new(config()).unwrap()
}

/// A name that nothing else on the broker has.
fn unique(stem: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}-{}-{next}", SystemClock::new().wall_micros())
}

fn make_topic(broker: &dyn Broker, stem: &str, partitions: i32) -> String {
    let name = unique(stem);
    let topic = TopicSpec { name: name.clone(), partitions, replication: 1, config: BTreeMap::new() };
    broker.admin().unwrap().create(&topic).unwrap();
    name
}

fn record(key: &str, value: &str) -> Records {
    let mut records = Records::default();
    records.push(Some(key.as_bytes()), Some(value.as_bytes()));
    records
}

/// Calls `step` until it is done.
fn until<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(done) = step() {
            return done;
        }
        assert!(clock.now().since(Moment::START) < PATIENCE, "gave up waiting for {what}");
    }
}

/// The values of a partition, in order, and its end.
fn values(
    broker: &dyn Broker,
    topic: &str,
    partition: i32,
    isolation: Isolation,
) -> (Vec<String>, NextOffset) {
    let mut values = Vec::new();
    let end = broker
        .read(topic, Partition(partition), isolation, &mut |record| {
            values.push(String::from_utf8_lossy(record.record.value().unwrap_or(b"null")).into_owned());
        })
        .unwrap();
    (values, end)
}

/// Sends one record to partition 0 in a transaction, and leaves it open.
fn open(producer: &mut dyn Producer, topic: &str, value: &str) {
    producer.begin().unwrap();
    producer.send(topic, Some(0), record("key", value).get(0)).unwrap();
    assert!(producer.drain(PATIENCE).unwrap());
}

fn commit(partition: i32, next: i64) -> OffsetCommit {
    OffsetCommit { partition: Partition(partition), next: NextOffset(next), metadata: format!("m{next}") }
}

#[test]
fn outputs_and_offsets_become_visible_together() {
    let broker = broker();
    let (requests, results) = (make_topic(&broker, "requests", 1), make_topic(&broker, "results", 1));
    let group = unique("group");
    let mut producer = broker.producer(&unique("id")).unwrap();
    let mut reader = Reader::new(&broker, &group, &requests);
    until("the assignment", || {
        reader.step();
        (!reader.owned.is_empty()).then_some(())
    });
    let mut admin = broker.admin().unwrap();
    let partitions = [Partition(0)];
    assert_eq!(admin.committed(&group, &requests, &partitions).unwrap(), [None]);

    open(&mut *producer, &results, "one");
    producer.send_offsets(&requests, &[commit(0, 7)], &reader.token().unwrap()).unwrap();
    assert_eq!(values(&broker, &results, 0, Isolation::ReadCommitted).0, [""; 0]);
    assert_eq!(values(&broker, &results, 0, Isolation::ReadUncommitted).0, ["one"]);
    // Nobody knows yet what the group's offset will be, and nobody says that he does.
    let open = admin.committed(&group, &requests, &partitions).unwrap_err();
    assert_eq!(open.class, Class::Unreachable, "{open}");
    producer.commit().unwrap();

    until("the record", || {
        (values(&broker, &results, 0, Isolation::ReadCommitted) == (vec!["one".into()], NextOffset(2)))
            .then_some(())
    });
    let committed = admin.committed(&group, &requests, &partitions).unwrap().remove(0).unwrap();
    assert_eq!((committed.next, committed.metadata.as_str()), (NextOffset(7), "m7"));
    assert_eq!(reader.member.committed(&partitions).unwrap(), [Some(committed)]);
}

#[test]
fn nothing_of_an_aborted_transaction_is_seen() {
    let broker = broker();
    let topic = make_topic(&broker, "results", 1);
    let mut producer = broker.producer(&unique("id")).unwrap();
    open(&mut *producer, &topic, "aborted");
    producer.abort().unwrap();
    open(&mut *producer, &topic, "committed");
    producer.commit().unwrap();
    until("the commit", || {
        (values(&broker, &topic, 0, Isolation::ReadCommitted).0 == ["committed"]).then_some(())
    });
    assert_eq!(values(&broker, &topic, 0, Isolation::ReadUncommitted).0, ["aborted", "committed"]);
}

#[test]
fn a_successor_fences_its_predecessor_and_aborts_its_transaction() {
    let broker = broker();
    let topic = make_topic(&broker, "results", 1);
    let id = unique("id");
    let mut first = broker.producer(&id).unwrap();
    open(&mut *first, &topic, "first");
    let mut second = broker.producer(&id).unwrap();
    let error = first.commit().unwrap_err();
    assert_eq!(error.class, Class::Fenced, "{error}");
    open(&mut *second, &topic, "second");
    second.commit().unwrap();
    until("the commit", || {
        (values(&broker, &topic, 0, Isolation::ReadCommitted).0 == ["second"]).then_some(())
    });
    println!("fenced: {error}");
    println!("begin after: {:?}", first.begin().map_err(|error| error.to_string()));
    println!("abort after: {:?}", first.abort().map_err(|error| error.to_string()));
}

#[test]
fn a_token_is_refused_before_the_member_has_partitions_and_after_it_has_left() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut reader = Reader::new(&broker, &unique("group"), &topic);
    assert_eq!(reader.token().map(|_| ()).unwrap_err().class, Class::Abortable);
    until("the assignment", || {
        reader.step();
        (!reader.owned.is_empty()).then_some(())
    });
    assert!(reader.token().is_ok());
    let ownership: Arc<dyn Ownership> = reader.member.ownership();
    reader.member.leave().unwrap();
    assert!(ownership.token().is_err());
    drop(reader);
    assert!(ownership.token().is_err());
}

#[test]
fn a_member_that_was_silent_for_too_long_has_lost_its_partitions_and_its_token() {
    let mut config = config();
    config.session_timeout = Duration::from_millis(1_500);
    config.consumer.insert("max.poll.interval.ms".to_owned(), "1500".to_owned());
    let broker = KafkaBroker::new(config).unwrap();
    let topic = make_topic(&broker, "requests", 2);
    let mut reader = Reader::new(&broker, &unique("group"), &topic);
    until("the assignment", || {
        reader.step();
        (reader.owned.len() == 2).then_some(())
    });
    until("the group to give it up", || {
        std::thread::sleep(Duration::from_millis(100));
        reader.token().err().map(|error| assert_eq!(error.class, Class::Abortable, "{error}"))
    });
    until("a fresh assignment", || {
        reader.step();
        (reader.events.last().is_some_and(|event| event == "assigned 2") && reader.events.len() > 2)
            .then_some(())
    });
    assert!(reader.events.iter().any(|event| event == "lost 2"), "{:?}", reader.events);
    assert!(reader.token().is_ok());
}

#[test]
fn offsets_of_a_stale_generation_cost_the_transaction_only() {
    let broker = broker();
    let (requests, results) = (make_topic(&broker, "requests", 4), make_topic(&broker, "results", 1));
    let group = unique("group");
    let mut producer = broker.producer(&unique("id")).unwrap();
    let mut one = Reader::new(&broker, &group, &requests);
    until("the assignment", || {
        one.step();
        (one.owned.len() == 4).then_some(())
    });
    let stale = one.token().unwrap();
    let mut two = Reader::new(&broker, &group, &requests);
    until("the rebalance", || {
        one.step();
        two.step();
        (one.owned.len() == 2 && two.owned.len() == 2).then_some(())
    });
    open(&mut *producer, &results, "stale");
    let error = producer.send_offsets(&requests, &[commit(0, 1)], &stale).unwrap_err();
    println!("stale: {error}");
    assert_eq!(error.class, Class::Abortable);
    producer.abort().unwrap();
    let partition = one.owned.first().unwrap().0;
    open(&mut *producer, &results, "fresh");
    producer.send_offsets(&requests, &[commit(partition, 1)], &one.token().unwrap()).unwrap();
    producer.commit().unwrap();
    until("the commit", || {
        (values(&broker, &results, 0, Isolation::ReadCommitted).0 == ["fresh"]).then_some(())
    });
}

#[test]
fn a_rebalance_may_be_answered_late_and_outside_of_the_callback() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 8);
    let group = unique("group");
    let mut writer = broker.writer().unwrap();
    let mut written = 0;
    let mut write = |count: u64| {
        for _ in 0..count {
            let partition = i32::try_from(written % 8).unwrap();
            let record = record("key", &format!("{written}"));
            writer.write(&topic, Some(partition), None, record.get(0), written).unwrap();
            written += 1;
        }
        assert!(writer.flush(PATIENCE));
        written
    };
    write(800);
    let mut one = Reader::new(&broker, &group, &topic);
    one.delay = Duration::from_millis(300);
    until("the first assignment", || {
        one.step();
        (one.owned.len() == 8 && one.polled.records.len() == 800).then_some(())
    });
    let mut two = Reader::new(&broker, &group, &topic);
    two.delay = Duration::from_millis(300);
    let clock = SystemClock::new();
    until("the second member's share", || {
        one.step();
        two.step();
        (one.owned.len() == 4 && two.owned.len() == 4).then_some(())
    });
    println!(
        "8 -> 4 + 4 took {:?} with answers put off by {:?}",
        clock.now().since(Moment::START),
        one.delay
    );
    let both: BTreeSet<_> = one.owned.union(&two.owned).collect();
    assert_eq!(both.len(), 8, "no partition has two owners");
    let all = write(800);
    until("both to read on", || {
        one.step();
        two.step();
        let seen: BTreeSet<_> = one
            .polled
            .origins
            .iter()
            .chain(&two.polled.origins)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(lease, offset)| (lease.partition, offset.0))
            .collect();
        (seen.len() as u64 == all).then_some(())
    });
    let mut seen = BTreeSet::new();
    for (lease, offset) in &one.polled.origins {
        assert!(seen.insert((lease.partition, *offset)), "{lease:?} {offset:?} was read twice by one member");
    }
    two.member.leave().unwrap();
    until("the partitions to come home", || {
        one.step();
        (one.owned.len() == 8).then_some(())
    });
    println!("events of the first member: {:?}", one.events);
    println!("events of the second member: {:?}", two.events);
}

#[test]
fn a_member_reaches_the_end_behind_control_records_and_aborted_ones() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut producer = broker.producer(&unique("id")).unwrap();
    let mut reader = Reader::new(&broker, &unique("group"), &topic);
    until("the assignment", || {
        reader.step();
        (!reader.owned.is_empty()).then_some(())
    });
    let mut settle = |what: &str, records: usize, end: i64| {
        until(what, || {
            reader.step();
            let queue = &reader.queues[&Partition(0)];
            let now = (reader.polled.records.len(), queue.position(), queue.end());
            (now == (records, Some(NextOffset(end)), Some(NextOffset(end)))).then_some(())
        });
    };
    open(&mut *producer, &topic, "committed");
    producer.commit().unwrap();
    settle("the committed tail", 1, 2);
    open(&mut *producer, &topic, "aborted");
    producer.abort().unwrap();
    settle("the aborted tail", 1, 4);
    open(&mut *producer, &topic, "open");
    for _ in 0..100 {
        reader.step();
    }
    let queue = &reader.queues[&Partition(0)];
    assert_eq!((queue.position(), queue.end()), (Some(NextOffset(4)), Some(NextOffset(4))));
    let range = reader.member.log_ranges(&[Partition(0)]).unwrap();
    println!("log_ranges with an open transaction: {range:?}");
    producer.commit().unwrap();
    let (seen, end) = values(&broker, &topic, 0, Isolation::ReadCommitted);
    println!("read right after the commit: {seen:?} up to {end:?}");
}

#[test]
fn a_partition_that_holds_only_what_was_aborted_can_be_read_and_passed() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut producer = broker.producer(&unique("id")).unwrap();
    open(&mut *producer, &topic, "aborted");
    producer.abort().unwrap();
    until("the abort", || {
        (values(&broker, &topic, 0, Isolation::ReadCommitted) == (vec![], NextOffset(2))).then_some(())
    });
    let mut reader = Reader::new(&broker, &unique("group"), &topic);
    until("the position to pass the abort", || {
        reader.step();
        let queue = reader.queues.get(&Partition(0))?;
        (queue.position() == Some(NextOffset(2)) && queue.end() == Some(NextOffset(2))).then_some(())
    });
    assert!(reader.polled.records.is_empty());
}

#[test]
fn records_round_trip_byte_for_byte_hostile_headers_included() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut records = Records::default();
    records.push(None, None);
    records.push(Some(b""), Some(b""));
    records.push(Some(b"\xff\x00key"), Some(b"\x00value\xfe"));
    for (name, value) in [
        (&b"\xff\xfe\x80"[..], Some(&b"v"[..])),
        (b"twice", Some(b"1")),
        (b"twice", None),
        (b"twice", Some(b"")),
        (b"", Some(b"no name")),
        ("größe".as_bytes(), Some(b"\x00\xff")),
    ] {
        records.push_header(name, value);
    }
    let mut producer = broker.producer(&unique("id")).unwrap();
    producer.begin().unwrap();
    for record in records.iter() {
        producer.send(&topic, Some(0), record).unwrap();
    }
    producer.commit().unwrap();

    let mut read = Records::default();
    until("the records", || {
        read = Records::default();
        let mut offsets = Vec::new();
        broker
            .read(&topic, Partition(0), Isolation::ReadCommitted, &mut |record| {
                offsets.push(record.offset);
                assert!(record.timestamp.millis > 1_700_000_000_000 && !record.timestamp.append);
                read.push(record.record.key(), record.record.value());
                for (name, value) in record.record.headers() {
                    read.push_header(name, value);
                }
            })
            .unwrap();
        (offsets == [Offset(0), Offset(1), Offset(2)]).then_some(())
    });
    assert_eq!(read, records);
    let mut reader = Reader::new(&broker, &unique("group"), &topic);
    until("the member to read them", || {
        reader.step();
        (reader.polled.records.len() == 3).then_some(())
    });
    assert_eq!(reader.polled.records, records);
    assert!(reader.wakes.load(Ordering::Relaxed) > 0);
}

#[test]
fn an_oversized_record_is_refused_and_the_transaction_stays_good() {
    let broker = broker();
    let topic = make_topic(&broker, "results", 1);
    let mut producer = broker.producer(&unique("id")).unwrap();
    producer.begin().unwrap();
    producer.send(&topic, Some(0), record("key", "small").get(0)).unwrap();
    let error = producer.send(&topic, Some(0), record("key", &"x".repeat(2_000_000)).get(0)).unwrap_err();
    assert_eq!(error.class, Class::TooLarge, "{error}");
    producer.commit().unwrap();
    until("the commit", || {
        (values(&broker, &topic, 0, Isolation::ReadCommitted).0 == ["small"]).then_some(())
    });
}

/// A producer in a transaction for a topic of this configuration, and the topic's name.
fn begun(client: ClientChoice, key: &str, value: &str) -> (KafkaBroker, Box<dyn Producer>, String) {
    let mut config = KafkaConfig { producer_client: client, ..config() };
    config.producer.insert("compression.type".to_owned(), "none".to_owned());
    let broker = KafkaBroker::new(config).unwrap();
    let name = unique("configured");
    let config = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let topic = TopicSpec { name: name.clone(), partitions: 1, replication: 1, config };
    broker.admin().unwrap().create(&topic).unwrap();
    let mut producer = broker.producer(&unique("id")).unwrap();
    producer.begin().unwrap();
    (broker, producer, name)
}

/// Nothing of the transaction is seen, and the next one is.
fn assert_costs_one_transaction(broker: &KafkaBroker, mut producer: Box<dyn Producer>, topic: &str) {
    producer.abort().unwrap();
    open(&mut *producer, topic, "fits");
    producer.commit().unwrap();
    until("the commit", || (values(broker, topic, 0, Isolation::ReadCommitted).0 == ["fits"]).then_some(()));
}

#[test]
fn a_record_that_the_broker_refuses_costs_one_transaction_and_not_the_next() {
    for client in [ClientChoice::Direct, ClientChoice::Librdkafka] {
        let (broker, mut producer, topic) = begun(client, "cleanup.policy", "compact");
        let mut keyless = Records::default();
        keyless.push(None, Some(b"nobody could ever ask for it"));
        producer.send(&topic, Some(0), keyless.get(0)).unwrap();
        let error = producer.drain(PATIENCE).unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (Class::Abortable, "INVALID_RECORD"), "{error}");
        assert_costs_one_transaction(&broker, producer, &topic);
    }
}

/// Each record fits, and the batch that librdkafka sends them in does not.
#[test]
fn a_batch_that_the_broker_refuses_costs_one_transaction_and_the_direct_producer_makes_none() {
    let send_two = |producer: &mut dyn Producer, topic: &str| {
        for _ in 0..2 {
            producer.send(topic, Some(0), record("key", &"x".repeat(1_500)).get(0)).unwrap();
        }
        producer.drain(PATIENCE)
    };
    let (broker, mut producer, topic) = begun(ClientChoice::Librdkafka, "max.message.bytes", "2000");
    let error = send_two(&mut *producer, &topic).unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::Abortable, "MSG_SIZE_TOO_LARGE"), "{error}");
    assert_costs_one_transaction(&broker, producer, &topic);
    let (_, mut producer, topic) = begun(ClientChoice::Direct, "max.message.bytes", "2000");
    assert!(send_two(&mut *producer, &topic).unwrap());
}

#[test]
fn a_start_outside_of_the_log_is_told_and_never_moved() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut member = broker.member(&unique("group"), &topic).unwrap();
    let partitions = until("the assignment", || match member.poll(Duration::from_millis(100)) {
        Some(GroupEvent::Assigned(partitions)) => Some(partitions),
        _ => None,
    });
    let mut queue = member.queue(partitions[0], Arc::new(|| ())).unwrap();
    member.assign(&[(partitions[0], NextOffset(1_000))]).unwrap();
    let lease = Lease { partition: partitions[0], term: Term(1) };
    let limit = PollLimit { records: 10, bytes: 1 << 20 };
    let mut polled = Polled::default();
    until("the event", || {
        assert_eq!(queue.poll(lease, &mut polled, limit).unwrap(), PollEnd::Empty);
        matches!(member.poll(Duration::from_millis(20)), Some(GroupEvent::OutOfRange(Partition(0))))
            .then_some(())
    });
    assert!(polled.records.is_empty());
}

#[test]
fn a_poll_obeys_its_limit_and_brings_at_least_one_record() {
    let broker = broker();
    let topic = make_topic(&broker, "requests", 1);
    let mut writer = broker.writer().unwrap();
    for tag in 0..10 {
        writer.write(&topic, Some(0), Some(1_700_000_000_123), record("key", "12345").get(0), tag).unwrap();
    }
    assert!(writer.flush(PATIENCE));
    let mut acknowledged: Vec<_> =
        writer.acknowledged().into_iter().map(|(tag, to)| (tag, to.unwrap())).collect();
    acknowledged.sort_unstable();
    let expected: Vec<_> =
        (0..10u8).map(|tag| (u64::from(tag), (Partition(0), Some(Offset(tag.into()))))).collect();
    assert_eq!(acknowledged, expected);
    let mut member = broker.member(&unique("group"), &topic).unwrap();
    let partitions = until("the assignment", || match member.poll(Duration::from_millis(100)) {
        Some(GroupEvent::Assigned(partitions)) => Some(partitions),
        _ => None,
    });
    let mut queue = member.queue(partitions[0], Arc::new(|| ())).unwrap();
    assert_eq!(queue.position(), None);
    member.assign(&[(partitions[0], NextOffset(3))]).unwrap();
    let lease = Lease { partition: partitions[0], term: Term(1) };
    let mut poll = |records, bytes| {
        until("records", || {
            let mut polled = Polled::default();
            let end = queue.poll(lease, &mut polled, PollLimit { records, bytes }).unwrap();
            (!polled.origins.is_empty()).then(|| {
                assert!(polled.times.iter().all(|time| time.millis == 1_700_000_000_123 && !time.append));
                (end, polled.origins.iter().map(|(_, offset)| offset.0).collect::<Vec<_>>())
            })
        })
    };
    assert_eq!(poll(1, 1), (PollEnd::Limit, vec![3]));
    assert_eq!(poll(2, 1 << 20), (PollEnd::Limit, vec![4, 5]));
    assert_eq!(poll(9, 12), (PollEnd::Limit, vec![6, 7]));
    assert_eq!(poll(9, 1 << 20), (PollEnd::Empty, vec![8, 9]));
    assert_eq!(queue.position(), Some(NextOffset(10)));
}

#[test]
fn a_topic_is_as_it_was_asked_for() {
    let broker = broker();
    let mut admin = broker.admin().unwrap();
    let name = unique("events");
    let config = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
    let topic = TopicSpec { name: name.clone(), partitions: 3, replication: 1, config };
    assert_eq!(admin.describe(&name).unwrap(), None);
    admin.create(&topic).unwrap();
    let described = admin.describe(&name).unwrap().unwrap();
    assert_eq!((described.partitions, described.replication), (3, 1));
    assert_eq!(described.config["cleanup.policy"], "compact");
    assert!(described.config.contains_key("max.message.bytes"));
    let again = admin.create(&topic).unwrap_err();
    assert_eq!((again.class, again.code.as_str()), (Class::Refused, "TOPIC_ALREADY_EXISTS"));
    println!("{}", admin.identity().unwrap());
}

#[test]
fn a_broker_that_is_not_there_is_unreachable() {
    let mut config = KafkaConfig::new("127.0.0.1:1");
    config.start_up_max = Duration::from_secs(2);
    let librdkafka = KafkaConfig { consumer_client: ClientChoice::Librdkafka, ..config.clone() };
    let (broker, library) = (KafkaBroker::new(config).unwrap(), KafkaBroker::new(librdkafka).unwrap());
    let errors = [
        broker.producer("id").map(|_| ()).unwrap_err(),
        broker.admin().unwrap().identity().unwrap_err(),
        broker.admin().unwrap().describe("topic").unwrap_err(),
        broker.read("topic", Partition(0), Isolation::ReadCommitted, &mut |_| ()).unwrap_err(),
        broker.member("group", "topic").map(|_| ()).unwrap_err(),
        library.member("group", "topic").unwrap().committed(&[Partition(0)]).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.class, Class::Unreachable, "{error}");
    }
}
