//! Results as raw tensors: the value is the output's row, and everything else is in headers.

use std::time::Duration;

use crate::codec::digits::{write_integer, write_millis, write_signed};
use crate::codec::facts::{BatchFacts, NotFiniteOutput, RowFacts};
use crate::codec::form::{CONTENT_TYPE, Form};
use crate::records::Records;
use crate::tensor::{Column, Number};
use crate::with_numbers;

/// The results of one batch, all but what is each record's own.
#[derive(Clone, Debug)]
pub struct TensorResults<'a> {
    facts: BatchFacts<'a>,
    batch_size: Vec<u8>,
    inference: Vec<u8>,
    dtype: String,
    shape: String,
}

impl<'a> TensorResults<'a> {
    /// Renders what the results of a batch have in common.
    pub fn new(facts: BatchFacts<'a>) -> Self {
        let dtypes: Vec<&str> = facts.columns.iter().map(|column| column.values.dtype().name()).collect();
        let axes = |column: &Column| column.axes.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let shapes: Vec<String> = facts.columns.iter().map(axes).collect();
        let integer = |number: usize| text(|out| write_integer(number as u64, out));
        Self {
            batch_size: integer(facts.batch_size),
            inference: text(|out| write_millis(facts.inference, out)),
            dtype: dtypes.join(";"),
            shape: shapes.join(";"),
            facts,
        }
    }

    /// Appends the value of one result to `out`: the numbers of its outputs, each as its little-endian bytes, one output after the other.
    ///
    /// # Errors
    ///
    /// If an output holds NaN or an infinity and the model's configuration forbids it. Then `out` is as it was.
    pub fn encode(&self, row: &RowFacts<'_>, out: &mut Vec<u8>) -> Result<(), NotFiniteOutput> {
        self.facts.check(row.index)?;
        for column in self.facts.columns {
            let place = column.place(row.index);
            with_numbers!(&column.values, numbers => numbers[place].iter().for_each(|number| number.write(out)));
        }
        Ok(())
    }

