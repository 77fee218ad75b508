//! Which records are requests that can be served.

use std::collections::BTreeMap;

use operators::model::is_model_id;
use operators::records::{RecordView, Records};

use crate::request::{MODEL_ID, Names, Request, RequestError, check_optional_fields};

/// Refuses what the engine could only make a dead letter of.
///
/// ```
/// use operators::records::Records;
/// use tidemill::produce::{Refusal, Validator};
///
/// let validator = Validator::default();
/// let mut records = Records::default();
/// let line = br#"{"request_id":"r1","tenant_id":"t1","model_id":"mlp-16","input":[0.5]}"#;
/// validator.push_line(line, &mut records).unwrap();
/// assert_eq!(records.get(0).key(), Some(&b"t1|mlp-16"[..]));
///
/// records.push(Some(b"t1|mlp-16"), Some(line));
/// assert_eq!(validator.check(records.get(1)), Err(Refusal::MissingHeader));
/// ```
#[derive(Clone, Debug)]
pub struct Validator {
    /// The largest record, key and headers included, in bytes.
    pub record_bytes_max: usize,
    /// The floats of a row, by model. Where there are none, neither the model nor the length is checked.
    pub row_lens: BTreeMap<String, usize>,
}

impl Default for Validator {
    /// What a broker takes by default, and any model.
    fn default() -> Self {
        Self { record_bytes_max: 1_000_000, row_lens: BTreeMap::new() }
    }
}

/// Why a record is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no header `model_id`.
    #[error("header `model_id` is missing")]
    MissingHeader,
    /// It is null or empty.
    #[error("header `model_id` is empty")]
    EmptyHeader,
    /// The model id is not one that a model may have.
    #[error(
        "field `model_id`: {0:?} is not a model id; take 1 to 128 of A-Z a-z 0-9 . _ - and no dot in front"
    )]
    InvalidModelId(String),
    /// Header and body name different models.
    #[error("field `model_id`: the body says {body:?}, the header {header:?}")]
    Mismatch {
        /// The body's.
        body: String,
        /// The header's.
        header: String,
    },
    /// The record has another key than the one that follows from its body.
    #[error("the key is not {0:?}")]
    Key(String),
    /// There is no value.
    #[error("the value is null")]
    NullValue,
    /// The value is not a request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such model.
    #[error("field `model_id`: there is no model {0:?}")]
    UnknownModel(String),
    /// The row is not as long as the model's.
    #[error("field `input` has {found} numbers, and the model takes {row_len}")]
    WrongLength {
        /// Floats in the request.
        found: usize,
        /// Floats of a row of the model.
        row_len: usize,
    },
    /// A number is too large for an f32.
    #[error("field `input`: number {0} is not finite as a 32-bit float")]
    NotFinite(usize),
    /// The record is too large.
    #[error("the record has {bytes} bytes, and {bytes_max} are allowed")]
    TooLarge {
        /// Bytes of the record.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
}

impl Validator {
    /// Checks a record, and returns the request that it is.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn check(&self, record: RecordView<'_>) -> Result<Request, Refusal> {
        let bytes = record.payload_bytes();
        if bytes > self.record_bytes_max {
            return Err(Refusal::TooLarge { bytes, bytes_max: self.record_bytes_max });
        }
        let header = match record.header(MODEL_ID) {
            None => return Err(Refusal::MissingHeader),
            Some(None | Some(b"")) => return Err(Refusal::EmptyHeader),
            Some(Some(header)) => header,
        };
        record.value().ok_or(Refusal::NullValue)?;
        let request = Request::of(record)?;
        check_optional_fields(record)?;
        if request.model_id.as_bytes() != header {
            let header = String::from_utf8_lossy(header).into_owned();
            return Err(Refusal::Mismatch { body: request.model_id, header });
        }
        if !is_model_id(header) {
            return Err(Refusal::InvalidModelId(request.model_id));
        }
        if record.key() != Some(request.key().as_bytes()) {
            return Err(Refusal::Key(request.key()));
        }
        self.check_row(request)
    }

    fn check_row(&self, request: Request) -> Result<Request, Refusal> {
        if request.tensors.iter().any(|tensor| tensor.foreign) {
            let what = "an input holds what is no number of its type, or not as many as its axes say";
            return Err(RequestError::Undecodable(what.to_owned()).into());
        }
        if !self.row_lens.is_empty() {
            let Some(&row_len) = self.row_lens.get(&request.model_id) else {
                return Err(Refusal::UnknownModel(request.model_id));
            };
            let typed = request.tensors.iter().find_map(|tensor| tensor.dtype.as_ref());
            if let Some(dtype) = typed.filter(|dtype| *dtype != "f32") {
                return Err(RequestError::UnsupportedType(format!(
                    "numbers of type {dtype} as a row of floats"
                ))
                .into());
            }
            let of_tensors = || request.tensors.iter().map(|tensor| tensor.numbers.len()).sum();
            let found = if request.tensors.is_empty() { request.input.len() } else { of_tensors() };
            if found != row_len {
                return Err(Refusal::WrongLength { found, row_len });
            }
        }
        let of_tensors =
            request.tensors.iter().flat_map(|tensor| &tensor.numbers).map(|number| number.float());
        let mut numbers = request.input.iter().copied().map(f64::from).chain(of_tensors);
        match numbers.position(|number| !number.is_finite()) {
            Some(place) => Err(Refusal::NotFinite(place)),
            None => Ok(request),
        }
    }

    /// Adds the request on a line of JSON to `records`, with the header and the key that follow from it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it; then nothing is added.
    pub fn push_line(&self, line: &[u8], records: &mut Records) -> Result<Request, Refusal> {
        let names = Names::read(line);
        let (tenant_id, model_id) = (names.tenant_id.unwrap_or_default(), names.model_id.unwrap_or_default());
        let key = format!("{tenant_id}|{model_id}");
        if model_id.is_empty() {
            // The header would be empty: it is the body that is to blame.
            Request::read(line)?;
            return Err(Refusal::InvalidModelId(model_id));
        }
        let index = records.push(Some(key.as_bytes()), Some(line));
        records.push_header(MODEL_ID, Some(model_id.as_bytes()));
        let checked = self.check(records.get(index));
        if checked.is_err() {
            records.pop();
        }
        checked
    }
}
