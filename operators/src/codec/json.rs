//! Requests and results as JSON: the encoding that every client speaks.
//!
//! ```text
//!   value of a request ──▶ decode ──▶ floats, in the block's buffer       one pass, no tree, nothing allocated
//!                             │└────▶ ids, unescaped, in the block's text
//!                             └─────▶ DecodeError: what, and at which byte
//!
//!   the same to a model of other inputs ──▶ decode_tensors ──▶ a column for each input
//!
//!   a row of output ─────▶ ResultTemplate::encode ──▶ value of a result   the parts that a batch shares are written once
//! ```
//!
//! A general JSON library is fast enough for the fields around the floats, and the floats are where the time goes. So this is a
//! parser of one schema, with a fast path for the array, and `serde_json` is its oracle: both accept the same requests and read the
//! same values from them, which property tests and a fuzzer hold it to. The differences are few and meant:
//!
//! * a number beyond the range of `f64`, as `1e999`, is an infinity here and an error there;
//! * text must be UTF-8 everywhere, also in fields that are ignored;
//! * values are nested at most 128 deep, also in fields that are ignored;
//! * a request is an object: the array that `serde` takes for a struct as well is refused.

mod cursor;
mod decode;
mod encode;
mod float;
mod numbers;
#[cfg(test)]
mod oracle;
mod tensors;
mod text;
mod time;

pub(super) use cursor::Cursor;
pub(super) use decode::Fault;
pub(super) use encode::{write_numbers, write_string};
pub(super) use numbers::{read_nested, read_shape, read_whole};

pub use decode::{DecodeError, Field, NESTING_MAX, Problem, decode};
pub use encode::ResultTemplate;
pub use tensors::{TensorsError, decode_names, decode_tensors};
pub use time::rfc3339_micros;
