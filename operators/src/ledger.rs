//! The offset ledger: which offsets of a lease have their outcome, and up to where all of them have.
//!
//! ```text
//!   offset      40   41   42   43   44   45   46
//!               done done open done  -   done open      - : never delivered (a control record, or compacted away)
//!   frontier ─────────────▲                     ▲──── read: the first offset not yet delivered is 47
//! ```
//!
//! Records are opened in the order of their offsets, as the broker delivers them, and closed in any order. The *partition frontier* is
//! the first delivered offset without an outcome, or, if there is none, the first offset not yet delivered: everything before it may be
//! committed. With [`CommitOrder::Partition`] outcomes past the frontier wait in the ledger, so what leaves it leaves in the order of
//! offsets. With the other orders they overtake an open record, within a [window](WINDOW), and whoever commits them has to note which.

use std::collections::VecDeque;

use crate::clock::Moment;
use crate::commit_order::{CommitOrder, OrderKey, Turns};
use crate::done::{Done, WINDOW};
use crate::lease::{NextOffset, Offset};

/// The offsets of one lease, from its first offset on. `R` is what is retained of an outcome until it is committed.
#[derive(Debug)]
pub struct Ledger<R> {
    order: CommitOrder,
    /// What earlier owners of the partition have done past its first offset, as long as it has not all been delivered.
    inherited: Option<Done>,
    read: NextOffset,
    slots: VecDeque<Slot<R>>,
    waiting: usize,
    overtaking: Overtaking,
}

/// What the orders other than by partition need besides.
#[derive(Debug)]
struct Overtaking {
    turns: Turns,
    /// Those that may leave as soon as they lie in the window, in the order in which they leave.
    free: VecDeque<Offset>,
    /// How many slots are of records that have left.
    left: usize,
    /// The frontier when outcomes last left: where the window begins.
    passed: NextOffset,
}

#[derive(Debug)]
struct Slot<R> {
    opened: Opened,
    stage: Stage<R>,
}

#[derive(Debug)]
enum Stage<R> {
    Open,
    /// It has its outcome, which waits for its turn.
    Waiting(R),
    /// Its outcome has left, and it keeps its place only until somebody tidies up.
    Left,
}

impl<R> Slot<R> {
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// The outcome, if it waits, or nothing if it does not; leaves its place behind.
    fn take(&mut self) -> Option<R> {
        match std::mem::replace(&mut self.stage, Stage::Left) {
            Stage::Waiting(outcome) => Some(outcome),
            other => {
                self.stage = other;
                None
            }
        }
    }
}

/// What the ledger knows of a record since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its offset.
    pub offset: Offset,
    /// The epoch in which it entered the dataflow.
    pub epoch: u64,
    /// When it was polled.
    pub at: Moment,
    /// Its timestamp: milliseconds since the Unix epoch.
    pub millis: i64,
    /// Bytes charged to the budget for it.
    pub bytes: u32,
    /// Its key, where the order asks for it.
    pub key: OrderKey,
}

/// What a delivery of a record is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is new, and open from now on.
    First,
    /// It, or a later one, was delivered before: it has been opened already, and must not enter the dataflow a second time.
    Again,
    /// An earlier owner of the partition has done it and committed that.
    Done,
}

/// Why a record could not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It already has its outcome.
    #[error("a second outcome")]
    Twice,
    /// It was never opened in this ledger.
    #[error("an outcome for a record that was never opened")]
    Unopened,
}

impl<R> Ledger<R> {
    /// The ledger of a lease that starts where `done` ends, and leaves out what of it is done past that.
    pub fn new(order: CommitOrder, done: Done) -> Self {
        let start = done.base();
        let overtaking =
            Overtaking { turns: Turns::default(), free: VecDeque::new(), left: 0, passed: start };
        let inherited = (!done.is_prefix()).then_some(done);
        Self { order, inherited, read: start, slots: VecDeque::new(), waiting: 0, overtaking }
    }

    /// Opens a delivered record, unless it is known. An offset that was passed over will never be delivered, and counts as done.
    pub fn open(&mut self, opened: Opened) -> Delivery {
        if opened.offset.0 < self.read.0 {
            return Delivery::Again;
        }
        self.read = opened.offset.next();
        if self.is_inherited(opened.offset) {
            return Delivery::Done;
        }
        if self.order == CommitOrder::Key {
            self.overtaking.turns.open(opened.key, opened.offset);
        }
        self.slots.push_back(Slot { opened, stage: Stage::Open });
        Delivery::First
    }

    fn is_inherited(&mut self, offset: Offset) -> bool {
        let Some(done) = &self.inherited else { return false };
        if done.runs().next_back().is_none_or(|last| last.end <= offset.0) {
            self.inherited = None;
            return false;
        }
        done.contains(offset)
    }

    /// How many more records may be opened before the window is full.
    pub fn room(&self) -> usize {
        match self.order {
            CommitOrder::Partition => usize::MAX,
            CommitOrder::Key | CommitOrder::None => {
                usize::try_from(self.overtaking.passed.0 + WINDOW - self.read.0).unwrap_or(0)
            }
        }
    }

