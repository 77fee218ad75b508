//! Metrics of what partitions could bear: gauges that are read out of the last report.

use std::fmt;
use std::sync::{Arc, OnceLock};

use dataflows::capacity::pilot::Kind;
use dataflows::capacity::report::PartitionReport;
use dataflows::capacity::verdict::Verdict;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::capacity::Kept;

/// Where the last report is, once there is a watch.
#[derive(Debug, Default)]
pub(super) struct Capacity(OnceLock<Arc<Kept>>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabel {
    partition: i32,
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SettingLabel {
    setting: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl Capacity {
    pub(super) fn show(&self, kept: Arc<Kept>) {
        self.0.get_or_init(|| kept);
    }
}

/// A gauge of a partition: its name, what it is, and where it stands in the report.
type Gauge = (&'static str, &'static str, fn(&PartitionReport) -> Option<f64>);

const GAUGES: [Gauge; 4] = [
    ("capacity_arriving", "Requests a second that come to the partition", |partition| {
        partition.arriving.map(|mean| mean.mean)
    }),
    (
        "capacity_rate_max",
        "Requests a second that it could bear, the others staying as they are",
        |partition| partition.rate_max.map(|rate| rate.value),
    ),
    ("capacity_drained_in_seconds", "Time until nothing of it waits", |partition| {
        partition.drained_in.map(|time| time.value)
    }),
    (
        "capacity_missed_in_seconds",
        "Time until it misses `capacity.lag_max`, if it does within the horizon",
        |partition| partition.missed_in,
    ),
];

impl Capacity {
    fn encode_autopilot(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shown = self.0.get().and_then(|kept| kept.autopilot());
        let help = "Settings that the autopilot may change, as they are: numbers, or microseconds";
        let mut gauge = encoder.encode_descriptor("autopilot_setting", help, None, MetricType::Gauge)?;
        for (setting, value) in shown.iter().flat_map(|shown| &shown.values) {
            let label = SettingLabel { setting: setting.to_string() };
            ConstGauge::new(*value).encode(gauge.encode_family(&label)?)?;
        }
        let help = "Changes that the autopilot has made, or, as a dry run, would have made";
        let mut counter = encoder.encode_descriptor("autopilot_changes", help, None, MetricType::Counter)?;
        for kind in Kind::ALL.into_iter().filter(|_| shown.is_some()) {
            let count = shown.as_ref().and_then(|shown| shown.counts.get(&kind)).copied().unwrap_or(0);
            let label = KindLabel { kind: kind.name() };
            ConstCounter::new(count).encode(counter.encode_family(&label)?)?;
        }
        Ok(())
    }
}

impl Collector for Capacity {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = self.0.get().and_then(|kept| kept.report());
        let partitions = || report.iter().flat_map(|report| &report.partitions);
        for (name, help, value) in GAUGES {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for partition in partitions() {
                if let Some(value) = value(partition).filter(|value| value.is_finite()) {
                    let label = PartitionLabel { partition: partition.partition };
                    ConstGauge::new(value).encode(gauge.encode_family(&label)?)?;
                }
            }
        }
        self.encode_autopilot(&mut encoder)?;
        let help = "1 for what is the matter with the partition, else 0";
        let mut gauge = encoder.encode_descriptor("capacity_verdict", help, None, MetricType::Gauge)?;
        for partition in partitions() {
            for verdict in Verdict::ALL {
                let label = VerdictLabel { partition: partition.partition, verdict: verdict.name() };
                let is = i64::from(verdict == partition.finding.verdict);
                ConstGauge::new(is).encode(gauge.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}
