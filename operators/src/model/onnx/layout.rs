//! Rows that stand one after the other, as a model has them whose batch axis is not its first.
//!
//! ```text
//!   [row][outer][inner]  ◀──▶  [outer][row][inner]      outer: the axes before that of the batch, inner: those after it
//! ```

/// Appends `rows` rows to `out` as a tensor with the batch axis behind `outer` numbers' worth of axes.
pub(super) fn scatter<N: Copy>(values: &[N], rows: usize, outer: usize, out: &mut Vec<N>) {
    let inner = values.len() / (rows * outer).max(1);
    for place in 0..outer {
        for row in 0..rows {
            out.extend_from_slice(&values[(row * outer + place) * inner..][..inner]);
        }
    }
}

/// Appends the first `wanted` of the `rows` rows of such a tensor to `out`, one after the other.
pub(super) fn gather<N: Copy>(values: &[N], rows: usize, wanted: usize, outer: usize, out: &mut Vec<N>) {
    if outer == 1 {
        return out.extend_from_slice(&values[..values.len() / rows.max(1) * wanted]);
    }
    let inner = values.len() / (rows * outer).max(1);
    for row in 0..wanted {
        for place in 0..outer {
            out.extend_from_slice(&values[(place * rows + row) * inner..][..inner]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_scattered_is_gathered_again(rows in 1_usize..5, outer in 1_usize..4, inner in 1_usize..4, wanted in 0_usize..5) {
            let wanted = wanted.min(rows);
            let values: Vec<usize> = (0..rows * outer * inner).collect();
            let (mut tensor, mut back) = (Vec::new(), vec![7]);
            scatter(&values, rows, outer, &mut tensor);
            for (at, value) in tensor.iter().enumerate() {
                let (place, row, within) = (at / (rows * inner), at / inner % rows, at % inner);
                prop_assert_eq!(*value, (row * outer + place) * inner + within);
            }
            gather(&tensor, rows, wanted, outer, &mut back);
            prop_assert_eq!(&back[1..], &values[..wanted * outer * inner]);
        }
    }
}
