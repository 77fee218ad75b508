//! What an executor does with a batch: gather its rows, run the model, encode an outcome for each row.
//!
//! One poison row never takes its batch with it: see `isolate.rs`. A row that is to blame becomes a dead letter. If the device is broken, no
//! row gets an outcome for that, and what is left of the batch goes back to be tried again.
//!
//! A run that had to be cancelled because it took too long is no different, except that its rows then run one by one. One that does not
//! even return when it is cancelled leaves this executor without anybody who waits for it; see [`crate::watch`].

mod isolate;
mod sessions;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use self::isolate::{Isolation, Stop};
use self::sessions::{Calls, Failed, Sessions};
use crate::block::{Block, TRACEPARENT};
use crate::catalog::{BatchPolicy, ModelIndex};
use crate::clock::{Clock, Moment};
use crate::codec::facts::{BatchFacts, RowFacts};
use crate::codec::form::ResultForm;
use crate::codec::json;
use crate::codec::results::Results;
use crate::cost::Sample;
use crate::dead_letter::{Reason, Stage, Verdict};
use crate::device::{Batch, Executed, Left};
use crate::journal::{Journal, Name};
use crate::letters::Letters;
use crate::model::{Backend, ModelFile, RunError};
use crate::observe::{BatchSeen, CloseReason, Observer, RowSeen};
use crate::outcome::{Kind, Outcomes};
use crate::records::Size;
use crate::tensor::Column;
use crate::tuning::Tuning;
use crate::watch::Watch;

/// What the executors of a process share.
#[derive(Clone)]
pub struct ExecuteParts {
    /// What opens models.
    pub backend: Arc<dyn Backend>,
    /// The device that they run on.
    pub device: usize,
    /// The file of each model that is placed there.
    pub files: Arc<BTreeMap<ModelIndex, ModelFile>>,
    /// The most bytes of model files that an executor keeps open, if there is a bound.
    pub open_bytes_max: Option<u64>,
    /// How dead letters are written.
    pub letters: Letters,
    /// The requests topic, which results name as their origin's.
    pub topic: Arc<str>,
    /// The largest result that the results topic takes: key, value and headers, in bytes.
    pub result_bytes_max: usize,
    /// Whether the key of a result is its request's own key, which keeps a key's results in one partition, rather than its request id.
    pub result_key_is_request_key: bool,
    /// In which form results are written.
    pub result_form: ResultForm,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// What was changed of when batches close.
    pub tuning: Arc<Tuning>,
    /// Where what runs is written down, if anywhere.
    pub journal: Option<Arc<Journal>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What takes longer is no hand-over: the device was broken, or the breaker held.
const HANDOFF_MAX: Duration = Duration::from_millis(100);

/// One executor: its sessions and its buffers. It runs one batch at a time.
pub struct Executor {
    parts: ExecuteParts,
    sessions: Sessions,
    /// How much the outcomes of the last batch took.
    usual: Size,
    /// Since when it has had nothing to do, or when its last batch was over.
    free_since: Moment,
}

impl Executor {
    /// An executor that has opened nothing yet.
    pub fn new(parts: ExecuteParts) -> Self {
        Self { sessions: Sessions::new(&parts), parts, usual: Size::default(), free_since: Moment::START }
    }

    /// Opens every model that there is room for, so that no batch waits for it. One that does not open now is tried again when it is
    /// needed.
    pub fn warm_up(&mut self) {
        for (model, file) in self.parts.files.iter() {
            if !self.sessions.has_room_for(file) {
                tracing::info!(
                    model = file.id,
                    "model opened when it is needed: there is no room to keep all of them open"
                );
                continue;
            }
            if let Err(error) = self.sessions.open(*model) {
                tracing::error!(model = file.id, %error, "an executor could not open a model that is served");
            }
        }
    }

    /// What is to keep watch over its runs.
    pub fn watch(&self) -> Arc<Watch> {
        self.sessions.watch()
    }

