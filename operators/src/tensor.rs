//! Numbers of a type that is known at run time, in columns: what a model takes and gives, whatever its types.
//!
//! A [`Column`] is one input or one output of several rows: each row has the same axes, and the numbers of the rows stand one row after
//! the other, wherever the model itself has its batch axis.

use half::f16;
use serde::{Deserialize, Serialize};

mod number;

pub use number::Number;

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// A float of 16 bits (IEEE 754 binary16).
    F16,
    /// A float of 32 bits.
    F32,
    /// A float of 64 bits.
    F64,
    /// A whole number of 8 bits, with a sign.
    I8,
    /// A whole number of 16 bits, with a sign.
    I16,
    /// A whole number of 32 bits, with a sign.
    I32,
    /// A whole number of 64 bits, with a sign.
    I64,
    /// A whole number of 8 bits.
    U8,
    /// A whole number of 16 bits.
    U16,
    /// A whole number of 32 bits.
    U32,
    /// A whole number of 64 bits.
    U64,
    /// `true` or `false`; as bytes, 1 or 0.
    Bool,
}

/// Every type.
pub const DTYPES: [Dtype; 12] = [
    Dtype::F16,
    Dtype::F32,
    Dtype::F64,
    Dtype::I8,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::U8,
    Dtype::U16,
    Dtype::U32,
    Dtype::U64,
    Dtype::Bool,
];

impl Dtype {
    /// Its name in headers and messages: `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::Bool => "bool",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether a number of this type can be NaN or an infinity.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Numbers of one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant holds the numbers of the type of its name")]
pub enum Values {
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Bool(Vec<bool>),
}

/// Does the same with the numbers of whatever type they are of: `$numbers` is the `Vec` of them in `$body`.
#[macro_export]
macro_rules! with_numbers {
    ($values:expr, $numbers:ident => $body:expr) => {
        match $values {
            $crate::tensor::Values::F16($numbers) => $body,
            $crate::tensor::Values::F32($numbers) => $body,
            $crate::tensor::Values::F64($numbers) => $body,
            $crate::tensor::Values::I8($numbers) => $body,
            $crate::tensor::Values::I16($numbers) => $body,
            $crate::tensor::Values::I32($numbers) => $body,
            $crate::tensor::Values::I64($numbers) => $body,
            $crate::tensor::Values::U8($numbers) => $body,
            $crate::tensor::Values::U16($numbers) => $body,
            $crate::tensor::Values::U32($numbers) => $body,
            $crate::tensor::Values::U64($numbers) => $body,
            $crate::tensor::Values::Bool($numbers) => $body,
        }
    };
}

impl Values {
    /// No numbers yet, of this type.
    pub fn new(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16(Vec::new()),
            Dtype::F32 => Self::F32(Vec::new()),
            Dtype::F64 => Self::F64(Vec::new()),
            Dtype::I8 => Self::I8(Vec::new()),
            Dtype::I16 => Self::I16(Vec::new()),
            Dtype::I32 => Self::I32(Vec::new()),
            Dtype::I64 => Self::I64(Vec::new()),
            Dtype::U8 => Self::U8(Vec::new()),
            Dtype::U16 => Self::U16(Vec::new()),
            Dtype::U32 => Self::U32(Vec::new()),
            Dtype::U64 => Self::U64(Vec::new()),
            Dtype::Bool => Self::Bool(Vec::new()),
        }
    }

    /// The type.
    pub fn dtype(&self) -> Dtype {
        fn of<N: Number>(_: &[N]) -> Dtype {
            N::DTYPE
        }
        with_numbers!(self, numbers => of(numbers))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        with_numbers!(self, numbers => numbers.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, numbers: usize) {
        with_numbers!(self, vec => vec.reserve(numbers));
    }

    /// Forgets all but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        with_numbers!(self, numbers => numbers.truncate(len));
    }

    /// Forgets all of them, and is of this type from now on; the room stays where the type does.
    pub fn reset(&mut self, dtype: Dtype) {
        if self.dtype() == dtype {
            self.truncate(0);
        } else {
            *self = Self::new(dtype);
        }
    }

    /// Appends so many zeros.
    pub fn push_zeros(&mut self, zeros: usize) {
        fn push<N: Number>(numbers: &mut Vec<N>, zeros: usize) {
            numbers.resize(numbers.len() + zeros, N::default());
        }
        with_numbers!(self, numbers => push(numbers, zeros));
    }

    /// Appends those of `from` that are in `range`.
    ///
    /// # Panics
    ///
    /// If they are of another type.
    pub fn push_of(&mut self, from: &Self, range: std::ops::Range<usize>) {
        fn push<N: Number>(numbers: &mut Vec<N>, from: &Values, range: std::ops::Range<usize>) {
            numbers.extend_from_slice(&from.numbers::<N>()[range]);
        }
        with_numbers!(self, numbers => push(numbers, from, range));
    }

