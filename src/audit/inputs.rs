//! What a model takes, and what of a request's tensors it can't take.

use operators::dead_letter::Reason;

use crate::request::{Number, Tensor};

/// An input of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The type of its numbers: `f32`.
    pub dtype: String,
    /// The axes of a row; `None` for one of any length.
    pub axes: Vec<Option<usize>>,
    /// Where the axis of the batch stands among them in the model, if it has one.
    pub batch_axis: Option<usize>,
}

/// The inputs of a model that a request has to give, in the order of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs(pub Vec<Input>);

impl Inputs {
    /// One of 32-bit floats, with rows of this shape.
    pub fn of_floats(row_shape: &[usize]) -> Self {
        let axes = row_shape.iter().copied().map(Some).collect();
        Self(vec![Input { name: "input".to_owned(), dtype: "f32".to_owned(), axes, batch_axis: Some(0) }])
    }

    /// Whether it is one of 32-bit floats whose rows all have the same axes.
    pub(super) fn is_floats(&self) -> bool {
        matches!(&self.0[..], [input] if input.dtype == "f32" && input.axes.iter().all(Option::is_some))
    }

    /// Whether so many floats, with this shape if it is told, are a row.
    pub(super) fn take_floats(&self, floats: usize, shape: Option<&[usize]>) -> bool {
        let [Input { axes, .. }] = &self.0[..] else { return false };
        let row: Vec<usize> = axes.iter().flatten().copied().collect();
        let flat = [row.iter().product::<usize>()];
        match shape {
            None => floats == flat[0],
            Some(shape) => *shape == *row || *shape == flat,
        }
    }

    /// Whether these are its types, as a header has them: `f32;i64`.
    pub(super) fn take_types(&self, dtypes: &str) -> bool {
        dtypes.split(';').map(str::trim).eq(self.0.iter().map(|input| &*input.dtype))
    }

    /// Why these tensors are no row: every reason, for an engine may look at them in any order.
    pub(super) fn refuse(&self, tensors: &[Tensor], finite_only: bool) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let Some(pairs) = self.pairs(tensors) else {
            reasons.push(Reason::Undecodable);
            return reasons;
        };
        for (input, tensor) in pairs {
            // Raw tensors have their types in a header, with which they have been compared.
            if tensor.name.is_some() && tensor.dtype.as_ref().is_some_and(|dtype| *dtype != input.dtype) {
                reasons.push(Reason::UnsupportedType);
            }
            if !input.fits(tensor) {
                reasons.push(Reason::WrongShape);
            }
            if tensor.foreign || !tensor.numbers.iter().all(|number| input.has(*number)) {
                reasons.push(Reason::Undecodable);
            }
            if finite_only && !tensor.numbers.iter().all(|number| input.is_finite(*number)) {
                reasons.push(Reason::NotFinite);
            }
        }
        reasons
    }

    /// Each input with its tensor: by name, or by place where the tensors have none. `None` if they are not those of the model.
    pub(super) fn pairs<'a>(&'a self, tensors: &'a [Tensor]) -> Option<Vec<(&'a Input, &'a Tensor)>> {
        if tensors.len() != self.0.len() {
            return None;
        }
        if tensors.iter().all(|tensor| tensor.name.is_none()) {
            return Some(self.0.iter().zip(tensors).collect());
        }
        let named = |input: &'a Input| {
            let tensor = tensors.iter().find(|tensor| tensor.name.as_ref() == Some(&input.name))?;
            Some((input, tensor))
        };
        self.0.iter().map(named).collect()
    }
}

impl Input {
    /// The axes that a tensor has as a row of this input.
    pub(super) fn axes(&self, tensor: &Tensor) -> Option<Vec<usize>> {
        let numbers = tensor.numbers.len();
        let known: usize = self.axes.iter().flatten().product();
        let open = self.axes.iter().filter(|axis| axis.is_none()).count();
        let guessed = || {
            let rest = if open == 1 { numbers / known.max(1) } else { 1 };
            let axes: Vec<usize> = self.axes.iter().map(|axis| axis.unwrap_or(rest)).collect();
            Some(axes).filter(|axes| open < 2 && axes.iter().product::<usize>() == numbers && rest > 0)
        };
        let shape = match (&tensor.shape, self.batch_axis.filter(|_| tensor.batch)) {
            (Some(shape), Some(axis)) if shape.get(axis) != Some(&1) => return None,
            (Some(shape), Some(axis)) => Some([&shape[..axis], &shape[axis + 1..]].concat()),
            (shape, _) => shape.clone(),
        };
        match &shape {
            None => guessed(),
            Some(shape) if shape.len() == self.axes.len() => {
                let fits = self.axes.iter().zip(shape).all(|(own, axis)| own.is_none_or(|own| own == *axis));
                Some(shape.clone())
                    .filter(|axes| fits && axes.iter().product::<usize>() == numbers && numbers > 0)
            }
            // Raw tensors may be flattened.
            Some(shape) if shape.len() == 1 && tensor.dtype.is_some() && !tensor.batch => guessed(),
            Some(_) => None,
        }
    }

