//! The decoder of the Open Inference Protocol, on whatever bytes the fuzzer finds: it refuses them and leaves nothing behind, or what it reads is
//! a row of the model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use operators::codec::open_inference::{Body, JSON_LENGTH, decode, decode_names};
use operators::model::TensorSpec;
use operators::records::Records;
use operators::tensor::Dtype;

/// A chunk of any length, a state with the batch on axis 1, a mask, and a rate that the batch shares.
fn inputs() -> [TensorSpec; 4] {
    let spec = |name: &str, dtype, axes, batch_axis| TensorSpec { name: name.to_owned(), dtype, axes, batch_axis };
    [
        spec("input", Dtype::F32, vec![None], Some(0)),
        spec("state", Dtype::F16, vec![Some(2), Some(2)], Some(1)),
        spec("mask", Dtype::Bool, vec![Some(2)], Some(0)),
        spec("sr", Dtype::I64, vec![], None),
    ]
}

fuzz_target!(|input: (Option<u16>, &[u8])| {
    let (json, value) = input;
    let body = if json.is_some() { Body::Binary } else { Body::Json };
    let mut records = Records::default();
    records.push(None, Some(value));
    records.push_header(b"tenant_id", Some(b"acme"));
    records.push_header(b"model_id", Some(b"m"));
    records.push_header(JSON_LENGTH, Some(json.unwrap_or_default().to_string().as_bytes()));
    let (mut row, mut text) = (Vec::new(), b"before".to_vec());
    let read = decode(records.get(0), body, &inputs(), &mut row, &mut text);
    match read {
        Ok(request) => {
            for (column, input) in row.iter().zip(inputs()) {
                assert!(input.fits(&column.axes) && column.values.dtype() == input.dtype);
                assert_eq!(column.values.len(), column.row_len());
            }
            assert_eq!(&text[..6], b"before");
            let mut names = b"before".to_vec();
            let again = decode_names(records.get(0), body, &mut names).expect("a request has names");
            assert_eq!((names, again.request_id, again.model_id), (text, request.request_id, request.model_id));
        }
        Err(error) => {
            assert_eq!(text, b"before");
            assert!(!error.to_string().is_empty());
        }
    }
});
