//! One row that a model can't take, among 63 that it can, at each of the 64 places of a batch: on ONNX Runtime, by an executor as the engine
//! has it.
//!
//! Bar: one dead letter, 63 results and at most 12 calls of the model beyond the one that a clean batch takes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use operators::block::Block;
use operators::breaker::Breaker;
use operators::catalog::{BatchPolicy, Limits, ModelIndex, NotFinite};
use operators::clock::{Clock, SystemClock};
use operators::codec::form::ResultForm;
use operators::dead_letter::Letterhead;
use operators::device::{Batch, Executed};
use operators::execute::{ExecuteParts, Executor};
use operators::letters::Letters;
use operators::model::load::{Loaded, ModelSettings, load_catalog};
use operators::model::onnx::{OnnxBackend, OnnxConfig, Provider};
use operators::model::store;
use operators::observe::{BatchSeen, CloseReason, Observer};
use operators::outcome::Kind;
use operators::tensor::Values;
use operators::window::Run;
use serde_json::{Value, json};

use crate::figures::{median, thousandth};
use crate::given;

const ROWS: usize = 64;
const EXTRA_CALLS_MAX: u32 = 12;
/// The last of the four numbers of a row is an index into a small table: 99 lies outside.
const MODEL: &str = "gather-poison";
const REPEATS: usize = 20;

/// Runs everything, and returns the figures; or why the runtime or the model is not there.
pub(crate) fn run() -> Result<Vec<Value>, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let told = Arc::new(Told::default());
    let backend = OnnxBackend::new(OnnxConfig { providers: vec![Provider::Cpu], ..OnnxConfig::default() })
        .map_err(|error| format!("{error}: run `eval \"$(scripts/onnxruntime.sh env)\"` before"))?;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let mut found = store::find(&folder, store::BYTES_MAX).map_err(|error| error.to_string())?;
    found.files.retain(|file| file.id == MODEL);
    let loaded =
        load_catalog(&backend, found, &*clock, |_: &str| settings()).map_err(|error| error.to_string())?;
    let served = loaded.catalog.served(ModelIndex(0)).cloned().ok_or(format!("{MODEL} can't be served"))?;
    let mut executor = Executor::new(parts(&clock, &told, Arc::new(backend), &loaded));
    executor.warm_up();
    let batch = |poisoned: Option<usize>| Batch {
        id: 0,
        model: ModelIndex(0),
        served: Arc::clone(&served),
        runs: vec![Run { block: rows(poisoned), rows: 0..ROWS, token: 0 }],
        closed: CloseReason::Full,
        attempt: 1,
        hangs: 0,
    };
    let mut run = |poisoned| {
        let batch = batch(poisoned);
        let start = clock.now();
        let executed = executor.execute(&batch).expect("nobody gives this executor up");
        let took = clock.now().since(start).as_secs_f64();
        (ends(&executed), told.calls.swap(0, Ordering::SeqCst), took)
    };
    let (mut extra, mut ratios, mut as_meant) = (Vec::new(), Vec::new(), true);
    for place in (0..ROWS).cycle().take(REPEATS * ROWS) {
        let (clean, clean_calls, clean_took) = run(None);
        let (ends, calls, took) = run(Some(place));
        as_meant &= clean == (ROWS, 0) && ends == (ROWS - 1, 1);
        extra.push(calls - clean_calls);
        ratios.push(took / clean_took);
    }
    let most = extra.iter().copied().max().unwrap_or(0);
    let point = json!({
        "name": "poison",
        "rows": ROWS,
        "batches": extra.len(),
        "one_letter_and_the_rest_results": as_meant,
        "extra_calls_max": most,
        "extra_calls_median": median(extra.iter().copied().map(f64::from).collect()),
        "time_of_clean": thousandth(median(ratios)),
        "met": as_meant && most <= EXTRA_CALLS_MAX,
    });
    eprintln!("{point}");
    Ok(vec![point])
}

/// How many results and how many dead letters there are.
fn ends(executed: &Executed) -> (usize, usize) {
    let kinds =
        executed.outcomes.iter().flat_map(|(_, page)| (0..page.len()).map(|index| page.origin(index).2));
    let (results, letters): (Vec<Kind>, Vec<Kind>) = kinds.partition(|kind| matches!(kind, Kind::Result));
    (results.len(), letters.len())
}

/// Rows that the model can take, but for one.
fn rows(poisoned: Option<usize>) -> Arc<Block> {
    let mut block = given::block(ROWS, 4);
    let column = &mut Arc::make_mut(&mut block).columns[0];
    let Values::F32(values) = &mut column.values else { unreachable!("a bench gives floats") };
    for row in 0..ROWS {
        values[4 * row + 3] = if poisoned == Some(row) { 99.0 } else { 2.0 };
    }
    block
}

fn settings() -> ModelSettings {
    ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch: BatchPolicy::Static { size_max: ROWS, delay_max: std::time::Duration::ZERO },
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        open_bytes_max: None,
        devices: vec![0],
    }
}

fn parts(
    clock: &Arc<dyn Clock>,
    told: &Arc<Told>,
    backend: Arc<OnnxBackend>,
    loaded: &Loaded,
) -> ExecuteParts {
    let observer = Arc::clone(told) as Arc<dyn Observer>;
    let (topic, group) = ("inference.requests".to_owned(), "inference-workers".to_owned());
    ExecuteParts {
        tuning: Arc::default(),
        device: 0,
        backend,
        files: Arc::new(loaded.files.clone()),
        open_bytes_max: None,
        letters: Letters {
            head: Arc::new(Letterhead { topic, group, partitions: 1, bytes_max: 1 << 20 }),
            clock: Arc::clone(clock),
            observer: Arc::clone(&observer),
            breaker: Arc::new(Breaker::new(None, Arc::default(), Arc::clone(&observer))),
        },
        topic: "inference.requests".into(),
        result_bytes_max: 1 << 20,
        result_key_is_request_key: false,
        result_form: ResultForm::default(),
        journal: None,
        observer,
        clock: Arc::clone(clock),
    }
}

/// Notes the calls of the model.
#[derive(Default)]
struct Told {
    calls: AtomicU32,
}

impl Observer for Told {
    fn batch(&self, batch: &BatchSeen<'_>) {
        self.calls.store(batch.calls, Ordering::SeqCst);
    }
}
