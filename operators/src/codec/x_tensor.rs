//! Requests as raw tensors, `application/x-tensor`: the value is the row, and everything else is in headers.
//!
//! ```text
//!   value       the numbers of the row in C order, each as its little-endian bytes, with nothing before, between or behind them
//!   request_id  text, not empty                 tenant_id  text, not empty                 model_id  as in every form
//!   dtype       f32                             shape      the axes of the row without the batch's: 6,64
//! ```
//!
//! There is nothing to parse: the value is copied into the block's buffer. `shape` is that of the model's row, or that of the same row
//! flattened, `384`; a row that is a single number has none, and the header is empty.

mod encode;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::{Request, position};
use crate::records::RecordView;

pub use encode::TensorResults;

/// The most axes that a row may have.
pub const AXES_MAX: usize = 16;

/// Decodes one request: appends the floats of its value to `values`, and its request id and tenant id to `text`.
///
/// ```
/// use operators::codec::x_tensor::decode;
/// use operators::records::Records;
///
/// let mut records = Records::default();
/// records.push(Some(b"acme|mlp-2"), Some(&[1.0_f32.to_le_bytes(), (-0.25_f32).to_le_bytes()].concat()));
/// for (name, value) in [("model_id", "mlp-2"), ("request_id", "r-1"), ("tenant_id", "acme"), ("dtype", "f32"), ("shape", "2")] {
///     records.push_header(name.as_bytes(), Some(value.as_bytes()));
/// }
/// let (mut values, mut text) = (Vec::new(), Vec::new());
/// let request = decode(records.get(0), &mut values, &mut text).unwrap();
/// assert_eq!((values, request.floats, request.axes), (vec![1.0, -0.25], 2, Some("2")));
/// assert_eq!((text, request.request_id, request.tenant_id), (b"r-1acme".to_vec(), 0..3, 3..7));
/// ```
///
/// # Errors
///
/// If a header is missing or is not what it has to be, or the value has not the length that they say. Then `values` and `text` are as
/// they were.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode<'a>(
    record: RecordView<'a>,
    values: &mut Vec<f32>,
    text: &mut Vec<u8>,
) -> Result<Request<'a>, TensorError> {
    let tenant = header(record, "tenant_id").and_then(|tenant| not_empty(tenant, "tenant_id"));
    let of_tenant = |problem| TensorError { problem, tenant: tenant.ok().map(str::to_owned) };
    read(record, tenant, values, text).map_err(of_tenant)
}

fn read<'a>(
    record: RecordView<'a>,
    tenant: Result<&str, Problem>,
    values: &mut Vec<f32>,
    text: &mut Vec<u8>,
) -> Result<Request<'a>, Problem> {
    let request_id = header(record, "request_id").and_then(|id| not_empty(id, "request_id"))?;
    let tenant_id = tenant?;
    let model_id = header(record, "model_id")?;
    if header(record, "dtype")? != "f32" {
        return Err(Problem::Dtype);
    }
    let axes = header(record, "shape")?;
    let floats = product(axes)?;
    let (numbers, rest) = record.value().unwrap_or_default().as_chunks::<4>();
    if numbers.len() != floats || !rest.is_empty() {
        let found = numbers.len() * 4 + rest.len();
        return Err(Problem::Length { found, floats });
    }
    let before = values.len();
    values.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    let finite = values[before..].iter().all(|value| value.is_finite());
    let mut append = |id: &str| {
        let start = position(text);
        text.extend_from_slice(id.as_bytes());
        start..position(text)
    };
    let (request_id, tenant_id) = (append(request_id), append(tenant_id));
    let model_id = Cow::Borrowed(model_id);
    Ok(Request { request_id, tenant_id, model_id, floats, finite, axes: Some(axes) })
}

/// Whether `axes`, of a request that was decoded, are those of a row of this shape, or of the same row flattened.
pub fn fit(axes: &str, row_shape: &[usize]) -> bool {
    let flat = [row_shape.iter().product()];
    each(axes).eq(row_shape.iter().copied().map(Some)) || each(axes).eq(flat.map(Some))
}

/// Why a record is no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not decode the tensor: {problem}")]
pub struct TensorError {
    /// What is wrong.
    pub problem: Problem,
    /// The request's tenant, if its header is in order.
    pub tenant: Option<String>,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A header is not there, or null.
    #[error("the header `{0}` is missing")]
    Missing(&'static str),
    /// A header that must not be empty is.
    #[error("the header `{0}` is empty")]
    Empty(&'static str),
    /// A header is not UTF-8.
    #[error("the header `{0}` is not UTF-8")]
    NotUtf8(&'static str),
    /// The numbers are of a type that the model does not take.
    #[error("the header `dtype` is not f32, which is what the model takes")]
    Dtype,
    /// The shape is not written as axes.
    #[error("the header `shape` is not up to {AXES_MAX} whole numbers with commas between them, as 6,64")]
    Shape,
    /// The value is shorter or longer than its shape says.
    #[error("the value has {found} bytes, and the header `shape` says {floats} numbers of 4")]
    Length {
        /// Bytes of the value.
        found: usize,
        /// Numbers, by the shape.
        floats: usize,
    },
}

fn header<'a>(record: RecordView<'a>, name: &'static str) -> Result<&'a str, Problem> {
    let value = record.header(name.as_bytes()).flatten().ok_or(Problem::Missing(name))?;
    std::str::from_utf8(value).map_err(|_| Problem::NotUtf8(name))
}

fn not_empty<'a>(text: &'a str, name: &'static str) -> Result<&'a str, Problem> {
    if text.is_empty() { Err(Problem::Empty(name)) } else { Ok(text) }
}

/// The axes in their order; `None` for each that is no number.
fn each(axes: &str) -> impl Iterator<Item = Option<usize>> {
    // `split` finds one empty piece in an empty text, and a row that is a single number has no axis.
    let pieces = (!axes.is_empty()).then(|| axes.split(','));
    pieces.into_iter().flatten().map(|axis| {
        // A sign is no digit, and `parse` would take one.
        let digits = axis.trim_ascii();
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    })
}

fn product(axes: &str) -> Result<usize, Problem> {
    let mut product = 1_usize;
    for (place, axis) in each(axes).enumerate() {
        let axis = axis.filter(|_| place < AXES_MAX).ok_or(Problem::Shape)?;
        product = product.checked_mul(axis).ok_or(Problem::Shape)?;
    }
    Ok(product)
}
