//! Bad requests from a client that is not ours: each has its dead letter, byte for byte.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use operators::broker::{Broker, Isolation};
use operators::lease::Partition;
use serde::Deserialize;

use super::rig::{RECORD_BYTES_MAX, Rig, shared_broker};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/foreign_client.sh");

/// What the dead-letter topic takes at most, Kafka's default. Ours keep some room below it.
const LETTER_BYTES_MAX: usize = 1_048_588;

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A bad request, and what is to become of it.
struct Bad {
    name: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
    /// What decides the letter's partition: the tenant; none where there is neither a body nor a key.
    hashed: Option<&'static str>,
    reason: &'static str,
    stage: &'static str,
}

/// Where the client's record went, and what the client makes of the text that decides the letter's partition.
#[derive(Deserialize)]
struct Sent {
    partition: i32,
    offset: i64,
    hash: i64,
}

fn body(model: &str, input: &str) -> Vec<u8> {
    format!(
        "{{\"request_id\":\"r\",\"tenant_id\":\"of the body\",\"model_id\":\"{model}\",\"input\":[{input}]}}"
    )
    .into_bytes()
}

fn row(floats: usize) -> String {
    vec!["0.25"; floats].join(",")
}

fn header(value: &[u8]) -> Headers {
    vec![(b"model_id".to_vec(), Some(value.to_vec()))]
}

/// A good request, which each kind spoils in its own way.
fn spoiled(name: &'static str, reason: &'static str, stage: &'static str) -> Bad {
    Bad {
        name,
        key: Some(b"of the key|mlp-16".to_vec()),
        value: Some(body("mlp-16", &row(16))),
        headers: header(b"mlp-16"),
        hashed: Some("of the body"),
        reason,
        stage,
    }
}

/// The kinds in which the header is to blame.
fn bad_headers() -> Vec<Bad> {
    let missing = |name, headers| Bad { headers, ..spoiled(name, "missing_model_id", "decode") };
    let invalid =
        |name, id: &[u8]| Bad { headers: header(id), ..spoiled(name, "invalid_model_id", "decode") };
    let twice = |last: Option<&[u8]>| {
        [header(b"mlp-16"), vec![(b"model_id".to_vec(), last.map(<[u8]>::to_vec))]].concat()
    };
    vec![
        missing("no header", Vec::new()),
        missing("an empty header", header(b"")),
        missing("a null header", vec![(b"model_id".to_vec(), None)]),
        missing("a header of another case", vec![(b"Model_ID".to_vec(), Some(b"mlp-16".to_vec()))]),
        missing("two headers, the last of them null", twice(None)),
        Bad {
            headers: header(b"cnn-6x64"),
            ..spoiled("a header of another model", "model_id_mismatch", "decode")
        },
        Bad {
            headers: twice(Some(b"cnn-6x64")),
            ..spoiled("the last header counts", "model_id_mismatch", "decode")
        },
        invalid("a header that climbs", b"../mlp-16"),
        invalid("a header that is hidden", b".mlp-16"),
        invalid("a header that is not text", b"mlp\xff\xfe"),
        invalid("a long header", &[b'm'; 129]),
    ]
}

/// The kinds in which the body is to blame.
fn bad_bodies() -> Vec<Bad> {
    let undecodable = |name, value: &[u8]| Bad {
        value: Some(value.to_vec()),
        hashed: Some("of the key"),
        ..spoiled(name, "undecodable", "decode")
    };
    let input = |name, reason, stage, input: &str| Bad {
        value: Some(body("mlp-16", input)),
        ..spoiled(name, reason, stage)
    };
    let whole = body("mlp-16", &row(16));
    vec![
        undecodable("no bytes", b""),
        undecodable("bytes that are no text", &[0xff, 0xfe, 0x00, 0x80, 0x0a, 0x0d]),
        undecodable("half a request", &whole[..12]),
        undecodable("JSON of something else", b"[1,2,3]"),
        undecodable("a name that is not UTF-8", b"{\"request_id\":\"\xc3\x28\"}"),
        Bad { value: None, hashed: Some("of the key"), ..spoiled("a null value", "null_value", "decode") },
        input("a row too short", "wrong_shape", "route", &row(15)),
        input("a row too long", "wrong_shape", "route", &row(17)),
        input("a number beyond f32", "not_finite", "route", &format!("1e39,{}", row(15))),
        input("NaN", "undecodable", "decode", &format!("NaN,{}", row(15))),
        input("a number in quotes", "undecodable", "decode", &format!("\"1\",{}", row(15))),
        Bad {
            value: Some(body("no-such-model", &row(16))),
            headers: header(b"no-such-model"),
            ..spoiled("a model that is not there", "unknown_model", "route")
        },
        Bad {
            hashed: Some("of the key"),
            ..input("larger than the engine reads", "undecodable", "decode", &row(RECORD_BYTES_MAX / 5 + 1))
        },
    ]
}

