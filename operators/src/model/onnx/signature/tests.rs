//! Models of every kind, and what is said of those that can't be served.

use ort::value::{Shape, SymbolicDimensions};
use proptest::prelude::*;

use super::*;

/// Axes with names: `n` for each -1, none for each -2, and `m` for each -3.
fn tensor(ty: TensorElementType, axes: &[i64]) -> ValueType {
    let name = |axis: &i64| match axis {
        -1 => "n".to_owned(),
        -3 => "m".to_owned(),
        _ => String::new(),
    };
    let symbols = axes.iter().map(name);
    let shape = Shape::new(axes.iter().map(|axis| (*axis).max(-1)));
    ValueType::Tensor { ty, shape, dimension_symbols: SymbolicDimensions::new(symbols) }
}

fn floats(axes: &[i64]) -> ValueType {
    tensor(TensorElementType::Float32, axes)
}

fn file(output: Option<&str>, inputs: &[(&str, InputOptions)]) -> ModelFile {
    ModelFile {
        id: "m".to_owned(),
        label: String::new(),
        version: "v".to_owned(),
        path: "m.onnx".into(),
        bytes: 1,
        output: output.map(str::to_owned),
        inputs: inputs.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect(),
    }
}

/// The verdict on a model of these inputs and outputs, named `x0`, `x1`, … and `y0`, `y1`, ….
fn verdict(inputs: &[ValueType], outputs: &[ValueType], file: &ModelFile) -> Result<Declared, String> {
    let name =
        |noun: &str, count: usize| (0..count).map(|place| format!("{noun}{place}")).collect::<Vec<_>>();
    let (xs, ys) = (name("x", inputs.len()), name("y", outputs.len()));
    declared(&ports(&xs, inputs), &ports(&ys, outputs), file)
}

fn ports<'a>(names: &'a [String], dtypes: &'a [ValueType]) -> Vec<Port<'a>> {
    names.iter().zip(dtypes).map(|(name, dtype)| Port { name, dtype }).collect()
}

fn refusal(inputs: &[ValueType], outputs: &[ValueType], file: &ModelFile) -> String {
    verdict(inputs, outputs, file).unwrap_err()
}

/// Where the batch axis of each input is, and how many rows a run has if that is fixed.
fn batch(inputs: &[ValueType], options: &[(&str, InputOptions)]) -> (Vec<Option<usize>>, Option<usize>) {
    let declared = verdict(inputs, &[floats(&[-1])], &file(None, options)).unwrap();
    (declared.inputs.iter().map(|input| input.spec.batch_axis).collect(), declared.rows_fixed)
}

#[test]
fn a_model_of_any_rank_is_served_by_its_first_axis() {
    for (axes, row) in [
        (&[-1][..], &[][..]),
        (&[-1, 16], &[Some(16)]),
        (&[-2, 6, 64], &[Some(6), Some(64)]),
        (&[-1, 3, -2, -2], &[Some(3), None, None]),
    ] {
        let declared = verdict(&[floats(axes)], &[floats(&[-1, 10])], &file(None, &[])).unwrap();
        assert_eq!((declared.inputs[0].spec.batch_axis, declared.rows_fixed), (Some(0), None));
        assert_eq!(declared.inputs[0].spec.axes, row);
        assert_eq!(
            declared.outputs,
            [Output { name: "y0".into(), dtype: Dtype::F32, axes: vec![None, Some(10)] }]
        );
    }
}

#[test]
fn the_batch_axis_is_where_the_file_or_the_configuration_says() {
    let (rate, int64) = (tensor(TensorElementType::Int64, &[]), TensorElementType::Int64);
    // As silero has them: the state's batch is its second axis, and all rows share the rate.
    let silero = [floats(&[-1, -3]), floats(&[2, -1, 128]), rate.clone()];
    assert_eq!(batch(&silero, &[]), (vec![Some(0), Some(1), None], None));
    assert_eq!(batch(&[floats(&[1, 4])], &[]), (vec![Some(0)], Some(1)));
    assert_eq!(batch(&[floats(&[8, 4]), floats(&[8]), tensor(int64, &[3])], &[]).1, Some(8));
    let axis = |batch_axis| InputOptions { batch_axis: Some(batch_axis), ..InputOptions::default() };
    assert_eq!(batch(&[floats(&[4, -1])], &[("x0", axis(Some(1)))]), (vec![Some(1)], None));
    assert_eq!(batch(&[floats(&[-1, 2]), floats(&[-1])], &[("x1", axis(None))]).0, [Some(0), None]);
    assert_eq!(batch(&[floats(&[16])], &[("x0", axis(Some(0)))]), (vec![Some(0)], Some(16)));
}

#[test]
fn open_axes_are_closed_by_the_configuration_and_inputs_given_a_value() {
    let silero = [floats(&[-1, -3]), tensor(TensorElementType::Int64, &[])];
    let shape = InputOptions { shape: Some(vec![576]), ..InputOptions::default() };
    let value = InputOptions { value: Some(16_000.0), ..InputOptions::default() };
    let declared = verdict(&silero, &[floats(&[-1])], &file(None, &[("x0", shape), ("x1", value)])).unwrap();
    assert_eq!(declared.inputs[0].spec.axes, [Some(576)]);
    assert_eq!(declared.inputs[1].value, Some(16_000.0));
}

