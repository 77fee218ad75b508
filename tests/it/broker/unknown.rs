//! Transactions of which an engine does not hear what became of them, or hears that it may not go on: each is survived by the process.
//!
//! The broker is one of these tests' own, with the proxy before it. It gives up idle transactional ids, and overdue transactions, soon.

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use operators::broker::kafka::{ClientChoice, KafkaBroker, KafkaConfig};
use operators::broker::{Broker, Class, Isolation, Producer};
use operators::lease::Partition;
use operators::records::Records;

use super::engine::Engine;
use super::own::OwnBroker;
use super::proxy::{ADD_OFFSETS_TO_TXN, END_TXN, Line, PRODUCE, Proxy, TXN_OFFSET_COMMIT, Trick};
use super::rig::Rig;
use super::wait::until;

const PARTITIONS: usize = 4;

/// After how long the broker forgets an idle transactional id, and how often it looks for some.
const EXPIRY: Duration = Duration::from_secs(12);

/// Shared by these tests. It ends with the process.
static GROUND: LazyLock<(OwnBroker, Proxy)> = LazyLock::new(|| {
    let proxy = Proxy::new(1);
    let settings = [
        &format!("transactional.id.expiration.ms={}", EXPIRY.as_millis()),
        "transaction.remove.expired.transaction.cleanup.interval.ms=1000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
    ];
    (OwnBroker::start_with(1, &settings, Some(&proxy)), proxy)
});

