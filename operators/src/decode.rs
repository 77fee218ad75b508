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
//! model is served, and the input has the length of the model's row and no NaN or infinity that the model's configuration forbids. The
//! floats are written straight into the block's buffer.

use std::borrow::Cow;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::block::{Block, Row};
use crate::broker::Polled;
use crate::catalog::{Catalog, Listing, ModelIndex, NotFinite};
use crate::codec::form::{CONTENT_TYPE, Form};
use crate::codec::{Request, json, x_tensor};
use crate::dead_letter::{Reason, Stage, Verdict};
use crate::letters::Letters;
use crate::model::is_model_id;
use crate::outcome::Outcomes;
use crate::records::RecordView;

/// How much of a content type a message names, in bytes.
const NAMED_BYTES_MAX: usize = 128;

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

/// Why a record is no row.
struct Refusal<'a> {
    reason: Reason,
    stage: Stage,
    message: Cow<'a, str>,
    tenant: Option<String>,
}

impl Refusal<'_> {
    fn decode(reason: Reason, message: &'static str) -> Self {
        Self { reason, stage: Stage::Decode, message: Cow::Borrowed(message), tenant: None }
    }
}

impl DecodeParts {
    /// Decodes what the worker `home` polled in one activation.
    pub fn decode(&self, polled: &Arc<Polled>, home: usize) -> Decoded {
        let mut decoded = Decoded { blocks: Vec::new(), letters: Outcomes::new(home) };
        // Where the block of each model stands, so that one header after the other finds it without a search.
        let mut places: Vec<Option<usize>> = vec![None; self.catalog.listings().len()];
        let mut skipped = polled.skipped.iter().copied().peekable();
        for (place, record) in polled.records.iter().enumerate() {
            if skipped.next_if_eq(&place).is_some() {
                continue;
            }
            let model = match self.model_of(record) {
                Ok(model) => model,
                Err(refusal) => {
                    self.refuse(&mut decoded.letters, polled, place, record, refusal);
                    continue;
                }
            };
            let at = *places[model.0 as usize].get_or_insert_with(|| {
                let row_len = self.catalog.served(model).map_or(0, |served| served.signature.row_len());
                let mut block = Block::new(model, home, row_len, Arc::clone(polled));
                if place == 0 {
                    // As a rule one model has most of a poll.
                    block.reserve(polled.records.len(), polled.records.payload_bytes());
                }
                decoded.blocks.push(block);
                decoded.blocks.len() - 1
            });
            if let Err(refusal) = self.row(&mut decoded.blocks[at], place, record) {
                self.refuse(&mut decoded.letters, polled, place, record, refusal);
            }
        }
        decoded.blocks.retain(|block| !block.is_empty());
        if decoded.blocks.len() > 1 || !decoded.letters.is_empty() {
            // A block that has the smaller part of what was polled must not keep the rest of it.
            let small = |block: &&mut Block| block.original_bytes() < polled.records.payload_bytes() / 2;
            decoded.blocks.iter_mut().filter(small).for_each(Block::detach);
        }
        decoded
    }

