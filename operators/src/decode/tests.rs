//! Records of every kind, one after the other.

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
    for (name, value) in [("request_id", "r"), ("tenant_id", "acme"), ("dtype", dtype), ("shape", shape)] {
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
fn the_rows_of_a_model_on_several_devices_go_to_one_by_their_keys() {
    let (mut parts, _) = parts(NotFinite::Refuse);
    let on = |listing: &Listing, devices: &[usize]| match listing {
        Listing::Served(served) => {
            Listing::Served(Arc::new(Served { devices: devices.to_vec(), ..Served::clone(served) }))
        }
        Listing::Unavailable { .. } => listing.clone(),
    };
    let listings = parts.catalog.listings().iter();
    let placed = listings.map(|listing| on(listing, if listing.id() == "m" { &[0, 2] } else { &[1] }));
    parts.catalog = Arc::new(Catalog::new(placed.collect()));
    let keyed = |key: u8, message: Message| Message { key: Some(vec![key]), ..message };
    let messages: Vec<Message> = (0..40)
        .map(|place| {
            keyed(place % 10, if place % 4 == 3 { request("n", &[1.0]) } else { request("m", &[1.0, 2.0]) })
        })
        .collect();
    let blocks = decode(&parts, &messages).blocks;
    let mut found = BTreeMap::new();
    for block in &blocks {
        let rows = block
            .rows
            .iter()
            .map(|row| block.polled.records.get(row.record as usize).key().unwrap().to_vec());
        let keys: std::collections::BTreeSet<Vec<u8>> = rows.collect();
        found.insert((block.model, block.device), (block.len(), keys));
    }
    let places: Vec<(u32, usize)> = found.keys().map(|(model, device)| (model.0, *device)).collect();
    assert_eq!(places, [(1, 0), (1, 2), (2, 1)], "a block for each model and device");
    let [first, second] = [(1, 0), (1, 2)].map(|(model, device)| &found[&(ModelIndex(model), device)]);
    assert!(first.1.is_disjoint(&second.1), "a key has one device");
    assert_eq!((first.0 + second.0, found[&(ModelIndex(2), 1)].0), (30, 10));
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
    assert_eq!((one.request_id(0), one.columns[0].floats()), ("r", &[7.0][..]));
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
        assert_eq!(header(&decoded.letters, index, "inference.dlq.reason").as_deref(), Some(reason.name()));
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
    assert_eq!(decoded.blocks[0].columns[0].floats(), [f32::NEG_INFINITY]);
}

#[test]
fn forms_mix_in_a_block() {
    let (parts, _) = parts(NotFinite::Refuse);
    let value = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
    let messages = [request("m", &[1.0, 2.0]), tensor("f32", "2", &value), request("m", &[3.0, 4.0])];
    let decoded = decode(&parts, &messages);
    let [block] = &decoded.blocks[..] else { panic!("{} blocks", decoded.blocks.len()) };
    assert_eq!(block.columns[0].floats(), [1.0, 2.0, 1.5, -2.0, 3.0, 4.0]);
    assert_eq!((block.request_id(1), block.tenant_id(1)), ("r", "acme"));
}

#[test]
fn a_record_delivered_before_is_passed_over() {
    let (parts, _) = parts(NotFinite::Refuse);
    let mut polled =
        Arc::into_inner(polled(lease(0, 1), &vec![request("n", &[1.0]); 3], Moment::START)).unwrap();
    polled.skip(1);
    let decoded = parts.decode(&Arc::new(polled), 0);
    let origins: Vec<_> = (0..decoded.blocks[0].len()).map(|row| decoded.blocks[0].origin(row).1).collect();
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
        let values = |(epoch, block): &(u64, Arc<Block>)| (*epoch, block.columns[0].floats().to_vec());
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
            let column = &block.columns[0];
            prop_assert_eq!(column.values.len(), block.len() * column.row_len());
            let id = &parts.catalog.served(block.model).unwrap().id;
            for row in 0..block.len() {
                let offset = block.origin(row).1.0;
                let again = request(id, &column.floats()[column.place(row)]);
                prop_assert_eq!(&again.value, &messages[usize::try_from(offset).unwrap()].value);
                prop_assert_eq!((block.request_id(row), block.tenant_id(row)), ("r", "acme"));
                seen.push(offset);
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..i64::try_from(messages.len()).unwrap()).collect::<Vec<_>>());
    }
}
