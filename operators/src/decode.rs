//! Decode: the bytes of records become the rows of blocks, and what can't be a row becomes a dead letter.
//!
//! ```text
//!                      ┌────────┐── blocks @ e, one a model ──▶
//!   polled records @ e │        │
//!   ──────────────────▶│ Decode │── dead letters @ e ──▶  (of this worker's own leases: they are home already)
//!                      └────────┘
//! ```
//!
//! A record is a row when its header names a model, its body decodes, in the form that its content type says, and names the same one, the
//! model is served, and the inputs have the types and axes of the model's row and no NaN or infinity that the model's configuration
//! forbids. Where a row is floats of a length that never changes, they are written straight into the block's buffer; the inputs of other
//! models are read first, because they decide with which rows they may run.

mod reading;
mod refusal;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use self::refusal::Refusal;
use crate::block::{Block, Row, TRACEPARENT};
use crate::broker::Polled;
use crate::catalog::{Catalog, Listing, ModelIndex, NotFinite, Served};
use crate::class::Class;
use crate::codec::x_tensor;
use crate::dead_letter::{Reason, Stage, Verdict};
use crate::letters::Letters;
use crate::model::is_model_id;
use crate::outcome::Outcomes;
use crate::placement::device_of;
use crate::records::RecordView;
use crate::tensor::{Column, Values};

/// What decode works with.
#[derive(Clone)]
pub struct DecodeParts {
    /// The models.
    pub catalog: Arc<Catalog>,
    /// How dead letters are written.
    pub letters: Letters,
    /// The largest record that is decoded: key, value and headers, in bytes.
    pub bytes_max: usize,
}

/// Methods to decode polled records.
pub trait Decode<'scope> {
    /// Decodes records into blocks and dead letters.
    fn decode(
        self,
        parts: DecodeParts,
    ) -> (StreamVec<'scope, u64, Arc<Block>>, StreamVec<'scope, u64, Arc<Outcomes>>);
}

impl<'scope> Decode<'scope> for StreamVec<'scope, u64, Arc<Polled>> {
    fn decode(
        self,
        parts: DecodeParts,
    ) -> (StreamVec<'scope, u64, Arc<Block>>, StreamVec<'scope, u64, Arc<Outcomes>>) {
        let scope = self.scope();
        let home = scope.worker().index();
        let mut builder = OperatorBuilder::new("Decode".to_owned(), scope);
        let mut input = builder.new_input(self, Pipeline);
        let (blocks, block_stream) = builder.new_output();
        let (letters, letter_stream) = builder.new_output();
        let mut blocks = OutputBuilder::<_, CapacityContainerBuilder<Vec<Arc<Block>>>>::from(blocks);
        let mut letters = OutputBuilder::<_, CapacityContainerBuilder<Vec<Arc<Outcomes>>>>::from(letters);
        builder.build(move |_capabilities| {
            move |_frontiers| {
                let (mut blocks, mut letters) = (blocks.activate(), letters.activate());
                input.for_each_stamp(|stamp, data| {
                    for polled in data.flat_map(|container| container.drain(..)) {
                        let decoded = parts.decode(&polled, home);
                        blocks.session(&stamp).give_iterator(decoded.blocks.into_iter().map(Arc::new));
                        if !decoded.letters.is_empty() {
                            letters.session(&stamp).give(Arc::new(decoded.letters));
                        }
                    }
                });
            }
        });
        (block_stream, letter_stream)
    }
}

/// What became of the records of one activation.
pub struct Decoded {
    /// The rows, one block a model.
    pub blocks: Vec<Block>,
    /// What could not become a row.
    pub letters: Outcomes,
}

impl DecodeParts {
    /// Decodes what the worker `home` polled in one activation.
    pub fn decode(&self, polled: &Arc<Polled>, home: usize) -> Decoded {
        let mut letters = Outcomes::new(home);
        let mut blocks = Blocks {
            polled,
            home,
            blocks: Vec::new(),
            places: vec![None; self.catalog.listings().len() * self.catalog.devices()],
            devices: self.catalog.devices(),
            of_classes: BTreeMap::new(),
            row: Vec::new(),
            text: String::new(),
        };
        let mut skipped = polled.skipped.iter().copied().peekable();
        let mut last = None;
        for (place, record) in polled.records.iter().enumerate() {
            if skipped.next_if_eq(&place).is_some() {
                continue;
            }
            let row = self.model_of(record, &mut last).and_then(|model| {
                let served = self.catalog.served(model).expect("it was found to be served");
                if let Some(row_len) = served.signature.floats()
                    && let Some(row) = blocks.floats(model, served, row_len, place, record)
                {
                    return row;
                }
                blocks.tensors(model, served, place, record)
            });
            if let Err(refusal) = row {
                self.refuse(&mut letters, polled, place, record, refusal);
            }
        }
        let mut blocks = blocks.blocks;
        blocks.retain(|block| !block.is_empty());
        if blocks.len() > 1 || !letters.is_empty() {
            // A block that has the smaller part of what was polled must not keep the rest of it.
            let small = |block: &&mut Block| block.original_bytes() < polled.records.payload_bytes() / 2;
            blocks.iter_mut().filter(small).for_each(Block::detach);
        }
        blocks.iter().for_each(|block| self.letters.observer.decoded(block));
        Decoded { blocks, letters }
    }

