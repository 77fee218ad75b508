//! Results as a model server answers: the tensors in the JSON, or behind it.

use super::{Body, JSON_LENGTH, datatype};
use crate::codec::digits::{write_integer, write_millis, write_signed};
use crate::codec::facts::{BatchFacts, NotFiniteOutput, RowFacts};
use crate::codec::form::{CONTENT_TYPE, Form};
use crate::codec::json::{write_numbers, write_string};
use crate::records::Records;
use crate::tensor::Number;
use crate::with_numbers;

/// The results of one batch, all but what is each record's own: rendered once, filled in a record at a time.
#[derive(Clone, Debug)]
pub struct OpenInferenceResults<'a> {
    facts: BatchFacts<'a>,
    body: Body,
    /// Up to the request id.
    model: Vec<u8>,
    /// From the end of the tenant id to the number of the partition.
    batch: Vec<u8>,
    /// What stands before the numbers of each output; with a body that is binary, everything about it.
    outputs: Vec<Vec<u8>>,
}

impl<'a> OpenInferenceResults<'a> {
    /// Renders what the results of a batch have in common.
    pub fn new(facts: BatchFacts<'a>, body: Body) -> Self {
        let mut model = br#"{"model_name":"#.to_vec();
        write_string(facts.model_id, &mut model);
        model.extend_from_slice(br#","model_version":"#);
        write_string(facts.model_version, &mut model);
        model.extend_from_slice(br#","id":"#);
        let mut batch = br#","inferred_at":"#.to_vec();
        write_string(facts.inferred_at, &mut batch);
        batch.extend_from_slice(br#","batch_size":"#);
        write_integer(facts.batch_size as u64, &mut batch);
        batch.extend_from_slice(br#","inference_ms":"#);
        write_millis(facts.inference, &mut batch);
        batch.extend_from_slice(br#","origin_topic":"#);
        write_string(facts.topic, &mut batch);
        batch.extend_from_slice(br#","origin_partition":"#);
        let outputs = (0..facts.columns.len()).map(|place| output(&facts, body, place)).collect();
        Self { facts, body, model, batch, outputs }
    }

    /// Appends one result to `out`, and returns how many bytes of it are JSON.
    ///
    /// # Errors
    ///
    /// If an output holds NaN or an infinity and the model's configuration forbids it. Then `out` is as it was.
    pub fn encode(&self, row: &RowFacts<'_>, out: &mut Vec<u8>) -> Result<usize, NotFiniteOutput> {
        self.facts.check(row.index)?;
        let start = out.len();
        out.extend_from_slice(&self.model);
        write_string(row.request_id, out);
        out.extend_from_slice(br#","parameters":{"tenant_id":"#);
        write_string(row.tenant_id, out);
        out.extend_from_slice(br#","latency_ms":"#);
        write_millis(row.latency, out);
        out.extend_from_slice(br#","queue_ms":"#);
        write_millis(row.queue, out);
        out.extend_from_slice(&self.batch);
        write_signed(row.partition.0.into(), out);
        out.extend_from_slice(br#","origin_offset":"#);
        write_signed(row.offset.0, out);
        out.extend_from_slice(br#"},"outputs":["#);
        for (before_numbers, column) in self.outputs.iter().zip(self.facts.columns) {
            out.extend_from_slice(before_numbers);
            if self.body == Body::Json {
                write_numbers(&column.values, column.place(row.index), out);
                out.extend_from_slice(b"]}");
            }
        }
        out.extend_from_slice(b"]}");
        let json = out.len() - start;
        if self.body == Body::Binary {
            for column in self.facts.columns {
                let place = column.place(row.index);
                with_numbers!(&column.values, numbers => numbers[place].iter().for_each(|number| number.write(out)));
            }
        }
        Ok(json)
    }

    /// Gives the record pushed last the headers of a result of which so many bytes are JSON, beside `model_id` and `tenant_id`, which results
    /// of every form have.
    pub fn headers(&self, json: usize, records: &mut Records) {
        let form = match self.body {
            Body::Json => Form::OpenInference,
            Body::Binary => Form::OpenInferenceBinary,
        };
        records.push_header(CONTENT_TYPE, Some(form.media_type().as_bytes()));
        if self.body == Body::Binary {
            let mut length = Vec::with_capacity(20);
            write_integer(json as u64, &mut length);
            records.push_header(JSON_LENGTH, Some(&length));
        }
    }
}

/// What a result says of an output before its numbers.
fn output(facts: &BatchFacts<'_>, body: Body, place: usize) -> Vec<u8> {
    let (spec, column) = (&facts.outputs[place], &facts.columns[place]);
    let mut out = if place == 0 { br#"{"name":"#.to_vec() } else { br#",{"name":"#.to_vec() };
    write_string(&spec.name, &mut out);
    out.extend_from_slice(br#","datatype":"#);
    write_string(datatype(spec.dtype), &mut out);
    out.extend_from_slice(br#","shape":["#);
    for (place, axis) in spec.batch_of_one(&column.axes).into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_integer(axis as u64, &mut out);
    }
    match body {
        Body::Json => out.extend_from_slice(br#"],"data":["#),
        Body::Binary => {
            out.extend_from_slice(br#"],"parameters":{"binary_data_size":"#);
            write_integer((column.row_len() * spec.dtype.bytes()) as u64, &mut out);
            out.extend_from_slice(b"}}");
        }
    }
    out
}
