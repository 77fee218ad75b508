//! Real models on the real ONNX Runtime. Where `ORT_DYLIB_PATH` names no library these fail: `make test` sets it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use operators::catalog::{BatchPolicy, Limits, Listing, NotFinite};
use operators::clock::ManualClock;
use operators::model::load::{Loaded, ModelSettings, load_catalog};
use operators::model::onnx::{BucketRule, ModelOptions, OnnxBackend, OnnxConfig, Provider};
use operators::model::store::{self, Found};
use operators::model::{Backend, Model, ModelError, ModelFile, RunError, Signature};
use tracing_subscriber::fmt::MakeWriter;

use crate::real::given;

/// The models that are served.
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

/// The models that are awkward on purpose.
const AWKWARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");

fn backend_of(config: OnnxConfig) -> OnnxBackend {
    assert!(std::env::var_os("ORT_DYLIB_PATH").is_some(), "ORT_DYLIB_PATH is not set: run `make test`");
    OnnxBackend::new(config).unwrap()
}

fn backend() -> OnnxBackend {
    backend_of(OnnxConfig { providers: vec![Provider::Cpu], ..OnnxConfig::default() })
}

fn found(folder: impl AsRef<Path>) -> Found {
    store::find(folder.as_ref(), store::BYTES_MAX).unwrap()
}

fn file(folder: impl AsRef<Path>, id: &str) -> ModelFile {
    let folder = folder.as_ref();
    let file = found(folder).files.into_iter().find(|file| file.id == id);
    file.unwrap_or_else(|| panic!("no model {id} in {}", folder.display()))
}

fn serving(file: ModelFile, output: &str) -> ModelFile {
    ModelFile { output: Some(output.to_owned()), ..file }
}

fn open(folder: &str, id: &str) -> Box<dyn Model> {
    backend().open(&file(folder, id)).unwrap()
}

/// Why an awkward model is not served.
fn refusal(file: &ModelFile) -> String {
    match backend().open(file) {
        Ok(model) => panic!("{} is served as {:?}", file.id, model.signature()),
        Err(error) => error.to_string(),
    }
}

/// Numbers of no pattern in -1..1, the same each time.
fn numbers(count: usize) -> Vec<f32> {
    given::numbers(count, 0)
}

/// Numbers of an input row and of an output row.
fn lens(model: &dyn Model) -> (usize, usize) {
    let signature = model.signature();
    (signature.floats().unwrap(), signature.outputs[0].row_len().unwrap())
}

fn run(model: &mut dyn Model, rows: usize, input: &[f32]) -> Result<Vec<f32>, RunError> {
    model.run_floats(rows, input)
}

fn settings(_: &str) -> ModelSettings {
    ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch: BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(50) },
        batch_bytes_max: usize::MAX,
        limits: Limits::default(),
        open_bytes_max: None,
        devices: vec![0],
    }
}

fn reasons(loaded: &Loaded) -> BTreeMap<&str, &str> {
    let listings = loaded.catalog.listings().iter();
    let unavailable = listings.filter_map(|listing| match listing {
        Listing::Unavailable { id, reason } => Some((id.as_str(), reason.as_str())),
        Listing::Served(_) => None,
    });
    unavailable.collect()
}

#[test]
fn what_a_model_takes_and_gives_is_read_from_its_file() {
    for (id, row_shape, output_len) in
        [("mlp-16", &[16][..], 10), ("ffnn-784", &[784], 10), ("cnn-6x64", &[6, 64], 5)]
    {
        let model = open(MODELS, id);
        let signature = model.signature();
        let expected = Signature::of_floats(row_shape, output_len);
        let [input, output] = [&signature.inputs, &signature.outputs].map(|tensors| &tensors[0]);
        assert_eq!(
            (&input.axes, &output.axes),
            (&expected.inputs[0].axes, &expected.outputs[0].axes),
            "{id}"
        );
        assert_eq!(
            (&*input.name, &*output.name, signature.floats().is_some()),
            ("input", "probabilities", true),
            "{id}"
        );
        assert_eq!(signature.providers, ["cpu"], "{id}");
    }
}

