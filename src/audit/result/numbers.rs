//! The numbers of a result's JSON, in each of the ways in which outputs are written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The numbers of one output: an array of them, or an object that tells the axes too. What is not finite is `null` and nothing here; a
/// truth is 1 or 0.
#[derive(Debug)]
pub(super) struct Numbers(pub(super) Vec<Option<f64>>);

/// The numbers of several outputs, one behind the other as they are written.
#[derive(Debug)]
pub(super) struct Outputs(pub(super) Vec<Option<f64>>);

struct Scalar(f64);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Numbers;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of numbers, or an object of `shape` and `data`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Numbers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = elements.next_element::<Option<Scalar>>()? {
                    numbers.push(number.map(|Scalar(number)| number));
                }
                Ok(Numbers(numbers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Numbers, A::Error> {
                let (mut shape, mut data) = (None, None);
                while let Some(key) = fields.next_key::<String>()? {
                    match key.as_str() {
                        "shape" => shape = Some(fields.next_value::<Vec<usize>>()?),
                        "data" => data = Some(fields.next_value::<Numbers>()?),
                        _ => fields.next_value::<IgnoredAny>().map(drop)?,
                    }
                }
                let (Some(shape), Some(data)) = (shape, data) else {
                    return Err(A::Error::custom("a tensor has `shape` and `data`"));
                };
                if shape.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis))
                    != Some(data.0.len())
                {
                    return Err(A::Error::custom("a tensor has other numbers than its `shape` says"));
                }
                Ok(data)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Outputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Outputs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of outputs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut outputs: A) -> Result<Outputs, A::Error> {
                let mut all = Vec::new();
                while let Some(Numbers(numbers)) =
                    outputs.next_entry::<String, Numbers>()?.map(|(_, numbers)| numbers)
                {
                    all.extend(numbers);
                }
                Ok(Outputs(all))
            }
        }
        deserializer.deserialize_map(Named)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, true or false")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number))
            }

            #[expect(clippy::cast_precision_loss, reason = "numbers are compared with a tolerance")]
            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number as f64))
            }

            #[expect(clippy::cast_precision_loss, reason = "numbers are compared with a tolerance")]
            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number as f64))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Scalar, E> {
                Ok(Scalar(f64::from(u8::from(truth))))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_an_array_or_an_object() {
        let read = |json: &str| serde_json::from_str(json).map(|Numbers(numbers)| numbers);
        let expected = [Some(0.5), None, Some(1.0), Some(-2.0)];
        assert_eq!(read("[0.5,null,true,-2]").unwrap(), expected);
        assert_eq!(read(r#"{"shape":[2,2],"data":[0.5,null,true,-2]}"#).unwrap(), expected);
        for wrong in [r#"{"shape":[3],"data":[1]}"#, r#"{"data":[1]}"#, r#"["1"]"#, "1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn several_stand_in_the_order_in_which_they_are_written() {
        let read = |json: &str| serde_json::from_str(json).map(|Outputs(numbers)| numbers);
        let written = r#"{"z":{"shape":[1],"data":[2]},"a":{"shape":[],"data":[null]}}"#;
        assert_eq!(read(written).unwrap(), [Some(2.0), None]);
        assert!(read("[1]").is_err());
    }
}
