//! The decoder against `serde_json`, on requests as they should be and on bytes of any kind.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::oracle::{self, Reading};
use super::*;

/// What was in the buffers before: it has to stay.
const VALUES_BEFORE: [f32; 2] = [7.0, -7.0];
const TEXT_BEFORE: &str = "before";

/// Decodes into buffers that hold something already, and checks that an error leaves nothing behind.
fn decode_after_others(value: &[u8]) -> Result<(String, String, String, Vec<f32>, bool), DecodeError> {
    let (mut values, mut text) = (VALUES_BEFORE.to_vec(), TEXT_BEFORE.to_owned());
    let decoded = decode(value, 4, &mut values, &mut text);
    assert!(values.starts_with(&VALUES_BEFORE) && text.starts_with(TEXT_BEFORE));
    if decoded.is_err() {
        assert_eq!((values.len(), text.len()), (VALUES_BEFORE.len(), TEXT_BEFORE.len()));
    }
    let request = decoded?;
    let part = |range: &Range<u32>| text[range.start as usize..range.end as usize].to_owned();
    assert_eq!(values.len(), VALUES_BEFORE.len() + request.floats);
    let (request_id, tenant_id) = (part(&request.request_id), part(&request.tenant_id));
    let floats = values[VALUES_BEFORE.len()..].to_vec();
    Ok((request_id, tenant_id, request.model_id.into_owned(), floats, request.finite))
}

fn agrees_with_serde_json(value: &[u8]) -> Result<(), TestCaseError> {
    let ours = decode_after_others(value);
    let shown = String::from_utf8_lossy(value);
    match oracle::read(value) {
        Reading::OutOfRange => {}
        Reading::Refused => prop_assert!(ours.is_err(), "only ours accepts {shown}"),
        Reading::Accepted(theirs) => {
            let (request_id, tenant_id, model_id, floats, finite) = match ours {
                Ok(ours) => ours,
                Err(error) => return Err(TestCaseError::fail(format!("{error}: {shown}"))),
            };
            prop_assert_eq!(request_id, theirs.request_id);
            prop_assert_eq!(tenant_id, theirs.tenant_id);
            prop_assert_eq!(model_id, theirs.model_id);
            #[expect(clippy::cast_possible_truncation, reason = "as the decoder does it")]
            let input: Vec<f32> = theirs.input.iter().map(|value| *value as f32).collect();
            prop_assert_eq!(bits(&floats), bits(&input), "{}", shown);
            prop_assert_eq!(finite, input.iter().all(|value| value.is_finite()));
        }
    }
    Ok(())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Pieces of JSON, to be written one after the other.
type Tokens = Vec<String>;

fn tokens(tokens: &[&str]) -> Tokens {
    tokens.iter().map(ToString::to_string).collect()
}

fn separated(open: &str, items: Vec<Tokens>, close: &str) -> Tokens {
    let mut all = tokens(&[open]);
    for (index, item) in items.into_iter().enumerate() {
        all.extend((index > 0).then(|| ",".to_owned()));
        all.extend(item);
    }
    all.push(close.to_owned());
    all
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<f32>().prop_filter("JSON has no such number", |value| value.is_finite()).prop_map(|value| format!("{value:?}")),
        4 => any::<f64>().prop_filter("JSON has no such number", |value| value.is_finite()).prop_map(|value| format!("{value:?}")),
        4 => (-1e4..1e4_f64, 0..20_usize).prop_map(|(value, decimals)| format!("{value:.decimals$}")),
        4 => "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?",
        1 => "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,3})?",
        1 => any::<i64>().prop_map(|value| value.to_string()),
        1 => select(vec![
            "-0", "-0.0", "0e0", "0E+99", "1e-46", "-1e-45", "1.4e-45", "1e-310", "5e-324", "1e39", "-1e39", "3.4028236e38",
            "1e999", "-1e999", "1e-999", "0e999999999999999999999", "01", "-", "+1", ".5", "1.", "1e", "1e+", "NaN", "Infinity",
            "-Infinity", "0x10", "1_0", "null", "9007199254740993", "18446744073709551616", "99999999999999999999e-20",
        ]).prop_map(str::to_owned),
    ]
}

