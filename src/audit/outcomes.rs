//! Outcomes as they are read: to which request each belongs, and whether it is right.

use std::collections::BTreeMap;

use operators::broker::LogRecord;
use operators::dead_letter::Reason;
use operators::lease::{NextOffset, Offset, Partition};

use super::AuditOptions;
use super::book::{Book, Entry, Found};
use super::expected::Expected;
use super::letter::{self, Checked, Letters};
use super::report::{AuditReport, FaultKind, Findings, Place};
use super::result;
use super::truncated::Truncated;

/// Reads outcomes, each once.
#[derive(Debug)]
pub(super) struct Outcomes {
    requests: String,
    results: String,
    letters: Letters,
    /// How far each partition of each topic has been read.
    read_to: BTreeMap<(String, Partition), Offset>,
    /// Outcomes of requests behind those that are audited, by origin.
    pub(super) later: BTreeMap<Partition, BTreeMap<Offset, Vec<Place>>>,
    /// Letters that have yet to be compared with their requests.
    pub(super) truncated: Truncated,
}

impl Outcomes {
    pub(super) fn new(options: &AuditOptions, letter_bytes_max: usize) -> Self {
        let letters = Letters { topic: options.requests.clone(), group: options.group.clone() };
        Self {
            requests: options.requests.clone(),
            results: options.results.clone(),
            letters,
            read_to: BTreeMap::new(),
            later: BTreeMap::new(),
            truncated: Truncated::new(letter_bytes_max),
        }
    }

    /// The first offset that has not been read.
    pub(super) fn next(&self, topic: &str, partition: Partition) -> Offset {
        self.read_to.get(&(topic.to_owned(), partition)).copied().unwrap_or(Offset(0))
    }

    pub(super) fn read_to(&mut self, topic: &str, partition: Partition, next: NextOffset) {
        let read = self.read_to.entry((topic.to_owned(), partition)).or_insert(Offset(0));
        *read = Offset(next.0).max(*read);
    }

    /// Takes in one outcome.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the audit of its own")]
    pub(super) fn take(
        &mut self,
        topic: &str,
        partition: Partition,
        record: LogRecord<'_>,
        book: &mut Book,
        expected: &mut Expected,
        findings: &mut Findings,
        report: &mut AuditReport,
    ) {
        let place = Place::new(topic, partition, record.offset);
        let is_result = topic == self.results;
        let claimed = if is_result {
            result::Origin::read(record.record).map(|origin| (origin.topic, origin.partition, origin.offset))
        } else {
            letter::origin(record.record)
        };
        let (topic, partition, offset) = match claimed {
            Ok(origin) => origin,
            Err(why) => return findings.add(FaultKind::Unexpected, None, Some(place), why),
        };
        if topic != self.requests {
            let what = format!("it says that it is of the topic {topic:?}");
            return findings.add(FaultKind::Unexpected, None, Some(place), what);
        }
        let origin = Some((partition, offset));
        match book.find(partition, offset) {
            Found::Before => {
                report.outside += 1;
                book.note_before(partition, offset);
            }
            Found::After => self.later.entry(partition).or_default().entry(offset).or_default().push(place),
            Found::Nowhere => {
                let what = "there is no such request".to_owned();
                findings.add(FaultKind::Unexpected, origin, Some(place), what);
            }
            Found::Entry(entry) => {
                let complaints = if is_result {
                    Self::result(record, entry, expected, report)
                } else {
                    self.letter(partition, &place, record, entry, report)
                };
                if entry.is_duplicated_now() {
                    let what = "a second outcome".to_owned();
                    findings.add(FaultKind::Duplicated, origin, Some(place.clone()), what);
                }
                if !complaints.is_empty() {
                    findings.wrong(entry.note_wrong(), origin, Some(place), complaints.join("; "));
                }
            }
        }
    }

    fn result(
        record: LogRecord<'_>,
        entry: &mut Entry,
        expected: &mut Expected,
        report: &mut AuditReport,
    ) -> Vec<String> {
        report.results += 1;
        entry.note_result();
        result::complaints(record, entry, expected)
    }

    fn letter(
        &mut self,
        partition: Partition,
        place: &Place,
        record: LogRecord<'_>,
        entry: &mut Entry,
        report: &mut AuditReport,
    ) -> Vec<String> {
        let Checked { reason, complaints, cut } = self.letters.check(place, record, entry);
        report.dead_letters += 1;
        let name = reason.map_or("?", Reason::name);
        *report.dead_letters_by_reason.entry(name.to_owned()).or_default() += 1;
        entry.note_letter(reason);
        if let Some(cut) = cut {
            self.truncated.push(partition, entry.offset, cut);
        }
        complaints
    }

    /// Compares the output of a result that was taken in before the model had been run on its request.
    pub(super) fn compare_again(
        &self,
        partition: Partition,
        record: LogRecord<'_>,
        book: &mut Book,
        expected: &mut Expected,
        findings: &mut Findings,
    ) {
        let place = Place::new(&self.results, partition, record.offset);
        let Ok(origin) = result::Origin::read(record.record) else { return };
        if origin.topic != self.requests {
            return;
        }
        if let Some(entry) = book.entry(origin.partition, origin.offset)
            && let Some(what) = result::output_complaint(record, entry, expected)
        {
            let origin = Some((origin.partition, origin.offset));
            findings.wrong(entry.note_wrong(), origin, Some(place), what);
        }
    }
}
