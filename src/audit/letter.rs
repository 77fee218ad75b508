//! One dead letter, against the request that it says it is of.

use operators::broker::LogRecord;
use operators::dead_letter::{REASONS, Reason};
use operators::lease::{Offset, Partition};
use operators::records::RecordView;

use super::book::Entry;
use super::fingerprint::{self, Extent};
use super::report::Place;
use super::truncated::Cut;

/// The header of a letter that was cut.
const TRUNCATED: &str = "inference.dlq.truncated";

/// The headers that a letter has besides the request's own, those that every letter must have first.
const HEADERS: [(&str, bool); 18] = [
    ("inference.dlq.version", true),
    ("inference.dlq.reason", true),
    ("inference.dlq.stage", true),
    ("inference.dlq.message", true),
    ("inference.dlq.topic", true),
    ("inference.dlq.partition", true),
    ("inference.dlq.offset", true),
    ("inference.dlq.timestamp", true),
    ("inference.dlq.timestamp_type", true),
    ("inference.dlq.attempt", true),
    ("inference.dlq.failed_at", true),
    ("inference.dlq.group", true),
    ("original_topic", true),
    ("reason", true),
    ("failed_at", true),
    ("inference.dlq.model", false),
    ("inference.dlq.model_version", false),
    (TRUNCATED, false),
];

/// The origin that a letter names: the last header of each name counts.
pub(super) fn origin(record: RecordView<'_>) -> Result<(String, Partition, Offset), String> {
    let header = |name: &str| {
        let value =
            record.header(name.as_bytes()).flatten().and_then(|value| std::str::from_utf8(value).ok());
        value.ok_or_else(|| format!("header `{name}` is missing or not text"))
    };
    let unreadable = |name: &str| format!("header `{name}` is not a number");
    let partition = header("inference.dlq.partition")?;
    let offset = header("inference.dlq.offset")?;
    Ok((
        header("inference.dlq.topic")?.to_owned(),
        Partition(partition.parse().map_err(|_| unreadable("inference.dlq.partition"))?),
        Offset(offset.parse().map_err(|_| unreadable("inference.dlq.offset"))?),
    ))
}

/// The partition and offset that a record names as a letter's origin; nothing if it is none.
pub(crate) fn letter_origin(record: RecordView<'_>) -> Option<(Partition, Offset)> {
    origin(record).ok().map(|(_, partition, offset)| (partition, offset))
}

/// What a letter is checked for, besides its request.
#[derive(Debug)]
pub(super) struct Letters {
    pub(super) topic: String,
    pub(super) group: Option<String>,
}

/// What was found in a letter.
#[derive(Debug)]
pub(super) struct Checked {
    /// The reason that it gives.
    pub(super) reason: Option<Reason>,
    /// What is wrong with it.
    pub(super) complaints: Vec<String>,
    /// Set if it was cut: then it has yet to be compared with its request.
    pub(super) cut: Option<Cut>,
}

impl Letters {
    /// Checks a letter against the entry of its request.
    pub(super) fn check(&self, place: &Place, record: LogRecord<'_>, entry: &Entry) -> Checked {
        let added = Added::of(record.record, entry.headers as usize);
        let mut complaints = added.complaints();
        let truncated = added.text(TRUNCATED).is_some();
        let extent = Extent { headers: added.originals, ..Extent::of(record.record) };
        let found = fingerprint::record(record.record, extent);
        if !truncated && found != entry.record {
            complaints.push("key, value or headers of the request were changed".to_owned());
        }
        complaints.extend(self.header_complaints(&added, entry));
        let cut = truncated.then(|| Cut { place: place.clone(), extent, found });
        Checked { reason: added.reason(), complaints, cut }
    }

    /// Headers that do not say what they must.
    fn header_complaints(&self, added: &Added<'_>, entry: &Entry) -> Vec<String> {
        let stage = added.text("inference.dlq.stage");
        let time = (if entry.time.append { "append" } else { "create" }, entry.time.millis.to_string());
        let dated = |name| added.text(name).is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
        let group = added.text("inference.dlq.group");
        let checks = [
            (added.reason().is_some(), "inference.dlq.reason"),
            (stage.is_some_and(|stage| stages(added.reason()).contains(&stage)), "inference.dlq.stage"),
            (added.text("inference.dlq.version") == Some("1"), "inference.dlq.version"),
            (added.text("inference.dlq.topic") == Some(&self.topic), "inference.dlq.topic"),
            (added.text("original_topic") == Some(&self.topic), "original_topic"),
            (
                added.text("inference.dlq.message").is_some_and(|text| text.len() <= 1024),
                "inference.dlq.message",
            ),
            (added.text("inference.dlq.timestamp") == Some(&time.1), "inference.dlq.timestamp"),
            (added.text("inference.dlq.timestamp_type") == Some(time.0), "inference.dlq.timestamp_type"),
            (
                added.number("inference.dlq.attempt").is_some_and(|attempt| attempt > 0),
                "inference.dlq.attempt",
            ),
            (dated("inference.dlq.failed_at"), "inference.dlq.failed_at"),
            (dated("failed_at"), "failed_at"),
            (self.group.is_none() || self.group.as_deref() == group, "inference.dlq.group"),
        ];
        let failed = checks.into_iter().filter(|(kept, _)| !kept);
        let complaint = |(_, name)| match added.text(name) {
            Some(text) => format!("header `{name}` is {text:?}"),
            None => format!("header `{name}` is missing or not text"),
        };
        failed.map(complaint).collect()
    }
}

/// The stages at which a letter may be given this reason.
fn stages(reason: Option<Reason>) -> &'static [&'static str] {
    match reason {
        Some(Reason::InferenceFailed | Reason::DeadlineExceeded | Reason::Crashed) => &["infer"],
        _ => &["decode", "route", "infer", "encode"],
    }
}

/// The headers after those of the request.
struct Added<'a> {
    record: RecordView<'a>,
    originals: usize,
}

impl<'a> Added<'a> {
    /// The headers after the first `originals` of a letter; of a truncated one, those from the last `inference.dlq.version` on.
    fn of(record: RecordView<'a>, originals: usize) -> Self {
        let whole = Self { record, originals };
        let version = HEADERS[0].0.as_bytes();
        let last = record.headers().enumerate().filter(|(_, (name, _))| *name == version).last();
        let cut = last.map(|(place, _)| Self { record, originals: place });
        cut.filter(|cut| cut.text(TRUNCATED).is_some()).unwrap_or(whole)
    }

    /// The reason that the letter gives.
    fn reason(&self) -> Option<Reason> {
        let name = self.text("inference.dlq.reason")?;
        REASONS.into_iter().find(|reason| reason.name() == name)
    }

    fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        self.record.headers().skip(self.originals)
    }

    /// The last one of this name, as text.
    fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.iter().filter(|(other, _)| *other == name.as_bytes()).last()?.1?;
        std::str::from_utf8(value).ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Headers that are missing, and such that have no place in a letter.
    fn complaints(&self) -> Vec<String> {
        let required = HEADERS.iter().filter(|(_, required)| *required);
        let missing = required
            .filter(|(name, _)| !self.iter().any(|(other, _)| other == name.as_bytes()))
            .map(|(name, _)| format!("header `{name}` was not added"));
        let strange = self
            .iter()
            .filter(|(name, _)| !HEADERS.iter().any(|(known, _)| known.as_bytes() == *name))
            .map(|(name, _)| format!("header `{}` was not the request's", String::from_utf8_lossy(name)));
        missing.chain(strange).collect()
    }
}
