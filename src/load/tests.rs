//! A load is what its seed and its options say.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::request::{Request, check_optional_fields};

fn options() -> LoadOptions {
    let models = ["mlp-16:16", "cnn-6x64:6x64"].map(|model| model.parse().unwrap()).to_vec();
    LoadOptions { requests: 2_000, models, ..LoadOptions::default() }
}

#[test]
fn every_good_request_can_be_read() {
    let mut models = BTreeMap::<String, usize>::new();
    let mut forms = BTreeMap::<&str, usize>::new();
    let mixed = LoadOptions { form: LoadForm::Mixed, ..options() };
    for generated in Load::new(mixed).unwrap() {
        let record = generated.record();
        let request = Request::of(record).unwrap();
        check_optional_fields(record).unwrap();
        assert_eq!(request.request_id, generated.made.request_id);
        assert_eq!(record.key(), Some(request.key().as_bytes()));
        assert_eq!(record.header(MODEL_ID), Some(Some(request.model_id.as_bytes())));
        let row: Vec<f64> = match &request.tensors[..] {
            [] => request.input.iter().copied().map(f64::from).collect(),
            tensors => tensors[0].numbers.iter().map(|number| number.float()).collect(),
        };
        assert_eq!(row.len(), if request.model_id == "mlp-16" { 16 } else { 384 });
        assert!(row.iter().all(|value| value.abs() < 3.0));
        assert_eq!(generated.made.expected(), Expected::Result);
        *forms.entry(Form::of(record).unwrap().media_type()).or_default() += 1;
        *models.entry(request.model_id).or_default() += 1;
    }
    assert!(models.values().all(|&count| count > 900), "{models:?}");
    assert!(forms.len() == 4 && forms.values().all(|count| (440..560).contains(count)), "{forms:?}");
}

#[test]
fn floats_have_the_decimals_that_were_asked_for() {
    let options = LoadOptions { requests: 1, decimals: 2, ..options() };
    let generated = Load::new(options).unwrap().next().unwrap();
    let text = std::str::from_utf8(generated.record().value().unwrap()).unwrap();
    let row = text.split(['[', ']']).nth(1).unwrap();
    assert!(row.split(',').all(|float| float.split('.').nth(1).unwrap().len() == 2), "{row}");
}

#[test]
fn the_kinds_of_bad_requests_are_spread_evenly() {
    let options = LoadOptions { bad: 0.1, oversized_bytes: 5_000, ..options() };
    let mut counts = BTreeMap::<BadKind, usize>::new();
    for generated in Load::new(options).unwrap() {
        if let Some(kind) = generated.made.bad {
            *counts.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(counts.values().sum::<usize>(), 200);
    assert_eq!(counts.len(), BAD_KINDS.len());
    assert!(counts.values().all(|&count| count == 7 || count == 8), "{counts:?}");
}

#[test]
fn an_oversized_request_exceeds_its_size_by_little() {
    let bad_kinds = vec![BadKind::Oversized];
    let options = LoadOptions { requests: 20, bad: 1.0, bad_kinds, oversized_bytes: 100_000, ..options() };
    for generated in Load::new(options).unwrap() {
        let bytes = generated.record().payload_bytes();
        assert!((100_001..101_024).contains(&bytes), "{bytes}");
    }
}

#[test]
fn undecodable_requests_cannot_be_read() {
    let bad_kinds: Vec<_> =
        BAD_KINDS.into_iter().filter(|kind| kind.reason() == Reason::Undecodable).collect();
    let options = LoadOptions { requests: 500, bad: 1.0, bad_kinds, ..options() };
    for generated in Load::new(options).unwrap() {
        assert!(Request::of(generated.record()).is_err(), "{:?}", generated.made);
    }
}

#[test]
fn every_kind_is_found_by_its_name() {
    for kind in BAD_KINDS {
        assert_eq!(kind.name().parse(), Ok(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    assert!("strange".parse::<BadKind>().unwrap_err().to_string().contains("missing_header"));
}

#[test]
fn options_out_of_range_are_refused() {
    let endless = ModelRow::new("mlp-16", &[usize::MAX]);
    for (wrong, option) in [
        (LoadOptions { models: Vec::new(), ..options() }, "models"),
        (LoadOptions { tenants: 0, ..options() }, "tenants"),
        (LoadOptions { bad: 1.5, ..options() }, "fraction"),
        (LoadOptions { skew: f64::NAN, ..options() }, "skew"),
        (LoadOptions { decimals: 8, ..options() }, "decimals"),
        (LoadOptions { models: vec![endless], ..options() }, "floats of a row"),
        (LoadOptions { oversized_bytes: usize::MAX, ..options() }, "size"),
    ] {
        assert!(Load::new(wrong).unwrap_err().to_string().contains(option), "{option}");
    }
    for model in ["mlp-16", "mlp-16:many", "../x:16"] {
        assert_eq!(model.parse::<ModelRow>(), Err(LoadError::Model(model.to_owned())));
    }
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_bytes(seed: u64, skew in 0.0_f64..2.0, bad in 0.0_f64..1.0) {
        let options = LoadOptions { requests: 60, seed, skew, bad, oversized_bytes: 4_000, ..options() };
        let first: Vec<_> = Load::new(options.clone()).unwrap().collect();
        prop_assert_eq!(first.len(), 60);
        prop_assert_eq!(&first, &Load::new(options.clone()).unwrap().collect::<Vec<_>>());
        let other = LoadOptions { seed: seed.wrapping_add(1), ..options };
        prop_assert_ne!(&first, &Load::new(other).unwrap().collect::<Vec<_>>());
    }
}
