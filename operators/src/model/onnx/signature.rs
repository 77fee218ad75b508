//! What a model's file says of its inputs and outputs, and whether the engine can serve that.
//!
//! Which axis is the batch's is told by the configuration, else by the file: it is the first, if that is dynamic; the one that has the
//! same name as the batch axis of another input, as in the state `[2, batch, 128]` of a recurrent net; or, in a file without any dynamic
//! axis, the first. An input with none of these is the same for all rows of a batch.

use ort::value::{Outlet, TensorElementType, ValueType};

use crate::model::{InputOptions, ModelFile, TensorSpec};
use crate::tensor::Dtype;

/// The longest row that is served, in numbers. A file that declares more would have its warm-up ask for any amount of memory.
const ROW_LEN_MAX: usize = 1 << 24;

/// The most numbers of an input that all rows of a batch share: only rows whose numbers are the same run together.
const SHARED_LEN_MAX: usize = 1 << 10;

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

    /// The type, axes and names of the axes of a tensor that can be served.
    fn tensor(&self, noun: &str) -> Result<(Dtype, &'a [i64], Vec<&'a str>), String> {
        let ValueType::Tensor { ty, shape, dimension_symbols } = self.dtype else {
            return Err(format!("its {noun} {} is no tensor", describe(self)));
        };
        let dtype = dtype(*ty).ok_or_else(|| {
            format!("its {noun} {} has numbers of a type that is not served", describe(self))
        })?;
        // An exporter's `?` is no name: two such axes are not the same.
        let symbol = |place| dimension_symbols.get(place).map_or("", String::as_str);
        let symbols = (0..shape.len()).map(|place| if symbol(place) == "?" { "" } else { symbol(place) });
        Ok((dtype, shape, symbols.collect()))
    }
}

/// An input of a model, and how rows are fed to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    /// What requests have of it.
    pub(super) spec: TensorSpec,
    /// What each of its numbers is, if the configuration says so: then requests don't have it.
    pub(super) value: Option<f64>,
    /// The axes of a row that is known to run, where the configuration says them.
    pub(super) sample: Option<Vec<usize>>,
}

/// An output that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// Its axes, that of the batch included; `None` where the file does not tell.
    pub(super) axes: Vec<Option<usize>>,
}

/// What is served of a model, as far as its file and the configuration tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Declared {
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    /// How many rows each run has, if the file fixes that.
    pub(super) rows_fixed: Option<usize>,
}

