//! A request, as its bytes say it, in whatever form: for the tools around the engine.
//!
//! The engine has decoders of its own. That the tools read requests by another road is meant: the one checks the other.

use std::collections::BTreeMap;

use operators::codec::form::{CONTENT_TYPE, Form};
use operators::records::RecordView;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

mod open_inference;
mod tensor;
mod tensors;

pub use open_inference::{dtype, numbers_in};
pub use tensors::{Number, Tensor, number, tensors};

/// The header that names a request's model.
pub const MODEL_ID: &[u8] = b"model_id";

/// The fields that every request has.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's name for the request; not empty.
    pub request_id: String,
    /// Who asks; not empty.
    pub tenant_id: String,
    /// The model that is asked.
    pub model_id: String,
    /// The row, flattened in C order. A number that no `f32` can hold is an infinity. Empty if the request gives its inputs in a way that
    /// only [`tensors`] reads.
    pub input: Vec<f32>,
    /// The shape of the row, where the form of the request tells it.
    pub shape: Option<Vec<usize>>,
    /// The same where `input` is empty: what is not one array of floats.
    pub tensors: Vec<Tensor>,
}

/// The JSON of a request, its numbers read as `N`.
#[derive(Deserialize)]
struct Wire<N> {
    request_id: String,
    tenant_id: String,
    model_id: String,
    input: Vec<N>,
    #[serde(default, deserialize_with = "refuse")]
    inputs: (),
}

/// A field that must not be there.
fn refuse<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(D::Error::custom("`inputs` is there"))
}

impl Request {
    /// Reads a record in the form that its content type says.
    ///
    /// # Errors
    ///
    /// If it is not a request, and what is to blame.
    pub fn of(record: RecordView<'_>) -> Result<Self, RequestError> {
        match Form::of(record) {
            Some(Form::Json) => Self::read(record.value().unwrap_or_default()),
            Some(Form::Tensor) => tensor::read(record),
            Some(Form::OpenInference) => open_inference::read(record, false),
            Some(Form::OpenInferenceBinary) => open_inference::read(record, true),
            None => {
                let found = record.header(CONTENT_TYPE).flatten().unwrap_or_default();
                Err(RequestError::UnsupportedType(String::from_utf8_lossy(found).into_owned()))
            }
        }
    }

    /// Reads the value of a record, which is JSON.
    ///
    /// ```
    /// use tidemill::request::Request;
    ///
    /// let value = br#"{"request_id":"r1","tenant_id":"t1","model_id":"mlp-16","input":[0.5, 1]}"#;
    /// assert_eq!(Request::read(value).unwrap().input, [0.5, 1.0]);
    /// assert!(Request::read(b"{}").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// If the value is not a request, and which field is to blame.
    pub fn read(value: &[u8]) -> Result<Self, RequestError> {
        let value = text(value)?;
        // As `f32` each number is rounded once; `serde_json` refuses those that are too large, and they are to be told from what is no
        // request at all.
        let wire = serde_json::from_str::<Wire<f32>>(value)
            .or_else(|_| Wire::<f64>::read(value).map(Wire::<f64>::narrowed));
        let (wire, tensors) = match wire {
            Ok(wire) => (wire, Vec::new()),
            Err(error) => {
                let Ok(tensors) = tensors::of_json(value.as_bytes()) else { return Err(error) };
                (Wire::names(value)?, tensors)
            }
        };
        let Wire { request_id, tenant_id, model_id, input, inputs: () } = wire;
        let request = Self { request_id, tenant_id, model_id, input, shape: None, tensors };
        for (field, text) in [("request_id", &request.request_id), ("tenant_id", &request.tenant_id)] {
            if text.is_empty() {
                return Err(RequestError::Empty(field));
            }
        }
        Ok(request)
    }

    /// The key that the request is produced under: `tenant_id|model_id`.
    pub fn key(&self) -> String {
        format!("{}|{}", self.tenant_id, self.model_id)
    }
}

/// The text of an object. JSON is UTF-8, also where nobody looks, and `serde` would take an array for an object.
fn text(value: &[u8]) -> Result<&str, RequestError> {
    let text = std::str::from_utf8(value).map_err(|error| RequestError::Undecodable(error.to_string()))?;
    if text.trim_ascii_start().starts_with('{') {
        Ok(text)
    } else {
        Err(RequestError::Undecodable("it is not a JSON object".to_owned()))
    }
}

impl Wire<f32> {
    /// Everything but the input.
    fn names(value: &str) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        struct Names {
            request_id: String,
            tenant_id: String,
            model_id: String,
        }
        let names =
            serde_json::from_str(value).map_err(|error| RequestError::Undecodable(error.to_string()))?;
        let Names { request_id, tenant_id, model_id } = names;
        Ok(Self { request_id, tenant_id, model_id, input: Vec::new(), inputs: () })
    }
}

impl Wire<f64> {
    fn read(value: &str) -> Result<Self, RequestError> {
        serde_json::from_str(value).map_err(|error| RequestError::Undecodable(error.to_string()))
    }

