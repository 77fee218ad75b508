//! What can be served is sent, what cannot is refused, and every acknowledgement is on the account.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use operators::broker::{Acknowledgement, Class, Writer};
use operators::lease::{Offset, Partition};
use operators::records::RecordView;
use proptest::prelude::*;

use super::*;
use crate::load::{BAD_KINDS, BadKind, LoadOptions};

/// Takes every record below a size, and acknowledges it when asked, in partitions by turns.
#[derive(Clone, Default)]
struct FakeWriter {
    records: Arc<Mutex<Records>>,
    pending: Vec<Acknowledgement>,
    /// Refuses records of more bytes; 0 for none.
    bytes_max: usize,
    /// Breaks at the record with this tag.
    broken_at: Option<u64>,
    /// Never acknowledges this one.
    silent_at: Option<u64>,
}

fn error(class: Class) -> BrokerError {
    BrokerError { class, operation: "write", code: "TEST".into(), message: "made for a test".into() }
}

impl Writer for FakeWriter {
    fn write(
        &mut self,
        _topic: &str,
        _partition: Option<i32>,
        _timestamp_millis: Option<i64>,
        record: RecordView<'_>,
        tag: u64,
    ) -> Result<(), BrokerError> {
        if self.broken_at == Some(tag) {
            return Err(error(Class::Fatal));
        }
        if self.bytes_max > 0 && record.payload_bytes() > self.bytes_max {
            return Err(error(Class::TooLarge));
        }
        let mut records = self.records.lock().unwrap();
        records.push(record.key(), record.value());
        for (name, value) in record.headers() {
            records.push_header(name, value);
        }
        if self.silent_at != Some(tag) {
            let place = i64::try_from(tag).unwrap();
            self.pending
                .push((tag, Ok((Partition(i32::try_from(tag % 4).unwrap()), Some(Offset(place / 4))))));
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Vec<Acknowledgement> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.reverse();
        pending
    }

    fn flush(&mut self, _wait: Duration) -> bool {
        self.silent_at.is_none()
    }
}

#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn load(bad: f64, bad_kinds: Vec<BadKind>) -> Load {
    let models = vec!["mlp-16:16".parse().unwrap()];
    let oversized_bytes = 20_000;
    Load::new(LoadOptions {
        requests: 230,
        models,
        bad,
        bad_kinds,
        oversized_bytes,
        ..LoadOptions::default()
    })
    .unwrap()
}

fn validator() -> Validator {
    Validator { record_bytes_max: 10_000, row_lens: [("mlp-16".to_owned(), 16)].into() }
}

const LINE: &str = r#"{"request_id":"r1","tenant_id":"t1","model_id":"mlp-16","input":[1]}"#;

fn refusal(line: &str) -> Refusal {
    let mut records = Records::default();
    let validator = Validator { record_bytes_max: 200, ..Validator::default() };
    let refusal = validator.push_line(line.as_bytes(), &mut records).unwrap_err();
    assert!(records.is_empty(), "a refused line leaves nothing behind");
    refusal
}

