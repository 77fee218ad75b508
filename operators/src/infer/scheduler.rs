//! What of the infer operator decides: which batch the device gets next, and what becomes of what it gives back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::operators::Capability;

use super::closing::Closing;
use super::under_way::{UnderWay, ranges};
use super::{BROKEN_DEVICE, InferParts};
use crate::block::Block;
use crate::catalog::{ModelIndex, Served};
use crate::clock::Moment;
use crate::dead_letter::Reason;
use crate::device::{Batch, Device, Executed, Left};
use crate::fair::Fair;
use crate::gate::{Gate, Late};
use crate::journal::{ALONE_AFTER, LETTER_AFTER, Name};
use crate::letters::Ending;
use crate::observe::{CloseReason, Observer};
use crate::outcome::Outcomes;
use crate::policy::Decision;
use crate::window::{Run, Taken, Window};

/// The first and the longest pause before a broken device is tried again.
pub(super) const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Over how many executors a row is given up that runs alone: over the second, because a row may also have been unlucky.
const HANGS_MAX: u32 = 2;

/// Where outcomes go, each under the capability of its epoch.
pub(super) type Give<'a> = dyn FnMut(&Capability<u64>, Outcomes) + 'a;

/// The windows of the models on one device, and the batches under way there.
pub(super) struct Scheduler {
    parts: InferParts,
    /// How the device is numbered, and the condition that stands while it is broken.
    number: usize,
    condition: String,
    device: Box<dyn Device>,
    windows: BTreeMap<ModelIndex, Window<Capability<u64>>>,
    gate: Gate<Capability<u64>>,
    fair: Fair,
    closing: Closing,
    /// Batches of a row each, which come before any window's.
    singles: VecDeque<UnderWay<Capability<u64>>>,
    /// Rows that may bring the process down: each runs with nothing beside it, before anything else.
    suspects: VecDeque<UnderWay<Capability<u64>>>,
    /// Rows that have, as often as they may.
    condemned: Vec<Run<Capability<u64>>>,
    under_way: BTreeMap<u64, UnderWay<Capability<u64>>>,
    next_id: u64,
    broken: Option<Broken>,
    /// Until when no row has to answer for the time that has passed: the device was broken, or the breaker held.
    excused: Moment,
}

/// What waits for a broken device to work again.
struct Broken {
    /// Batches under way, by their ids.
    left: VecDeque<u64>,
    pause: Duration,
    again: Moment,
    /// The batch that tries whether the device works again. Others may still be under way from before it broke.
    trial: Option<u64>,
}

impl Scheduler {
    /// Nothing waits yet before this device, which is numbered so.
    pub(super) fn new(parts: InferParts, number: usize, device: Box<dyn Device>) -> Self {
        let closing = Closing::new(number);
        let condition = if parts.catalog.devices() > 1 {
            format!("{BROKEN_DEVICE}-{number}")
        } else {
            BROKEN_DEVICE.to_owned()
        };
        let gate = Gate::new(Arc::clone(&parts.allowances));
        Self {
            gate,
            parts,
            number,
            condition,
            device,
            windows: BTreeMap::new(),
            fair: Fair::new(),
            closing,
            singles: VecDeque::new(),
            suspects: VecDeque::new(),
            condemned: Vec::new(),
            under_way: BTreeMap::new(),
            next_id: 0,
            broken: None,
            excused: Moment::START,
        }
    }

