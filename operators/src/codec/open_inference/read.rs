//! One request's JSON, and the tensors in it and behind it.

use std::borrow::Cow;

use super::{Kind, Named, Wrong, datatype};
use crate::codec::json::{Cursor, Fault, Problem, read_nested, read_shape, read_whole};
use crate::model::TensorSpec;
use crate::tensor::Column;

/// Reads a request to a model with some inputs, or to any model.
pub(super) struct Reader<'r, 'a> {
    /// The model's inputs, and where each is read to; `None` if the model is not known.
    model: Option<(&'r [TensorSpec], &'r mut [Column])>,
    given: Vec<bool>,
    /// What stands behind the JSON and has not been read; `None` where nothing may.
    binary: Option<&'a [u8]>,
    /// The first type that is not the model's. It is a fault of the request only if that is one.
    other_type: Option<String>,
    /// The same of shapes.
    other_shape: Option<String>,
}

/// What a tensor of a request says.
#[derive(Default)]
struct Tensor<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Cow<'a, str>>,
    shape: Option<Vec<usize>>,
    data: Option<Data<'a>>,
    parameters: bool,
    /// How many bytes of its numbers stand behind the JSON.
    binary: Option<usize>,
}

/// The numbers of a tensor in the JSON.
enum Data<'a> {
    /// They have been read, and these are the lengths of the arrays that they stood in.
    Read(Vec<usize>),
    /// They stand here. What they are of is said behind them, or nobody wants them.
    At(Cursor<'a>),
}

impl From<Fault> for Wrong {
    fn from(Fault { problem, at }: Fault) -> Self {
        Self::request(format!("{problem}, at byte {at}"))
    }
}

impl<'r, 'a> Reader<'r, 'a> {
    pub(super) fn of(inputs: &'r [TensorSpec], row: &'r mut [Column], binary: Option<&'a [u8]>) -> Self {
        Self { model: Some((inputs, row)), given: vec![false; inputs.len()], ..Self::of_any(binary) }
    }

    pub(super) fn of_any(binary: Option<&'a [u8]>) -> Self {
        Self { model: None, given: Vec::new(), binary, other_type: None, other_shape: None }
    }

    /// Reads the whole JSON. What is there besides `id`, `model_name` and `inputs` is passed over: `parameters` are nobody's here, and
    /// which `outputs` there are is for the configuration to say.
    pub(super) fn request(&mut self, json: &'a [u8]) -> Result<Named<'a>, Wrong> {
        let mut cursor = Cursor::new(json);
        let (mut id, mut model_name, mut inputs) = (None, None, false);
        cursor.pass(b'{', "an object")?;
        if !cursor.pass_if(b'}') {
            loop {
                cursor.peek();
                let at = cursor.at;
                match &*cursor.key()?.text()? {
                    "id" if id.is_none() => id = Some(cursor.string("a string")?.text()?),
                    "model_name" if model_name.is_none() => {
                        model_name = Some(cursor.string("a string")?.text()?);
                    }
                    "inputs" if !inputs => {
                        inputs = true;
                        cursor = self.inputs(cursor)?;
                    }
                    name @ ("id" | "model_name" | "inputs") => return Err(twice(name, at)),
                    _ => cursor = cursor.skip_value()?,
                }
                if !cursor.pass_if(b',') {
                    break;
                }
            }
            cursor.pass(b'}', "a comma or the end of the request")?;
        }
        if cursor.peek().is_some() {
            return Err(Fault::expected("nothing after the request", cursor.at).into());
        }
        if let Some(rest) = self.binary.filter(|rest| !rest.is_empty()) {
            return Err(Wrong::request(format!("{} bytes behind the JSON are of no tensor", rest.len())));
        }
        let id = id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Wrong::request("`id` is missing or empty"))?;
        if inputs { Ok(Named { id, model_name }) } else { Err(Wrong::request("`inputs` is missing")) }
    }

    /// Whether all inputs were there, and of the model's types and axes.
    pub(super) fn finish(&mut self) -> Result<(), Wrong> {
        if let Some((inputs, _)) = &self.model
            && let Some(place) = self.given.iter().position(|given| !given)
        {
            return Err(Wrong::request(format!("input `{}` is missing", inputs[place].name)));
        }
        if let Some(message) = self.other_type.take() {
            return Err(Wrong { kind: Kind::Type, message });
        }
        match self.other_shape.take() {
            Some(message) => Err(Wrong { kind: Kind::Shape, message }),
            None => Ok(()),
        }
    }

