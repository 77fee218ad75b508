//! The tensors of a request to a model of any inputs: read for the tools around the engine, by another road than the engine's own.

use std::collections::BTreeMap;
use std::fmt;

use half::f16;
use operators::codec::form::Form;
use operators::records::RecordView;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::tensor::{AXES_MAX, shape, text};
use super::{RequestError, open_inference, text as text_of};

/// A number of a request, as exactly as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "Literal")]
pub enum Number {
    /// A whole number.
    Whole(i128),
    /// Any other number, also one that is not finite.
    Float(f64),
    /// `true` or `false`.
    Truth(bool),
}

impl Number {
    /// The nearest float; a truth is 1 or 0.
    #[expect(clippy::cast_precision_loss, reason = "the nearest is what is asked for")]
    pub fn float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
            Self::Truth(truth) => f64::from(u8::from(truth)),
        }
    }
}

/// A number as `serde_json` reads it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Literal {
    Truth(bool),
    Positive(u64),
    Negative(i64),
    Float(f64),
}

impl From<Literal> for Number {
    fn from(literal: Literal) -> Self {
        match literal {
            Literal::Truth(truth) => Self::Truth(truth),
            Literal::Positive(whole) => Self::Whole(whole.into()),
            Literal::Negative(whole) => Self::Whole(whole.into()),
            Literal::Float(float) => Self::Float(float),
        }
    }
}

/// One tensor of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The input that it is for, where the request names it.
    pub name: Option<String>,
    /// The type of its numbers, where the request tells it.
    pub dtype: Option<String>,
    /// Its axes, where the request tells them.
    pub shape: Option<Vec<usize>>,
    /// Whether the batch's is among them.
    pub batch: bool,
    /// Whether it holds what is no number of its type, or not as many as its axes say: then it can only be refused.
    pub foreign: bool,
    /// Its numbers in C order.
    pub numbers: Vec<Number>,
}

/// Reads the tensors of a record, in the form that its content type says.
///
/// # Errors
///
/// If it has none, or they are not what their form says.
pub fn tensors(record: RecordView<'_>) -> Result<Vec<Tensor>, RequestError> {
    match Form::of(record) {
        Some(Form::Json) => of_json(record.value().unwrap_or_default()),
        Some(Form::Tensor) => of_bytes(record),
        Some(Form::OpenInference) => open_inference::read(record, false).map(|request| request.tensors),
        Some(Form::OpenInferenceBinary) => open_inference::read(record, true).map(|request| request.tensors),
        None => Err(RequestError::UnsupportedType("a form that is none of its own".to_owned())),
    }
}

/// Reads `input` or `inputs` of a JSON object.
pub(super) fn of_json(value: &[u8]) -> Result<Vec<Tensor>, RequestError> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default, deserialize_with = "not_null")]
        input: Option<Written>,
        #[serde(default, deserialize_with = "not_null")]
        inputs: Option<Named>,
    }
    let wrong = |why: String| RequestError::Undecodable(why);
    let wire: Wire = serde_json::from_str(text_of(value)?).map_err(|error| wrong(error.to_string()))?;
    match (wire.input, wire.inputs) {
        (Some(input), None) => Ok(vec![input.tensor(None)]),
        (None, Some(Named(inputs))) if !inputs.is_empty() => {
            Ok(inputs.into_iter().map(|(name, input)| input.tensor(Some(name))).collect())
        }
        _ => Err(wrong("it has no input, or both `input` and `inputs`".to_owned())),
    }
}

/// What is there, if it is there: `null` is no way to leave it out.
pub(super) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A tensor as JSON has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Single(Number),
    Array(Vec<Number>),
    Shaped(Shaped),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shaped {
    #[serde(deserialize_with = "axes")]
    shape: Vec<usize>,
    data: Vec<Number>,
}

/// The axes of a tensor, of which there are not too many.
fn axes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let axes = Vec::deserialize(deserializer)?;
    if axes.len() > AXES_MAX { Err(D::Error::custom("a tensor has too many axes")) } else { Ok(axes) }
}

impl Written {
    fn tensor(self, name: Option<String>) -> Tensor {
        let (shape, numbers) = match self {
            Self::Single(number) => (None, vec![number]),
            Self::Array(numbers) => (None, numbers),
            Self::Shaped(Shaped { shape, data }) => (Some(shape), data),
        };
        Tensor { name, dtype: None, shape, batch: false, foreign: false, numbers }
    }
}

