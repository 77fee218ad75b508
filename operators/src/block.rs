//! The columnar unit that flows: rows of one model with their origins.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::broker::Polled;
use crate::catalog::ModelIndex;
use crate::lease::{Lease, Offset};

/// Rows of one model, decoded in one activation of one worker, from any of its leases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The model that the rows are for.
    pub model: ModelIndex,
    /// The worker that polled them, and to which their outcomes go.
    pub home: usize,
    /// Floats a row.
    pub row_len: usize,
    /// Every row's floats, one row after the other.
    pub values: Vec<f32>,
    /// A column: what else is known of each row.
    pub rows: Vec<Row>,
    /// The text that `rows` points into: request ids and tenant ids, unescaped.
    pub text: Vec<u8>,
    /// The original records, until each has its outcome.
    pub polled: Arc<Polled>,
}

/// What a block keeps of a row beside its floats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The place of its original in [`Block::polled`].
    pub record: u32,
    /// Where its request id stands in [`Block::text`].
    pub request_id: Range<u32>,
    /// Where its tenant id stands in [`Block::text`].
    pub tenant_id: Range<u32>,
}

impl Block {
    /// An empty block.
    pub fn new(model: ModelIndex, home: usize, row_len: usize, polled: Arc<Polled>) -> Self {
        Self { model, home, row_len, values: Vec::new(), rows: Vec::new(), text: Vec::new(), polled }
    }

    /// Makes room for `rows` rows whose originals have so many bytes.
    pub fn reserve(&mut self, rows: usize, bytes: usize) {
        // A float takes two bytes of JSON at least, and as a rule more than four.
        self.values.reserve((rows * self.row_len).min(bytes / 4));
        self.rows.reserve(rows);
    }

    /// Lets the block keep the originals of its own rows alone. What else was polled with them would stay in memory for as long as a
    /// row of this block waits, and it was given back to the budget when it was committed.
    ///
    /// # Panics
    ///
    /// If it has 2^32 rows or more.
    pub fn detach(&mut self) {
        let mut own = Polled { polled_at: self.polled.polled_at, ..Polled::default() };
        for row in &mut self.rows {
            let place = row.record as usize;
            row.record = u32::try_from(own.records.push_copy(self.polled.records.get(place)))
                .expect("a block has fewer than 2^32 rows");
            own.origins.push(self.polled.origins[place]);
            own.times.push(self.polled.times[place]);
        }
        self.polled = Arc::new(own);
    }

    /// Bytes of the originals of its rows: keys, values and headers.
    pub fn original_bytes(&self) -> usize {
        self.rows.iter().map(|row| self.polled.records.get(row.record as usize).payload_bytes()).sum()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The floats of the rows in `range`.
    pub fn values(&self, range: Range<usize>) -> &[f32] {
        &self.values[range.start * self.row_len..range.end * self.row_len]
    }

    /// Where the row at `index` came from.
    pub fn origin(&self, index: usize) -> (Lease, Offset) {
        self.polled.origins[self.rows[index].record as usize]
    }

    /// The request id of the row at `index`.
    pub fn request_id(&self, index: usize) -> &str {
        self.str(&self.rows[index].request_id)
    }

    /// The tenant id of the row at `index`.
    pub fn tenant_id(&self, index: usize) -> &str {
        self.str(&self.rows[index].tenant_id)
    }

    /// The rows in `range` as runs of one tenant each, with its id.
    pub fn tenants(&self, range: Range<usize>) -> impl Iterator<Item = (&str, Range<usize>)> {
        let mut rest = range;
        std::iter::from_fn(move || {
            let first = rest.clone().next()?;
            let tenant = self.tenant_id(first);
            let is_other = |row: &usize| {
                let Range { start, end } = self.rows[*row].tenant_id;
                &self.text[start as usize..end as usize] != tenant.as_bytes()
            };
            let next = rest.clone().find(is_other).unwrap_or(rest.end);
            rest.start = next;
            Some((tenant, first..next))
        })
    }

    fn str(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(&self.text[range.start as usize..range.end as usize])
            .expect("decode writes only text that it has checked")
    }
}
