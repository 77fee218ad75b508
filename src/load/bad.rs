//! Bad requests, one kind at a time: everything that must end as a dead letter.

use std::str::FromStr;

use operators::codec::form::CONTENT_TYPE;
use operators::dead_letter::Reason;
use operators::records::Records;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::write::{Parts, Writer};
use super::{LoadError, open_inference, tensor};
use crate::request::MODEL_ID;

macro_rules! bad_kinds {
    ($($(#[$doc:meta])* $kind:ident, $name:literal => $reason:ident;)*) => {
        /// What is bad about a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum BadKind { $($(#[$doc])* $kind,)* }

        /// Every kind of bad request.
        pub const BAD_KINDS: [BadKind; [$(BadKind::$kind),*].len()] = [$(BadKind::$kind),*];

        impl BadKind {
            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The reason that its dead letter must give.
            pub fn reason(self) -> Reason {
                match self { $(Self::$kind => Reason::$reason,)* }
            }
        }
    };
}

bad_kinds! {
    /// No header `model_id`.
    MissingHeader, "missing_header" => MissingModelId;
    /// A header `model_id` with an empty value.
    EmptyHeader, "empty_header" => MissingModelId;
    /// A header `model_id` with a null value.
    NullHeader, "null_header" => MissingModelId;
    /// Header and body name different models.
    Mismatch, "mismatch" => ModelIdMismatch;
    /// Text that is not JSON.
    NotJson, "not_json" => Undecodable;
    /// JSON that ends in the middle.
    TruncatedJson, "truncated_json" => Undecodable;
    /// A model that does not exist.
    UnknownModel, "unknown_model" => UnknownModel;
    /// A model id that would lead out of the store.
    PathTraversal, "path_traversal" => InvalidModelId;
    /// A row of one float too many, or too few.
    WrongLength, "wrong_length" => WrongShape;
    /// A number that no f32 can hold: `1e39`.
    Infinite, "infinite" => NotFinite;
    /// `NaN`, which is not JSON.
    NanLiteral, "nan_literal" => Undecodable;
    /// A null value.
    NullValue, "null_value" => NullValue;
    /// A row so long that the record exceeds a size.
    Oversized, "oversized" => WrongShape;
    /// A required field is missing.
    MissingField, "missing_field" => Undecodable;
    /// An empty tenant.
    EmptyTenant, "empty_tenant" => Undecodable;
    /// An empty request id.
    EmptyRequestId, "empty_request_id" => Undecodable;
    /// Text where the row should be.
    WrongType, "wrong_type" => Undecodable;
    /// Random bytes.
    BinaryGarbage, "binary_garbage" => Undecodable;
    /// A name that is not UTF-8.
    NotUtf8, "not_utf8" => Undecodable;
    /// A content type that nothing reads.
    UnsupportedType, "unsupported_type" => UnsupportedType;
    /// A raw tensor of numbers of another type than the model takes.
    TensorType, "tensor_type" => UnsupportedType;
    /// A raw tensor that is a byte shorter than its shape says.
    TensorLength, "tensor_length" => Undecodable;
    /// A raw tensor that holds NaN.
    TensorNan, "tensor_nan" => NotFinite;
    /// A request of the Open Inference Protocol for a batch of two rows.
    OpenInferenceBatch, "open_inference_batch" => WrongShape;
    /// One of another type than the model takes.
    OpenInferenceType, "open_inference_type" => UnsupportedType;
    /// One whose tensor is a byte shorter than its JSON says.
    OpenInferenceLength, "open_inference_length" => Undecodable;
}

impl FromStr for BadKind {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        BAD_KINDS.into_iter().find(|kind| kind.name() == text).ok_or_else(|| LoadError::Kind(text.to_owned()))
    }
}

/// Every kind, for an error message.
pub(super) fn names() -> String {
    BAD_KINDS.map(BadKind::name).join(", ")
}

/// Adds a bad request to `records`. `other_model` is a model besides that of the request, if there is one.
pub(super) fn push(
    kind: BadKind,
    records: &mut Records,
    writer: &Writer,
    parts: &Parts<'_>,
    random: &mut impl Rng,
    other_model: Option<&str>,
    oversized_bytes: usize,
) {
    let tenant_id = if kind == BadKind::EmptyTenant { "" } else { parts.tenant_id };
    let model_id = match kind {
        BadKind::PathTraversal => format!("../{}", parts.model.id),
        BadKind::UnknownModel => "no-such-model".to_owned(),
        _ => parts.model.id.clone(),
    };
    let key = format!("{tenant_id}|{model_id}");
    if matches!(kind, BadKind::TensorType | BadKind::TensorLength | BadKind::TensorNan) {
        return push_tensor(kind, records, &key, writer, parts, random);
    }
    if matches!(kind, BadKind::OpenInferenceBatch | BadKind::OpenInferenceType | BadKind::OpenInferenceLength)
    {
        return push_open_inference(kind, records, &key, writer, parts, random);
    }
    let value = (kind != BadKind::NullValue).then(|| match kind {
        BadKind::NotJson => b"model=mlp input=0.1;0.2".to_vec(),
        BadKind::BinaryGarbage => garbage(random),
        _ => Draft { kind, tenant_id, model_id: &model_id, writer, parts }.write(random, oversized_bytes),
    });
    records.push(Some(key.as_bytes()), value.as_deref());

    if kind == BadKind::UnsupportedType {
        records.push_header(CONTENT_TYPE, Some(b"application/x-protobuf"));
    }
    let other = other_model.map_or_else(|| format!("{model_id}-other"), str::to_owned);
    match kind {
        BadKind::MissingHeader => {}
        BadKind::NullHeader => records.push_header(MODEL_ID, None),
        BadKind::EmptyHeader => records.push_header(MODEL_ID, Some(b"")),
        BadKind::Mismatch => records.push_header(MODEL_ID, Some(other.as_bytes())),
        _ => records.push_header(MODEL_ID, Some(model_id.as_bytes())),
    }
}

/// Adds a raw tensor with a fault.
fn push_tensor(
    kind: BadKind,
    records: &mut Records,
    key: &str,
    writer: &Writer,
    parts: &Parts<'_>,
    random: &mut impl Rng,
) {
    let mut row = writer.numbers(parts.model.row_len, random);
    if kind == BadKind::TensorNan
        && let Some(last) = row.last_mut()
    {
        *last = f32::NAN;
    }
    let mut value = tensor::bytes(&row);
    if kind == BadKind::TensorLength && value.pop().is_none() {
        value.push(0);
    }
    tensor::push(records, key, parts, &value);
    if kind == BadKind::TensorType {
        records.push_header(b"dtype", Some(b"f64"));
    }
    records.push_header(MODEL_ID, Some(parts.model.id.as_bytes()));
}

/// Adds a request of the Open Inference Protocol with a fault.
fn push_open_inference(
    kind: BadKind,
    records: &mut Records,
    key: &str,
    writer: &Writer,
    parts: &Parts<'_>,
    random: &mut impl Rng,
) {
    let binary = kind == BadKind::OpenInferenceLength;
    let mut draft = open_inference::Draft::new(writer, parts, binary, random);
    match kind {
        BadKind::OpenInferenceBatch => draft.shape[0] *= 2,
        BadKind::OpenInferenceType => draft.datatype = "FP64",
        _ => {
            let bytes = draft.binary.get_or_insert_default();
            if bytes.pop().is_none() {
                bytes.push(0);
            }
        }
    }
    draft.push(records, key, writer, parts, random);
    records.push_header(MODEL_ID, Some(parts.model.id.as_bytes()));
}

/// 200 bytes of which the first begins no JSON.
fn garbage(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = vec![0; 200];
    random.fill_bytes(&mut bytes);
    bytes[0] = 0xff;
    bytes
}

/// A request that looks like one.
struct Draft<'a> {
    kind: BadKind,
    tenant_id: &'a str,
    model_id: &'a str,
    writer: &'a Writer,
    parts: &'a Parts<'a>,
}