    pub(super) fn push(&mut self, block: Arc<Block>, capability: Capability<u64>) {
        let model = block.model;
        let served = self.parts.catalog.served(model).expect("decode makes blocks of served models only");
        let served = Arc::clone(served);
        self.closing.serve(model, &served, &*self.parts.observer);
        self.windows.entry(model).or_insert_with(|| {
            self.fair.weigh(model, self.parts.allowances.shares().of_model(&served.id));
            Window::new(Arc::clone(self.parts.allowances.shares()), served.bytes_max)
        });
        let rows = 0..block.len();
        if let Some(journal) = self.parts.journal.clone().filter(|journal| journal.has_suspects()) {
            let crashes: Vec<u32> = rows.clone().map(|row| journal.crashes(&Name::of(&block, row))).collect();
            for rows in ranges(rows.clone(), |row| crashes[row] < ALONE_AFTER) {
                self.admit(Arc::clone(&block), rows, capability.clone());
            }
            for row in rows.filter(|row| crashes[*row] >= ALONE_AFTER) {
                let run = Run { block: Arc::clone(&block), rows: row..row + 1, token: capability.clone() };
                if crashes[row] >= LETTER_AFTER {
                    self.condemned.push(run);
                } else {
                    let mut suspect = of_runs(&served, model, vec![run], CloseReason::Retry);
                    suspect.alone = true;
                    self.suspects.push_back(suspect);
                }
            }
        } else {
            self.admit(block, rows, capability);
        }
        self.parts.observer.queued(model, self.number, self.windows[&model].rows());
    }

    /// Lets rows into their window, as far as the bounds of their tenants allow.
    fn admit(&mut self, block: Arc<Block>, rows: Range<usize>, token: Capability<u64>) {
        let window = self.windows.get_mut(&block.model).expect("it was made before");
        if self.gate.is_open() {
            return window.push(block, rows, token);
        }
        let deadline = self.parts.catalog.served(block.model).and_then(|served| served.limits.deadline);
        let admission = self.gate.admit(&block, rows, &token, deadline, self.parts.clock.now());
        for rows in admission.pass {
            window.push(Arc::clone(&block), rows, token.clone());
        }
        for rows in admission.parked {
            tell_parked(&*self.parts.observer, &block, rows, 1);
        }
    }

    /// Lets those parked rows into their windows whose time has come.
    fn release(&mut self) {
        for Run { block, rows, token } in self.gate.release(self.parts.clock.now()) {
            tell_parked(&*self.parts.observer, &block, rows.clone(), -1);
            let model = block.model;
            let window = self.windows.get_mut(&model).expect("what is parked was before its window");
            window.push(block, rows, token);
            self.parts.observer.queued(model, self.number, window.rows());
        }
    }

    /// Makes dead letters of what was over the bounds of its tenant for as long as it may be.
    fn end_late(&mut self, now: Moment, give: &mut Give<'_>) {
        for Late { run, limit } in self.gate.take_late(self.excused, now) {
            tell_parked(&*self.parts.observer, &run.block, run.rows.clone(), -1);
            let tenant = run.block.tenant_id(run.rows.start);
            let share = self.parts.allowances.shares().of(tenant);
            self.parts.observer.over_quota(tenant, run.rows.len());
            let message =
                format!("its tenant may have {} at most, and it may wait {limit:?}", share.bounds());
            let served = self.served(run.block.model);
            let ending = Ending { served: &served, reason: Reason::OverQuota, message: &message, attempt: 1 };
            self.end(&ending, vec![run], give);
        }
    }

    fn served(&self, model: ModelIndex) -> Arc<Served> {
        Arc::clone(self.parts.catalog.served(model).expect("decode makes blocks of served models only"))
    }

    /// Makes dead letters of what has brought the process down as often as it may.
    pub(super) fn end_condemned(&mut self, give: &mut Give<'_>) {
        for run in std::mem::take(&mut self.condemned) {
            let served = &self.served(run.block.model);
            let message = format!("it was being inferred when a process died, {LETTER_AFTER} times");
            let ending =
                Ending { served, reason: Reason::Crashed, message: &message, attempt: LETTER_AFTER + 1 };
            self.end(&ending, vec![run], give);
        }
    }

