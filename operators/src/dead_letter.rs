//! Dead letters: the records that cannot go on, why, where, and the headers that say so.
//!
//! A letter is its request, key, value and headers byte for byte, with our headers after its own. Only one that the topic would refuse
//! is cut, and then says so: [`Letterhead::write`] has the order in which things go.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::broker::RecordTime;
use crate::codec::json::rfc3339_micros;
use crate::lease::{Offset, Partition};
use crate::partitioner::partition_for_key;
use crate::records::{HEADER_OVERHEAD, RECORD_OVERHEAD, RecordView, Records};

/// Why a record cannot go on. The names are part of the interface: `docs/guarantees.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The header `model_id` is missing or empty.
    MissingModelId,
    /// The header and the body name different models.
    ModelIdMismatch,
    /// The model id has characters or a length that no model id may have.
    InvalidModelId,
    /// The value is null.
    NullValue,
    /// The value is not a request.
    Undecodable,
    /// There is no model of this id.
    UnknownModel,
    /// There is one, but it could not be loaded.
    ModelUnavailable,
    /// The input's length is not that of the model's row.
    WrongShape,
    /// The input, or the output, holds NaN or an infinity, and the model's configuration forbids it.
    NotFinite,
    /// The model failed on this row, alone, on a device that works.
    InferenceFailed,
    /// The record was not done by its deadline.
    DeadlineExceeded,
    /// The result is larger than the results topic allows.
    ResultTooLarge,
    /// The tenant is over its quota.
    OverQuota,
    /// The record's content type, or the type of its numbers, is not one that can be decoded.
    UnsupportedType,
    /// The record was in flight at repeated crashes of the process.
    Crashed,
}

/// Every reason, in the order of the enumeration.
pub const REASONS: [Reason; 15] = [
    Reason::MissingModelId,
    Reason::ModelIdMismatch,
    Reason::InvalidModelId,
    Reason::NullValue,
    Reason::Undecodable,
    Reason::UnknownModel,
    Reason::ModelUnavailable,
    Reason::WrongShape,
    Reason::NotFinite,
    Reason::InferenceFailed,
    Reason::DeadlineExceeded,
    Reason::ResultTooLarge,
    Reason::OverQuota,
    Reason::UnsupportedType,
    Reason::Crashed,
];

impl Reason {
    /// The name in the header `inference.dlq.reason` and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::MissingModelId => "missing_model_id",
            Self::ModelIdMismatch => "model_id_mismatch",
            Self::InvalidModelId => "invalid_model_id",
            Self::NullValue => "null_value",
            Self::Undecodable => "undecodable",
            Self::UnknownModel => "unknown_model",
            Self::ModelUnavailable => "model_unavailable",
            Self::WrongShape => "wrong_shape",
            Self::NotFinite => "not_finite",
            Self::InferenceFailed => "inference_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResultTooLarge => "result_too_large",
            Self::OverQuota => "over_quota",
            Self::UnsupportedType => "unsupported_type",
            Self::Crashed => "crashed",
        }
    }
}

/// Where in the graph a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// While its bytes were read.
    Decode,
    /// While its model was looked up and its shape compared.
    Route,
    /// While the model ran.
    Infer,
    /// While its result was written.
    Encode,
}

impl Stage {
    /// The name in the header `inference.dlq.stage` and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Route => "route",
            Self::Infer => "infer",
            Self::Encode => "encode",
        }
    }
}

/// What a dead letter says of its record, besides the record itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Why it ended.
    pub reason: Reason,
    /// Where it ended.
    pub stage: Stage,
    /// For people; cut to 1 KiB in the header.
    pub message: &'a str,
    /// The model, where known.
    pub model: Option<&'a str>,
    /// The model's version, where known.
    pub model_version: Option<&'a str>,
    /// The tenant, where the body could be read.
    pub tenant: Option<&'a str>,
    /// Which attempt at this record failed: 1, 2, …
    pub attempt: u32,
    /// When it failed: microseconds since the Unix epoch.
    pub failed_at_micros: i64,
}

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The partition of the requests topic.
    pub partition: Partition,
    /// The offset in it.
    pub offset: Offset,
    /// The record's timestamp.
    pub time: RecordTime,
}

/// What every dead letter of an engine says alike, and the bounds that it keeps.
#[derive(Clone, Debug)]
pub struct Letterhead {
    /// The requests topic.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// The number of partitions of the dead-letter topic.
    pub partitions: i32,
    /// The largest record, keys and headers included, that the dead-letter topic takes, in bytes: its `max.message.bytes`. A larger
    /// letter is truncated. At least [`Letterhead::BYTES_MIN`].
    pub bytes_max: usize,
}

/// What a letter that would not fit keeps of its request's value.
const VALUE_KEPT: usize = 4 * 1024;

/// What a header of ours holds at most: the message, and names that could be of any length.
const TEXT_MAX: usize = 1024;

/// The name of the header that says what was cut.
const TRUNCATED: &str = "inference.dlq.truncated";

/// Room for the value of that header: three times a word and two lengths.
const TRUNCATED_TEXT_MAX: usize = 128;

/// A header of ours.
type Header<'a> = (&'static str, Cow<'a, str>);

impl Letterhead {
    /// The least [`Letterhead::bytes_max`] with which every letter fits, whatever its request holds.
    pub const BYTES_MIN: usize = 8 * 1024;