impl Draft<'_> {
    fn write(&self, random: &mut impl Rng, oversized_bytes: usize) -> Vec<u8> {
        let request_id = if self.kind == BadKind::EmptyRequestId { "" } else { self.parts.request_id };
        let mut names =
            vec![("request_id", request_id), ("tenant_id", self.tenant_id), ("model_id", self.model_id)];
        let missing = (self.kind == BadKind::MissingField).then(|| random.next_u32() as usize % 4);
        if let Some(field @ 0..3) = missing {
            names.remove(field);
        }
        let mut out = vec![b'{'];
        self.writer.names(&mut out, &names);
        if missing != Some(3) {
            out.extend_from_slice(b",\"input\":");
            self.input(&mut out, random, oversized_bytes);
        }
        self.writer.optional(&mut out, self.parts, random);
        out.push(b'}');
        self.damage(&mut out);
        out
    }

    fn input(&self, out: &mut Vec<u8>, random: &mut impl Rng, oversized_bytes: usize) {
        let row_len = self.parts.model.row_len;
        match self.kind {
            BadKind::WrongType => out.extend_from_slice(b"\"0.1,0.2\""),
            BadKind::WrongLength => {
                let longer = row_len == 0 || random.next_u32().is_multiple_of(2);
                self.writer.row(out, if longer { row_len + 1 } else { row_len - 1 }, random);
            }
            BadKind::Oversized => self.writer.row_up_to(out, row_len + 1, oversized_bytes, random),
            BadKind::Infinite | BadKind::NanLiteral => {
                let number: &[u8] = if self.kind == BadKind::Infinite { b"1e39" } else { b"NaN" };
                out.push(b'[');
                out.extend_from_slice(number);
                for _ in 1..row_len {
                    out.extend_from_slice(b",0.5");
                }
                out.push(b']');
            }
            _ => self.writer.row(out, row_len, random),
        }
    }

    fn damage(&self, out: &mut Vec<u8>) {
        match self.kind {
            BadKind::TruncatedJson => out.truncate(out.len() / 2),
            BadKind::NotUtf8 => {
                // The first byte of the request id, after `{"request_id":"`.
                out[15] = 0xc3;
            }
            _ => {}
        }
    }
}