/// Tensors by name, each once.
struct Named(BTreeMap<String, Written>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Named;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut inputs: A) -> Result<Named, A::Error> {
                let mut named = BTreeMap::new();
                while let Some((name, input)) = inputs.next_entry::<String, Written>()? {
                    if named.insert(name, input).is_some() {
                        return Err(A::Error::custom("an input is there twice"));
                    }
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// Reads the tensors that stand one behind the other in a value.
pub(super) fn of_bytes(record: RecordView<'_>) -> Result<Vec<Tensor>, RequestError> {
    let (dtypes, shapes) = (text(record, b"dtype")?, text(record, b"shape")?);
    let (dtypes, shapes): (Vec<&str>, Vec<&str>) = (dtypes.split(';').collect(), shapes.split(';').collect());
    let wrong = || RequestError::Undecodable("the value has not the length that its headers say".to_owned());
    if dtypes.len() != shapes.len() {
        return Err(RequestError::Undecodable("`dtype` and `shape` are of several tensors each".to_owned()));
    }
    let mut rest = record.value().unwrap_or_default();
    let mut tensors = Vec::new();
    for (dtype, shape_text) in dtypes.into_iter().zip(shapes) {
        let dtype = dtype.trim();
        let size = size_of(dtype)
            .ok_or_else(|| RequestError::UnsupportedType(format!("numbers of type {dtype:?}")))?;
        let shape = shape(shape_text.trim())?;
        let bytes = shape.iter().try_fold(size, |product: usize, axis| product.checked_mul(*axis));
        let (own, others) = bytes.and_then(|bytes| rest.split_at_checked(bytes)).ok_or_else(wrong)?;
        rest = others;
        let numbers = own.chunks(size).map(|bytes| number(dtype, bytes)).collect::<Option<Vec<_>>>();
        let numbers =
            numbers.ok_or_else(|| RequestError::Undecodable("a bool is neither 0 nor 1".to_owned()))?;
        let dtype = Some(dtype.to_owned());
        tensors.push(Tensor { name: None, dtype, shape: Some(shape), batch: false, foreign: false, numbers });
    }
    if rest.is_empty() { Ok(tensors) } else { Err(wrong()) }
}

/// Bytes of a number of this type, if there is such a type.
pub(super) fn size_of(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "i8" | "u8" | "bool" => 1,
        "f16" | "i16" | "u16" => 2,
        "f32" | "i32" | "u32" => 4,
        "f64" | "i64" | "u64" => 8,
        _ => return None,
    })
}

/// The number whose little-endian bytes these are; `None` if they are a `bool` that is neither 0 nor 1.
pub fn number(dtype: &str, bytes: &[u8]) -> Option<Number> {
    let bits = bytes.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let unused = 64 - 8 * u32::try_from(bytes.len()).ok()?;
    let signed = (bits << unused).cast_signed() >> unused;
    Some(match dtype {
        "bool" if bits > 1 => return None,
        "bool" => Number::Truth(bits == 1),
        "f16" => Number::Float(f16::from_bits(u16::try_from(bits).ok()?).into()),
        "f32" => Number::Float(f32::from_bits(u32::try_from(bits).ok()?).into()),
        "f64" => Number::Float(f64::from_bits(bits)),
        unsigned if unsigned.starts_with('u') => Number::Whole(bits.into()),
        _ => Number::Whole(signed.into()),
    })
}

#[cfg(test)]
mod tests {
    use operators::records::Records;

    use super::*;

    #[test]
    fn tensors_are_read_from_json_as_they_are_written() {
        let read = |inputs: &str| {
            let value = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m",{inputs}}}"#);
            of_json(value.as_bytes())
        };
        let all = read(r#""inputs":{"a":9007199254740993,"b":{"shape":[1,2],"data":[0.5,true]}}"#).unwrap();
        let tensor = |name: &str, shape: Option<Vec<usize>>, numbers| Tensor {
            name: Some(name.to_owned()),
            dtype: None,
            shape,
            batch: false,
            foreign: false,
            numbers,
        };
        let expected = [
            tensor("a", None, vec![Number::Whole(9_007_199_254_740_993)]),
            tensor("b", Some(vec![1, 2]), vec![Number::Float(0.5), Number::Truth(true)]),
        ];
        assert_eq!(all, expected);
        for wrong in [
            r#""input":"x""#,
            r#""inputs":[1]"#,
            r#""input":1,"inputs":{}"#,
            r#""input":{"data":[1]}"#,
            r#""x":1"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tensors_are_read_from_bytes_as_the_engine_reads_them() {
        use operators::tensor::{DTYPES, Values};
        for dtype in DTYPES {
            for byte in [0_u8, 1, 0x3c, 0x7f, 0x80, 0xbc, 0xff] {
                let bytes = vec![byte; dtype.bytes()];
                let mut values = Values::new(dtype);
                let whole = values.push_bytes(&bytes);
                let ours = number(dtype.name(), &bytes);
                assert_eq!(ours.is_some(), whole, "{dtype} {byte}");
                if let Some(ours) = ours.map(Number::float) {
                    let theirs = values.as_f64(0);
                    assert!(
                        ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                        "{dtype} {byte}: {ours} {theirs}"
                    );
                }
            }
        }
        let mut records = Records::default();
        records.push(None, Some(&[1, 0, 0xff]));
        for (name, value) in [("dtype", "i16; i8"), ("shape", "1;")] {
            records.push_header(name.as_bytes(), Some(value.as_bytes()));
        }
        let read: Vec<Vec<Number>> =
            of_bytes(records.get(0)).unwrap().into_iter().map(|tensor| tensor.numbers).collect();
        assert_eq!(read, [[Number::Whole(1)], [Number::Whole(-1)]]);
    }
}
