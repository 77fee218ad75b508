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
//! committed, and nothing at or past it. Outcomes past the frontier wait in the ledger, so what leaves it leaves in the order of offsets.

use std::collections::VecDeque;

use crate::clock::Moment;
use crate::lease::{NextOffset, Offset};

/// The offsets of one lease, from its first offset on. `R` is what is retained of an outcome until it is committed.
#[derive(Debug)]
pub struct Ledger<R> {
    read: NextOffset,
    slots: VecDeque<Slot<R>>,
    waiting: usize,
}

#[derive(Debug)]
struct Slot<R> {
    opened: Opened,
    outcome: Option<R>,
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
    /// The ledger of a lease that starts at `start`.
    pub fn new(start: NextOffset) -> Self {
        Self { read: start, slots: VecDeque::new(), waiting: 0 }
    }

    /// Opens a delivered record; `false` if this offset, or a later one, was delivered before: then it has been opened already, and
    /// must not enter the dataflow a second time. An offset that was skipped will never be delivered, and counts as done.
    pub fn open(&mut self, opened: Opened) -> bool {
        if opened.offset.0 < self.read.0 {
            return false;
        }
        self.read = opened.offset.next();
        self.slots.push_back(Slot { opened, outcome: None });
        true
    }

    /// Gives a record its one outcome, made from what is known of the record.
    ///
    /// # Errors
    ///
    /// If it has one, or was never opened. Either is a defect of the engine.
    pub fn close(&mut self, offset: Offset, outcome: impl FnOnce(&Opened) -> R) -> Result<(), CloseError> {
        let first = self.slots.front().ok_or_else(|| self.why_not(offset))?.opened.offset.0;
        // Without gaps the place is the distance to the first slot; with gaps it lies before that.
        let guess = usize::try_from(offset.0 - first).map_err(|_| self.why_not(offset))?;
        let place = match self.slots.get(guess) {
            Some(slot) if slot.opened.offset == offset => guess,
            _ => self
                .slots
                .binary_search_by_key(&offset, |slot| slot.opened.offset)
                .map_err(|_| self.why_not(offset))?,
        };
        let slot = &mut self.slots[place];
        if slot.outcome.is_some() {
            return Err(CloseError::Twice);
        }
        slot.outcome = Some(outcome(&slot.opened));
        self.waiting += 1;
        Ok(())
    }

    /// An offset before the frontier had its outcome, or was a gap, which nobody could have opened.
    fn why_not(&self, offset: Offset) -> CloseError {
        if offset.0 < self.frontier().0 { CloseError::Twice } else { CloseError::Unopened }
    }

    /// Gives the outcomes that the frontier has passed to `each`, in the order of offsets, each once.
    pub fn drain_ready(&mut self, mut each: impl FnMut(Opened, R)) {
        while let Some(slot) = self.slots.pop_front() {
            let Some(outcome) = slot.outcome else {
                self.slots.push_front(slot);
                break;
            };
            self.waiting -= 1;
            each(slot.opened, outcome);
        }
    }

