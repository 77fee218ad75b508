//! The reader of batches as a broker stores them, on whatever the fuzzer finds: what comes out of them comes once and in order, or they are
//! refused; and a frame of LZ4 holds for us what it holds for the library.

#![no_main]

use libfuzzer_sys::fuzz_target;
use operators::broker::kafka::fuzzed::{Claims, read, read_frame};

/// Attributes, first offset, distance of the last, producer, records, whether they are compressed, and the records.
type Batch = (u8, i16, i16, i8, u8, bool, Vec<u8>);

fuzz_target!(|input: (Vec<Batch>, u8, [(u8, i8); 2], u8)| {
    let (batches, start, aborted, at_once) = input;
    let claims = |(attributes, first, last_delta, producer, records, packs, body): Batch| {
        read_frame(&body);
        Claims {
            attributes: attributes.into(),
            first: first.into(),
            last_delta: last_delta.into(),
            producer: producer.into(),
            records: records.into(),
            body,
            packs,
        }
    };
    let batches: Vec<Claims> = batches.into_iter().map(claims).collect();
    let aborted = aborted.map(|(first, producer)| (first.into(), producer.into()));
    read(&batches, start.into(), &aborted, at_once.into());
});