    fn inputs(&mut self, mut cursor: Cursor<'a>) -> Result<Cursor<'a>, Wrong> {
        cursor.pass(b'[', "an array of tensors")?;
        if cursor.pass_if(b']') {
            return Ok(cursor);
        }
        loop {
            cursor.peek();
            let at = cursor.at;
            let (end, tensor) = self.object(cursor)?;
            cursor = end;
            self.tensor(tensor, at)?;
            if !cursor.pass_if(b',') {
                cursor.pass(b']', "a comma or the end of the tensors")?;
                return Ok(cursor);
            }
        }
    }

    /// Reads the object of a tensor, and its numbers if what stands before them says what they are.
    fn object(&mut self, mut cursor: Cursor<'a>) -> Result<(Cursor<'a>, Tensor<'a>), Wrong> {
        let mut tensor = Tensor::default();
        cursor.pass(b'{', "a tensor")?;
        if cursor.pass_if(b'}') {
            return Ok((cursor, tensor));
        }
        loop {
            cursor.peek();
            let at = cursor.at;
            match &*cursor.key()?.text()? {
                "name" if tensor.name.is_none() => tensor.name = Some(cursor.string("a string")?.text()?),
                "datatype" if tensor.datatype.is_none() => {
                    tensor.datatype = Some(cursor.string("a string")?.text()?);
                }
                "shape" if tensor.shape.is_none() => tensor.shape = Some(read_shape(&mut cursor)?),
                "data" if tensor.data.is_none() => (cursor, tensor.data) = self.data(cursor, &tensor)?,
                "parameters" if !tensor.parameters => {
                    tensor.parameters = true;
                    (cursor, tensor.binary) = read_parameters(cursor)?;
                }
                name @ ("name" | "datatype" | "shape" | "data" | "parameters") => {
                    return Err(twice(name, at));
                }
                _ => cursor = cursor.skip_value()?,
            }
            if !cursor.pass_if(b',') {
                cursor.pass(b'}', "a comma or the end of a tensor")?;
                return Ok((cursor, tensor));
            }
        }
    }

    /// Reads the numbers of a tensor if it has said that it is an input of the model's, and of its type; or passes over them.
    fn data(
        &mut self,
        cursor: Cursor<'a>,
        tensor: &Tensor<'a>,
    ) -> Result<(Cursor<'a>, Option<Data<'a>>), Wrong> {
        if let (Some(name), Some(datatype)) = (&tensor.name, &tensor.datatype)
            && let Some((inputs, row)) = &mut self.model
            && let Some(place) = inputs.iter().position(|input| input.name == **name)
            && *datatype == self::datatype(inputs[place].dtype)
        {
            let (end, axes) = read_numbers(cursor, &inputs[place], &mut row[place])?;
            return Ok((end, Some(Data::Read(axes))));
        }
        Ok((cursor.skip_value()?, Some(Data::At(cursor))))
    }

    /// Takes a tensor that stands at `at`.
    fn tensor(&mut self, tensor: Tensor<'a>, at: usize) -> Result<(), Wrong> {
        let Tensor { name: Some(name), datatype: Some(datatype), shape: Some(shape), data, binary, .. } =
            tensor
        else {
            return Err(
                Fault::expected("a tensor with `name`, `datatype`, `shape` and its numbers", at).into()
            );
        };
        let bytes = match (&data, binary) {
            (Some(_), None) => None,
            (None, Some(bytes)) => Some(self.take(bytes, &name)?),
            _ => return Err(Fault::expected("a tensor with either `data` or `binary_data_size`", at).into()),
        };
        let Some((inputs, row)) = &mut self.model else { return Ok(()) };
        let Some(place) = inputs.iter().position(|input| input.name == *name) else {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(Wrong::request(format!("the model has no such input, but {}", names.join(", "))));
        };
        let (input, column) = (&inputs[place], &mut row[place]);
        if std::mem::replace(&mut self.given[place], true) {
            return Err(Wrong::request(format!("input `{}` is there twice", input.name)));
        }
        let due = self::datatype(input.dtype);
        if datatype != due {
            self.other_type.get_or_insert_with(|| {
                format!("input `{}` is not given as {due}, and a row of the model is {input}", input.name)
            });
            return Ok(());
        }
        let numbers = shape.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis));
        let nesting = match data {
            Some(Data::Read(axes)) => Some(axes),
            Some(Data::At(cursor)) => Some(read_numbers(cursor, input, column)?.1),
            None => {
                column.reset(&[], input.dtype);
                if !column.values.push_bytes(bytes.unwrap_or_default()) {
                    return Err(Wrong::request(format!("the bytes of input `{}` are no {due}", input.name)));
                }
                None
            }
        };
        // An array without elements does not tell the axes inside of it.
        let whole = |axes: &[usize]| axes.len() == shape.len() || axes.last() == Some(&0);
        let nests = |axes: &Vec<usize>| axes.len() == 1 || (shape.starts_with(axes) && whole(axes));
        if numbers != Some(column.values.len()) || !nesting.as_ref().is_none_or(nests) {
            let found = column.values.len();
            let name = &input.name;
            return Err(Wrong::request(format!(
                "input `{name}` has {found} numbers, which are not of its shape {shape:?}"
            )));
        }
        match input.row_of(&shape).filter(|axes| input.fits(axes)) {
            Some(axes) => column.axes = axes,
            None => {
                self.other_shape.get_or_insert_with(|| other_shape(&shape, input));
            }
        }
        Ok(())
    }

    /// The next so many bytes behind the JSON.
    fn take(&mut self, bytes: usize, name: &str) -> Result<&'a [u8], Wrong> {
        let rest = self.binary.unwrap_or_default();
        let (own, others) = rest.split_at_checked(bytes).ok_or_else(|| {
            let left = rest.len();
            Wrong::request(format!("input {name:?} has {bytes} bytes behind the JSON, where {left} are left"))
        })?;
        self.binary = self.binary.map(|_| others);
        Ok(own)
    }
}