#[test]
fn each_refusal_names_what_was_found() {
    let (row, result) = (floats(&[-1, 4]), floats(&[-1, 2]));
    let plain = file(None, &[]);
    let with = |options: InputOptions| file(None, &[("x0", options)]);
    let none = InputOptions::default;
    for (input, file, reason) in [
        (
            tensor(TensorElementType::String, &[-1, 4]),
            &plain,
            "its input `x0` String[n, 4] has numbers of a type that is not served",
        ),
        (tensor(TensorElementType::Bfloat16, &[-1]), &plain, "has numbers of a type that is not served"),
        (
            floats(&[4, -1]),
            &plain,
            "it has 1 input (`x0` f32[4, n]); say it with the model's key `inputs.NAME.batch_axis`",
        ),
        (floats(&[]), &plain, "say it with the model's key `inputs.NAME.batch_axis`"),
        (floats(&[16]), &plain, "say it with the model's key `inputs.NAME.batch_axis`"),
        (floats(&[-1, 0]), &plain, "its input `x0` f32[n, 0] has rows without a number in them"),
        (floats(&[-1, i64::MAX, 3]), &plain, "has rows of more than 16777216 numbers"),
        (
            ValueType::Sequence(Box::new(row.clone())),
            &plain,
            "its input `x0` Sequence<Tensor<f32>(n, 4)> is no tensor",
        ),
        (
            row.clone(),
            &with(InputOptions { batch_axis: Some(Some(2)), ..none() }),
            "has no axis 2 for the batch",
        ),
        (
            row.clone(),
            &with(InputOptions { shape: Some(vec![5]), ..none() }),
            "has rows of other axes than [5], which `inputs.x0.shape` says",
        ),
        (
            row.clone(),
            &with(InputOptions { sample: Some(vec![4, 4]), ..none() }),
            "which `inputs.x0.sample` says",
        ),
        (
            row.clone(),
            &with(InputOptions { value: Some(1.0), ..none() }),
            "can't have a `value`: that is for one without a batch axis, of known axes",
        ),
        (
            row.clone(),
            &super::tests::file(None, &[("z", none())]),
            "it has no input `z`, but 1 input (`x0` f32[n, 4])",
        ),
    ] {
        let found = refusal(&[input], std::slice::from_ref(&result), file);
        assert!(found.ends_with(reason), "{found}");
    }
    let one = std::slice::from_ref(&result);
    assert!(
        refusal(&[row.clone(), floats(&[64, 64])], one, &plain)
            .ends_with("has no batch axis, and more than the 1024 numbers that rows can share")
    );
    let axis = InputOptions { batch_axis: Some(Some(0)), ..none() };
    let two = file(None, &[("x0", axis.clone()), ("x1", axis)]);
    assert!(
        refusal(&[floats(&[8, 4]), floats(&[4])], one, &two)
            .ends_with("has a batch axis of another length than others")
    );
}

#[test]
fn every_output_is_served_unless_one_is_named() {
    let row = [floats(&[-1, 4])];
    let label = tensor(TensorElementType::Int64, &[-1]);
    let outputs = [floats(&[-1, 4]), label, ValueType::Sequence(Box::new(floats(&[-1])))];
    let names =
        |declared: Declared| declared.outputs.into_iter().map(|output| output.name).collect::<Vec<_>>();
    assert_eq!(names(verdict(&row, &outputs[..2], &file(None, &[])).unwrap()), ["y0", "y1"]);
    assert_eq!(names(verdict(&row, &outputs, &file(Some("y1"), &[])).unwrap()), ["y1"]);
    assert_eq!(
        refusal(&row, &outputs, &file(None, &[])),
        "its output `y2` Sequence<Tensor<f32>(n)> is no tensor"
    );
    assert_eq!(
        refusal(&row, &outputs[..1], &file(Some("z"), &[])),
        "it has no output `z`, but 1 output (`y0` f32[n, 4])"
    );
    assert_eq!(refusal(&row, &[], &file(None, &[])), "it has no output");
}

#[test]
fn a_reason_names_a_bounded_number_of_inputs() {
    let reason = refusal(&vec![floats(&[4]); 12], &[floats(&[-1])], &file(None, &[]));
    assert!(reason.contains("`x7` f32[4], and 4 more)"), "{reason}");
    assert!(!reason.contains("x8"), "{reason}");
}

proptest! {
    #[test]
    fn an_output_follows_the_batch_on_some_axis_or_is_refused(outer in prop::collection::vec(1_i64..5, 0..3), inner in prop::collection::vec(1_i64..5, 0..3), follows: bool) {
        let shape = |rows: i64| [outer.clone(), vec![if follows { rows } else { 7 }], inner.clone()].concat();
        let runs = [(1, shape(1)), (3, shape(3))];
        match batch_axis(&runs) {
            Ok(axis) => {
                prop_assert!(follows);
                prop_assert_eq!(axis, outer.len());
                let row: Vec<usize> = [outer, inner].concat().into_iter().map(|axis| usize::try_from(axis).unwrap()).collect();
                prop_assert_eq!(row_axes(&runs[1].1, axis).unwrap(), row);
            }
            Err(reason) => {
                prop_assert!(!follows);
                prop_assert!(reason.contains("no axis follows the batch") && reason.contains("for 3 rows"));
            }
        }
    }
}

#[test]
fn a_row_without_numbers_is_refused() {
    assert!(row_axes(&[3, 0], 0).unwrap_err().contains("rows without a number in them"));
}
