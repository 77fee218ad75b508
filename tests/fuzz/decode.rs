//! The decoder of requests against `serde_json`, on whatever bytes the fuzzer finds.

#![no_main]

#[path = "../../operators/src/codec/json/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use operators::codec::json::decode;
use oracle::Reading;

fuzz_target!(|value: &[u8]| {
    let (mut values, mut text) = (vec![7.0], b"before".to_vec());
    let ours = decode(value, 4, &mut values, &mut text);
    match (ours, oracle::read(value)) {
        (_, Reading::OutOfRange) => {}
        (Err(error), Reading::Refused) => {
            assert_eq!((&values[..], &text[..]), (&[7.0][..], &b"before"[..]));
            assert!(error.at <= value.len());
        }
        (Ok(ours), Reading::Accepted(theirs)) => {
            let part = |range: &std::ops::Range<u32>| &text[range.start as usize..range.end as usize];
            assert_eq!(part(&ours.request_id), theirs.request_id.as_bytes());
            assert_eq!(part(&ours.tenant_id), theirs.tenant_id.as_bytes());
            assert_eq!(ours.model_id, theirs.model_id);
            assert_eq!(ours.floats, theirs.input.len());
            assert_eq!(ours.finite, values.iter().all(|value| value.is_finite()));
            let bits: Vec<u32> = theirs.input.iter().map(|value| (*value as f32).to_bits()).collect();
            assert_eq!(values[1..].iter().map(|value| value.to_bits()).collect::<Vec<_>>(), bits);
        }
        (ours, theirs) => panic!("ours: {ours:?}, theirs: {theirs:?}"),
    }
});
