//! What is summed over a span. Whole numbers all of it, so that taking away what was added leaves exactly nothing; in floats a rest would stay
//! and grow for as long as the process lives.

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use serde::{Deserialize, Serialize};

/// What was counted of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tally {
    /// Their number.
    pub records: i64,
    /// How many of them, at most, were others': see [`sketch`](super::sketch).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excess: i64,
    /// Bytes of their keys, values and headers.
    pub bytes: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.excess += other.excess;
        self.bytes += other.bytes;
    }
}

impl IsZero for Tally {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl Semigroup for Tally {
    fn plus_equals(&mut self, other: &Self) {
        self.add(*other);
    }
}

impl Monoid for Tally {
    fn zero() -> Self {
        Self::default()
    }
}

impl Abelian for Tally {
    fn negate(&mut self) {
        let Self { records, excess, bytes } = self;
        [records, excess, bytes].into_iter().for_each(|number| *number = -*number);
    }
}

/// Points `(x, y)`, summed up as far as the line through them needs it.
///
/// ```
/// use dataflows::capacity::sums::Line;
///
/// // Batches of 8 and of 64 rows that took 3 and 17 milliseconds.
/// let mut line = Line::default();
/// [(8, 3_000), (64, 17_000), (8, 3_000), (64, 17_000)].map(|(x, y)| line.add(Line::point(x, y)));
/// let fit = line.fit().unwrap();
/// assert!((fit.intercept - 1_000.0).abs() < 1e-6 && (fit.slope - 250.0).abs() < 1e-9);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    /// Their number.
    pub n: i64,
    /// The sum of x.
    pub x: i64,
    /// The sum of y.
    pub y: i64,
    /// The sum of x².
    pub xx: i128,
    /// The sum of x·y.
    pub xy: i128,
    /// The sum of y².
    pub yy: i128,
}

/// The line of least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// y at x = 0.
    pub intercept: f64,
    /// What y grows by with x.
    pub slope: f64,
    /// The standard error of the slope.
    pub slope_error: f64,
}

/// A mean, and how far it may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a sum is exact, what is made of it need not be")]
fn float(number: i128) -> f64 {
    number as f64
}

impl Line {
    /// One point.
    pub fn point(x: i64, y: i64) -> Self {
        let (wide_x, wide_y) = (i128::from(x), i128::from(y));
        Self { n: 1, x, y, xx: wide_x * wide_x, xy: wide_x * wide_y, yy: wide_y * wide_y }
    }

    /// Adds the points of another one.
    pub fn add(&mut self, other: Self) {
        self.n += other.n;
        self.x += other.x;
        self.y += other.y;
        self.xx += other.xx;
        self.xy += other.xy;
        self.yy += other.yy;
    }

    fn spread_x(&self) -> i128 {
        i128::from(self.n) * self.xx - i128::from(self.x) * i128::from(self.x)
    }

    fn spread_y(&self) -> i128 {
        i128::from(self.n) * self.yy - i128::from(self.y) * i128::from(self.y)
    }

    /// The line through the points; `None` where all have the same x.
    pub fn fit(&self) -> Option<Fit> {
        let spread_x = self.spread_x();
        if self.n < 2 || spread_x <= 0 {
            return None;
        }
        let n = float(self.n.into());
        let both = i128::from(self.n) * self.xy - i128::from(self.x) * i128::from(self.y);
        let slope = float(both) / float(spread_x);
        let intercept = (float(self.y.into()) - slope * float(self.x.into())) / n;
        // What the line leaves of the spread of y, over what is free to vary.
        let left = (float(self.spread_y()) - slope * float(both)).max(0.0) / n;
        let slope_error = (left / (n - 2.0).max(1.0) / (float(spread_x) / n)).sqrt();
        Some(Fit { intercept, slope, slope_error })
    }

    /// The mean of x.
    pub fn mean_x(&self) -> f64 {
        float(self.x.into()) / float(self.n.max(1).into())
    }

    /// How far x strays from its mean, as a share of it.
    pub fn stray_x(&self) -> f64 {
        let n = float(self.n.max(1).into());
        float(self.spread_x().max(0)).sqrt() / n / self.mean_x().abs().max(1e-12)
    }

    /// The mean of y, and its standard error if the points have nothing to do with each other.
    pub fn mean_y(&self) -> Mean {
        let n = float(self.n.max(1).into());
        let variance = float(self.spread_y().max(0)) / n / n;
        let error = if self.n < 2 { 0.0 } else { (variance / (n - 1.0)).sqrt() };
        Mean { mean: float(self.y.into()) / n, error }
    }
}

impl IsZero for Line {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl Semigroup for Line {
    fn plus_equals(&mut self, other: &Self) {
        self.add(*other);
    }
}

impl Monoid for Line {
    fn zero() -> Self {
        Self::default()
    }
}

impl Abelian for Line {
    fn negate(&mut self) {
        let Self { n, x, y, xx, xy, yy } = self;
        [n, x, y].into_iter().for_each(|number| *number = -*number);
        [xx, xy, yy].into_iter().for_each(|number| *number = -*number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(points: &[(i64, i64)]) -> Line {
        let mut line = Line::default();
        points.iter().for_each(|(x, y)| line.add(Line::point(*x, *y)));
        line
    }

    proptest! {
        /// As far from zero as times and offsets are.
        #[test]
        fn a_line_is_found_again(
            slope in -1_000_i32..1_000, intercept in -1_000_000_000_000_i64..1_000_000_000_000, from in 0_i64..1_000_000_000,
        ) {
            let points: Vec<_> = (from..from + 60).map(|x| (x, intercept + i64::from(slope) * x)).collect();
            let fit = sum(&points).fit().unwrap();
            prop_assert!((fit.slope - f64::from(slope)).abs() < 1e-3, "{fit:?}");
            prop_assert!(fit.slope_error < 1e-3, "{fit:?}");
        }

        #[test]
        fn what_was_added_and_taken_away_leaves_nothing(points in prop::collection::vec((0_i64..1 << 40, 0_i64..1 << 40), 0..50)) {
            let mut line = sum(&points);
            for (x, y) in points.iter().rev() {
                let mut gone = Line::point(*x, *y);
                gone.negate();
                line.plus_equals(&gone);
            }
            prop_assert!(line.is_zero());
        }
    }

    #[test]
    fn the_mean_has_an_error_that_shrinks_with_the_points() {
        let few = sum(&[(0, 8), (0, 12)]).mean_y();
        let many = sum(&[(0, 8), (0, 12)].repeat(50)).mean_y();
        assert!((few.mean - 10.0).abs() < 1e-12 && (many.mean - 10.0).abs() < 1e-12);
        assert!((few.error - 2.0).abs() < 1e-12 && many.error < 0.21, "{few:?} {many:?}");
    }

    #[test]
    fn one_size_of_batches_says_nothing_of_the_line() {
        assert_eq!(sum(&[(64, 10), (64, 12)]).fit(), None);
        assert_eq!(sum(&[(64, 10)]).fit(), None);
    }

    #[test]
    fn noise_is_in_the_error_of_the_slope() {
        let exact = sum(&[(1, 10), (2, 20), (3, 30), (4, 40)]).fit().unwrap();
        let noisy = sum(&[(1, 12), (2, 16), (3, 34), (4, 38)]).fit().unwrap();
        assert!(exact.slope_error < 1e-9 && noisy.slope_error > 1.0, "{exact:?} {noisy:?}");
    }
}