#[test]
fn a_row_is_answered_the_same_alone_and_in_a_batch() {
    const ROWS: usize = 64;
    for id in ["mlp-16", "ffnn-784", "cnn-6x64"] {
        let mut model = open(MODELS, id);
        let (row_len, output_len) = lens(&*model);
        let input = numbers(ROWS * row_len);
        let together = run(&mut *model, ROWS, &input).unwrap();
        assert_eq!(together.len(), ROWS * output_len);
        for (row, answer) in input.chunks(row_len).zip(together.chunks(output_len)) {
            let alone = run(&mut *model, 1, row).unwrap();
            let off = alone.iter().zip(answer).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-5, "{id}: {alone:?} alone, {answer:?} in a batch");
        }
        // Rows of different numbers have different answers, or the comparison above could not fail.
        assert_ne!(together[..output_len], together[output_len..2 * output_len], "{id}");
    }
}

#[test]
fn a_batch_may_have_any_size_and_none() {
    let mut model = open(MODELS, "mlp-16");
    for rows in [1, 2, 3, 64, 7, 129, 0, 1] {
        assert_eq!(run(&mut *model, rows, &numbers(rows * 16)).unwrap().len(), rows * 10);
    }
}

#[test]
fn of_several_outputs_the_named_one_is_served() {
    let file = file(MODELS, "anomaly-32");
    for (output, output_len) in [("score", 1), ("reconstruction", 32)] {
        let mut model = backend().open(&serving(file.clone(), output)).unwrap();
        assert_eq!((&*model.signature().outputs[0].name, lens(&*model)), (output, (32, output_len)));
        assert_eq!(run(&mut *model, 5, &numbers(5 * 32)).unwrap().len(), 5 * output_len);
    }
    let all = backend().open(&file).unwrap();
    let all: Vec<String> = all.signature().outputs.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["reconstruction f32[32]", "score f32[1]"]);
    let misnamed = refusal(&serving(file, "scores"));
    assert!(
        misnamed.contains("it has no output `scores`, but 2 outputs (`reconstruction` f32[batch, 32]"),
        "{misnamed}"
    );
}

#[test]
fn a_model_that_cannot_be_served_says_why() {
    for (id, reason) in
        [("string-input", "has numbers of a type that is not served"), ("sequence-output", "is no tensor")]
    {
        let found = refusal(&file(AWKWARD, id));
        assert!(found.starts_with(&format!("model {id} can't be served: its ")), "{found}");
        assert!(found.contains(reason), "{found}");
    }
}

#[test]
fn a_file_that_is_no_model_is_not_loaded() {
    let truncated = file(AWKWARD, "truncated");
    let refused = backend().open(&truncated).err().unwrap();
    assert!(
        matches!(&refused, ModelError::Load { path, reason } if path.ends_with("truncated.onnx") && !reason.is_empty())
    );

    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("empty.onnx", &b""[..]), ("text.onnx", b"hello"), ("zeros.onnx", &[0; 4096])] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    for file in found(folder.path()).files {
        let refused = backend().open(&file).err().unwrap();
        assert!(
            matches!(refused, ModelError::Load { .. } | ModelError::Unsupported { .. }),
            "{}: {refused}",
            file.id
        );
    }
}

#[test]
fn one_poison_row_fails_its_run_and_no_run_after_it() {
    let mut model = open(AWKWARD, "gather-poison");
    let good = run(&mut *model, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
    let failed = run(&mut *model, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e6, 8.0]).unwrap_err();
    assert!(failed.0.contains("Gather") && failed.0.len() <= 520, "{failed}");
    assert_eq!(run(&mut *model, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap(), good);
}

#[test]
fn a_run_that_would_never_return_ends_when_it_is_cancelled_and_the_next_one_is_whole() {
    let mut model = open(AWKWARD, "rounds");
    let cancel = model.cancel().expect("runs can be cancelled");
    let returned = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until it has begun there is nothing to cancel.
            while !returned.load(Ordering::SeqCst) {
                cancel.cancel();
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let ended = run(&mut *model, 1, &[1e12, 0.0, 0.0, 0.0]);
        returned.store(true, Ordering::SeqCst);
        ended
    });
    let RunError(reason) = ended.expect_err("it has not done its rounds");
    assert!(reason.contains("terminate"), "{reason}");
    cancel.cancel();
    assert_eq!(run(&mut *model, 1, &[3.0, 1.0, 2.0, 4.0]), Ok(vec![3.0, 1.0, 2.0, 4.0]));
}

