//! A model, as far as requests to it can be made up.

use std::str::FromStr;

use operators::model::{Signature, is_model_id};

use super::LoadError;

/// A model of one input of 32-bit floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its id.
    pub id: String,
    /// Floats a row.
    pub row_len: usize,
    /// The name of its input.
    pub input: String,
    /// The axes of a batch of one row, as the model has them.
    pub shape: Vec<usize>,
}

impl ModelRow {
    /// A model whose input is called `input`, with the axis of the batch before these of a row.
    pub fn new(id: &str, axes: &[usize]) -> Self {
        let row_len = axes.iter().product();
        Self { id: id.to_owned(), row_len, input: "input".to_owned(), shape: [&[1], axes].concat() }
    }

    /// A model of this signature, if it takes rows of floats and nothing else.
    pub fn of(id: &str, signature: &Signature) -> Option<Self> {
        let row_len = signature.floats()?;
        let [input] = &signature.inputs[..] else { return None };
        let shape = input.batch_of_one(&input.fixed()?);
        Some(Self { id: id.to_owned(), row_len, input: input.name.clone(), shape })
    }
}

impl FromStr for ModelRow {
    type Err = LoadError;

    /// Reads `id:16` or `id:6x64`, and behind that, if its input is not called `input`, `:name`.
    fn from_str(text: &str) -> Result<Self, LoadError> {
        let wrong = || LoadError::Model(text.to_owned());
        let mut parts = text.splitn(3, ':');
        let (id, axes) = parts.next().zip(parts.next()).ok_or_else(wrong)?;
        let axes: Vec<usize> =
            axes.split('x').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let row_len = axes.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis));
        // The name is written into JSON as it is.
        let input = parts.next().unwrap_or("input");
        let plain = !input.is_empty()
            && input.chars().all(|letter| letter.is_ascii_graphic() && !"\"\\".contains(letter));
        if !is_model_id(id.as_bytes()) || row_len.is_none() || !plain {
            return Err(wrong());
        }
        Ok(Self { input: input.to_owned(), ..Self::new(id, &axes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_written_with_its_axes_and_perhaps_with_the_name_of_its_input() {
        let read = |text: &str| text.parse::<ModelRow>();
        assert_eq!(read("mlp-16:16"), Ok(ModelRow::new("mlp-16", &[16])));
        let image = ModelRow { input: "x:0".to_owned(), ..ModelRow::new("cnn", &[6, 64]) };
        assert_eq!((image.row_len, &image.shape), (384, &vec![1, 6, 64]));
        assert_eq!(read("cnn:6x64:x:0"), Ok(image));
        for wrong in
            ["mlp-16", "mlp-16:", "../x:3", "m:3x", "m:-1", "m:3:", "m:3:a\"b", "m:99999999999x99999999999"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_signature_the_axis_of_the_batch_is_where_the_model_has_it() {
        let mut signature = Signature::of_floats(&[2, 3], 1);
        signature.inputs[0].batch_axis = Some(1);
        assert_eq!(ModelRow::of("m", &signature).unwrap().shape, [2, 1, 3]);
        signature.inputs[0].axes[0] = None;
        assert_eq!(ModelRow::of("m", &signature), None);
    }
}