    fn fits(&self, tensor: &Tensor) -> bool {
        self.axes(tensor).is_some()
    }

    /// Whether its type has a number of the request's JSON.
    fn has(&self, number: Number) -> bool {
        let range = match &*self.dtype {
            "i8" => i8::MIN.into()..=i8::MAX.into(),
            "i16" => i16::MIN.into()..=i16::MAX.into(),
            "i32" => i32::MIN.into()..=i32::MAX.into(),
            "i64" => i64::MIN.into()..=i64::MAX.into(),
            "u8" => 0..=u8::MAX.into(),
            "u16" => 0..=u16::MAX.into(),
            "u32" => 0..=u32::MAX.into(),
            "u64" => 0..=u64::MAX.into(),
            "bool" => return matches!(number, Number::Truth(_) | Number::Whole(0 | 1)),
            _ => return !matches!(number, Number::Truth(_)),
        };
        match number {
            Number::Whole(whole) => range.contains(&whole),
            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and not too large")]
            Number::Float(float) => {
                float.fract() == 0.0 && float.abs() <= 2.0_f64.powi(53) && range.contains(&(float as i128))
            }
            Number::Truth(_) => false,
        }
    }

    /// Whether a number is finite as one of its type.
    fn is_finite(&self, number: Number) -> bool {
        let float = number.float();
        // Half of the way from the largest to what would be the next one is where rounding begins to give an infinity.
        let limit = match &*self.dtype {
            "f16" => 65_520.0,
            "f32" => 2.0_f64.powi(128) - 2.0_f64.powi(103),
            "f64" => f64::INFINITY,
            _ => return true,
        };
        float.abs() < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(
        name: Option<&str>,
        dtype: Option<&str>,
        shape: Option<&[usize]>,
        numbers: &[Number],
    ) -> Tensor {
        Tensor {
            name: name.map(str::to_owned),
            dtype: dtype.map(str::to_owned),
            shape: shape.map(<[usize]>::to_vec),
            batch: false,
            foreign: false,
            numbers: numbers.to_vec(),
        }
    }

    fn inputs() -> Inputs {
        let input = |name: &str, dtype: &str, axes: &[Option<usize>]| Input {
            name: name.to_owned(),
            dtype: dtype.to_owned(),
            axes: axes.to_vec(),
            batch_axis: Some(0),
        };
        Inputs(vec![input("audio", "f32", &[Some(2), None]), input("rate", "i64", &[])])
    }

    #[test]
    fn what_can_not_be_a_row_has_its_reason() {
        let (one, half) = (Number::Whole(1), Number::Float(0.5));
        let named = |audio: Tensor, rate: Tensor| [audio, rate];
        let audio = |shape, numbers: &[Number]| tensor(Some("audio"), None, shape, numbers);
        let rate = |numbers: &[Number]| tensor(Some("rate"), None, None, numbers);
        let refuse = |tensors: &[Tensor]| inputs().refuse(tensors, true);
        assert_eq!(refuse(&named(audio(None, &[one, half]), rate(&[one]))), []);
        assert_eq!(refuse(&named(rate(&[one]), audio(Some(&[2, 1]), &[one, half]))), []);
        assert_eq!(refuse(&named(audio(None, &[half]), rate(&[one]))), [Reason::WrongShape]);
        assert_eq!(refuse(&named(audio(Some(&[2, 2]), &[half]), rate(&[one]))), [Reason::WrongShape]);
        assert_eq!(refuse(&named(audio(None, &[one, half]), rate(&[half]))), [Reason::Undecodable]);
        let vast = [one, Number::Float(3.5e38)];
        assert_eq!(refuse(&named(audio(None, &vast), rate(&[one]))), [Reason::NotFinite]);
        assert_eq!(refuse(&[audio(None, &[one, half])]), [Reason::Undecodable]);
        let bytes = [
            tensor(None, Some("f32"), Some(&[2]), &[one, half]),
            tensor(None, Some("i64"), Some(&[]), &[one]),
        ];
        assert_eq!(refuse(&bytes), []);
        assert!(
            inputs().take_types("f32; i64") && !inputs().take_types("f32;i32") && !inputs().take_types("f32")
        );
    }

    #[test]
    fn a_row_of_floats_may_be_flat() {
        let image = Inputs::of_floats(&[2, 3]);
        assert!(image.is_floats() && !inputs().is_floats());
        assert!(
            image.take_floats(6, None)
                && image.take_floats(6, Some(&[6]))
                && image.take_floats(6, Some(&[2, 3]))
        );
        assert!(!image.take_floats(5, None) && !image.take_floats(6, Some(&[3, 2])));
    }
}
