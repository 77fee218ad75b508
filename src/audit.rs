//! The independent check that each request ended exactly once, and rightly.
//!
//! ```text
//!   acknowledgement log ──▶ is each acknowledged request in the topic?          missing
//!   requests ──▶ one entry a request: fingerprints, the ends it may come to,
//!                and what the model says when it is run on it alone
//!   results ──┐
//!             ├─▶ which request is it for?       unexpected      is it right?   wrong
//!   dlq ──────┘   has it had one already?        duplicated
//!   in the end ──▶ which request had none?       lost
//! ```
//!
//! The audit shares no code with what it checks: it reads logs through [`Broker::read`] and [`Admin::describe`](operators::broker::Admin::describe), JSON with `serde_json`,
//! and runs the model through an [`Oracle`] of its own, one row at a time. Of the engine it knows the names of the reasons, nothing else.
//!
//! # Cost
//!
//! Each log is read once from its start, in a stream; again for each look while outcomes are waited for ([`Watcher::look_again`]). Of a
//! request some 120 bytes are kept, fingerprints and no payload. What the model says is kept for as many requests as
//! [`AuditOptions::held_floats_max`] allows; the requests beyond it are compared afterwards, that many at a time, and each such slice
//! reads requests and results once more. Requests with a truncated dead letter are read again, too. So memory is linear in the number of requests with a small factor, and bounded in the size of
//! rows and outputs; time is linear in the logs, times the number of slices.

mod acks;
mod book;
mod ends;
mod expected;
mod fingerprint;
mod inputs;
mod letter;
mod oracle;
mod outcomes;
mod report;
mod result;
mod truncated;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use operators::broker::{Broker, BrokerError, Isolation, LogRecord};
use operators::codec::form::ResultForm;
use operators::dead_letter::Reason;
use operators::lease::{NextOffset, Offset, Partition};

pub use inputs::{Input, Inputs};
pub(crate) use letter::letter_origin;
pub use oracle::{Lookup, NoOracle, Oracle, OracleError, OrtOracle};
pub use report::{AuditReport, Fault, FaultKind, Place};
pub(crate) use result::{Told, told};

use book::{Book, Entry, Numbers};
use ends::Rules;
use expected::Expected;
use outcomes::Outcomes;
use report::Findings;

/// The largest record that librdkafka sends, unless told otherwise.
const CLIENT_BYTES_MAX: usize = 1_000_000;

/// What to audit, and how.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// The requests topic.
    pub requests: String,
    /// The results topic.
    pub results: String,
    /// The dead-letter topic.
    pub dlq: String,
    /// Requests before this offset are not audited.
    pub from: Offset,
    /// The same for single partitions, instead of `from`.
    pub from_partition: BTreeMap<Partition, Offset>,
    /// Whether to run the models, and compare.
    pub infer: bool,
    /// How far an output may be from what the model says.
    pub tolerance: Tolerance,
    /// Whether a request that can be served must have a result. If not, reasons that lie outside of it (a deadline, a quota, a failure of
    /// the device, a crash, a result too large) are taken on trust.
    pub strict: bool,
    /// The reasons outside of a request that are taken on trust even so.
    pub trusted: Vec<Reason>,
    /// Whether a request may have several outcomes: at least once is what was promised.
    pub duplicates_allowed: bool,
    /// What the key of a result is.
    pub result_key: ResultKey,
    /// In which form results are.
    pub result_form: ResultForm,
    /// The models whose rows and outputs may hold NaN and infinities.
    pub not_finite_allowed: BTreeSet<String>,
    /// The consumer group that every dead letter must name; `None` for any.
    pub group: Option<String>,
    /// The largest dead letter that the engine sends; one that would have fitted must not be truncated. `None` for what the
    /// topic and a client with its defaults take.
    pub letter_bytes_max: Option<usize>,
    /// The largest request that the engine reads; a larger one may be undecodable to it. `None` for any size.
    pub record_bytes_max: Option<usize>,
    /// The producer's acknowledgement log.
    pub ack_log: Option<PathBuf>,
    /// Faults of each kind that are told in detail; the others are counted.
    pub details_max: usize,
    /// Floats of expected output that are kept at a time.
    pub held_floats_max: usize,
}

impl AuditOptions {
    /// An audit of everything in these topics.
    pub fn new(requests: &str, results: &str, dlq: &str) -> Self {
        Self {
            requests: requests.to_owned(),
            results: results.to_owned(),
            dlq: dlq.to_owned(),
            from: Offset(0),
            from_partition: BTreeMap::new(),
            infer: true,
            tolerance: Tolerance::default(),
            strict: false,
            trusted: Vec::new(),
            duplicates_allowed: false,
            result_key: ResultKey::RequestId,
            result_form: ResultForm::default(),
            not_finite_allowed: BTreeSet::new(),
            group: None,
            letter_bytes_max: None,
            record_bytes_max: None,
            ack_log: None,
            details_max: 20,
            held_floats_max: 32 << 20,
        }
    }

    fn start(&self, partition: Partition) -> Offset {
        self.from_partition.get(&partition).copied().unwrap_or(self.from)
    }
}

