//! The batch window of one model: where rows wait for others, and when they stop waiting.
//!
//! A window is a queue of runs of rows in the order of their polls, each run a piece of a block under one capability. It is *full* when it holds a batch's worth,
//! and *due* when its oldest row has waited as long as its policy lets it. Which of both came is all that it decides; whether an
//! executor is free is not its business, so while the device is busy it goes on filling, and the batch size follows the load. Its runs
//! may be of several epochs and partitions: a window is never closed because an epoch ended.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Block;
use crate::catalog::BatchPolicy;
use crate::clock::Moment;
use crate::observe::CloseReason;

/// Rows of one block that travel together, and the token (in the engine: the capability) under which their outcomes will leave.
#[derive(Clone, Debug)]
pub struct Run<C> {
    /// The block.
    pub block: Arc<Block>,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// The right to send their outcomes.
    pub token: C,
}

/// When the rows of a run are overdue: `deadline` after their poll, or after `excused` if that is later. The time up to it is
/// nobody's fault: the process took no work.
pub fn overdue_at<C>(run: &Run<C>, deadline: Duration, excused: Moment) -> Moment {
    run.block.polled.polled_at.max(excused).after(deadline)
}

/// The rows of one model that wait for a batch.
#[derive(Debug)]
pub struct Window<C> {
    policy: BatchPolicy,
    runs: VecDeque<Run<C>>,
    rows: usize,
}

impl<C: Clone> Window<C> {
    /// An empty window.
    ///
    /// # Panics
    ///
    /// If a batch may have no rows.
    pub fn new(policy: BatchPolicy) -> Self {
        assert!(policy.size_max > 0, "a batch has at least one row");
        Self { policy, runs: VecDeque::new(), rows: 0 }
    }

    /// Adds these rows of a block, behind those that were polled before it: blocks of several workers need not come in the order of
    /// their polls.
    pub fn push(&mut self, block: Arc<Block>, rows: Range<usize>, token: C) {
        self.rows += rows.len();
        if !rows.is_empty() {
            let polled_at = block.polled.polled_at;
            let later =
                self.runs.iter().rev().take_while(|run| run.block.polled.polled_at > polled_at).count();
            self.runs.insert(self.runs.len() - later, Run { block, rows, token });
        }
    }

    /// The number of rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Why the window would close now, if it would.
    pub fn closes(&self, now: Moment) -> Option<CloseReason> {
        if self.rows >= self.policy.size_max {
            Some(CloseReason::Full)
        } else if self.rows > 0 && self.due() <= now {
            Some(CloseReason::Deadline)
        } else {
            None
        }
    }

    /// When the oldest row will have waited as long as it may; [`Moment::NEVER`] if none waits.
    pub fn due(&self) -> Moment {
        let polled = self.runs.front().map(|run| run.block.polled.polled_at);
        polled.map_or(Moment::NEVER, |polled| polled.after(self.policy.delay_max))
    }

    /// When its oldest row will be overdue.
    pub fn overdue_at(&self, deadline: Duration, excused: Moment) -> Moment {
        self.runs.front().map_or(Moment::NEVER, |run| overdue_at(run, deadline, excused))
    }

    /// Takes the rows out that are overdue.
    pub fn take_overdue(&mut self, deadline: Duration, excused: Moment, now: Moment) -> Vec<Run<C>> {
        let overdue = self.runs.iter().take_while(|run| overdue_at(run, deadline, excused) <= now).count();
        let taken: Vec<Run<C>> = self.runs.drain(..overdue).collect();
        self.rows -= taken.iter().map(|run| run.rows.len()).sum::<usize>();
        taken
    }

    /// Takes the oldest rows out, a batch's worth at most.
    pub fn take(&mut self) -> Vec<Run<C>> {
        let mut room = self.policy.size_max;
        let mut batch = Vec::new();
        while room > 0
            && let Some(run) = self.runs.front_mut()
        {
            if run.rows.len() <= room {
                room -= run.rows.len();
                batch.extend(self.runs.pop_front());
            } else {
                let cut = run.rows.start + room;
                let rows = run.rows.start..cut;
                batch.push(Run { block: Arc::clone(&run.block), rows, token: run.token.clone() });
                run.rows.start = cut;
                room = 0;
            }
        }
        self.rows -= self.policy.size_max - room;
        batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::Polled;
    use crate::catalog::ModelIndex;

    fn block(first: u32, rows: u32, at: Moment) -> Arc<Block> {
        let polled = Arc::new(Polled { polled_at: at, ..Polled::default() });
        let mut block = Block::new(ModelIndex(0), 0, 1, polled);
        block.rows = (first..first + rows)
            .map(|record| crate::block::Row { record, request_id: 0..0, tenant_id: 0..0 })
            .collect();
        Arc::new(block)
    }

    fn records(batch: &[Run<u64>]) -> Vec<u32> {
        batch.iter().flat_map(|run| run.block.rows[run.rows.clone()].iter().map(|row| row.record)).collect()
    }

    #[test]
    fn a_lone_row_waits_exactly_its_delay() {
        let policy = BatchPolicy { size_max: 64, delay_max: Duration::from_millis(50) };
        let mut window = Window::new(policy);
        let polled = Moment::from_nanos(7_000_000);
        assert_eq!((window.closes(Moment::NEVER), window.due()), (None, Moment::NEVER));
        window.push(block(0, 1, polled), 0..1, 0);
        assert_eq!(window.closes(Moment::from_nanos(56_999_999)), None);
        assert_eq!(window.closes(Moment::from_nanos(57_000_000)), Some(CloseReason::Deadline));
    }

    proptest! {
        /// Against a model of three lines: a window is `chunks` of the rows in their order.
        #[test]
        fn batches_are_the_rows_in_their_order_cut_at_the_size(
            blocks in prop::collection::vec(0_u32..200, 0..20),
            size_max in 1_usize..100,
        ) {
            let mut window = Window::new(BatchPolicy { size_max, delay_max: Duration::ZERO });
            let mut all = 0;
            for (token, rows) in blocks.iter().enumerate() {
                window.push(block(all, *rows, Moment::START), 0..*rows as usize, token as u64);
                all += rows;
            }
            let model: Vec<u32> = (0..all).collect();
            for chunk in model.chunks(size_max) {
                let reason = if chunk.len() == size_max { CloseReason::Full } else { CloseReason::Deadline };
                prop_assert_eq!(window.closes(Moment::START), Some(reason));
                let batch = window.take();
                prop_assert_eq!(records(&batch), chunk);
                prop_assert!(batch.iter().all(|run| !run.rows.is_empty()));
            }
            prop_assert_eq!(window.rows(), 0);
            prop_assert_eq!(window.closes(Moment::NEVER), None);
        }
    }
}
