//! A model that the audit has opened: how a row is fed to it, and how its outputs are read.

use operators::model::{InputOptions, ModelFile};
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};

use crate::audit::inputs::{Input, Inputs};
use crate::request::{Number, Tensor};

/// An open model.
pub(super) struct Loaded {
    session: Session,
    feeds: Vec<Feed>,
    inputs: Inputs,
    outputs: Vec<(String, TensorElementType)>,
    /// How many rows a run has.
    rows: usize,
}

/// One input of the file.
struct Feed {
    ty: TensorElementType,
    batch_axis: Option<usize>,
    /// Its axes and what each of its numbers is, where no request gives it.
    value: Option<(Vec<usize>, Number)>,
}

/// An input as the file has it.
struct Port {
    name: String,
    ty: TensorElementType,
    axes: Vec<Option<usize>>,
    symbols: Vec<String>,
    options: InputOptions,
}

impl Loaded {
    /// Opens a file.
    pub(super) fn open(environment: &Environment, file: &ModelFile) -> Result<Self, String> {
        let session = session(environment, file).map_err(|error| error.to_string())?;
        let ports = session.inputs().iter().map(|outlet| {
            let options = file.inputs.get(outlet.name()).cloned().unwrap_or_default();
            Port::of(outlet.name(), outlet.dtype(), options)
        });
        let ports: Vec<Port> = ports.collect::<Result<_, _>>()?;
        let axes = batch_axes(&ports).ok_or("no axis of its inputs is the batch's")?;
        let (mut feeds, mut inputs, mut rows) = (Vec::new(), Vec::new(), 1);
        for (port, batch_axis) in ports.into_iter().zip(axes) {
            let Port { name, ty, mut axes, options, .. } = port;
            if let Some(axis) = batch_axis {
                rows = axes.remove(axis).unwrap_or(rows);
            }
            if let Some(shape) = options.shape {
                axes = shape.into_iter().map(Some).collect();
            }
            #[expect(clippy::cast_possible_truncation, reason = "it is whole")]
            let number = |value: f64| {
                if value.fract() == 0.0 { Number::Whole(value as i128) } else { Number::Float(value) }
            };
            let value = options.value.map(|value| (axes.iter().flatten().copied().collect(), number(value)));
            if value.is_none() {
                inputs.push(Input { name, dtype: dtype(ty)?.to_owned(), axes, batch_axis });
            }
            feeds.push(Feed { ty, batch_axis, value });
        }
        let served = |name: &str| file.output.as_deref().is_none_or(|output| output == name);
        let outputs = session.outputs().iter().filter(|output| served(output.name())).map(|output| {
            let ty = output
                .dtype()
                .tensor_type()
                .ok_or_else(|| format!("output {} is no tensor", output.name()))?;
            dtype(ty).map(|_| (output.name().to_owned(), ty))
        });
        let outputs: Vec<_> = outputs.collect::<Result<_, _>>()?;
        if outputs.is_empty() {
            return Err("it has no such output".to_owned());
        }
        Ok(Self { session, feeds, inputs: Inputs(inputs), outputs, rows })
    }

    /// What a request has to give.
    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Runs a row of floats.
    pub(super) fn run_floats(&mut self, row: &[f32]) -> Result<Vec<f32>, String> {
        let [Input { axes, .. }] = &self.inputs.0[..] else { return Err("it has several inputs".to_owned()) };
        let (&[Feed { batch_axis: Some(batch_axis), .. }], 1) = (&self.feeds[..], self.rows) else {
            let numbers = row.iter().map(|float| Number::Float((*float).into())).collect();
            let row = Tensor { name: None, dtype: None, shape: None, batch: false, foreign: false, numbers };
            #[expect(clippy::cast_possible_truncation, reason = "they were 32 bits wide")]
            return Ok(self.run(&[row])?.into_iter().map(|float| float as f32).collect());
        };
        let mut shape: Vec<usize> = axes.iter().flatten().copied().collect();
        shape.insert(batch_axis, 1);
        let tensor = TensorRef::from_array_view((shape, row)).map_err(|error| error.to_string())?;
        let inputs = [SessionInputValue::from(tensor)];
        let outputs = self.session.run(&inputs[..]).map_err(|error| error.to_string())?;
        #[expect(clippy::cast_possible_truncation, reason = "those that are compared were 32 bits wide")]
        let narrowed = read(&outputs, &self.outputs, 1)?.into_iter().map(|float| float as f32);
        Ok(narrowed.collect())
    }

