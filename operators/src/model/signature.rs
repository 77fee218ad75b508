//! What a model takes and gives.

use serde::{Deserialize, Serialize};

use super::Buckets;
use crate::tensor::{Column, Dtype};

/// An input or an output of a model, as a request or a result has it: one row's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// The axes of a row, without that of the batch; `None` for one that may be of another length in each row.
    pub axes: Vec<Option<usize>>,
    /// Where in the model the axis of the batch stands among these. `None` for an input that is not batched: it is the same for every row of
    /// a batch.
    pub batch_axis: Option<usize>,
}

impl TensorSpec {
    /// The axes of every row, if all rows have the same.
    pub fn fixed(&self) -> Option<Vec<usize>> {
        self.axes.iter().copied().collect()
    }

    /// Numbers a row, if all rows have as many.
    pub fn row_len(&self) -> Option<usize> {
        self.axes.iter().copied().product()
    }

    /// Whether each row has its own.
    pub fn is_batched(&self) -> bool {
        self.batch_axis.is_some()
    }

    /// The axes that a batch of one row has in the model.
    ///
    /// ```
    /// use operators::model::TensorSpec;
    /// use operators::tensor::Dtype;
    ///
    /// let axes = vec![Some(2), Some(128)];
    /// let state = TensorSpec { name: "state".to_owned(), dtype: Dtype::F32, axes, batch_axis: Some(1) };
    /// assert_eq!(state.batch_of_one(&[2, 128]), [2, 1, 128]);
    /// assert_eq!(state.row_of(&[2, 1, 128]), Some(vec![2, 128]));
    /// assert_eq!(state.row_of(&[1, 2, 128]), None);
    /// ```
    pub fn batch_of_one(&self, axes: &[usize]) -> Vec<usize> {
        let mut all = axes.to_vec();
        all.extend(self.batch_axis.map(|_| 1));
        if let Some(axis) = self.batch_axis {
            all[axis.min(axes.len())..].rotate_right(1);
        }
        all
    }

    /// The axes of the row in a batch of one that has these; `None` if they are of no such batch. Whether the row fits is another question.
    pub fn row_of(&self, batch: &[usize]) -> Option<Vec<usize>> {
        let mut axes = batch.to_vec();
        if let Some(axis) = self.batch_axis {
            (axes.get(axis) == Some(&1)).then(|| axes.remove(axis))?;
        }
        Some(axes)
    }

    /// Whether a row may have these axes. None of them is nothing: a tensor without numbers in it asks nothing.
    pub fn fits(&self, axes: &[usize]) -> bool {
        let fits = |(own, axis): (&Option<usize>, &usize)| own.is_none_or(|own| own == *axis) && *axis > 0;
        self.axes.len() == axes.len() && self.axes.iter().zip(axes).all(fits)
    }

    /// The axes of a row of so many numbers that does not tell them: no more than one may be of any length.
    pub fn axes_of(&self, numbers: usize) -> Option<Vec<usize>> {
        let known: usize = self.axes.iter().flatten().product();
        let open = self.axes.iter().filter(|axis| axis.is_none()).count();
        let rest = numbers.checked_div(known).filter(|rest| rest * known == numbers && *rest > 0)?;
        (open == 1 || (open == 0 && rest == 1))
            .then(|| self.axes.iter().map(|axis| axis.unwrap_or(rest)).collect())
    }
}

impl std::fmt::Display for TensorSpec {
    /// Its name, type and axes: `pixels f32[3, ?, ?]`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axis = |axis: &Option<usize>| axis.map_or("?".to_owned(), |axis| axis.to_string());
        let axes: Vec<String> = self.axes.iter().map(axis).collect();
        write!(formatter, "{} {}[{}]", self.name, self.dtype, axes.join(", "))
    }
}

/// What a loaded model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Its inputs, in the order in which the file has them; without those that the configuration has given a value.
    pub inputs: Vec<TensorSpec>,
    /// The outputs that are served, in the order in which the file has them.
    pub outputs: Vec<TensorSpec>,
    /// For each input the axes of a row of zeros that is known to run.
    pub sample: Vec<Vec<usize>>,
    /// The execution providers that took effect, in order.
    pub providers: Vec<String>,
    /// The sizes that its batches are run at.
    pub buckets: Buckets,
}

