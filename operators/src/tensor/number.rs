//! What every type of number has in common.

use std::fmt::Debug;

use half::f16;

use super::{Dtype, Values};

/// A number of one of the types that a tensor may have.
pub trait Number: Copy + Default + PartialEq + Debug + Send + Sync + 'static {
    /// The type.
    const DTYPE: Dtype;

    /// The numbers in `values`, if they are of this type.
    fn of(values: &Values) -> Option<&[Self]>;

    /// Appends the numbers whose little-endian bytes these are; `false` if they are none.
    fn push_bytes(numbers: &mut Vec<Self>, bytes: &[u8]) -> bool;

    /// Appends its little-endian bytes.
    fn write(self, out: &mut Vec<u8>);

    /// The number that a whole number of JSON is, if this type has it.
    fn of_integer(integer: i128) -> Option<Self>;

    /// The number nearest to this one, if this type has fractions; else the same number, if it is whole and this type has it.
    fn of_float(float: f64) -> Option<Self>;

    /// The number that `true` or `false` is, if this type has it.
    fn of_bool(truth: bool) -> Option<Self> {
        let _ = truth;
        None
    }
}

macro_rules! bytes_of {
    () => {
        fn push_bytes(numbers: &mut Vec<Self>, bytes: &[u8]) -> bool {
            let (whole, rest) = bytes.as_chunks::<{ size_of::<Self>() }>();
            numbers.extend(whole.iter().map(|bytes| Self::from_le_bytes(*bytes)));
            rest.is_empty()
        }

        fn write(self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
    };
}

macro_rules! variant_of {
    ($variant:ident) => {
        const DTYPE: Dtype = Dtype::$variant;

        fn of(values: &Values) -> Option<&[Self]> {
            match values {
                Values::$variant(numbers) => Some(numbers),
                _ => None,
            }
        }
    };
}

/// The largest whole number up to which an `f64` has all of them.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

macro_rules! integer {
    ($($number:ty: $variant:ident),*) => {
        $(impl Number for $number {
            variant_of!($variant);
            bytes_of!();

            fn of_integer(integer: i128) -> Option<Self> {
                Self::try_from(integer).ok()
            }

            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and not too large")]
            fn of_float(float: f64) -> Option<Self> {
                let whole = float.fract() == 0.0 && float.abs() <= WHOLE_MAX;
                if whole { Self::of_integer(float as i128) } else { None }
            }
        })*
    };
}

integer!(i8: I8, i16: I16, i32: I32, i64: I64, u8: U8, u16: U16, u32: U32, u64: U64);

macro_rules! float {
    ($($number:ty: $variant:ident from $narrow:expr),*) => {
        $(impl Number for $number {
            variant_of!($variant);
            bytes_of!();

            #[expect(clippy::cast_precision_loss, reason = "the nearest is what a float stands for")]
            fn of_integer(integer: i128) -> Option<Self> {
                Self::of_float(integer as f64)
            }

            #[allow(clippy::cast_possible_truncation, reason = "what is too large becomes an infinity")]
            fn of_float(float: f64) -> Option<Self> {
                let narrow = $narrow;
                Some(narrow(float))
            }
        })*
    };
}

float!(f16: F16 from f16::from_f64, f32: F32 from |float: f64| float as f32, f64: F64 from |float: f64| float);

impl Number for bool {
    variant_of!(Bool);

    fn push_bytes(numbers: &mut Vec<Self>, bytes: &[u8]) -> bool {
        numbers.extend(bytes.iter().map(|byte| *byte == 1));
        bytes.iter().all(|byte| *byte <= 1)
    }

    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }

    fn of_integer(integer: i128) -> Option<Self> {
        match integer {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn of_float(_: f64) -> Option<Self> {
        None
    }

    fn of_bool(truth: bool) -> Option<Self> {
        Some(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_json_is_taken_exactly_or_not_at_all_by_whole_numbers() {
        assert_eq!(i8::of_integer(-128), Some(-128));
        assert_eq!(i8::of_integer(128), None);
        assert_eq!(i64::of_integer(i128::from(i64::MAX)), Some(i64::MAX));
        assert_eq!(u8::of_float(255.0), Some(255));
        assert_eq!((u8::of_float(0.5), u8::of_float(256.0), u8::of_float(f64::NAN)), (None, None, None));
        assert_eq!((i64::of_float(1e15), i64::of_float(1e16)), (Some(1_000_000_000_000_000), None));
    }

    #[test]
    fn a_float_takes_the_nearest_and_a_truth_only_what_it_is() {
        assert_eq!(f32::of_float(0.1), Some(0.1));
        assert_eq!(f16::of_float(0.1), Some(f16::from_f32(0.1)));
        assert_eq!(f16::of_float(1e6), Some(f16::INFINITY));
        assert_eq!(
            (bool::of_integer(1), bool::of_integer(2), bool::of_bool(true)),
            (Some(true), None, Some(true))
        );
        assert_eq!((f32::of_bool(true), bool::of_float(1.0)), (None, None));
    }
}
