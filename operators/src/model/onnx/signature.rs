//! What a model's file says of its inputs and outputs, and whether the engine can serve that.

use ort::value::{Outlet, TensorElementType, ValueType};

/// The longest row that is served: 64 MiB of floats. A file that declares more would have its warm-up ask for any amount of memory.
const ROW_LEN_MAX: usize = 1 << 24;

/// How many inputs or outputs a reason names.
const NAMED_MAX: usize = 8;

/// An input or output of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: &'a ValueType,
}

impl<'a> Port<'a> {
    pub(super) fn of(outlet: &'a Outlet) -> Self {
        Self { name: outlet.name(), dtype: outlet.dtype() }
    }
}

/// What is served of a model, as far as its file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) input: String,
    pub(super) row_shape: Vec<usize>,
    pub(super) output: String,
}

/// Chooses what to serve of a model, or says for people why it can't be served. `wanted` names the output to serve.
pub(super) fn declared(
    inputs: &[Port<'_>],
    outputs: &[Port<'_>],
    wanted: Option<&str>,
) -> Result<Declared, String> {
    let [input] = inputs else {
        return Err(format!("it has {} and the engine feeds exactly one", count(inputs, "input")));
    };
    let row_shape = row_shape(input).map_err(|why| format!("its input {} {why}", describe(input)))?;
    let output = choose(outputs, wanted)?;
    if output.dtype.tensor_type() != Some(TensorElementType::Float32) {
        return Err(format!("its output {} is not a tensor of f32", describe(output)));
    }
    Ok(Declared { input: input.name.to_owned(), row_shape, output: output.name.to_owned() })
}

/// The shape of an input without its batch axis, or what is wrong with it.
fn row_shape(input: &Port<'_>) -> Result<Vec<usize>, String> {
    let ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } = input.dtype else {
        return Err("is not a tensor of f32".to_owned());
    };
    let dynamic = shape.iter().filter(|axis| **axis < 0).count();
    let Some((batch, row)) = shape.split_first() else {
        return Err("is a single number: it needs a first axis for the rows of a batch".to_owned());
    };
    match (dynamic, *batch < 0) {
        (1, true) => {}
        (0, _) => return Err("has no dynamic axis: export the model with a dynamic first axis".to_owned()),
        (1, false) => return Err("has its dynamic axis in another place than the first".to_owned()),
        _ => return Err(format!("has {dynamic} dynamic axes, and only the first may be one")),
    }
    let row: Vec<usize> = row.iter().map(|axis| usize::try_from(*axis).unwrap_or(0)).collect();
    match row.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis)) {
        Some(0) => Err("has rows without a number in them".to_owned()),
        Some(row_len) if row_len <= ROW_LEN_MAX => Ok(row),
        _ => Err(format!("has rows of more than {ROW_LEN_MAX} numbers")),
    }
}

/// The output that is named, or the only one.
fn choose<'a, 'b>(outputs: &'a [Port<'b>], wanted: Option<&str>) -> Result<&'a Port<'b>, String> {
    match (outputs, wanted) {
        (_, Some(wanted)) => outputs
            .iter()
            .find(|output| output.name == wanted)
            .ok_or_else(|| format!("it has no output `{wanted}`, but {}", count(outputs, "output"))),
        ([output], None) => Ok(output),
        (_, None) => Err(format!(
            "it has {}: name the one to serve with the model's key `output`",
            count(outputs, "output")
        )),
    }
}

/// The floats of output a row, from the shape that a run of `rows` rows gave.
pub(super) fn output_len(rows: usize, shape: &[i64]) -> Result<usize, String> {
    let refuse = || {
        format!(
            "its output has the shape {shape:?} for {rows} rows: the first axis does not follow the batch"
        )
    };
    let (batch, row) = shape.split_first().ok_or_else(refuse)?;
    if usize::try_from(*batch) != Ok(rows) {
        return Err(refuse());
    }
    let len = row.iter().try_fold(1_usize, |product, axis| product.checked_mul(usize::try_from(*axis).ok()?));
    len.filter(|len| *len > 0)
        .ok_or_else(|| format!("its output has the shape {shape:?}: rows without a number in them"))
}

