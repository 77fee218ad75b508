//! A histogram that is told of a whole batch at once: it counts locally and adds up at the end, without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The most bounds that a histogram has.
const BOUNDS_MAX: usize = 24;

/// What is counted, and how it is shown.
#[derive(Debug)]
pub(super) struct Scale {
    /// The upper bounds of the buckets, in the unit of the values; another bucket takes what lies above them all.
    bounds: &'static [u64],
    /// Values to one base unit.
    per_unit: f64,
}

/// Microseconds, shown as seconds: from 0.1 ms to a minute.
pub(super) static SECONDS: Scale = Scale {
    bounds: &[
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
    ],
    per_unit: 1e6,
};

/// Rows of a batch.
pub(super) static ROWS: Scale =
    Scale { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536], per_unit: 1.0 };

/// A histogram; a clone counts into the same.
#[derive(Clone)]
pub(super) struct Histogram(Arc<Inner>);

struct Inner {
    scale: &'static Scale,
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(scale: &'static Scale) -> Self {
        assert!(scale.bounds.len() <= BOUNDS_MAX, "a scale has at most {BOUNDS_MAX} bounds");
        let counts = [const { AtomicU64::new(0) }; BOUNDS_MAX + 1];
        Self(Arc::new(Inner { scale, counts, sum: AtomicU64::new(0) }))
    }

    /// Counts every value.
    pub(super) fn observe_all(&self, values: impl Iterator<Item = u64>) {
        let Inner { scale, counts, sum } = &*self.0;
        let (mut added, mut total) = ([0u64; BOUNDS_MAX + 1], 0u64);
        // Rows that were polled together have the same.
        let (mut last, mut bucket) = (None, 0);
        for value in values {
            if last.replace(value) != Some(value) {
                bucket = scale.bounds.partition_point(|bound| *bound < value);
            }
            added[bucket] += 1;
            total = total.saturating_add(value);
        }
        for (count, added) in counts.iter().zip(added).filter(|(_, added)| *added > 0) {
            count.fetch_add(added, Ordering::Relaxed);
        }
        sum.fetch_add(total, Ordering::Relaxed);
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Counts one value.
    pub(super) fn observe(&self, value: u64) {
        let Inner { scale, counts, sum } = &*self.0;
        counts[scale.bounds.partition_point(|bound| *bound < value)].fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(value, Ordering::Relaxed);
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Histogram").field("scale", self.0.scale).finish_non_exhaustive()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    #[expect(clippy::cast_precision_loss, reason = "the text of a metric is a float")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Inner { scale, counts, sum } = &*self.0;
        let bounds = scale.bounds.iter().map(|bound| *bound as f64 / scale.per_unit).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(counts).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / scale.per_unit;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;

    fn text(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("h", "help", histogram.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_value_on_a_bound_is_below_it_and_one_above_all_is_counted() {
        let histogram = Histogram::new(&ROWS);
        histogram.observe_all([1, 2, 3, 1 << 20].into_iter());
        let text = text(&histogram);
        for line in
            ["h_count 4", "h_bucket{le=\"1.0\"} 1", "h_bucket{le=\"2.0\"} 2", "h_bucket{le=\"+Inf\"} 4"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    proptest! {
        #[test]
        fn every_bucket_holds_what_is_not_above_its_bound(values in prop::collection::vec(0u64..100_000, 0..50)) {
            let histogram = Histogram::new(&ROWS);
            histogram.observe_all(values.iter().copied());
            let text = text(&histogram);
            for bound in ROWS.bounds {
                let below = values.iter().filter(|value| *value <= bound).count();
                let line = format!("h_bucket{{le=\"{bound}.0\"}} {below}\n");
                prop_assert!(text.contains(&line), "{line} in {text}");
            }
        }
    }
}
