//! Results as JSON, without an allocation a record.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::catalog::NotFinite;
use crate::codec::digits::{write_integer, write_millis, write_signed};
use crate::codec::facts::{BatchFacts, NotFiniteOutput, RowFacts};

/// The results of one batch, all but what is each record's own: rendered once, filled in a record at a time.
#[derive(Clone, Debug)]
pub struct ResultTemplate {
    /// From the end of the request id to the start of the tenant id.
    model: Vec<u8>,
    /// From the end of the latency to the number of the partition.
    middle: Vec<u8>,
    /// From the end of the offset to the queue time.
    batch: Vec<u8>,
    /// From the end of the queue time to the end.
    end: Vec<u8>,
    not_finite: NotFinite,
}

impl ResultTemplate {
    /// Renders what the results of a batch have in common.
    pub fn new(facts: &BatchFacts<'_>) -> Self {
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
            not_finite: facts.not_finite,
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
    ///
    /// let template = ResultTemplate::new(&BatchFacts {
    ///     model_id: "mlp-16",
    ///     model_version: "0123456789abcdef",
    ///     topic: "inference.requests",
    ///     batch_size: 64,
    ///     inference: Duration::from_micros(850),
    ///     inferred_at: "2026-01-01T00:00:00.000250Z",
    ///     not_finite: NotFinite::Refuse,
    /// });
    /// let mut out = Vec::new();
    /// template.encode(&RowFacts {
    ///     request_id: "r-1",
    ///     tenant_id: "acme",
    ///     partition: Partition(3),
    ///     offset: Offset(17),
    ///     latency: Duration::from_micros(12_345),
    ///     queue: Duration::from_millis(11),
    ///     output: &[0.25, -1.0],
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
        let before = out.len();
        out.extend_from_slice(br#"{"request_id":"#);
        write_string(row.request_id, out);
        out.extend_from_slice(&self.model);
        write_string(row.tenant_id, out);
        out.extend_from_slice(br#","output":["#);
        if let Err(error) = write_floats(row.output, self.not_finite, out) {
            out.truncate(before);
            return Err(error);
        }
        out.extend_from_slice(br#"],"latency_ms":"#);
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

fn write_floats(floats: &[f32], not_finite: NotFinite, out: &mut Vec<u8>) -> Result<(), NotFiniteOutput> {
    let mut buffer = ryu::Buffer::new();
    for (index, &value) in floats.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if value.is_finite() {
            out.extend_from_slice(buffer.format_finite(value).as_bytes());
        } else if not_finite == NotFinite::Allow {
            out.extend_from_slice(b"null");
        } else {
            return Err(NotFiniteOutput { index, value });
        }
    }
    Ok(())
}

/// Writes `text` in quotes. What JSON does not let stand for itself is escaped, and nothing else.
fn write_string(text: &str, out: &mut Vec<u8>) {
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