    /// Gives the outcomes of the batches that came back.
    pub(super) fn finished(&mut self, give: &mut Give<'_>) {
        while let Some(Executed { id, outcomes, left, inference, sample }) = self.device.finished() {
            let mut under_way = self.under_way.remove(&id).expect("a device gives back what was submitted");
            if let Some(booking) = under_way.booking.take() {
                self.fair.finished(booking, inference);
            }
            if let Some(bill) = under_way.bill.take() {
                let window = self.windows.get_mut(&under_way.batch.model).expect("a batch is of a window");
                window.settle(bill, inference);
            }
            if let Some(sample) = sample {
                self.closing.learn(under_way.batch.model, sample, &*self.parts.observer);
            }
            for (epoch, outcomes) in outcomes {
                if let Some(outcomes) = under_way.wanted(outcomes) {
                    self.gate.ended(&outcomes, self.parts.clock.now());
                    give(under_way.token(epoch), outcomes);
                }
            }
            match left {
                Some(Left::Broken(batch, reason)) => self.suspend(id, batch, under_way, &reason),
                Some(Left::Hung { rows: true }) => {
                    self.isolate(under_way, give);
                    self.recover(id);
                }
                Some(Left::Hung { rows: false }) => {
                    let whole = under_way.batch.clone();
                    self.suspend(id, whole, under_way, "a run of a good row does not return");
                }
                None => self.recover(id),
            }
        }
    }

    /// Keeps what a broken device left, with its capabilities.
    fn suspend(&mut self, id: u64, left: Batch, mut under_way: UnderWay<Capability<u64>>, reason: &str) {
        let now = self.parts.clock.now();
        let (model, rows) = (Arc::clone(&left.served), left.rows());
        under_way.give_back(left);
        if under_way.batch.runs.is_empty() {
            return; // each of its rows has ended by its deadline, before the device was known to be broken
        }
        let broken = self.broken.get_or_insert_with(|| Broken {
            left: VecDeque::new(),
            pause: BACK_OFF.0,
            again: now.after(BACK_OFF.0),
            trial: None,
        });
        if broken.trial == Some(id) {
            broken.pause = (broken.pause * 2).min(BACK_OFF.1);
            broken.again = now.after(broken.pause);
            broken.trial = None;
        }
        tracing::error!(model = model.id, reason, rows, pause = ?broken.pause, "device failed on a good row");
        self.parts.health.set_unready(&self.condition, reason);
        self.under_way.insert(id, under_way);
        broken.left.push_back(id);
    }

    /// A batch is over: if that was the trial of a broken device, it works again.
    fn recover(&mut self, id: u64) {
        if let Some(broken) = &mut self.broken
            && broken.trial == Some(id)
        {
            broken.trial = None;
            broken.again = Moment::START;
            broken.pause = BACK_OFF.0;
            if broken.left.is_empty() {
                self.broken = None;
                self.excused = self.parts.clock.now();
                self.parts.health.clear(&self.condition);
                tracing::info!("device works again");
            }
        }
    }

    /// An executor was given up over this batch. Each of its rows runs by itself from now on, and one over which that happens again is
    /// to blame: the others lose nothing but time.
    fn isolate(&mut self, mut under_way: UnderWay<Capability<u64>>, give: &mut Give<'_>) {
        let batch = &mut under_way.batch;
        batch.hangs += 1;
        if batch.rows() == 1 && batch.hangs >= HANGS_MAX {
            let (served, attempt) = (Arc::clone(&batch.served), batch.attempt);
            let message = "the model does not return from this row alone, not even when it is cancelled";
            let reason = Reason::DeadlineExceeded;
            let ending = Ending { served: &served, reason, message, attempt };
            return self.end(&ending, under_way.take_all(), give);
        }
        batch.attempt += 1;
        batch.closed = CloseReason::Retry;
        let alone = under_way.alone;
        let queue = if alone { &mut self.suspects } else { &mut self.singles };
        queue.extend(under_way.singly());
    }

    /// Ends the rows that are overdue. Nobody is blamed for the time in which the process took no work.
    pub(super) fn expire(&mut self, give: &mut Give<'_>) {
        let now = self.parts.clock.now();
        if self.broken.is_some() {
            self.excused = now;
        } else if let Some(until) = self.parts.letters.breaker.held_until(now) {
            self.excused = until;
        } else {
            self.end_late(now, give);
            for (served, attempt, runs) in self.overdue(now) {
                let deadline = served.limits.deadline.unwrap_or_default();
                let message = format!("there was no outcome {deadline:?} after the request was polled");
                let reason = Reason::DeadlineExceeded;
                self.end(&Ending { served: &served, reason, message: &message, attempt }, runs, give);
            }
        }
    }

