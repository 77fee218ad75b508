//! One request's JSON, in one pass.
//!
//! Where the next token starts depends on where the last one ended, so the cursor has to stay in a register from the first byte to the
//! last: what moves it is inlined into [`read_request`], and what is too large for that takes it by value and gives it back. A small
//! request takes half the time so.

#![expect(clippy::inline_always, reason = "measured: without it the cursor lives in memory")]

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::cursor::Cursor;
use super::{float, text, time};
use crate::codec::{Request, position};

/// How deep values may be nested, the request's own object included.
pub const NESTING_MAX: usize = 128;

/// Decodes one request: appends the floats of its `input` to `values`, and its request id and tenant id, unescaped, to `text`.
///
/// `row_len` is how many floats to expect, so that room is made for them at once; any number of them is read.
///
/// ```
/// use operators::codec::json::decode;
///
/// let value = br#"{"request_id": "r-1", "tenant_id": "acme", "model_id": "mlp-16", "input": [1, -2.5e-1]}"#;
/// let (mut values, mut text) = (Vec::new(), String::new());
/// let request = decode(value, 2, &mut values, &mut text).unwrap();
/// assert_eq!((values, request.floats, request.finite), (vec![1.0, -0.25], 2, true));
/// assert_eq!((&text[..], request.request_id, request.tenant_id), ("r-1acme", 0..3, 3..7));
/// assert_eq!(request.model_id, "mlp-16");
/// ```
///
/// # Errors
///
/// If the value is not a request. Then `values` and `text` are as they were.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode<'a>(
    value: &'a [u8],
    row_len: usize,
    values: &mut Vec<f32>,
    text: &mut String,
) -> Result<Request<'a>, DecodeError> {
    let (values_before, text_before) = (values.len(), text.len());
    let mut fields = Fields::default();
    let mut row = FloatRow { row_len, floats: 0, finite: true, values };
    match read_request(Cursor::new(value), &mut row, text, &mut fields) {
        Ok(ids) => {
            let Ids { request_id, tenant_id, model_id } = ids;
            Ok(Request {
                request_id,
                tenant_id,
                model_id,
                floats: row.floats,
                finite: row.finite,
                axes: None,
            })
        }
        Err(fault) => {
            values.truncate(values_before);
            Err(fields.error(fault, text, text_before))
        }
    }
}

/// The inputs of a model that takes one row of floats: what is read is an array of them, and nothing else.
struct FloatRow<'v> {
    row_len: usize,
    floats: usize,
    finite: bool,
    values: &'v mut Vec<f32>,
}

impl Inputs for FloatRow<'_> {
    #[inline(always)]
    fn input(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        let Input { floats, finite } = read_input(cursor, self.row_len, self.values)?;
        (self.floats, self.finite) = (floats, finite);
        Ok(())
    }

    fn inputs<'a>(&mut self, cursor: Cursor<'a>) -> Result<Cursor<'a>, Fault> {
        Err(Fault { problem: Problem::NoArray, at: cursor.at })
    }
}

/// Why a value is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not decode the request: {problem}, at byte {at}")]
pub struct DecodeError {
    /// What is wrong.
    pub problem: Problem,
    /// Where: bytes from the start of the value.
    pub at: usize,
    /// The request's tenant, where it stands before the place.
    pub tenant: Option<String>,
}

/// What can be wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else should stand here, or the value ends too early.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A number starts with a zero and goes on with digits.
    #[error("a number has a leading zero")]
    LeadingZero,
    /// A string holds a control character as it is.
    #[error("a string holds a control character that is not escaped")]
    ControlCharacter,
    /// A backslash and what follows it is no escape of JSON.
    #[error("a backslash starts no escape that JSON knows")]
    Escape,
    /// An escape gives half of a surrogate pair, and the other half is missing.
    #[error("an escape gives half of a surrogate pair")]
    Surrogate,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// Values are nested deeper than [`NESTING_MAX`].
    #[error("values are nested more than {NESTING_MAX} deep")]
    TooDeep,
    /// A field of a request stands there twice.
    #[error("field `{0}` is there twice")]
    Twice(Field),
    /// A field of a request is missing.
    #[error("field `{0}` is missing")]
    Missing(Field),
    /// A field of a request is an empty string.
    #[error("field `{0}` is empty")]
    Empty(Field),
    /// The input is written in another way than as one array of numbers.
    #[error("expected an array of numbers")]
    NoArray,
    /// What is given as the inputs is not what the model takes.
    #[error("the inputs are not those of the model")]
    Inputs,
    /// A number is none of the type that is due.
    #[error("a number is none of the type that is due")]
    OtherType,
    /// `enqueued_at` is not a time.
    #[error("field `enqueued_at` is not a time of RFC 3339, as 2026-01-31T12:00:00Z")]
    NotATime,
}