/// A string in quotes: written plainly, all in escapes, or with an escape that may be wrong.
fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9-]{0,20}".prop_map(|text| format!("\"{text}\"")),
        2 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        2 => any::<String>().prop_map(|text| format!("\"{}\"", escape(&text))),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(one, two)| format!("\"\\u{one:04X}\\u{two:04x}\"")),
        1 => (0xd700..0xe100_u16, 0xd700..0xe100_u16).prop_map(|(one, two)| format!("\"\\u{one:04x}\\u{two:04x}\"")),
        1 => ".{0,3}\\\\[\"/bfnrtu\\\\xU0]".prop_map(|text| format!("\"{text}\"")),
    ]
}

fn escape(text: &str) -> String {
    text.encode_utf16().fold(String::new(), |escaped, unit| escaped + &format!("\\u{unit:04x}"))
}

fn any_value() -> impl Strategy<Value = Tokens> {
    let leaf = prop_oneof![
        number().prop_map(|number| vec![number]),
        string().prop_map(|string| vec![string]),
        select(vec!["null", "true", "false", "nul", "truth"]).prop_map(|word| tokens(&[word])),
    ];
    leaf.prop_recursive(4, 12, 4, |value| {
        let member =
            (string(), value.clone()).prop_map(|(key, value)| [vec![key, ":".to_owned()], value].concat());
        prop_oneof![
            prop::collection::vec(value, 0..4).prop_map(|items| separated("[", items, "]")),
            prop::collection::vec(member, 0..4).prop_map(|members| separated("{", members, "}")),
        ]
    })
}

fn input() -> impl Strategy<Value = Tokens> {
    prop::collection::vec(number().prop_map(|number| vec![number]), 0..6)
        .prop_map(|numbers| separated("[", numbers, "]"))
}

fn metadata() -> impl Strategy<Value = Tokens> {
    let member = (string(), string()).prop_map(|(key, value)| vec![key, ":".to_owned(), value]);
    prop_oneof![
        3 => prop::collection::vec(member, 0..3).prop_map(|members| separated("{", members, "}")),
        1 => Just(tokens(&["null"])),
    ]
}

fn enqueued_at() -> impl Strategy<Value = Tokens> {
    prop_oneof![
        any::<i64>().prop_map(|micros| vec![format!("\"{}\"", time::rfc3339_micros(micros))]),
        "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,12})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])"
            .prop_map(|time| vec![format!("\"{time}\"")]),
        Just(tokens(&["null"])),
    ]
}

/// A field with its value: mostly the right one.
fn field(name: &'static str, value: impl Strategy<Value = Tokens> + 'static) -> BoxedStrategy<Tokens> {
    let key = prop_oneof![
        8 => Just(format!("\"{name}\"")),
        1 => Just(format!("\"{}\"", escape(name))),
    ];
    let value = prop_oneof![20 => value, 1 => any_value()];
    (key, value).prop_map(|(key, value)| [vec![key, ":".to_owned()], value].concat()).boxed()
}

/// An object that mostly is a request: fields in any order, with white space anywhere; a few are missing, or there twice.
fn request() -> impl Strategy<Value = String> {
    let required = || {
        [
            field("request_id", string().prop_map(|string| vec![string])),
            field("tenant_id", string().prop_map(|string| vec![string])),
            field("model_id", string().prop_map(|string| vec![string])),
            field("input", input()),
        ]
    };
    let more = prop_oneof![
        field("metadata", metadata()),
        field("enqueued_at", enqueued_at()),
        (string(), any_value()).prop_map(|(key, value)| [vec![key, ":".to_owned()], value].concat()),
    ];
    let fields = (required(), prop::collection::vec(more, 0..3), prop::option::weighted(0.1, any::<Index>()));
    let fields = fields.prop_map(|(required, more, changed)| {
        let mut fields = [required.to_vec(), more].concat();
        if let Some(changed) = changed {
            let field = fields.remove(changed.index(fields.len()));
            if changed.index(2) == 0 {
                fields.extend([field.clone(), field]);
            }
        }
        fields
    });
    let spaces = prop::collection::vec("[ \\n\\t\\r]{0,2}", 1..8);
    (fields.prop_shuffle(), spaces).prop_map(|(fields, spaces)| {
        let tokens = separated("{", fields, "}");
        tokens.iter().zip(spaces.iter().cycle()).flat_map(|(token, space)| [space.as_str(), token]).collect()
    })
}