    /// The outcomes that wait for an earlier record, in the order of offsets.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.slots.iter_mut().filter_map(|slot| slot.outcome.as_mut())
    }

    /// The number of outcomes that wait for an earlier record.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Ends the ledger: gives everything that has not left it to `each`, with its outcome if it has one.
    pub fn forget(&mut self, mut each: impl FnMut(Opened, Option<R>)) {
        self.waiting = 0;
        self.slots.drain(..).for_each(|slot| each(slot.opened, slot.outcome));
    }

    /// Notes that the reader stands at `position`: control records and aborted ones up to there count as done.
    pub fn pass(&mut self, position: NextOffset) {
        self.read = self.read.max(position);
    }

    /// The partition frontier: everything before it has its outcome.
    pub fn frontier(&self) -> NextOffset {
        let open = self.slots.iter().find(|slot| slot.outcome.is_none());
        open.map_or(self.read, |slot| NextOffset(slot.opened.offset.0))
    }

    /// The first offset not yet delivered.
    pub fn read(&self) -> NextOffset {
        self.read
    }

    /// The first record without an outcome. It is also the one of the earliest epoch, since epochs follow offsets.
    pub fn oldest_open(&self) -> Option<Opened> {
        self.slots.iter().find(|slot| slot.outcome.is_none()).map(|slot| slot.opened)
    }

    /// The number of records without an outcome.
    pub fn open_records(&self) -> usize {
        self.slots.len() - self.waiting
    }

    /// Whether nothing is open and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn opened(offset: i64) -> Opened {
        Opened { offset: Offset(offset), epoch: 0, at: Moment::START, millis: 0, bytes: 0 }
    }

    fn ready(ledger: &mut Ledger<i64>) -> Vec<i64> {
        let mut all = Vec::new();
        ledger.drain_ready(|_, outcome| all.push(outcome));
        all
    }

    #[test]
    fn outcomes_leave_in_the_order_of_offsets() {
        let mut ledger = Ledger::new(NextOffset(40));
        for offset in [40, 41, 43] {
            assert!(ledger.open(opened(offset)));
        }
        ledger.close(Offset(43), |_| 43).unwrap();
        assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(40), vec![]));
        ledger.close(Offset(40), |_| 40).unwrap();
        assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(41), vec![40]));
        ledger.close(Offset(41), |_| 41).unwrap();
        assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(44), vec![41, 43]));
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_second_outcome_is_refused_before_and_after_the_frontier_passed() {
        let mut ledger = Ledger::new(NextOffset(0));
        assert!(ledger.open(opened(0)) && ledger.open(opened(1)));
        ledger.close(Offset(1), |_| 1).unwrap();
        assert_eq!(ledger.close(Offset(1), |_| 1), Err(CloseError::Twice));
        ledger.close(Offset(0), |_| 0).unwrap();
        assert_eq!(ready(&mut ledger), [0, 1]);
        assert_eq!(ledger.close(Offset(0), |_| 0), Err(CloseError::Twice));
        assert_eq!(ledger.close(Offset(2), |_| 2), Err(CloseError::Unopened));
    }

    #[test]
    fn a_record_delivered_twice_is_opened_once() {
        let mut ledger: Ledger<i64> = Ledger::new(NextOffset(5));
        assert!(!ledger.open(opened(4)));
        assert!(ledger.open(opened(6)));
        assert!(!ledger.open(opened(6)) && !ledger.open(opened(5)));
        assert_eq!(ledger.open_records(), 1);
    }

    #[test]
    fn the_frontier_passes_trailing_control_records() {
        let mut ledger: Ledger<i64> = Ledger::new(NextOffset(5));
        ledger.pass(NextOffset(9));
        assert_eq!(ledger.frontier(), NextOffset(9));
        assert!(ledger.open(opened(9)));
        ledger.pass(NextOffset(12));
        assert_eq!(ledger.frontier(), NextOffset(9));
    }

    proptest! {
        /// Against a model that keeps everything: whatever the gaps, the redeliveries and the order of outcomes, the frontier never
        /// goes back, never passes an open offset, and each outcome leaves once, in order.
        #[test]
        fn the_frontier_never_passes_an_offset_without_an_outcome(
            gaps in prop::collection::vec(1_i64..4, 1..60),
            order in prop::collection::vec((any::<u8>(), any::<prop::sample::Index>()), 0..240),
        ) {
            let offsets: Vec<i64> = gaps.iter().scan(100, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut ledger = Ledger::new(NextOffset(100));
            let mut delivered = 0;
            let mut model: BTreeMap<i64, bool> = BTreeMap::new();
            let mut left: Vec<i64> = Vec::new();
            let mut last = ledger.frontier();
            for (action, index) in order {
                match action % 4 {
                    0 | 1 if delivered < offsets.len() => {
                        prop_assert!(ledger.open(opened(offsets[delivered])));
                        model.insert(offsets[delivered], false);
                        delivered += 1;
                    }
                    2 if delivered > 0 => {
                        let offset = offsets[index.index(delivered)];
                        let expected = if model[&offset] { Err(CloseError::Twice) } else { Ok(()) };
                        prop_assert_eq!(ledger.close(Offset(offset), |_| offset), expected);
                        model.insert(offset, true);
                    }
                    _ if delivered > 0 => {
                        prop_assert!(!ledger.open(opened(offsets[index.index(delivered)])));
                    }
                    _ => {}
                }
                ledger.drain_ready(|opened, outcome| { assert_eq!(opened.offset.0, outcome); left.push(outcome); });
                let open: BTreeSet<i64> = model.iter().filter(|(_, done)| !**done).map(|(offset, _)| *offset).collect();
                let read = if delivered == 0 { 100 } else { offsets[delivered - 1] + 1 };
                let frontier = ledger.frontier();
                prop_assert_eq!(frontier.0, open.first().copied().unwrap_or(read));
                prop_assert!(frontier >= last);
                last = frontier;
                prop_assert_eq!(ledger.open_records(), open.len());
                let expected: Vec<i64> = model.keys().copied().filter(|offset| *offset < frontier.0).collect();
                prop_assert_eq!(&left, &expected);
            }
        }
    }
}