/// How far a number may be from the expected one: the sum of both bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the number's own unit.
    pub absolute: f64,
    /// As a fraction of the expected number.
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: 1e-4, relative: 1e-4 }
    }
}

/// What the key of a result is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResultKey {
    /// The request id.
    #[default]
    RequestId,
    /// The key of the request.
    RequestKey,
}

/// Hears how the audit gets on, and decides how long it waits.
pub trait Watcher {
    /// The audit begins to read a partition.
    fn reading(&mut self, topic: &str, partition: Partition, partitions: i32) {
        let _ = (topic, partition, partitions);
    }

    /// So many requests have no outcome yet. Waits a while and returns `true` if the audit is to look again, or `false` if it is not to
    /// wait any longer.
    fn look_again(&mut self, open: u64) -> bool {
        let _ = open;
        false
    }
}

/// Tells nobody, and waits for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {}

/// Why an audit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A log could not be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A topic does not exist.
    #[error("there is no topic {0:?}: name the right one, or make it with `tidemill topics create`")]
    NoTopic(String),
    /// The acknowledgement log could not be read.
    #[error("could not read the acknowledgement log {path}, line {line}: {reason}")]
    AckLog {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: u64,
        /// Why not.
        reason: String,
    },
}

/// Checks that each request in the topic when the audit begins ended exactly once, and rightly.
///
/// A fault is no error: it is in the report.
///
/// # Errors
///
/// If a topic does not exist, or a log can't be read.
pub fn audit(
    broker: &dyn Broker,
    options: &AuditOptions,
    oracle: &mut dyn Oracle,
    watcher: &mut dyn Watcher,
) -> Result<AuditReport, AuditError> {
    // Before the topic: what was acknowledged by now must be in it when it is read.
    let acks = options.ack_log.as_ref().map(|path| acks::read(path, &options.requests)).transpose()?;
    let mut audit = Audit::new(broker, options, oracle, watcher)?;
    audit.read_requests()?;
    while audit.read_outcomes()? > 0 {
        let open = audit.book.open();
        if !audit.watcher.look_again(open) {
            break;
        }
    }
    audit.compare_the_rest()?;
    audit.read_requests_again()?;
    if let Some(acks) = acks {
        audit.report.acknowledged = Some(acks.len() as u64);
        acks::check(&acks, &audit.book, &mut audit.findings);
    }
    Ok(audit.judge())
}

/// An audit under way.
struct Audit<'a> {
    broker: &'a dyn Broker,
    options: &'a AuditOptions,
    oracle: &'a mut dyn Oracle,
    watcher: &'a mut dyn Watcher,
    /// Partitions of each topic.
    partitions: BTreeMap<&'a str, i32>,
    /// Where each partition of the requests begins: what lay before was deleted.
    firsts: BTreeMap<Partition, Offset>,
    book: Book,
    expected: Expected,
    outcomes: Outcomes,
    findings: Findings,
    report: AuditReport,
}

impl<'a> Audit<'a> {
    fn new(
        broker: &'a dyn Broker,
        options: &'a AuditOptions,
        oracle: &'a mut dyn Oracle,
        watcher: &'a mut dyn Watcher,
    ) -> Result<Self, AuditError> {
        let mut admin = broker.admin()?;
        let mut partitions = BTreeMap::new();
        let mut letter_bytes_max = CLIENT_BYTES_MAX;
        for topic in [&options.requests, &options.results, &options.dlq] {
            let description = admin.describe(topic)?.ok_or_else(|| AuditError::NoTopic(topic.clone()))?;
            partitions.insert(topic.as_str(), description.partitions);
            let topic_max = description.config.get("max.message.bytes").and_then(|text| text.parse().ok());
            if topic == &options.dlq {
                letter_bytes_max = letter_bytes_max.min(topic_max.unwrap_or(usize::MAX));
            }
        }
        let requests = (0..partitions[options.requests.as_str()]).map(Partition);
        let firsts = requests
            .map(|partition| Ok((partition, Offset(admin.range(&options.requests, partition)?.first.0))))
            .collect::<Result<_, BrokerError>>()?;
        let letter_bytes_max = options.letter_bytes_max.unwrap_or(letter_bytes_max);
        Ok(Self {
            broker,
            options,
            oracle,
            watcher,
            partitions,
            firsts,
            book: Book::default(),
            expected: Expected::new(options),
            outcomes: Outcomes::new(options, letter_bytes_max),
            findings: Findings::new(&options.requests, options.details_max),
            report: AuditReport { duplicates_allowed: options.duplicates_allowed, ..AuditReport::default() },
        })
    }

