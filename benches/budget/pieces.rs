//! The pieces, each as a round that can be done any number of times.

use std::hint::black_box;
use std::sync::Arc;

use operators::budget::LeaseAccount;
use operators::clock::SystemClock;
use operators::codec::form::ResultForm;
use operators::codec::json;
use operators::commit_order::CommitOrder;
use operators::done::Done;
use operators::execute::{ExecuteParts, Executor};
use operators::lease::{Lease, NextOffset, Offset, Partition, Term};
use operators::ledger::Ledger;
use operators::observe::Silent;
use operators::outbox::{Outbox, Retained, TransactionLimit};
use operators::outcome::{Kind, Outcomes};
use operators::window::Window;

use crate::block::{MODELS, ROWS, backend, batch, letters, loaded, parts};
use crate::given::{block, polled, request};
use crate::{ledger, window};

/// A piece of the hot path.
pub(crate) struct Piece {
    pub(crate) name: &'static str,
    /// Records of a round.
    pub(crate) records: usize,
    pub(crate) round: Box<dyn FnMut()>,
}

/// Where callgrind counts.
#[inline(never)]
pub(crate) fn measured(piece: &mut Piece) {
    (piece.round)();
    black_box(&piece.records);
}

/// All of them, in the order in which a record passes them.
pub(crate) fn all() -> Vec<Piece> {
    vec![
        reading("read json, 16 floats", 16),
        reading("read json, 784 floats", 784),
        decoding("decode, 16 floats", 1),
        decoding("decode, 16 floats, 4 models", MODELS.len()),
        windowing("window, blocks of 4 rows", 4),
        windowing("window, blocks of 500 rows", 500),
        executing("execute, 16 floats, 64 rows", 16, 64),
        executing("execute, 784 floats, 64 rows", 784, 64),
        keeping("ledger", CommitOrder::Partition),
        keeping("ledger, by key", CommitOrder::Key),
        leaving("outbox"),
    ]
}

fn reading(name: &'static str, floats: usize) -> Piece {
    let value = request(MODELS[0], floats, Some(4));
    let (mut values, mut text) = (Vec::new(), String::new());
    let round = Box::new(move || {
        values.clear();
        text.clear();
        let request = json::decode(black_box(value.as_bytes()), floats, &mut values, &mut text);
        assert_eq!(request.expect("a request").floats, floats);
    });
    Piece { name, records: 1, round }
}

fn decoding(name: &'static str, models: usize) -> Piece {
    let (parts, polled) = (parts(16), polled(&MODELS[..models], ROWS, 16));
    let round = Box::new(move || {
        let decoded = parts.decode(black_box(&polled), 0);
        assert_eq!((decoded.blocks.len(), decoded.letters.len()), (models, 0));
    });
    Piece { name, records: ROWS, round }
}

fn windowing(name: &'static str, rows: usize) -> Piece {
    let blocks: Vec<_> = (0..window::ROWS / rows).map(|_| block(rows, 16)).collect();
    let mut window = Window::new(Arc::default(), usize::MAX);
    let round = Box::new(move || assert_eq!(window::round(&mut window, black_box(&blocks)), window::ROWS));
    Piece { name, records: window::ROWS, round }
}

/// An executor's work beside the model's own, which costs nothing here: gathering rows, encoding results.
fn executing(name: &'static str, floats: usize, rows: usize) -> Piece {
    let backend = Arc::new(backend(floats));
    let files = loaded(&backend).files;
    let mut executor = Executor::new(ExecuteParts {
        tuning: Arc::default(),
        device: 0,
        backend,
        files: Arc::new(files),
        open_bytes_max: None,
        letters: letters(),
        topic: "inference.requests".into(),
        result_bytes_max: 1 << 20,
        result_key_is_request_key: false,
        result_form: ResultForm::default(),
        journal: None,
        observer: Arc::new(Silent),
        clock: Arc::new(SystemClock::new()),
    });
    let mut batch = batch(1, floats);
    batch.runs[0].rows = 0..rows;
    let round = Box::new(move || {
        let executed = executor.execute(black_box(&batch)).expect("nobody gives it up");
        black_box(executed);
    });
    Piece { name, records: rows, round }
}

fn keeping(name: &'static str, order: CommitOrder) -> Piece {
    let places: Vec<usize> = (0..ledger::RECORDS).collect();
    let mut ledger = Ledger::new(order, Done::default());
    let round = Box::new(move || ledger::round(&mut ledger, false, black_box(&places)));
    Piece { name, records: ledger::RECORDS, round }
}

/// Outcomes of 64 leases, 16 of each, into the outbox and out again for one transaction.
fn leaving(name: &'static str) -> Piece {
    const LEASES: i32 = 64;
    const OUTCOMES: i64 = 16;
    let lease = |partition| Lease { partition: Partition(partition), term: Term(1) };
    let account = Arc::new(LeaseAccount::default());
    let (outbox, limit) =
        (Outbox::new(CommitOrder::Partition), TransactionLimit { records: 10_000, bytes: 1 << 24 });
    let mut next = 0;
    let records = usize::try_from(i64::from(LEASES) * OUTCOMES).expect("few");
    let mut outcomes = Outcomes::new(0);
    for place in 0..OUTCOMES {
        outcomes.push(lease(0), Offset(place), Kind::Result, |records| {
            records.push(None, Some(&[7; 200]));
        });
    }
    let outcomes = Arc::new(outcomes);
    let round = Box::new(move || {
        next += OUTCOMES;
        for partition in 0..LEASES {
            let retained = (0..outcomes.len()).map(|index| Retained::new(Arc::clone(&outcomes), index, 400));
            outbox.offer(lease(partition), &account, NextOffset(next), retained);
        }
        let taken: usize = outbox.take(limit).iter().map(|part| part.outcomes.len()).sum();
        assert_eq!(taken, records);
    });
    Piece { name, records, round }
}