    #[expect(clippy::cast_possible_truncation, reason = "what is too large becomes an infinity")]
    fn narrowed(self) -> Wire<f32> {
        let input = self.input.into_iter().map(|number| number as f32).collect();
        let Self { request_id, tenant_id, model_id, .. } = self;
        Wire { request_id, tenant_id, model_id, input, inputs: () }
    }
}

/// Why a value is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is not JSON, or a field is missing or of the wrong type.
    #[error("the value is not a request: {0}")]
    Undecodable(String),
    /// A field that must not be empty is.
    #[error("field `{0}` is empty")]
    Empty(&'static str),
    /// Its content type, or the type of its numbers, is not one that can be read.
    #[error("there is no way to read {0}")]
    UnsupportedType(String),
}

/// The names in a value that may not be a request, as far as it is a JSON object that has them as strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `request_id`
    pub request_id: Option<String>,
    /// `tenant_id`
    pub tenant_id: Option<String>,
    /// `model_id`
    pub model_id: Option<String>,
}

impl Names {
    /// The names in a record that may not be a request.
    pub fn of(record: RecordView<'_>) -> Self {
        match Form::of(record) {
            Some(Form::Tensor) => tensor::names(record),
            Some(Form::OpenInference) => open_inference::names(record, false),
            Some(Form::OpenInferenceBinary) => open_inference::names(record, true),
            Some(Form::Json) | None => Self::read(record.value().unwrap_or_default()),
        }
    }

    /// The names in `value`, which may be JSON.
    pub fn read(value: &[u8]) -> Self {
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(value) else {
            return Self::default();
        };
        let mut take = |name: &str| match fields.remove(name) {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        Self { request_id: take("request_id"), tenant_id: take("tenant_id"), model_id: take("model_id") }
    }
}

/// Checks the fields that a request in JSON may have: `metadata` from string to string, `enqueued_at` in RFC 3339.
///
/// # Errors
///
/// If one of them is of another kind, and which.
pub fn check_optional_fields(record: RecordView<'_>) -> Result<(), RequestError> {
    match Form::of(record) {
        Some(Form::Json) => check_optional_json(record.value().unwrap_or_default()),
        Some(_) | None => Ok(()),
    }
}

fn check_optional_json(value: &[u8]) -> Result<(), RequestError> {
    #[derive(Deserialize)]
    struct Optional {
        #[serde(rename = "metadata")]
        _metadata: Option<BTreeMap<String, String>>,
        enqueued_at: Option<String>,
    }
    let optional: Optional =
        serde_json::from_str(text(value)?).map_err(|error| RequestError::Undecodable(error.to_string()))?;
    match optional.enqueued_at.map(|text| text.parse::<jiff::Timestamp>()) {
        Some(Err(error)) => Err(RequestError::Undecodable(format!("field `enqueued_at`: {error}"))),
        Some(Ok(_)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field() {
        let without_tenant = br#"{"request_id":"r","model_id":"m","input":[]}"#;
        assert!(Request::read(without_tenant).unwrap_err().to_string().contains("`tenant_id`"));
        let without_id = br#"{"request_id":"","tenant_id":"t","model_id":"m","input":[]}"#;
        assert_eq!(Request::read(without_id), Err(RequestError::Empty("request_id")));
    }

    #[test]
    fn a_number_too_large_for_an_f32_is_an_infinity() {
        let value = br#"{"request_id":"r","tenant_id":"t","model_id":"m","input":[1e39, -1e39, 0.1]}"#;
        assert_eq!(Request::read(value).unwrap().input, [f32::INFINITY, f32::NEG_INFINITY, 0.1]);
    }

    #[test]
    fn a_request_is_an_object_in_utf_8() {
        assert!(Request::read(br#"["r","t","m",[1]]"#).is_err());
        let value = br#"{"request_id":"r","tenant_id":"t","model_id":"m","input":[],"x":"?"}"#;
        assert!(Request::read(value).is_ok());
        let broken: Vec<u8> = value.iter().map(|&byte| if byte == b'?' { 0xff } else { byte }).collect();
        assert!(Request::read(&broken).is_err());
    }

    #[test]
    fn names_are_read_from_what_is_no_request() {
        let names = Names::read(br#"{"request_id":"r","tenant_id":7,"input":"no"}"#);
        assert_eq!(names, Names { request_id: Some("r".into()), tenant_id: None, model_id: None });
        assert_eq!(Names::read(b"[1]"), Names::default());
    }

    #[test]
    fn optional_fields_are_checked_only_where_they_are() {
        assert_eq!(check_optional_json(br"{}"), Ok(()));
        assert_eq!(
            check_optional_json(br#"{"metadata":{"a":"b"},"enqueued_at":"2026-01-01T00:00:00Z"}"#),
            Ok(())
        );
        assert!(check_optional_json(br#"{"metadata":{"a":1}}"#).is_err());
        assert!(check_optional_json(br#"{"enqueued_at":"yesterday"}"#).is_err());
    }
}
