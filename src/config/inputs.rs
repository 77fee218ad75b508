//! What can be said of an input of a model: axes and numbers.

use std::fmt;

use operators::codec::x_tensor::AXES_MAX;
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The place of the batch axis, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchAxis(pub(super) Option<usize>);

/// The axes of a row, none of them 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axes(pub(super) Vec<usize>);

/// A number or a truth, which is 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number(pub(super) f64);

impl<'de> Deserialize<'de> for BatchAxis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl Visitor<'_> for Place {
            type Value = BatchAxis;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "the place of an axis from 0 to {}, or \"none\"", AXES_MAX - 1)
            }

            fn visit_i64<E: de::Error>(self, place: i64) -> Result<BatchAxis, E> {
                let axis = usize::try_from(place).ok().filter(|place| *place < AXES_MAX);
                let axis = axis.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(place), &self))?;
                Ok(BatchAxis(Some(axis)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BatchAxis, E> {
                if text == "none" {
                    Ok(BatchAxis(None))
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(text), &self))
                }
            }
        }
        deserializer.deserialize_any(Place)
    }
}

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let axes = Vec::<i64>::deserialize(deserializer)?;
        let whole = axes.iter().map(|axis| usize::try_from(*axis).ok().filter(|axis| *axis > 0)).collect();
        let whole: Option<Vec<usize>> = whole;
        whole.filter(|axes| axes.len() <= AXES_MAX).map(Self).ok_or_else(|| {
            de::Error::custom(format!("{axes:?} are not up to {AXES_MAX} axes of 1 or more each"))
        })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Finite;
        impl Visitor<'_> for Finite {
            type Value = Number;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, or true or false")
            }

            #[expect(clippy::cast_precision_loss, reason = "it is checked against the type of the input")]
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                if number.is_finite() {
                    Ok(Number(number))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(number), &self))
                }
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Number, E> {
                Ok(Number(f64::from(u8::from(truth))))
            }
        }
        deserializer.deserialize_any(Finite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::written::InputFile;

    fn read(text: &str) -> Result<InputFile, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn axes_and_numbers_are_read() {
        let all = read("batch_axis = 1\nshape = [2, 128]\nsample = []\nvalue = 16000").unwrap();
        assert_eq!((all.batch_axis, all.shape), (Some(BatchAxis(Some(1))), Some(Axes(vec![2, 128]))));
        assert_eq!((all.sample, all.value), (Some(Axes(vec![])), Some(Number(16_000.0))));
        assert_eq!(read("batch_axis = \"none\"").unwrap().batch_axis, Some(BatchAxis(None)));
        assert_eq!(read("value = 0.5").unwrap().value, Some(Number(0.5)));
        assert_eq!(read("value = true").unwrap().value, Some(Number(1.0)));
    }

    #[test]
    fn what_is_no_axis_and_no_number_is_refused() {
        for (text, reason) in [
            ("batch_axis = -1", "expected the place of an axis from 0 to 15"),
            ("batch_axis = 16", "expected the place of an axis from 0 to 15"),
            ("batch_axis = \"all\"", "or \"none\""),
            ("shape = [0]", "[0] are not up to 16 axes of 1 or more each"),
            ("sample = [-1]", "are not up to 16 axes"),
            ("value = \"1\"", "expected a number, or true or false"),
            ("value = nan", "expected a number, or true or false"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }
}
