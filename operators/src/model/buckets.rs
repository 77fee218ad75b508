//! The sizes that batches are run at: as many rows as there are, or the next of a few sizes that the backend is prepared for.
//!
//! ```text
//!   buckets 1 2 4 8      5 rows ──▶ one run of 8, 3 of them in vain       19 rows ──▶ 8, 8, and 4 for the last 3
//! ```
//!
//! On a CPU every size costs what its rows cost, so filling a batch up is pure loss. Some devices are prepared for each size apart: cuDNN
//! looks for an algorithm, a CUDA graph is captured, a file has its batch written into it. There it is better to run a few rows in vain than
//! to meet a size for the first time. The rows that fill up are copies of the last one.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The sizes that batches of a model are run at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// In ascending order; none if every size is as good as the others.
    sizes: Vec<usize>,
    /// The most rows of one run, if there is a bound.
    rows_max: Option<usize>,
}

impl Buckets {
    /// A batch is run at its own size, whatever that is.
    pub fn exact() -> Self {
        Self::default()
    }

    /// A batch is run at its own size, and one of more than `rows_max` rows in pieces.
    pub fn exact_up_to(rows_max: usize) -> Self {
        Self { sizes: Vec::new(), rows_max: Some(rows_max.max(1)) }
    }

    /// A batch is run at the smallest of these sizes that has room for it, and one larger than all of them in pieces. Without a size it is
    /// run as it is.
    pub fn of(sizes: impl IntoIterator<Item = usize>) -> Self {
        let mut sizes: Vec<usize> = sizes.into_iter().filter(|size| *size > 0).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let rows_max = sizes.last().copied();
        Self { sizes, rows_max }
    }

    /// The powers of two below `rows_max`, and that: at most half of a run is in vain.
    ///
    /// ```
    /// use operators::model::Buckets;
    ///
    /// assert_eq!(Buckets::powers(20).sizes(), [1, 2, 4, 8, 16, 20]);
    /// ```
    pub fn powers(rows_max: usize) -> Self {
        let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|size| *size < rows_max);
        Self::of(powers.chain([rows_max.max(1)]))
    }

    /// The sizes, in ascending order; none if a batch is run at its own.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The runs of a batch: the rows of each, and at which size they are run.
    ///
    /// ```
    /// use operators::model::Buckets;
    ///
    /// let pieces: Vec<_> = Buckets::powers(8).pieces(19).collect();
    /// assert_eq!(pieces, [(0..8, 8), (8..16, 8), (16..19, 4)]);
    /// ```
    pub fn pieces(&self, rows: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let most = self.rows_max.unwrap_or(rows).max(1);
        (0..rows).step_by(most).map(move |start| {
            let range = start..rows.min(start + most);
            let size = self.sizes.iter().find(|size| **size >= range.len());
            let size = size.copied().unwrap_or(range.len());
            (range, size)
        })
    }

    /// How many rows are computed for a batch of so many.
    pub fn computed(&self, rows: usize) -> usize {
        self.pieces(rows).map(|(_, size)| size).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_buckets() -> impl Strategy<Value = Buckets> {
        prop_oneof![
            Just(Buckets::exact()),
            (1_usize..70).prop_map(Buckets::exact_up_to),
            (1_usize..70).prop_map(Buckets::powers),
            prop::collection::vec(0_usize..70, 0..5).prop_map(Buckets::of),
        ]
    }

    proptest! {
        /// Every row runs once, in its order, at a size that has room for it and is one of those there are.
        #[test]
        fn every_row_runs_once(buckets in any_buckets(), rows in 0_usize..300) {
            let mut next = 0;
            for (range, size) in buckets.pieces(rows) {
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty() && range.len() <= size);
                prop_assert!(buckets.sizes().is_empty() || buckets.sizes().contains(&size));
                prop_assert!(buckets.rows_max.is_none_or(|most| size <= most));
                next = range.end;
            }
            prop_assert_eq!(next, rows);
            prop_assert!(buckets.computed(rows) >= rows);
        }

        #[test]
        fn of_powers_less_than_half_is_in_vain(rows_max in 1_usize..200, rows in 1_usize..200) {
            prop_assert!(Buckets::powers(rows_max).computed(rows) < 2 * rows);
        }

        #[test]
        fn exact_sizes_have_nothing_in_vain(rows in 0_usize..300, most in 1_usize..70) {
            prop_assert_eq!((Buckets::exact().computed(rows), Buckets::exact_up_to(most).computed(rows)), (rows, rows));
        }
    }
}
