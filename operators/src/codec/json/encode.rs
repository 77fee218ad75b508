//! Results as JSON, without an allocation a record.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::time::Duration;

use crate::codec::digits::{write_integer, write_millis, write_signed};
use crate::codec::facts::{BatchFacts, NotFiniteOutput, RowFacts};
use crate::tensor::{Column, Values};

/// The results of one batch, all but what is each record's own: rendered once, filled in a record at a time.
#[derive(Clone, Debug)]
pub struct ResultTemplate<'a> {
    /// From the end of the request id to the start of the tenant id.
    model: Vec<u8>,
    /// What stands before the numbers of each output, the first from the end of the tenant id.
    outputs: Vec<Vec<u8>>,
    /// From the end of the last number to the latency.
    latency: &'static [u8],
    /// From the end of the latency to the number of the partition.
    middle: Vec<u8>,
    /// From the end of the offset to the queue time.
    batch: Vec<u8>,
    /// From the end of the queue time to the end.
    end: Vec<u8>,
    facts: BatchFacts<'a>,
}

impl<'a> ResultTemplate<'a> {
    /// Renders what the results of a batch have in common.
    pub fn new(facts: &BatchFacts<'a>) -> Self {
        let (outputs, latency) = outputs(facts);
        let render = |parts: &[Part<'_>]| {
            let mut out = Vec::with_capacity(128);
            for part in parts {
                part.write(&mut out);
            }
            out
        };
        Self {
            model: render(&[
                Part::Raw(r#","model_id":"#),
                Part::String(facts.model_id),
                Part::Raw(r#","tenant_id":"#),
            ]),
            middle: render(&[
                Part::Raw(r#","inferred_at":"#),
                Part::String(facts.inferred_at),
                Part::Raw(r#","model_version":"#),
                Part::String(facts.model_version),
                Part::Raw(r#","origin":{"topic":"#),
                Part::String(facts.topic),
                Part::Raw(r#","partition":"#),
            ]),
            batch: render(&[
                Part::Raw(r#"},"batch_size":"#),
                Part::Integer(facts.batch_size as u64),
                Part::Raw(r#","queue_ms":"#),
            ]),
            end: render(&[Part::Raw(r#","inference_ms":"#), Part::Millis(facts.inference), Part::Raw("}")]),
            outputs,
            latency,
            facts: *facts,
        }
    }

    /// Appends the JSON of one result to `out`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use operators::catalog::NotFinite;
    /// use operators::codec::facts::{BatchFacts, RowFacts};
    /// use operators::codec::json::ResultTemplate;
    /// use operators::lease::{Offset, Partition};
    /// use operators::model::Signature;
    /// use operators::tensor::Column;
    ///
    /// let signature = Signature::of_floats(&[16], 2);
    /// let columns = [Column::of_floats(2, vec![0.25, -1.0])];
    /// let template = ResultTemplate::new(&BatchFacts {
    ///     model_id: "mlp-16",
    ///     model_version: "0123456789abcdef",
    ///     topic: "inference.requests",
    ///     batch_size: 64,
    ///     inference: Duration::from_micros(850),
    ///     inferred_at: "2026-01-01T00:00:00.000250Z",
    ///     not_finite: NotFinite::Refuse,
    ///     outputs: &signature.outputs,
    ///     columns: &columns,
    /// });
    /// let mut out = Vec::new();
    /// template.encode(&RowFacts {
    ///     request_id: "r-1",
    ///     tenant_id: "acme",
    ///     partition: Partition(3),
    ///     offset: Offset(17),
    ///     latency: Duration::from_micros(12_345),
    ///     queue: Duration::from_millis(11),
    ///     index: 0,
    /// }, &mut out).unwrap();
    /// assert_eq!(String::from_utf8(out).unwrap(), concat!(
    ///     r#"{"request_id":"r-1","model_id":"mlp-16","tenant_id":"acme","output":[0.25,-1.0],"latency_ms":12.345,"#,
    ///     r#""inferred_at":"2026-01-01T00:00:00.000250Z","model_version":"0123456789abcdef","#,
    ///     r#""origin":{"topic":"inference.requests","partition":3,"offset":17},"#,
    ///     r#""batch_size":64,"queue_ms":11.000,"inference_ms":0.850}"#,
    /// ));
    /// ```
    ///
    /// # Errors
    ///
    /// If the output holds NaN or an infinity and the model's configuration forbids it. Then `out` is as it was.
    pub fn encode(&self, row: &RowFacts<'_>, out: &mut Vec<u8>) -> Result<(), NotFiniteOutput> {
        self.facts.check(row.index)?;
        out.extend_from_slice(br#"{"request_id":"#);
        write_string(row.request_id, out);
        out.extend_from_slice(&self.model);
        write_string(row.tenant_id, out);
        for (before_numbers, column) in self.outputs.iter().zip(self.facts.columns) {
            out.extend_from_slice(before_numbers);
            write_numbers(&column.values, column.place(row.index), out);
        }
        out.extend_from_slice(self.latency);
        write_millis(row.latency, out);
        out.extend_from_slice(&self.middle);
        write_signed(i64::from(row.partition.0), out);
        out.extend_from_slice(br#","offset":"#);
        write_signed(row.offset.0, out);
        out.extend_from_slice(&self.batch);
        write_millis(row.queue, out);
        out.extend_from_slice(&self.end);
        Ok(())
    }
}

/// A piece of JSON.
enum Part<'a> {
    Raw(&'static str),
    String(&'a str),
    Integer(u64),
    Millis(Duration),
}

impl Part<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(raw) => out.extend_from_slice(raw.as_bytes()),
            Self::String(text) => write_string(text, out),
            Self::Integer(number) => write_integer(*number, out),
            Self::Millis(duration) => write_millis(*duration, out),
        }
    }
}

/// What stands before the numbers of each output, and behind the last. One output whose rows all have the same axes is an array; what has
/// more to tell is an object.
fn outputs(facts: &BatchFacts<'_>) -> (Vec<Vec<u8>>, &'static [u8]) {
    let tensor = |column: &Column, out: &mut Vec<u8>| {
        out.extend_from_slice(br#"{"shape":["#);
        for (place, axis) in column.axes.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_integer(*axis as u64, out);
        }
        out.extend_from_slice(br#"],"data":["#);
    };
    if let [output] = facts.outputs {
        let mut before = br#","output":"#.to_vec();
        if output.fixed().is_some() {
            before.push(b'[');
            return (vec![before], br#"],"latency_ms":"#);
        }
        facts.columns.iter().for_each(|column| tensor(column, &mut before));
        return (vec![before], br#"]},"latency_ms":"#);
    }
    let named = facts.outputs.iter().zip(facts.columns).enumerate().map(|(place, (output, column))| {
        let mut before = if place == 0 { br#","outputs":{"#.to_vec() } else { b"]},".to_vec() };
        write_string(&output.name, &mut before);
        before.push(b':');
        tensor(column, &mut before);
        before
    });
    (named.collect(), br#"]}},"latency_ms":"#)
}

/// Writes numbers with commas between them. JSON has no way to write what is not finite: that is `null`.
pub(in crate::codec) fn write_numbers(values: &Values, range: Range<usize>, out: &mut Vec<u8>) {
    match values {
        Values::F32(floats) => write_floats(&floats[range], out),
        Values::F64(floats) => write_floats(&floats[range], out),
        Values::F16(floats) => {
            write_each(&floats[range], out, |float, out| write_floats(&[f32::from(*float)], out));
        }
        Values::Bool(truths) => write_each(&truths[range], out, |truth, out| {
            out.extend_from_slice(if *truth { b"true" } else { b"false" });
        }),
        Values::I8(numbers) => {
            write_each(&numbers[range], out, |number, out| write_signed((*number).into(), out));
        }
        Values::I16(numbers) => {
            write_each(&numbers[range], out, |number, out| write_signed((*number).into(), out));
        }
        Values::I32(numbers) => {
            write_each(&numbers[range], out, |number, out| write_signed((*number).into(), out));
        }
        Values::I64(numbers) => write_each(&numbers[range], out, |number, out| write_signed(*number, out)),
        Values::U8(numbers) => {
            write_each(&numbers[range], out, |number, out| write_integer((*number).into(), out));
        }
        Values::U16(numbers) => {
            write_each(&numbers[range], out, |number, out| write_integer((*number).into(), out));
        }
        Values::U32(numbers) => {
            write_each(&numbers[range], out, |number, out| write_integer((*number).into(), out));
        }
        Values::U64(numbers) => write_each(&numbers[range], out, |number, out| write_integer(*number, out)),
    }
}

fn write_each<N>(numbers: &[N], out: &mut Vec<u8>, write: impl Fn(&N, &mut Vec<u8>)) {
    for (place, number) in numbers.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(number, out);
    }
}

fn write_floats<F: zmij::Float + Into<f64>>(floats: &[F], out: &mut Vec<u8>) {
    let mut buffer = zmij::Buffer::new();
    for (place, &float) in floats.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        let finite = float.into().is_finite();
        out.extend_from_slice(if finite { buffer.format_finite(float).as_bytes() } else { b"null" });
    }
}

/// Writes `text` in quotes. What JSON does not let stand for itself is escaped, and nothing else.
pub(in crate::codec) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..plain]);
        write_escape(rest[plain], out);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(br"\n"),
        b'\r' => out.extend_from_slice(br"\r"),
        b'\t' => out.extend_from_slice(br"\t"),
        _ => {
            out.extend_from_slice(br"\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}
