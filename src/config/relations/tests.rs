//! Settings that contradict each other, and settings that don't.

use operators::dead_letter::Letterhead;
use proptest::prelude::*;

use super::*;
use crate::config::{Machine, Sources, load};

/// The contradictions of the defaults with these assignments over them.
fn contradicting(sets: &[String]) -> Vec<(String, String)> {
    let sources = Sources {
        sets: sets.to_vec(),
        machine: Machine { host: Some("h".into()), cores: 2, ..Machine::default() },
        ..Sources::default()
    };
    let config = load(&sources).map(|loaded| loaded.config);
    // A faulty configuration is not given out; take it from before its relations were compared.
    let config = config.unwrap_or_else(|_| crate::config::without_relations(&sources));
    contradictions(&config).into_iter().map(|found| (found.left, found.right)).collect()
}

fn pair(left: &str, right: &str) -> (String, String) {
    (left.to_owned(), right.to_owned())
}

#[test]
fn the_defaults_do_not_contradict_each_other() {
    assert_eq!(contradicting(&[]), []);
}

#[test]
fn two_topics_of_one_name_contradict_each_other() {
    let found = contradicting(&["topics.results=inference.dlq".to_owned()]);
    assert_eq!(found, [pair("topics.results.name", "topics.dlq.name")]);
}

