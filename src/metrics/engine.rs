//! Metrics without labels: of the engine as a whole.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::histogram::{Histogram, SECONDS};

/// Metrics without labels.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) polled_records: Counter,
    pub(super) polled_bytes: Counter,
    pub(super) commits: Counter,
    pub(super) committed_records: Counter,
    pub(super) commit_seconds: Histogram,
    pub(super) aborts: Counter,
    pub(super) rebuilds: Counter,
    pub(super) executors_replaced: Counter,
    pub(super) breaker_holds: Gauge,
}

impl Engine {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let (polled_records, polled_bytes) = (
            counter("polled_records", "Requests polled"),
            counter("polled_bytes", "Bytes of requests polled"),
        );
        let commits = counter("commits", "Transactions committed");
        let committed_records = counter("committed_records", "Requests whose outcome was committed");
        let aborts = counter("aborts", "Transactions aborted");
        let rebuilds = counter("producer_rebuilds", "Producers of outcomes made anew");
        let executors_replaced =
            counter("executors_replaced", "Executors given up because a run did not return");
        let commit_seconds = Histogram::new(&SECONDS);
        registry.register(
            "commit_seconds",
            "From a transaction's first send to its commit",
            commit_seconds.clone(),
        );
        let breaker_holds = Gauge::default();
        let help = "1 while too many dead letters keep records from being taken, else 0";
        registry.register("breaker_holds", help, breaker_holds.clone());
        Self {
            polled_records,
            polled_bytes,
            commits,
            committed_records,
            commit_seconds,
            aborts,
            rebuilds,
            executors_replaced,
            breaker_holds,
        }
    }
}