    /// The served model that the header names; `last` is the one before it, which it mostly is too. What this finds wrong needs no look at
    /// the body, but for the tenant of the letter.
    fn model_of<'r>(
        &self,
        record: RecordView<'r>,
        last: &mut Option<(&'r [u8], ModelIndex)>,
    ) -> Result<ModelIndex, Refusal<'static>> {
        let id = match record.header(b"model_id") {
            Some(Some(id)) if !id.is_empty() => id,
            Some(_) => return Err(Refusal::decode(Reason::MissingModelId, "the header `model_id` is empty")),
            None => return Err(Refusal::decode(Reason::MissingModelId, "the header `model_id` is missing")),
        };
        let known = last.filter(|(known, _)| *known == id).map(|(_, model)| model);
        if known.is_none() && !is_model_id(id) {
            let message = "the header `model_id` is not 1 to 128 of A-Z a-z 0-9 . _ - without a leading dot";
            return Err(Refusal::decode(Reason::InvalidModelId, message));
        }
        if record.value().is_none() {
            return Err(Refusal::decode(Reason::NullValue, "the value is null"));
        }
        if record.payload_bytes() > self.bytes_max {
            let message = format!(
                "the record has {} bytes, and `records.bytes_max` is {}",
                record.payload_bytes(),
                self.bytes_max
            );
            return Err(Refusal { message: Cow::Owned(message), ..Refusal::decode(Reason::Undecodable, "") });
        }
        if let Some(model) = known {
            return Ok(model);
        }
        let (reason, message) = match self.catalog.find(id).map(|model| (model, self.catalog.listing(model)))
        {
            Some((model, Listing::Served(_))) => {
                *last = Some((id, model));
                return Ok(model);
            }
            Some((_, Listing::Unavailable { reason, .. })) => {
                (Reason::ModelUnavailable, format!("the model could not be loaded: {reason}"))
            }
            None => (Reason::UnknownModel, "there is no model of this id in the model store".to_owned()),
        };
        // A body that contradicts its header, or is none, is the more basic fault: say that.
        let mut text = String::new();
        let request = reading::names(record, &mut text)?;
        let tenant = text_at(&text, &request.tenant_id);
        if request.model_id.as_bytes() != id {
            return Err(Refusal::mismatch(&request.model_id, tenant));
        }
        Err(Refusal { reason, stage: Stage::Route, message: Cow::Owned(message), tenant: Some(tenant) })
    }

    fn refuse(
        &self,
        letters: &mut Outcomes,
        polled: &Arc<Polled>,
        place: usize,
        record: RecordView<'_>,
        refusal: Refusal<'_>,
    ) {
        let known = |id: &&[u8]| is_model_id(id);
        let model =
            record.header(b"model_id").flatten().filter(known).and_then(|id| std::str::from_utf8(id).ok());
        let version = model
            .and_then(|id| self.catalog.find(id.as_bytes()))
            .and_then(|model| self.catalog.served(model))
            .map(|served| served.version.as_str());
        // Where the header was refused the body has not been read; its tenant still decides the letter's partition.
        let readable = record.payload_bytes() <= self.bytes_max;
        let tenant = refusal.tenant.or_else(|| if readable { tenant_of(record) } else { None });
        let verdict = Verdict {
            reason: refusal.reason,
            stage: refusal.stage,
            message: &refusal.message,
            model,
            model_version: version,
            tenant: tenant.as_deref(),
            attempt: 1,
            failed_at_micros: 0,
        };
        self.letters.write(letters, polled, place, &verdict);
    }
}

/// The rows of one activation.
struct Blocks<'p> {
    polled: &'p Arc<Polled>,
    home: usize,
    blocks: Vec<Block>,
    /// Where the block of each model and device stands, so that one header after the other finds it without a search.
    places: Vec<Option<usize>>,
    devices: usize,
    /// The same of the classes of a model, where it has several.
    of_classes: BTreeMap<(ModelIndex, usize, Class), usize>,
    /// Where a row is read whose block is not known yet.
    row: Vec<Column>,
    text: String,
}

