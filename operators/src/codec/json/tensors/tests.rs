//! Inputs of every kind, and what is wrong with others.

use proptest::prelude::*;

use super::*;
use crate::tensor::{DTYPES, Values};

fn spec(name: &str, dtype: Dtype, axes: &[usize]) -> TensorSpec {
    // An axis of length 0 is one that stays open.
    let axes = axes.iter().map(|axis| (*axis > 0).then_some(*axis)).collect();
    TensorSpec { name: name.to_owned(), dtype, axes, batch_axis: Some(0) }
}

fn decode(inputs: &[TensorSpec], fields: &str) -> Result<Vec<Column>, TensorsError> {
    let value = format!(r#"{{"request_id":"r","tenant_id":"acme",{fields},"model_id":"m"}}"#);
    let (mut row, mut text) = (Vec::new(), "before".to_owned());
    let read = decode_tensors(value.as_bytes(), inputs, &mut row, &mut text);
    assert_eq!(text.len(), if read.is_ok() { 11 } else { 6 });
    let read = read?;
    assert_eq!((read.request_id, read.tenant_id, &*read.model_id), (6..7, 7..11, "m"));
    Ok(row)
}

/// The message of a refusal, and whether all but the axes was in order.
fn refusal(inputs: &[TensorSpec], fields: &str) -> (bool, String) {
    let error = decode(inputs, fields).unwrap_err();
    assert_eq!(error.tenant.as_deref(), Some("acme"));
    (error.shape, error.message)
}

#[test]
fn a_tensor_is_a_number_an_array_or_an_object() {
    let image = [spec("pixels", Dtype::U8, &[1, 0, 0])];
    let read = decode(&image, r#""input": {"data": [1, 2, 3, 4, 5, 255], "shape": [1, 2, 3]}"#).unwrap();
    assert_eq!(read, [Column { axes: vec![1, 2, 3], values: Values::U8(vec![1, 2, 3, 4, 5, 255]) }]);
    let rate = [spec("rate", Dtype::I64, &[])];
    for written in [
        r#""input":16000"#,
        r#""inputs":{"rate":[16000]}"#,
        r#""inputs":{"r\u0061te":{"shape":[],"data":[1.6e4]}}"#,
    ] {
        assert_eq!(decode(&rate, written).unwrap()[0].values, Values::I64(vec![16_000]), "{written}");
    }
    let mask = [spec("mask", Dtype::Bool, &[3])];
    assert_eq!(
        decode(&mask, r#""input":[true,false,1]"#).unwrap()[0].values,
        Values::Bool(vec![true, false, true])
    );
}

#[test]
fn an_open_axis_is_told_by_the_length_if_it_is_the_only_one() {
    let audio = [spec("audio", Dtype::F32, &[2, 0])];
    assert_eq!(decode(&audio, r#""input":[1,2,3,4,5,6]"#).unwrap()[0].axes, [2, 3]);
    let (shape, message) = refusal(&audio, r#""input":[1,2,3]"#);
    assert!(shape && message.ends_with("a row of the model is audio f32[2, ?]"), "{message}");
    assert!(
        refusal(&[spec("x", Dtype::F32, &[0, 0])], r#""input":[1,2,3,4]"#).0,
        "there is more than one answer"
    );
}

#[test]
fn several_inputs_are_given_by_name_in_any_order_and_each_once() {
    let inputs = [spec("audio", Dtype::F32, &[0]), spec("rate", Dtype::I32, &[])];
    let read = decode(&inputs, r#""inputs":{"rate":8000,"audio":[0.5]}"#).unwrap();
    assert_eq!(read[0], Column::of_floats(1, vec![0.5]));
    assert_eq!(read[1].values, Values::I32(vec![8_000]));
    for (fields, reason) in [
        (r#""inputs":{"rate":8000}"#, "input `audio` is missing, at byte 75"),
        (r#""inputs":{}"#, "input `audio` is missing"),
        (r#""inputs":{"rate":1,"rate":1,"audio":[1]}"#, "input `rate` is there twice, at byte"),
        (r#""inputs":{"rate":1,"voice":1}"#, "the model has no such input, but audio, rate"),
        (r#""input":[0.5]"#, "several inputs, which `inputs` gives by their names: audio, rate"),
        (r#""inputs":{"rate":1,"audio":[1]},"input":[1]"#, "several inputs"),
        (r#""inputs":[1]"#, "expected an object of inputs"),
        (r#""inputs":{"rate":"1","audio":[1]}"#, "expected a number"),
        (r#""inputs":{"rate":{"shape":[]},"audio":[1]}"#, "expected a tensor with `shape` and `data`"),
        (
            r#""inputs":{"rate":{"data":[1],"data":[1]},"audio":[1]}"#,
            "expected `shape` and `data`, each once",
        ),
        (r#""inputs":{"rate":{"shape":[-1],"data":[1]},"audio":[1]}"#, "expected a whole number as an axis"),
        (r#""metadata":{}"#, "field `input` is missing"),
    ] {
        let (shape, message) = refusal(&inputs, fields);
        assert!(!shape && message.contains(reason), "{fields}: {message}");
    }
    let one = [spec("x", Dtype::F32, &[1])];
    assert!(refusal(&one, r#""inputs":{"x":[1]},"input":[1]"#).1.contains("field `inputs` is there twice"));
    for wrong in
        [r#""input":{"shape":[2],"data":[1]}"#, r#""input":{"shape":[1,1],"data":[1]}"#, r#""input":[]"#]
    {
        assert!(refusal(&one, wrong).0, "{wrong}");
    }
    let vast = r#""input":{"shape":[4294967296,4294967296],"data":[1]}"#;
    assert!(
        refusal(&[spec("x", Dtype::F32, &[0, 0])], vast).0,
        "axes whose product is too large are no axes"
    );
}

#[test]
fn a_number_that_the_type_has_not_is_refused() {
    for (dtype, number) in [
        (Dtype::U8, "256"),
        (Dtype::U8, "-1"),
        (Dtype::I32, "0.5"),
        (Dtype::I64, "9223372036854775808"),
        (Dtype::Bool, "2"),
        (Dtype::Bool, "1.0"),
        (Dtype::I8, "true"),
        (Dtype::F64, "false"),
    ] {
        let (shape, message) = refusal(&[spec("x", dtype, &[])], &format!(r#""input":{number}"#));
        assert!(
            !shape && message.contains(&format!("input `x` has a number that {dtype} has not")),
            "{message}"
        );
    }
}

#[test]
fn what_a_request_says_of_itself_is_read_whatever_its_inputs_are() {
    let value = br#"{"request_id":"r","input":{"no":[{}]},"tenant_id":"t","model_id":"m"}"#;
    let mut text = String::new();
    let read = decode_names(value, &mut text).unwrap();
    assert_eq!((&text[..], read.request_id, &*read.model_id), ("rt", 0..1, "m"));
    assert!(decode_names(br#"{"request_id":"r","tenant_id":"t","model_id":"m"}"#, &mut text).is_err());
    assert_eq!(text, "rt");
}

proptest! {
    /// Whole numbers are read exactly or refused, and floats as the library reads them.
    #[test]
    fn numbers_are_what_the_library_says(place in 0..DTYPES.len(), whole: i64, float: f64, wholes: bool) {
        let dtype = DTYPES[place];
        let number = if wholes { serde_json::json!(whole) } else { serde_json::json!(float) };
        let read = decode(&[spec("x", dtype, &[])], &format!(r#""input":{number}"#));
        let expected = match dtype {
            Dtype::F64 => number.as_f64().map(|number| Values::F64(vec![number])),
            #[expect(clippy::cast_possible_truncation, reason = "what is too large becomes an infinity")]
            Dtype::F32 => number.as_f64().map(|number| Values::F32(vec![number as f32])),
            Dtype::I64 if wholes => Some(Values::I64(vec![whole])),
            Dtype::I8 if wholes => i8::try_from(whole).ok().map(|whole| Values::I8(vec![whole])),
            Dtype::U64 if wholes => u64::try_from(whole).ok().map(|whole| Values::U64(vec![whole])),
            _ => return Ok(()),
        };
        prop_assert_eq!(read.ok().map(|row| row[0].values.clone()), expected);
    }

    /// No bytes make it panic, and what is refused leaves no text behind.
    #[test]
    fn bytes_of_any_kind_are_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"inputs\"", "\"input\"", "\"x\"", "\"y\"", "\"shape\"", "\"data\"", "1", "-0.5", "true", "1e400", "\"",
        ]), 0..30),
    ) {
        let inputs = [spec("x", Dtype::I16, &[0]), spec("y", Dtype::F64, &[])];
        if let Ok(row) = decode(&inputs, &pieces.concat()) {
            prop_assert!(row.iter().zip(&inputs).all(|(column, input)| input.fits(&column.axes)));
        }
    }
}
