//! The batch window of one model: where rows wait for others.
//!
//! A window holds runs of rows, each run a piece of a block under one capability. When it closes, and how much of it a batch takes, is
//! for the [policy](crate::policy) to say. Its runs may be of several epochs and partitions: a window is never closed because an epoch
//! ended.
//!
//! A batch that has room for all that waits takes all of it, in the order of polls, and nobody asks whose rows they are. One that has not
//! takes them by the [turns](crate::tenants) of their tenants: only then are rows sorted by tenant, each once. What it takes of a block
//! goes together again, so a batch has no more runs than it needs. Now and then a batch begins with the oldest row, whoever's turn it is:
//! so no row waits for ever behind a higher priority, and the oldest epoch always comes nearer to its end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Block;
use crate::clock::Moment;
use crate::share::Shares;
use crate::tenants::{Bill, TenantId, Tenants};

/// One in so many batches that can't take everything begins with the oldest row.
const OLDEST_FIRST: u32 = 64;

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

/// The rows that a window gave up for a batch.
#[derive(Debug)]
pub struct Taken<C> {
    /// The rows.
    pub runs: Vec<Run<C>>,
    /// Which tenants were charged for them, if any were.
    pub bill: Option<Bill>,
}

/// The rows of one model that wait for a batch.
#[derive(Debug)]
pub struct Window<C> {
    /// Rows that nobody has sorted yet, in the order of their polls.
    arrived: VecDeque<Run<C>>,
    /// Rows that are sorted by tenant, each tenant's in the order of their polls, and whose turn it is.
    queues: Vec<VecDeque<Piece<C>>>,
    tenants: Tenants,
    ages: Ages,
    rows: usize,
    /// How many runs were sorted.
    sorted: u64,
    /// How many batches could not take everything.
    crowded: u32,
}

/// A run as several tenants hold parts of it.
#[derive(Debug)]
struct Lot<C> {
    block: Arc<Block>,
    token: C,
    /// The later it was sorted, the higher.
    number: u64,
}

#[derive(Debug)]
struct Piece<C> {
    lot: Rc<Lot<C>>,
    rows: Range<usize>,
}

impl<C> Piece<C> {
    fn polled_at(&self) -> Moment {
        self.lot.block.polled.polled_at
    }
}

impl<C: Clone> Window<C> {
    /// An empty window, whose tenants have these shares.
    pub fn new(shares: Arc<Shares>) -> Self {
        Self {
            arrived: VecDeque::new(),
            queues: Vec::new(),
            tenants: Tenants::new(shares),
            ages: Ages::default(),
            rows: 0,
            sorted: 0,
            crowded: 0,
        }
    }

    /// Adds these rows of a block, behind those that were polled before it: blocks of several workers need not come in the order of
    /// their polls.
    pub fn push(&mut self, block: Arc<Block>, rows: Range<usize>, token: C) {
        if !rows.is_empty() {
            let polled_at = block.polled.polled_at;
            self.rows += rows.len();
            self.ages.add(polled_at, rows.len());
            let later = |run: &&Run<C>| run.block.polled.polled_at > polled_at;
            let later = self.arrived.iter().rev().take_while(later).count();
            self.arrived.insert(self.arrived.len() - later, Run { block, rows, token });
        }
    }

    /// The number of rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// When the oldest row was polled, if one waits.
    pub fn oldest(&self) -> Option<Moment> {
        self.ages.oldest()
    }

    /// When its oldest row will be overdue.
    pub fn overdue_at(&self, deadline: Duration, excused: Moment) -> Moment {
        self.oldest().map_or(Moment::NEVER, |oldest| oldest.max(excused).after(deadline))
    }

    /// Takes the rows out that are overdue.
    pub fn take_overdue(&mut self, deadline: Duration, excused: Moment, now: Moment) -> Vec<Run<C>> {
        if self.overdue_at(deadline, excused) > now {
            return Vec::new();
        }
        let overdue = |polled_at: Moment| polled_at.max(excused).after(deadline) <= now;
        let mut pieces = Vec::new();
        for (queue, tenant) in self.queues.iter_mut().zip((0..).map(TenantId::at)) {
            let count = queue.iter().take_while(|piece| overdue(piece.polled_at())).count();
            let rows = queue.range(..count).map(|piece| piece.rows.len()).sum();
            self.tenants.remove(tenant, rows);
            pieces.extend(queue.drain(..count));
        }
        let mut runs = together(pieces);
        let count = self.arrived.iter().take_while(|run| overdue(run.block.polled.polled_at)).count();
        runs.extend(self.arrived.drain(..count));
        self.took(&runs);
        runs
    }

