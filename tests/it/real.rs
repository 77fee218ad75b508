//! Models that other people have made, and ours, on the real ONNX Runtime: in batches they answer what Python's onnxruntime answers to
//! each row alone. `make test` fetches them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

pub(crate) mod given;

use std::path::Path;

use operators::model::Backend;
use operators::model::Model;
use operators::model::onnx::{OnnxBackend, OnnxConfig, Provider};
use operators::tensor::{Column, Values};
use tidemill::audit::{Oracle, OrtOracle};
use tidemill::request::{Number, Tensor};

use given::{CHUNK_LEN, CHUNKS, FILES, LINE, PITCHES, TOLERANCE, distance};

fn open(folder: &Path, id: &str) -> Box<dyn Model> {
    assert!(std::env::var_os("ORT_DYLIB_PATH").is_some(), "ORT_DYLIB_PATH is not set: run `make test`");
    let config = OnnxConfig { providers: vec![Provider::Cpu], ..OnnxConfig::default() };
    OnnxBackend::new(config).unwrap().open(&given::file(folder, id)).unwrap()
}

/// Runs rows together, and gives the outputs.
fn run(model: &mut dyn Model, rows: usize, inputs: &[Column]) -> Vec<Column> {
    let mut outputs = Vec::new();
    model.run(rows, inputs, &mut outputs).unwrap();
    outputs
}

/// The numbers of one row of an output.
fn row(output: &Column, row: usize) -> Vec<f64> {
    let len = output.row_len();
    (row * len..(row + 1) * len).map(|place| output.values.as_f64(place)).collect()
}

/// Runs all rows in one batch, and each is what was expected of it.
fn agrees(model: &mut dyn Model, id: &str, input: Column) {
    let expected = given::expected(id);
    let outputs = run(model, expected.len(), &[input]);
    let names: Vec<String> = model.signature().outputs.iter().map(|output| output.name.clone()).collect();
    for (number, answer) in expected.iter().enumerate() {
        assert_eq!(answer.len(), outputs.len(), "{id}");
        for (name, output) in names.iter().zip(&outputs) {
            let off = distance(&row(output, number), &answer[name]);
            assert!(off <= TOLERANCE, "{id}: {name} of row {number} is off by {off}");
        }
    }
}

#[test]
fn our_own_models_answer_as_in_python() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models"));
    for (id, axes) in
        [("mlp-16", &[16][..]), ("ffnn-784", &[784]), ("cnn-6x64", &[6, 64]), ("anomaly-32", &[32])]
    {
        let len = axes.iter().product();
        let rows = (0..8).flat_map(|seed| given::numbers(len, seed)).collect();
        agrees(&mut *open(folder, id), id, Column { axes: axes.to_vec(), values: Values::F32(rows) });
    }
}

#[test]
fn a_recurrent_net_takes_its_state_from_the_caller_for_each_row_of_a_batch() {
    let mut model = open(&given::folder(), "silero-vad");
    let takes: Vec<String> = model.signature().inputs.iter().map(ToString::to_string).collect();
    assert_eq!(takes, ["input f32[576]", "state f32[2, 128]"], "the rate is in the configuration");
    let gives: Vec<String> = model.signature().outputs.iter().map(ToString::to_string).collect();
    assert_eq!(gives, ["output f32[1]", "stateN f32[2, 128]"]);
    let expected = given::expected("silero-vad");
    let mut state = Column { axes: vec![2, 128], values: Values::F32(vec![0.0; PITCHES.len() * 2 * 128]) };
    for chunk in 0..CHUNKS {
        let audio = PITCHES.iter().flat_map(|pitch| given::voice(*pitch, chunk)).collect();
        let audio = Column::of_floats(CHUNK_LEN, audio);
        let mut outputs = run(&mut *model, PITCHES.len(), &[audio, state]);
        for (stream, answer) in expected.iter().enumerate() {
            let heard = row(&outputs[0], stream)[0];
            let due = answer["output"][usize::try_from(chunk).unwrap()];
            assert!((heard - due).abs() <= TOLERANCE, "stream {stream}, chunk {chunk}: {heard} for {due}");
        }
        state = outputs.swap_remove(1);
    }
    for (stream, answer) in expected.iter().enumerate() {
        let off = distance(&row(&state, stream), &answer["stateN"]);
        assert!(off <= TOLERANCE, "the state of stream {stream} is off by {off}");
    }
}

#[test]
fn a_vision_net_whose_batch_has_no_name_sees_which_lines_are_upside_down() {
    let mut model = open(&given::folder(), "pp-ocr-cls");
    assert_eq!(model.signature().inputs[0].to_string(), "x f32[3, ?, ?]");
    let lines = (0..3).flat_map(|number| [false, true].map(|down| given::line(number, down)));
    let input = Column { axes: LINE.to_vec(), values: Values::F32(lines.flatten().collect()) };
    agrees(&mut *model, "pp-ocr-cls", input);
    for (number, answer) in given::expected("pp-ocr-cls").iter().enumerate() {
        let upside_down = answer.values().next().unwrap()[1] > 0.5;
        assert_eq!(upside_down, number % 2 == 1, "the lines are such that the answer is clear");
    }
}

#[test]
fn a_net_of_whole_numbers_tells_files_apart() {
    let mut model = open(&given::folder(), "magika");
    assert_eq!(model.signature().inputs[0].to_string(), "bytes i32[2048]");
    let files = FILES.iter().flat_map(|file| given::beginning_and_end(file)).collect();
    agrees(&mut *model, "magika", Column { axes: vec![2048], values: Values::I32(files) });
}

#[test]
fn the_audit_hears_what_the_engine_hears() {
    let library = std::env::var_os("ORT_DYLIB_PATH").unwrap();
    let mut oracle =
        OrtOracle::new(Path::new(&library), [given::file(&given::folder(), "silero-vad")]).unwrap();
    let tensor = |name: &str, shape: &[usize], numbers: Vec<f32>| Tensor {
        name: Some(name.to_owned()),
        dtype: None,
        shape: Some(shape.to_vec()),
        batch: false,
        foreign: false,
        numbers: numbers.into_iter().map(|number| Number::Float(number.into())).collect(),
    };
    let tensors = [
        tensor("input", &[CHUNK_LEN], given::voice(PITCHES[0], 0)),
        tensor("state", &[2, 128], vec![0.0; 256]),
    ];
    let answer = oracle.infer_tensors("silero-vad", &tensors).unwrap();
    assert_eq!(answer.len(), 1 + 256);
    let expected = &given::expected("silero-vad")[0]["output"][..1];
    assert!(distance(&answer[..1], expected) <= TOLERANCE, "{answer:?}");
}
