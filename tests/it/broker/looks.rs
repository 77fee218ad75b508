//! What a running engine tells about itself.

use operators::broker::{Broker, Producer};
use operators::records::Records;

use super::rig::Rig;
use super::wait::{PATIENCE, until};

#[test]
fn a_working_engine_is_ready_and_has_every_family_of_metrics() {
    let rig = Rig::new("looked-at", 4);
    let mut engine = rig.engine("one");
    rig.load(2_000, None).finish();
    engine.until_drained(4);
    assert_eq!(engine.page("/health/ready"), Some((200, "ready\n".to_owned())));
    assert_eq!(engine.page("/health/live"), Some((200, "live\n".to_owned())));
    let (_, page) = engine.page("/metrics").unwrap();
    for series in [
        "tidemill_lag_records{partition=\"3\"} 0",
        "tidemill_lag_seconds{partition=\"3\"} 0",
        "tidemill_frontier_offset{partition=\"3\"} ",
        "tidemill_committed_offset{partition=\"3\"} ",
        "tidemill_in_flight_records{partition=\"3\"} 0",
        "tidemill_model_records_total{model=\"mlp-16\"} ",
        "tidemill_model_calls_total{model=\"mlp-16\"} ",
        "tidemill_batch_records_bucket{le=\"64.0\",model=\"mlp-16\",close_reason=\"deadline\"} ",
        "tidemill_batch_records_count{model=\"mlp-16\",close_reason=\"full\"} ",
        "tidemill_queued_records{model=\"mlp-16\",device=\"0\"} 0",
        "tidemill_queue_seconds_count{model=\"mlp-16\"} ",
        "tidemill_inference_seconds_count{model=\"mlp-16\"} ",
        "tidemill_latency_seconds_count{model=\"mlp-16\"} ",
        "tidemill_dead_letters_total{model=\"\",reason=\"unknown_model\",stage=\"route\"} 1",
        "tidemill_polled_records_total 2000",
        "tidemill_commits_total ",
        "tidemill_committed_records_total 2000",
        "tidemill_commit_seconds_count ",
        "tidemill_aborts_total 0",
        "tidemill_epoch_lag_ticks{worker=\"1\"} ",
        "tidemill_ready 1",
        "tidemill_process_cpu_seconds_total ",
        "tidemill_process_resident_bytes ",
    ] {
        assert!(page.contains(&format!("\n{series}")), "{series} in {page}");
    }
    assert_eq!(rig.audit().requests, 2_000);
}

/// Hands `requests` good requests over for `partition`, in a transaction that is open then.
fn begin(rig: &Rig, producer: &mut dyn Producer, partition: i32, requests: usize) {
    producer.begin().unwrap();
    for number in 0..requests {
        let mut record = Records::default();
        let row = "0.5,".repeat(15) + "0.5";
        let value = format!(
            "{{\"request_id\":\"p{partition}-{number}\",\"tenant_id\":\"t\",\"model_id\":\"mlp-16\",\"input\":[{row}]}}"
        );
        record.push(Some(b"t|mlp-16"), Some(value.as_bytes()));
        record.push_header(b"model_id", Some(b"mlp-16"));
        producer.send(&rig.requests(), Some(partition), record.get(0)).unwrap();
    }
    assert!(producer.drain(PATIENCE).unwrap());
}

#[test]
fn lag_reaches_zero_where_a_partition_ends_in_an_aborted_transaction() {
    let rig = Rig::new("aborted", 4);
    let mut producer = rig.broker.producer(&format!("{}.requests", rig.group())).unwrap();
    // Partition 0 ends in a commit's control record; 1 holds only what was aborted; 2 ends so; 3 is empty.
    begin(&rig, &mut *producer, 0, 10);
    producer.commit().unwrap();
    begin(&rig, &mut *producer, 1, 10);
    producer.abort().unwrap();
    begin(&rig, &mut *producer, 2, 10);
    producer.commit().unwrap();
    begin(&rig, &mut *producer, 2, 10);
    producer.abort().unwrap();

    let mut engine = rig.engine("one");
    engine.until_drained(4);
    until("the readiness", || (engine.page("/health/ready")?.0 == 200).then_some(()));
    // The same while it reads.
    for partition in 0..4 {
        begin(&rig, &mut *producer, partition, 5);
        producer.abort().unwrap();
        begin(&rig, &mut *producer, partition, 5);
        producer.commit().unwrap();
        begin(&rig, &mut *producer, partition, 5);
        producer.abort().unwrap();
    }
    engine.until_at_least("tidemill_committed_records_total", 40);
    engine.until_drained(4);
    let report = rig.audit();
    assert_eq!((report.requests, report.results), (40, 40), "{report}");
}