/// A field of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `request_id`
    RequestId,
    /// `tenant_id`
    TenantId,
    /// `model_id`
    ModelId,
    /// `input`
    Input,
    /// `inputs`
    Inputs,
    /// `metadata`
    Metadata,
    /// `enqueued_at`
    EnqueuedAt,
}

impl Field {
    const ALL: [Self; 7] = [
        Self::RequestId,
        Self::TenantId,
        Self::ModelId,
        Self::Input,
        Self::Inputs,
        Self::Metadata,
        Self::EnqueuedAt,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RequestId => "request_id",
            Self::TenantId => "tenant_id",
            Self::ModelId => "model_id",
            Self::Input => "input",
            Self::Inputs => "inputs",
            Self::Metadata => "metadata",
            Self::EnqueuedAt => "enqueued_at",
        }
    }

    /// The field whose name and closing quote stand at the start of `bytes`. Whoever writes a field plainly has it found here.
    fn written(bytes: &[u8]) -> Option<Self> {
        let written = match bytes.first()? {
            b'r' if bytes.starts_with(b"request_id\"") => Self::RequestId,
            b't' if bytes.starts_with(b"tenant_id\"") => Self::TenantId,
            b'm' if bytes.starts_with(b"model_id\"") => Self::ModelId,
            b'm' if bytes.starts_with(b"metadata\"") => Self::Metadata,
            b'i' if bytes.starts_with(b"input\"") => Self::Input,
            b'i' if bytes.starts_with(b"inputs\"") => Self::Inputs,
            b'e' if bytes.starts_with(b"enqueued_at\"") => Self::EnqueuedAt,
            _ => return None,
        };
        Some(written)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What is wrong, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codec) struct Fault {
    pub(in crate::codec) problem: Problem,
    pub(in crate::codec) at: usize,
}

impl Fault {
    /// `what` should stand at `at`.
    pub(in crate::codec) fn expected(what: &'static str, at: usize) -> Self {
        Self { problem: Problem::Expected(what), at }
    }
}

/// What reads the inputs of a request: one as `input`, several by their names as `inputs`.
pub(super) trait Inputs {
    /// Reads the value of `input`.
    fn input(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault>;

    /// Reads the value of `inputs`.
    fn inputs<'a>(&mut self, cursor: Cursor<'a>) -> Result<Cursor<'a>, Fault>;
}

/// What a request says of itself.
pub(super) struct Ids<'a> {
    pub(super) request_id: Range<u32>,
    pub(super) tenant_id: Range<u32>,
    pub(super) model_id: Cow<'a, str>,
}

/// The fields read so far.
#[derive(Default)]
pub(super) struct Fields<'a> {
    seen: [bool; 7],
    request_id: Option<Range<u32>>,
    tenant_id: Option<Range<u32>>,
    model_id: Option<Cow<'a, str>>,
}

impl Fields<'_> {
    /// The error of a value that is no request. Its text is taken away again, but for the tenant, which the letter names.
    pub(super) fn error(self, Fault { problem, at }: Fault, text: &mut String, before: usize) -> DecodeError {
        let tenant = self.tenant_id.map(|tenant| text[tenant.start as usize..tenant.end as usize].to_owned());
        text.truncate(before);
        DecodeError { problem, at, tenant }
    }
}

struct Input {
    floats: usize,
    finite: bool,
}