    /// Gives the record pushed last the headers of one result, beside `model_id` and `tenant_id`, which results of every form have.
    pub fn headers(&self, row: &RowFacts<'_>, records: &mut Records) {
        let millis = |time: Duration| text(|out| write_millis(time, out));
        records.push_header(CONTENT_TYPE, Some(Form::Tensor.media_type().as_bytes()));
        records.push_header(b"dtype", Some(self.dtype.as_bytes()));
        records.push_header(b"shape", Some(self.shape.as_bytes()));
        records.push_header(b"request_id", Some(row.request_id.as_bytes()));
        records.push_header(b"latency_ms", Some(&millis(row.latency)));
        records.push_header(b"inferred_at", Some(self.facts.inferred_at.as_bytes()));
        records.push_header(b"model_version", Some(self.facts.model_version.as_bytes()));
        records.push_header(b"origin_topic", Some(self.facts.topic.as_bytes()));
        let partition = text(|out| write_signed(row.partition.0.into(), out));
        records.push_header(b"origin_partition", Some(&partition));
        records.push_header(b"origin_offset", Some(&text(|out| write_signed(row.offset.0, out))));
        records.push_header(b"batch_size", Some(&self.batch_size));
        records.push_header(b"queue_ms", Some(&millis(row.queue)));
        records.push_header(b"inference_ms", Some(&self.inference));
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut text = Vec::with_capacity(24);
    write(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::NotFinite;
    use crate::lease::{Offset, Partition};
    use crate::model::{Signature, TensorSpec};
    use crate::tensor::{Dtype, Values};

    proptest! {
        /// The value is the row to the bit, and each header what was told.
        #[test]
        fn a_result_says_what_it_was_told(
            texts: [String; 5], output: Vec<f32>, (size, partition, offset) in any::<(usize, i32, i64)>(),
            micros in [0_u64..1 << 50, 0..1 << 50, 0..1 << 50], allow: bool,
        ) {
            let [model_version, topic, inferred_at, request_id, tenant_id] = texts.each_ref().map(String::as_str);
            let [inference, latency, queue] = micros.map(Duration::from_micros);
            let not_finite = if allow { NotFinite::Allow } else { NotFinite::Refuse };
            let columns = [Column::of_floats(output.len(), output.clone())];
            let outputs = &Signature::of_floats(&[1], 1).outputs;
            let facts = BatchFacts {
                model_id: "m", model_version, topic, batch_size: size, inference, inferred_at, not_finite, outputs, columns: &columns,
            };
            let (partition, offset) = (Partition(partition), Offset(offset));
            let row = RowFacts { request_id, tenant_id, partition, offset, latency, queue, index: 0 };
            let results = TensorResults::new(facts);
            let mut value = b"before".to_vec();
            let finite = output.iter().all(|value| value.is_finite());
            match results.encode(&row, &mut value) {
                Ok(()) => {
                    prop_assert!(finite || allow);
                    let bits = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
                    let read: Vec<u32> = value[6..].chunks_exact(4).map(bits).collect();
                    prop_assert_eq!(read, output.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
                }
                Err(error) => {
                    prop_assert!(!finite && !allow && !output[error.index].is_finite());
                    prop_assert_eq!(&value, b"before");
                }
            }
            let mut records = Records::default();
            records.push(None, None);
            results.headers(&row, &mut records);
            let header = |name: &str| records.get(0).header(name.as_bytes()).flatten().map(|text| String::from_utf8_lossy(text).into_owned());
            let millis = |micros: u64| format!("{}.{:03}", micros / 1_000, micros % 1_000);
            for (name, expected) in [
                ("content-type", "application/x-tensor".to_owned()), ("dtype", "f32".to_owned()),
                ("shape", output.len().to_string()), ("request_id", request_id.to_owned()),
                ("latency_ms", millis(micros[1])), ("inferred_at", inferred_at.to_owned()),
                ("model_version", model_version.to_owned()), ("origin_topic", topic.to_owned()),
                ("origin_partition", partition.0.to_string()), ("origin_offset", offset.0.to_string()),
                ("batch_size", size.to_string()), ("queue_ms", millis(micros[2])), ("inference_ms", millis(micros[0])),
            ] {
                prop_assert_eq!(header(name), Some(expected), "{}", name);
            }
        }
    }

    #[test]
    fn several_outputs_stand_one_behind_the_other() {
        let spec =
            |name: &str, dtype, axes| TensorSpec { name: name.to_owned(), dtype, axes, batch_axis: Some(0) };
        let outputs = [spec("label", Dtype::I16, vec![]), spec("state", Dtype::Bool, vec![Some(1), Some(2)])];
        let columns = [
            Column { axes: vec![], values: Values::I16(vec![1, -2]) },
            Column { axes: vec![1, 2], values: Values::Bool(vec![true, false, false, true]) },
        ];
        let facts = BatchFacts {
            model_id: "m",
            model_version: "v",
            topic: "t",
            batch_size: 2,
            inference: Duration::ZERO,
            inferred_at: "now",
            not_finite: NotFinite::Refuse,
            outputs: &outputs,
            columns: &columns,
        };
        let row = RowFacts {
            request_id: "r",
            tenant_id: "t",
            partition: Partition(0),
            offset: Offset(0),
            latency: Duration::ZERO,
            queue: Duration::ZERO,
            index: 1,
        };
        let results = TensorResults::new(facts);
        let (mut value, mut records) = (Vec::new(), Records::default());
        results.encode(&row, &mut value).unwrap();
        assert_eq!(value, [0xfe, 0xff, 0, 1]);
        records.push(None, None);
        results.headers(&row, &mut records);
        let header = |name: &[u8]| records.get(0).header(name).flatten();
        assert_eq!((header(b"dtype"), header(b"shape")), (Some(&b"i16;bool"[..]), Some(&b";1,2"[..])));
    }
}
