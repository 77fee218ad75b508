//! Records and logs: what comes back of a record, where it lands, and where a reader stands.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use operators::broker::{Class, Isolation, PollEnd, PollLimit, RecordTime, TopicSpec};
use operators::lease::{NextOffset, Offset, Partition};
use operators::partitioner::partition_for_key;
use operators::records::Records;

use super::subject::{PLENTY, Reader, Subject, abort, commit, drain, send};

pub(crate) fn every_byte_of_a_record_comes_back(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let mut sent = Records::default();
    sent.push(None, None);
    sent.push(Some(b""), Some(b""));
    sent.push(Some(b"\0\xff"), None);
    sent.push(None, Some(b"\xc3\x28 not UTF-8"));
    sent.push(Some(b"key"), Some(b"value"));
    sent.push_header(b"twice", Some(b"1"));
    sent.push_header(b"null", None);
    sent.push_header(b"twice", Some(b"\xff\xfe"));
    sent.push_header(b"empty", Some(b""));
    sent.push_header(b"\xff\xfe", Some(b"a name that is not UTF-8"));
    sent.push_header(b"", Some(b"no name"));
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    for record in sent.iter() {
        producer.send(&topic, Some(0), record).expect("the record is sent");
    }
    drain(subject, &mut *producer);
    commit(subject, &mut *producer);
    let mut writer = subject.broker.writer().expect("the writer is made");
    for record in sent.iter() {
        writer.write(&topic, Some(0), Some(1_700_000_000_123), record, 0).expect("the record is written");
    }
    subject.eventually("the writes are acknowledged", || {
        writer.flush(std::time::Duration::from_millis(50)).then_some(())
    });
    let mut reader = reader_of_all(subject, &topic, 1);
    subject.eventually("all are polled", || {
        reader.serve();
        reader.poll();
        (reader.polled.records.len() >= 2 * sent.len()).then_some(())
    });
    let mut read = Vec::new();
    let mut each = |record: operators::broker::LogRecord<'_>| read.push(contents(record.record));
    subject
        .broker
        .read(&topic, Partition(0), Isolation::ReadCommitted, &mut each)
        .expect("the partition is read");
    let twice: Vec<_> = sent.iter().chain(sent.iter()).map(contents).collect();
    assert_eq!(read, twice);
    assert_eq!(reader.polled.records.iter().map(contents).collect::<Vec<_>>(), twice);
    let written = RecordTime { millis: 1_700_000_000_123, append: false };
    assert_eq!(reader.polled.times[sent.len()..], vec![written; sent.len()]);
}

pub(crate) fn a_key_lands_where_java_puts_it(subject: &Subject) {
    let partitions = 8;
    let topic = subject.topic("requests", partitions);
    let keys: Vec<Vec<u8>> = (0..40).map(|i| format!("tenant-{i}|mlp-16").into_bytes()).collect();
    let mut records = Records::default();
    for key in keys.iter().chain([&b"".to_vec(), &b"\xff\x00".to_vec()]) {
        records.push(Some(key), Some(b"v"));
    }
    let mut producer = subject.producer("engine");
    producer.begin().expect("it begins");
    let mut writer = subject.broker.writer().expect("the writer is made");
    for record in records.iter() {
        producer.send(&topic, None, record).expect("the record is sent");
        writer.write(&topic, None, None, record, 0).expect("the record is written");
    }
    subject.eventually("the writes are acknowledged", || {
        writer.flush(std::time::Duration::from_millis(50)).then_some(())
    });
    drain(subject, &mut *producer);
    commit(subject, &mut *producer);
    let mut found: BTreeMap<Vec<u8>, Vec<Partition>> = BTreeMap::new();
    for partition in (0..partitions).map(Partition) {
        let mut each = |record: operators::broker::LogRecord<'_>| {
            found.entry(record.record.key().unwrap_or(b"null").to_vec()).or_default().push(partition);
        };
        subject
            .broker
            .read(&topic, partition, Isolation::ReadUncommitted, &mut each)
            .expect("the partition is read");
    }
    let expected = records.iter().filter_map(|record| record.key()).map(|key| {
        let partition = partition_for_key(key, partitions);
        (key.to_vec(), vec![partition; 2])
    });
    assert_eq!(found, expected.collect());
}

