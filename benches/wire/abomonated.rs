//! Memory as it is: words of 64 bits, copied out and in by `abomonation`.
//!
//! Its authors say that it is unsound (RUSTSEC-2021-0120): it reads types out of bytes without looking at them, and references that are not
//! aligned where a type is not made of words. So everything is packed into one vector of words first, which is the only type that it
//! sees here, and both processes are the same program. Nothing but this bench is built with it.

#![expect(clippy::cast_possible_truncation, reason = "a block of a bench is small")]
#![expect(unsafe_code, reason = "that is what the crate is; both blocks say what makes them right here")]

use operators::block::{Block, Row};
use operators::broker::{Polled, RecordTime};
use operators::lease::{Lease, Offset, Partition, Term};

use crate::codec::Wire;
use crate::columns::Shared;

/// The length of what is not there.
const NONE: u64 = u64::MAX;

pub(crate) struct Abomonated;

impl Wire for Abomonated {
    const NAME: &'static str = "abomonation";

    fn encode(block: &Block, out: &mut Vec<u8>) {
        let words = pack(block);
        // SAFETY: a vector of words has no padding, of which the crate would read bytes that are not initialized.
        unsafe { abomonation::encode(&words, out) }.expect("memory takes all that is written");
    }

    fn decode(bytes: &[u8]) -> Block {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        let aligned = &mut bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()];
        aligned.copy_from_slice(bytes);
        // SAFETY: the bytes are those of `encode` by the same program, and they are aligned as words are.
        let (words, _) = unsafe { abomonation::decode::<Vec<u64>>(aligned) }.expect("it is what was encoded");
        unpack(&mut Words(words))
    }
}

fn pack(block: &Block) -> Vec<u64> {
    let mut words = Vec::new();
    let shared = bincode::serialize(&Shared::of(block)).expect("memory takes all that is written");
    push(&mut words, Some(&shared));
    push(&mut words, Some(block.text.as_bytes()));
    push(&mut words, Some(bytemuck::cast_slice(block.columns[0].values.numbers::<f32>())));
    words.push(block.len() as u64);
    for (place, row) in block.rows.iter().enumerate() {
        let (lease, offset) = block.origin(place);
        let original = block.polled.records.get(row.record as usize);
        let time = block.polled.times[row.record as usize];
        words.extend([
            u64::from(lease.partition.0.cast_unsigned()),
            lease.term.0,
            offset.0.cast_unsigned(),
            time.millis.cast_unsigned(),
            u64::from(time.append),
            u64::from(row.request_id.start) << 32 | u64::from(row.request_id.end),
            u64::from(row.tenant_id.start) << 32 | u64::from(row.tenant_id.end),
            original.headers().len() as u64,
        ]);
        push(&mut words, original.key());
        push(&mut words, original.value());
        for (name, value) in original.headers() {
            push(&mut words, Some(name));
            push(&mut words, value);
        }
    }
    words
}

fn push(words: &mut Vec<u64>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return words.push(NONE) };
    words.push(bytes.len() as u64);
    let start = words.len();
    words.resize(start + bytes.len().div_ceil(8), 0);
    bytemuck::cast_slice_mut(&mut words[start..])[..bytes.len()].copy_from_slice(bytes);
}

/// Words that are still to be read.
struct Words<'a>(&'a [u64]);

impl<'a> Words<'a> {
    fn word(&mut self) -> u64 {
        let (first, rest) = self.0.split_first().expect("it is what was encoded");
        self.0 = rest;
        *first
    }

    fn range(&mut self) -> std::ops::Range<u32> {
        let word = self.word();
        (word >> 32) as u32..word as u32
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.word();
        (len != NONE).then(|| {
            let len = usize::try_from(len).expect("it is what was encoded");
            let (words, rest) = self.0.split_at(len.div_ceil(8));
            self.0 = rest;
            &bytemuck::cast_slice(words)[..len]
        })
    }
}

fn unpack(words: &mut Words<'_>) -> Block {
    let shared: Shared =
        bincode::deserialize(words.bytes().unwrap_or_default()).expect("it is what was encoded");
    let text = String::from_utf8(words.bytes().unwrap_or_default().to_vec()).expect("it is what was encoded");
    let floats = bytemuck::cast_slice(words.bytes().unwrap_or_default()).to_vec();
    let count = words.word();
    let mut rows = Vec::new();
    let mut polled = Polled::default();
    for record in 0..count as u32 {
        let lease = Lease { partition: Partition(words.word() as i32), term: Term(words.word()) };
        polled.origins.push((lease, Offset(words.word().cast_signed())));
        polled.times.push(RecordTime { millis: words.word().cast_signed(), append: words.word() == 1 });
        let (request_id, tenant_id, headers) = (words.range(), words.range(), words.word());
        let key = words.bytes();
        polled.records.push(key, words.bytes());
        for _ in 0..headers {
            let name = words.bytes().unwrap_or_default();
            polled.records.push_header(name, words.bytes());
        }
        rows.push(Row { record, request_id, tenant_id });
    }
    shared.block(floats, rows, text, polled)
}
