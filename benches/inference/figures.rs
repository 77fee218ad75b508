//! Figures of runs, as every subject counts them.

use std::time::Duration;

use crate::rig::Outcome;

/// The latency that so large a part of the outcomes does not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the place of a quantile among the outcomes"
)]
pub(crate) fn quantile(outcomes: &[Outcome], quantile: f64) -> Duration {
    let mut latencies: Vec<Duration> = outcomes.iter().map(|outcome| outcome.latency).collect();
    latencies.sort_unstable();
    let place = (latencies.len() as f64 * quantile).ceil() as usize;
    latencies.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// A time in milliseconds, to a tenth of one.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// A ratio, to a thousandth.
pub(crate) fn thousandth(ratio: f64) -> f64 {
    (ratio * 1_000.0).round() / 1_000.0
}

/// The one in the middle.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