#[test]
fn what_is_not_finite_comes_out_as_it_is() {
    let mut model = open(AWKWARD, "nan-output");
    let output = run(&mut *model, 2, &[1.0, 0.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
    assert_eq!(output.len(), 8);
    assert!(output[1].is_infinite() && output[2].is_nan() && output[0].is_finite(), "{output:?}");
    assert!(output[4..].iter().all(|value| value.is_finite()), "{output:?}");
}

#[test]
fn a_provider_that_is_absent_leaves_the_cpu() {
    let model = backend_of(OnnxConfig::default()).open(&file(MODELS, "mlp-16")).unwrap();
    // On a machine with a GPU it is not the only one.
    assert_eq!(model.signature().providers.last().unwrap(), "cpu");
}

#[test]
fn a_required_gpu_that_is_absent_refuses_to_start_with_the_reason() {
    // A machine that runs these tests may have a GPU, but not so many.
    let required = OnnxConfig { require_gpu: true, devices: vec![4_096], ..OnnxConfig::default() };
    let refusal = |config: OnnxConfig| OnnxBackend::new(config).err().unwrap().to_string();

    let absent = refusal(required.clone());
    assert!(
        absent.starts_with("execution provider tensorrt or cuda is required and did not take effect: "),
        "{absent}"
    );
    assert!(absent.contains("tensorrt: ") && absent.contains("cuda: "), "{absent}");

    let unlisted = refusal(OnnxConfig { providers: vec![Provider::Cpu], ..required });
    assert_eq!(unlisted, "execution provider gpu is required and did not take effect: none is listed");
}

#[test]
fn a_model_may_have_other_providers_than_the_rest() {
    let own = ModelOptions { providers: Some(vec![Provider::Cpu]), ..ModelOptions::default() };
    let config = OnnxConfig { models: BTreeMap::from([("mlp-16".to_owned(), own)]), ..OnnxConfig::default() };
    let model = backend_of(config).open(&file(MODELS, "mlp-16")).unwrap();
    assert_eq!(model.signature().providers, ["cpu"]);
}

#[test]
fn batches_that_are_filled_up_answer_as_those_that_are_not() {
    let filled = OnnxConfig {
        providers: vec![Provider::Cpu],
        buckets: BucketRule::Sizes(vec![16, 4]),
        ..OnnxConfig::default()
    };
    for (id, row_len) in [("mlp-16", 16), ("cnn-6x64", 384)] {
        let mut exact = open(MODELS, id);
        let mut filled = backend_of(filled.clone()).open(&file(MODELS, id)).unwrap();
        assert_eq!(
            (exact.signature().buckets.sizes(), filled.signature().buckets.sizes()),
            (&[][..], &[4, 16][..])
        );
        for rows in [0, 1, 3, 4, 5, 16, 17, 40] {
            let floats: Vec<f32> =
                (0_u16..).map(|place| f32::from(place % 97) / 97.0).take(rows * row_len).collect();
            let (due, found) =
                (exact.run_floats(rows, &floats).unwrap(), filled.run_floats(rows, &floats).unwrap());
            assert_eq!(due.len(), found.len(), "{id}, {rows} rows");
            assert!(
                due.iter().zip(&found).all(|(due, found)| (due - found).abs() < 1e-6),
                "{id}, {rows} rows"
            );
        }
    }
    let fixed = open(AWKWARD, "fixed-batch");
    assert_eq!(fixed.signature().buckets.sizes(), [4], "the file says how many rows run at once");
}

#[test]
fn a_file_that_changed_since_it_was_found_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::copy(Path::new(MODELS).join("mlp-16.onnx"), &path).unwrap();
    let before = file(folder.path(), "m");
    fs::copy(Path::new(MODELS).join("cnn-6x64.onnx"), &path).unwrap();
    let refused = refusal(&before);
    assert!(refused.contains(&format!("version {} was found", before.version)), "{refused}");
    assert!(backend().open(&file(folder.path(), "m")).is_ok());
}

#[test]
fn one_bad_file_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, to: &str| fs::copy(from, folder.path().join(to)).unwrap();
    copy(Path::new(MODELS).join("mlp-16.onnx"), "good.onnx");
    copy(Path::new(MODELS).join("anomaly-32.onnx"), "scored.onnx");
    copy(Path::new(AWKWARD).join("truncated.onnx"), "broken.onnx");
    copy(Path::new(AWKWARD).join("string-input.onnx"), "text.onnx");
    copy(Path::new(MODELS).join("mlp-16.onnx"), "twice.onnx");
    fs::create_dir_all(folder.path().join("twice/1")).unwrap();
    copy(Path::new(MODELS).join("mlp-16.onnx"), "twice/1/model.onnx");
    copy(Path::new(MODELS).join("mlp-16.onnx"), "not an id.onnx");

    let by_id = |id: &str| ModelSettings {
        output: (id == "scored").then(|| "score".to_owned()),
        limits: Limits::default(),
        devices: vec![1],
        ..settings(id)
    };
    let loaded = load_catalog(&backend(), found(folder.path()), &ManualClock::new(), by_id).unwrap();

    let ids: Vec<&str> = loaded.catalog.listings().iter().map(Listing::id).collect();
    assert_eq!(ids, ["broken", "good", "scored", "text", "twice"]);
    let served: Vec<&str> = loaded.files.values().map(|file| &*file.id).collect();
    assert_eq!(served, ["good", "scored"]);
    for (model, file) in &loaded.files {
        let served = loaded.catalog.served(*model).unwrap();
        assert_eq!((&served.id, &served.version, &served.devices[..]), (&file.id, &file.version, &[1][..]));
    }
    let reasons = reasons(&loaded);
    assert!(reasons["broken"].starts_with("could not load "), "{reasons:?}");
    assert!(reasons["text"].contains("of a type that is not served"), "{reasons:?}");
    assert!(reasons["twice"].contains("is the same model: remove one of the two"), "{reasons:?}");
    let [fault] = &loaded.faults[..] else { panic!("{:?}", loaded.faults) };
    assert!(fault.path.ends_with("not an id.onnx"), "{fault:?}");
}

