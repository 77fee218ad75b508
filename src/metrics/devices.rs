//! Metrics of models on devices: what waits there, and what batches cost there.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use operators::observe::CostSeen;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    model: String,
    device: u64,
}

/// The families of them.
#[derive(Debug)]
pub(super) struct Devices {
    queued: Family<Labels, Gauge>,
    fixed: Family<Labels, Seconds>,
    row: Family<Labels, Seconds>,
    efficient: Family<Labels, Gauge>,
}

/// The series of a model on one device.
#[derive(Debug)]
pub(super) struct DeviceSeries {
    queued: Gauge,
    fixed: Seconds,
    row: Seconds,
    efficient: Gauge,
}

impl Devices {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let [queued, efficient] = [Family::default(), Family::default()];
        let [fixed, row] = [Family::default(), Family::default()];
        registry.register("queued_records", "Rows that wait for a batch", queued.clone());
        let help = "What any batch is known to take, whatever its size";
        registry.register("batch_fixed_seconds", help, fixed.clone());
        let help = "What each row is known to add to that";
        registry.register("batch_row_seconds", help, row.clone());
        let help = "The smallest batch with nearly the most rows a second";
        registry.register("batch_efficient_records", help, efficient.clone());
        Self { queued, fixed, row, efficient }
    }

    /// The series of a model, by the devices that it is placed on.
    pub(super) fn series(&self, id: &str, devices: &[usize]) -> BTreeMap<usize, DeviceSeries> {
        let series = |device: &usize| {
            let labels = Labels { model: id.to_owned(), device: *device as u64 };
            let series = DeviceSeries {
                queued: self.queued.get_or_create_owned(&labels),
                fixed: self.fixed.get_or_create_owned(&labels),
                row: self.row.get_or_create_owned(&labels),
                efficient: self.efficient.get_or_create_owned(&labels),
            };
            (*device, series)
        };
        devices.iter().map(series).collect()
    }
}

impl DeviceSeries {
    /// So many rows wait.
    pub(super) fn queued(&self, rows: usize) {
        self.queued.set(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    /// Batches are known to cost this.
    pub(super) fn cost(&self, cost: CostSeen) {
        self.fixed.set(cost.fixed.as_secs_f64());
        self.row.set(cost.row.as_secs_f64());
        self.efficient.set(i64::try_from(cost.efficient).unwrap_or(i64::MAX));
    }
}