    /// The overdue rows of every window and of every batch under way, with their model and the attempt at them.
    fn overdue(&mut self, now: Moment) -> Vec<(Arc<Served>, u32, Vec<Run<Capability<u64>>>)> {
        let mut overdue = Vec::new();
        for (model, window) in &mut self.windows {
            let served = self.parts.catalog.served(*model).expect("a window is of a served model");
            let Some(deadline) = served.limits.deadline else { continue };
            let runs = window.take_overdue(deadline, self.excused, now);
            if !runs.is_empty() {
                self.parts.observer.queued(*model, self.number, window.rows());
                overdue.push((Arc::clone(served), 1, runs));
            }
        }
        let waiting = self.singles.iter_mut().chain(&mut self.suspects);
        for waiting in waiting.chain(self.under_way.values_mut()) {
            let served = Arc::clone(&waiting.batch.served);
            let Some(deadline) = served.limits.deadline else { continue };
            let runs = waiting.take_overdue(deadline, self.excused, now);
            if !runs.is_empty() {
                overdue.push((served, waiting.batch.attempt, runs));
            }
        }
        self.singles.retain(|single| !single.batch.runs.is_empty());
        self.suspects.retain(|suspect| !suspect.batch.runs.is_empty());
        overdue
    }

    /// Makes dead letters of these rows.
    fn end(&mut self, ending: &Ending<'_>, runs: Vec<Run<Capability<u64>>>, give: &mut Give<'_>) {
        for run in runs {
            let letters = self.parts.letters.of_run(&run, ending);
            self.gate.ended(&letters, self.parts.clock.now());
            give(&run.token, letters);
        }
    }

    /// Submits what the device has room for, and returns when to look again.
    pub(super) fn submit(&mut self, closing: bool) -> Moment {
        self.release();
        self.submit_ready(closing).min(self.overdue_at()).min(self.device.due()).min(self.gate.due())
    }

    /// When the next row will be overdue. While a row can't be, because the device is broken, this is no reason to look.
    fn overdue_at(&self) -> Moment {
        if self.broken.is_some() {
            return Moment::NEVER;
        }
        let windows = self.windows.iter().filter_map(|(model, window)| {
            Some(window.overdue_at(self.parts.catalog.served(*model)?.limits.deadline?, self.excused))
        });
        let batches =
            self.singles.iter().chain(&self.suspects).chain(self.under_way.values()).filter_map(|waiting| {
                Some(waiting.overdue_at(waiting.batch.served.limits.deadline?, self.excused))
            });
        windows.chain(batches).chain([self.gate.late_at(self.excused)]).min().unwrap_or(Moment::NEVER)
    }

    fn submit_ready(&mut self, closing: bool) -> Moment {
        let now = self.parts.clock.now();
        if let Some(until) = self.parts.letters.breaker.held_until(now) {
            return until;
        }
        if let Some(again) = self.try_broken(now) {
            return again;
        }
        if self.waits_for_suspect() {
            return Moment::NEVER; // a finished batch wakes the operator
        }
        while self.device.room() > 0 {
            if let Some(single) = self.singles.pop_front() {
                self.submit_one(single);
                continue;
            }
            let decisions = self.decisions(now, closing);
            let ready: Vec<ModelIndex> = decisions
                .iter()
                .filter(|(_, decision)| matches!(decision, Decision::Close { .. }))
                .map(|(model, _)| *model)
                .collect();
            let next = self.fair.next(&ready);
            match next.map(|model| (model, decisions[&model])) {
                Some((model, Decision::Close { reason, rows })) => {
                    let batch = self.close(model, reason, rows);
                    self.submit_one(batch);
                }
                _ => return earliest(&decisions),
            }
        }
        Moment::NEVER // a finished batch wakes the operator
    }

    /// What each window does now.
    fn decisions(&mut self, now: Moment, draining: bool) -> BTreeMap<ModelIndex, Decision> {
        let on_device = self.under_way.values().filter(|batch| batch.booking.is_some()).count();
        self.closing.busy(now, on_device, self.device.executors());
        let decide = |(model, window): (&ModelIndex, &Window<_>)| {
            let served = self.parts.catalog.served(*model)?.batch;
            let policy = self.parts.tuning.policy(*model, served);
            Some((*model, self.closing.decide(*model, policy, window, now, draining)?))
        };
        self.windows.iter().filter_map(decide).collect()
    }

