//! Sees that a model's weights are in its own file.
//!
//! The format lets a tensor name another file that its numbers are in. Such numbers would be no part of the model's version, and
//! an older library (1.20 was seen to) reads them from wherever the model says. So the file is looked through before the library gets
//! it: only as far as messages that can hold a tensor, by the field numbers of `onnx.proto`.

/// As deep as protobuf's own readers go.
const DEPTH_MAX: usize = 100;

/// Why a file is not given to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is cut off, or is something else.
    Malformed,
    /// Some of its weights are in another file.
    External,
}

impl Refused {
    /// The reason, for people.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "the file is cut off, or is no ONNX model",
            Self::External => "its weights are in another file: save the model as one file",
        }
    }
}

/// The messages that a tensor can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// What its field of this number holds, if that leads to a tensor.
    fn part(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            _ => None,
        }
    }
}

/// The fields of a tensor that say where its numbers are, and in what file.
const EXTERNAL_DATA: u32 = 13;
const DATA_LOCATION: u32 = 14;

/// Looks through a model's bytes.
pub(super) fn check(model: &[u8]) -> Result<(), Refused> {
    look(model, Message::Model, 0)
}

fn look(mut bytes: &[u8], message: Message, depth: usize) -> Result<(), Refused> {
    if depth > DEPTH_MAX {
        return Err(Refused::Malformed);
    }
    while !bytes.is_empty() {
        let (field, value) = field(&mut bytes).ok_or(Refused::Malformed)?;
        match value {
            Value::Number(location)
                if message == Message::Tensor && field == DATA_LOCATION && location != 0 =>
            {
                return Err(Refused::External);
            }
            Value::Bytes(_) if message == Message::Tensor && field == EXTERNAL_DATA => {
                return Err(Refused::External);
            }
            Value::Bytes(part) => {
                if let Some(inner) = message.part(field) {
                    look(part, inner, depth + 1)?;
                }
            }
            Value::Number(_) => {}
        }
    }
    Ok(())
}

/// The value of a field.
enum Value<'a> {
    /// Of a fixed size, or a varint.
    Number(u64),
    /// A text, a message or packed numbers.
    Bytes(&'a [u8]),
}

/// Takes the next field, with its number.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    // A tag of more bits than 32 would be cut to another one by other readers.
    let tag = u32::try_from(varint(bytes)?).ok()?;
    let value = match tag & 7 {
        0 => Value::Number(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Value::Number(0))?,
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            Value::Bytes(take(bytes, len)?)
        }
        5 => take(bytes, 4).map(|_| Value::Number(0))?,
        _ => return None,
    };
    (tag >> 3 > 0).then_some((tag >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let len = bytes.iter().take(10).position(|byte| *byte < 0x80)? + 1;
    let digits = take(bytes, len)?;
    Some(digits.iter().rev().fold(0, |value, digit| value << 7 | u64::from(digit & 0x7f)))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    }

    fn part(field: u32, bytes: &[u8]) -> Vec<u8> {
        [encode(u64::from(field) << 3 | 2), encode(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn number(field: u32, value: u64) -> Vec<u8> {
        [encode(u64::from(field) << 3), encode(value)].concat()
    }

    /// `inner`, wrapped in the fields of `path` from the innermost out.
    fn wrapped(inner: Vec<u8>, path: &[u32]) -> Vec<u8> {
        path.iter()
            .rev()
            .fold(inner, |inner, field| [part(3, b"before"), part(*field, &inner), number(9, 1)].concat())
    }

    /// Every way to a tensor, from the model down, with subgraphs once.
    const PATHS: [&[u32]; 10] = [
        &[7, 5],
        &[7, 15, 1],
        &[7, 15, 2],
        &[7, 1, 5, 5],
        &[7, 1, 5, 10],
        &[7, 1, 5, 22, 1],
        &[7, 1, 5, 6, 5],
        &[7, 1, 5, 11, 1, 5, 23, 2],
        &[25, 7, 5, 5],
        &[20, 2, 5],
    ];

    #[test]
    fn weights_in_another_file_are_found_wherever_a_tensor_can_be() {
        for path in PATHS {
            let inline = wrapped([number(2, 1), part(9, b"\x0d\x70data"), number(14, 0)].concat(), path);
            assert_eq!(check(&inline), Ok(()), "{path:?}");
            for external in [number(14, 1), part(13, b""), part(13, &part(2, b"/etc/passwd"))] {
                assert_eq!(check(&wrapped(external, path)), Err(Refused::External), "{path:?}");
            }
        }
    }

    #[test]
    fn a_model_as_deep_as_no_reader_goes_is_refused() {
        let subgraphs =
            |count: usize| wrapped(number(14, 1), &[&[7][..], &[1, 5, 6].repeat(count), &[5]].concat());
        assert_eq!(check(&subgraphs(20)), Err(Refused::External));
        assert_eq!(check(&subgraphs(5_000)), Err(Refused::Malformed));
    }

    #[test]
    fn a_tag_that_readers_disagree_on_is_refused() {
        let long = [encode((1 << 32) | 14 << 3), encode(1)].concat();
        assert_eq!(check(&wrapped(long, &[7, 5])), Err(Refused::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange_to_look_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Whatever the answer: none is a panic.
            let _answer = check(&bytes);
        }

        #[test]
        fn a_model_that_is_cut_inside_a_field_is_malformed(at in 1_usize..30) {
            let model = part(7, &[7; 28]);
            prop_assert_eq!(check(&model[..at.min(model.len() - 1)]), Err(Refused::Malformed));
        }
    }
}
