//! Metrics that are computed when they are read: of partitions, of health and of the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use operators::clock::Clock;
use operators::health::Health;
use operators::lease::Partition;
use operators::observe::LeaseSeen;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The leases that are held, and what was last told of each.
///
/// The age of the oldest record is counted when it is read: a partition that stands still grows older.
pub(super) struct Leases {
    clock: Arc<dyn Clock>,
    held: Mutex<BTreeMap<Partition, LeaseSeen>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    partition: i32,
}

impl Leases {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, held: Mutex::default() }
    }

    pub(super) fn seen(&self, lease: &LeaseSeen) {
        self.held().insert(lease.partition, *lease);
    }

    pub(super) fn ended(&self, partition: Partition) {
        self.held().remove(&partition);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<Partition, LeaseSeen>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records from the first that is not committed to the end, where the end is known.
fn lag_records(lease: &LeaseSeen) -> Option<i64> {
    Some((lease.end? - lease.committed).max(0))
}

/// The age of the oldest record that is not committed, in seconds.
#[expect(clippy::cast_precision_loss, reason = "ages are small")]
fn lag_seconds(lease: &LeaseSeen, now_millis: i64) -> f64 {
    let oldest = lease.oldest_millis.filter(|millis| *millis >= 0 && lag_records(lease) != Some(0));
    oldest.map_or(0.0, |oldest| (now_millis - oldest).max(0) as f64 / 1e3)
}

impl fmt::Debug for Leases {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Leases").finish_non_exhaustive()
    }
}

impl Collector for Leases {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let held: Vec<LeaseSeen> = self.held().values().copied().collect();
        let now = self.clock.wall_micros() / 1_000;
        let in_flight = |lease: &LeaseSeen| Some(i64::try_from(lease.in_flight).unwrap_or(i64::MAX));
        let out = &mut encoder;
        partitions(out, &held, "lag_records", "Records behind the end of the partition", lag_records)?;
        let seconds = |lease: &LeaseSeen| Some(lag_seconds(lease, now));
        partitions(out, &held, "lag_seconds", "Age of the oldest record that is not committed", seconds)?;
        let frontier = |lease: &LeaseSeen| Some(lease.frontier);
        partitions(out, &held, "frontier_offset", "First offset without an outcome", frontier)?;
        let committed = |lease: &LeaseSeen| Some(lease.committed);
        partitions(out, &held, "committed_offset", "First offset that is not committed", committed)?;
        partitions(out, &held, "in_flight_records", "Records polled and not committed", in_flight)
    }
}

/// A gauge with a series a partition.
fn partitions<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    leases: &[LeaseSeen],
    name: &str,
    help: &str,
    value: impl Fn(&LeaseSeen) -> Option<V>,
) -> Result<(), fmt::Error> {
    if leases.is_empty() {
        return Ok(());
    }
    let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for lease in leases {
        if let Some(value) = value(lease) {
            gauge.encode_family(&PartitionLabel { partition: lease.partition.0 })?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

/// Whether the process is ready, and what stands against it.
#[derive(Debug)]
pub(super) struct Readiness(pub(super) Arc<Health>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConditionLabel {
    condition: String,
}

impl Collector for Readiness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let reasons = self.0.reasons();
        let help = "1 if the process is ready for work, else 0";
        let mut ready = encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?;
        ready.encode_gauge(&i64::from(reasons.is_empty()))?;
        if reasons.is_empty() {
            return Ok(());
        }
        let help = "Conditions that stand against readiness";
        let mut conditions =
            encoder.encode_descriptor("unready_conditions", help, None, MetricType::Gauge)?;
        for (condition, _) in reasons {
            conditions.encode_family(&ConditionLabel { condition })?.encode_gauge(&1i64)?;
        }
        Ok(())
    }
}

/// What the operating system says of the process; nothing where there is no `/proc`.
#[derive(Debug)]
pub(super) struct Process;

/// Ticks a second in `/proc/self/stat`: Linux shows a hundred to every program, whatever it counts with.
const TICKS_PER_SECOND: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(seconds) =
            std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds)
        {
            let help = "CPU time of the process, user and system";
            let mut cpu =
                encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            cpu.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        if let Some(bytes) =
            std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes)
        {
            let help = "Resident memory of the process";
            let mut resident =
                encoder.encode_descriptor("process_resident_bytes", help, None, MetricType::Gauge)?;
            resident.encode_gauge(&bytes)?;
        }
        Ok(())
    }
}

/// User and system time out of `/proc/self/stat`. The program's name, in parentheses, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The resident set out of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<i64> {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kilobytes.trim().strip_suffix(" kB")?.parse::<i64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_out_of_proc() {
        let stat = "42 (a ) name) S 1 42 42 0 -1 4194304 900 0 0 0 150 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(resident_bytes("VmPeak:\t 10 kB\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn lag_is_counted_to_the_end_and_has_an_age_only_while_there_is_some() {
        let mut lease = LeaseSeen {
            partition: Partition(0),
            frontier: 7,
            committed: 5,
            end: Some(9),
            in_flight: 2,
            oldest_millis: Some(1_000),
        };
        assert_eq!(lag_records(&lease), Some(4));
        assert!((lag_seconds(&lease, 3_500) - 2.5).abs() < f64::EPSILON);
        lease.committed = 9;
        assert_eq!(lag_records(&lease), Some(0));
        assert!(lag_seconds(&lease, 3_500) == 0.0);
        lease.end = None;
        assert_eq!(lag_records(&lease), None);
    }
}