    /// Submits a suspect once nothing else is on the device; tells whether others have to wait for one.
    fn waits_for_suspect(&mut self) -> bool {
        if let Some(first) = self.under_way.values().find(|batch| batch.booking.is_some()) {
            return first.alone || !self.suspects.is_empty();
        }
        let suspect = self.suspects.pop_front();
        let waits = suspect.is_some();
        suspect.into_iter().for_each(|suspect| self.submit_one(suspect));
        waits
    }

    /// Tries whether a broken device works again, if it is time to; returns when to look again while it is broken.
    fn try_broken(&mut self, now: Moment) -> Option<Moment> {
        let broken = self.broken.as_mut()?;
        if broken.trial.is_some() {
            return Some(Moment::NEVER);
        }
        if now < broken.again || self.device.room() == 0 {
            return Some(broken.again.max(now.after(Duration::from_millis(1))));
        }
        let id = broken.left.pop_front().expect("a device is broken only while something is left");
        broken.trial = Some(id);
        let under_way = self.under_way.get_mut(&id).expect("what is left keeps its capabilities");
        under_way.booking = Some(self.fair.submitted(under_way.batch.model));
        self.device.submit(under_way.batch.clone());
        Some(Moment::NEVER)
    }

    /// Makes a batch of rows in a window.
    fn close(&mut self, model: ModelIndex, closed: CloseReason, rows: usize) -> UnderWay<Capability<u64>> {
        let window = self.windows.get_mut(&model).expect("a ready model has a window");
        let Taken { runs, bill } = window.take(rows, self.closing.price(model, rows));
        self.parts.observer.queued(model, self.number, window.rows());
        let served = self.parts.catalog.served(model).expect("a window is of a served model");
        let mut batch = of_runs(served, model, runs, closed);
        batch.bill = bill;
        batch
    }

    fn submit_one(&mut self, mut under_way: UnderWay<Capability<u64>>) {
        let id = self.next_id;
        self.next_id += 1;
        under_way.batch.id = id;
        under_way.booking = Some(self.fair.submitted(under_way.batch.model));
        let batch = &under_way.batch;
        let (rows, reason) = (batch.rows(), batch.closed.name());
        tracing::debug!(model = batch.served.id, batch = id, rows, reason, "batch submitted");
        self.device.submit(batch.clone());
        self.under_way.insert(id, under_way);
    }
}

/// Tells of each tenant how many of these rows wait before the gate from now on, or do no more.
fn tell_parked(observer: &dyn Observer, block: &Block, rows: Range<usize>, sign: i64) {
    for (tenant, rows) in block.tenants(rows) {
        observer.parked(tenant, sign * i64::try_from(rows.len()).unwrap_or(i64::MAX));
    }
}

/// When to look again at windows of which none closes now.
fn earliest(decisions: &BTreeMap<ModelIndex, Decision>) -> Moment {
    let moments = decisions.values().filter_map(|decision| match decision {
        Decision::Wait(moment) => Some(*moment),
        Decision::Close { .. } => None,
    });
    moments.min().unwrap_or(Moment::NEVER)
}

/// A batch of these rows, not submitted yet.
fn of_runs(
    served: &Arc<Served>,
    model: ModelIndex,
    runs: Vec<Run<Capability<u64>>>,
    closed: CloseReason,
) -> UnderWay<Capability<u64>> {
    let mut capabilities = BTreeMap::new();
    let runs = runs
        .into_iter()
        .map(|Run { block, rows, token }| {
            let epoch = *token.time();
            capabilities.entry(epoch).or_insert(token);
            Run { block, rows, token: epoch }
        })
        .collect();
    let served = Arc::clone(served);
    UnderWay::new(Batch { id: 0, model, served, runs, closed, attempt: 1, hangs: 0 }, capabilities)
}