/// How many there are, and what they are.
fn count(ports: &[Port<'_>], noun: &str) -> String {
    let plural = if ports.len() == 1 { "" } else { "s" };
    let mut names: Vec<String> = ports.iter().take(NAMED_MAX).map(describe).collect();
    if ports.len() > NAMED_MAX {
        names.push(format!("and {} more", ports.len() - NAMED_MAX));
    }
    format!("{} {noun}{plural} ({})", ports.len(), names.join(", "))
}

/// Name, type and shape: `x f32[batch, 3, 64]`.
fn describe(port: &Port<'_>) -> String {
    let ValueType::Tensor { ty, shape, dimension_symbols } = port.dtype else {
        return format!("`{}` {}", port.name, port.dtype);
    };
    let mut text = format!("`{}` {ty}[", port.name);
    for (place, axis) in shape.iter().enumerate() {
        let symbol = dimension_symbols.get(place).filter(|symbol| !symbol.is_empty());
        text += if place == 0 { "" } else { ", " };
        text += &if *axis >= 0 { axis.to_string() } else { symbol.map_or("?", String::as_str).to_owned() };
    }
    text + "]"
}

#[cfg(test)]
mod tests {
    use ort::value::{Shape, SymbolicDimensions};
    use proptest::prelude::*;

    use super::*;

    fn tensor(ty: TensorElementType, axes: &[i64]) -> ValueType {
        let symbols = axes.iter().map(|axis| if *axis == -1 { "n".to_owned() } else { String::new() });
        let shape = Shape::new(axes.iter().map(|axis| (*axis).max(-1)));
        ValueType::Tensor { ty, shape, dimension_symbols: SymbolicDimensions::new(symbols) }
    }

    fn floats(axes: &[i64]) -> ValueType {
        tensor(TensorElementType::Float32, axes)
    }

    /// The verdict on a model of these inputs and outputs, named `x0`, `x1`, … and `y0`, `y1`, ….
    fn verdict(
        inputs: &[ValueType],
        outputs: &[ValueType],
        wanted: Option<&str>,
    ) -> Result<Declared, String> {
        let names: Vec<[String; 2]> =
            (0..16).map(|place| [format!("x{place}"), format!("y{place}")]).collect();
        let ports = |dtypes: &'_ [ValueType], side: usize| -> Vec<(String, ValueType)> {
            dtypes.iter().zip(&names).map(|(dtype, name)| (name[side].clone(), dtype.clone())).collect()
        };
        let (inputs, outputs) = (ports(inputs, 0), ports(outputs, 1));
        let borrow = |ports: &'static [(String, ValueType)]| -> Vec<Port<'static>> {
            ports.iter().map(|(name, dtype)| Port { name, dtype }).collect()
        };
        declared(&borrow(inputs.leak()), &borrow(outputs.leak()), wanted)
    }

    fn refusal(inputs: &[ValueType], outputs: &[ValueType], wanted: Option<&str>) -> String {
        verdict(inputs, outputs, wanted).unwrap_err()
    }

    #[test]
    fn a_model_of_any_rank_is_served_by_its_first_axis() {
        for (axes, row_shape) in [(&[-1][..], &[][..]), (&[-1, 16], &[16]), (&[-2, 6, 64], &[6, 64])] {
            let declared = verdict(&[floats(axes)], &[floats(&[-1, 10])], None).unwrap();
            assert_eq!(
                declared,
                Declared { input: "x0".into(), row_shape: row_shape.into(), output: "y0".into() }
            );
        }
    }

    #[test]
    fn each_refusal_names_what_was_found() {
        let (row, result) = (floats(&[-1, 4]), floats(&[-1, 2]));
        let int64 = |axes| tensor(TensorElementType::Int64, axes);
        let one = std::slice::from_ref(&result);
        for (input, reason) in [
            (int64(&[-1, 4]), "its input `x0` i64[n, 4] is not a tensor of f32"),
            (
                floats(&[8, 4]),
                "its input `x0` f32[8, 4] has no dynamic axis: export the model with a dynamic first axis",
            ),
            (
                floats(&[4, -1]),
                "its input `x0` f32[4, n] has its dynamic axis in another place than the first",
            ),
            (floats(&[-1, -2]), "its input `x0` f32[n, ?] has 2 dynamic axes, and only the first may be one"),
            (
                floats(&[]),
                "its input `x0` f32[] is a single number: it needs a first axis for the rows of a batch",
            ),
            (floats(&[-1, 0]), "its input `x0` f32[n, 0] has rows without a number in them"),
            (floats(&[-1, i64::MAX, 3]), "has rows of more than 16777216 numbers"),
            (
                ValueType::Sequence(Box::new(row.clone())),
                "its input `x0` Sequence<Tensor<f32>(n, 4)> is not a tensor of f32",
            ),
        ] {
            let found = refusal(&[input], one, None);
            assert!(found.ends_with(reason), "{found}");
        }
        assert_eq!(
            refusal(&[row.clone(), int64(&[])], one, None),
            "it has 2 inputs (`x0` f32[n, 4], `x1` i64[]) and the engine feeds exactly one"
        );
        assert_eq!(refusal(&[], one, None), "it has 0 inputs () and the engine feeds exactly one");
    }

    #[test]
    fn an_output_is_named_unless_it_is_the_only_one() {
        let row = [floats(&[-1, 4])];
        let outputs = [floats(&[-1, 4]), floats(&[-1]), tensor(TensorElementType::String, &[-1])];
        assert_eq!(verdict(&row, &outputs, Some("y1")).unwrap().output, "y1");
        assert_eq!(
            refusal(&row, &outputs, None),
            "it has 3 outputs (`y0` f32[n, 4], `y1` f32[n], `y2` String[n]): name the one to serve with the model's key `output`"
        );
        assert_eq!(
            refusal(&row, &outputs[..1], Some("z")),
            "it has no output `z`, but 1 output (`y0` f32[n, 4])"
        );
        assert_eq!(refusal(&row, &outputs, Some("y2")), "its output `y2` String[n] is not a tensor of f32");
    }

    #[test]
    fn a_reason_names_a_bounded_number_of_inputs() {
        let reason = refusal(&vec![floats(&[-1, 4]); 12], &[floats(&[-1])], None);
        assert!(reason.contains("`x7` f32[n, 4], and 4 more)"), "{reason}");
        assert!(!reason.contains("x8"), "{reason}");
    }

    proptest! {
        #[test]
        fn the_output_follows_the_batch_or_is_refused(rows in 1_usize..100, shape in prop::collection::vec(-2_i64..5, 0..4)) {
            let followed = shape.first().is_some_and(|batch| usize::try_from(*batch) == Ok(rows));
            let whole = shape.iter().skip(1).all(|axis| *axis > 0);
            let len = shape.iter().skip(1).product::<i64>();
            match output_len(rows, &shape) {
                Ok(found) => {
                    prop_assert!(followed && whole);
                    prop_assert_eq!(found, usize::try_from(len).unwrap());
                }
                Err(reason) => {
                    prop_assert!(!followed || !whole, "{}", reason);
                    let axes = format!("{shape:?}");
                    prop_assert!(reason.contains(&axes));
                }
            }
        }
    }
}
