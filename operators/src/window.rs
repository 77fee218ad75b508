//! The batch window of one model: where rows wait for others.
//!
//! A window is a queue of runs of rows in the order of their polls, each run a piece of a block under one capability. When it closes, and
//! how much of it a batch takes, is for the [policy](crate::policy) to say. Its runs may be of several epochs and partitions: a window is
//! never closed because an epoch ended.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Block;
use crate::clock::Moment;

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
    runs: VecDeque<Run<C>>,
    rows: usize,
}

impl<C: Clone> Window<C> {
    /// An empty window.
    pub fn new() -> Self {
        Self { runs: VecDeque::new(), rows: 0 }
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

    /// When the oldest row was polled, if one waits.
    pub fn oldest(&self) -> Option<Moment> {
        self.runs.front().map(|run| run.block.polled.polled_at)
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

    /// Takes the oldest rows out, `rows_max` at most.
    pub fn take(&mut self, rows_max: usize) -> Vec<Run<C>> {
        let mut room = rows_max;
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
        self.rows -= rows_max - room;
        batch
    }
}

impl<C: Clone> Default for Window<C> {
    fn default() -> Self {
        Self::new()
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

    proptest! {
        /// Against a model of three lines: a window is `chunks` of the rows in their order.
        #[test]
        fn batches_are_the_rows_in_their_order_cut_at_the_size(
            blocks in prop::collection::vec(0_u32..200, 0..20),
            size_max in 1_usize..100,
        ) {
            let mut window = Window::new();
            let mut all = 0;
            for (token, rows) in blocks.iter().enumerate() {
                window.push(block(all, *rows, Moment::START), 0..*rows as usize, token as u64);
                all += rows;
            }
            let model: Vec<u32> = (0..all).collect();
            for chunk in model.chunks(size_max) {
                prop_assert_eq!(window.oldest(), Some(Moment::START));
                let batch = window.take(size_max);
                prop_assert_eq!(records(&batch), chunk);
                prop_assert!(batch.iter().all(|run| !run.rows.is_empty()));
            }
            prop_assert_eq!(window.rows(), 0);
            prop_assert_eq!(window.oldest(), None);
        }
    }
}