/// Makes each check a test with the direct producer and one with the library's.
macro_rules! with_either_producer {
    ($($check:ident),+ $(,)?) => {
        mod direct {
            $(#[test] fn $check() { super::$check("direct"); })+
        }

        mod librdkafka {
            $(#[test] fn $check() { super::$check("librdkafka"); })+
        }
    };
}

with_either_producer! {
    a_commit_whose_answer_is_lost_with_its_connection_is_found_out,
    a_commit_whose_answer_never_comes_is_found_out_by_a_new_producer,
    a_transaction_that_the_broker_has_given_up_is_done_again,
    an_engine_whose_line_fails_for_longer_than_its_session_comes_back,
    a_coordinator_that_refuses_for_a_while_is_asked_again,
    an_engine_whose_producer_id_has_expired_goes_on_with_a_new_one,
    a_record_after_one_that_an_abort_has_thrown_away_is_not_taken_for_it,
}

fn rig(stem: &str, producer: &str) -> Rig {
    let (broker, proxy) = &*GROUND;
    let partitions = i32::try_from(PARTITIONS).unwrap();
    Rig::at(broker.bootstrap(), &format!("{stem}-{producer}"), partitions)
        .through(proxy.bootstrap())
        .with_short_sessions()
        .with(&format!("kafka.producer_client={producer}"))
}

fn proxy() -> &'static Proxy {
    &GROUND.1
}

/// A producer of its own, whose connections go through the proxy under this name.
fn producer_of(name: &str, client: ClientChoice) -> Box<dyn Producer> {
    let mut config = KafkaConfig { producer_client: client, ..KafkaConfig::new(proxy().bootstrap()) };
    config.producer.insert("client.id".to_owned(), name.to_owned());
    KafkaBroker::new(config).unwrap().producer(name).unwrap()
}

fn committed(engine: &Engine) -> u64 {
    engine.count("tidemill_committed_records_total")
}

/// Waits until an engine has committed more.
fn until_it_goes_on(engine: &mut Engine) {
    let before = committed(engine);
    engine.until_at_least("tidemill_committed_records_total", before + 50);
}

/// The load comes to its end, nothing is lost, and the process is the one that it was.
fn assert_survived(rig: &Rig, mut engine: Engine, requests: u64) -> String {
    engine.until_drained(PARTITIONS);
    assert_eq!(rig.audit().requests, requests);
    rig.until_committed();
    engine.signal("TERM");
    assert_eq!(engine.end().code(), Some(0), "it was the same process throughout");
    engine.log()
}

/// Either producer asks again by itself, and the engine does not even notice.
fn a_commit_whose_answer_is_lost_with_its_connection_is_found_out(producer: &str) {
    let (rig, name) = (rig("answer-cut", producer), &format!("cut-{producer}"));
    let mut engine = rig.engine(name);
    let load = rig.load(4_000, Some(100.0));
    engine.until_at_least("tidemill_committed_records_total", 100);
    for _ in 0..3 {
        proxy().play(name, END_TXN, 1, Trick::CutAnswer);
        until("the answer to be cut off", || (proxy().left(name) == 0).then_some(()));
        until_it_goes_on(&mut engine);
    }
    load.hurry();
    assert_survived(&rig, engine, 4_000);
}

/// The connection stays open and says nothing, and so does the next, on which it is asked again; the direct producer asks once more. Then the transaction is overdue: the engine makes a new producer, and finds the committed offsets where the
/// transaction would have left them.
fn a_commit_whose_answer_never_comes_is_found_out_by_a_new_producer(producer: &str) {
    let (rig, name) = (rig("answer-swallowed", producer), &format!("swallowed-{producer}"));
    let mut engine = rig.engine(name);
    let load = rig.load(4_000, Some(100.0));
    engine.until_at_least("tidemill_committed_records_total", 100);
    proxy().play(name, END_TXN, if producer == "direct" { 3 } else { 2 }, Trick::SwallowAnswer);
    until("the answers to be swallowed", || (proxy().left(name) == 0).then_some(()));
    engine.until_at_least("tidemill_producer_rebuilds_total", 1);
    until_it_goes_on(&mut engine);
    load.hurry();
    let log = assert_survived(&rig, engine, 4_000);
    assert!(log.contains("the transaction of unknown outcome was committed"), "{log}");
}

/// The process is held while its transaction is open, until the broker has given the transaction up.
fn a_transaction_that_the_broker_has_given_up_is_done_again(producer: &str) {
    let (rig, name) = (rig("given-up", producer), &format!("held-{producer}"));
    let mut engine = rig.engine(name);
    let load = rig.load(4_000, Some(100.0));
    engine.until_at_least("tidemill_committed_records_total", 100);
    proxy().play(name, TXN_OFFSET_COMMIT, 1, Trick::SwallowAnswer);
    until("the answer to be swallowed", || (proxy().left(name) == 0).then_some(()));
    engine.signal("STOP");
    // Over three seconds, the transaction's timeout; less than four, the session's, so that the partitions stay.
    thread::sleep(Duration::from_millis(3_700));
    engine.signal("CONT");
    engine.until_at_least("tidemill_producer_rebuilds_total", 1);
    until_it_goes_on(&mut engine);
    load.hurry();
    let log = assert_survived(&rig, engine, 4_000);
    assert!(log.contains("the transaction had outlived its timeout"), "{log}");
}

/// Its session and its transaction are over by the time its connections work again.
fn an_engine_whose_line_fails_for_longer_than_its_session_comes_back(producer: &str) {
    let (rig, name) = (rig("line", producer), &format!("line-{producer}"));
    let mut engine = rig.engine(name);
    let load = rig.load(10_000, Some(100.0));
    engine.until_at_least("tidemill_committed_records_total", 100);
    for line in [Line::Held, Line::Cut, Line::HalfOpen] {
        proxy().set(name, line);
        thread::sleep(Duration::from_secs(6));
        proxy().mend(name);
        until_it_goes_on(&mut engine);
    }
    load.hurry();
    assert_survived(&rig, engine, 10_000);
}

/// What coordinators say while they move, load, or still write the markers of the transaction before; and that they do not know the
/// producer. 14, 15, 16: a coordinator loads, is not available, has moved. 51: concurrent transactions. 49: an unknown producer id. The
/// direct producer does not announce offsets.
fn a_coordinator_that_refuses_for_a_while_is_asked_again(producer: &str) {
    let (rig, name) = (rig("refused", producer), &format!("refused-{producer}"));
    let mut engine = rig.engine(name);
    let load = rig.load(10_000, Some(100.0));
    engine.until_at_least("tidemill_committed_records_total", 100);
    for (kind, code, times) in [
        (ADD_OFFSETS_TO_TXN, 51, 5),
        (END_TXN, 51, 5),
        (ADD_OFFSETS_TO_TXN, 14, 3),
        (END_TXN, 14, 3),
        (END_TXN, 15, 3),
        (ADD_OFFSETS_TO_TXN, 16, 3),
        (END_TXN, 16, 3),
        (END_TXN, 49, 1),
    ] {
        if producer == "direct" && kind == ADD_OFFSETS_TO_TXN {
            continue;
        }
        proxy().play(name, kind, times, Trick::Refuse(code));
        let what = format!("{kind} to be refused with {code}");
        until(&what, || (proxy().left(name) == 0).then_some(()));
        until_it_goes_on(&mut engine);
    }
    load.hurry();
    assert_survived(&rig, engine, 10_000);
}

/// The broker has forgotten the transactional id of an engine that had nothing to do. The first transaction after that is aborted, or its
/// producer is made anew, and either takes a new producer id.
fn an_engine_whose_producer_id_has_expired_goes_on_with_a_new_one(producer: &str) {
    let rig = rig("expired", producer);
    let mut engine = rig.engine("idle");
    rig.load(200, None).finish();
    engine.until_drained(PARTITIONS);
    thread::sleep(EXPIRY + Duration::from_secs(3));
    assert_eq!(engine.count("tidemill_aborts_total"), 0);
    rig.load(400, None).finish();
    engine.until_at_least("tidemill_aborts_total", 1);
    let log = assert_survived(&rig, engine, 600);
    assert!(log.contains("INVALID_PRODUCER_ID_MAPPING"), "{log}");
}

/// Found by the campaign, on three nodes of which one was killed: a record that the broker has, and of which the client has not heard, is
/// thrown away by an abort. librdkafka gave its sequence number to the next record of the partition, the broker took that one for a
/// repetition, and both said that it was there.
fn a_record_after_one_that_an_abort_has_thrown_away_is_not_taken_for_it(producer: &str) {
    let rig = rig("thrown-away", producer);
    let name = &format!("thrown-away-{producer}");
    let mut producer = producer_of(name, client(producer));
    send_one(&mut *producer, &rig, "before");
    until("the first to be there", || producer.drain(Duration::from_millis(100)).unwrap().then_some(()));
    producer.commit().unwrap();

    proxy().play(name, PRODUCE, 1, Trick::SwallowAnswer);
    send_one(&mut *producer, &rig, "aborted");
    until("the answer to be swallowed", || {
        assert!(!producer.drain(Duration::from_millis(10)).unwrap());
        (proxy().left(name) == 0).then_some(())
    });
    let in_log = || seen(&rig, Isolation::ReadUncommitted).iter().any(|value| value == "aborted");
    until("the broker to have the record", || in_log().then_some(()));
    // The client hears that the connection is closed, and would send the record again if it could.
    proxy().set(name, Line::Cut);
    assert!(!producer.drain(Duration::from_secs(1)).unwrap());
    let mended = thread::spawn({
        let name = name.clone();
        move || {
            thread::sleep(Duration::from_secs(1));
            proxy().mend(&name);
        }
    });
    until("the abort", || match producer.abort() {
        Ok(()) => Some(()),
        Err(error) => {
            assert_eq!(error.class, Class::Retriable, "{error}");
            None
        }
    });
    mended.join().unwrap();

    send_one(&mut *producer, &rig, "after");
    until("the last to be there", || producer.drain(Duration::from_millis(100)).unwrap().then_some(()));
    producer.commit().unwrap();
    until("what was committed", || {
        let seen = seen(&rig, Isolation::ReadCommitted);
        (seen == ["before", "after"]).then_some(())
    });
}

/// A request to commit that is late, and arrives while the next transaction of the same producer is open, decides nothing: it is of an
/// epoch that is over (KIP-890).
#[test]
fn a_commit_that_arrives_late_decides_nothing() {
    let rig = rig("late", "direct");
    let mut producer = with_late_commit(&rig, "late-direct", ClientChoice::Direct);
    // 47 and 90: an epoch that is over, a producer that was shut out.
    let answers = proxy().deliver("late-direct");
    assert!(answers == [47] || answers == [90], "{answers:?}");
    assert_eq!(seen(&rig, Isolation::ReadCommitted), ["first"]);
    producer.abort().unwrap();
    send_one(&mut *producer, &rig, "third");
    until("the third to be there", || producer.drain(Duration::from_millis(100)).unwrap().then_some(()));
    producer.commit().unwrap();
    until("what was committed", || {
        (seen(&rig, Isolation::ReadCommitted) == ["first", "third"]).then_some(())
    });
}

/// What the direct producer is for (KAFKA-17754): with transactions of version 1 the same request decides the transaction that it meets.
#[test]
fn with_the_library_a_commit_that_arrives_late_commits_the_next_transaction() {
    let rig = rig("late", "librdkafka");
    let producer = with_late_commit(&rig, "late-librdkafka", ClientChoice::Librdkafka);
    assert_eq!(proxy().deliver("late-librdkafka"), [0]);
    until("what nobody has committed", || {
        (seen(&rig, Isolation::ReadCommitted) == ["first", "second"]).then_some(())
    });
    drop(producer);
}

/// A producer whose first transaction is committed by the second request for that, because the first is late, and whose second is open.
fn with_late_commit(rig: &Rig, name: &str, client: ClientChoice) -> Box<dyn Producer> {
    let mut producer = producer_of(name, client);
    send_one(&mut *producer, rig, "first");
    until("the first to be there", || producer.drain(Duration::from_millis(100)).unwrap().then_some(()));
    proxy().play(name, END_TXN, 1, Trick::Delay);
    producer.commit().unwrap();
    assert_eq!(proxy().left(name), 0);
    until("the first to be seen", || (seen(rig, Isolation::ReadCommitted) == ["first"]).then_some(()));
    send_one(&mut *producer, rig, "second");
    until("the second to be there", || producer.drain(Duration::from_millis(100)).unwrap().then_some(()));
    producer
}

fn client(producer: &str) -> ClientChoice {
    if producer == "direct" { ClientChoice::Direct } else { ClientChoice::Librdkafka }
}

/// Begins a transaction with one result.
fn send_one(producer: &mut dyn Producer, rig: &Rig, value: &str) {
    producer.begin().unwrap();
    let mut record = Records::default();
    record.push(None, Some(value.as_bytes()));
    producer.send(&rig.results(), Some(0), record.get(0)).unwrap();
}

fn seen(rig: &Rig, isolation: Isolation) -> Vec<String> {
    let mut values = Vec::new();
    let mut keep = |found: operators::broker::LogRecord<'_>| {
        values.push(String::from_utf8(found.record.value().unwrap_or_default().to_vec()).unwrap());
    };
    rig.broker.read(&rig.results(), Partition(0), isolation, &mut keep).unwrap();
    values
}
