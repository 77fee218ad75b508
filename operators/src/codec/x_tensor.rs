//! Requests as raw tensors, `application/x-tensor`: the value is the row, and everything else is in headers.
//!
//! ```text
//!   value       the numbers of the row in C order, each as its little-endian bytes, with nothing before, between or behind them
//!   request_id  text, not empty                 tenant_id  text, not empty                 model_id  as in every form
//!   dtype       f32, or another that is served  shape      the axes of the row without the batch's: 6,64
//! ```
//!
//! The tensors of a model with several inputs stand one behind the other in the value, in the order of the model's inputs, and `dtype` and
//! `shape` have theirs in the same order with semicolons between them: `f32;f32;i64` and `576;2,128;` where the last is a single number.
//!
//! There is nothing to parse: the value is copied into the block's buffer. `shape` is that of the model's row, or that of the same row
//! flattened, `384`; a row that is a single number has none, and the header is empty.

mod encode;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::{Request, Tensors, position};
use crate::model::TensorSpec;
use crate::records::RecordView;
use crate::tensor::{Column, Dtype};

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
/// let (mut values, mut text) = (Vec::new(), String::new());
/// let request = decode(records.get(0), &mut values, &mut text).unwrap();
/// assert_eq!((values, request.floats, request.axes), (vec![1.0, -0.25], 2, Some("2")));
/// assert_eq!((&text[..], request.request_id, request.tenant_id), ("r-1acme", 0..3, 3..7));
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
    text: &mut String,
) -> Result<Request<'a>, TensorError> {
    let tenant = header(record, "tenant_id").and_then(|tenant| not_empty(tenant, "tenant_id"));
    let of_tenant = |problem| TensorError { problem, tenant: tenant.ok().map(str::to_owned) };
    read(record, tenant, values, text).map_err(of_tenant)
}

fn read<'a>(
    record: RecordView<'a>,
    tenant: Result<&str, Problem>,
    values: &mut Vec<f32>,
    text: &mut String,
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
    let (request_id, tenant_id) = (append(request_id, text), append(tenant_id, text));
    let model_id = Cow::Borrowed(model_id);
    Ok(Request { request_id, tenant_id, model_id, floats, finite, axes: Some(axes) })
}

/// Decodes a request to a model with these inputs: `row` becomes a column of one row for each of them, and the request id and tenant id
/// are appended to `text`.
///
/// # Errors
///
/// If a header is missing or is not what it has to be, or the value has not the length that they say. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode_tensors<'a>(
    record: RecordView<'a>,
    inputs: &[TensorSpec],
    row: &mut Vec<Column>,
    text: &mut String,
) -> Result<Tensors<'a>, TensorError> {
    let before = text.len();
    let read = decode_names(record, text)?;
    match read_tensors(record, inputs, row) {
        Ok(()) => {
            let finite = row.iter().all(|column| column.values.are_finite(0..column.values.len()));
            Ok(Tensors { finite, ..read })
        }
        Err(problem) => {
            let tenant = &text[read.tenant_id.start as usize..read.tenant_id.end as usize];
            let tenant = Some(tenant.to_owned());
            text.truncate(before);
            Err(TensorError { problem, tenant })
        }
    }
}

/// Decodes what a request says of itself, whatever its tensors are: its request id and tenant id are appended to `text`.
///
/// # Errors
///
/// If a header is missing or is not what it has to be. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode_names<'a>(record: RecordView<'a>, text: &mut String) -> Result<Tensors<'a>, TensorError> {
    let tenant = header(record, "tenant_id").and_then(|tenant| not_empty(tenant, "tenant_id"));
    let of_tenant = |problem| TensorError { problem, tenant: tenant.ok().map(str::to_owned) };
    let ids = || {
        let request_id = header(record, "request_id").and_then(|id| not_empty(id, "request_id"))?;
        Ok((request_id, tenant?, header(record, "model_id")?))
    };
    let (request_id, tenant_id, model_id) = ids().map_err(of_tenant)?;
    let (request_id, tenant_id) = (append(request_id, text), append(tenant_id, text));
    Ok(Tensors { request_id, tenant_id, model_id: Cow::Borrowed(model_id), finite: true })
}

fn read_tensors(record: RecordView<'_>, inputs: &[TensorSpec], row: &mut Vec<Column>) -> Result<(), Problem> {
    row.resize_with(inputs.len(), || Column::new(Vec::new(), Dtype::F32));
    let dtypes = header(record, "dtype")?.split(';').map(str::trim_ascii);
    if !dtypes.eq(inputs.iter().map(|input| input.dtype.name())) {
        return Err(Problem::Dtype);
    }
    let shapes: Vec<&str> = header(record, "shape")?.split(';').map(str::trim_ascii).collect();
    if shapes.len() != inputs.len() {
        return Err(Problem::Tensors);
    }
    // Axes are a fault of the request only if it is one.
    let mut fit = true;
    let mut rest = record.value().unwrap_or_default();
    for ((input, shape), column) in inputs.iter().zip(shapes).zip(row) {
        let numbers = product(shape)?;
        let length = || Problem::Bytes { found: record.value().map_or(0, <[u8]>::len) };
        let bytes = numbers.checked_mul(input.dtype.bytes()).ok_or(Problem::Shape)?;
        let (own, others) = rest.split_at_checked(bytes).ok_or_else(length)?;
        rest = others;
        column.reset(&[], input.dtype);
        if !column.values.push_bytes(own) {
            return Err(Problem::Truth);
        }
        let axes: Vec<usize> = each(shape).flatten().collect();
        let flat = || input.axes_of(numbers).filter(|_| axes.len() == 1);
        let axes = if input.fits(&axes) { Some(axes) } else { flat() };
        fit &= axes.is_some();
        column.axes = axes.unwrap_or_default();
    }
    if !rest.is_empty() {
        return Err(Problem::Bytes { found: record.value().map_or(0, <[u8]>::len) });
    }
    if fit { Ok(()) } else { Err(Problem::Axes) }
}

fn append(id: &str, text: &mut String) -> std::ops::Range<u32> {
    let start = position(text);
    text.push_str(id);
    start..position(text)
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
    #[error("the header `dtype` does not say what the model takes")]
    Dtype,
    /// The axes are not those of the model's rows.
    #[error("the header `shape` does not say what the model takes")]
    Axes,
    /// There are more types than shapes, or fewer.
    #[error("the headers `dtype` and `shape` are not of the same number of tensors")]
    Tensors,
    /// A truth is neither 0 nor 1.
    #[error("a byte of a `bool` is neither 0 nor 1")]
    Truth,
    /// The value is shorter or longer than the shapes of its tensors say.
    #[error("the value has {found} bytes, and the headers `dtype` and `shape` say another number")]
    Bytes {
        /// Bytes of the value.
        found: usize,
    },
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