/// What happens to bytes on their way.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = || prop_oneof![any::<u8>(), select(b"{}[]:,\"\\ -+.eE0123456789u\n\0\x1f\x7f".to_vec())];
    prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    let place = |at: Index| at.index(bytes.len().max(1));
    match *damage {
        Damage::Replace(at, byte) => {
            let place = place(at);
            if let Some(there) = bytes.get_mut(place) {
                *there = byte;
            }
        }
        Damage::Insert(at, byte) => bytes.insert(place(at).min(bytes.len()), byte),
        Damage::Remove(at) if !bytes.is_empty() => drop(bytes.remove(place(at))),
        Damage::Remove(_) => {}
        Damage::Cut(at) => bytes.truncate(place(at)),
    }
}

proptest! {
    #[test]
    fn requests_are_read_as_serde_json_reads_them(value in request()) {
        agrees_with_serde_json(value.as_bytes())?;
    }

    #[test]
    fn damaged_requests_are_read_as_serde_json_reads_them(
        value in request(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut value = value.into_bytes();
        damages.into_iter().for_each(|damage| apply(&damage, &mut value));
        agrees_with_serde_json(&value)?;
    }

    #[test]
    fn any_json_is_passed_over_as_serde_json_does(value in any_value(), spaces in "[ \\n\\t\\r]{0,2}") {
        let ignored = value.join(&spaces);
        let value = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m","input":[],"more":{ignored}}}"#);
        agrees_with_serde_json(value.as_bytes())?;
    }

    #[test]
    fn any_number_is_read_as_serde_json_reads_it(numbers in prop::collection::vec(number(), 1..4)) {
        let numbers = numbers.join(",");
        let value = format!(r#"{{"input":[{numbers}],"request_id":"r","tenant_id":"t","model_id":"m"}}"#);
        agrees_with_serde_json(value.as_bytes())?;
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(value: Vec<u8>) {
        agrees_with_serde_json(&value)?;
    }
}

#[test]
fn a_request_of_any_length_is_read_the_same_at_every_alignment() {
    for padding in 0..32 {
        for length in 1..40 {
            let id = "x".repeat(length);
            let spaces = " ".repeat(padding);
            let value = format!(
                r#"{spaces}{{"request_id":"{id}","tenant_id":"ü{id}","model_id":"m\n{id}","input":[0.{},1{}]}}"#,
                "1".repeat(length),
                "0".repeat(length),
            );
            agrees_with_serde_json(value.as_bytes()).unwrap();
        }
    }
}

/// The least request, with `more` after its fields.
fn with(more: &str) -> String {
    format!(r#"{{"request_id":"r","tenant_id":"acme","model_id":"m","input":[1]{more}}}"#)
}

#[test]
fn an_error_says_what_and_where() {
    let more = with("").len() - 1;
    let cases = [
        (String::new(), Problem::Expected("an object"), 0),
        ("[]".to_owned(), Problem::Expected("an object"), 0),
        ("\u{feff}{}".to_owned(), Problem::Expected("an object"), 0),
        ("{}".to_owned(), Problem::Missing(Field::Input), 2),
        (r#"{"input":[]}"#.to_owned(), Problem::Missing(Field::RequestId), 12),
        (with("} x"), Problem::Expected("nothing after the request"), more + 2),
        (with(","), Problem::Expected("a key in quotes"), more + 1),
        (with(r#","x""#), Problem::Expected("a colon"), more + 4),
        (with(r#","x":"#), Problem::Expected("a value"), more + 5),
        (with(r#","x":[1 2]"#), Problem::Expected("a comma or the end of an array"), more + 8),
        (with(r#","x":01"#), Problem::LeadingZero, more + 5),
        (with(r#","x":"\x""#), Problem::Escape, more + 6),
        (with(r#","\ud800":1"#), Problem::Surrogate, more + 2),
        (with(",\"x\":\"\n\""), Problem::ControlCharacter, more + 6),
        (with(r#","input":[2]"#), Problem::Twice(Field::Input), more + 1),
        (with(r#","metadata":{"a":1}"#), Problem::Expected("a string"), more + 17),
        (with(r#","enqueued_at":"today""#), Problem::NotATime, more + 15),
        (r#"{"request_id":"#.to_owned(), Problem::Expected("a string"), 14),
        (r#"{"request_id":"r"#.to_owned(), Problem::Expected("the end of a string"), 16),
        (r#"{"request_id":""}"#.to_owned(), Problem::Empty(Field::RequestId), 14),
        (r#"{"request_id":"\ud83d\ude00 \udc00"}"#.to_owned(), Problem::Surrogate, 28),
        (r#"{"input":[1,NaN]}"#.to_owned(), Problem::Expected("a number"), 12),
        (r#"{"input":[1,]}"#.to_owned(), Problem::Expected("a number"), 12),
        (r#"{"input":[-01]}"#.to_owned(), Problem::LeadingZero, 11),
        (r#"{"input":[1.]}"#.to_owned(), Problem::Expected("a digit"), 12),
        (r#"{"input":"1"}"#.to_owned(), Problem::NoArray, 9),
    ];
    for (value, problem, at) in cases {
        let error = decode_after_others(value.as_bytes()).unwrap_err();
        assert_eq!((error.problem, error.at), (problem, at), "{value}");
        agrees_with_serde_json(value.as_bytes()).unwrap();
    }
    let error = decode_after_others(b"{\"request_id\":\"a\xff\"}").unwrap_err();
    assert_eq!((error.problem, error.at), (Problem::NotUtf8, 16));
    assert_eq!(error.to_string(), "could not decode the request: a string is not UTF-8, at byte 16");
}

#[test]
fn an_error_names_the_tenant_where_it_was_read() {
    let tenant = |value: &str| decode_after_others(value.as_bytes()).unwrap_err().tenant;
    assert_eq!(tenant(r#"{"tenant_id":"acme","request_id":7}"#).as_deref(), Some("acme"));
    assert_eq!(tenant(r#"{"tenant_id":"\u00fc","input":[]}"#).as_deref(), Some("ü"));
    assert_eq!(tenant(r#"{"tenant_id":"acme","request_id":"r","input":[]}"#).as_deref(), Some("acme"));
    assert_eq!(tenant(r#"{"request_id":7,"tenant_id":"acme"}"#), None);
    assert_eq!(tenant(r#"{"tenant_id":""}"#), None);
}

#[test]
fn nesting_is_bounded_also_where_nothing_is_read() {
    let nested = |levels: usize| with(&format!(r#","x":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    assert!(decode_after_others(nested(NESTING_MAX - 1).as_bytes()).is_ok());
    let error = decode_after_others(nested(NESTING_MAX).as_bytes()).unwrap_err();
    assert_eq!(error.problem, Problem::TooDeep);
    assert!(decode_after_others("[".repeat(1 << 20).as_bytes()).is_err());
    let mixed = format!("{}1{}", r#"{"a":["#.repeat(60), "]}".repeat(60));
    assert!(decode_after_others(with(&format!(r#","x":{mixed}"#)).as_bytes()).is_ok());
}

#[test]
fn what_does_not_fit_a_float_is_an_infinity_and_said() {
    let decoded = |numbers: &str| {
        let value = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m","input":[{numbers}]}}"#);
        let (_, _, _, values, finite) = decode_after_others(value.as_bytes()).unwrap();
        (values, finite)
    };
    assert_eq!(decoded("1e39,-1e39"), (vec![f32::INFINITY, f32::NEG_INFINITY], false));
    assert_eq!(decoded("1,-1e999,1"), (vec![1.0, f32::NEG_INFINITY, 1.0], false));
    assert_eq!(decoded("3.4028235e38,1e-999"), (vec![f32::MAX, 0.0], true));
}

#[test]
fn a_hostile_row_length_makes_no_room_that_the_value_cannot_fill() {
    let (mut values, mut text) = (Vec::new(), String::new());
    decode(with("").as_bytes(), usize::MAX, &mut values, &mut text).unwrap();
    assert!(values.capacity() < 16, "{}", values.capacity());
}
