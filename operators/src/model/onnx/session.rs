//! A session, and how rows are fed to it: each input in the layout that the model has, and only as many rows at once as it takes.

use std::sync::Arc;

use ort::logging::LogLevel;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorRef};

use super::cancel::SharedOptions;
use super::layout;
use super::providers::Provider;
use super::signature::{self, Declared, Output};
use super::{bounded, load_error, run_error, unsupported};
use crate::model::{Buckets, Cancel, Model, ModelError, ModelFile, RunError, Signature, TensorSpec};
use crate::tensor::{Column, Number, Values};
use crate::with_numbers;

/// The batch sizes that are run when a model is opened: two, to tell the batch axis from one that happens to be as long.
pub(super) const WARM_ROWS: [usize; 2] = [1, 3];

/// The lengths that are tried for axes that the file leaves open, until a run of zeros works.
const OPEN_AXES: [usize; 6] = [32, 64, 224, 512, 8, 1];

/// A session, owned by one executor thread.
pub(super) struct OnnxModel {
    session: Session,
    options: Arc<SharedOptions>,
    declared: Declared,
    signature: Signature,
    /// For each input of the file what is fed: rows in the model's layout, or its value. Empty where the rows are fed as they are.
    fed: Vec<Column>,
}

impl OnnxModel {
    /// Runs zeros, which measures what the outputs are, and makes a GPU's engine where there is one.
    pub(super) fn open(
        session: Session,
        declared: Declared,
        effective: &[Provider],
        file: &ModelFile,
        buckets: Buckets,
        gpu_rows_max: Option<usize>,
    ) -> Result<Self, ModelError> {
        let options = run_options(&declared.outputs).map_err(|reason| load_error(file, reason))?;
        let signature = Signature {
            inputs: Vec::new(),
            outputs: Vec::new(),
            sample: Vec::new(),
            providers: effective.iter().map(ToString::to_string).collect(),
            buckets: declared.rows_fixed.map_or(buckets, |rows| Buckets::of([rows])),
        };
        let fed = declared.inputs.iter().map(|input| {
            let axes = input.spec.fixed().unwrap_or_default();
            let mut column = Column::new(axes, input.spec.dtype);
            if let Some(value) = input.value {
                let value = with_value(&mut column, value);
                value.ok_or_else(|| {
                    unsupported(file, format!("its input {} can't have its `value`", input.spec))
                })?;
            }
            Ok(column)
        });
        let fed = fed.collect::<Result<_, ModelError>>()?;
        let options = Arc::new(SharedOptions::new(options));
        let mut model = Self { session, options, declared, signature, fed };
        let asked = model.declared.inputs.iter().filter(|input| input.value.is_none());
        model.signature.inputs = asked.map(|input| input.spec.clone()).collect();
        model.warm_up(file, gpu_rows_max)?;
        Ok(model)
    }

    fn warm_up(&mut self, file: &ModelFile, gpu_rows_max: Option<usize>) -> Result<(), ModelError> {
        let first = self.first_run().map_err(|RunError(reason)| load_error(file, reason))?;
        let mut runs = vec![first];
        let sizes = match self.declared.rows_fixed {
            Some(rows) => vec![rows],
            None => warm_sizes(&self.signature.buckets, gpu_rows_max),
        };
        for rows in sizes.into_iter().skip(1) {
            let zeros = self.signature.zeros(rows);
            let shapes = self.shapes(rows, &zeros).map_err(|RunError(reason)| {
                load_error(file, format!("a run of {rows} rows of zeros failed: {reason}"))
            })?;
            runs.push((rows, shapes));
        }
        let uniform = self.signature.is_uniform();
        for (place, output) in self.declared.outputs.iter().enumerate() {
            let complain = |why: String| unsupported(file, format!("its output `{}` {why}", output.name));
            let of_output: Vec<(usize, Vec<i64>)> =
                runs.iter().map(|(rows, shapes)| (*rows, shapes[place].clone())).collect();
            let batch_axis = signature::batch_axis(&of_output).map_err(complain)?;
            let rows: Vec<Vec<usize>> = of_output
                .iter()
                .map(|(_, shape)| signature::row_axes(shape, batch_axis))
                .collect::<Result<_, _>>()
                .map_err(complain)?;
            if let Some(other) = rows.iter().find(|row| **row != rows[0]) {
                return Err(complain(format!(
                    "has rows of the axes {:?} in one batch and {other:?} in another",
                    rows[0]
                )));
            }
            let mut axes: Vec<Option<usize>> = rows[0].iter().copied().map(Some).collect();
            if !uniform {
                // What was measured is one case of several, but for the axes that the file has as well.
                let written = (0..)
                    .filter(|place| *place != batch_axis)
                    .map(|place| output.axes.get(place).copied().flatten());
                axes = axes
                    .into_iter()
                    .zip(written)
                    .map(|(axis, written)| axis.filter(|_| axis == written))
                    .collect();
            }
            let (name, dtype) = (output.name.clone(), output.dtype);
            self.signature.outputs.push(TensorSpec { name, dtype, axes, batch_axis: Some(batch_axis) });
        }
        Ok(())
    }