    /// The served model that the header names. What this finds wrong needs no look at the body, but for the tenant of the letter.
    fn model_of(&self, record: RecordView<'_>) -> Result<ModelIndex, Refusal<'static>> {
        let id = match record.header(b"model_id") {
            Some(Some(id)) if !id.is_empty() => id,
            Some(_) => return Err(Refusal::decode(Reason::MissingModelId, "the header `model_id` is empty")),
            None => return Err(Refusal::decode(Reason::MissingModelId, "the header `model_id` is missing")),
        };
        if !is_model_id(id) {
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
        let (reason, message) = match self.catalog.find(id).map(|model| (model, self.catalog.listing(model)))
        {
            Some((model, Listing::Served(_))) => return Ok(model),
            Some((_, Listing::Unavailable { reason, .. })) => {
                (Reason::ModelUnavailable, format!("the model could not be loaded: {reason}"))
            }
            None => (Reason::UnknownModel, "there is no model of this id in the model store".to_owned()),
        };
        // A body that contradicts its header, or is none, is the more basic fault: say that.
        let (mut values, mut text) = (Vec::new(), Vec::new());
        let request = read(record, 0, &mut values, &mut text)?;
        let tenant = text_at(&text, &request.tenant_id);
        if request.model_id.as_bytes() != id {
            return Err(mismatch(&request.model_id, tenant));
        }
        Err(Refusal { reason, stage: Stage::Route, message: Cow::Owned(message), tenant: Some(tenant) })
    }

    /// Appends the record to the block of the model that its header names.
    fn row(&self, block: &mut Block, place: usize, record: RecordView<'_>) -> Result<(), Refusal<'static>> {
        let served = self.catalog.served(block.model).expect("blocks are of served models");
        let (values, text) = (block.values.len(), block.text.len());
        let request = read(record, block.row_len, &mut block.values, &mut block.text)?;
        let row_shape = &served.signature.row_shape;
        let refused = if request.model_id != served.id {
            Some(mismatch(&request.model_id, text_at(&block.text, &request.tenant_id)))
        } else if request.floats != block.row_len {
            let message = format!(
                "the input has {} numbers, and a row of the model has {} (shape {row_shape:?})",
                request.floats, block.row_len
            );
            Some(route(Reason::WrongShape, message, text_at(&block.text, &request.tenant_id)))
        } else if let Some(axes) = request.axes.filter(|axes| !x_tensor::fit(axes, row_shape)) {
            let message =
                format!("the input has the shape {axes}, and a row of the model has the shape {row_shape:?}");
            Some(route(Reason::WrongShape, message, text_at(&block.text, &request.tenant_id)))
        } else if !request.finite && served.not_finite == NotFinite::Refuse {
            let message =
                "the input holds a number that is not finite, or too large for a 32-bit float".to_owned();
            Some(route(Reason::NotFinite, message, text_at(&block.text, &request.tenant_id)))
        } else {
            None
        };
        if let Some(refusal) = refused {
            block.values.truncate(values);
            block.text.truncate(text);
            return Err(refusal);
        }
        let record = u32::try_from(place).expect("an activation polls fewer than 2^32 records");
        block.rows.push(Row { record, request_id: request.request_id, tenant_id: request.tenant_id });
        Ok(())
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

/// Reads a request in the form that its content type says: appends its floats and its text.
fn read<'a>(
    record: RecordView<'a>,
    row_len: usize,
    values: &mut Vec<f32>,
    text: &mut Vec<u8>,
) -> Result<Request<'a>, Refusal<'static>> {
    match Form::of(record) {
        Some(Form::Json) => json::decode(record.value().unwrap_or_default(), row_len, values, text)
            .map_err(|error| undecodable(error.to_string(), error.tenant)),
        Some(Form::Tensor) => x_tensor::decode(record, values, text).map_err(|error| Refusal {
            reason: if error.problem == x_tensor::Problem::Dtype {
                Reason::UnsupportedType
            } else {
                Reason::Undecodable
            },
            ..undecodable(error.to_string(), error.tenant)
        }),
        None => {
            let found = record.header(CONTENT_TYPE).flatten().unwrap_or_default();
            let found = String::from_utf8_lossy(&found[..found.len().min(NAMED_BYTES_MAX)]);
            let [json, tensor] = [Form::Json, Form::Tensor].map(Form::media_type);
            let message = format!("the content type is {found:?}, and {json} and {tensor} can be read");
            Err(Refusal { reason: Reason::UnsupportedType, ..undecodable(message, None) })
        }
    }
}

fn tenant_of(record: RecordView<'_>) -> Option<String> {
    record.value()?;
    let (mut values, mut text) = (Vec::new(), Vec::new());
    match read(record, 0, &mut values, &mut text) {
        Ok(request) => Some(text_at(&text, &request.tenant_id)),
        Err(refusal) => refusal.tenant,
    }
}

fn text_at(text: &[u8], range: &std::ops::Range<u32>) -> String {
    String::from_utf8_lossy(&text[range.start as usize..range.end as usize]).into_owned()
}

fn undecodable(message: String, tenant: Option<String>) -> Refusal<'static> {
    Refusal { message: Cow::Owned(message), tenant, ..Refusal::decode(Reason::Undecodable, "") }
}

fn mismatch(body: &str, tenant: String) -> Refusal<'static> {
    let message = Cow::Owned(format!("the body's `model_id` is {body:?}, and the header's is another"));
    Refusal { message, tenant: Some(tenant), ..Refusal::decode(Reason::ModelIdMismatch, "") }
}

fn route(reason: Reason, message: String, tenant: String) -> Refusal<'static> {
    Refusal { reason, stage: Stage::Route, message: Cow::Owned(message), tenant: Some(tenant) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use timely::dataflow::operators::Input;

    use super::*;
    use crate::catalog::BatchPolicy;
    use crate::clock::{ManualClock, Moment};
    use crate::fixtures::{
        Message, Recorder, Watched, body, lease, letters, models, on_a_worker, polled, request,
    };
    use crate::lease::Offset;
    use crate::model::simulated::{SimulatedBackend, SimulatedModel};
    use crate::outcome::Kind;

    const BYTES_MAX: usize = 400;

    /// `m` has rows of two floats, `n` of one, and `broken` cannot be loaded.
    fn parts(not_finite: NotFinite) -> (DecodeParts, Arc<Recorder>) {
        let broken =
            SimulatedModel { fault: Some("it has two inputs".into()), ..SimulatedModel::new("broken", 1, 1) };
        let all = [broken, SimulatedModel::new("m", 2, 1), SimulatedModel::new("n", 1, 1)];
        let batch = BatchPolicy::Static { size_max: 8, delay_max: std::time::Duration::ZERO };
        let models = models(SimulatedBackend::new(all), batch, not_finite);
        let observer = Arc::new(Recorder::default());
        let letters = letters(&Arc::new(ManualClock::new()), &observer);
        (DecodeParts { catalog: models.catalog, letters, bytes_max: BYTES_MAX }, observer)
    }

    fn typed(content_type: &str, value: &str) -> Message {
        let mut message = Message::new(Some("m"), value);
        message.headers.push(("content-type".to_owned(), Some(content_type.as_bytes().to_vec())));
        message
    }

    /// A tensor for the model `m`.
    fn tensor(dtype: &str, shape: &str, value: &[u8]) -> Message {
        let mut message = Message { value: Some(value.to_vec()), ..typed("application/x-tensor", "") };
        for (name, value) in [("request_id", "r"), ("tenant_id", "acme"), ("dtype", dtype), ("shape", shape)]
        {
            message.headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
        }
        message
    }

    fn decode(parts: &DecodeParts, messages: &[Message]) -> Decoded {
        parts.decode(&polled(lease(3, 1), messages, Moment::START), 5)
    }

    fn header(outcomes: &Outcomes, index: usize, name: &str) -> Option<String> {
        let value = outcomes.record(index).header(name.as_bytes())??;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn a_block_keeps_no_more_than_twice_the_originals_of_its_rows() {
        let (parts, _) = parts(NotFinite::Refuse);
        let rare = request("n", &[7.0]);
        let mut messages = vec![request("m", &[1.0, 2.0]); 9];
        messages.insert(4, rare.clone());
        messages.push(Message::new(None, "no model"));
        let decoded = decode(&parts, &messages);
        let [many, one] = &decoded.blocks[..] else { panic!("{} blocks", decoded.blocks.len()) };
        assert_eq!((many.polled.records.len(), one.polled.records.len()), (11, 1));
        assert_eq!(one.origin(0), (lease(3, 1), Offset(4)));
        assert_eq!(one.polled.records.get(0).value(), rare.value.as_deref());
        assert_eq!((one.polled.times.len(), one.polled.polled_at), (1, many.polled.polled_at));
        assert_eq!((one.request_id(0), one.values(0..1)), ("r", &[7.0][..]));
    }

    #[test]
    fn each_kind_of_bad_record_has_its_reason_and_stage() {
        let good = body("m", "[1,2]");
        let null = Message { value: None, ..Message::new(Some("m"), "") };
        let cases = [
            (Message::new(None, &good), Reason::MissingModelId, Stage::Decode),
            (Message::new(Some(""), &good), Reason::MissingModelId, Stage::Decode),
            (Message::new(Some("../m"), &good), Reason::InvalidModelId, Stage::Decode),
            (null, Reason::NullValue, Stage::Decode),
            (Message::new(Some("m"), "{"), Reason::Undecodable, Stage::Decode),
            (Message::new(Some("m"), &body("m", "[1,\"2\"]")), Reason::Undecodable, Stage::Decode),
            (
                Message::new(Some("m"), &body("m", &format!("[1,{}]", "2".repeat(BYTES_MAX)))),
                Reason::Undecodable,
                Stage::Decode,
            ),
            (Message::new(Some("m"), &body("n", "[1]")), Reason::ModelIdMismatch, Stage::Decode),
            // The body of a model that is unknown is read all the same: a contradiction is the more basic fault.
            (Message::new(Some("absent"), &body("m", "[1,2]")), Reason::ModelIdMismatch, Stage::Decode),
            (Message::new(Some("absent"), "{"), Reason::Undecodable, Stage::Decode),
            (Message::new(Some("absent"), &body("absent", "[1]")), Reason::UnknownModel, Stage::Route),
            (Message::new(Some("broken"), &body("broken", "[1]")), Reason::ModelUnavailable, Stage::Route),
            (Message::new(Some("m"), &body("m", "[1]")), Reason::WrongShape, Stage::Route),
            (Message::new(Some("m"), &body("m", "[1,2,3]")), Reason::WrongShape, Stage::Route),
            (Message::new(Some("m"), &body("m", "[1,1e39]")), Reason::NotFinite, Stage::Route),
            (typed("application/x-protobuf", &good), Reason::UnsupportedType, Stage::Decode),
            // JSON, but its headers do not say what a tensor's have to.
            (typed("application/x-tensor", &good), Reason::Undecodable, Stage::Decode),
            (tensor("f64", "2", &[0; 16]), Reason::UnsupportedType, Stage::Decode),
            (tensor("f32", "2", &[0; 7]), Reason::Undecodable, Stage::Decode),
            (tensor("f32", "1", &[0; 4]), Reason::WrongShape, Stage::Route),
            (tensor("f32", "2,1", &[0; 8]), Reason::WrongShape, Stage::Route),
            (tensor("f32", "2", &[0xff; 8]), Reason::NotFinite, Stage::Route),
        ];
        let (parts, observer) = parts(NotFinite::Refuse);
        let messages: Vec<Message> = cases.iter().map(|(message, ..)| message.clone()).collect();
        let decoded = decode(&parts, &messages);
        assert!(decoded.blocks.is_empty(), "{:?}", decoded.blocks);
        let expected: Vec<_> = cases.iter().map(|(_, reason, stage)| (*reason, *stage)).collect();
        assert_eq!(observer.seen().dead_letters, expected);
        assert_eq!((decoded.letters.home, decoded.letters.len()), (5, cases.len()));
        for (index, (_, reason, stage)) in cases.iter().enumerate() {
            let (at, offset, kind) = decoded.letters.origin(index);
            assert_eq!((at, offset), (lease(3, 1), Offset(i64::try_from(index).unwrap())));
            assert!(matches!(kind, Kind::DeadLetter(0..4)));
            assert_eq!(
                header(&decoded.letters, index, "inference.dlq.reason").as_deref(),
                Some(reason.name())
            );
            assert_eq!(header(&decoded.letters, index, "inference.dlq.stage").as_deref(), Some(stage.name()));
        }
    }

    #[test]
    fn a_letter_names_the_version_of_a_model_that_is_served() {
        let (parts, _) = parts(NotFinite::Refuse);
        let decoded = decode(&parts, &[request("m", &[1.0]), request("absent", &[1.0])]);
        let version = &parts.catalog.served(parts.catalog.find(b"m").unwrap()).unwrap().version;
        assert_eq!(header(&decoded.letters, 0, "inference.dlq.model_version").as_ref(), Some(version));
        assert_eq!(header(&decoded.letters, 1, "inference.dlq.model_version"), None);
        assert_eq!(header(&decoded.letters, 1, "inference.dlq.model").as_deref(), Some("absent"));
    }

    #[test]
    fn a_number_beyond_32_bits_passes_where_the_model_allows_it() {
        let (parts, _) = parts(NotFinite::Allow);
        let decoded = decode(&parts, &[Message::new(Some("n"), &body("n", "[-1e39]"))]);
        assert_eq!(decoded.blocks[0].values, [f32::NEG_INFINITY]);
    }

    #[test]
    fn forms_mix_in_a_block() {
        let (parts, _) = parts(NotFinite::Refuse);
        let value = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
        let messages = [request("m", &[1.0, 2.0]), tensor("f32", "2", &value), request("m", &[3.0, 4.0])];
        let decoded = decode(&parts, &messages);
        let [block] = &decoded.blocks[..] else { panic!("{} blocks", decoded.blocks.len()) };
        assert_eq!(block.values, [1.0, 2.0, 1.5, -2.0, 3.0, 4.0]);
        assert_eq!((block.request_id(1), block.tenant_id(1)), ("r", "acme"));
    }

    #[test]
    fn a_record_delivered_before_is_passed_over() {
        let (parts, _) = parts(NotFinite::Refuse);
        let mut polled =
            Arc::into_inner(polled(lease(0, 1), &vec![request("n", &[1.0]); 3], Moment::START)).unwrap();
        polled.skip(1);
        let decoded = parts.decode(&Arc::new(polled), 0);
        let origins: Vec<_> =
            (0..decoded.blocks[0].len()).map(|row| decoded.blocks[0].origin(row).1).collect();
        assert_eq!((origins, decoded.letters.len()), (vec![Offset(0), Offset(2)], 0));
    }

    #[test]
    fn blocks_and_letters_leave_at_the_epoch_of_their_records() {
        on_a_worker(|worker| {
            let (parts, _) = parts(NotFinite::Refuse);
            let (mut input, blocks, letters) = worker.dataflow(|scope| {
                let (input, stream) = scope.new_input();
                let (blocks, letters) = stream.decode(parts);
                (input, Watched::new(blocks), Watched::new(letters))
            });
            let mixed = [
                request("m", &[1.0, 2.0]),
                request("absent", &[]),
                request("n", &[3.0]),
                request("m", &[4.0, 5.0]),
            ];
            input.advance_to(7);
            input.send(polled(lease(0, 1), &mixed, Moment::START));
            input.advance_to(9);
            input.send(polled(lease(0, 1), &mixed[..1], Moment::START));
            input.advance_to(10);
            worker.step_while(|| blocks.probe.less_than(&10) || letters.probe.less_than(&10));
            let values = |(epoch, block): &(u64, Arc<Block>)| (*epoch, block.values.clone());
            let blocks: Vec<_> = blocks.out.borrow().iter().map(values).collect();
            assert_eq!(blocks, [(7, vec![1.0, 2.0, 4.0, 5.0]), (7, vec![3.0]), (9, vec![1.0, 2.0])]);
            let letters: Vec<_> =
                letters.out.borrow().iter().map(|(epoch, letters)| (*epoch, letters.origin(0).1)).collect();
            assert_eq!(letters, [(7, Offset(1))]);
        });
    }

    fn any_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            3 => (-9_i8..9, -9_i8..9).prop_map(|(one, two)| request("m", &[one.into(), two.into()])),
            3 => (-9_i8..9).prop_map(|one| request("n", &[one.into()])),
            1 => Just(request("m", &[1.0])),
            1 => Just(request("absent", &[1.0])),
            1 => Just(Message::new(Some("n"), r#"{"request_id":"half","tenant_id":"half","input":[1,2,3"#)),
            1 => Just(Message::new(Some("m"), &body("n", "[1,2]"))),
            1 => Just(Message::new(None, "{}")),
        ]
    }

    proptest! {
        /// Each record becomes a row of the one block of its model, with its own numbers and texts, or a letter; the bad ones between
        /// them leave no trace in a block.
        #[test]
        fn every_record_is_a_row_of_its_model_or_a_letter(messages in prop::collection::vec(any_message(), 0..40)) {
            let (parts, _) = parts(NotFinite::Refuse);
            let decoded = decode(&parts, &messages);
            let mut seen: Vec<i64> = (0..decoded.letters.len()).map(|index| decoded.letters.origin(index).1.0).collect();
            let models: std::collections::BTreeSet<_> = decoded.blocks.iter().map(|block| block.model).collect();
            prop_assert_eq!(models.len(), decoded.blocks.len());
            for block in &decoded.blocks {
                prop_assert_eq!(block.values.len(), block.len() * block.row_len);
                let id = &parts.catalog.served(block.model).unwrap().id;
                for row in 0..block.len() {
                    let offset = block.origin(row).1.0;
                    let again = request(id, block.values(row..row + 1));
                    prop_assert_eq!(&again.value, &messages[usize::try_from(offset).unwrap()].value);
                    prop_assert_eq!((block.request_id(row), block.tenant_id(row)), ("r", "acme"));
                    seen.push(offset);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..i64::try_from(messages.len()).unwrap()).collect::<Vec<_>>());
        }
    }
}
