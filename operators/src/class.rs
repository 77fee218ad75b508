//! Which rows of a model may run together.
//!
//! Rows run as one tensor, so the axes of each input have to be the same in all of them; and so has an input that is not batched, such as
//! a rate or a threshold. The rows that agree in both are of one class. Most models have only one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::TensorSpec;
use crate::tensor::{Column, Number};
use crate::with_numbers;

/// What rows have to agree in to run together. Two classes of one model are the same if and only if their rows may.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Class(Option<Arc<[u8]>>);

impl Class {
    /// The class of rows with these inputs.
    pub fn of(inputs: &[TensorSpec], columns: &[Column]) -> Self {
        let mut bytes = Vec::new();
        for (input, column) in inputs.iter().zip(columns) {
            for (open, axis) in input.axes.iter().zip(&column.axes) {
                if open.is_none() {
                    bytes.extend_from_slice(&(*axis as u64).to_le_bytes());
                }
            }
            if !input.is_batched() {
                with_numbers!(&column.values, numbers => numbers.iter().for_each(|number| number.write(&mut bytes)));
            }
        }
        Self((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// Whether it is that of a model with only one.
    pub fn is_only(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Signature;
    use crate::tensor::{Dtype, Values};

    /// Two open axes, and a number that all rows share.
    fn inputs() -> Vec<TensorSpec> {
        let spec = |axes: Vec<Option<usize>>, dtype, batched: bool| TensorSpec {
            name: "x".to_owned(),
            dtype,
            axes,
            batch_axis: batched.then_some(0),
        };
        vec![spec(vec![Some(3), None, None], Dtype::F32, true), spec(vec![], Dtype::I64, false)]
    }

    fn class(height: usize, width: usize, rate: i64) -> Class {
        let image =
            Column { axes: vec![3, height, width], values: Values::F32(vec![0.5; 3 * height * width]) };
        Class::of(&inputs(), &[image, Column { axes: vec![], values: Values::I64(vec![rate]) }])
    }

    proptest! {
        #[test]
        fn rows_are_of_one_class_if_their_axes_and_shared_numbers_are(left in (1_usize..4, 1_usize..4, 0_i64..2), right in (1_usize..4, 1_usize..4, 0_i64..2)) {
            let classes = [left, right].map(|(height, width, rate)| class(height, width, rate));
            prop_assert_eq!(classes[0] == classes[1], left == right);
            prop_assert!(!classes[0].is_only());
        }
    }

    #[test]
    fn a_model_whose_rows_are_all_alike_has_one_class() {
        let floats = Signature::of_floats(&[2], 1);
        assert!(Class::of(&floats.inputs, &[Column::of_floats(2, vec![0.0, 1.0])]).is_only());
    }
}