#[test]
fn the_backend_says_which_version_runs() {
    let name = backend().name();
    assert!(name.strip_prefix("ONNX Runtime ").is_some_and(|version| version.contains('.')), "{name}");
}
#[test]
fn weights_in_another_file_are_never_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights"), [0; 16]).unwrap();
    let weights = folder.path().join("weights");
    let here = std::env::current_dir().unwrap().join("Cargo.toml");
    for location in ["weights", "../weights", "Cargo.toml", weights.to_str().unwrap(), here.to_str().unwrap()]
    {
        let model = handmade::model("Add", &["w"], &[4], &[("w", location)]);
        fs::write(folder.path().join("m.onnx"), model).unwrap();
        let refused = refusal(&file(folder.path(), "m"));
        assert!(refused.contains("its weights are in another file: save the model as one file"), "{refused}");
    }
}

#[test]
fn an_output_that_does_not_follow_the_batch_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = |operator: &str| {
        fs::write(folder.path().join("m.onnx"), handmade::model(operator, &[], &[4], &[])).unwrap();
        file(folder.path(), "m")
    };
    let refused = refusal(&written("ReduceSum"));
    assert!(refused.contains("[1, 1] for 3 rows"), "{refused}");
    // An output may have the batch on another axis than the input.
    for (operator, output) in [
        ("Relu", [0.0, 2.0, 3.0, 0.0, 5.0, 0.0, 0.0, 8.0]),
        ("Transpose", [-1.0, 2.0, 3.0, -4.0, 5.0, -6.0, -7.0, 8.0]),
    ] {
        let mut model = backend().open(&written(operator)).unwrap();
        assert_eq!(
            run(&mut *model, 2, &[-1.0, 2.0, 3.0, -4.0, 5.0, -6.0, -7.0, 8.0]).unwrap(),
            output,
            "{operator}"
        );
    }
}

