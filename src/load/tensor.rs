//! A request as a raw tensor: the row is the value, and the rest is in headers.

use operators::codec::form::{CONTENT_TYPE, Form};
use operators::records::Records;

use super::write::Parts;

/// The bytes of a row.
pub(super) fn bytes(row: &[f32]) -> Vec<u8> {
    row.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Adds a tensor whose headers say that it is a row of the model, flattened; all of them but the one that names the model.
pub(super) fn push(records: &mut Records, key: &str, parts: &Parts<'_>, value: &[u8]) {
    records.push(Some(key.as_bytes()), Some(value));
    let shape = parts.model.row_len.to_string();
    let headers = [
        ("request_id", parts.request_id),
        ("tenant_id", parts.tenant_id),
        ("dtype", "f32"),
        ("shape", &shape),
    ];
    records.push_header(CONTENT_TYPE, Some(Form::Tensor.media_type().as_bytes()));
    for (name, text) in headers {
        records.push_header(name.as_bytes(), Some(text.as_bytes()));
    }
}
