//! A request whose value is its row as raw bytes, and whose headers say the rest: read for the tools around the engine.
//!
//! As with JSON, this is another road than the engine's own.

use operators::records::RecordView;

use super::{MODEL_ID, Names, Request, RequestError};

/// The most axes that a tensor may have.
pub(super) const AXES_MAX: usize = 16;

/// Reads a record that says of itself that it is a tensor.
pub(super) fn read(record: RecordView<'_>) -> Result<Request, RequestError> {
    let [request_id, tenant_id, model_id] =
        [&b"request_id"[..], b"tenant_id", MODEL_ID].map(|name| text(record, name));
    let (request_id, tenant_id, model_id) = (request_id?, tenant_id?, model_id?);
    for (field, id) in [("request_id", &request_id), ("tenant_id", &tenant_id)] {
        if id.is_empty() {
            return Err(RequestError::Empty(field));
        }
    }
    let dtype = text(record, b"dtype")?;
    if dtype != "f32" {
        let tensors = super::tensors::of_bytes(record)?;
        return Ok(Request { request_id, tenant_id, model_id, input: Vec::new(), shape: None, tensors });
    }
    let shape = shape(&text(record, b"shape")?)?;
    let bytes = record.value().unwrap_or_default();
    let due = shape.iter().try_fold(4_usize, |product, &axis| product.checked_mul(axis));
    if due != Some(bytes.len()) {
        let found = bytes.len();
        return Err(RequestError::Undecodable(format!("{found} bytes are no f32 row of shape {shape:?}")));
    }
    let number =
        |bytes: &[u8]| f32::from_bits(bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte)));
    let input = bytes.chunks(4).map(number).collect();
    Ok(Request { request_id, tenant_id, model_id, input, shape: Some(shape), tensors: Vec::new() })
}

/// The names in the headers, as far as they are text.
pub(super) fn names(record: RecordView<'_>) -> Names {
    let [request_id, tenant_id, model_id] =
        [&b"request_id"[..], b"tenant_id", MODEL_ID].map(|name| text(record, name).ok());
    Names { request_id, tenant_id, model_id }
}

pub(super) fn text(record: RecordView<'_>, name: &[u8]) -> Result<String, RequestError> {
    let value = record.header(name).flatten().map(<[u8]>::to_vec);
    let text = value.map(String::from_utf8).transpose().ok().flatten();
    text.ok_or_else(|| {
        RequestError::Undecodable(format!(
            "header `{}` is missing or not text",
            String::from_utf8_lossy(name)
        ))
    })
}

/// Reads `6,64`; nothing at all is the shape of a single number.
pub(super) fn shape(text: &str) -> Result<Vec<usize>, RequestError> {
    let wrong = || RequestError::Undecodable(format!("header `shape` is {text:?}, and not as 6,64"));
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let axes: Vec<usize> = text
        .split(',')
        .map(|axis| {
            let digits = axis.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
            let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten().ok_or_else(wrong)
        })
        .collect::<Result<_, _>>()?;
    if axes.len() > AXES_MAX { Err(wrong()) } else { Ok(axes) }
}

#[cfg(test)]
mod tests {
    use operators::codec::x_tensor;
    use operators::records::Records;
    use proptest::prelude::*;

    use super::text as text_of;
    use super::*;

    fn any_header() -> impl Strategy<Value = (&'static str, Option<Vec<u8>>)> {
        let text = prop_oneof![
            4 => Just("f32".to_owned()), 1 => Just("2".to_owned()), 1 => Just("1,2".to_owned()), 1 => "[0-9,+ ]{0,4}", 1 => ".{0,3}"
        ];
        let value = prop_oneof![8 => text.prop_map(|text| Some(text.into_bytes())), 1 => Just(None), 1 => Just(Some(vec![0xff]))];
        (prop::sample::select(vec!["request_id", "tenant_id", "model_id", "dtype", "shape"]), value)
    }

    proptest! {
        /// Two readers by two roads: they take the same records, and read the same from them.
        #[test]
        fn the_engine_reads_the_same(
            strange in prop::collection::vec(any_header(), 0..3),
            value in prop_oneof![4 => prop::collection::vec(any::<u8>(), 8), 1 => prop::collection::vec(any::<u8>(), 0..20)],
        ) {
            let good = [("request_id", "r"), ("tenant_id", "t"), ("model_id", "m"), ("dtype", "f32"), ("shape", "2")];
            let mut records = Records::default();
            records.push(None, Some(&value));
            good.iter().for_each(|(name, value)| records.push_header(name.as_bytes(), Some(value.as_bytes())));
            strange.iter().for_each(|(name, value)| records.push_header(name.as_bytes(), value.as_deref()));
            let (mut values, mut text) = (Vec::new(), String::new());
            let engine = x_tensor::decode(records.get(0), &mut values, &mut text);
            match (read(records.get(0)), engine) {
                (Ok(request), Ok(engine)) => {
                    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&request.input), bits(&values));
                    prop_assert_eq!(&text[engine.request_id.start as usize..engine.request_id.end as usize], &request.request_id);
                    prop_assert_eq!(&text[engine.tenant_id.start as usize..engine.tenant_id.end as usize], &request.tenant_id);
                    prop_assert!(x_tensor::fit(engine.axes.unwrap(), &request.shape.unwrap()));
                }
                // Ours reads the other types too, and what is wrong beside the type comes to it in another order.
                (ours, Err(error)) if error.problem == x_tensor::Problem::Dtype => {
                    prop_assert!(text_of(records.get(0), b"dtype").unwrap() != "f32");
                    prop_assert!(ours.is_err() || ours.is_ok_and(|request| request.input.is_empty()));
                }
                (Err(error), Err(_)) => prop_assert!(!matches!(error, RequestError::UnsupportedType(_))),
                (ours, engine) => prop_assert!(false, "{ours:?} {engine:?}"),
            }
        }
    }
}
