//! Records that take the process down with them, or never come back.

use std::path::Path;

use operators::broker::{Broker, Writer};
use operators::dead_letter::Reason;
use operators::journal;
use operators::records::Records;

use super::rig::Rig;
use super::wait::{PATIENCE, until};

const ROUNDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/rounds.onnx");
const REQUESTS: u64 = 200;
/// The one of which the model does more rounds than anybody waits for.
const KILLER: u64 = 77;

fn send(writer: &mut dyn Writer, topic: &str, number: u64) {
    let mut record = Records::default();
    let rounds = if number == KILLER { "1e12" } else { "1" };
    let value = format!(
        "{{\"request_id\":\"r{number}\",\"tenant_id\":\"t\",\"model_id\":\"rounds\",\"input\":[{rounds},2,3,{number}]}}"
    );
    record.push(Some(b"t|rounds"), Some(value.as_bytes()));
    record.push_header(b"model_id", Some(b"rounds"));
    writer.write(topic, Some(0), None, record.get(0), number).unwrap();
}

/// A topic with the requests in one partition, so that their numbers are their offsets.
fn rig(stem: &str) -> (Rig, tempfile::TempDir) {
    let models = tempfile::tempdir().unwrap();
    std::fs::copy(Path::new(ROUNDS), models.path().join("rounds.onnx")).unwrap();
    let rig = Rig::new(stem, 1).with_short_sessions().serving(models.path().to_owned());
    let mut writer = rig.broker.writer().unwrap();
    (0..REQUESTS).for_each(|number| send(&mut *writer, &rig.requests(), number));
    assert!(writer.flush(PATIENCE));
    (rig, models)
}

#[test]
fn a_record_in_whose_inference_the_process_dies_three_times_is_a_dead_letter_and_no_other_is() {
    let (rig, _models) = rig("killer");
    let rig = rig.with("onnx.run_max=off");
    let folder = rig.journal().join(rig.group()).join(rig.requests());
    for crash in 1..=3 {
        let engine = rig.engine("one");
        let in_flight = until("the killer to be in the model", || {
            let names = journal::in_flight(&folder).ok()?;
            names.iter().any(|name| name.offset.0 == KILLER.cast_signed()).then_some(names)
        });
        if crash == 3 {
            assert_eq!(in_flight.len(), 1, "it runs alone: {in_flight:?}");
        }
        engine.kill();
    }
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    let report = rig.audit_trusting(Reason::Crashed);
    assert_eq!(
        (report.requests, report.results, report.dead_letters),
        (REQUESTS, REQUESTS - 1, 1),
        "{report}"
    );
    assert_eq!(report.dead_letters_by_reason["crashed"], 1);
}

#[test]
fn a_run_that_never_returns_is_cancelled_and_its_row_alone_is_a_dead_letter() {
    let (rig, _models) = rig("straggling");
    let rig = rig.with("onnx.run_max=1s");
    let mut engine = rig.engine("one");
    engine.until_drained(1);
    let report = rig.audit_trusting(Reason::DeadlineExceeded);
    assert_eq!(
        (report.requests, report.results, report.dead_letters),
        (REQUESTS, REQUESTS - 1, 1),
        "{report}"
    );
    assert_eq!(report.dead_letters_by_reason["deadline_exceeded"], 1);
    assert!(engine.count("tidemill_runs_cancelled_total") >= 2);
    assert_eq!(engine.count("tidemill_executors_replaced_total"), 0);
}
