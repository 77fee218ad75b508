//! The Universal Scalability Law: how throughput grows with workers, and what stands in its way.
//!
//! `X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1))`, after Gunther, "Guerrilla Capacity Planning" (2007). Contention is the
//! part of the work that only one can do at a time; coherency is what workers cost each other.

use serde::{Deserialize, Serialize};

/// The law, fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// What one worker does.
    pub rate: f64,
    /// From 0 to 1.
    pub contention: f64,
    /// At least 0.
    pub coherency: f64,
}

impl Scaling {
    /// The law that is nearest to throughputs by numbers of workers. With two numbers of workers there is no telling contention from coherency, and
    /// all of it is taken for contention. `None` with fewer, or where something is not above 0.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        if points.iter().any(|(workers, throughput)| *workers <= 0.0 || *throughput <= 0.0) {
            return None;
        }
        let mut numbers: Vec<f64> = points.iter().map(|(workers, _)| *workers).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        // Of `n / X(n)` the law is a sum of three terms, each with a factor that is sought.
        let terms = [|_: f64| 1.0, |n: f64| n - 1.0, |n: f64| n * (n - 1.0)];
        let of = |chosen: &[usize]| {
            let rows =
                points.iter().map(|(n, x)| (chosen.iter().map(|term| terms[*term](*n)).collect(), n / x));
            least_squares(&rows.collect::<Vec<_>>())
        };
        let both =
            (numbers.len() > 2).then(|| of(&[0, 1, 2])).flatten().map(|found| [found[0], found[1], found[2]]);
        let fits = |found: &[f64; 3]| found[0] > 0.0 && found[1] >= 0.0 && found[2] >= 0.0;
        let one =
            || (numbers.len() > 1).then(|| of(&[0, 1])).flatten().map(|found| [found[0], found[1], 0.0]);
        let other =
            || (numbers.len() > 2).then(|| of(&[0, 2])).flatten().map(|found| [found[0], 0.0, found[1]]);
        let none = || of(&[0]).map(|found| [found[0], 0.0, 0.0]).filter(|_| numbers.len() > 1);
        // Neither factor is below 0: where the best fit has one there, the best one without it is taken.
        let found = both.filter(fits).or_else(|| {
            let candidates = [one(), other(), none()].into_iter().flatten().filter(fits);
            candidates.min_by(|left, right| error(points, left).total_cmp(&error(points, right)))
        })?;
        Some(Self { rate: 1.0 / found[0], contention: found[1] / found[0], coherency: found[2] / found[0] })
    }

    /// The throughput with so many workers.
    pub fn throughput(&self, workers: f64) -> f64 {
        let lost = self.contention * (workers - 1.0) + self.coherency * workers * (workers - 1.0);
        self.rate * workers / (1.0 + lost)
    }
}

fn error(points: &[(f64, f64)], found: &[f64; 3]) -> f64 {
    points
        .iter()
        .map(|(n, x)| (found[0] + found[1] * (n - 1.0) + found[2] * n * (n - 1.0) - n / x).powi(2))
        .sum()
}

/// The factors of a sum that is nearest to what was seen, by the normal equations and Gauss's elimination; `None` where they are not
/// determined.
fn least_squares(rows: &[(Vec<f64>, f64)]) -> Option<Vec<f64>> {
    let width = rows.first()?.0.len();
    let mut matrix = vec![vec![0.0; width + 1]; width];
    for (terms, seen) in rows {
        for (line, left) in matrix.iter_mut().zip(terms) {
            line.iter_mut().zip(terms.iter().chain([seen])).for_each(|(cell, right)| *cell += left * right);
        }
    }
    for place in 0..width {
        let pivot = (place..width)
            .max_by(|left, right| matrix[*left][place].abs().total_cmp(&matrix[*right][place].abs()))?;
        matrix.swap(place, pivot);
        let line = matrix[place].clone();
        if line[place].abs() < 1e-300 {
            return None;
        }
        for (_, other) in matrix.iter_mut().enumerate().filter(|(row, _)| *row != place) {
            let factor = other[place] / line[place];
            other.iter_mut().zip(&line).for_each(|(cell, above)| *cell -= factor * above);
        }
    }
    Some(matrix.iter().enumerate().map(|(place, line)| line[width] / line[place]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_law_is_found_again(rate in 1.0..1e6, contention in 0.0..0.5, coherency in 0.0..0.1) {
            let law = Scaling { rate, contention, coherency };
            let points: Vec<_> = [1.0, 2.0, 4.0, 8.0].map(|n| (n, law.throughput(n))).to_vec();
            let found = Scaling::fit(&points).unwrap();
            for n in [1.0, 3.0, 8.0, 16.0] {
                prop_assert!((found.throughput(n) / law.throughput(n) - 1.0).abs() < 1e-3, "{found:?}");
            }
        }

        /// Better than linear is possible by chance; then nothing is said to stand in the way.
        #[test]
        fn no_factor_is_below_zero(throughputs in prop::collection::vec(1.0..1e3, 2..6)) {
            let points: Vec<_> = throughputs.iter().zip(1..).map(|(x, n)| (f64::from(n), *x)).collect();
            let found = Scaling::fit(&points).unwrap();
            prop_assert!(found.contention >= 0.0 && found.coherency >= 0.0 && found.rate > 0.0);
        }
    }

    #[test]
    fn one_number_of_workers_says_nothing() {
        assert_eq!(Scaling::fit(&[(2.0, 10.0), (2.0, 11.0)]), None);
        assert_eq!(Scaling::fit(&[(1.0, 10.0), (2.0, 0.0)]), None);
        let two = Scaling::fit(&[(1.0, 10.0), (2.0, 16.0)]).unwrap();
        assert!((two.throughput(2.0) - 16.0).abs() < 1e-9 && two.coherency == 0.0);
    }
}