#[test]
fn a_refusal_names_the_field() {
    for (from, to, field) in [
        (r#""request_id":"r1","#, "", "`request_id`"),
        (r#""tenant_id":"t1","#, "", "`tenant_id`"),
        (r#""model_id":"mlp-16","#, "", "`model_id`"),
        ("mlp-16", "../mlp-16", "`model_id`"),
        ("mlp-16", "", "`model_id`"),
        (r#""r1""#, r#""""#, "`request_id`"),
        (r#""t1""#, r#""""#, "`tenant_id`"),
        ("[1]", "[1e39]", "`input`"),
        ("[1]", r#"[1],"enqueued_at":"noon""#, "`enqueued_at`"),
        ("[1]}", "[1]", "EOF"),
    ] {
        let refusal = refusal(&LINE.replace(from, to)).to_string();
        assert!(refusal.contains(field), "{from} -> {to}: {refusal}");
    }
    let long = LINE.replace("[1]", &format!("[{}1]", "1,".repeat(100)));
    assert!(matches!(refusal(&long), Refusal::TooLarge { bytes_max: 200, .. }));
}

#[test]
fn a_record_that_disagrees_with_its_header_or_key_is_refused() {
    let check = |key: &[u8], header: Option<&[u8]>| {
        let mut records = Records::default();
        records.push(Some(key), Some(LINE.as_bytes()));
        records.push_header(b"model_id", header);
        Validator::default().check(records.get(0)).map(|request| request.request_id)
    };
    assert_eq!(check(b"t1|mlp-16", Some(b"mlp-16")), Ok("r1".to_owned()));
    assert_eq!(check(b"t1|mlp-16", Some(b"")), Err(Refusal::EmptyHeader));
    assert_eq!(check(b"t1|mlp-16", None), Err(Refusal::EmptyHeader));
    assert_eq!(check(b"mlp-16|t1", Some(b"mlp-16")), Err(Refusal::Key("t1|mlp-16".to_owned())));
    assert!(matches!(check(b"t1|mlp-16", Some(b"mlp-17")), Err(Refusal::Mismatch { .. })));
}

#[test]
fn every_kind_of_bad_request_is_refused() {
    for kind in BAD_KINDS {
        for generated in load(1.0, vec![kind]).take(20) {
            assert!(validator().check(generated.record()).is_err(), "{kind:?}");
        }
    }
}

#[test]
fn lines_with_faults_are_reported_and_the_others_sent() {
    let writer = FakeWriter::default();
    let mut sender = Sender::new(Box::new(writer.clone()), "requests", None);
    let input = format!("{LINE}\n\n{{}}\n{LINE}\n{}\n{LINE}", "x".repeat(300));
    let validator = Validator { record_bytes_max: 200, ..Validator::default() };
    send_lines(input.as_bytes(), &validator, Schedule::at_once(), &mut sender, &mut Unwatched).unwrap();
    sender.finish(Duration::ZERO).unwrap();
    let tally = sender.tally();
    assert_eq!((tally.sent, tally.acknowledged, tally.refused), (3, 3, 2));
    assert!(tally.complaints[0].starts_with("line 3: "), "{:?}", tally.complaints);
    assert!(tally.complaints[1].starts_with("line 5: "), "{:?}", tally.complaints);
    assert!(!tally.complete());
    assert_eq!(writer.records.lock().unwrap().get(2).value(), Some(LINE.as_bytes()));
}

#[test]
fn every_acknowledgement_is_logged_with_its_request() {
    let (writer, log) = (FakeWriter::default(), Log::default());
    let mut sender = Sender::new(Box::new(writer), "requests", Some(Box::new(log.clone())));
    send_load(load(0.0, Vec::new()), Some(&validator()), Schedule::at_once(), &mut sender, &mut Unwatched)
        .unwrap();
    sender.finish(Duration::ZERO).unwrap();
    assert!(sender.tally().complete());
    let text = String::from_utf8(log.0.borrow().clone()).unwrap();
    let mut logged: Vec<(i64, String)> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["topic"], "requests");
            let place = line["offset"].as_i64().unwrap() * 4 + line["partition"].as_i64().unwrap();
            (place, line["request_id"].as_str().unwrap().to_owned())
        })
        .collect();
    logged.sort();
    let expected: Vec<(i64, String)> = (0..230).map(|index| (index, format!("r1-{index}"))).collect();
    assert_eq!(logged, expected);
}

#[test]
fn without_a_validator_bad_requests_are_sent_as_they_are() {
    let writer = FakeWriter::default();
    let mut sender = Sender::new(Box::new(writer.clone()), "requests", None);
    let kinds = BAD_KINDS.to_vec();
    send_load(load(1.0, kinds.clone()), None, Schedule::at_once(), &mut sender, &mut Unwatched).unwrap();
    let records = writer.records.lock().unwrap();
    assert_eq!(records.len(), 230);
    for (sent, generated) in records.iter().zip(load(1.0, kinds)) {
        let made = generated.record();
        assert_eq!((sent.key(), sent.value()), (made.key(), made.value()));
        assert!(sent.headers().eq(made.headers()));
    }
}

#[test]
fn a_record_that_is_too_large_for_the_broker_does_not_stop_the_others() {
    let writer = FakeWriter { bytes_max: 10_000, ..FakeWriter::default() };
    let mut sender = Sender::new(Box::new(writer), "requests", None);
    let load = load(0.1, vec![BadKind::Oversized]);
    send_load(load, None, Schedule::at_once(), &mut sender, &mut Unwatched).unwrap();
    sender.finish(Duration::ZERO).unwrap();
    let tally = sender.tally();
    assert_eq!((tally.sent, tally.acknowledged, tally.failed), (230, 207, 23));
    assert!(!tally.complete());
}

#[test]
fn a_broken_broker_stops_the_producer() {
    let writer = FakeWriter { broken_at: Some(7), ..FakeWriter::default() };
    let mut sender = Sender::new(Box::new(writer), "requests", None);
    let load = load(0.0, Vec::new());
    let error = send_load(load, None, Schedule::at_once(), &mut sender, &mut Unwatched).unwrap_err();
    assert!(matches!(error, ProduceError::Broker(_)));
    assert_eq!((sender.tally().sent, sender.tally().failed), (8, 1));
}

#[test]
fn a_record_without_acknowledgement_is_reported() {
    let writer = FakeWriter { silent_at: Some(3), ..FakeWriter::default() };
    let mut sender = Sender::new(Box::new(writer), "requests", None);
    send_load(load(0.0, Vec::new()), None, Schedule::at_once(), &mut sender, &mut Unwatched).unwrap();
    sender.finish(Duration::ZERO).unwrap();
    assert_eq!(sender.tally().unacknowledged(), 1);
    assert!(!sender.tally().complete());
    assert!(sender.tally().complaints[0].contains("1 records"));
}

struct Waits(Vec<Duration>);

impl Watcher for Waits {
    fn wait_until(&mut self, due: Duration) -> bool {
        self.0.push(due);
        true
    }
}

#[test]
fn each_request_waits_until_it_is_due() {
    let mut waits = Waits(Vec::new());
    let mut sender = Sender::new(Box::new(FakeWriter::default()), "requests", None);
    let schedule = Schedule::at_rate(10.0).unwrap();
    send_load(load(0.0, Vec::new()), None, schedule, &mut sender, &mut waits).unwrap();
    assert_eq!(waits.0.len(), 230);
    assert_eq!(waits.0[15], Duration::from_millis(1_500));
    assert_eq!(sender.tally().acknowledged, 229, "what waits for its turn is collected before it is sent");
}

proptest! {
    #[test]
    fn nothing_that_is_not_a_request_passes(line: Vec<u8>) {
        let mut records = Records::default();
        prop_assert!(Validator::default().push_line(&line, &mut records).is_err());
        prop_assert!(records.is_empty());
    }
}
