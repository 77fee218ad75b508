//! The headers of dead letters: all of them, byte for byte, and within what a topic takes.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn letterhead(bytes_max: usize) -> Letterhead {
    Letterhead {
        topic: "inference.requests".to_owned(),
        group: "workers".to_owned(),
        partitions: 8,
        bytes_max,
    }
}

fn origin() -> Origin {
    let time = RecordTime { millis: 1_767_225_600_123, append: false };
    Origin { partition: Partition(3), offset: Offset(1_700), time }
}

fn verdict() -> Verdict<'static> {
    Verdict {
        reason: Reason::Undecodable,
        stage: Stage::Decode,
        message: "could not decode the request",
        model: None,
        model_version: None,
        tenant: None,
        attempt: 1,
        failed_at_micros: 1_767_225_600_000_250,
    }
}

/// A request, and how to push it.
#[derive(Clone, Debug)]
struct Request {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Request {
    fn push(&self, records: &mut Records) {
        records.push(self.key.as_deref(), self.value.as_deref());
        for (name, value) in &self.headers {
            records.push_header(name, value.as_deref());
        }
    }
}

/// Names that a request may carry: its own, ours, and bytes that are no text.
fn header_name() -> impl Strategy<Value = Vec<u8>> {
    let known = ["model_id", "traceparent", "reason", "inference.dlq.version", "inference.dlq.truncated", ""];
    prop_oneof![select(known.to_vec()).prop_map(|name| name.as_bytes().to_vec()), any::<Vec<u8>>()]
}

fn bytes(length_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (0..length_max).prop_map(|length| vec![b'x'; length])
    ]
}

fn request(length_max: usize) -> impl Strategy<Value = Request> {
    let header = (header_name(), prop::option::of(bytes(length_max)));
    let headers = prop::collection::vec(header, 0..6);
    (prop::option::of(bytes(length_max)), prop::option::of(bytes(length_max)), headers)
        .prop_map(|(key, value, headers)| Request { key, value, headers })
}

/// Writes the letter for `request` after another record, as the operators do.
fn write(
    letterhead: &Letterhead,
    request: &Request,
    origin: &Origin,
    verdict: &Verdict<'_>,
) -> (Records, i32) {
    let (mut originals, mut letters) = (Records::default(), Records::default());
    originals.push(Some(b"other"), None);
    request.push(&mut originals);
    letters.push(None, Some(b"other"));
    let partition = letterhead.write(&mut letters, originals.get(1), origin, verdict);
    assert_eq!(letters.len(), 2, "a letter is one record");
    (letters, partition)
}

/// The headers of the letter from the last `inference.dlq.version` on: ours.
fn ours(letter: RecordView<'_>) -> Vec<(String, String)> {
    let headers: Vec<_> = letter.headers().collect();
    let start = headers.iter().rposition(|(name, _)| *name == b"inference.dlq.version").unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    headers[start..].iter().map(|(name, value)| (text(name), text(value.unwrap()))).collect()
}

