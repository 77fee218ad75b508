//! Numbers of any type in JSON: one of them, an array, an array of arrays, and the axes of a tensor.

use super::cursor::Cursor;
use super::decode::{Fault, Problem};
use super::float;
use crate::codec::x_tensor::AXES_MAX;
use crate::tensor::{Number, Values};
use crate::with_numbers;

/// Reads one number or truth, and appends it.
pub(in crate::codec) fn read_number<'a>(
    mut cursor: Cursor<'a>,
    values: &mut Values,
) -> Result<Cursor<'a>, Fault> {
    let next = cursor.peek();
    let at = cursor.at;
    let found = match next {
        Some(b't' | b'f') => Found::Truth(cursor.truth()?),
        Some(b'-' | b'0'..=b'9') => {
            cursor.at = float::skip(cursor.bytes, at)?;
            Found::of(&cursor.bytes[at..cursor.at])
        }
        _ => return Err(Fault::expected("a number", at)),
    };
    let pushed = with_numbers!(values, numbers => found.push(numbers));
    pushed.map(|()| cursor).ok_or(Fault { problem: Problem::OtherType, at })
}

/// Reads an array of numbers, and appends them.
pub(in crate::codec) fn read_array<'a>(
    mut cursor: Cursor<'a>,
    values: &mut Values,
) -> Result<Cursor<'a>, Fault> {
    cursor.pass(b'[', "an array of numbers")?;
    if cursor.pass_if(b']') {
        return Ok(cursor);
    }
    if let Values::F32(floats) = values {
        (cursor.at, _) = float::read_all(cursor.bytes, cursor.at, floats)?;
        cursor.pass(b']', "a comma or the end of the array")?;
        return Ok(cursor);
    }
    loop {
        cursor = read_number(cursor, values)?;
        if !cursor.pass_if(b',') {
            cursor.pass(b']', "a comma or the end of the array")?;
            return Ok(cursor);
        }
    }
}

/// Reads an array of numbers, or of arrays of them, or of arrays of those: appends the numbers, and returns how long the arrays of each level
/// are, the outermost first.
pub(in crate::codec) fn read_nested<'a>(
    cursor: Cursor<'a>,
    values: &mut Values,
) -> Result<(Cursor<'a>, Vec<usize>), Fault> {
    let mut nest = Nest { axes: Vec::new(), deepest: None };
    let cursor = nest.read(cursor, values, 0)?;
    let axes = nest.axes.into_iter().flatten().collect();
    Ok((cursor, axes))
}

/// The arrays that have been read.
struct Nest {
    /// The length of each level that has been read to its end.
    axes: Vec<Option<usize>>,
    /// The level whose arrays hold numbers.
    deepest: Option<usize>,
}

impl Nest {
    fn read<'a>(
        &mut self,
        mut cursor: Cursor<'a>,
        values: &mut Values,
        level: usize,
    ) -> Result<Cursor<'a>, Fault> {
        if level >= AXES_MAX {
            return Err(Fault::expected(
                "no more arrays in each other than a tensor may have axes",
                cursor.at,
            ));
        }
        if self.axes.len() == level {
            self.axes.push(None);
        }
        cursor.peek();
        let (start, mut inside) = (cursor.at, cursor);
        inside.pass(b'[', "an array of numbers")?;
        let length = if inside.peek() == Some(b'[') {
            cursor = inside;
            let mut length = 0;
            loop {
                cursor = self.read(cursor, values, level + 1)?;
                length += 1;
                if !cursor.pass_if(b',') {
                    cursor.pass(b']', "a comma or the end of the array")?;
                    break length;
                }
            }
        } else {
            if *self.deepest.get_or_insert(level) != level {
                return Err(Fault::expected("arrays in each other that are equally deep", start));
            }
            let before = values.len();
            cursor = read_array(cursor, values)?;
            values.len() - before
        };
        if *self.axes[level].get_or_insert(length) == length {
            Ok(cursor)
        } else {
            Err(Fault::expected("arrays in each other that are equally long", start))
        }
    }
}

/// A number as JSON has it.
enum Found {
    Whole(i128),
    Float(f64),
    Truth(bool),
}

impl Found {
    /// The number that these characters are.
    fn of(characters: &[u8]) -> Self {
        let text = std::str::from_utf8(characters).expect("the characters of a number are ASCII");
        let float = || Self::Float(text.parse().expect("every number of JSON is one of Rust"));
        match text.parse() {
            // A zero with a sign is one of floats alone.
            Ok(whole) if whole != 0 || !text.starts_with('-') => Self::Whole(whole),
            _ => float(),
        }
    }

    fn push<N: Number>(&self, numbers: &mut Vec<N>) -> Option<()> {
        let number = match self {
            Self::Whole(whole) => N::of_integer(*whole),
            Self::Float(float) => N::of_float(*float),
            Self::Truth(truth) => N::of_bool(*truth),
        };
        number.map(|number| numbers.push(number))
    }
}

/// Reads a whole number that is not negative.
pub(in crate::codec) fn read_whole(cursor: &mut Cursor<'_>, what: &'static str) -> Result<usize, Fault> {
    cursor.peek();
    let at = cursor.at;
    cursor.at = float::skip(cursor.bytes, at)?;
    let digits = std::str::from_utf8(&cursor.bytes[at..cursor.at]).ok();
    digits.and_then(|digits| digits.parse().ok()).ok_or(Fault::expected(what, at))
}

/// Reads the axes of a tensor.
pub(in crate::codec) fn read_shape(cursor: &mut Cursor<'_>) -> Result<Vec<usize>, Fault> {
    cursor.pass(b'[', "an array of axes")?;
    let mut axes = Vec::new();
    if cursor.pass_if(b']') {
        return Ok(axes);
    }
    loop {
        let at = cursor.at;
        axes.push(read_whole(cursor, "a whole number as an axis")?);
        if axes.len() > AXES_MAX {
            return Err(Fault::expected("no more axes than a tensor may have", at));
        }
        if !cursor.pass_if(b',') {
            cursor.pass(b']', "a comma or the end of the axes")?;
            return Ok(axes);
        }
    }
}
