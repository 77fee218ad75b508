//! Models of any inputs on the real ONNX Runtime: types, several inputs, a batch that the file fixes, rows of several lengths.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use operators::class::Class;
use operators::model::onnx::{OnnxBackend, OnnxConfig, Provider};
use operators::model::{Backend, Model, ModelFile, TensorSpec, store};
use operators::tensor::{Column, Dtype, Values};
use tidemill::audit::{Input, Inputs, Lookup, Oracle, OrtOracle};
use tidemill::request::{Number, Tensor};

const AWKWARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");

fn file(id: &str) -> ModelFile {
    let found = store::find(Path::new(AWKWARD), store::BYTES_MAX).unwrap();
    found.files.into_iter().find(|file| file.id == id).unwrap()
}

fn open(id: &str) -> Box<dyn Model> {
    assert!(std::env::var_os("ORT_DYLIB_PATH").is_some(), "ORT_DYLIB_PATH is not set: run `make test`");
    let config = OnnxConfig { providers: vec![Provider::Cpu], ..OnnxConfig::default() };
    OnnxBackend::new(config).unwrap().open(&file(id)).unwrap()
}

/// Runs rows, and gives the numbers of the first output.
fn run(model: &mut dyn Model, rows: usize, inputs: &[Column]) -> Values {
    let mut outputs = Vec::new();
    model.run(rows, inputs, &mut outputs).unwrap();
    outputs.swap_remove(0).values
}

/// What a model takes, as `pixels f32[3, ?]`.
fn takes(model: &dyn Model) -> Vec<String> {
    model.signature().inputs.iter().map(ToString::to_string).collect()
}

#[test]
fn several_inputs_are_fed_each_with_its_own_column() {
    let mut model = open("two-inputs");
    assert_eq!(takes(&*model), ["left f32[4]", "right f32[4]"]);
    let left = Column::of_floats(4, (0_u8..8).map(f32::from).collect());
    let right = Column::of_floats(4, vec![100.0; 8]);
    let sums = run(&mut *model, 2, &[left, right]);
    assert_eq!(sums, Values::F32((100_u8..108).map(f32::from).collect()));
}

#[test]
fn whole_numbers_are_fed_as_what_they_are() {
    let mut model = open("int64-input");
    assert_eq!(takes(&*model), ["input i64[4]"]);
    let input = Column { axes: vec![4], values: Values::I64(vec![-1, 0, 1, 1 << 24]) };
    assert_eq!(run(&mut *model, 1, &[input]), Values::F32(vec![-1.0, 0.0, 1.0, 16_777_216.0]));
}

#[test]
fn a_file_that_fixes_the_batch_is_run_in_pieces_of_it() {
    let mut model = open("fixed-batch");
    assert_eq!(takes(&*model), ["input f32[4]"]);
    for rows in [1_u8, 3, 4, 5, 8, 9] {
        let input: Vec<f32> = (0..4 * rows).map(|place| f32::from(place) - 7.0).collect();
        let output: Vec<f32> = input.iter().map(|number| number.max(0.0)).collect();
        let found = run(&mut *model, rows.into(), &[Column::of_floats(4, input)]);
        assert_eq!(found, Values::F32(output), "{rows} rows");
    }
}

#[test]
fn rows_of_different_lengths_are_of_different_classes_and_each_runs() {
    let mut model = open("two-dynamic");
    assert_eq!(takes(&*model), ["input f32[?]"]);
    assert!(!model.signature().is_uniform());
    let two = Column::of_floats(2, vec![1.0, 2.0, 3.0, 5.0]);
    let three = Column::of_floats(3, vec![1.0, 2.0, 6.0]);
    let inputs = model.signature().inputs.clone();
    let [class_of_two, class_of_three] =
        [&two, &three].map(|column| Class::of(&inputs, std::slice::from_ref(column)));
    assert_ne!(class_of_two, class_of_three);
    assert_eq!(run(&mut *model, 2, &[two]), Values::F32(vec![1.5, 4.0]));
    assert_eq!(run(&mut *model, 1, &[three]), Values::F32(vec![3.0]));
}

#[test]
fn the_oracle_takes_what_the_engine_takes_and_answers_alike() {
    let library = std::env::var_os("ORT_DYLIB_PATH").unwrap();
    let ids = ["two-inputs", "int64-input", "fixed-batch", "two-dynamic"];
    let mut oracle = OrtOracle::new(Path::new(&library), ids.map(file)).unwrap();
    for id in ids {
        let mut model = open(id);
        let input = |spec: &TensorSpec| Input {
            name: spec.name.clone(),
            dtype: spec.dtype.name().to_owned(),
            axes: spec.axes.clone(),
            batch_axis: spec.batch_axis,
        };
        let inputs = model.signature().inputs.clone();
        assert_eq!(
            oracle.lookup(id),
            Lookup::Serves { inputs: Inputs(inputs.iter().map(input).collect()) },
            "{id}"
        );
        let whole = [3_i64, -1, 4, 15];
        let tensor = |spec: &TensorSpec| Tensor {
            name: Some(spec.name.clone()),
            dtype: None,
            shape: Some(vec![4]),
            batch: false,
            foreign: false,
            numbers: whole.map(|number| Number::Whole(number.into())).to_vec(),
        };
        let tensors: Vec<Tensor> = inputs.iter().map(tensor).collect();
        let column = |spec: &TensorSpec| match spec.dtype {
            Dtype::I64 => Column { axes: vec![4], values: Values::I64(whole.to_vec()) },
            _ => Column::of_floats(4, vec![3.0, -1.0, 4.0, 15.0]),
        };
        let columns: Vec<Column> = inputs.iter().map(column).collect();
        let by_engine = run(&mut *model, 1, &columns);
        let by_engine: Vec<f64> = (0..by_engine.len()).map(|place| by_engine.as_f64(place)).collect();
        assert_eq!(oracle.infer_tensors(id, &tensors).unwrap(), by_engine, "{id}");
    }
}