proptest! {
    #[test]
    fn a_letter_carries_its_request_byte_for_byte_and_our_headers_after_it(request in request(2_000)) {
        let (letters, partition) = write(&letterhead(1 << 20), &request, &origin(), &verdict());
        let letter = letters.get(1);
        prop_assert_eq!(letter.key(), request.key.as_deref());
        prop_assert_eq!(letter.value(), request.value.as_deref());
        let theirs: Vec<_> = letter.headers().take(request.headers.len()).collect();
        let told: Vec<_> = request.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
        prop_assert_eq!(theirs, told);
        prop_assert_eq!(letter.headers().len(), request.headers.len() + ours(letter).len());
        prop_assert!(ours(letter).iter().all(|(name, _)| name != TRUNCATED));
        prop_assert!((0..8).contains(&partition));
    }

    #[test]
    fn a_letter_always_fits_and_says_what_was_cut(
        request in request(20_000),
        bytes_max in Letterhead::BYTES_MIN..40_000,
        text in prop_oneof!["[a-zü€😀]{0,20}", "[a-zü€😀]{1000,1500}"],
    ) {
        let letterhead = Letterhead { topic: text.clone(), group: text.clone(), partitions: 8, bytes_max };
        let model = Some(text.as_str());
        let verdict = Verdict { message: &text, model, model_version: model, tenant: model, ..verdict() };
        let (letters, _) = write(&letterhead, &request, &origin(), &verdict);
        let mut originals = Records::default();
        request.push(&mut originals);
        let (letter, original) = (letters.get(1), originals.get(0));
        prop_assert!(letter.wire_bytes() <= bytes_max, "{} bytes", letter.wire_bytes());

        let (key, value) = lengths(letter);
        prop_assert_eq!(letter.key(), original.key().map(|all| &all[..key]));
        prop_assert_eq!(letter.value(), original.value().map(|all| &all[..value]));
        let headers = letter.headers().len() - ours(letter).len();
        prop_assert!(letter.headers().take(headers).eq(original.headers().take(headers)));
        let kept = Kept { key, value, headers };
        let ours = ours(letter);
        let said = ours.iter().find(|(name, _)| name == TRUNCATED).map(|(_, cut)| cut.clone());
        prop_assert_eq!(said, kept.cut(original));
        // Nothing is cut without need: whatever is missing would not have fitted.
        let whole = RECORD_OVERHEAD + HEADER_OVERHEAD * original.headers().len() + original.payload_bytes();
        let ours: usize = ours.iter().filter(|(name, _)| name != TRUNCATED)
            .map(|(name, value)| HEADER_OVERHEAD + name.len() + value.len()).sum();
        prop_assert_eq!(kept.cut(original).is_some(), whole + ours > bytes_max);
    }
}

#[test]
fn every_header_of_a_letter_says_what_the_interface_promises() {
    let request = Request { key: None, value: None, headers: Vec::new() };
    let verdict = Verdict {
        reason: Reason::InferenceFailed,
        stage: Stage::Infer,
        message: "the model failed",
        model: Some("mlp-16"),
        model_version: Some("0123456789abcdef"),
        tenant: Some("acme"),
        attempt: 2,
        ..verdict()
    };
    let (letters, _) = write(&letterhead(1 << 20), &request, &origin(), &verdict);
    let headers = ours(letters.get(1));
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("inference.dlq.version", "1"),
        ("inference.dlq.reason", "inference_failed"),
        ("inference.dlq.stage", "infer"),
        ("inference.dlq.message", "the model failed"),
        ("inference.dlq.model", "mlp-16"),
        ("inference.dlq.model_version", "0123456789abcdef"),
        ("inference.dlq.topic", "inference.requests"),
        ("inference.dlq.partition", "3"),
        ("inference.dlq.offset", "1700"),
        ("inference.dlq.timestamp", "1767225600123"),
        ("inference.dlq.timestamp_type", "create"),
        ("inference.dlq.attempt", "2"),
        ("inference.dlq.failed_at", "2026-01-01T00:00:00.000250Z"),
        ("inference.dlq.group", "workers"),
        ("original_topic", "inference.requests"),
        ("reason", "inference_failed"),
        ("failed_at", "2026-01-01T00:00:00.000250Z"),
    ];
    assert_eq!(headers, expected);
}

#[test]
fn the_time_says_who_set_it() {
    let request = Request { key: None, value: None, headers: Vec::new() };
    let appended = Origin { time: RecordTime { millis: -1, append: true }, ..origin() };
    let (letters, _) = write(&letterhead(1 << 20), &request, &appended, &verdict());
    let letter = letters.get(1);
    assert_eq!(letter.header(b"inference.dlq.timestamp"), Some(Some(&b"-1"[..])));
    assert_eq!(letter.header(b"inference.dlq.timestamp_type"), Some(Some(&b"append"[..])));
    assert_eq!(letter.header(b"inference.dlq.model"), None);
}

#[test]
fn the_message_is_cut_between_characters() {
    let request = Request { key: None, value: None, headers: Vec::new() };
    let message = format!("x{}", "ü".repeat(600));
    let (letters, _) =
        write(&letterhead(1 << 20), &request, &origin(), &Verdict { message: &message, ..verdict() });
    let cut = letters.get(1).header(b"inference.dlq.message").unwrap().unwrap();
    assert_eq!(cut, format!("x{}", "ü".repeat(511)).as_bytes());
}