/// Chooses what to serve of a model, or says for people why it can't be served.
pub(super) fn declared(
    inputs: &[Port<'_>],
    outputs: &[Port<'_>],
    file: &ModelFile,
) -> Result<Declared, String> {
    for name in file.inputs.keys() {
        if !inputs.iter().any(|input| input.name == name) {
            return Err(format!("it has no input `{name}`, but {}", count(inputs, "input")));
        }
    }
    let options = |input: &Port<'_>| file.inputs.get(input.name).cloned().unwrap_or_default();
    let axes = batch_axes(inputs, &options)?;
    let mut declared = Declared { inputs: Vec::new(), outputs: Vec::new(), rows_fixed: None };
    for (input, batch_axis) in inputs.iter().zip(axes) {
        let complain = |why: String| format!("its input {} {why}", describe(input));
        if let Some(axis) = batch_axis
            && let Ok(rows) = usize::try_from(input.tensor("input")?.1[axis])
        {
            if rows == 0 || declared.rows_fixed.is_some_and(|fixed| fixed != rows) {
                return Err(complain("has a batch axis of another length than others".to_owned()));
            }
            declared.rows_fixed = Some(rows);
        }
        declared.inputs.push(self::input(input, batch_axis, options(input)).map_err(complain)?);
    }
    for output in choose(outputs, file.output.as_deref())? {
        let (dtype, axes, _) = output.tensor("output")?;
        if output.name.is_empty() {
            return Err("it has an output without a name".to_owned());
        }
        let axes = axes.iter().map(|axis| usize::try_from(*axis).ok()).collect();
        declared.outputs.push(Output { name: output.name.to_owned(), dtype, axes });
    }
    Ok(declared)
}

/// Where the batch axis of each input is.
fn batch_axes(
    inputs: &[Port<'_>],
    options: &impl Fn(&Port<'_>) -> InputOptions,
) -> Result<Vec<Option<usize>>, String> {
    let tensors: Vec<_> = inputs.iter().map(|input| input.tensor("input")).collect::<Result<_, _>>()?;
    let first_dynamic =
        |(_, axes, _): &(Dtype, &[i64], Vec<&str>)| axes.first().is_some_and(|axis| *axis < 0);
    let batch = tensors.iter().filter(|tensor| first_dynamic(tensor)).map(|(_, _, symbols)| symbols[0]);
    let batch = batch.into_iter().find(|symbol| !symbol.is_empty());
    let mut found = Vec::new();
    for (input, tensor) in inputs.iter().zip(&tensors) {
        let (_, axes, symbols) = tensor;
        let named = symbols.iter().position(|symbol| batch.is_some_and(|batch| batch == *symbol));
        found.push(match options(input).batch_axis {
            Some(Some(axis)) if axis >= axes.len() => {
                return Err(format!("its input {} has no axis {axis} for the batch", describe(input)));
            }
            Some(axis) => axis,
            None if first_dynamic(tensor) => Some(0),
            None => named,
        });
    }
    if found.iter().any(Option::is_some) {
        return Ok(found);
    }
    // Nothing is dynamic. Rows are taken as many at a time as the first axis has; a single axis may as well be that of a row.
    let static_batch = |axes: &[i64]| axes.len() > 1 || axes == [1];
    let rows = tensors.iter().find_map(|(_, axes, _)| axes.first().filter(|_| static_batch(axes)));
    let own = |(input, (_, axes, _)): (&Port<'_>, &(Dtype, &[i64], Vec<&str>))| {
        let dynamic = axes.iter().any(|axis| *axis < 0);
        let free = options(input).batch_axis.is_none() && !dynamic && static_batch(axes);
        (free && axes.first() == rows).then_some(0)
    };
    let found: Vec<_> = inputs.iter().zip(&tensors).map(own).collect();
    if found.iter().any(Option::is_some) {
        return Ok(found);
    }
    Err(format!(
        "which axis of its inputs is the batch's can't be told: it has {}; say it with the model's key `inputs.NAME.batch_axis`",
        count(inputs, "input")
    ))
}

/// How an input is fed, or what is wrong with it.
fn input(port: &Port<'_>, batch_axis: Option<usize>, options: InputOptions) -> Result<Input, String> {
    let (dtype, shape, _) = port.tensor("input")?;
    let row = shape.iter().enumerate().filter(|(place, _)| Some(*place) != batch_axis);
    let mut axes: Vec<Option<usize>> = row.map(|(_, axis)| usize::try_from(*axis).ok()).collect();
    let written = TensorSpec { name: port.name.to_owned(), dtype, axes: axes.clone(), batch_axis };
    for (key, given) in [("shape", &options.shape), ("sample", &options.sample)] {
        if let Some(given) = given.as_ref().filter(|given| !written.fits(given)) {
            return Err(format!(
                "has rows of other axes than {given:?}, which `inputs.{}.{key}` says",
                port.name
            ));
        }
    }
    if let Some(shape) = options.shape {
        axes = shape.into_iter().map(Some).collect();
    }
    let known = axes.iter().flatten().try_fold(1_usize, |product, axis| product.checked_mul(*axis));
    let len_max = if batch_axis.is_some() { ROW_LEN_MAX } else { SHARED_LEN_MAX };
    match known {
        Some(0) => return Err("has rows without a number in them".to_owned()),
        Some(known) if known <= len_max => {}
        _ if batch_axis.is_some() => return Err(format!("has rows of more than {len_max} numbers")),
        _ => {
            return Err(format!(
                "has no batch axis, and more than the {len_max} numbers that rows can share"
            ));
        }
    }
    let open = axes.contains(&None);
    if options.value.is_some() && (batch_axis.is_some() || open) {
        return Err("can't have a `value`: that is for one without a batch axis, of known axes".to_owned());
    }
    let spec = TensorSpec { axes, ..written };
    Ok(Input { spec, value: options.value, sample: options.sample })
}

/// The output that is named, or all of them.
fn choose<'a, 'b>(outputs: &'a [Port<'b>], wanted: Option<&str>) -> Result<&'a [Port<'b>], String> {
    match wanted {
        Some(wanted) => {
            let place = outputs.iter().position(|output| output.name == wanted);
            let place = place
                .ok_or_else(|| format!("it has no output `{wanted}`, but {}", count(outputs, "output")))?;
            Ok(&outputs[place..=place])
        }
        None if outputs.is_empty() => Err("it has no output".to_owned()),
        None => Ok(outputs),
    }
}

/// The axis of an output that follows the batch, from the shapes that runs of so many rows gave.
pub(super) fn batch_axis(runs: &[(usize, Vec<i64>)]) -> Result<usize, String> {
    let Some((_, shape)) = runs.first() else { return Err("nothing was run".to_owned()) };
    let follows = |axis: &usize| {
        let followed =
            |(rows, shape): &(usize, Vec<i64>)| shape.get(*axis).copied() == i64::try_from(*rows).ok();
        runs.iter().all(followed)
    };
    let found = (0..shape.len()).find(follows);
    found.ok_or_else(|| {
        let told = runs
            .iter()
            .map(|(rows, shape)| format!("{shape:?} for {rows} row{}", if *rows == 1 { "" } else { "s" }));
        format!("has the shape {}: no axis follows the batch", told.collect::<Vec<_>>().join(" and "))
    })
}

/// The axes of an output's row, from the shape that a run gave.
pub(super) fn row_axes(shape: &[i64], batch_axis: usize) -> Result<Vec<usize>, String> {
    let row = shape.iter().enumerate().filter(|(place, _)| *place != batch_axis);
    let axes: Option<Vec<usize>> = row.map(|(_, axis)| usize::try_from(*axis).ok()).collect();
    axes.filter(|axes| axes.iter().all(|axis| *axis > 0))
        .ok_or_else(|| format!("has the shape {shape:?}: rows without a number in them"))
}

fn dtype(ty: TensorElementType) -> Option<Dtype> {
    match ty {
        TensorElementType::Float16 => Some(Dtype::F16),
        TensorElementType::Float32 => Some(Dtype::F32),
        TensorElementType::Float64 => Some(Dtype::F64),
        TensorElementType::Int8 => Some(Dtype::I8),
        TensorElementType::Int16 => Some(Dtype::I16),
        TensorElementType::Int32 => Some(Dtype::I32),
        TensorElementType::Int64 => Some(Dtype::I64),
        TensorElementType::Uint8 => Some(Dtype::U8),
        TensorElementType::Uint16 => Some(Dtype::U16),
        TensorElementType::Uint32 => Some(Dtype::U32),
        TensorElementType::Uint64 => Some(Dtype::U64),
        TensorElementType::Bool => Some(Dtype::Bool),
        _ => None,
    }
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
mod tests;
