//! The columnar unit that flows: rows of one model and class, with their origins.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::broker::Polled;
use crate::catalog::ModelIndex;
use crate::class::Class;
use crate::lease::{Lease, Offset};
use crate::model::TensorSpec;
use crate::tensor::Column;

/// The header in which a client says which trace a request is part of (W3C Trace Context); a result has it too.
pub const TRACEPARENT: &[u8] = b"traceparent";

/// Rows of one model and class, decoded in one activation of one worker, from any of its leases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The model that the rows are for.
    pub model: ModelIndex,
    /// What its rows have in common with those that they may run with.
    pub class: Class,
    /// The worker that polled them, and to which their outcomes go.
    pub home: usize,
    /// The device that they run on, numbered as the worker that is its home.
    pub device: usize,
    /// The inputs of the model, in the order of its signature: every row's, or what all rows share.
    pub columns: Vec<Column>,
    /// A column: what else is known of each row.
    pub rows: Vec<Row>,
    /// The text that `rows` points into: request ids and tenant ids, unescaped.
    pub text: String,
    /// Whether the original of any row has a `traceparent`, as far as somebody has looked: where none has, nobody need look again.
    pub traced: bool,
    /// The original records, until each has its outcome.
    pub polled: Arc<Polled>,
}

/// What a block keeps of a row beside its inputs.
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
    /// An empty block of a model with these inputs.
    pub fn new(model: ModelIndex, home: usize, columns: Vec<Column>, polled: Arc<Polled>) -> Self {
        let (class, rows, text) = (Class::default(), Vec::new(), String::new());
        Self { model, class, home, device: 0, columns, rows, text, traced: true, polled }
    }

    /// Makes room for `rows` rows whose originals have so many bytes.
    pub fn reserve(&mut self, rows: usize, bytes: usize) {
        for column in &mut self.columns {
            // A number takes two bytes of JSON at least, and as a rule more than four.
            column.values.reserve((rows * column.row_len()).min(bytes / 4));
        }
        self.rows.reserve(rows);
    }

    /// Appends a row whose inputs these are. What rows share is the same as in the rows before.
    pub fn push_inputs(&mut self, inputs: &[TensorSpec], row: &[Column]) {
        for ((column, input), row) in self.columns.iter_mut().zip(inputs).zip(row) {
            if input.is_batched() || column.values.is_empty() {
                column.values.push_of(&row.values, 0..row.values.len());
            }
        }
    }

    /// Lets the block keep the originals of its own rows alone. What else was polled with them would stay in memory for as long as a
    /// row of this block waits, and it was given back to the budget when it was committed.
    ///
    /// # Panics
    ///
    /// If it has 2^32 rows or more.
    pub fn detach(&mut self) {
        let mut own = Polled { polled_at: self.polled.polled_at, ..Polled::default() };
        own.records.reserve_like(self.polled.records.size().scaled(self.rows.len()));
        own.origins.reserve(self.rows.len());
        own.times.reserve(self.rows.len());
        for row in &mut self.rows {
            let place = row.record as usize;
            row.record = u32::try_from(own.records.push_copy(self.polled.records.get(place)))
                .expect("a block has fewer than 2^32 rows");
            own.origins.push(self.polled.origins[place]);
            own.times.push(self.polled.times[place]);
        }
        self.polled = Arc::new(own);
    }

    /// Bytes of what each row has of its own.
    pub fn row_bytes(&self) -> usize {
        let rows = self.rows.len().max(1);
        // What all rows share is there once, and small.
        self.columns.iter().map(|column| column.values.len() * column.values.dtype().bytes() / rows).sum()
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
                // As bytes: where a character begins was seen when the row was written.
                &self.text.as_bytes()[start as usize..end as usize] != tenant.as_bytes()
            };
            let next = rest.clone().find(is_other).unwrap_or(rest.end);
            rest.start = next;
            Some((tenant, first..next))
        })
    }

    fn str(&self, range: &Range<u32>) -> &str {
        &self.text[range.start as usize..range.end as usize]
    }
}