pub(crate) fn a_writer_is_told_where_its_records_went(subject: &Subject) {
    let topic = subject.topic("requests", 2);
    let mut writer = subject.broker.writer().expect("the writer is made");
    let mut records = Records::default();
    records.push(None, Some(b"v"));
    for tag in 0..4 {
        let partition = i32::from(tag % 2 == 1);
        writer.write(&topic, Some(partition), None, records.get(0), tag).expect("the record is written");
    }
    let mut places = Vec::new();
    subject.eventually("everything is acknowledged", || {
        writer.flush(std::time::Duration::from_millis(50));
        places.append(&mut writer.acknowledged());
        (places.len() == 4).then_some(())
    });
    places.sort_by_key(|(tag, _)| *tag);
    let expected = [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]
        .map(|(tag, partition, offset)| (tag, Ok((Partition(partition), Some(Offset(offset))))));
    assert_eq!(places, expected);
    assert!(writer.acknowledged().is_empty());
}

pub(crate) fn the_broker_stamps_records_where_the_topic_says_so(subject: &Subject) {
    let topic = subject.topic_with("letters", 1, &[("message.timestamp.type", "LogAppendTime")]);
    subject.write(&topic, 0, &["a"]);
    let mut times = Vec::new();
    let mut each = |record: operators::broker::LogRecord<'_>| times.push(record.timestamp);
    subject
        .broker
        .read(&topic, Partition(0), Isolation::ReadCommitted, &mut each)
        .expect("the partition is read");
    assert!(times.len() == 1 && times[0].append && times[0].millis > 0, "{times:?}");
}

pub(crate) fn position_and_end_agree_behind_control_records(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let mut producer = subject.producer("client");
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["a", "b"]);
    commit(subject, &mut *producer);
    let mut reader = reader_of_all(subject, &topic, 1);
    assert_eq!(
        reader.queue(0).position(),
        reader.queue(0).end(),
        "before the first poll both are told or neither"
    );
    stands_at(subject, &mut reader, 3);
    assert_eq!(reader.values(), ["a", "b"]);
}

pub(crate) fn position_and_end_agree_behind_aborted_records(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    subject.write(&topic, 0, &["a"]);
    let mut producer = subject.producer("client");
    for _ in 0..2 {
        producer.begin().expect("it begins");
        send(subject, &mut *producer, &topic, 0, &["x", "y"]);
        abort(subject, &mut *producer);
    }
    let mut reader = reader_of_all(subject, &topic, 1);
    stands_at(subject, &mut reader, 7);
    assert_eq!(reader.offsets(), [(Partition(0), Offset(0))]);
    // A reader that starts in the middle of the aborted tail sees nothing at all, and gets to its end too.
    let mut late = subject.reader("late", &topic);
    subject.eventually("the late reader is assigned its partition", || {
        match late.member.poll(std::time::Duration::from_millis(50)) {
            Some(operators::broker::GroupEvent::Assigned(partitions)) if !partitions.is_empty() => {
                late.take(&partitions, Some(NextOffset(2)));
                Some(())
            }
            _ => None,
        }
    });
    stands_at(subject, &mut late, 7);
    assert!(late.polled.records.is_empty());
}

pub(crate) fn a_poll_keeps_to_its_limit(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    subject.write(&topic, 0, &["aaaaaaaa", "bbbbbbbb", "cccccccc", "d"]);
    let mut reader = reader_of_all(subject, &topic, 1);
    let poll = |reader: &mut Reader, count: usize, limit: PollLimit| {
        subject.eventually(&format!("{count} records are polled"), || {
            reader.serve();
            let before = reader.polled.records.len();
            let end = reader.poll_one(Partition(0), limit);
            let taken = reader.polled.records.len() - before;
            assert!(taken <= limit.records);
            (reader.polled.records.len() == count).then_some(end)
        })
    };
    let one = PollLimit { records: 1, ..PLENTY };
    assert_eq!(poll(&mut reader, 1, one), PollEnd::Limit);
    // However large, one record comes.
    let narrow = PollLimit { bytes: 1, ..PLENTY };
    assert_eq!(poll(&mut reader, 2, narrow), PollEnd::Limit);
    poll(&mut reader, 4, PLENTY);
    assert_eq!(reader.values(), ["aaaaaaaa", "bbbbbbbb", "cccccccc", "d"]);
}