    /// Runs a row of tensors.
    pub(super) fn run(&mut self, tensors: &[Tensor]) -> Result<Vec<f64>, String> {
        let mut pairs = self.inputs.pairs(tensors).ok_or("its inputs are others")?.into_iter();
        let mut inputs = Vec::new();
        for feed in &self.feeds {
            let (mut axes, numbers) = if let Some((axes, value)) = &feed.value {
                (axes.clone(), vec![*value; axes.iter().product()])
            } else {
                let (input, tensor) = pairs.next().ok_or("an input is missing")?;
                (input.axes(tensor).ok_or("its axes are others")?, tensor.numbers.clone())
            };
            let mut repeated = numbers;
            if let Some(axis) = feed.batch_axis {
                let outer: usize = axes[..axis].iter().product();
                let inner = repeated.len() / outer.max(1);
                let parts = repeated.chunks(inner.max(1)).map(|part| part.repeat(self.rows));
                repeated = parts.flatten().collect();
                axes.insert(axis, self.rows);
            }
            inputs.push(value(feed.ty, axes, &repeated)?);
        }
        let outputs = self.session.run(&inputs[..]).map_err(|error| error.to_string())?;
        read(&outputs, &self.outputs, self.rows)
    }
}

impl Port {
    fn of(name: &str, dtype: &ValueType, options: InputOptions) -> Result<Self, String> {
        let ValueType::Tensor { ty, shape, dimension_symbols } = dtype else {
            return Err(format!("input {name} is no tensor"));
        };
        self::dtype(*ty)?;
        let axes: Vec<_> = shape.iter().map(|axis| usize::try_from(*axis).ok()).collect();
        let symbols = (0..axes.len()).map(|place| dimension_symbols.get(place).cloned().unwrap_or_default());
        Ok(Self { name: name.to_owned(), ty: *ty, axes, symbols: symbols.collect(), options })
    }

    /// The axis that is the batch's if nothing else is said: the first, if it is open.
    fn first_open(&self) -> Option<usize> {
        self.axes.first().filter(|axis| axis.is_none()).map(|_| 0)
    }
}

/// Where the batch axis of each input is; `None` if it can't be told. These are the rules of the product's documentation.
fn batch_axes(ports: &[Port]) -> Option<Vec<Option<usize>>> {
    let named = |symbol: &&String| !symbol.is_empty() && *symbol != "?";
    let batch = ports.iter().filter_map(|port| port.symbols.get(port.first_open()?)).find(named);
    let same = |port: &Port| port.symbols.iter().position(|symbol| Some(symbol) == batch);
    let axis = |port: &Port| match port.options.batch_axis {
        Some(said) => said,
        None => port.first_open().or_else(|| same(port)),
    };
    let found: Vec<_> = ports.iter().map(axis).collect();
    if found.iter().any(Option::is_some) {
        return Some(found);
    }
    let rows = |port: &Port| match port.axes[..] {
        [Some(1)] => Some(1),
        [Some(rows), _, ..] => Some(rows),
        _ => None,
    };
    let most = ports.iter().find_map(rows)?;
    let fixed = |port: &Port| {
        let all = port.axes.iter().all(Option::is_some) && port.options.batch_axis.is_none();
        (all && rows(port) == Some(most)).then_some(0)
    };
    let found: Vec<_> = ports.iter().map(fixed).collect();
    found.iter().any(Option::is_some).then_some(found)
}

fn dtype(ty: TensorElementType) -> Result<&'static str, String> {
    Ok(match ty {
        TensorElementType::Float16 => "f16",
        TensorElementType::Float32 => "f32",
        TensorElementType::Float64 => "f64",
        TensorElementType::Int8 => "i8",
        TensorElementType::Int16 => "i16",
        TensorElementType::Int32 => "i32",
        TensorElementType::Int64 => "i64",
        TensorElementType::Uint8 => "u8",
        TensorElementType::Uint16 => "u16",
        TensorElementType::Uint32 => "u32",
        TensorElementType::Uint64 => "u64",
        TensorElementType::Bool => "bool",
        other => return Err(format!("there are tensors of {other}")),
    })
}