    /// Runs a batch, and gives each of its rows an outcome, or gives rows back if the device is broken. `None` if the executor was given
    /// up meanwhile: then nobody waits for this batch, and the executor is not to be used again.
    pub fn execute(&mut self, batch: &Batch) -> Option<Executed> {
        let executed = self.run(batch);
        // Not before: what can crash with a row is not the model alone.
        self.sessions.clear_slot();
        if let Some(journal) = &self.parts.journal {
            journal.returned(batch.each_row().map(|(block, row, _)| Name::of(block, row)));
        }
        self.free_since = self.parts.clock.now();
        executed
    }

    /// For how long a batch that begins now could have been running, had nobody had to hand it over: both its rows and the executor were
    /// there. Not known of one for which an objective says how long rows wait.
    fn handoff(&self, batch: &Batch, started: Moment) -> Option<Duration> {
        let polled = batch.runs.iter().map(|run| run.block.polled.polled_at);
        let policy = self.parts.tuning.policy(batch.model, batch.served.batch);
        let ready = match (batch.closed, policy) {
            (CloseReason::Full, _) => polled.max()?,
            (CloseReason::Deadline, BatchPolicy::Static { delay_max, .. }) => polled.min()?.after(delay_max),
            _ => return None,
        };
        Some(started.since(ready.max(self.free_since))).filter(|time| *time <= HANDOFF_MAX)
    }

    fn run(&mut self, batch: &Batch) -> Option<Executed> {
        let started = self.parts.clock.now();
        let book = Book::new(&self.parts, batch, started, self.usual);
        let mut isolation = Isolation::new(&mut self.sessions, batch, book);
        let broken = match isolation.run() {
            Ok(()) => None,
            Err(Stop::Broken(device)) => Some(device),
            Err(Stop::GivenUp) => return None,
        };
        let left: Vec<Range<usize>> = isolation.left().collect();
        let Isolation { book, calls, .. } = isolation;
        let (outcomes, seen) = book.close();
        if let Some((_, largest)) = outcomes.iter().max_by_key(|(_, outcomes)| outcomes.len()) {
            self.usual = largest.size();
        }
        let took = self.parts.clock.now().since(started);
        self.parts.observer.batch(&BatchSeen {
            model: batch.model,
            id: &batch.served.id,
            closed: batch.closed,
            calls: calls.count,
            padded: calls.padded,
            inference: calls.time,
            took,
            handoff: self.handoff(batch, started),
            rows: &seen,
        });
        let left = broken.map(|RunError(reason)| {
            let runs = left.into_iter().flat_map(|range| batch.cut(range)).collect();
            let closed = CloseReason::Retry;
            Left::Broken(Batch { runs, closed, attempt: batch.attempt + 1, ..batch.clone() }, reason)
        });
        let sample = (calls.count == 1 && left.is_none()).then_some(Sample { rows: seen.len(), took });
        Some(Executed { id: batch.id, outcomes, left, inference: calls.time, sample })
    }
}

/// The outcomes of a batch as they come to be.
struct Book<'a> {
    parts: &'a ExecuteParts,
    batch: &'a Batch,
    rows: Vec<(&'a Arc<Block>, usize, u64)>,
    started: Moment,
    outcomes: Vec<(u64, Outcomes)>,
    usual: Size,
    /// What is told of the rows that have an outcome.
    seen: Vec<RowSeen<'a>>,
}

impl<'a> Book<'a> {
    fn new(parts: &'a ExecuteParts, batch: &'a Batch, started: Moment, usual: Size) -> Self {
        let mut rows = Vec::with_capacity(batch.rows());
        rows.extend(batch.each_row());
        let seen = Vec::with_capacity(rows.len());
        Self { parts, batch, rows, started, outcomes: Vec::new(), usual, seen }
    }

    /// The outcomes of one home worker and epoch.
    fn page(&mut self, home: usize, epoch: u64) -> &mut Outcomes {
        let found = self.outcomes.iter().rposition(|(at, page)| *at == epoch && page.home == home);
        let place = found.unwrap_or_else(|| {
            let mut page = Outcomes::new(home);
            page.reserve_like(self.usual);
            self.outcomes.push((epoch, page));
            self.outcomes.len() - 1
        });
        &mut self.outcomes[place].1
    }

