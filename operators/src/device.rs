//! A device: what runs batches, and how many at once.
//!
//! [`Device`] is what the infer operator of its home worker sees: room, submit, finished. [`threads`] is the pool of CPU executors (or
//! the one thread before a GPU); a lock-step run has its own, which runs batches when it is told to.

pub mod threads;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Block;
use crate::catalog::{ModelIndex, Served};
use crate::clock::Moment;
use crate::cost::Sample;
use crate::observe::CloseReason;
use crate::outcome::Outcomes;
use crate::window::Run;

/// How many batches may wait for each executor while it runs one. They are short ones: see [`crate::policy`].
pub const QUEUED: usize = 31;

/// Runs batches, several at once, and gives their outcomes back in any order. Used by one worker; nothing in it blocks.
pub trait Device {
    /// How many batches it runs at once. What it takes beyond that waits there.
    fn executors(&self) -> usize;

    /// How many more batches it takes now.
    fn room(&self) -> usize;

    /// Takes a batch.
    ///
    /// # Panics
    ///
    /// If there was no room.
    fn submit(&mut self, batch: Batch);

    /// A batch that is finished, if there is one.
    fn finished(&mut self) -> Option<Executed>;

    /// When [`Device::finished`] is to be called again, whether or not anything is finished: some keep watch over what they run.
    fn due(&self) -> Moment {
        Moment::NEVER
    }
}

/// Rows of one model that run together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Given by the submitter, and given back with the outcomes.
    pub id: u64,
    /// The model's place in the catalog.
    pub model: ModelIndex,
    /// The model.
    pub served: Arc<Served>,
    /// The rows; the token is the epoch at which their outcomes leave.
    pub runs: Vec<Run<u64>>,
    /// Why the window gave them up.
    pub closed: CloseReason,
    /// Which attempt at these rows this is: 1, 2, …
    pub attempt: u32,
    /// How often an executor was given up over these rows.
    pub hangs: u32,
}

impl Batch {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.rows.len()).sum()
    }

    /// Every row, as its block and its place in it, with its epoch.
    pub fn each_row(&self) -> impl Iterator<Item = (&Arc<Block>, usize, u64)> {
        self.runs.iter().flat_map(|run| run.rows.clone().map(move |row| (&run.block, row, run.token)))
    }

    /// The runs of the rows in `range`, counted over all runs.
    pub fn cut(&self, range: Range<usize>) -> Vec<Run<u64>> {
        let mut before = 0;
        let mut cut = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let start = range.start.max(before).min(before + run.rows.len()) - before;
            let end = range.end.max(before).min(before + run.rows.len()) - before;
            if start < end {
                let rows = run.rows.start + start..run.rows.start + end;
                cut.push(Run { block: Arc::clone(&run.block), rows, token: run.token });
            }
            before += run.rows.len();
        }
        cut
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct Executed {
    /// The batch's id.
    pub id: u64,
    /// Its outcomes, a block for each home worker and epoch.
    pub outcomes: Vec<(u64, Outcomes)>,
    /// What is left of it, if anything: rows without an outcome.
    pub left: Option<Left>,
    /// The time of the model's calls.
    pub inference: Duration,
    /// What it tells of the cost of batches: nothing, if rows of it had to be run once more or have no outcome.
    pub sample: Option<Sample>,
}

/// Why rows of a batch have no outcome.
#[derive(Clone, Debug)]
pub enum Left {
    /// The device is broken: these rows, and what was the matter.
    Broken(Batch, String),
    /// A run did not return, not even when it was cancelled, and its executor was given up: every row.
    Hung {
        /// Whether the run was of these rows, and not of one that is known to be good.
        rows: bool,
    },
}
