//! Batches are read with the decoder of another library, which has never seen our encoder.

use std::io::Read as _;

use bytes::{Buf as _, Bytes};
use kafka_protocol::records::{Compression as Codec, Record, RecordBatchDecoder};
use lz4_flex::frame::FrameDecoder;
use proptest::prelude::*;

use super::*;
use crate::records::Records;

const IDENTITY: Identity = Identity { id: 4_711, epoch: 3, is_transactional: true };

/// Key, value, headers with names that differ, and how much later it is than the first.
type Given = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Option<Vec<u8>>>, i64);

fn any_bytes(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..most))
}

fn any_record() -> impl Strategy<Value = Given> {
    (any_bytes(200), any_bytes(2_000), proptest::collection::vec(any_bytes(300), 0..4), -70_000..70_000_i64)
}

fn header_name(place: usize) -> String {
    "h".repeat(place * 70)
}

fn written(given: &[Given]) -> Records {
    let mut records = Records::default();
    for (key, value, headers, _) in given {
        records.push(key.as_deref(), value.as_deref());
        for (place, header) in headers.iter().enumerate() {
            records.push_header(header_name(place).as_bytes(), header.as_deref());
        }
    }
    records
}

fn batch(given: &[Given], compression: Compression, sequence: i32) -> Batch {
    let mut open = OpenBatch::new(1_000_000, vec![0xaa; 100]);
    for (record, (.., delta)) in written(given).iter().zip(given) {
        open.push(1_000_000 + delta, record);
    }
    open.close(IDENTITY, sequence, compression).0
}

fn read(batch: &Batch) -> Vec<Record> {
    let unpack = |bytes: &mut Bytes, codec: Codec| {
        let mut unpacked = Vec::new();
        match codec {
            Codec::Lz4 => FrameDecoder::new(bytes.chunk()).read_to_end(&mut unpacked).unwrap(),
            _ => bytes.chunk().read_to_end(&mut unpacked).unwrap(),
        };
        Ok(unpacked.into())
    };
    RecordBatchDecoder::decode_with_custom_compression(&mut batch.bytes.clone(), Some(unpack))
        .unwrap()
        .records
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        given in proptest::collection::vec(any_record(), 1..20),
        is_compressed in any::<bool>(),
        sequence in 0..i32::MAX - 20,
    ) {
        let compression = if is_compressed { Compression::Lz4 } else { Compression::None };
        let batch = batch(&given, compression, sequence);
        let records = read(&batch);
        prop_assert_eq!((records.len(), batch.records), (given.len(), given.len()));
        for (place, (record, (key, value, headers, delta))) in (0..).zip(records.iter().zip(&given)) {
            prop_assert_eq!(record.key.as_deref(), key.as_deref());
            prop_assert_eq!(record.value.as_deref(), value.as_deref());
            prop_assert_eq!(record.timestamp, 1_000_000 + delta);
            prop_assert_eq!((record.offset, record.sequence), (i64::from(place), sequence + place));
            prop_assert_eq!((record.producer_id, record.producer_epoch), (IDENTITY.id, IDENTITY.epoch));
            prop_assert!(record.transactional && !record.control);
            prop_assert_eq!(record.headers.len(), headers.len());
            for (place, header) in headers.iter().enumerate() {
                let found = record.headers.get(header_name(place).as_bytes());
                prop_assert_eq!(found.map(Option::as_deref), Some(header.as_deref()));
            }
        }
    }

    #[test]
    fn a_batch_is_never_longer_than_its_records_are_taken_to_be(
        given in proptest::collection::vec(any_record(), 1..5),
    ) {
        let batch = batch(&given, Compression::Lz4, 0);
        let most: usize = written(&given).iter().map(|record| record.wire_bytes()).sum();
        prop_assert!(batch.bytes.len() <= batch.uncompressed && batch.uncompressed <= most);
    }

    #[test]
    fn a_number_has_the_length_that_is_said(number in any::<i64>()) {
        let mut bytes = Vec::new();
        varint(&mut bytes, number);
        prop_assert_eq!(bytes.len(), varint_length(number));
    }
}

#[test]
fn what_compression_makes_longer_is_left_as_it_is() {
    let noise: Vec<u8> = (0_u64..300).map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[0]).collect();
    let batch = batch(&[(None, Some(noise), Vec::new(), 0)], Compression::Lz4, 0);
    assert_eq!(batch.bytes.len(), batch.uncompressed);
    assert_eq!(read(&batch).len(), 1);
}