#[test]
fn a_group_that_the_broker_coordinates_has_no_static_members_and_no_heartbeats_of_ours() {
    let with = |sets: &[&str]| {
        let protocol = ["kafka.group_protocol=consumer"].iter().chain(sets);
        contradicting(&protocol.map(|set| (*set).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(with(&[]), []);
    let contradiction = pair("kafka.static_membership", "kafka.group_protocol");
    assert_eq!(with(&["kafka.static_membership=true"]), [contradiction]);
    let contradiction = pair("kafka.consumer.heartbeat.interval.ms", "kafka.group_protocol");
    assert_eq!(with(&["kafka.consumer.heartbeat.interval.ms=500"]), [contradiction]);
    assert_eq!(contradicting(&["kafka.static_membership=true".to_owned()]), []);
}

#[test]
fn a_gpu_can_be_required_only_where_one_is_listed() {
    let required = "onnx.require_gpu=true".to_owned();
    assert_eq!(contradicting(std::slice::from_ref(&required)), [pair("onnx.require_gpu", "onnx.providers")]);
    assert_eq!(contradicting(&[required, "onnx.providers=[\"cuda\", \"cpu\"]".to_owned()]), []);
}

#[test]
fn a_burst_is_of_a_rate() {
    let set = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    let of = |id: &str| pair(&format!("tenants.{id}.burst"), &format!("tenants.{id}.rate_max"));
    assert_eq!(set(&["tenants.acme.burst=5"]), [of("acme")]);
    assert_eq!(set(&["tenants.acme.burst=5", "tenants.acme.rate_max=1"]), []);
    assert_eq!(set(&["tenants.acme.burst=5", "tenants.default.rate_max=1"]), []);
    assert_eq!(set(&["tenants.default.burst=5"]), [of("default")]);
    // Where all have a burst, one of them may well have no rate.
    let one = ["tenants.default.rate_max=9", "tenants.default.burst=5", "tenants.acme.rate_max=off"];
    assert_eq!(set(&one), []);
    assert_eq!(set(&[one[0], one[1], one[2], "tenants.acme.burst=7"]), [of("acme")]);
}

#[test]
fn each_device_has_a_home_and_each_model_a_device() {
    let set = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    let two = ["onnx.devices=[0, 3]", "workers=2"];
    assert_eq!(set(&two), []);
    assert_eq!(set(&[two[0], "workers=1"]), [pair("onnx.devices", "workers")]);
    assert_eq!(set(&["onnx.devices=[]"]), [pair("onnx.devices", "onnx.executors")]);
    assert_eq!(set(&["onnx.devices=[1, 1]", two[1]]), [pair("onnx.devices", "onnx.executors")]);
    assert_eq!(set(&[two[0], two[1], "models.m.devices=[3]"]), []);
    for wrong in ["models.m.devices=[1]", "models.m.devices=[]"] {
        assert_eq!(set(&[two[0], two[1], wrong]), [pair("models.m.devices", "onnx.devices")], "{wrong}");
    }
}

#[test]
fn a_batch_that_is_set_fits_both_output_topics() {
    let set = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    let (batch, results) =
        ("kafka.producer.batch.size=50001", "topics.results.config.max.message.bytes=50000");
    let contradiction = pair("kafka.producer.batch.size", "topics.results.config.max.message.bytes");
    assert_eq!(set(&[batch, results]), [contradiction]);
    assert_eq!(set(&["kafka.producer.batch.size=50000", results]), []);
    assert_eq!(set(&[results]), []);
    let small = "records.bytes_max=10000";
    let letters = "topics.dlq.config.max.message.bytes=30000";
    let contradiction = pair("kafka.producer.batch.size", "topics.dlq.config.max.message.bytes");
    assert_eq!(set(&[batch, small, letters]), [contradiction]);
    // The smaller of the producer's two bounds is the one that counts.
    assert_eq!(set(&[batch, small, letters, "kafka.producer.message.max.bytes=30000"]), []);
}

#[test]
fn a_dead_letter_topic_holds_the_smallest_letter_however_small_requests_are() {
    let found = contradicting(&[
        "records.bytes_max=1".to_owned(),
        format!("topics.dlq.config.max.message.bytes={}", Letterhead::BYTES_MIN - 1),
    ]);
    assert_eq!(found, [pair("records.bytes_max", "topics.dlq.config.max.message.bytes")]);
}

#[test]
fn half_precision_is_for_tensorrt() {
    let half = "onnx.fp16=true".to_owned();
    assert_eq!(contradicting(std::slice::from_ref(&half)), [pair("onnx.fp16", "onnx.providers")]);
    assert_eq!(contradicting(&[half, "models.m.providers=[\"tensorrt\"]".to_owned()]), []);
}

#[test]
fn an_objective_and_a_wait_contradict_each_other_where_they_are_of_the_same_models() {
    let set = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    let both = pair("batch.delay_max", "batch.slo");
    assert_eq!(set(&["batch.slo=80ms", "batch.delay_max=5ms"]), [both]);
    let own = pair("models.m.batch.delay_max", "models.m.batch.slo");
    assert_eq!(set(&["models.m.batch.slo=80ms", "models.m.batch.delay_max=5ms"]), [own]);
    for agree in [
        ["batch.slo=80ms", "batch.size_max=32"],
        ["batch.slo=80ms", "models.m.batch.delay_max=5ms"],
        ["batch.delay_max=5ms", "models.m.batch.slo=80ms"],
    ] {
        assert_eq!(set(&agree), []);
    }
}

#[test]
fn an_objective_is_reached_before_a_deadline_ends_what_is_still_in_time() {
    let set = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    assert_eq!(set(&["batch.slo=80ms", "records.deadline=80ms"]), []);
    let late = pair("batch.slo", "records.deadline");
    assert_eq!(set(&["batch.slo=81ms", "records.deadline=80ms"]), [late]);
    let late = pair("models.m.batch.slo", "models.m.deadline");
    assert_eq!(set(&["models.m.batch.slo=81ms", "models.m.deadline=80ms"]), [late]);
    assert_eq!(set(&["tenants.acme.wait_max=5m"]), []);
    assert_eq!(
        set(&["tenants.acme.wait_max=5m", "tenants.default.rate_max=9"]),
        [pair("tenants.acme.wait_max", "outcome.deadline")]
    );
    assert_eq!(set(&["batch.slo=5m"]), [pair("batch.slo", "outcome.deadline")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_transaction_lives_twice_the_commit_interval_and_less_than_a_session(
        interval in 1u64..100_000, transaction in 1u64..100_000, session in 1u64..100_000,
    ) {
        let found = contradicting(&[
            format!("commit.interval={interval}ms"),
            format!("kafka.transaction_timeout={transaction}ms"),
            format!("kafka.session_timeout={session}ms"),
            "stop.drain_timeout=200s".to_owned(),
        ]);
        let mut expected = Vec::new();
        if interval * 1000 >= transaction * 500 {
            expected.push(pair("commit.interval", "kafka.transaction_timeout"));
        }
        if transaction >= session {
            expected.push(pair("kafka.transaction_timeout", "kafka.session_timeout"));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_batch_fits_into_what_is_in_flight(global in 1usize..500, own in 1usize..500, in_flight in 1usize..500) {
        let found = contradicting(&[
            format!("batch.size_max={global}"),
            format!("models.m.batch.size_max={own}"),
            format!("in_flight.records_max={in_flight}"),
            "commit.records_max=1".to_owned(),
        ]);
        let mut expected = Vec::new();
        if own > in_flight {
            expected.push(pair("models.m.batch.size_max", "in_flight.records_max"));
        }
        if global > in_flight {
            expected.push(pair("batch.size_max", "in_flight.records_max"));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_largest_request_fits_everything_that_has_to_hold_it(
        record in 1usize..4_000_000, message in 20_000usize..4_000_000, commit in 1usize..4_000_000, letter in 20_000usize..4_000_000,
    ) {
        let found = contradicting(&[
            format!("records.bytes_max={record}"),
            format!("kafka.producer.message.max.bytes={message}"),
            format!("commit.bytes_max={commit}"),
            format!("topics.dlq.config.max.message.bytes={letter}"),
        ]);
        let fits = record + 16_384 <= message && record <= commit && record + 16_384 <= letter;
        prop_assert_eq!(found.is_empty(), fits);
    }
}

#[test]
fn a_pace_that_the_watchdog_would_take_for_a_hang_is_refused() {
    let with = |sets: &[&str]| contradicting(&sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    assert_eq!(with(&["onnx.pace.fixed=2ms", "onnx.pace.row=500us"]), []);
    assert_eq!(with(&["onnx.pace.fixed=60s"]), [pair("onnx.pace.fixed", "onnx.run_max")]);
    assert_eq!(with(&["onnx.pace.row=1s"]), [pair("onnx.pace.row", "onnx.run_max")]);
    assert_eq!(with(&["onnx.pace.row=1s", "batch.size_max=8"]), []);
}