pub(crate) fn a_queue_wakes_its_reader(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let mut reader = reader_of_all(subject, &topic, 1);
    reader.poll();
    let mut producer = subject.producer("client");
    let mut heard = 0;
    for text in ["a", "b", "c"] {
        producer.begin().expect("it begins");
        send(subject, &mut *producer, &topic, 0, &[text]);
        commit(subject, &mut *producer);
        subject.eventually("a reader that polls only when it is woken gets the record", || {
            reader.serve();
            let woken = reader.woken.load(Ordering::SeqCst);
            if woken > heard {
                heard = woken;
                reader.poll();
            }
            (reader.values().last().map(String::as_str) == Some(text)).then_some(())
        });
    }
}

pub(crate) fn a_read_ends_at_the_end_it_found(subject: &Subject) {
    let topic = subject.topic("requests", 1);
    let end = |isolation| {
        subject.broker.read(&topic, Partition(0), isolation, &mut |_| {}).expect("the partition is read")
    };
    assert_eq!(end(Isolation::ReadCommitted), NextOffset(0));
    let mut producer = subject.producer("client");
    subject.write(&topic, 0, &["a"]);
    producer.begin().expect("it begins");
    send(subject, &mut *producer, &topic, 0, &["b"]);
    assert_eq!(end(Isolation::ReadCommitted), NextOffset(1));
    assert_eq!(end(Isolation::ReadUncommitted), NextOffset(2));
    abort(subject, &mut *producer);
    subject.eventually("the end is behind the control record", || {
        (end(Isolation::ReadCommitted) == NextOffset(3)).then_some(())
    });
}

pub(crate) fn a_topic_is_created_once(subject: &Subject) {
    let spec = subject.spec("requests", 3, &[("cleanup.policy", "compact"), ("max.message.bytes", "4321")]);
    let mut admin = subject.broker.admin().expect("the admin client is made");
    admin.create(&spec).expect("the topic is made");
    let described = admin.describe(&spec.name).expect("it is described").expect("it exists");
    assert_eq!((described.partitions, described.replication), (3, 1));
    for (key, value) in &spec.config {
        assert_eq!(described.config.get(key), Some(value), "{key}");
    }
    assert_eq!(described.config.get("message.timestamp.type").map(String::as_str), Some("CreateTime"));
    let error = admin.create(&TopicSpec { partitions: 5, ..spec.clone() }).expect_err("it exists");
    assert_eq!(error.class, Class::Refused, "{error}");
    assert_eq!(admin.describe(&spec.name).expect("it is described").map(|topic| topic.partitions), Some(3));
}

pub(crate) fn a_deleted_topic_is_gone(subject: &Subject) {
    let (deleted, other) = (subject.topic("deleted", 2), subject.topic("other", 1));
    let mut admin = subject.broker.admin().expect("the admin client is made");
    admin.delete(&deleted).expect("the topic is deleted");
    subject.eventually("the topic is gone", || {
        admin.describe(&deleted).expect("the topic is looked for").is_none().then_some(())
    });
    let error = admin.delete(&deleted).expect_err("there is no such topic any more");
    assert_eq!(error.class, Class::Refused, "{error}");
    assert!(admin.describe(&other).expect("the other is looked for").is_some());
}

pub(crate) fn an_unknown_topic_is_described_as_none(subject: &Subject) {
    let mut admin = subject.broker.admin().expect("the admin client is made");
    let name = subject.name("nowhere");
    assert_eq!(admin.describe(&name).expect("the broker answers"), None);
    // To ask for it did not make it.
    assert_eq!(admin.describe(&name).expect("the broker answers"), None);
    assert!(!admin.identity().expect("the broker says who it is").is_empty());
}

/// A reader that owns every partition of the topic and has not polled a queue yet.
fn reader_of_all(subject: &Subject, topic: &str, partitions: usize) -> Reader {
    let mut reader = subject.reader("group", topic);
    subject.eventually("the only member owns everything", || {
        reader.serve();
        (reader.owned.len() == partitions).then_some(())
    });
    reader
}

/// Polls partition 0 until the reader stands at `next` and that is the end.
fn stands_at(subject: &Subject, reader: &mut Reader, next: i64) {
    subject.eventually(&format!("position and end are both {next}"), || {
        reader.serve();
        reader.poll();
        let place = (reader.queue(0).position(), reader.queue(0).end());
        (place == (Some(NextOffset(next)), Some(NextOffset(next)))).then_some(())
    });
}

type Contents = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn contents(record: operators::records::RecordView<'_>) -> Contents {
    let headers = record.headers().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)));
    (record.key().map(<[u8]>::to_vec), record.value().map(<[u8]>::to_vec), headers.collect())
}