/// Reads a whole value. What it has read of a value that is no request is left in `fields`.
pub(super) fn read_request<'a>(
    mut cursor: Cursor<'a>,
    inputs: &mut impl Inputs,
    text: &mut String,
    fields: &mut Fields<'a>,
) -> Result<Ids<'a>, Fault> {
    cursor.pass(b'{', "an object")?;
    if !cursor.pass_if(b'}') {
        loop {
            cursor.peek();
            let at = cursor.at;
            match read_key(&mut cursor)? {
                Some(field) if std::mem::replace(&mut fields.seen[field as usize], true) => {
                    return Err(Fault { problem: Problem::Twice(field), at });
                }
                Some(Field::RequestId) => {
                    let id = read_id(&mut cursor, text, Field::RequestId)?;
                    fields.request_id = Some(id);
                }
                Some(Field::TenantId) => {
                    let id = read_id(&mut cursor, text, Field::TenantId)?;
                    fields.tenant_id = Some(id);
                }
                Some(Field::ModelId) => fields.model_id = Some(cursor.string("a string")?.text()?),
                Some(Field::Input) => inputs.input(&mut cursor)?,
                Some(Field::Inputs) => cursor = inputs.inputs(cursor)?,
                Some(Field::Metadata) => cursor = skip_metadata(cursor)?,
                Some(Field::EnqueuedAt) => cursor = skip_time(cursor)?,
                None => cursor = cursor.skip_value()?,
            }
            if !cursor.pass_if(b',') {
                break;
            }
        }
        cursor.pass(b'}', "a comma or the end of the request")?;
    }
    let missing = |field| Fault { problem: Problem::Missing(field), at: cursor.at };
    match [Field::Input, Field::Inputs].map(|field| fields.seen[field as usize]) {
        [false, false] => return Err(missing(Field::Input)),
        [true, true] => return Err(Fault { problem: Problem::Twice(Field::Inputs), at: cursor.at }),
        _ => {}
    }
    let ids = Ids {
        request_id: fields.request_id.clone().ok_or(missing(Field::RequestId))?,
        tenant_id: fields.tenant_id.clone().ok_or(missing(Field::TenantId))?,
        model_id: fields.model_id.take().ok_or(missing(Field::ModelId))?,
    };
    match cursor.peek() {
        None => Ok(ids),
        Some(_) => Err(Fault::expected("nothing after the request", cursor.at)),
    }
}

/// Reads a key with its colon: a field of a request, or `None` for any other.
#[inline(always)]
fn read_key(cursor: &mut Cursor<'_>) -> Result<Option<Field>, Fault> {
    cursor.pass(b'"', "a key in quotes")?;
    let field = if let Some(field) = Field::written(&cursor.bytes[cursor.at..]) {
        cursor.at += field.name().len() + 1;
        Some(field)
    } else {
        let (key, end) = text::read(cursor.bytes, cursor.at)?;
        cursor.at = end;
        let key = key.bytes()?;
        Field::ALL.into_iter().find(|field| field.name().as_bytes() == &*key)
    };
    cursor.pass(b':', "a colon")?;
    Ok(field)
}

/// Reads a string that may not be empty, and appends it to the text.
#[inline(always)]
fn read_id(cursor: &mut Cursor<'_>, text: &mut String, field: Field) -> Result<Range<u32>, Fault> {
    let quoted = cursor.string("a string")?;
    let start = position(text);
    quoted.unescape(text)?;
    let id = start..position(text);
    if id.is_empty() {
        return Err(Fault { problem: Problem::Empty(field), at: quoted.start() - 1 });
    }
    Ok(id)
}

/// Reads the array of numbers.
#[inline(always)]
fn read_input(cursor: &mut Cursor<'_>, row_len: usize, values: &mut Vec<f32>) -> Result<Input, Fault> {
    if !cursor.pass_if(b'[') {
        return Err(Fault { problem: Problem::NoArray, at: cursor.at });
    }
    let before = values.len();
    let mut finite = true;
    if !cursor.pass_if(b']') {
        // A number takes two bytes at least, with its comma: a short value never makes much room, whatever is expected.
        let rest = cursor.bytes.len() - cursor.at;
        values.reserve(row_len.min(rest / 2 + 1));
        (cursor.at, finite) = float::read_all(cursor.bytes, cursor.at, values)?;
        cursor.pass(b']', "a comma or the end of the array")?;
    }
    Ok(Input { floats: values.len() - before, finite })
}

/// Passes over the object of strings, or `null`, which is what Go's clients write for an empty one.
fn skip_metadata(mut cursor: Cursor<'_>) -> Result<Cursor<'_>, Fault> {
    if cursor.null()? {
        return Ok(cursor);
    }
    cursor.pass(b'{', "an object of strings")?;
    if cursor.pass_if(b'}') {
        return Ok(cursor);
    }
    loop {
        cursor.key()?.check()?;
        cursor.string("a string")?.check()?;
        if !cursor.pass_if(b',') {
            cursor.pass(b'}', "a comma or the end of an object")?;
            return Ok(cursor);
        }
    }
}

/// Passes over the time, or `null`.
fn skip_time(mut cursor: Cursor<'_>) -> Result<Cursor<'_>, Fault> {
    if cursor.null()? {
        return Ok(cursor);
    }
    let quoted = cursor.string("a string")?;
    if time::is_rfc3339(&quoted.bytes()?) {
        Ok(cursor)
    } else {
        Err(Fault { problem: Problem::NotATime, at: quoted.start() - 1 })
    }
}