    /// Takes rows out, `rows_max` at most, as their tenants' turns come; `price` is what a row is expected to cost.
    pub fn take(&mut self, rows_max: usize, price: Duration) -> Taken<C> {
        if self.rows <= rows_max {
            return Taken { runs: self.take_all(), bill: None };
        }
        self.sort();
        let (mut pieces, mut bill, mut room) = (Vec::new(), Bill::new(price), rows_max);
        self.crowded += 1;
        if self.crowded.is_multiple_of(OLDEST_FIRST)
            && room > 0
            && let Some(tenant) = self.oldest_tenant()
        {
            self.tenants.out_of_turn(&mut bill, tenant, 1);
            self.take_of(tenant, 1, &mut pieces);
            room -= 1;
        }
        while let Some(turn) = self.tenants.next(&mut bill, room) {
            self.take_of(turn.tenant, turn.rows, &mut pieces);
            room -= turn.rows;
        }
        let runs = together(pieces);
        self.took(&runs);
        Taken { runs, bill: Some(bill).filter(|bill| !bill.is_empty()) }
    }

    /// The batch of a bill took so long.
    pub fn settle(&mut self, bill: Bill, took: Duration) {
        self.tenants.settle(bill, took);
    }

    fn take_all(&mut self) -> Vec<Run<C>> {
        let pieces = self.queues.iter_mut().flat_map(|queue| queue.drain(..)).collect();
        self.tenants.clear();
        let mut runs = together(pieces);
        runs.extend(self.arrived.drain(..));
        self.took(&runs);
        runs
    }

    /// Whatever was taken waits no more.
    fn took(&mut self, runs: &[Run<C>]) {
        for run in runs {
            self.rows -= run.rows.len();
            self.ages.remove(run.block.polled.polled_at, run.rows.len());
        }
    }

    /// Sorts what has arrived by tenant.
    fn sort(&mut self) {
        for Run { block, rows, token } in self.arrived.drain(..) {
            let lot = Rc::new(Lot { block, token, number: self.sorted });
            self.sorted += 1;
            for (id, rows) in lot.block.tenants(rows) {
                let tenant = self.tenants.find(id);
                self.tenants.add(tenant, rows.len());
                if self.queues.len() <= tenant.index() {
                    self.queues.resize_with(tenant.index() + 1, VecDeque::new);
                }
                let queue = &mut self.queues[tenant.index()];
                let piece = Piece { lot: Rc::clone(&lot), rows };
                let later = queue.iter().rev().take_while(|other| other.polled_at() > piece.polled_at());
                queue.insert(queue.len() - later.count(), piece);
            }
        }
    }

    fn oldest_tenant(&self) -> Option<TenantId> {
        let first = |(place, queue): (usize, &VecDeque<Piece<C>>)| Some((queue.front()?.polled_at(), place));
        let oldest = self.queues.iter().enumerate().filter_map(first).min();
        oldest.map(|(_, place)| TenantId::at(place))
    }

    /// Takes the oldest rows of a tenant.
    fn take_of(&mut self, tenant: TenantId, mut rows: usize, into: &mut Vec<Piece<C>>) {
        let queue = &mut self.queues[tenant.index()];
        while rows > 0 {
            let first = queue.front_mut().expect("a tenant takes no more than it has waiting");
            if first.rows.len() <= rows {
                rows -= first.rows.len();
                into.extend(queue.pop_front());
            } else {
                let cut = first.rows.start + rows;
                into.push(Piece { lot: Rc::clone(&first.lot), rows: first.rows.start..cut });
                first.rows.start = cut;
                rows = 0;
            }
        }
    }
}

/// Pieces as runs, the neighbours of a block in one.
fn together<C: Clone>(mut pieces: Vec<Piece<C>>) -> Vec<Run<C>> {
    pieces.sort_unstable_by_key(|piece| (piece.polled_at(), piece.lot.number, piece.rows.start));
    let mut runs: Vec<Run<C>> = Vec::new();
    let mut last = None;
    for Piece { lot, rows } in pieces {
        match runs.last_mut() {
            Some(run) if last == Some(lot.number) && run.rows.end == rows.start => run.rows.end = rows.end,
            _ => {
                last = Some(lot.number);
                runs.push(Run { block: Arc::clone(&lot.block), rows, token: lot.token.clone() });
            }
        }
    }
    runs
}

/// How many rows were polled when.
#[derive(Debug, Default)]
pub(crate) struct Ages(BTreeMap<Moment, usize>);

impl Ages {
    pub(crate) fn add(&mut self, polled_at: Moment, rows: usize) {
        *self.0.entry(polled_at).or_default() += rows;
    }

    pub(crate) fn remove(&mut self, polled_at: Moment, rows: usize) {
        if let Some(left) = self.0.get_mut(&polled_at) {
            *left -= rows;
            if *left == 0 {
                self.0.remove(&polled_at);
            }
        }
    }

    pub(crate) fn oldest(&self) -> Option<Moment> {
        self.0.first_key_value().map(|(polled_at, _)| *polled_at)
    }
}

#[cfg(test)]
mod tests;
