//! Batches are written by another library's encoder and by our own, and read here.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use proptest::prelude::*;

use super::*;
use crate::broker::kafka::direct::batch::{Compression as Own, OpenBatch};
use crate::broker::kafka::direct::identity::Identity;

/// Key, value, headers, and how much later it is than the first.
type Given = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

const FIRST: i64 = 1_000;
const MILLIS: i64 = 1_700_000_000_000;

fn any_bytes(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..most))
}

fn any_record() -> impl Strategy<Value = Given> {
    let headers = prop::collection::btree_map("[a-z\u{e9}]{0,80}", any_bytes(200), 0..4);
    let headers = headers.prop_map(|headers| headers.into_iter().collect());
    (any_bytes(100), any_bytes(1_000), headers, -50_000..50_000_i64)
}

fn record(place: usize, (key, value, headers, delta): &Given, append: bool) -> Record {
    let headers: IndexMap<_, _> = headers
        .iter()
        .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from)))
        .collect();
    Record {
        transactional: true,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 5,
        producer_id: 77,
        producer_epoch: 3,
        timestamp_type: if append { TimestampType::LogAppend } else { TimestampType::Creation },
        offset: FIRST + i64::try_from(place).unwrap(),
        sequence: i32::try_from(place).unwrap(),
        timestamp: MILLIS + delta,
        key: key.clone().map(Bytes::from),
        value: value.clone().map(Bytes::from),
        headers,
    }
}