    /// Finds axes that run, where the file and the configuration leave some open: the shapes of the outputs of a first run.
    fn first_run(&mut self) -> Result<(usize, Vec<Vec<i64>>), RunError> {
        let rows = self.declared.rows_fixed.unwrap_or(WARM_ROWS[0]);
        let mut failed = Vec::new();
        let asked = || self.declared.inputs.iter().filter(|input| input.value.is_none());
        let open = asked().any(|input| input.sample.is_none() && input.spec.axes.contains(&None));
        let samples: Vec<Vec<Vec<usize>>> = OPEN_AXES[..if open { OPEN_AXES.len() } else { 1 }]
            .iter()
            .map(|length| {
                let axes = |input: &signature::Input| {
                    let tried = || input.spec.axes.iter().map(|axis| axis.unwrap_or(*length)).collect();
                    input.sample.clone().unwrap_or_else(tried)
                };
                asked().map(axes).collect()
            })
            .collect();
        for sample in samples {
            self.signature.sample = sample;
            let zeros = self.signature.zeros(rows);
            match self.shapes(rows, &zeros) {
                Ok(shapes) => return Ok((rows, shapes)),
                Err(RunError(reason)) => failed.push(reason),
            }
        }
        let reason = failed.swap_remove(0);
        let hint = if open {
            format!(
                "; its open axes were tried at {OPEN_AXES:?}: say axes that run with the model's key `inputs.NAME.sample`, or `shape`"
            )
        } else {
            String::new()
        };
        Err(RunError(format!(
            "a run of {rows} row{} of zeros failed: {reason}{hint}",
            if rows == 1 { "" } else { "s" }
        )))
    }

    /// The shapes of the outputs of a run.
    fn shapes(&mut self, rows: usize, inputs: &[Column]) -> Result<Vec<Vec<i64>>, RunError> {
        self.infer(rows, 0..rows, inputs, |declared, outputs| {
            declared.outputs.iter().map(|output| Ok(found(outputs, output)?.shape().to_vec())).collect()
        })
    }

