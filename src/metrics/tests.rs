//! What is told becomes what is shown.

use operators::clock::ManualClock;
use operators::observe::RowSeen;

use super::*;

fn metrics() -> Metrics {
    let metrics = Metrics::new(Arc::new(ManualClock::new()), Arc::new(Health::new()));
    let listing = |id: &str| Listing::Unavailable { id: id.to_owned(), reason: String::new() };
    metrics.serve(&Catalog::new(vec![listing("a"), listing("b")]));
    metrics
}

fn batch(metrics: &Metrics, model: u32, total: &[Duration]) {
    let row = |total: &Duration| RowSeen { tenant: "acme", queue: *total, total: *total };
    let rows: Vec<_> = total.iter().map(row).collect();
    metrics.batch(&BatchSeen {
        model: ModelIndex(model),
        id: ["a", "b"][model as usize],
        closed: CloseReason::Full,
        calls: 1,
        padded: 3,
        inference: Duration::from_millis(3),
        took: Duration::from_millis(4),
        handoff: Some(Duration::from_micros(300)),
        rows: &rows,
    });
}

#[test]
fn a_try_of_a_broken_device_is_a_call_and_no_batch() {
    let metrics = metrics();
    batch(&metrics, 0, &[]);
    assert_eq!(metrics.snapshot().batches, 0);
    assert!(metrics.text().contains("tidemill_model_calls_total{model=\"a\"} 1"), "{}", metrics.text());
    assert!(metrics.text().contains("tidemill_padded_records_total{model=\"a\"} 3"), "{}", metrics.text());
}

#[test]
fn a_batch_is_counted_with_its_model() {
    let metrics = metrics();
    batch(&metrics, 1, &[Duration::from_millis(20); 3]);
    let text = metrics.text();
    for line in [
        "tidemill_model_records_total{model=\"b\"} 3",
        "tidemill_model_records_total{model=\"a\"} 0",
        "tidemill_batch_records_count{model=\"b\",close_reason=\"full\"} 1",
        "tidemill_latency_seconds_bucket{le=\"0.025\",model=\"b\"} 3",
        "tidemill_inference_seconds_sum{model=\"b\"} 0.003",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_model_that_is_not_in_the_catalog_makes_no_series() {
    let metrics = metrics();
    for id in ["x1", "x2", "x3"] {
        metrics.dead_letter(Reason::UnknownModel, Stage::Route, Some(id));
    }
    metrics.dead_letter(Reason::WrongShape, Stage::Route, Some("a"));
    let text = metrics.text();
    assert!(!text.contains("x1"));
    let unknown = "tidemill_dead_letters_total{model=\"\",reason=\"unknown_model\",stage=\"route\"} 3";
    let known = "tidemill_dead_letters_total{model=\"a\",reason=\"wrong_shape\",stage=\"route\"} 1";
    assert!(text.contains(unknown) && text.contains(known), "{text}");
}

#[test]
fn the_series_of_a_partition_end_with_its_lease() {
    let metrics = metrics();
    let lease = |partition| LeaseSeen {
        partition: Partition(partition),
        frontier: 8,
        committed: 7,
        end: Some(10),
        in_flight: 1,
        oldest_millis: Some(ManualClock::WALL_START_MICROS / 1_000 - 1_500),
    };
    metrics.lease(&lease(3));
    metrics.lease(&lease(4));
    let text = metrics.text();
    assert!(text.contains("tidemill_lag_records{partition=\"3\"} 3\n"), "{text}");
    assert!(text.contains("tidemill_lag_seconds{partition=\"4\"} 1.5\n"), "{text}");
    metrics.lease_ended(Partition(3));
    let text = metrics.text();
    assert!(!text.contains("partition=\"3\"") && text.contains("partition=\"4\""), "{text}");
}

#[test]
fn a_snapshot_sums_up_a_run() {
    let metrics = metrics();
    metrics.polled(5, 500);
    batch(&metrics, 0, &[Duration::from_millis(10); 3]);
    batch(&metrics, 1, &[Duration::from_millis(90)]);
    metrics.committed(4, Duration::from_millis(5));
    metrics.aborted();
    let seen = metrics.snapshot();
    assert_eq!((seen.polled, seen.inferred, seen.batches, seen.calls), (5, 4, 2, 2));
    assert_eq!((seen.committed, seen.commits, seen.aborts), (4, 1, 1));
    assert!((seen.batch_size_mean() - 2.0).abs() < f64::EPSILON);
    let near = |found: Duration, millis: u64| found.as_millis().abs_diff(u128::from(millis)) <= 1;
    assert!(near(seen.p50, 10) && near(seen.p99, 90), "{seen:?}");
}