/// Reads the numbers of an input, and returns the lengths of the arrays that they stand in.
fn read_numbers<'a>(
    cursor: Cursor<'a>,
    input: &TensorSpec,
    column: &mut Column,
) -> Result<(Cursor<'a>, Vec<usize>), Wrong> {
    column.reset(&[], input.dtype);
    read_nested(cursor, &mut column.values).map_err(|fault| match fault.problem {
        Problem::OtherType => {
            let (name, dtype, at) = (&input.name, input.dtype, fault.at);
            Wrong::request(format!("input `{name}` has a number that {dtype} has not, at byte {at}"))
        }
        _ => fault.into(),
    })
}

/// Reads the parameters of a tensor: how many bytes of it stand behind the JSON, if they say so.
fn read_parameters(mut cursor: Cursor<'_>) -> Result<(Cursor<'_>, Option<usize>), Wrong> {
    let mut binary = None;
    if cursor.null()? {
        return Ok((cursor, binary));
    }
    cursor.pass(b'{', "an object of parameters")?;
    if cursor.pass_if(b'}') {
        return Ok((cursor, binary));
    }
    loop {
        cursor.peek();
        let at = cursor.at;
        match &*cursor.key()?.text()? {
            "binary_data_size" if binary.is_none() => {
                binary = Some(read_whole(&mut cursor, "a number of bytes")?);
            }
            name @ "binary_data_size" => return Err(twice(name, at)),
            _ => cursor = cursor.skip_value()?,
        }
        if !cursor.pass_if(b',') {
            cursor.pass(b'}', "a comma or the end of the parameters")?;
            return Ok((cursor, binary));
        }
    }
}

fn twice(field: &str, at: usize) -> Wrong {
    Wrong::request(format!("`{field}` is there twice, at byte {at}"))
}

/// Why a shape is not one of a batch of one row.
fn other_shape(shape: &[usize], input: &TensorSpec) -> String {
    let known: Option<Vec<usize>> = input.fixed().map(|axes| input.batch_of_one(&axes));
    let due = match (known, input.batch_axis) {
        (Some(due), _) => format!("it is {due:?} for a record, which is a batch of one row"),
        (None, Some(axis)) => format!("it has a 1 on axis {axis} for a record, which is a batch of one row"),
        (None, None) => "it has no axis of the batch".to_owned(),
    };
    format!("the input has the shape {shape:?}, and a row of the model is {input}: {due}")
}