impl Blocks<'_> {
    /// Appends a record to the block of a model whose rows are so many floats. `None` if it is written in another way than most.
    fn floats(
        &mut self,
        model: ModelIndex,
        served: &Served,
        row_len: usize,
        place: usize,
        record: RecordView<'_>,
    ) -> Option<Result<(), Refusal<'static>>> {
        let device = self.device(served, place, record);
        let at = self.place((model, device), Class::default(), place, || served.signature.columns());
        let block = &mut self.blocks[at];
        let Some(Column { values: Values::F32(values), .. }) = block.columns.first_mut() else { return None };
        let (values_before, text_before) = (values.len(), block.text.len());
        let request =
            match reading::floats(record, &served.signature.inputs, row_len, values, &mut block.text)? {
                Ok(request) => request,
                Err(refusal) => return Some(Err(refusal)),
            };
        let row_shape = &served.signature.sample[0];
        let tenant = || text_at(&block.text, &request.tenant_id);
        let refused = if request.model_id != served.id {
            Some(Refusal::mismatch(&request.model_id, tenant()))
        } else if request.floats != row_len {
            let message = format!(
                "the input has {} numbers, and a row of the model has {row_len} (shape {row_shape:?})",
                request.floats
            );
            Some(Refusal::route(Reason::WrongShape, message, tenant()))
        } else if let Some(axes) = request.axes.filter(|axes| !x_tensor::fit(axes, row_shape)) {
            let message =
                format!("the input has the shape {axes}, and a row of the model has the shape {row_shape:?}");
            Some(Refusal::route(Reason::WrongShape, message, tenant()))
        } else if !request.finite && served.not_finite == NotFinite::Refuse {
            Some(not_finite(tenant()))
        } else {
            None
        };
        if let Some(refusal) = refused {
            values.truncate(values_before);
            block.text.truncate(text_before);
            return Some(Err(refusal));
        }
        block.traced |= record.header(TRACEPARENT).is_some();
        let record = u32::try_from(place).expect("an activation polls fewer than 2^32 records");
        block.rows.push(Row { record, request_id: request.request_id, tenant_id: request.tenant_id });
        Some(Ok(()))
    }

    /// Appends a record to the block of its model and class.
    fn tensors(
        &mut self,
        model: ModelIndex,
        served: &Served,
        place: usize,
        record: RecordView<'_>,
    ) -> Result<(), Refusal<'static>> {
        let inputs = &served.signature.inputs;
        self.text.clear();
        let request = reading::tensors(record, inputs, &mut self.row, &mut self.text)?;
        let tenant = || text_at(&self.text, &request.tenant_id);
        if request.model_id != served.id {
            return Err(Refusal::mismatch(&request.model_id, tenant()));
        }
        if !request.finite && served.not_finite == NotFinite::Refuse {
            return Err(not_finite(tenant()));
        }
        let class = Class::of(inputs, &self.row);
        let columns: Vec<Column> =
            self.row.iter().map(|column| Column::new(column.axes.clone(), column.values.dtype())).collect();
        let device = self.device(served, place, record);
        let at = self.place((model, device), class, place, || columns);
        let block = &mut self.blocks[at];
        block.push_inputs(inputs, &self.row);
        let start = u32::try_from(block.text.len()).expect("a block's text stays below 4 GiB");
        block.text.push_str(&self.text);
        block.traced |= record.header(TRACEPARENT).is_some();
        let moved = |range: std::ops::Range<u32>| start + range.start..start + range.end;
        let record = u32::try_from(place).expect("an activation polls fewer than 2^32 records");
        let (request_id, tenant_id) = (moved(request.request_id), moved(request.tenant_id));
        block.rows.push(Row { record, request_id, tenant_id });
        Ok(())
    }

    /// The device of a record to this model.
    fn device(&self, served: &Served, place: usize, record: RecordView<'_>) -> usize {
        let (lease, offset) = self.polled.origins[place];
        device_of(&served.devices, record.key(), lease, offset)
    }

    /// The place of the block of a class.
    fn place(
        &mut self,
        (model, device): (ModelIndex, usize),
        class: Class,
        record: usize,
        columns: impl FnOnce() -> Vec<Column>,
    ) -> usize {
        let only = model.0 as usize * self.devices + device;
        let known = if class.is_only() {
            self.places[only]
        } else {
            self.of_classes.get(&(model, device, class.clone())).copied()
        };
        known.unwrap_or_else(|| {
            let at = self.blocks.len();
            let mut block = Block::new(model, self.home, columns(), Arc::clone(self.polled));
            if record == 0 {
                // As a rule one model has most of a poll.
                block.reserve(self.polled.records.len(), self.polled.records.payload_bytes());
            }
            block.class = class.clone();
            block.device = device;
            block.traced = false;
            self.blocks.push(block);
            if class.is_only() {
                self.places[only] = Some(at);
            } else {
                self.of_classes.insert((model, device, class), at);
            }
            at
        })
    }
}

fn not_finite(tenant: String) -> Refusal<'static> {
    let message = "the input holds a number that is not finite, or too large for its type".to_owned();
    Refusal::route(Reason::NotFinite, message, tenant)
}

fn tenant_of(record: RecordView<'_>) -> Option<String> {
    record.value()?;
    let mut text = String::new();
    match reading::names(record, &mut text) {
        Ok(request) => Some(text_at(&text, &request.tenant_id)),
        Err(refusal) => refusal.tenant,
    }
}

fn text_at(text: &str, range: &std::ops::Range<u32>) -> String {
    text[range.start as usize..range.end as usize].to_owned()
}