    /// Reads each partition of `topic` to its end, skipping what lies before `start`.
    fn read(
        &mut self,
        topic: &'a str,
        start: impl Fn(&Self, Partition) -> Offset,
        mut each: impl FnMut(&mut Self, Partition, LogRecord<'_>),
        mut end: impl FnMut(&mut Self, Partition, NextOffset),
    ) -> Result<(), AuditError> {
        let partitions = self.partitions[topic];
        for partition in (0..partitions).map(Partition) {
            self.watcher.reading(topic, partition, partitions);
            let start = start(self, partition);
            let broker = self.broker;
            let next = broker.read(topic, partition, Isolation::ReadCommitted, &mut |record| {
                if record.offset >= start {
                    each(self, partition, record);
                }
            })?;
            end(self, partition, next);
        }
        Ok(())
    }

    fn read_requests(&mut self) -> Result<(), AuditError> {
        let options = self.options;
        self.read(
            &options.requests,
            |audit, partition| audit.options.start(partition),
            Self::open,
            |audit, partition, next| {
                let (from, first) = (audit.options.start(partition), audit.firsts[&partition]);
                audit.book.close(partition, from, first, next);
            },
        )
    }

    /// Makes the entry of a request.
    fn open(&mut self, partition: Partition, record: LogRecord<'_>) {
        let rules = Rules::new(self.options);
        let (ends, request) = ends::of(record.record, &rules, self.oracle);
        let mut entry = Entry::new(record, request.as_ref(), ends, self.options);
        self.report.requests += 1;
        if let Some(request) = request.filter(|_| self.options.infer && entry.ends.allow_result()) {
            entry.numbers = Numbers::Pending;
            if self.expected.has_room() {
                self.expected.infer(&mut entry, &request, self.oracle);
            }
        }
        self.book.push(partition, entry);
    }

    /// Reads the outcomes that have come since the last look, and returns how many requests are still without.
    fn read_outcomes(&mut self) -> Result<u64, AuditError> {
        let options = self.options;
        for topic in [&options.results, &options.dlq] {
            self.read(
                topic,
                |audit, partition| audit.outcomes.next(topic, partition),
                |audit, partition, record| {
                    let Self { outcomes, book, expected, findings, report, .. } = audit;
                    outcomes.take(topic, partition, record, book, expected, findings, report);
                },
                |audit, partition, next| audit.outcomes.read_to(topic, partition, next),
            )?;
        }
        Ok(self.book.open())
    }

    /// Runs the models on the requests that there was no room for, a slice at a time, and compares their results.
    fn compare_the_rest(&mut self) -> Result<(), AuditError> {
        let options = self.options;
        while self.book.pending() {
            self.expected.clear();
            self.book.settle();
            self.read(
                &options.requests,
                |audit, partition| audit.options.start(partition),
                Self::expect,
                |_, _, _| {},
            )?;
            self.read(
                &options.results,
                |_, _| Offset(0),
                |audit, partition, record| {
                    let Self { outcomes, book, expected, findings, .. } = audit;
                    outcomes.compare_again(partition, record, book, expected, findings);
                },
                |_, _, _| {},
            )?;
        }
        Ok(())
    }

    /// Runs the model on a request whose result has yet to be compared, while there is room.
    fn expect(&mut self, partition: Partition, record: LogRecord<'_>) {
        let Some(entry) = self.book.entry(partition, record.offset) else { return };
        if entry.is_pending() && self.expected.has_room() {
            let (_, request) = ends::of(record.record, &Rules::new(self.options), self.oracle);
            match request {
                Some(request) => self.expected.infer(entry, &request, self.oracle),
                None => entry.numbers = Numbers::Unneeded,
            }
        }
    }

    /// Reads the partitions again that have requests with a truncated letter, or have outcomes behind the audited requests: such an
    /// outcome is none of the audit's business, if its request has come since.
    fn read_requests_again(&mut self) -> Result<(), AuditError> {
        let partitions: BTreeSet<Partition> =
            self.outcomes.later.keys().chain(self.outcomes.truncated.letters.keys()).copied().collect();
        for partition in partitions {
            let mut later = self.outcomes.later.remove(&partition).unwrap_or_default();
            let truncated = &self.outcomes.truncated;
            let letters = truncated.letters.get(&partition);
            let requests = &self.options.requests;
            self.broker.read(requests, partition, Isolation::ReadCommitted, &mut |record| {
                if let Some(found) = later.remove(&record.offset) {
                    self.report.outside += found.len() as u64;
                }
                for cut in letters.and_then(|letters| letters.get(&record.offset)).into_iter().flatten() {
                    if let Some(what) = truncated.complaint(record.record, cut)
                        && let Some(entry) = self.book.entry(partition, record.offset)
                    {
                        let origin = Some((partition, record.offset));
                        self.findings.wrong(entry.note_wrong(), origin, Some(cut.place.clone()), what);
                    }
                }
            })?;
            for (offset, places) in later {
                for place in places {
                    let what = "there is no such request".to_owned();
                    self.findings.add(FaultKind::Unexpected, Some((partition, offset)), Some(place), what);
                }
            }
        }
        Ok(())
    }

    /// Says what became of each request, now that everything is known.
    fn judge(mut self) -> AuditReport {
        self.book.judge(&mut self.findings);
        self.report.repeated_request_ids = self.book.repeated_request_ids();
        self.report.inferred = self.expected.inferred;
        self.report.oracle_failure = self.expected.failure.take();
        self.report.largest_difference = self.expected.largest_difference;
        self.findings.into_report(self.report)
    }
}

#[cfg(test)]
mod tests;