    /// Runs the model on the rows in `range`, of which there are as many as `rows` or, if the file fixes that number, fewer; what comes out
    /// is given to `take`.
    fn infer<T>(
        &mut self,
        rows: usize,
        range: std::ops::Range<usize>,
        inputs: &[Column],
        take: impl FnOnce(&Declared, &SessionOutputs<'_>) -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let mut asked = inputs.iter();
        let mut values = Vec::with_capacity(self.declared.inputs.len());
        for (input, fed) in self.declared.inputs.iter().zip(&mut self.fed) {
            if input.value.is_some() {
                values.push(view(&fed.values, 0..fed.values.len(), &fed.axes, None)?);
                continue;
            }
            let column = asked.next().ok_or_else(|| RunError("an input is missing".to_owned()))?;
            let Some(axis) = input.spec.batch_axis else {
                values.push(view(&column.values, 0..column.values.len(), &column.axes, None)?);
                continue;
            };
            let place = range.start * column.row_len()..range.end * column.row_len();
            let outer: usize = column.axes[..axis].iter().product();
            let batch = Some((axis, rows));
            if outer == 1 && range.len() == rows {
                values.push(view(&column.values, place, &column.axes, batch)?);
                continue;
            }
            fed.reset(&column.axes, input.spec.dtype);
            lay_out(&column.values, place, (range.len(), rows), outer, &mut fed.values);
            values.push(view(&fed.values, 0..fed.values.len(), &fed.axes, batch)?);
        }
        let outputs = self.session.run_with_options(&values[..], self.options.get()).map_err(run_error)?;
        take(&self.declared, &outputs)
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        // Whoever cancelled the last run may have come too late for it.
        self.options.get().unterminate().map_err(run_error)?;
        let specs = std::mem::take(&mut self.signature.outputs);
        outputs.resize_with(specs.len(), || Column::new(Vec::new(), crate::tensor::Dtype::F32));
        for (output, spec) in outputs.iter_mut().zip(&specs) {
            output.reset(&[], spec.dtype);
        }
        let buckets = std::mem::take(&mut self.signature.buckets);
        let mut ran = Ok(());
        for (range, at_once) in buckets.pieces(rows) {
            let wanted = range.len();
            ran = self.infer(at_once, range, inputs, |declared, found_outputs| {
                let places = declared.outputs.iter().zip(&specs);
                for ((output, spec), column) in places.zip(outputs.iter_mut()) {
                    let value = found(found_outputs, output)?;
                    take_output(value, spec, (wanted, at_once), column)?;
                }
                Ok(())
            });
            if ran.is_err() {
                break;
            }
        }
        (self.signature.outputs, self.signature.buckets) = (specs, buckets);
        ran
    }

    fn cancel(&self) -> Option<Arc<dyn Cancel>> {
        Some(Arc::clone(&self.options) as Arc<dyn Cancel>)
    }
}

/// The batch sizes that are run when a model is opened, the two that tell the batch axis first. A GPU prepares something for each size
/// that it meets first: kernels are searched, engines built. There each power of two is run, so that no request pays for that.
fn warm_sizes(buckets: &Buckets, gpu_rows_max: Option<usize>) -> Vec<usize> {
    let of_gpu = gpu_rows_max.map(Buckets::powers).unwrap_or_default();
    let more = if buckets.sizes().is_empty() { of_gpu.sizes() } else { buckets.sizes() };
    WARM_ROWS.into_iter().chain(more.iter().copied().filter(|rows| !WARM_ROWS.contains(rows))).collect()
}

fn run_options(outputs: &[Output]) -> Result<RunOptions<ort::session::HasSelectedOutputs>, String> {
    let mut options = RunOptions::new().map_err(|error| bounded(error.message()))?;
    // A run's failure is returned and told with the record. The library would log each as an error too.
    options.set_log_level(LogLevel::Fatal).map_err(|error| bounded(error.message()))?;
    let selected =
        outputs.iter().fold(OutputSelector::no_default(), |selected, output| selected.with(&output.name));
    Ok(options.with_outputs(selected))
}

/// Makes each number of a column that `value`, if its type has it.
fn with_value(column: &mut Column, value: f64) -> Option<()> {
    fn fill<N: Number>(numbers: &mut Vec<N>, len: usize, value: f64) -> Option<()> {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole")]
        let whole = (value.fract() == 0.0).then_some(value as i128);
        let value = whole.and_then(N::of_integer).or_else(|| N::of_float(value))?;
        numbers.resize(len, value);
        Some(())
    }
    let len = column.row_len();
    with_numbers!(&mut column.values, numbers => fill(numbers, len, value))
}

/// A tensor of the numbers in `place`. It has the axes of a row, with the batch's between them where that is given as place and length.
fn view<'a>(
    values: &'a Values,
    place: std::ops::Range<usize>,
    axes: &[usize],
    batch: Option<(usize, usize)>,
) -> Result<SessionInputValue<'a>, RunError> {
    fn of<'a, N: Number + PrimitiveTensorElementType>(
        numbers: &'a [N],
        shape: Vec<i64>,
    ) -> Result<SessionInputValue<'a>, RunError> {
        TensorRef::from_array_view((shape, numbers)).map(SessionInputValue::from).map_err(run_error)
    }
    let mut shape = Vec::with_capacity(axes.len() + 1);
    shape.extend(axes.iter().map(|axis| i64::try_from(*axis).unwrap_or(i64::MAX)));
    if let Some((axis, rows)) = batch {
        shape.insert(axis, i64::try_from(rows).unwrap_or(i64::MAX));
    }
    with_numbers!(values, numbers => of(&numbers[place], shape))
}