    fn time(&mut self, block: &'a Block, row: usize, now: Moment) -> (Duration, Duration) {
        let polled_at = block.polled.polled_at;
        let (queue, total) = (self.started.since(polled_at), now.since(polled_at));
        self.seen.push(RowSeen { tenant: block.tenant_id(row), queue, total });
        (queue, total)
    }

    fn results(&mut self, range: Range<usize>, outputs: &[Column], inference: Duration) {
        let now = self.parts.clock.now();
        let served = &self.batch.served;
        let inferred_at = json::rfc3339_micros(self.parts.clock.wall_micros());
        let facts = BatchFacts {
            model_id: &served.id,
            model_version: &served.version,
            topic: &self.parts.topic,
            batch_size: range.len(),
            inference,
            inferred_at: &inferred_at,
            not_finite: served.not_finite,
            outputs: &served.signature.outputs,
            columns: outputs,
        };
        let results = Results::new(facts);
        for (index, place) in range.enumerate() {
            let (block, row, epoch) = self.rows[place];
            let (queue, latency) = self.time(block, row, now);
            let (lease, offset) = block.origin(row);
            let (request_id, tenant_id) = (block.request_id(row), block.tenant_id(row));
            let facts =
                RowFacts { request_id, tenant_id, partition: lease.partition, offset, latency, queue, index };
            let original = block.polled.records.get(block.rows[row].record as usize);
            let traceparent = if block.traced { original.header(TRACEPARENT).flatten() } else { None };
            let mut written = Ok(0);
            let (own_key, form) = (self.parts.result_key_is_request_key, self.parts.result_form.of(original));
            let result_bytes_max = self.parts.result_bytes_max;
            let page = self.page(block.home, epoch);
            page.push(lease, offset, Kind::Result, |records| {
                let key = if own_key { original.key() } else { Some(request_id.as_bytes()) };
                records.push_with(key, |out| {
                    written = results.encode(form, &facts, out);
                });
                records.push_header(b"model_id", Some(served.id.as_bytes()));
                records.push_header(b"tenant_id", Some(tenant_id.as_bytes()));
                if let Ok(json) = written {
                    results.headers(form, &facts, json, records);
                }
                if let Some(traceparent) = traceparent {
                    records.push_header(TRACEPARENT, Some(traceparent));
                }
            });
            let size = page.record(page.len() - 1).payload_bytes();
            if let Err(error) = written {
                page.pop();
                self.letter(place, Reason::NotFinite, Stage::Encode, &error.to_string());
            } else if size > result_bytes_max {
                page.pop();
                let message =
                    format!("the result has {size} bytes, and the results topic takes {result_bytes_max}");
                self.letter(place, Reason::ResultTooLarge, Stage::Encode, &message);
            }
        }
    }

    /// The row at `place` failed alone, on a device that works.
    fn failure(&mut self, place: usize, failure: &Failed) {
        let (block, row, _) = self.rows[place];
        self.time(block, row, self.parts.clock.now());
        match failure {
            Failed::Run(RunError(message)) => {
                self.letter(place, Reason::InferenceFailed, Stage::Infer, message);
            }
            Failed::Overran(_) | Failed::GivenUp => {
                let max = self.batch.served.limits.run_max.unwrap_or_default();
                let message = format!(
                    "a run of the model on this row alone took longer than {max:?} and was cancelled"
                );
                self.letter(place, Reason::DeadlineExceeded, Stage::Infer, &message);
            }
        }
    }

    fn letter(&mut self, place: usize, reason: Reason, stage: Stage, message: &str) {
        let (block, row, epoch) = self.rows[place];
        let verdict = Verdict {
            reason,
            stage,
            message,
            model: Some(&self.batch.served.id),
            model_version: Some(&self.batch.served.version),
            tenant: Some(block.tenant_id(row)),
            attempt: self.batch.attempt,
            failed_at_micros: 0,
        };
        let letters = &self.parts.letters;
        letters.write(self.page(block.home, epoch), &block.polled, block.rows[row].record as usize, &verdict);
    }

    fn close(mut self) -> (Vec<(u64, Outcomes)>, Vec<RowSeen<'a>>) {
        self.outcomes.iter_mut().for_each(|(_, page)| page.fit());
        (self.outcomes, self.seen)
    }
}

#[cfg(test)]
mod tests;
