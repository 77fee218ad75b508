//! What a few measurements of one thing say.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// The value in the middle; of an even number the mean of the two there. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    let of_even = sorted.len().is_multiple_of(2);
    let value = *sorted.get(upper)?;
    Some(if of_even { f64::midpoint(sorted[upper - 1], value) } else { value })
}

/// A straight line through points.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slope {
    /// By how much it rises.
    pub slope: f64,
    /// The standard error of that.
    pub error: f64,
}

/// The slope of the straight line that is nearest to these points, by least squares; 0 where there is none.
pub fn slope(points: &[(f64, f64)]) -> Slope {
    let count = as_float(points.len());
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 3 || spread <= 0.0 {
        return Slope::default();
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    let left: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    Slope { slope, error: (left / (count - 2.0) / spread).sqrt() }
}

/// How much larger one quantity is than another, each measured a few times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The second over the first.
    pub ratio: f64,
    /// Between these it is, with the confidence that was asked for; `None` where fewer than two measurements of each say nothing of that.
    pub between: Option<(f64, f64)>,
}

impl Ratio {
    /// Whether the two differ by more than the noise.
    pub fn has_moved(&self) -> bool {
        self.between.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }
}

/// The second over the first, of their geometric means: times and rates are off by factors, not by amounts. The interval is Welch's, of
/// the logarithms: the two need not be equally noisy. `None` unless every measurement is above 0.
pub fn ratio(first: &[f64], second: &[f64], confidence: f64) -> Option<Ratio> {
    let logs = |values: &[f64]| -> Option<Vec<f64>> {
        values.iter().map(|value| (*value > 0.0).then(|| value.ln())).collect()
    };
    let (first, second) = (logs(first)?, logs(second)?);
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let difference = mean(&second) - mean(&first);
    let of_mean = |values: &[f64]| variance(values).map(|variance| variance / as_float(values.len()));
    let between = of_mean(&first).zip(of_mean(&second)).map(|(one, other)| {
        let error = (one + other).sqrt();
        let spread = if error > 0.0 {
            let freedom = (one + other).powi(2)
                / (one.powi(2) / (as_float(first.len()) - 1.0)
                    + other.powi(2) / (as_float(second.len()) - 1.0));
            let student = StudentsT::new(0.0, 1.0, freedom).expect("there is at least one degree of freedom");
            error * student.inverse_cdf(0.5 + confidence / 2.0)
        } else {
            0.0
        };
        ((difference - spread).exp(), (difference + spread).exp())
    });
    Some(Ratio { ratio: difference.exp(), between })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / as_float(values.len())
}

/// The variance of what these are a sample of; `None` of fewer than two.
fn variance(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| sum / (as_float(values.len()) - 1.0))
}

#[expect(clippy::cast_precision_loss, reason = "a number of measurements is far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_slope_of_a_line_is_found_again() {
        let line: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 - 2.0 * f64::from(x))).collect();
        assert!((slope(&line).slope + 2.0).abs() < 1e-12 && slope(&line).error < 1e-12);
        assert_eq!((slope(&[]), slope(&[(1.0, 5.0)])), (Slope::default(), Slope::default()));
        // Noise of 1 up and down around a flat line: the error is what R's `summary(lm(c(1, -1, 1, -1) ~ c(0, 1, 2, 3)))` says.
        let noisy = slope(&[(0.0, 1.0), (1.0, -1.0), (2.0, 1.0), (3.0, -1.0)]);
        assert!((noisy.slope + 0.4).abs() < 1e-12 && (noisy.error - 0.565_685).abs() < 1e-6);
    }

    /// The interval of R's `t.test(log(c(20, 22, 21)), log(c(10, 11, 10.5)))`, whose difference is the logarithm of 2 exactly.
    #[test]
    fn the_interval_is_welchs() {
        let found = ratio(&[10.0, 11.0, 10.5], &[20.0, 22.0, 21.0], 0.95).unwrap();
        let (low, high) = found.between.unwrap();
        assert!((found.ratio - 2.0).abs() < 1e-12);
        // Both have a variance of 0.002270 of their logarithms, so there are four degrees of freedom, and the quantile is 2.7764.
        let variance = variance(&[10.0_f64.ln(), 11.0_f64.ln(), 10.5_f64.ln()]).unwrap();
        let spread = 2.776_445 * (2.0 * variance / 3.0).sqrt();
        assert!((high / 2.0 - spread.exp()).abs() < 1e-5 && (2.0 / low - spread.exp()).abs() < 1e-5);
        assert!(found.has_moved());
    }

    #[test]
    fn what_was_measured_once_says_nothing_of_the_noise() {
        let once = ratio(&[10.0], &[20.0, 21.0], 0.95).unwrap();
        assert_eq!(once.between, None);
        assert!(!once.has_moved());
        assert_eq!(ratio(&[0.0, 1.0], &[1.0, 1.0], 0.95), None);
        assert!(!ratio(&[10.0, 12.0], &[10.5, 12.5], 0.95).unwrap().has_moved());
        assert!(ratio(&[2.0, 2.0], &[3.0, 3.0], 0.95).unwrap().has_moved());
    }
}
