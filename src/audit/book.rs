//! The book of an audit: one entry a request, and what has become of it.

use std::collections::{BTreeMap, BTreeSet};

use operators::broker::{LogRecord, RecordTime};
use operators::codec::form::Form;
use operators::dead_letter::{REASONS, Reason};
use operators::lease::{NextOffset, Offset, Partition};

use super::ends::{self, Ends};
use super::fingerprint::{self, Extent, Fingerprint, NamePrint};
use super::report::{FaultKind, Findings};
use super::{AuditOptions, ResultKey};
use crate::request::Request;

/// What is kept of a request.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) offset: Offset,
    pub(super) time: RecordTime,
    /// Of key, value and headers.
    pub(super) record: Fingerprint,
    pub(super) headers: u32,
    pub(super) request_id: NamePrint,
    pub(super) tenant_id: NamePrint,
    pub(super) model_id: NamePrint,
    pub(super) traceparent: NamePrint,
    /// Of the key that its result must have.
    pub(super) result_key: NamePrint,
    /// The form that its result must have.
    pub(super) result_form: Form,
    pub(super) ends: Ends,
    pub(super) numbers: Numbers,
    results: u8,
    letters: u8,
    /// The place of the last dead letter's reason among all; meaningless without a dead letter.
    reason: Option<u8>,
    wrong: bool,
}

/// What is known of the numbers that the result must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// They need not be compared, or have been.
    Unneeded,
    /// The model has yet to be run.
    Pending,
    /// They are held: the first and how many.
    Held(u32, u32),
}

impl Entry {
    pub(super) fn new(
        record: LogRecord<'_>,
        request: Option<&Request>,
        ends: Ends,
        options: &AuditOptions,
    ) -> Self {
        let view = record.record;
        let [request_id, tenant_id, model_id] = ends::name_prints(view, request);
        Self {
            offset: record.offset,
            time: record.timestamp,
            record: fingerprint::record(view, Extent::ALL),
            headers: u32::try_from(view.headers().len()).unwrap_or(u32::MAX),
            request_id,
            tenant_id,
            model_id,
            traceparent: fingerprint::name(view.header(b"traceparent").flatten()),
            result_key: match options.result_key {
                ResultKey::RequestId => request_id,
                ResultKey::RequestKey => fingerprint::name(view.key()),
            },
            result_form: options.result_form.of(view),
            ends,
            numbers: Numbers::Unneeded,
            results: 0,
            letters: 0,
            reason: None,
            wrong: false,
        }
    }

    /// Notes a result.
    pub(super) fn note_result(&mut self) {
        self.results = self.results.saturating_add(1);
    }

    /// Notes a dead letter.
    pub(super) fn note_letter(&mut self, reason: Option<Reason>) {
        self.letters = self.letters.saturating_add(1);
        self.reason = reason.map(ends::place);
    }

    /// Whether the outcome noted last is the second one of this request.
    pub(super) fn is_duplicated_now(&self) -> bool {
        self.outcomes() == 2
    }

    /// Notes that an outcome is wrong; whether none of this request was before.
    pub(super) fn note_wrong(&mut self) -> bool {
        !std::mem::replace(&mut self.wrong, true)
    }

    /// Whether a result waits to be compared.
    pub(super) fn is_pending(&self) -> bool {
        self.numbers == Numbers::Pending && self.results > 0
    }

    fn outcomes(&self) -> u16 {
        u16::from(self.results) + u16::from(self.letters)
    }

    /// What is wrong with the kind of end that the request came to.
    fn wrong_end(&self) -> Option<String> {
        if self.results > 0 && !self.ends.allow_result() {
            return Some(format!("a result, and only these ends are right: {}", self.ends.names()));
        }
        let reason = REASONS[usize::from(self.reason?)];
        (!self.ends.allow(reason)).then(|| {
            format!(
                "a dead letter with reason {}, and only these ends are right: {}",
                reason.name(),
                self.ends.names()
            )
        })
    }
}

/// The requests of one partition.
#[derive(Debug, Default)]
struct Log {
    /// From where requests are audited.
    from: i64,
    /// From where they are in the topic besides.
    start: i64,
    end: i64,
    entries: Vec<Entry>,
    /// Outcomes of requests that were to be audited and are no longer in the topic.
    deleted: BTreeSet<Offset>,
}

/// Where an origin leads.
pub(super) enum Found<'a> {
    /// To a request.
    Entry(&'a mut Entry),
    /// To before the audited requests.
    Before,
    /// To after them: it may have come since.
    After,
    /// To nothing.
    Nowhere,
}

/// Every request, by partition and offset.
#[derive(Debug, Default)]
pub(super) struct Book {
    logs: BTreeMap<Partition, Log>,
}

