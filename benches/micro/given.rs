//! What several subjects are given: requests as clients write them, records as a poll brings them, blocks as decode leaves them.

use std::fmt::Write as _;
use std::sync::Arc;

use operators::block::{Block, Row};
use operators::broker::{Polled, RecordTime};
use operators::catalog::ModelIndex;
use operators::lease::{Lease, Offset, Partition, Term};
use operators::records::Records;
use operators::tensor::{Column, Values};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The request id of every request here: as long as most are.
const REQUEST_ID: &str = "7b0c5f7e-6f0b-4c43-8b0e-2f9d6d1c9a11";

/// Its tenant.
const TENANT_ID: &str = "tenant-3";

/// A request as a client writes it: each float with a fixed number of decimals, or as Python writes an `f32` that became a float there.
pub(crate) fn request(model: &str, floats: usize, decimals: Option<usize>) -> String {
    let mut value = format!(
        r#"{{"request_id":"{REQUEST_ID}","tenant_id":"{TENANT_ID}","model_id":"{model}","metadata":{{"source":"camera-7"}},"enqueued_at":"2026-01-01T00:00:00.000250Z","input":["#,
    );
    for (index, number) in numbers(floats).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        match decimals {
            Some(decimals) => write!(value, "{comma}{number:.decimals$}"),
            None => write!(value, "{comma}{:?}", f64::from(number)),
        }
        .expect("a string takes all that is written to it");
    }
    value.push_str("]}");
    value
}

/// Numbers as a normalized input has them: around zero, of either sign, none far from one.
pub(crate) fn numbers(count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    (0..count).map(|_| random.random_range(-3.0..3.0)).collect()
}

/// A request for `mlp-16` as a raw tensor of so many floats.
pub(crate) fn tensor(floats: usize) -> Records {
    let row: Vec<u8> = numbers(floats).iter().flat_map(|number| number.to_le_bytes()).collect();
    let shape = floats.to_string();
    let mut records = Records::default();
    records.push(Some(b"tenant-3|mlp-16"), Some(&row));
    let headers = [
        ("content-type", "application/x-tensor"),
        ("request_id", REQUEST_ID),
        ("tenant_id", TENANT_ID),
        ("dtype", "f32"),
        ("shape", &shape),
        ("model_id", "mlp-16"),
    ];
    headers.iter().for_each(|(name, text)| records.push_header(name.as_bytes(), Some(text.as_bytes())));
    records
}

/// What one poll brings: `records` requests, the models taking turns.
pub(crate) fn polled(models: &[&str], records: usize, floats: usize) -> Arc<Polled> {
    let values: Vec<String> = models.iter().map(|model| request(model, floats, Some(4))).collect();
    let lease = Lease { partition: Partition(17), term: Term(1) };
    let mut polled = Polled::default();
    for ((model, value), offset) in models.iter().zip(&values).cycle().zip(1_234_567..).take(records) {
        polled.records.push(Some(b"tenant-3|camera-7"), Some(value.as_bytes()));
        polled.records.push_header(b"model_id", Some(model.as_bytes()));
        polled.origins.push((lease, Offset(offset)));
        polled.times.push(RecordTime { millis: 1_767_225_600_000, append: false });
    }
    Arc::new(polled)
}

/// A block of so many rows.
pub(crate) fn block(rows: usize, floats: usize) -> Arc<Block> {
    let mut block = Block::new(
        ModelIndex(0),
        0,
        vec![Column::of_floats(floats, Vec::new())],
        polled(&["mlp-16"], rows, floats),
    );
    let values = numbers(floats);
    (0..rows).for_each(|_| push_row(&mut block, &values));
    Arc::new(block)
}

/// Appends a row as decode does: its floats, its two texts, and its line in the column.
pub(crate) fn push_row(block: &mut Block, values: &[f32]) {
    let position = |text: &str| u32::try_from(text.len()).expect("a block of a bench is small");
    let record = u32::try_from(block.rows.len()).expect("a block of a bench is small");
    let Values::F32(floats) = &mut block.columns[0].values else { unreachable!("a bench gives floats") };
    floats.extend_from_slice(values);
    let start = position(&block.text);
    block.text.push_str(REQUEST_ID);
    let middle = position(&block.text);
    block.text.push_str(TENANT_ID);
    let end = position(&block.text);
    block.rows.push(Row { record, request_id: start..middle, tenant_id: middle..end });
}
