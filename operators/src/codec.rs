//! Bytes to rows and outcomes to bytes.

pub mod json;
