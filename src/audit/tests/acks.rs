//! What was acknowledged must be there, or have had its outcome.

use super::*;

/// The acknowledgement log of every request.
fn ack_log(world: &World) -> tempfile::NamedTempFile {
    let mut log = tempfile::NamedTempFile::new().unwrap();
    for place in world.places("requests") {
        let request_id = Names::of(world.get("requests", place).records().get(0)).request_id;
        let line = serde_json::json!({
            "topic": "requests", "partition": place.0, "offset": place.1, "request_id": request_id,
        });
        writeln!(log, "{line}").unwrap();
    }
    log
}

#[test]
fn a_request_deleted_from_the_topic_is_lost_only_if_it_had_no_outcome() {
    let mut world = World::of(load());
    let log = ack_log(&world);
    let audited = AuditOptions { ack_log: Some(log.path().to_owned()), ..options() };
    world.delete_before(1, 30);
    let report = run(&world, &audited);
    assert_eq!((faults(&report), report.requests, report.outside), ([0; 5], 370, 30));
    let result = world.places("results").into_iter().find(|place| {
        let (partition, offset) = place_of_result(&world.get("results", *place));
        partition == 1 && offset < 30
    });
    world.remove("results", result.unwrap());
    assert_eq!(faults(&run(&world, &audited)), [1, 0, 0, 0, 0]);
    assert_eq!(faults(&run(&world, &options())), [0; 5], "nobody knows of it without that log");
    let from_partition = BTreeMap::from([(Partition(1), Offset(30))]);
    assert_eq!(faults(&run(&world, &AuditOptions { from_partition, ..audited })), [0; 5]);
}

#[test]
fn an_acknowledged_request_that_is_not_in_the_topic_is_found() {
    let world = World::of(load());
    let mut log = ack_log(&world);
    let audited = AuditOptions { ack_log: Some(log.path().to_owned()), ..options() };
    let report = run(&world, &audited);
    assert_eq!((faults(&report), report.acknowledged), ([0; 5], Some(400)));

    // The broker had it already when it came again, and does not say again where.
    let first = world.get("requests", (0, 0));
    let id = Names::read(first.value.as_deref().unwrap_or_default()).request_id;
    let line = serde_json::json!({ "topic": "requests", "partition": 0, "offset": null, "request_id": id });
    writeln!(log, "{line}").unwrap();
    let report = run(&world, &audited);
    assert_eq!((faults(&report), report.acknowledged), ([0; 5], Some(401)));
    writeln!(log, r#"{{"topic":"requests","partition":0,"offset":null,"request_id":"nowhere"}}"#).unwrap();
    let report = run(&world, &audited);
    assert_eq!((faults(&report), report.acknowledged), ([0, 0, 0, 0, 1], Some(402)));

    writeln!(log, r#"{{"topic":"requests","partition":1,"offset":100,"request_id":"gone"}}"#).unwrap();
    writeln!(log, r#"{{"topic":"requests","partition":0,"offset":0,"request_id":"another"}}"#).unwrap();
    write!(log, r#"{{"topic":"requests","parti"#).unwrap();
    let report = run(&world, &audited);
    assert_eq!((faults(&report), report.acknowledged), ([0, 0, 0, 0, 3], Some(404)));
    assert!(!report.clean());

    writeln!(log, "tion").unwrap();
    let error = audit(&world, &audited, &mut oracle(), &mut Unwatched).unwrap_err();
    assert!(error.to_string().contains("line 405"), "{error}");
}
