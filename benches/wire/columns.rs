//! Rows in columns of plain numbers, as the `columnar` crate lays them out, which needs no decoding to be looked at.
//!
//! What the rows of a block share stands before them, encoded by bincode: there is little of it.

#![expect(clippy::cast_possible_truncation, reason = "a block of a bench is small")]

use std::sync::Arc;

use columnar::bytes::indexed;
use columnar::bytes::stash::Stash;
use columnar::{Borrow as _, Index as _, Len as _, Push as _};
use operators::block::{Block, Row};
use operators::broker::{Polled, RecordTime};
use operators::catalog::ModelIndex;
use operators::class::Class;
use operators::clock::Moment;
use operators::lease::{Lease, Offset, Partition, Term};
use operators::tensor::Column;
use serde::{Deserialize, Serialize};

use crate::codec::Wire;

/// What all rows of a block have in common.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shared {
    model: ModelIndex,
    class: Class,
    home: usize,
    device: usize,
    axes: Vec<usize>,
    polled_at: Moment,
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it is what was encoded")
}

impl Shared {
    pub(crate) fn of(block: &Block) -> Self {
        Self {
            model: block.model,
            class: block.class.clone(),
            home: block.home,
            device: block.device,
            axes: block.columns[0].axes.clone(),
            polled_at: block.polled.polled_at,
        }
    }

    /// A block of these rows.
    pub(crate) fn block(self, floats: Vec<f32>, rows: Vec<Row>, text: String, mut polled: Polled) -> Block {
        polled.polled_at = self.polled_at;
        let mut column = Column::of_floats(1, floats);
        column.axes = self.axes;
        let block = Block::new(self.model, self.home, vec![column], Arc::new(polled));
        Block { class: self.class, device: self.device, rows, text, ..block }
    }
}

/// What a row has of its own, its original included.
#[derive(columnar::Columnar)]
struct Request {
    partition: i32,
    term: u64,
    offset: i64,
    millis: i64,
    append: bool,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    request_id: Vec<u8>,
    tenant_id: Vec<u8>,
    floats: Vec<f32>,
}

type Requests = <Request as columnar::Columnar>::Container;

pub(crate) struct Columnar;

impl Wire for Columnar {
    const NAME: &'static str = "columnar";

    fn encode(block: &Block, out: &mut Vec<u8>) {
        let mut requests = Requests::default();
        let floats = block.columns[0].values.numbers::<f32>();
        let row_len = block.columns[0].row_len();
        for (place, row) in block.rows.iter().enumerate() {
            let (lease, offset) = block.origin(place);
            let original = block.polled.records.get(row.record as usize);
            let time = block.polled.times[row.record as usize];
            requests.push(RequestReference {
                partition: lease.partition.0,
                term: lease.term.0,
                offset: offset.0,
                millis: time.millis,
                append: time.append,
                key: original.key(),
                value: original.value(),
                headers: original.headers(),
                request_id: block.request_id(place).as_bytes(),
                tenant_id: block.tenant_id(place).as_bytes(),
                floats: &floats[place * row_len..(place + 1) * row_len],
            });
        }
        let shared = bincode::serialize(&Shared::of(block)).expect("memory takes all that is written");
        out.extend_from_slice(&(shared.len() as u64).to_le_bytes());
        out.extend_from_slice(&shared);
        out.resize(out.len().next_multiple_of(8), 0);
        indexed::write(out, &requests.borrow()).expect("memory takes all that is written");
    }

    fn decode(bytes: &[u8]) -> Block {
        let (len, rest) = bytes.split_first_chunk().expect("it is what was encoded");
        let len = usize::try_from(u64::from_le_bytes(*len)).expect("it is what was encoded");
        let shared: Shared = bincode::deserialize(&rest[..len]).expect("it is what was encoded");
        let stash: Stash<Requests, &[u8]> =
            Stash::try_from_bytes(&rest[len.next_multiple_of(8)..]).expect("it is what was encoded");
        let requests = stash.borrow();
        let (mut floats, mut text) = (Vec::new(), String::new());
        let mut rows = Vec::with_capacity(requests.len());
        let mut polled = Polled::default();
        for request in requests.into_index_iter() {
            floats.extend_from_slice(request.floats.as_slice());
            let record = polled
                .records
                .push(request.key.map(|key| key.as_slice()), request.value.map(|value| value.as_slice()));
            for (name, value) in request.headers.into_iter() {
                polled.records.push_header(name.as_slice(), value.map(|value| value.as_slice()));
            }
            let lease = Lease { partition: Partition(*request.partition), term: Term(*request.term) };
            polled.origins.push((lease, Offset(*request.offset)));
            polled.times.push(RecordTime { millis: *request.millis, append: request.append });
            let start = text.len() as u32;
            text.push_str(utf8(request.request_id.as_slice()));
            let middle = text.len() as u32;
            text.push_str(utf8(request.tenant_id.as_slice()));
            rows.push(Row {
                record: record as u32,
                request_id: start..middle,
                tenant_id: middle..text.len() as u32,
            });
        }
        shared.block(floats, rows, text, polled)
    }
}
