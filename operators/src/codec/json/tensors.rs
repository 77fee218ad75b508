//! The inputs of any model in a request's JSON.
//!
//! ```text
//!   "input":  TENSOR                   of a model with one input
//!   "inputs": {"NAME": TENSOR, …}      by name, every input of the model
//!
//!   TENSOR    a number or a truth                      a single one
//!             an array of numbers, in C order          if that leaves no doubt about the axes
//!             {"shape": [2, 3], "data": [numbers]}     always
//! ```
//!
//! A number becomes one of the input's type: the nearest, of a float; exactly the same, of whole numbers, or the request is refused.

use super::cursor::Cursor;
use super::decode::{DecodeError, Fault, Fields, Ids, Inputs, Problem, read_request};
use super::numbers::{read_array, read_number, read_shape};
use crate::codec::Tensors;
use crate::model::TensorSpec;
use crate::tensor::{Column, Dtype};

/// Decodes one request to a model with these inputs: `row` becomes a column of one row for each of them, and the request id and tenant
/// id are appended to `text`.
///
/// ```
/// use operators::codec::json::decode_tensors;
/// use operators::model::{Signature, TensorSpec};
/// use operators::tensor::{Dtype, Values};
///
/// let input = |name: &str, dtype, axes| TensorSpec { name: name.to_owned(), dtype, axes, batch_axis: Some(0) };
/// let inputs = [input("audio", Dtype::F32, vec![None]), input("rate", Dtype::I64, vec![])];
/// let value = br#"{"request_id": "r-1", "tenant_id": "acme", "model_id": "vad", "inputs": {"rate": 16000, "audio": [0.5, 1]}}"#;
/// let (mut row, mut text) = (Vec::new(), String::new());
/// let request = decode_tensors(value, &inputs, &mut row, &mut text).unwrap();
/// assert_eq!((row[0].axes.clone(), row[0].values.clone()), (vec![2], Values::F32(vec![0.5, 1.0])));
/// assert_eq!((row[1].axes.clone(), row[1].values.clone()), (vec![], Values::I64(vec![16_000])));
/// assert!(request.finite);
/// ```
///
/// # Errors
///
/// If the value is not a request, or its inputs are not those of the model. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode_tensors<'a>(
    value: &'a [u8],
    inputs: &[TensorSpec],
    row: &mut Vec<Column>,
    text: &mut String,
) -> Result<Tensors<'a>, TensorsError> {
    row.resize_with(inputs.len(), || Column::new(Vec::new(), Dtype::F32));
    let text_before = text.len();
    let mut fields = Fields::default();
    let mut reader = Reader { inputs, row, given: vec![false; inputs.len()], shape: None, complaint: None };
    let read = read_request(Cursor::new(value), &mut reader, text, &mut fields).and_then(|ids| {
        let missing = reader.given.iter().position(|given| !given);
        if let Some(place) = missing {
            return Err(reader.complain(value.len(), format!("input `{}` is missing", inputs[place].name)));
        }
        match reader.shape.take() {
            Some(text) => Err(reader.refuse(value.len(), Complaint { shape: true, text })),
            None => Ok(ids),
        }
    });
    let complaint = reader.complaint.take();
    match read {
        Ok(Ids { request_id, tenant_id, model_id }) => {
            let finite = row.iter().all(|column| column.values.are_finite(0..column.values.len()));
            Ok(Tensors { request_id, tenant_id, model_id, finite })
        }
        Err(fault) => {
            let error = fields.error(fault, text, text_before);
            Err(match complaint {
                Some(complaint) => {
                    let (shape, at) = (complaint.shape, error.at);
                    let message = if shape {
                        complaint.text
                    } else {
                        format!("could not decode the request: {}, at byte {at}", complaint.text)
                    };
                    TensorsError { shape, message, tenant: error.tenant }
                }
                None => TensorsError::of(error),
            })
        }
    }
}

/// Decodes what a request says of itself, whatever its inputs are: its request id and tenant id are appended to `text`.
///
/// # Errors
///
/// If the value is not a request. Then `text` is as it was.
///
/// # Panics
///
/// If `text` would hold 4 GiB or more: the caller bounds it far below.
pub fn decode_names<'a>(value: &'a [u8], text: &mut String) -> Result<Tensors<'a>, DecodeError> {
    let before = text.len();
    let mut fields = Fields::default();
    match read_request(Cursor::new(value), &mut Anything, text, &mut fields) {
        Ok(Ids { request_id, tenant_id, model_id }) => {
            Ok(Tensors { request_id, tenant_id, model_id, finite: true })
        }
        Err(fault) => Err(fields.error(fault, text, before)),
    }
}

/// Passes over the inputs.
struct Anything;

impl Inputs for Anything {
    fn input(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        *cursor = cursor.skip_value()?;
        Ok(())
    }

    fn inputs<'a>(&mut self, cursor: Cursor<'a>) -> Result<Cursor<'a>, Fault> {
        cursor.skip_value()
    }
}

/// Why a value is no request to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TensorsError {
    /// Whether all is in order but the axes.
    pub shape: bool,
    /// What is wrong.
    pub message: String,
    /// The request's tenant, where it stands before the place.
    pub tenant: Option<String>,
}

impl TensorsError {
    fn of(error: DecodeError) -> Self {
        Self { shape: false, message: error.to_string(), tenant: error.tenant }
    }
}

