//! The models that an executor has open, within a bound, and how it runs them.
//!
//! Without a bound every model stays open. With one, a model that is needed and not open takes the room of those that were not used for
//! the longest; a batch that meets a closed model waits until it is open, which is not counted as time of the model.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::ExecuteParts;
use crate::catalog::ModelIndex;
use crate::clock::Clock;
use crate::device::Batch;
use crate::journal::{Journal, Name, Slot};
use crate::model::{Backend, Model, ModelFile, RunError};
use crate::observe::Observer;
use crate::tensor::{Column, Dtype};
use crate::watch::{Ended, Running, Watch};
use crate::window::Run;

/// The models that an executor has open, and the buffers that it runs them with.
pub(super) struct Sessions {
    backend: Arc<dyn Backend>,
    device: usize,
    files: Arc<BTreeMap<ModelIndex, ModelFile>>,
    bytes_max: Option<u64>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    watch: Arc<Watch>,
    slot: Option<Slot>,
    open: BTreeMap<ModelIndex, Session>,
    /// How often a model was asked for.
    uses: u64,
    inputs: Vec<Column>,
    outputs: Vec<Column>,
}

struct Session {
    model: Box<dyn Model>,
    bytes: u64,
    /// The use at which it was asked for last.
    used: u64,
}

/// The time and the number of a batch's calls, and what they computed in vain.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) count: u32,
    pub(super) time: Duration,
    /// Rows that were computed to fill runs up.
    pub(super) padded: usize,
}

/// Why a run has given nothing.
pub(super) enum Failed {
    /// It failed.
    Run(RunError),
    /// It took longer than it may, and failed when it was cancelled.
    Overran(RunError),
    /// It returned after its executor was given up.
    GivenUp,
}

impl Sessions {
    /// Nothing is open yet.
    pub(super) fn new(parts: &ExecuteParts) -> Self {
        Self {
            backend: Arc::clone(&parts.backend),
            device: parts.device,
            files: Arc::clone(&parts.files),
            bytes_max: parts.open_bytes_max,
            observer: Arc::clone(&parts.observer),
            clock: Arc::clone(&parts.clock),
            watch: Arc::default(),
            slot: parts.journal.as_ref().map(Journal::slot),
            open: BTreeMap::new(),
            uses: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// What is to keep watch over the runs.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// The outputs of the last run.
    pub(super) fn outputs(&self) -> &[Column] {
        &self.outputs
    }

    /// Nothing of a batch runs any more.
    pub(super) fn clear_slot(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.clear();
        }
    }

    /// Whether a model can be open beside all that are.
    pub(super) fn has_room_for(&self, file: &ModelFile) -> bool {
        let open: u64 = self.open.values().map(|session| session.bytes).sum();
        self.bytes_max.is_none_or(|max| open.saturating_add(file.bytes) <= max)
    }

    /// A model, which is opened if it is not open; for it those are closed that were not used for the longest.
    pub(super) fn open(&mut self, model: ModelIndex) -> Result<&mut dyn Model, RunError> {
        self.uses += 1;
        if !self.open.contains_key(&model) {
            let files = Arc::clone(&self.files);
            let file = files.get(&model).ok_or_else(|| RunError("the model has no file".to_owned()))?;
            self.make_room_for(file);
            let opened =
                self.backend.open_on(file, self.device).map_err(|error| RunError(error.to_string()))?;
            self.observer.opened(model);
            self.open.insert(model, Session { model: opened, bytes: file.bytes, used: 0 });
        }
        let session = self.open.get_mut(&model).expect("it was opened above");
        session.used = self.uses;
        Ok(&mut *session.model)
    }

    fn make_room_for(&mut self, file: &ModelFile) {
        while !self.has_room_for(file) {
            let oldest = self.open.iter().min_by_key(|(_, session)| session.used);
            let Some(oldest) = oldest.map(|(model, _)| *model) else {
                return; // a model that never fits is not served
            };
            self.open.remove(&oldest);
            self.observer.closed(oldest);
            tracing::debug!(closed = self.files[&oldest].id, opened = file.id, "model closed to make room");
        }
    }

    /// Runs the rows in `range`, whose outputs are then in [`Sessions::outputs`].
    pub(super) fn run(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        calls: &mut Calls,
    ) -> Result<(), Failed> {
        // Nobody's record is to blame for what happens when a model is opened.
        self.open(batch.model).map_err(Failed::Run)?;
        let runs = batch.cut(range.clone());
        if let Some(slot) = &mut self.slot {
            slot.write(runs.iter().flat_map(|run| run.rows.clone().map(|row| Name::of(&run.block, row))));
        }
        self.gather(batch, &runs);
        self.call(batch, Running::Rows(batch.id), range.len(), calls)
    }

    /// The inputs of these rows, one behind the other; of an input that they share, the first's.
    fn gather(&mut self, batch: &Batch, runs: &[Run<u64>]) {
        let specs = &batch.served.signature.inputs;
        self.inputs.resize_with(specs.len(), || Column::new(Vec::new(), Dtype::F32));
        for (place, (input, spec)) in self.inputs.iter_mut().zip(specs).enumerate() {
            input.reset(&runs[0].block.columns[place].axes, spec.dtype);
            for run in if spec.is_batched() { runs } else { &runs[..1] } {
                let (column, row_len) = (&run.block.columns[place], input.row_len());
                let rows = if spec.is_batched() { run.rows.clone() } else { 0..1 };
                input.values.push_of(&column.values, rows.start * row_len..rows.end * row_len);
            }
        }
    }

    /// Runs a row of zeros, as when the model was opened.
    pub(super) fn known_good_row(&mut self, batch: &Batch, calls: &mut Calls) -> Result<(), Failed> {
        self.inputs = batch.served.signature.zeros(1);
        self.call(batch, Running::GoodRow(batch.id), 1, calls)
    }

    fn call(&mut self, batch: &Batch, what: Running, rows: usize, calls: &mut Calls) -> Result<(), Failed> {
        let (inputs, mut outputs) = (std::mem::take(&mut self.inputs), std::mem::take(&mut self.outputs));
        let (clock, watch) = (Arc::clone(&self.clock), Arc::clone(&self.watch));
        let ran = self.open(batch.model).map_err(Failed::Run).and_then(|model| {
            let started = clock.now();
            watch.begin(what, started, batch.served.limits.run_max, model.cancel());
            let ran = model.run(rows, &inputs, &mut outputs);
            let ended = watch.end();
            calls.time += clock.now().since(started);
            calls.count += 1;
            calls.padded += batch.served.signature.buckets.computed(rows) - rows;
            match (ended, ran) {
                (Ended::GivenUp, _) => Err(Failed::GivenUp),
                (Ended::Cancelled, Err(error)) => Err(Failed::Overran(error)),
                (_, ran) => ran.map_err(Failed::Run),
            }
        });
        (self.inputs, self.outputs) = (inputs, outputs);
        ran
    }
}