impl Signature {
    /// One input and one output, each of 32-bit floats: `row_shape` are the axes of an input row, and an output row has `output_len`.
    pub fn of_floats(row_shape: &[usize], output_len: usize) -> Self {
        let spec = |name: &str, axes: &[usize]| TensorSpec {
            name: name.to_owned(),
            dtype: Dtype::F32,
            axes: axes.iter().copied().map(Some).collect(),
            batch_axis: Some(0),
        };
        Self {
            inputs: vec![spec("input", row_shape)],
            outputs: vec![spec("output", &[output_len])],
            sample: vec![row_shape.to_vec()],
            providers: Vec::new(),
            buckets: Buckets::exact(),
        }
    }

    /// Whether all rows may run together: each has its own of every input, and all have the same axes.
    pub fn is_uniform(&self) -> bool {
        self.inputs.iter().all(|input| input.is_batched() && input.axes.iter().all(Option::is_some))
    }

    /// Numbers a row, if the model has one input, of 32-bit floats, and takes rows of that length alone.
    pub fn floats(&self) -> Option<usize> {
        match &self.inputs[..] {
            [input] if input.dtype == Dtype::F32 && self.is_uniform() => input.row_len(),
            _ => None,
        }
    }

    /// Bytes of all inputs of a row that is known to run.
    pub fn row_bytes(&self) -> usize {
        let bytes =
            |(input, axes): (&TensorSpec, &Vec<usize>)| axes.iter().product::<usize>() * input.dtype.bytes();
        self.inputs.iter().zip(&self.sample).map(bytes).sum()
    }

    /// A column without rows for each input.
    pub fn columns(&self) -> Vec<Column> {
        self.inputs
            .iter()
            .zip(&self.sample)
            .map(|(input, axes)| Column::new(axes.clone(), input.dtype))
            .collect()
    }

    /// So many rows of zeros, of the axes that are known to run.
    pub fn zeros(&self, rows: usize) -> Vec<Column> {
        let mut columns = self.columns();
        for (column, input) in columns.iter_mut().zip(&self.inputs) {
            let rows = if input.is_batched() { rows } else { 1 };
            column.values.push_zeros(rows * column.row_len());
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(axes: Vec<Option<usize>>) -> TensorSpec {
        TensorSpec { name: "x".to_owned(), dtype: Dtype::I64, axes, batch_axis: Some(0) }
    }

    proptest! {
        /// Axes are guessed only where they are certain, and then they are of as many numbers and fit.
        #[test]
        fn axes_are_told_where_there_is_one_answer(
            axes in prop::collection::vec(prop::option::of(1_usize..5), 0..4), numbers in 0_usize..60,
        ) {
            let spec = spec(axes.clone());
            let found = spec.axes_of(numbers);
            let open = axes.iter().filter(|axis| axis.is_none()).count();
            let known: usize = axes.iter().flatten().product();
            match found {
                Some(found) => {
                    prop_assert!(spec.fits(&found) && open < 2);
                    prop_assert_eq!(found.iter().product::<usize>(), numbers);
                }
                None => prop_assert!(open > 1 || numbers == 0 || !numbers.is_multiple_of(known) || (open == 0 && numbers != known)),
            }
        }
    }

    #[test]
    fn a_row_fits_if_each_axis_does() {
        let image = spec(vec![Some(3), None, None]);
        assert!(image.fits(&[3, 48, 192]));
        assert!(!image.fits(&[3, 48]) && !image.fits(&[4, 48, 192]) && !image.fits(&[3, 0, 192]));
        assert_eq!((image.fixed(), image.row_len(), image.axes_of(27_648)), (None, None, None));
        assert_eq!(image.to_string(), "x i64[3, ?, ?]");
        assert_eq!((spec(vec![]).fixed(), spec(vec![]).row_len()), (Some(vec![]), Some(1)));
    }

    #[test]
    fn only_rows_of_the_same_axes_and_values_run_together() {
        let floats = Signature::of_floats(&[2, 3], 1);
        assert_eq!((floats.is_uniform(), floats.floats(), floats.row_bytes()), (true, Some(6), 24));
        let shared = TensorSpec { batch_axis: None, ..spec(vec![]) };
        let with_rate = Signature {
            inputs: [floats.inputs.clone(), vec![shared]].concat(),
            sample: vec![vec![2, 3], vec![]],
            ..floats
        };
        assert_eq!((with_rate.is_uniform(), with_rate.floats(), with_rate.row_bytes()), (false, None, 32));
        let lens: Vec<usize> = with_rate.zeros(4).iter().map(|column| column.values.len()).collect();
        assert_eq!(lens, [24, 1]);
    }
}
