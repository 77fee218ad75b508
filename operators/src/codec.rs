//! Bytes to rows and outcomes to bytes.
//!
//! A request comes in one of several forms, and its header `content-type` says in which; a topic may mix them. Each form has a decoder
//! of its own, and all of them give the same [`Request`] or [`Tensors`].

mod digits;
pub mod facts;
pub mod form;
pub mod json;
pub mod open_inference;
pub mod results;
pub mod x_tensor;

use std::borrow::Cow;
use std::ops::Range;

/// What a request says, beside the floats and the text that its decoder appended to a block's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where its request id stands in the text.
    pub request_id: Range<u32>,
    /// Where its tenant id stands in the text.
    pub tenant_id: Range<u32>,
    /// The model that it names, unchecked: compare it with the header, which has been checked.
    pub model_id: Cow<'a, str>,
    /// How many floats its input has.
    pub floats: usize,
    /// Whether all of them are finite. JSON can't write an infinity, but a number too large for an `f32` becomes one.
    pub finite: bool,
    /// The axes of its input, where its form tells them, as [`x_tensor`] writes them.
    pub axes: Option<&'a str>,
}

/// What a request to a model of any inputs says, beside the row and the text that its decoder made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensors<'a> {
    /// Where its request id stands in the text.
    pub request_id: Range<u32>,
    /// Where its tenant id stands in the text.
    pub tenant_id: Range<u32>,
    /// The model that it names, unchecked.
    pub model_id: Cow<'a, str>,
    /// Whether all of its numbers are finite.
    pub finite: bool,
}

/// Where the next text will stand.
fn position(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a block's text stays below 4 GiB")
}