impl Book {
    /// Adds a request. Those of a partition come in the order of their offsets.
    pub(super) fn push(&mut self, partition: Partition, entry: Entry) {
        let entries = &mut self.logs.entry(partition).or_default().entries;
        debug_assert!(entries.last().is_none_or(|last| last.offset < entry.offset));
        entries.push(entry);
    }

    /// Notes which offsets of a partition have been read: those from `from` on, of which those before `first` were deleted.
    pub(super) fn close(&mut self, partition: Partition, from: Offset, first: Offset, end: NextOffset) {
        let log = self.logs.entry(partition).or_default();
        let start = from.max(first);
        let last = log.entries.last().map_or(start.0, |entry| entry.offset.next().0);
        (log.from, log.start, log.end) = (from.0, start.0, end.0.max(last));
    }

    /// Notes the outcome of a request before the audited ones.
    pub(super) fn note_before(&mut self, partition: Partition, offset: Offset) {
        if let Some(log) = self.logs.get_mut(&partition)
            && offset.0 >= log.from
        {
            log.deleted.insert(offset);
        }
    }

    /// Whether a request was deleted from the topic without having had an outcome.
    pub(super) fn was_deleted_without_outcome(&self, partition: Partition, offset: Offset) -> bool {
        self.logs
            .get(&partition)
            .is_some_and(|log| (log.from..log.start).contains(&offset.0) && !log.deleted.contains(&offset))
    }

    pub(super) fn entry(&mut self, partition: Partition, offset: Offset) -> Option<&mut Entry> {
        let entries = &mut self.logs.get_mut(&partition)?.entries;
        let place = entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        entries.get_mut(place)
    }

    /// The entry of an origin that a record claims.
    pub(super) fn find(&mut self, partition: Partition, offset: Offset) -> Found<'_> {
        let Some(log) = self.logs.get(&partition) else { return Found::Nowhere };
        if (0..log.start).contains(&offset.0) {
            return Found::Before;
        }
        if offset.0 >= log.end {
            return Found::After;
        }
        self.entry(partition, offset).map_or(Found::Nowhere, Found::Entry)
    }

    /// Whether a request stands at this place with this request id, or any if `None`; `None` if the place is not audited.
    pub(super) fn holds(
        &self,
        partition: Partition,
        offset: Offset,
        request_id: Option<NamePrint>,
    ) -> Option<bool> {
        let Some(log) = self.logs.get(&partition) else { return Some(false) };
        if (0..log.start).contains(&offset.0) {
            return None;
        }
        let place = log.entries.binary_search_by_key(&offset, |entry| entry.offset);
        Some(place.is_ok_and(|place| request_id.is_none_or(|print| print == log.entries[place].request_id)))
    }

    /// Whether a request with this id stands anywhere in this partition, or may have before part of it was deleted or left out.
    pub(super) fn holds_somewhere(&self, partition: Partition, request_id: NamePrint) -> bool {
        self.logs.get(&partition).is_some_and(|log| {
            log.start > 0 || log.entries.iter().any(|entry| entry.request_id == request_id)
        })
    }

    /// Requests without an outcome.
    pub(super) fn open(&self) -> u64 {
        self.entries().filter(|entry| entry.outcomes() == 0).count() as u64
    }

    /// Whether any result waits to be compared.
    pub(super) fn pending(&self) -> bool {
        self.entries().any(Entry::is_pending)
    }

    /// Forgets which numbers were held: they have been compared, and are held no longer.
    pub(super) fn settle(&mut self) {
        for entry in self.logs.values_mut().flat_map(|log| &mut log.entries) {
            if matches!(entry.numbers, Numbers::Held(..)) {
                entry.numbers = Numbers::Unneeded;
            }
        }
    }

    /// Says which requests were lost, and which came to an end that they must not come to.
    pub(super) fn judge(&mut self, findings: &mut Findings) {
        for (&partition, log) in &mut self.logs {
            for entry in &mut log.entries {
                let origin = Some((partition, entry.offset));
                if entry.outcomes() == 0 {
                    let what = format!("no outcome; right would be: {}", entry.ends.names());
                    findings.add(FaultKind::Lost, origin, None, what);
                }
                if let Some(what) = entry.wrong_end() {
                    findings.wrong(entry.note_wrong(), origin, None, what);
                }
            }
        }
    }

    /// Requests with a request id that another one before them has.
    pub(super) fn repeated_request_ids(&self) -> u64 {
        let mut prints: Vec<NamePrint> =
            self.entries().map(|entry| entry.request_id).filter(|&print| print != 0).collect();
        prints.sort_unstable();
        prints.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.logs.values().flat_map(|log| &log.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 120, "{} bytes a request", size_of::<Entry>());
    }
}