/// The kinds in which the content type, or what goes with it, is to blame.
fn bad_forms() -> Vec<Bad> {
    let of_type = |name, content_type: &[u8]| Bad {
        headers: [header(b"mlp-16"), vec![(b"content-type".to_vec(), Some(content_type.to_vec()))]].concat(),
        hashed: Some("of the key"),
        ..spoiled(name, "unsupported_type", "decode")
    };
    let tensor = |name, reason, stage, dtype: &str, shape: &str, value: Vec<u8>| {
        let mut bad = of_type(name, b"application/x-tensor");
        for (name, text) in
            [("request_id", "r"), ("tenant_id", "of the headers"), ("dtype", dtype), ("shape", shape)]
        {
            bad.headers.push((name.as_bytes().to_vec(), Some(text.as_bytes().to_vec())));
        }
        Bad { value: Some(value), hashed: Some("of the headers"), reason, stage, ..bad }
    };
    let protocol = |name, reason, stage, json: &str, length: Option<&str>| {
        let binary = length.is_some();
        let content_type: &[u8] =
            if binary { b"application/octet-stream" } else { b"application/x-open-inference+json" };
        let mut bad = of_type(name, content_type);
        bad.headers.push((b"tenant_id".to_vec(), Some(b"of the headers".to_vec())));
        let length = length.map(|length| length.as_bytes().to_vec());
        bad.headers.push((b"inference-header-content-length".to_vec(), length));
        Bad { value: Some(json.as_bytes().to_vec()), hashed: Some("of the headers"), reason, stage, ..bad }
    };
    let inputs = |shape: &str, datatype: &str, numbers: &str| {
        let tensor = format!(r#""name":"input","shape":{shape},"datatype":"{datatype}",{numbers}"#);
        format!(r#"{{"id":"r","inputs":[{{{tensor}}}]}}"#)
    };
    let data = format!(r#""data":[{}]"#, row(16));
    let behind = inputs("[1,16]", "FP32", r#""parameters":{"binary_data_size":64}"#);
    let zeros = |bytes| vec![0; bytes];
    vec![
        protocol("strings", "unsupported_type", "decode", &inputs("[1,1]", "BYTES", r#""data":["a"]"#), None),
        protocol("a row without its batch", "wrong_shape", "route", &inputs("[16]", "FP32", &data), None),
        protocol("a shape of other numbers", "undecodable", "decode", &inputs("[1,15]", "FP32", &data), None),
        protocol("the JSON of always", "undecodable", "decode", r#"{"request_id":"r"}"#, None),
        protocol(
            "tensors that are not there",
            "undecodable",
            "decode",
            &behind,
            Some(&behind.len().to_string()),
        ),
        protocol("JSON beyond the value", "undecodable", "decode", &behind, Some("18446744073709551615")),
        Bad { reason: "undecodable", ..of_type("bytes of any kind", b"application/octet-stream") },
        of_type("a type that nothing reads", b"application/x-protobuf"),
        of_type("a type that is no text", b"\xff\x00"),
        of_type("a type that is nearly right", b"application/json2"),
        Bad { reason: "undecodable", ..of_type("JSON that is called a tensor", b"application/x-tensor") },
        tensor("doubles", "unsupported_type", "decode", "f64", "16", zeros(128)),
        tensor("a byte too few", "undecodable", "decode", "f32", "16", zeros(63)),
        tensor("a shape that is none", "undecodable", "decode", "f32", "16,", zeros(64)),
        tensor(
            "a shape beyond any memory",
            "undecodable",
            "decode",
            "f32",
            "99999999999999999999",
            zeros(64),
        ),
        tensor("a row too short", "wrong_shape", "route", "f32", "15", zeros(60)),
        tensor("a row on its side", "wrong_shape", "route", "f32", "16,1", zeros(64)),
        tensor("NaN in bits", "not_finite", "route", "f32", "16", vec![0xff; 64]),
    ]
}

/// The kinds in which keys and other headers are strange: they change nothing, and nothing of them is changed. No name has a zero
/// byte: librdkafka, which the engine reads with, ends the name there.
fn strange_company() -> Vec<Bad> {
    let hostile: Headers = [
        ("inference.dlq.version", Some("1")),
        ("inference.dlq.reason", Some("over_quota")),
        ("inference.dlq.partition", Some("77")),
        ("inference.dlq.offset", Some("999999")),
        ("reason", None),
        ("original_topic", Some("")),
        ("", Some("a name without letters")),
        ("twice", Some("once")),
        ("twice", Some("again")),
        ("line\r\nbreak", Some("\r\n\0")),
        ("inference.dlq.truncated", Some("value=1/2")),
    ]
    .map(|(name, value)| (name.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec())))
    .to_vec();
    let bytes = vec![
        (vec![0xff, 0xfe, b'x'], Some(vec![0x80, 0x00])),
        (b"model_id".to_vec(), Some(b"mlp-16".to_vec())),
    ];
    let other = |name| Bad { value: Some(b"{}".to_vec()), ..spoiled(name, "undecodable", "decode") };
    let of_key =
        |name, key: &[u8], hashed| Bad { key: Some(key.to_vec()), hashed: Some(hashed), ..other(name) };
    vec![
        Bad {
            headers: [hostile, header(b"mlp-16")].concat(),
            hashed: Some("of the key"),
            ..other("headers named as ours")
        },
        Bad { headers: bytes, hashed: Some("of the key"), ..other("a header whose name is no text") },
        of_key("an empty key", b"", ""),
        of_key("a key without a bar", b"whole", "whole"),
        of_key("a key that begins with a bar", b"|mlp-16", ""),
        Bad { key: None, hashed: None, ..other("no key") },
        Bad { key: None, headers: Vec::new(), ..spoiled("no key, and a body", "missing_model_id", "decode") },
        Bad {
            key: None,
            value: None,
            hashed: None,
            ..spoiled("neither key nor value", "null_value", "decode")
        },
    ]
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn timestamp(place: usize) -> i64 {
    1_700_000_000_000 + i64::try_from(place).unwrap()
}

/// Sends them with the client that is not ours, each with a timestamp of its own.
fn send(topic: &str, requests: &[Bad]) -> Vec<Sent> {
    let mut child = Command::new(CLIENT)
        .args(["send", &shared_broker()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for (place, bad) in requests.iter().enumerate() {
        let headers: Vec<_> =
            bad.headers.iter().map(|(name, value)| (hex(name), value.as_deref().map(hex))).collect();
        let line = serde_json::json!({
            "topic": topic,
            "key": bad.key.as_deref().map(hex),
            "value": bad.value.as_deref().map(hex),
            "headers": headers,
            "timestamp": timestamp(place),
            "hashed": bad.hashed.map(|text| hex(text.as_bytes())),
        });
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the foreign client failed; its words are above");
    let answers = String::from_utf8(output.stdout).unwrap();
    answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A dead letter as it stands in its topic.
struct Letter {
    partition: i32,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
    appended: bool,
}

/// The dead letters by the place of their requests, as the last headers tell it.
fn letters(rig: &Rig) -> BTreeMap<(i32, i64), Letter> {
    let mut letters = BTreeMap::new();
    for partition in 0..4 {
        let mut each = |record: operators::broker::LogRecord<'_>| {
            let number = |name: &str| -> i64 {
                let text = record.record.header(name.as_bytes()).flatten().unwrap();
                std::str::from_utf8(text).unwrap().parse().unwrap()
            };
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let letter = Letter {
                partition,
                key: owned(record.record.key()),
                value: owned(record.record.value()),
                headers: record.record.headers().map(|(name, value)| (name.to_vec(), owned(value))).collect(),
                appended: record.timestamp.append,
            };
            let origin =
                (i32::try_from(number("inference.dlq.partition")).unwrap(), number("inference.dlq.offset"));
            assert!(letters.insert(origin, letter).is_none(), "{origin:?} has two letters");
        };
        rig.broker
            .read(&rig.dead_letters(), Partition(partition), Isolation::ReadCommitted, &mut each)
            .unwrap();
    }
    letters
}

/// Our headers, after the request's own: names in their order, and the values that are known beforehand.
fn check_ours(rig: &Rig, place: usize, bad: &Bad, sent: &Sent, ours: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    let ours: Vec<(String, String)> =
        ours.iter().map(|(name, value)| (text(name), text(value.as_ref().unwrap()))).collect();
    let value = |name: &str| ours.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    let failed_at = value("failed_at").unwrap();
    assert!(failed_at.parse::<jiff::Timestamp>().is_ok(), "{failed_at}");
    let message = value("inference.dlq.message").unwrap();
    assert!((1..=1024).contains(&message.len()), "{message}");
    let mut expected = vec![
        ("inference.dlq.version", "1".to_owned()),
        ("inference.dlq.reason", bad.reason.to_owned()),
        ("inference.dlq.stage", bad.stage.to_owned()),
        ("inference.dlq.message", message),
    ];
    expected.extend(value("inference.dlq.model").map(|model| ("inference.dlq.model", model)));
    expected
        .extend(value("inference.dlq.model_version").map(|version| ("inference.dlq.model_version", version)));
    expected.extend([
        ("inference.dlq.topic", rig.requests()),
        ("inference.dlq.partition", sent.partition.to_string()),
        ("inference.dlq.offset", sent.offset.to_string()),
        ("inference.dlq.timestamp", timestamp(place).to_string()),
        ("inference.dlq.timestamp_type", "create".to_owned()),
        ("inference.dlq.attempt", "1".to_owned()),
        ("inference.dlq.failed_at", failed_at.clone()),
        ("inference.dlq.group", rig.group().to_owned()),
        ("original_topic", rig.requests()),
        ("reason", bad.reason.to_owned()),
        ("failed_at", failed_at),
    ]);
    let expected: Vec<(String, String)> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(ours, expected, "{}", bad.name);
}

#[test]
fn bad_requests_of_a_foreign_client_become_dead_letters_byte_for_byte() {
    let rig = Rig::new("strangers", 4);
    let requests: Vec<Bad> =
        [bad_headers(), bad_bodies(), bad_forms(), strange_company()].into_iter().flatten().collect();
    let sent = send(&rig.requests(), &requests);
    assert_eq!(sent.len(), requests.len());
    let _engine = rig.engine("one");
    let report = rig.audit();
    assert_eq!((report.results, report.dead_letters), (0, requests.len() as u64), "{report}");
    let mut letters = letters(&rig);
    for (place, (bad, sent)) in requests.iter().zip(&sent).enumerate() {
        let name = bad.name;
        let letter =
            letters.remove(&(sent.partition, sent.offset)).unwrap_or_else(|| panic!("{name}: no letter"));
        assert_eq!(letter.key, bad.key, "{name}");
        assert_eq!(letter.value, bad.value, "{name}");
        let (originals, ours) = letter.headers.split_at(bad.headers.len());
        assert_eq!(originals, bad.headers, "{name}");
        check_ours(&rig, place, bad, sent, ours);
        assert_eq!(
            i64::from(letter.partition),
            sent.hash % 4,
            "{name}: the partition that the client would choose"
        );
        assert!(letter.appended, "{name}: retention counts from the failure");
    }
    assert!(letters.is_empty(), "{} letters of no request", letters.len());
}

/// The largest record that the topic of requests takes has no room for our headers in that of dead letters.
#[test]
fn a_letter_that_does_not_fit_says_what_was_cut() {
    let rig = Rig::new("cut", 1);
    let value = vec![b'x'; LETTER_BYTES_MAX - 200];
    let large = Bad {
        value: Some(value.clone()),
        hashed: Some("of the key"),
        ..spoiled("cut", "undecodable", "decode")
    };
    let sent = send(&rig.requests(), std::slice::from_ref(&large));
    let _engine = rig.engine("one");
    assert_eq!(rig.audit().dead_letters, 1);
    let letter = letters(&rig).remove(&(0, sent[0].offset)).unwrap();
    assert_eq!((letter.key, letter.value.as_deref()), (large.key.clone(), Some(&value[..4096])));
    let (cut, ours) = letter.headers[large.headers.len()..].split_last().unwrap();
    assert_eq!(cut.0, b"inference.dlq.truncated");
    assert_eq!(cut.1.as_deref(), Some(format!("value=4096/{}", value.len()).as_bytes()));
    check_ours(&rig, 0, &large, &sent[0], ours);
}