struct Reader<'r> {
    inputs: &'r [TensorSpec],
    row: &'r mut Vec<Column>,
    given: Vec<bool>,
    /// The first axes that are none of a row. They are a fault of the request only if it is one.
    shape: Option<String>,
    complaint: Option<Complaint>,
}

/// What is wrong with the inputs. It names them, so it is too large for a fault of the cursor.
struct Complaint {
    shape: bool,
    text: String,
}

impl Reader<'_> {
    fn complain(&mut self, at: usize, text: String) -> Fault {
        self.refuse(at, Complaint { shape: false, text })
    }

    fn refuse(&mut self, at: usize, complaint: Complaint) -> Fault {
        self.complaint = Some(complaint);
        Fault { problem: Problem::Inputs, at }
    }

    /// Reads the tensor of the input at `place`.
    fn tensor<'a>(&mut self, mut cursor: Cursor<'a>, place: usize) -> Result<Cursor<'a>, Fault> {
        let input = &self.inputs[place];
        self.row[place].reset(&[], input.dtype);
        let mut shape = None;
        match cursor.peek() {
            Some(b'[') => cursor = self.numbers(cursor, place)?,
            Some(b'{') => {
                let (end, axes) = self.object(cursor, place)?;
                cursor = end;
                shape = Some(axes);
            }
            _ => cursor = self.number(cursor, place)?,
        }
        let numbers = self.row[place].values.len();
        let axes = match shape {
            Some(axes) => Some(axes).filter(|axes| {
                input.fits(axes)
                    && axes.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis))
                        == Some(numbers)
            }),
            None => input.axes_of(numbers),
        };
        match axes {
            Some(axes) => self.row[place].axes = axes,
            None if self.shape.is_none() => {
                let has = format!("the input has {numbers} numbers or other axes");
                self.shape = Some(format!("{has}, and a row of the model is {input}"));
            }
            None => {}
        }
        self.given[place] = true;
        Ok(cursor)
    }

    /// Reads `{"shape": […], "data": […]}`.
    fn object<'a>(
        &mut self,
        mut cursor: Cursor<'a>,
        place: usize,
    ) -> Result<(Cursor<'a>, Vec<usize>), Fault> {
        cursor.pass(b'{', "a tensor")?;
        let (mut shape, mut data) = (None, false);
        loop {
            let at = cursor.at;
            let key = cursor.key()?.text()?;
            match &*key {
                "shape" if shape.is_none() => shape = Some(read_shape(&mut cursor)?),
                "data" if !data => {
                    data = true;
                    cursor = self.numbers(cursor, place)?;
                }
                _ => return Err(Fault::expected("`shape` and `data`, each once", at)),
            }
            if !cursor.pass_if(b',') {
                cursor.pass(b'}', "a comma or the end of a tensor")?;
                break;
            }
        }
        match shape {
            Some(shape) if data => Ok((cursor, shape)),
            _ => Err(Fault::expected("a tensor with `shape` and `data`", cursor.at)),
        }
    }

    /// Reads an array of numbers.
    fn numbers<'a>(&mut self, cursor: Cursor<'a>, place: usize) -> Result<Cursor<'a>, Fault> {
        read_array(cursor, &mut self.row[place].values).map_err(|fault| self.of_input(fault, place))
    }

    /// Reads one number or truth.
    fn number<'a>(&mut self, cursor: Cursor<'a>, place: usize) -> Result<Cursor<'a>, Fault> {
        read_number(cursor, &mut self.row[place].values).map_err(|fault| self.of_input(fault, place))
    }

    /// The fault, which tells the input if a number is none of its type.
    fn of_input(&mut self, fault: Fault, place: usize) -> Fault {
        if fault.problem != Problem::OtherType {
            return fault;
        }
        let TensorSpec { name, dtype, .. } = &self.inputs[place];
        let text = format!("input `{name}` has a number that {dtype} has not");
        self.complain(fault.at, text)
    }
}

impl Inputs for Reader<'_> {
    fn input(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if self.inputs.len() != 1 {
            let names: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
            let text = format!(
                "the model has several inputs, which `inputs` gives by their names: {}",
                names.join(", ")
            );
            return Err(self.complain(cursor.at, text));
        }
        *cursor = self.tensor(*cursor, 0)?;
        Ok(())
    }

    fn inputs<'a>(&mut self, mut cursor: Cursor<'a>) -> Result<Cursor<'a>, Fault> {
        cursor.pass(b'{', "an object of inputs")?;
        if cursor.pass_if(b'}') {
            return Ok(cursor);
        }
        loop {
            cursor.peek();
            let at = cursor.at;
            let name = cursor.key()?.text()?;
            match self.inputs.iter().position(|input| input.name == *name) {
                Some(place) if self.given[place] => {
                    let text = format!("input `{}` is there twice", self.inputs[place].name);
                    return Err(self.complain(at, text));
                }
                Some(place) => cursor = self.tensor(cursor, place)?,
                None => {
                    let names: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
                    let text = format!("the model has no such input, but {}", names.join(", "));
                    return Err(self.complain(at, text));
                }
            }
            if !cursor.pass_if(b',') {
                cursor.pass(b'}', "a comma or the end of an object")?;
                return Ok(cursor);
            }
        }
    }
}

#[cfg(test)]
mod tests;