    /// Appends numbers from their little-endian bytes. `false`, and nothing is appended, if the bytes are none of this type: a part of
    /// a number is left over, or a `bool` is neither 0 nor 1.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        fn push<N: Number>(numbers: &mut Vec<N>, bytes: &[u8]) -> bool {
            let before = numbers.len();
            let whole = N::push_bytes(numbers, bytes);
            if !whole {
                numbers.truncate(before);
            }
            whole
        }
        with_numbers!(self, numbers => push(numbers, bytes))
    }

    /// Whether those in `range` are all finite. Whole numbers are.
    pub fn are_finite(&self, range: std::ops::Range<usize>) -> bool {
        match self {
            Self::F16(numbers) => numbers[range].iter().all(|number| number.is_finite()),
            Self::F32(numbers) => numbers[range].iter().all(|number| number.is_finite()),
            Self::F64(numbers) => numbers[range].iter().all(|number| number.is_finite()),
            _ => true,
        }
    }

    /// The float nearest to a number; a truth is 1 or 0.
    #[expect(clippy::cast_precision_loss, reason = "the nearest is what is asked for")]
    pub fn as_f64(&self, index: usize) -> f64 {
        match self {
            Self::F16(numbers) => numbers[index].into(),
            Self::F32(numbers) => numbers[index].into(),
            Self::F64(numbers) => numbers[index],
            Self::I8(numbers) => numbers[index].into(),
            Self::I16(numbers) => numbers[index].into(),
            Self::I32(numbers) => numbers[index].into(),
            Self::I64(numbers) => numbers[index] as f64,
            Self::U8(numbers) => numbers[index].into(),
            Self::U16(numbers) => numbers[index].into(),
            Self::U32(numbers) => numbers[index].into(),
            Self::U64(numbers) => numbers[index] as f64,
            Self::Bool(truths) => f64::from(u8::from(truths[index])),
        }
    }

    /// The numbers.
    ///
    /// # Panics
    ///
    /// If they are of another type.
    pub fn numbers<N: Number>(&self) -> &[N] {
        N::of(self).unwrap_or_else(|| panic!("numbers of type {} and not {}", self.dtype(), N::DTYPE))
    }
}

/// One input or output of several rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The axes of a row, without that of the batch.
    pub axes: Vec<usize>,
    /// The numbers of the rows, one row after the other.
    pub values: Values,
}

impl Column {
    /// A column without rows.
    pub fn new(axes: Vec<usize>, dtype: Dtype) -> Self {
        Self { axes, values: Values::new(dtype) }
    }

    /// A column of rows of 32-bit floats with one axis.
    pub fn of_floats(row_len: usize, floats: Vec<f32>) -> Self {
        Self { axes: vec![row_len], values: Values::F32(floats) }
    }

    /// Numbers a row.
    pub fn row_len(&self) -> usize {
        self.axes.iter().product()
    }

    /// The numbers of a row within all of them.
    pub fn place(&self, row: usize) -> std::ops::Range<usize> {
        let row_len = self.row_len();
        row * row_len..(row + 1) * row_len
    }

    /// Forgets its rows, and is from now on of this type.
    pub fn reset(&mut self, axes: &[usize], dtype: Dtype) {
        self.axes.clear();
        self.axes.extend_from_slice(axes);
        self.values.reset(dtype);
    }

    /// The numbers, which are 32-bit floats.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub fn floats(&self) -> &[f32] {
        self.values.numbers()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_type_has_a_name_and_a_size_of_its_own() {
        let names: std::collections::BTreeSet<_> = DTYPES.iter().map(|dtype| dtype.name()).collect();
        assert_eq!(names.len(), DTYPES.len());
        for dtype in DTYPES {
            let mut values = Values::new(dtype);
            assert_eq!((values.dtype(), values.is_empty()), (dtype, true));
            assert!(values.push_bytes(&vec![0; 3 * dtype.bytes()]), "{dtype}");
            values.push_zeros(2);
            assert_eq!(values.len(), 5);
            assert!(values.are_finite(0..5));
        }
    }

    proptest! {
        /// Bytes become numbers and numbers bytes, to the bit; what is no whole number leaves nothing behind.
        #[test]
        fn bytes_go_round(place in 0..DTYPES.len(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut values = Values::new(DTYPES[place]);
            values.push_zeros(1);
            let size = DTYPES[place].bytes();
            let whole = bytes.len().is_multiple_of(size);
            let fits = whole && (DTYPES[place] != Dtype::Bool || bytes.iter().all(|byte| *byte <= 1));
            prop_assert_eq!(values.push_bytes(&bytes), fits);
            prop_assert_eq!(values.len(), if fits { 1 + bytes.len() / size } else { 1 });
            let mut written = Vec::new();
            with_numbers!(&values, numbers => numbers.iter().skip(1).for_each(|number| number.write(&mut written)));
            prop_assert_eq!(written, if fits { bytes } else { Vec::new() });
        }

        #[test]
        fn rows_of_a_column_are_told_apart(axes in prop::collection::vec(1_usize..4, 0..4), row in 0_usize..5) {
            let column = Column::new(axes.clone(), Dtype::I64);
            let len: usize = axes.iter().product();
            prop_assert_eq!(column.place(row), row * len..row * len + len);
        }
    }

    #[test]
    fn of_floats_that_are_not_finite_the_place_matters() {
        let values = Values::F16(vec![f16::ONE, f16::NAN]);
        assert!(values.are_finite(0..1) && !values.are_finite(0..2));
        assert!(!Values::F64(vec![f64::INFINITY]).are_finite(0..1));
        assert!(Values::U64(vec![u64::MAX]).are_finite(0..1));
    }
}