#[test]
fn a_row_too_long_to_be_true_is_refused_before_memory_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.onnx"), handmade::model("Relu", &[], &[1 << 20, 1 << 20], &[])).unwrap();
    let refused = refusal(&file(folder.path(), "m"));
    assert!(
        refused.contains("f32[batch, 1048576, 1048576] has rows of more than 16777216 numbers"),
        "{refused}"
    );
}

#[test]
fn executors_run_their_sessions_at_the_same_time() {
    let (backend, mlp) = (backend(), file(MODELS, "mlp-16"));
    let input = numbers(8 * 16);
    let alone = run(&mut *backend.open(&mlp).unwrap(), 8, &input).unwrap();
    std::thread::scope(|scope| {
        let executor = || {
            let mut model = backend.open(&mlp).unwrap();
            (0..200).all(|_| run(&mut *model, 8, &input).unwrap() == alone)
        };
        let executors: Vec<_> = (0..4).map(|_| scope.spawn(executor)).collect();
        assert!(executors.into_iter().all(|executor| executor.join().unwrap()));
    });
}

#[test]
fn a_failed_run_is_told_once_and_not_logged_too() {
    let mut model = open(AWKWARD, "gather-poison");
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        run(&mut *model, 1, &[1e6; 4]).unwrap_err();
        tracing::info!("the log is heard");
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("the log is heard") && !text.contains("Gather"), "{text}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Models that no exporter would write, as bytes of the ONNX format: fields of protobuf, by number.
mod handmade {
    /// A model of one operator: an f32 input `x` of `[batch, row…]`, inputs that are weights, and an f32 output `y` of no known shape.
    /// Weights are (name, location) of files that hold four floats.
    pub(super) fn model(operator: &str, more: &[&str], row: &[u64], weights: &[(&str, &str)]) -> Vec<u8> {
        let mut node = field(1, b"x");
        node.extend(more.iter().flat_map(|input| field(1, input.as_bytes())));
        node.extend([field(2, b"y"), field(4, operator.as_bytes())].concat());
        let mut graph = [field(1, &node), field(2, b"graph")].concat();
        for (name, location) in weights {
            let external = [field(1, b"location"), field(2, location.as_bytes())].concat();
            let tensor = [
                number(1, 4),
                number(2, FLOAT),
                field(8, name.as_bytes()),
                field(13, &external),
                number(14, 1),
            ];
            graph.extend(field(5, &tensor.concat()));
        }
        let axes: Vec<u8> = row.iter().flat_map(|axis| field(1, &number(1, *axis))).collect();
        let shape = [field(1, &field(2, b"batch")), axes].concat();
        graph.extend(field(11, &port("x", &field(2, &shape))));
        graph.extend(field(12, &port("y", &[])));
        [number(1, IR_VERSION), field(7, &graph), field(8, &number(2, OPSET))].concat()
    }

    const FLOAT: u64 = 1;
    const IR_VERSION: u64 = 8;
    const OPSET: u64 = 17;

    fn port(name: &str, shape: &[u8]) -> Vec<u8> {
        let tensor = [&number(1, FLOAT), shape].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    }

    /// A field of bytes.
    fn field(place: u64, bytes: &[u8]) -> Vec<u8> {
        [&varint(place << 3 | 2), &varint(bytes.len() as u64), bytes].concat()
    }

    /// A field that is a number.
    fn number(place: u64, value: u64) -> Vec<u8> {
        [varint(place << 3), varint(value)].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    }
}
