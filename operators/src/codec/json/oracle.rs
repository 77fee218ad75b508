//! What `serde_json` reads from a value: what our decoder has to agree with. The tests here and the fuzzer share it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A request, as `serde` derives its decoder.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "the optional fields are there for what they make `serde` refuse")]
pub(crate) struct Request {
    pub(crate) request_id: String,
    pub(crate) tenant_id: String,
    pub(crate) model_id: String,
    pub(crate) input: Vec<f64>,
    metadata: Option<BTreeMap<String, String>>,
    enqueued_at: Option<String>,
}

/// What becomes of a value.
#[derive(Debug)]
pub(crate) enum Reading {
    /// It is a request.
    Accepted(Request),
    /// It is none.
    Refused,
    /// `serde_json` stopped at a number beyond the range of `f64`, which ours reads as an infinity: there is nothing to compare.
    OutOfRange,
}

/// Reads `value`.
pub(crate) fn read(value: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(value) else { return Reading::Refused };
    let object = text.trim_start_matches([' ', '\n', '\t', '\r']).starts_with('{');
    match serde_json::from_str::<Request>(text) {
        Ok(request) if object && nesting(text) <= 128 && is_meant(&request) => Reading::Accepted(request),
        Err(error) if error.to_string().starts_with("number out of range") => Reading::OutOfRange,
        _ => Reading::Refused,
    }
}

fn is_meant(request: &Request) -> bool {
    !request.request_id.is_empty()
        && !request.tenant_id.is_empty()
        && request.enqueued_at.as_deref().is_none_or(is_rfc3339)
}

/// How deep the values of a text are nested that is known to be JSON.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Whether `text` has the form of a time in RFC 3339, and numbers that a time can have.
fn is_rfc3339(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(mut zone) =
        ["T", "t", " "].iter().find_map(|between| form.strip_prefix(&format!("0000-00-00{between}00:00:00")))
    else {
        return false;
    };
    if let Some(fraction) = zone.strip_prefix(".0") {
        zone = fraction.trim_start_matches('0');
    }
    let number = |from: usize, length: usize| text[from..from + length].parse::<i16>().unwrap_or(i16::MAX);
    let small = |from: usize| i8::try_from(number(from, 2)).unwrap_or(i8::MAX);
    let date = jiff::civil::Date::new(number(0, 4), small(5), small(8));
    let time = number(11, 2) < 24 && number(14, 2) < 60 && number(17, 2) <= 60;
    let offset = match zone {
        "Z" | "z" => true,
        "+00:00" | "-00:00" => number(text.len() - 5, 2) < 24 && number(text.len() - 2, 2) < 60,
        _ => false,
    };
    date.is_ok() && time && offset
}
