//! A result whose value is its output as raw bytes, and whose headers say the rest.

use std::str::FromStr;

use operators::lease::{Offset, Partition};
use operators::records::RecordView;

use super::{Body, Numbers, Origin};
use crate::request::tensors;

const MEDIA_TYPE: &[u8] = b"application/x-tensor";

/// Whether a result says of itself that it is one.
pub(super) fn is_one(record: RecordView<'_>) -> bool {
    record.header(b"content-type").flatten() == Some(MEDIA_TYPE)
}

/// The origin in the headers.
pub(super) fn origin(record: RecordView<'_>) -> Result<Origin, String> {
    Ok(Origin {
        topic: text(record, "origin_topic")?.to_owned(),
        partition: Partition(number(record, "origin_partition")?),
        offset: Offset(number(record, "origin_offset")?),
    })
}

/// Every field of the result.
pub(super) fn body(record: RecordView<'_>) -> Result<Body, String> {
    let owned = |name| text(record, name).map(str::to_owned);
    text(record, "dtype").and_then(|_| text(record, "shape"))?;
    let tensors = tensors(record).map_err(|error| error.to_string())?;
    // What is not finite is written as null in JSON, and compared as that.
    let numbers = tensors.iter().flat_map(|tensor| &tensor.numbers).map(|number| number.float());
    let output = Numbers(numbers.map(|number| Some(number).filter(|number| number.is_finite())).collect());
    Ok(Body {
        request_id: owned("request_id")?,
        model_id: owned("model_id")?,
        tenant_id: owned("tenant_id")?,
        output: Some(output),
        outputs: None,
        latency_ms: number(record, "latency_ms")?,
        inferred_at: owned("inferred_at")?,
        model_version: owned("model_version")?,
        batch_size: number(record, "batch_size")?,
        queue_ms: number(record, "queue_ms")?,
        inference_ms: number(record, "inference_ms")?,
    })
}

fn text<'a>(record: RecordView<'a>, name: &str) -> Result<&'a str, String> {
    let value = record.header(name.as_bytes()).flatten().and_then(|value| std::str::from_utf8(value).ok());
    value.ok_or_else(|| format!("header `{name}` is missing or not text"))
}

fn number<T: FromStr>(record: RecordView<'_>, name: &str) -> Result<T, String> {
    text(record, name)?.parse().map_err(|_| format!("header `{name}` is not a number"))
}

#[cfg(test)]
mod tests {
    use operators::records::Records;

    use super::*;

    const HEADERS: [(&str, &str); 15] = [
        ("content-type", "application/x-tensor"),
        ("dtype", "f32"),
        ("shape", "2"),
        ("request_id", "r"),
        ("tenant_id", "acme"),
        ("model_id", "m"),
        ("latency_ms", "12.345"),
        ("inferred_at", "2026-01-31T12:00:00Z"),
        ("model_version", "0123456789abcdef"),
        ("origin_topic", "requests"),
        ("origin_partition", "3"),
        ("origin_offset", "17"),
        ("batch_size", "64"),
        ("queue_ms", "11.000"),
        ("inference_ms", "0.850"),
    ];

    /// A result with this value, of which one header is another, or is left out.
    fn read<T>(
        value: &[u8],
        changed: (&str, Option<&str>),
        read: impl Fn(RecordView<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut records = Records::default();
        records.push(Some(b"r"), Some(value));
        for (name, text) in HEADERS {
            let text = if name == changed.0 { changed.1 } else { Some(text) };
            if let Some(text) = text {
                records.push_header(name.as_bytes(), Some(text.as_bytes()));
            }
        }
        read(records.get(0))
    }

    #[test]
    fn it_is_read_with_what_is_not_finite_as_nothing() {
        let value: Vec<u8> = [0.5_f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(read(&value, ("", None), |record| Ok(is_one(record))), Ok(true));
        let found = read(&value, ("", None), body).unwrap();
        assert_eq!(
            (found.numbers().to_vec(), found.batch_size, found.latency_ms.to_bits()),
            (vec![Some(0.5), None], 64, 12.345_f64.to_bits())
        );
        let found = read(&value, ("", None), origin).unwrap();
        assert_eq!(
            (found.topic.as_str(), found.partition, found.offset),
            ("requests", Partition(3), Offset(17))
        );
    }

    #[test]
    fn each_header_that_is_missing_or_wrong_and_a_wrong_length_is_told() {
        let value = [0; 8];
        for (name, _) in HEADERS.into_iter().filter(|(name, _)| *name != "content-type") {
            let (whole, place) = (read(&value, (name, None), body), read(&value, (name, None), origin));
            let told = whole.err().or(place.err());
            assert_eq!(told, Some(format!("header `{name}` is missing or not text")));
        }
        for (name, text) in
            [("shape", "x"), ("shape", "3"), ("dtype", "f64"), ("batch_size", "-1"), ("queue_ms", "")]
        {
            assert!(read(&value, (name, Some(text)), body).is_err(), "{name} {text}");
        }
        assert!(read(&value[..7], ("", None), body).is_err());
        assert!(read(&value, ("origin_offset", Some("1.5")), origin).is_err());
    }
}
