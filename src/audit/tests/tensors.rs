//! Requests to models of any inputs: the engine's readers and the audit, by two roads, come to the same.

use operators::codec::form::Form;
use operators::codec::{json, open_inference, x_tensor};
use operators::model::TensorSpec;
use operators::records::Records;
use operators::tensor::{DTYPES, Dtype};

use super::super::ends::{self, Rules};
use super::super::inputs::Input;
use super::*;

/// A model with these inputs, and no other.
struct Only(Vec<TensorSpec>);

impl Oracle for Only {
    fn lookup(&mut self, model_id: &str) -> Lookup {
        if model_id != "m" {
            return Lookup::NoSuchModel;
        }
        let input = |spec: &TensorSpec| Input {
            name: spec.name.clone(),
            dtype: spec.dtype.name().to_owned(),
            axes: spec.axes.clone(),
            batch_axis: spec.batch_axis,
        };
        Lookup::Serves { inputs: Inputs(self.0.iter().map(input).collect()) }
    }

    fn infer(&mut self, _: &str, _: &[f32]) -> Result<Vec<f32>, String> {
        Err("it is not asked".to_owned())
    }
}

/// What the engine makes of a record: a result if it finds no fault.
fn of_engine(record: operators::records::RecordView<'_>, inputs: &[TensorSpec]) -> Option<Reason> {
    let (mut row, mut text) = (Vec::new(), String::new());
    let open_inference = |body, row: &mut Vec<_>, text: &mut String| {
        open_inference::decode(record, body, inputs, row, text).map_err(|error| match error.wrong.kind {
            open_inference::Kind::Request => Reason::Undecodable,
            open_inference::Kind::Type => Reason::UnsupportedType,
            open_inference::Kind::Shape => Reason::WrongShape,
        })
    };
    let read = match Form::of(record) {
        Some(Form::OpenInference) => open_inference(open_inference::Body::Json, &mut row, &mut text),
        Some(Form::OpenInferenceBinary) => open_inference(open_inference::Body::Binary, &mut row, &mut text),
        Some(Form::Json) => json::decode_tensors(record.value().unwrap(), inputs, &mut row, &mut text)
            .map_err(|error| if error.shape { Reason::WrongShape } else { Reason::Undecodable }),
        _ => x_tensor::decode_tensors(record, inputs, &mut row, &mut text).map_err(|error| {
            match error.problem {
                x_tensor::Problem::Dtype => Reason::UnsupportedType,
                x_tensor::Problem::Axes => Reason::WrongShape,
                _ => Reason::Undecodable,
            }
        }),
    };
    match read {
        Ok(request) if request.finite => None,
        Ok(_) => Some(Reason::NotFinite),
        Err(reason) => Some(reason),
    }
}

/// The ends that the audit admits.
fn of_audit(records: &Records, inputs: &[TensorSpec]) -> ends::Ends {
    let options = options();
    let rules = Rules::new(&options);
    ends::of(records.get(0), &rules, &mut Only(inputs.to_vec())).0
}

fn agree(records: &Records, inputs: &[TensorSpec]) {
    let (engine, audit) = (of_engine(records.get(0), inputs), of_audit(records, inputs));
    let value = String::from_utf8_lossy(records.get(0).value().unwrap()).into_owned();
    let admitted = match engine {
        None => audit.allow_result(),
        Some(reason) => audit.allow(reason) && !audit.allow_result(),
    };
    assert!(admitted, "{engine:?}, and the audit admits {audit:?}, of {value} with {inputs:?}");
}

fn any_spec(name: &'static str) -> impl Strategy<Value = TensorSpec> {
    let axes = prop::collection::vec(prop_oneof![2 => (1_usize..3).prop_map(Some), 1 => Just(None)], 0..3);
    (prop::sample::select(DTYPES.to_vec()), axes, prop::option::of(0_usize..3)).prop_map(
        move |(dtype, axes, batch_axis)| TensorSpec {
            name: name.to_owned(),
            dtype,
            batch_axis: batch_axis.filter(|axis| *axis <= axes.len()),
            axes,
        },
    )
}

fn any_inputs() -> impl Strategy<Value = Vec<TensorSpec>> {
    (any_spec("a"), prop::option::of(any_spec("b")))
        .prop_map(|(first, second)| std::iter::once(first).chain(second).collect())
}