    /// Pushes the letter for the request `original` to `into`, and returns the partition of the dead-letter topic that it goes to.
    ///
    /// Our headers start with the last `inference.dlq.version`. What stands before it came with the request, whatever its name.
    ///
    /// A letter that would be larger than [`Letterhead::bytes_max`] keeps the first 4 KiB of the value, then as much of the key as
    /// there is room for, then the first of the request's headers while there is room. Its header `inference.dlq.truncated` says what
    /// was cut, as bytes or headers kept of those there were: `value=4096/1048576 headers=3/5`. Our own headers are never left out.
    ///
    /// The partition is that of the tenant; where the body could not be read, of the key's part before the first `|`; where there is
    /// no key, of the text `topic:partition:offset`. Each by the partitioner of Kafka's clients, so that a client which produces with
    /// such a key agrees.
    ///
    /// # Panics
    ///
    /// If the topic has no partitions.
    pub fn write(
        &self,
        into: &mut Records,
        original: RecordView<'_>,
        origin: &Origin,
        verdict: &Verdict<'_>,
    ) -> i32 {
        let ours = self.headers(origin, verdict);
        let kept = Kept::of(original, self.bytes_max.saturating_sub(RECORD_OVERHEAD + header_bytes(&ours)));
        into.push(
            original.key().map(|key| &key[..kept.key]),
            original.value().map(|value| &value[..kept.value]),
        );
        for (name, value) in original.headers().take(kept.headers) {
            into.push_header(name, value);
        }
        for (name, value) in &ours {
            into.push_header(name.as_bytes(), Some(value.as_bytes()));
        }
        if let Some(cut) = kept.cut(original) {
            into.push_header(TRUNCATED.as_bytes(), Some(cut.as_bytes()));
        }
        self.partition(original, origin, verdict)
    }

    fn headers<'a>(&'a self, origin: &Origin, verdict: &Verdict<'a>) -> Vec<Header<'a>> {
        let text = |text: &'a str| Cow::Borrowed(&text[..text.floor_char_boundary(TEXT_MAX)]);
        let number = |number: i64| Cow::Owned(number.to_string());
        let failed_at = rfc3339_micros(verdict.failed_at_micros);
        let mut headers = vec![
            ("inference.dlq.version", Cow::Borrowed("1")),
            ("inference.dlq.reason", Cow::Borrowed(verdict.reason.name())),
            ("inference.dlq.stage", Cow::Borrowed(verdict.stage.name())),
            ("inference.dlq.message", text(verdict.message)),
        ];
        headers.extend(verdict.model.map(|model| ("inference.dlq.model", text(model))));
        headers.extend(verdict.model_version.map(|version| ("inference.dlq.model_version", text(version))));
        let time_type = if origin.time.append { "append" } else { "create" };
        headers.extend([
            ("inference.dlq.topic", text(&self.topic)),
            ("inference.dlq.partition", number(origin.partition.0.into())),
            ("inference.dlq.offset", number(origin.offset.0)),
            ("inference.dlq.timestamp", number(origin.time.millis)),
            ("inference.dlq.timestamp_type", Cow::Borrowed(time_type)),
            ("inference.dlq.attempt", number(verdict.attempt.into())),
            ("inference.dlq.failed_at", Cow::Owned(failed_at.clone())),
            ("inference.dlq.group", text(&self.group)),
            ("original_topic", text(&self.topic)),
            ("reason", Cow::Borrowed(verdict.reason.name())),
            ("failed_at", Cow::Owned(failed_at)),
        ]);
        headers
    }

    fn partition(&self, original: RecordView<'_>, origin: &Origin, verdict: &Verdict<'_>) -> i32 {
        let tenant = verdict.tenant.filter(|tenant| !tenant.is_empty()).map(str::as_bytes);
        let of_key = || Some(original.key()?.split(|byte| *byte == b'|').next().unwrap_or_default());
        let name = tenant.or_else(of_key).map_or_else(
            || format!("{}:{}:{}", self.topic, origin.partition.0, origin.offset.0).into_bytes(),
            <[u8]>::to_vec,
        );
        partition_for_key(&name, self.partitions).0
    }
}

/// How much of a request its letter keeps: bytes of key and value, and the number of headers.
struct Kept {
    key: usize,
    value: usize,
    headers: usize,
}

impl Kept {
    /// What there is room for.
    fn of(original: RecordView<'_>, room: usize) -> Self {
        let (key, value) = lengths(original);
        let headers = original.headers().len();
        if original.payload_bytes() + HEADER_OVERHEAD * headers <= room {
            return Self { key, value, headers };
        }
        let mut room = room.saturating_sub(TRUNCATED.len() + TRUNCATED_TEXT_MAX + HEADER_OVERHEAD);
        let value = value.min(VALUE_KEPT).min(room);
        room -= value;
        let key = key.min(room);
        room -= key;
        let headers = original
            .headers()
            .map(|(name, value)| HEADER_OVERHEAD + name.len() + value.map_or(0, <[u8]>::len))
            .take_while(|size| {
                let fits = *size <= room;
                room = room.saturating_sub(*size);
                fits
            })
            .count();
        Self { key, value, headers }
    }

    /// What was cut, if anything was.
    fn cut(&self, original: RecordView<'_>) -> Option<String> {
        let (key, value) = lengths(original);
        let all = [
            ("value", self.value, value),
            ("headers", self.headers, original.headers().len()),
            ("key", self.key, key),
        ];
        let mut cut = String::new();
        for (what, kept, there) in all.into_iter().filter(|(_, kept, there)| kept < there) {
            let space = if cut.is_empty() { "" } else { " " };
            write!(cut, "{space}{what}={kept}/{there}").expect("a string takes all that is written to it");
        }
        (!cut.is_empty()).then_some(cut)
    }
}

fn lengths(record: RecordView<'_>) -> (usize, usize) {
    (record.key().map_or(0, <[u8]>::len), record.value().map_or(0, <[u8]>::len))
}

fn header_bytes(headers: &[Header<'_>]) -> usize {
    headers.iter().map(|(name, value)| HEADER_OVERHEAD + name.len() + value.len()).sum()
}
