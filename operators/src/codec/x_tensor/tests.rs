//! Its tests: headers of every kind, and rows to the bit.

use proptest::prelude::*;

use super::*;
use crate::records::Records;

type Headers<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

fn whole<'a>(shape: &'a str) -> Headers<'a> {
    let text = |text: &'a str| Some(text.as_bytes());
    vec![
        ("model_id", text("m")),
        ("request_id", text("r-1")),
        ("tenant_id", text("acme")),
        ("dtype", text("f32")),
        ("shape", text(shape)),
    ]
}

fn record(headers: &Headers<'_>, value: Option<&[u8]>) -> Records {
    let mut records = Records::default();
    records.push(None, value);
    headers.iter().for_each(|(name, value)| records.push_header(name.as_bytes(), *value));
    records
}

/// What is wrong with a record, whose buffers must be left as they were.
fn refused(records: &Records) -> TensorError {
    let (mut values, mut text) = (vec![7.0], "before".to_owned());
    let error = decode(records.get(0), &mut values, &mut text).unwrap_err();
    assert_eq!((&values[..], &text[..]), (&[7.0][..], "before"));
    error
}

#[test]
fn each_header_has_to_be_there_and_to_be_text() {
    let value = [0; 8];
    for place in 0..5 {
        let mut headers = whole("2");
        let name = headers[place].0;
        headers[place].1 = None;
        assert_eq!(refused(&record(&headers, Some(&value))).problem, Problem::Missing(name));
        headers[place].1 = Some(b"\xff");
        assert_eq!(refused(&record(&headers, Some(&value))).problem, Problem::NotUtf8(name));
        headers.remove(place);
        let error = refused(&record(&headers, Some(&value)));
        assert_eq!(error.problem, Problem::Missing(name));
        assert_eq!(error.tenant.as_deref(), (name != "tenant_id").then_some("acme"));
    }
    for name in ["request_id", "tenant_id"] {
        let mut headers = whole("2");
        headers.push((name, Some(b"")));
        assert_eq!(refused(&record(&headers, Some(&value))).problem, Problem::Empty(name));
    }
}

#[test]
fn what_is_no_shape_is_refused() {
    let seventeen = vec!["1"; AXES_MAX + 1].join(",");
    for shape in ["-1", "+2", "2,", ",2", "2;1", "[2]", "2x1", "1e1", "99999999999999999999", &seventeen] {
        assert_eq!(refused(&record(&whole(shape), Some(&[0; 8]))).problem, Problem::Shape, "{shape}");
    }
    let overflow = format!("{},{}", usize::MAX, 2);
    assert_eq!(refused(&record(&whole(&overflow), Some(&[0; 8]))).problem, Problem::Shape);
}

#[test]
fn the_value_has_exactly_the_bytes_that_the_shape_says() {
    for (shape, bytes, floats) in [("2", 7, 2), ("2", 9, 2), ("2", 4, 2), ("2,0", 4, 0), ("", 8, 1)] {
        let problem = refused(&record(&whole(shape), Some(&vec![0; bytes]))).problem;
        assert_eq!(problem, Problem::Length { found: bytes, floats });
    }
    let huge = format!("{}", usize::MAX);
    let problem = refused(&record(&whole(&huge), Some(&[0; 8]))).problem;
    assert_eq!(problem, Problem::Length { found: 8, floats: usize::MAX });
}

#[test]
fn a_row_fits_as_it_is_or_flattened() {
    for (axes, row_shape, fits) in [
        ("6,64", &[6, 64][..], true),
        ("384", &[6, 64], true),
        (" 6 , 64 ", &[6, 64], true),
        ("64,6", &[6, 64], false),
        ("1,6,64", &[6, 64], false),
        ("", &[], true),
        ("1", &[], true),
        ("2", &[], false),
    ] {
        assert_eq!(fit(axes, row_shape), fits, "{axes}");
    }
}

#[test]
fn an_element_of_another_type_is_named() {
    let mut headers = whole("2");
    headers.push(("dtype", Some(b"f64")));
    let error = refused(&record(&headers, Some(&[0; 16])));
    assert_eq!(error.problem, Problem::Dtype);
    assert!(error.to_string().contains("`dtype`"));
}

proptest! {
    /// Every bit pattern comes through, those of NaN too.
    #[test]
    fn the_row_is_the_value_to_the_bit(bits in prop::collection::vec(any::<u32>(), 0..40)) {
        let value: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let shape = bits.len().to_string();
        let records = record(&whole(&shape), Some(&value));
        let (mut values, mut text) = (vec![7.0], "before".to_owned());
        let request = decode(records.get(0), &mut values, &mut text).unwrap();
        let found: Vec<u32> = values[1..].iter().map(|value| value.to_bits()).collect();
        prop_assert_eq!(&found, &bits);
        prop_assert_eq!(request.finite, values.iter().all(|value| value.is_finite()));
        prop_assert_eq!((request.request_id, request.tenant_id), (6..9, 9..13));
        prop_assert_eq!(&text[..], "beforer-1acme");
    }

    #[test]
    fn no_headers_and_no_value_make_it_panic(
        shape in prop::collection::vec(any::<u8>(), 0..12),
        dtype in "f32|f16|",
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
    ) {
        let mut headers = whole("2");
        headers.push(("shape", Some(&shape)));
        headers.push(("dtype", Some(dtype.as_bytes())));
        let records = record(&headers, value.as_deref());
        let (mut values, mut text) = (Vec::new(), String::new());
        if let Ok(request) = decode(records.get(0), &mut values, &mut text) {
            prop_assert_eq!(request.floats * 4, value.unwrap_or_default().len());
        } else {
            prop_assert!(values.is_empty() && text.is_empty());
        }
    }
}