/// A number, as JSON writes it, or nearly.
fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (-2_i64..300).prop_map(|whole| whole.to_string()),
        2 => any::<i64>().prop_map(|whole| whole.to_string()),
        2 => any::<u64>().prop_map(|whole| whole.to_string()),
        2 => any::<f64>().prop_filter("JSON has no other", |float| float.is_finite()).prop_map(|float| format!("{float:e}")),
        1 => prop::sample::select(vec![
            "true", "false", "-0", "-0.0", "1.0", "1e3", "1e16", "65519", "65520", "3.5e38", "null", "\"1\"", "01", "[1]", "18446744073709551616"
        ]).prop_map(str::to_owned),
    ]
}

fn any_tensor() -> impl Strategy<Value = String> {
    let array =
        prop::collection::vec(any_number(), 0..5).prop_map(|numbers| format!("[{}]", numbers.join(",")));
    let shape = prop::collection::vec(0_usize..3, 0..3).prop_map(|axes| format!("{axes:?}"));
    (any_number(), shape, array, 0..13).prop_map(|(number, shape, data, kind)| match kind {
        0..2 => number,
        2..7 => data,
        7..11 => format!(r#"{{"shape":{shape},"data":{data}}}"#),
        11 => format!(r#"{{"data":{data},"shape":{shape},"shape":{shape}}}"#),
        _ => format!(r#"{{"data":{data},"shape":{shape},"x":0}}"#),
    })
}

fn any_fields() -> impl Strategy<Value = String> {
    let names = prop_oneof![
        4 => Just(vec!["a", "b"]), 2 => Just(vec!["a"]), 1 => Just(vec!["b", "a"]), 1 => Just(vec!["a", "a"]), 1 => Just(vec!["c"]), 1 => Just(vec![])
    ];
    (names, any_tensor(), any_tensor(), any_tensor(), 0..11).prop_map(|(names, first, second, only, kind)| {
        let pairs: Vec<String> =
            names.iter().zip([first, second]).map(|(name, tensor)| format!("\"{name}\":{tensor}")).collect();
        let inputs = format!(r#""inputs":{{{}}}"#, pairs.join(","));
        match kind {
            0..4 => format!(r#""input":{only}"#),
            4..10 => inputs,
            _ => format!(r#""input":{only},{inputs}"#),
        }
    })
}

/// A tensor of the Open Inference Protocol for an input, or nearly, and the bytes of it that stand behind the JSON.
fn any_given(input: TensorSpec) -> impl Strategy<Value = (String, Vec<u8>)> {
    let axes: Vec<usize> = input.axes.iter().map(|axis| axis.unwrap_or(2)).collect();
    let right = input.batch_of_one(&axes);
    let shape = prop_oneof![6 => Just(right), 1 => prop::collection::vec(0_usize..3, 0..4)];
    let own = open_inference::datatype(input.dtype);
    let datatype =
        prop_oneof![8 => Just(own), 1 => prop::sample::select(vec!["FP32", "INT64", "BYTES", "fp32", ""])];
    let byte = prop_oneof![3 => 0_u8..2, 1 => any::<u8>()];
    let numbers = prop::collection::vec(any_number(), 16);
    let whole = prop::bool::weighted(0.8);
    (shape, datatype, numbers, prop::collection::vec(byte, 130), whole, 0_usize..12).prop_map(
        move |(shape, datatype, numbers, mut bytes, whole, kind)| {
            let name = if kind == 11 { "c" } else { &input.name };
            let count = shape.iter().product::<usize>().min(16) + usize::from(!whole);
            let numbers = &numbers[..count.min(16)];
            let flat = format!("[{}]", numbers.join(","));
            let size = count * input.dtype.bytes();
            bytes.truncate(size);
            let numbers = match kind {
                0..4 => format!(r#""data":{flat}"#),
                4..7 => format!(r#""data":{}"#, nested(&shape, &mut numbers.iter())),
                7 => format!(r#""data":[{flat}]"#),
                _ => format!(r#""parameters":{{"x":[1],"binary_data_size":{size}}}"#),
            };
            if kind < 8 {
                bytes.clear();
            }
            let fields = [
                format!(r#""name":"{name}""#),
                numbers,
                format!(r#""datatype":"{datatype}""#),
                format!(r#""shape":{shape:?}"#),
            ];
            let turned: Vec<&str> = (0..4).map(|place| &*fields[(place + kind) % 4]).collect();
            (format!("{{{}}}", turned.join(",")), bytes)
        },
    )
}

/// Numbers in arrays that nest as a shape says; a number that is missing leaves a hole.
fn nested(shape: &[usize], numbers: &mut std::slice::Iter<'_, String>) -> String {
    let [axis, inner @ ..] = shape else { return numbers.next().cloned().unwrap_or_default() };
    let elements: Vec<String> = (0..*axis).map(|_| nested(inner, numbers)).collect();
    format!("[{}]", elements.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn json_is_judged_as_the_engine_does(inputs in any_inputs(), fields in any_fields()) {
        let mut records = Records::default();
        let value = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m",{fields}}}"#);
        records.push(None, Some(value.as_bytes()));
        records.push_header(b"model_id", Some(b"m"));
        agree(&records, &inputs);
    }

    #[test]
    fn bytes_are_judged_as_the_engine_does(
        inputs in any_inputs(),
        right_types in prop::bool::weighted(0.8),
        shapes in prop::collection::vec(prop::collection::vec(0_usize..3, 0..3), 1..3),
        right_length in prop::bool::weighted(0.8),
        bytes in prop::collection::vec(prop_oneof![3 => 0_u8..2, 1 => any::<u8>()], 64),
    ) {
        let types: Vec<Dtype> =
            if right_types { inputs.iter().map(|input| input.dtype).collect() } else { vec![Dtype::F32; shapes.len()] };
        let due: usize = shapes.iter().zip(&types).map(|(shape, dtype)| shape.iter().product::<usize>() * dtype.bytes()).sum();
        let value = &bytes[..if right_length { due.min(64) } else { 9 }];
        let mut records = Records::default();
        records.push(None, Some(value));
        let types: Vec<&str> = types.into_iter().map(Dtype::name).collect();
        let axes = |shape: &Vec<usize>| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let shapes: Vec<String> = shapes.iter().map(axes).collect();
        let (types, shapes) = (types.join(";"), shapes.join(";"));
        for (name, value) in [
            ("content-type", "application/x-tensor"), ("request_id", "r"), ("tenant_id", "t"), ("model_id", "m"), ("dtype", &types), ("shape", &shapes),
        ] {
            records.push_header(name.as_bytes(), Some(value.as_bytes()));
        }
        agree(&records, &inputs);
    }

    #[test]
    fn the_open_inference_protocol_is_judged_as_the_engine_does(
        (inputs, given) in any_inputs().prop_flat_map(|inputs| {
            let given: Vec<_> = inputs.iter().cloned().map(any_given).collect();
            (Just(inputs), given)
        }),
        turned: bool, dropped in prop::bool::weighted(0.1), binary: bool, cut in prop::bool::weighted(0.05), ids in 0..10,
    ) {
        let mut given = given;
        if turned {
            given.reverse();
        }
        if dropped {
            given.pop();
        }
        let (tensors, bytes): (Vec<String>, Vec<Vec<u8>>) = given.into_iter().unzip();
        let id = match ids {
            0 => "",
            1 => r#""id":"","#,
            2 => r#""id":"r","model_name":"m","#,
            _ => r#""id":"r","#,
        };
        let json = format!(r#"{{{id}"inputs":[{}],"outputs":[{{"name":"y"}}]}}"#, tensors.join(","));
        let mut value = json.clone().into_bytes();
        if binary {
            value.extend(bytes.concat());
        }
        if cut {
            value.pop();
        }
        let mut records = Records::default();
        records.push(None, Some(&value));
        let form = if binary { Form::OpenInferenceBinary } else { Form::OpenInference };
        for (name, value) in [
            ("content-type", form.media_type()), ("tenant_id", "t"), ("model_id", "m"), ("inference-header-content-length", &json.len().to_string()),
        ] {
            records.push_header(name.as_bytes(), Some(value.as_bytes()));
        }
        agree(&records, &inputs);
    }
}