    /// Gives a record its one outcome, made from what is known of the record.
    ///
    /// # Errors
    ///
    /// If it has one, or was never opened. Either is a defect of the engine.
    pub fn close(&mut self, offset: Offset, outcome: impl FnOnce(&Opened) -> R) -> Result<(), CloseError> {
        let place = self.place(offset).ok_or_else(|| self.why_not(offset))?;
        let slot = &mut self.slots[place];
        if !slot.is_open() {
            return Err(CloseError::Twice);
        }
        slot.stage = Stage::Waiting(outcome(&slot.opened));
        self.waiting += 1;
        let Overtaking { turns, free, .. } = &mut self.overtaking;
        match self.order {
            CommitOrder::Partition => {}
            CommitOrder::Key => turns.close(slot.opened.key, offset, |offset| free.push_back(offset)),
            CommitOrder::None => free.push_back(offset),
        }
        Ok(())
    }

    fn place(&self, offset: Offset) -> Option<usize> {
        let first = self.slots.front()?.opened.offset.0;
        // Without gaps the place is the distance to the first slot; with gaps it lies before that.
        let guess = usize::try_from(offset.0 - first).ok()?;
        match self.slots.get(guess) {
            Some(slot) if slot.opened.offset == offset => Some(guess),
            _ => self.slots.binary_search_by_key(&offset, |slot| slot.opened.offset).ok(),
        }
    }

    /// An offset before the frontier had its outcome, or was a gap, which nobody could have opened; and so had one whose place was
    /// tidied up.
    fn why_not(&self, offset: Offset) -> CloseError {
        let known = if self.order == CommitOrder::Partition { self.frontier() } else { self.read };
        if offset.0 < known.0 { CloseError::Twice } else { CloseError::Unopened }
    }

    /// Gives the outcomes whose turn has come to `each`, each once.
    pub fn drain_ready(&mut self, each: impl FnMut(Opened, R)) {
        if self.order == CommitOrder::Partition { self.drain_prefix(each) } else { self.drain_free(each) }
    }

    fn drain_prefix(&mut self, mut each: impl FnMut(Opened, R)) {
        while let Some(slot) = self.slots.front_mut() {
            let opened = slot.opened;
            let Some(outcome) = slot.take() else { break };
            self.slots.pop_front();
            self.waiting -= 1;
            each(opened, outcome);
        }
    }

    fn drain_free(&mut self, mut each: impl FnMut(Opened, R)) {
        let window_end = self.overtaking.passed.0 + WINDOW;
        for offset in std::mem::take(&mut self.overtaking.free) {
            if offset.0 >= window_end {
                self.overtaking.free.push_back(offset);
                continue;
            }
            let slot = self.place(offset).map(|place| &mut self.slots[place]);
            let (opened, outcome) =
                slot.and_then(|slot| Some((slot.opened, slot.take()?))).expect("what is free waits");
            self.waiting -= 1;
            self.overtaking.left += 1;
            each(opened, outcome);
        }
        self.tidy();
        self.overtaking.passed = self.frontier();
    }

    /// Takes away the places of what has left: at the front at once, elsewhere when they are half of all.
    fn tidy(&mut self) {
        while self.slots.front().is_some_and(|slot| matches!(slot.stage, Stage::Left)) {
            self.slots.pop_front();
            self.overtaking.left -= 1;
        }
        if self.overtaking.left * 2 > self.slots.len() {
            self.slots.retain(|slot| !matches!(slot.stage, Stage::Left));
            self.overtaking.left = 0;
        }
    }

    /// The outcomes that wait for an earlier record, in the order of offsets.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.stage {
            Stage::Waiting(outcome) => Some(outcome),
            Stage::Open | Stage::Left => None,
        })
    }

    /// The number of outcomes that wait for an earlier record.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Ends the ledger: gives everything that has not left it to `each`, with its outcome if it has one.
    pub fn forget(&mut self, mut each: impl FnMut(Opened, Option<R>)) {
        self.waiting = 0;
        self.overtaking.left = 0;
        for slot in self.slots.drain(..) {
            match slot.stage {
                Stage::Open => each(slot.opened, None),
                Stage::Waiting(outcome) => each(slot.opened, Some(outcome)),
                Stage::Left => {}
            }
        }
    }

    /// Notes that the reader stands at `position`: control records and aborted ones up to there count as done.
    pub fn pass(&mut self, position: NextOffset) {
        self.read = self.read.max(position);
    }

    /// The partition frontier: everything before it has its outcome.
    pub fn frontier(&self) -> NextOffset {
        self.oldest_open().map_or(self.read, |opened| NextOffset(opened.offset.0))
    }

    /// The first offset not yet delivered.
    pub fn read(&self) -> NextOffset {
        self.read
    }

    /// The first record without an outcome. It is also the one of the earliest epoch, since epochs follow offsets.
    pub fn oldest_open(&self) -> Option<Opened> {
        self.slots.iter().find(|slot| slot.is_open()).map(|slot| slot.opened)
    }

    /// The number of records without an outcome.
    pub fn open_records(&self) -> usize {
        self.slots.len() - self.waiting - self.overtaking.left
    }

    /// Whether nothing is open and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests;