/// A tensor of these numbers.
fn value(
    ty: TensorElementType,
    axes: Vec<usize>,
    numbers: &[Number],
) -> Result<SessionInputValue<'static>, String> {
    fn of<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
        axes: Vec<usize>,
        numbers: &[Number],
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<SessionInputValue<'static>, String> {
        let numbers = numbers.iter().map(|number| convert(*number)).collect::<Option<Vec<T>>>();
        let numbers = numbers.ok_or("a number is none of its type")?;
        let tensor = ort::value::Tensor::from_array((axes, numbers)).map_err(|error| error.to_string())?;
        Ok(tensor.into())
    }
    #[expect(clippy::cast_possible_truncation, reason = "what is not whole was refused before")]
    let whole = |number: Number| match number {
        Number::Whole(whole) => whole,
        other => other.float() as i128,
    };
    #[expect(clippy::cast_possible_truncation, reason = "what is too large is an infinity")]
    match ty {
        TensorElementType::Float16 => of(axes, numbers, |number| Some(half::f16::from_f64(number.float()))),
        TensorElementType::Float32 => of(axes, numbers, |number| Some(number.float() as f32)),
        TensorElementType::Float64 => of(axes, numbers, |number| Some(number.float())),
        TensorElementType::Int8 => of(axes, numbers, |number| i8::try_from(whole(number)).ok()),
        TensorElementType::Int16 => of(axes, numbers, |number| i16::try_from(whole(number)).ok()),
        TensorElementType::Int32 => of(axes, numbers, |number| i32::try_from(whole(number)).ok()),
        TensorElementType::Int64 => of(axes, numbers, |number| i64::try_from(whole(number)).ok()),
        TensorElementType::Uint8 => of(axes, numbers, |number| u8::try_from(whole(number)).ok()),
        TensorElementType::Uint16 => of(axes, numbers, |number| u16::try_from(whole(number)).ok()),
        TensorElementType::Uint32 => of(axes, numbers, |number| u32::try_from(whole(number)).ok()),
        TensorElementType::Uint64 => of(axes, numbers, |number| u64::try_from(whole(number)).ok()),
        TensorElementType::Bool => of(axes, numbers, |number| Some(whole(number) != 0)),
        other => Err(format!("there are tensors of {other}")),
    }
}

/// The numbers of the outputs, of the first of so many rows.
fn read(
    outputs: &SessionOutputs<'_>,
    served: &[(String, TensorElementType)],
    rows: usize,
) -> Result<Vec<f64>, String> {
    let mut all = Vec::new();
    for (name, ty) in served {
        let output = outputs.get(name).ok_or_else(|| format!("there is no output {name}"))?;
        let numbers = floats(output, *ty)?;
        let axis = output.shape().iter().position(|axis| usize::try_from(*axis) == Ok(rows));
        let outer = output.shape().iter().take(axis.ok_or("an output does not follow the batch")?);
        let outer: usize = outer.map(|axis| usize::try_from(*axis).unwrap_or(1)).product();
        let part = numbers.len() / outer.max(1);
        numbers.chunks(part.max(1)).for_each(|part| all.extend_from_slice(&part[..part.len() / rows]));
    }
    Ok(all)
}

/// The numbers of a tensor, whatever their type.
fn floats(output: &DynValue, ty: TensorElementType) -> Result<Vec<f64>, String> {
    fn of<T: PrimitiveTensorElementType + Copy>(
        output: &DynValue,
        convert: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, String> {
        let (_, numbers) = output.try_extract_tensor::<T>().map_err(|error| error.to_string())?;
        Ok(numbers.iter().map(|number| convert(*number)).collect())
    }
    #[expect(clippy::cast_precision_loss, reason = "they are compared with a tolerance")]
    match ty {
        TensorElementType::Float16 => of(output, half::f16::to_f64),
        TensorElementType::Float32 => of(output, |number: f32| number.into()),
        TensorElementType::Float64 => of(output, |number: f64| number),
        TensorElementType::Int8 => of(output, |number: i8| number.into()),
        TensorElementType::Int16 => of(output, |number: i16| number.into()),
        TensorElementType::Int32 => of(output, |number: i32| number.into()),
        TensorElementType::Int64 => of(output, |number: i64| number as f64),
        TensorElementType::Uint8 => of(output, |number: u8| number.into()),
        TensorElementType::Uint16 => of(output, |number: u16| number.into()),
        TensorElementType::Uint32 => of(output, |number: u32| number.into()),
        TensorElementType::Uint64 => of(output, |number: u64| number as f64),
        TensorElementType::Bool => of(output, |truth: bool| f64::from(u8::from(truth))),
        other => Err(format!("there are tensors of {other}")),
    }
}

/// A session with one thread, which sleeps when it has nothing to do.
fn session(environment: &Environment, file: &ModelFile) -> Result<Session, ort::Error> {
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(&file.path)
}