/// As another library writes it.
fn foreign(given: &[Given], append: bool) -> Vec<u8> {
    let records: Vec<Record> =
        given.iter().enumerate().map(|(place, given)| record(place, given, append)).collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
    let mut bytes = bytes.to_vec();
    if append {
        // As a broker does it: the encoder leaves that to it.
        bytes[field::ATTRIBUTES + 1] |= u8::try_from(APPEND_TIME).unwrap();
        let checksum = crc32c(&bytes[field::ATTRIBUTES..]);
        bytes[field::CHECKSUM..field::ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn written(given: &[Given]) -> Records {
    let mut records = Records::default();
    for (key, value, headers, _) in given {
        records.push(key.as_deref(), value.as_deref());
        headers.iter().for_each(|(name, value)| records.push_header(name.as_bytes(), value.as_deref()));
    }
    records
}

/// As a producer of ours writes it.
fn own(given: &[Given], compression: Own) -> Vec<u8> {
    let mut open = OpenBatch::new(MILLIS, Vec::new());
    for (record, (.., delta)) in written(given).iter().zip(given) {
        open.push(MILLIS + delta, record);
    }
    let identity = Identity { id: 77, epoch: 3, is_transactional: true };
    open.close(identity, 0, compression).0.bytes.to_vec()
}

/// What is read of a batch: its records, and the offset and time of each.
fn read(bytes: &[u8]) -> Result<(Records, Vec<(i64, RecordTime)>), Malformed> {
    let (mut records, mut places, mut unpacked) = (Records::default(), Vec::new(), vec![0xaa; 9]);
    let head = Head::read(bytes)?.ok_or(Malformed("a piece of a batch"))?;
    if !head.is_intact(bytes) {
        return Err(Malformed("damaged"));
    }
    let length = head.unpack(bytes, &mut unpacked)?;
    let mut rest = &unpacked[..length];
    for _ in 0..head.records {
        let row = Row::read(&mut rest)?;
        row.append_to(&mut records)?;
        places.push((head.offset_of(&row)?, head.time_of(&row)));
    }
    assert!(rest.is_empty());
    Ok((records, places))
}

proptest! {
    #[test]
    fn what_another_library_writes_is_read(
        given in prop::collection::vec(any_record(), 1..12),
        append in any::<bool>(),
    ) {
        let bytes = foreign(&given, append);
        let head = Head::read(&bytes).unwrap().unwrap();
        prop_assert_eq!((head.length, head.producer, head.leader_epoch), (bytes.len(), 77, 5));
        prop_assert!(head.is_transactional() && !head.is_control());
        let (records, places) = read(&bytes).unwrap();
        prop_assert_eq!(records, written(&given));
        let latest = given.iter().map(|(.., delta)| MILLIS + delta).max().unwrap();
        let expected = given.iter().zip(FIRST..).map(|((.., delta), offset)| {
            (offset, RecordTime { millis: if append { latest } else { MILLIS + delta }, append })
        });
        prop_assert_eq!(places, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_our_producer_writes_is_read(
        given in prop::collection::vec(any_record(), 1..12),
        is_compressed in any::<bool>(),
    ) {
        let bytes = own(&given, if is_compressed { Own::Lz4 } else { Own::None });
        prop_assert_eq!(read(&bytes).unwrap().0, written(&given));
    }

    /// A damaged batch is never taken for another one, and a piece of one is no batch yet.
    #[test]
    fn damage_is_seen(
        given in prop::collection::vec(any_record(), 1..5),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let mut bytes = own(&given, Own::Lz4);
        let cut = at.index(bytes.len());
        prop_assert!(matches!(Head::read(&bytes[..cut]), Ok(None)));
        let at = field::ATTRIBUTES + at.index(bytes.len() - field::ATTRIBUTES);
        bytes[at] ^= 1 << bit;
        prop_assert!(read(&bytes).is_err());
    }

    /// Whatever stands behind a checksum that is right: nothing panics, and what is refused leaves nothing behind.
    #[test]
    fn a_liar_is_refused(
        mut bytes in prop::collection::vec(any::<u8>(), HEADER..400),
        records in 0..100_i32,
        codec in 0..5_u8,
    ) {
        let length = i32::try_from(bytes.len() - UNCOUNTED).unwrap();
        bytes[field::LENGTH..UNCOUNTED].copy_from_slice(&length.to_be_bytes());
        bytes[field::MAGIC] = MAGIC;
        bytes[field::ATTRIBUTES..field::LAST_OFFSET].copy_from_slice(&[0, codec]);
        bytes[field::RECORDS..HEADER].copy_from_slice(&records.to_be_bytes());
        let checksum = crc32c(&bytes[field::ATTRIBUTES..]);
        bytes[field::CHECKSUM..field::ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
        let Ok(Some(head)) = Head::read(&bytes) else { return Ok(()) };
        prop_assert!(head.is_intact(&bytes));
        let mut unpacked = Vec::new();
        let Ok(length) = head.unpack(&bytes, &mut unpacked) else { return Ok(()) };
        let (mut rest, mut into) = (&unpacked[..length], Records::default());
        into.push(Some(b"before"), None);
        let before = into.clone();
        for _ in 0..head.records {
            let Ok(row) = Row::read(&mut rest) else { break };
            if row.append_to(&mut into).is_err() {
                prop_assert_eq!(&into, &before);
                break;
            }
            into.pop();
        }
        head.aborts(&bytes).ok();
    }
}

#[test]
fn what_stands_behind_the_headers_of_a_record_is_not_kept() {
    // No key, a value of one byte, no headers; and nine bytes more than that.
    let bytes = [&[32, 0, 0, 0, 1, 2, b'v', 0][..], &[7; 9]].concat();
    let (mut rest, mut records) = (&bytes[..], Records::default());
    Row::read(&mut rest).unwrap().append_to(&mut records).unwrap();
    assert_eq!((records.get(0).key(), records.get(0).value()), (None, Some(&b"v"[..])));
    assert_eq!((rest.len(), records.payload_bytes()), (0, 4));
}

#[test]
fn an_old_format_is_told_from_damage() {
    let mut bytes = own(&[(None, None, Vec::new(), 0)], Own::None);
    bytes[field::MAGIC] = 1;
    assert!(Head::read(&bytes).unwrap_err().0.contains("version 2"));
}

#[test]
fn a_control_batch_says_how_its_transaction_ended() {
    for (kind, aborts) in [(0_i16, true), (1, false)] {
        let key = [0, 0, kind.to_be_bytes()[0], kind.to_be_bytes()[1]];
        let bytes = own(&[(Some(key.to_vec()), Some(vec![0; 6]), Vec::new(), 0)], Own::None);
        assert_eq!(Head::read(&bytes).unwrap().unwrap().aborts(&bytes), Ok(aborts));
    }
    let bytes = own(&[(None, None, Vec::new(), 0)], Own::None);
    assert!(Head::read(&bytes).unwrap().unwrap().aborts(&bytes).is_err());
}