/// Lays rows out as the model has them. Where there are fewer than it takes, the last is there several times: it is one that may be
/// run, which zeros need not be.
fn lay_out(
    from: &Values,
    place: std::ops::Range<usize>,
    (given, rows): (usize, usize),
    outer: usize,
    into: &mut Values,
) {
    fn lay<N: Number>(from: &[N], (given, rows): (usize, usize), outer: usize, into: &mut Vec<N>) {
        let mut padded = from.to_vec();
        let last = from.len() - from.len() / given;
        (given..rows).for_each(|_| padded.extend_from_slice(&from[last..]));
        layout::scatter(&padded, rows, outer, into);
    }
    with_numbers!(into, into => lay(&from.numbers()[place], (given, rows), outer, into));
}

fn found<'a>(outputs: &'a SessionOutputs<'_>, output: &Output) -> Result<&'a ort::value::DynValue, RunError> {
    outputs.get(&output.name).ok_or_else(|| RunError(format!("the run gave no output `{}`", output.name)))
}

/// Appends the first `wanted` rows of an output of `rows` rows to its column, after a look at its shape.
fn take_output(
    value: &ort::value::DynValue,
    spec: &TensorSpec,
    (wanted, rows): (usize, usize),
    column: &mut Column,
) -> Result<(), RunError> {
    fn take<N: Number + PrimitiveTensorElementType>(
        value: &ort::value::DynValue,
        (wanted, rows): (usize, usize),
        outer: usize,
        numbers: &mut Vec<N>,
    ) -> Result<(), RunError> {
        let (_, found) = value.try_extract_tensor::<N>().map_err(run_error)?;
        layout::gather(found, rows, wanted, outer, numbers);
        Ok(())
    }
    let shape = value.shape();
    let batch_axis = spec.batch_axis.unwrap_or_default();
    let complain = |why: String| RunError(format!("its output `{}` {why}", spec.name));
    if shape.get(batch_axis).copied() != i64::try_from(rows).ok() {
        return Err(complain(format!(
            "has the shape {shape:?} for {rows} rows: axis {batch_axis} does not follow the batch"
        )));
    }
    let axes = signature::row_axes(shape, batch_axis).map_err(complain)?;
    if !spec.fits(&axes) || !(column.values.is_empty() || column.axes == axes) {
        return Err(complain(format!("has rows of the axes {axes:?}, and others are due: {spec}")));
    }
    let outer = axes[..batch_axis].iter().product();
    column.axes = axes;
    with_numbers!(&mut column.values, numbers => take(value, (wanted, rows), outer, numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_or_on_a_gpu_every_power_of_two_is_run_before_the_first_request() {
        let exact = Buckets::exact();
        assert_eq!(warm_sizes(&exact, None), [1, 3]);
        assert_eq!(warm_sizes(&exact, Some(20)), [1, 3, 2, 4, 8, 16, 20]);
        assert_eq!(warm_sizes(&exact, Some(3)), [1, 3, 2]);
        assert_eq!(warm_sizes(&Buckets::of([16, 3, 48]), Some(64)), [1, 3, 16, 48]);
    }

    #[test]
    fn rows_that_are_too_few_are_filled_up_with_the_last() {
        let (from, mut into) = (Values::I32((0..8).collect()), Values::I32(Vec::new()));
        lay_out(&from, 2..6, (2, 3), 1, &mut into);
        assert_eq!(into, Values::I32(vec![2, 3, 4, 5, 4, 5]));
        let mut behind = Values::I32(Vec::new());
        lay_out(&from, 0..4, (2, 2), 2, &mut behind);
        assert_eq!(behind, Values::I32(vec![0, 2, 1, 3]), "the batch is the second axis");
    }

    #[test]
    fn a_value_is_one_that_the_type_has() {
        let mut rate = Column::new(vec![], crate::tensor::Dtype::I64);
        assert_eq!(with_value(&mut rate, 16_000.0), Some(()));
        assert_eq!(rate.values, Values::I64(vec![16_000]));
        assert_eq!(with_value(&mut rate, 0.5), None);
    }
}