#[test]
fn a_large_value_is_cut_before_anything_else() {
    let request = Request {
        key: Some(b"acme|mlp-16".to_vec()),
        value: Some(vec![b'x'; 100_000]),
        headers: vec![
            (b"model_id".to_vec(), Some(b"mlp-16".to_vec())),
            (b"big".to_vec(), Some(vec![0; 9_000])),
        ],
    };
    let (letters, _) = write(&letterhead(20_000), &request, &origin(), &verdict());
    let letter = letters.get(1);
    assert_eq!((letter.key(), letter.value()), (Some(&b"acme|mlp-16"[..]), Some(&[b'x'; 4096][..])));
    assert_eq!(letter.header(TRUNCATED.as_bytes()), Some(Some(&b"value=4096/100000"[..])));
    assert_eq!(letter.header(b"big"), Some(Some(&[0; 9_000][..])));

    let (letters, _) = write(&letterhead(10_000), &request, &origin(), &verdict());
    let letter = letters.get(1);
    assert_eq!(letter.header(TRUNCATED.as_bytes()), Some(Some(&b"value=4096/100000 headers=1/2"[..])));
    assert_eq!(letter.header(b"model_id"), Some(Some(&b"mlp-16"[..])));
    assert_eq!(letter.header(b"big"), None);
}

#[test]
fn a_letter_goes_to_the_partition_of_its_tenant_or_of_its_key_or_of_its_origin() {
    let of = |name: &str| partition_for_key(name.as_bytes(), 8).0;
    let cases: [(Option<&str>, Option<&[u8]>, i32); 9] = [
        (Some("acme"), Some(b"other|mlp-16"), of("acme")),
        (Some("acme"), None, of("acme")),
        (Some(""), Some(b"other|mlp-16"), of("other")),
        (None, Some(b"other|mlp-16"), of("other")),
        (None, Some(b"other|mlp|16"), of("other")),
        (None, Some(b"other"), of("other")),
        (None, Some(b"|mlp-16"), of("")),
        (None, Some(b""), of("")),
        (None, None, of("inference.requests:3:1700")),
    ];
    for (tenant, key, partition) in cases {
        let request = Request { key: key.map(<[u8]>::to_vec), value: None, headers: Vec::new() };
        let (_, written) = write(&letterhead(1 << 20), &request, &origin(), &Verdict { tenant, ..verdict() });
        assert_eq!(written, partition, "{tenant:?} {key:?}");
    }
    assert_eq!(of("acme"), 4, "the partition of a tenant does not change from version to version");
}

#[test]
fn letters_without_key_and_body_spread_over_the_partitions() {
    let request = Request { key: None, value: None, headers: Vec::new() };
    let mut partitions: Vec<_> = (0..100)
        .map(|offset| {
            let origin = Origin { offset: Offset(offset), ..origin() };
            write(&letterhead(1 << 20), &request, &origin, &verdict()).1
        })
        .collect();
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!(partitions, (0..8).collect::<Vec<_>>());
}

#[test]
fn the_longest_verdict_leaves_room_within_the_least_letter() {
    let long = "x".repeat(10_000);
    let letterhead =
        Letterhead { topic: long.clone(), group: long.clone(), ..letterhead(Letterhead::BYTES_MIN) };
    let time = RecordTime { millis: i64::MIN, append: true };
    let origin = Origin { partition: Partition(i32::MIN), offset: Offset(i64::MIN), time };
    let verdict = Verdict {
        reason: Reason::ModelUnavailable,
        message: &long,
        model: Some(&long),
        model_version: Some(&long),
        tenant: Some(&long),
        attempt: u32::MAX,
        ..verdict()
    };
    let request = Request {
        key: Some(vec![0; 50_000]),
        value: Some(vec![0; 50_000]),
        headers: vec![(vec![0; 50_000], None); 10],
    };
    let (letters, _) = write(&letterhead, &request, &origin, &verdict);
    assert!(letters.get(1).wire_bytes() <= Letterhead::BYTES_MIN);
}
