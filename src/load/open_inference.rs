//! A request of the Open Inference Protocol: its row in the JSON, or behind it.

use operators::codec::form::{CONTENT_TYPE, Form};
use operators::codec::open_inference::JSON_LENGTH;
use operators::records::Records;
use rand::Rng;

use super::tensor;
use super::write::{Parts, Writer};

/// A request with one tensor, in pieces that a bad one may change.
pub(super) struct Draft {
    pub(super) datatype: &'static str,
    pub(super) shape: Vec<usize>,
    /// The numbers as bytes, where they stand behind the JSON.
    pub(super) binary: Option<Vec<u8>>,
}

impl Draft {
    /// A whole, good one.
    pub(super) fn new(writer: &Writer, parts: &Parts<'_>, binary: bool, random: &mut impl Rng) -> Self {
        let row = || tensor::bytes(&writer.numbers(parts.model.row_len, random));
        Self { datatype: "FP32", shape: parts.model.shape.clone(), binary: binary.then(row) }
    }

    /// Adds it, with all of its headers but the one that names the model.
    pub(super) fn push(
        &self,
        records: &mut Records,
        key: &str,
        writer: &Writer,
        parts: &Parts<'_>,
        random: &mut impl Rng,
    ) {
        let mut json = b"{".to_vec();
        writer.names(&mut json, &[("id", parts.request_id)]);
        json.extend_from_slice(br#","inputs":[{"#);
        writer.names(&mut json, &[("name", &parts.model.input), ("datatype", self.datatype)]);
        let size = parts.model.row_len * 4;
        json.extend_from_slice(format!(r#","shape":{:?},"#, self.shape).as_bytes());
        if self.binary.is_some() {
            json.extend_from_slice(format!(r#""parameters":{{"binary_data_size":{size}}}"#).as_bytes());
        } else {
            json.extend_from_slice(br#""data":"#);
            writer.row(&mut json, self.shape.iter().product(), random);
        }
        json.extend_from_slice(b"}]}");
        let length = json.len().to_string();
        json.extend_from_slice(self.binary.as_deref().unwrap_or_default());
        records.push(Some(key.as_bytes()), Some(&json));
        let form = if self.binary.is_some() { Form::OpenInferenceBinary } else { Form::OpenInference };
        records.push_header(CONTENT_TYPE, Some(form.media_type().as_bytes()));
        records.push_header(b"tenant_id", Some(parts.tenant_id.as_bytes()));
        if self.binary.is_some() {
            records.push_header(JSON_LENGTH, Some(length.as_bytes()));
        }
    }
}
