//! The audit's own way to run models, on the real ONNX Runtime, beside the engine's. Where `ORT_DYLIB_PATH` names no library these fail:
//! `make test` sets it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use operators::model::onnx::{OnnxBackend, OnnxConfig, Provider};
use operators::model::{Backend, ModelFile, store};
use tidemill::audit::{Inputs, Lookup, Oracle, OrtOracle};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
const AWKWARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");

fn library() -> PathBuf {
    std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH is not set: run `make test`").into()
}

fn engine() -> OnnxBackend {
    library();
    OnnxBackend::new(OnnxConfig { providers: vec![Provider::Cpu], ..OnnxConfig::default() }).unwrap()
}

/// The files of a folder. Of `anomaly-32` the score is served.
fn files(folder: &str) -> Vec<ModelFile> {
    let served = BTreeMap::from([("anomaly-32", "score")]);
    let found = store::find(Path::new(folder), store::BYTES_MAX).unwrap().files.into_iter();
    let named = |file: ModelFile| {
        let output = served.get(file.id.as_str()).map(|&output| output.to_owned());
        ModelFile { output, ..file }
    };
    found.map(named).collect()
}

#[test]
fn the_oracle_and_the_engine_answer_alike() {
    const ROWS: usize = 16;
    let mut oracle = OrtOracle::new(&library(), files(MODELS)).unwrap();
    let backend = engine();
    for file in files(MODELS) {
        let mut model = backend.open(&file).unwrap();
        let row_len = model.signature().floats().unwrap();
        let output_len = model.signature().outputs[0].row_len().unwrap();
        assert_eq!(
            oracle.lookup(&file.id),
            Lookup::Serves { inputs: Inputs::of_floats(&model.signature().sample[0]) },
            "{}",
            file.id
        );
        let input: Vec<f32> =
            (0_u16..).map(|place| f32::sin(f32::from(place) * 0.7)).take(ROWS * row_len).collect();
        let together = model.run_floats(ROWS, &input).unwrap();
        for (row, answer) in input.chunks(row_len).zip(together.chunks(output_len)) {
            let alone = oracle.infer(&file.id, row).unwrap();
            assert_eq!(alone.len(), output_len);
            let close = alone.iter().zip(answer).all(|(one, other)| (one - other).abs() <= 1e-5);
            assert!(close, "{}: {alone:?} by the oracle, {answer:?} in a batch", file.id);
        }
    }
    assert_eq!(oracle.lookup("no-such-model"), Lookup::NoSuchModel);
}

#[test]
fn the_oracle_serves_what_the_engine_serves_and_nothing_else() {
    let mut oracle = OrtOracle::new(&library(), files(AWKWARD)).unwrap();
    let backend = engine();
    let mut served = 0;
    for file in files(AWKWARD) {
        let by_engine = backend.open(&file).is_ok();
        let by_oracle = oracle.lookup(&file.id);
        assert_eq!(matches!(by_oracle, Lookup::Serves { .. }), by_engine, "{}: {by_oracle:?}", file.id);
        assert!(by_engine || matches!(&by_oracle, Lookup::Unavailable(reason) if !reason.is_empty()));
        served += usize::from(by_engine);
    }
    assert!(served > 0);
}

#[test]
fn a_failure_of_the_model_is_told() {
    let mut oracle = OrtOracle::new(&library(), files(AWKWARD)).unwrap();
    assert!(oracle.infer("gather-poison", &[1.0, 2.0, 3.0, 4.0]).is_ok());
    assert!(oracle.infer("gather-poison", &[1.0, 2.0, 3.0, 99.0]).is_err());
    assert!(oracle.infer("gather-poison", &[1.0, 2.0, 3.0]).is_err(), "a row that is too short");
    let output = oracle.infer("nan-output", &[1.0, -1.0, 0.0, 1.0]).unwrap();
    assert!(output[1].is_nan() && output[2].is_infinite());
}
