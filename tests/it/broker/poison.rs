//! A row that a model can't take, in a batch of rows that it can.

use std::path::Path;

use operators::broker::{Broker, Writer};
use operators::records::Records;

use super::rig::Rig;
use super::wait::PATIENCE;

const POISONED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/gather-poison.onnx");

/// The last of the four numbers is an index into a small table: 99 lies outside.
fn send(writer: &mut dyn Writer, topic: &str, number: u64, index: u32) {
    let mut record = Records::default();
    let value = format!(
        "{{\"request_id\":\"r{number}\",\"tenant_id\":\"t\",\"model_id\":\"gather-poison\",\"input\":[1,2,3,{index}]}}"
    );
    record.push(Some(b"t|gather-poison"), Some(value.as_bytes()));
    record.push_header(b"model_id", Some(b"gather-poison"));
    writer.write(topic, None, None, record.get(0), number).unwrap();
}

#[test]
fn one_poison_row_is_one_dead_letter_and_its_batch_goes_on() {
    let models = tempfile::tempdir().unwrap();
    std::fs::copy(Path::new(POISONED), models.path().join("gather-poison.onnx")).unwrap();
    let rig = Rig::new("poison", 1).serving(models.path().to_owned());
    let mut writer = rig.broker.writer().unwrap();
    // Before the engine starts, so that batches are full.
    for number in 0..256 {
        send(&mut *writer, &rig.requests(), number, if number == 100 { 99 } else { 2 });
    }
    assert!(writer.flush(PATIENCE));
    let mut engine = rig.engine("one");
    engine.until_at_least("tidemill_committed_records_total", 256);
    engine.until_drained(1);
    let report = rig.audit();
    assert_eq!((report.requests, report.results, report.dead_letters), (256, 255, 1), "{report}");
    assert_eq!(report.dead_letters_by_reason["inference_failed"], 1);
    let (_, page) = engine.page("/metrics").unwrap();
    let largest = "tidemill_batch_records_count{model=\"gather-poison\",close_reason=\"full\"} 4";
    assert!(page.contains(largest), "the row was in a batch with others: {page}");
}
