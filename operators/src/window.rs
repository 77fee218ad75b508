//! The batch window of one model: where rows wait for others.
//!
//! A window holds runs of rows, each run a piece of a block under one capability. When it closes, and how much of it a batch takes, is
//! for the [policy](crate::policy) to say. Its runs may be of several epochs and partitions: a window is never closed because an epoch
//! ended.
//!
//! A batch that has room for all that waits takes all of it, in the order of polls, and nobody asks whose rows they are. One that has not
//! takes them by the [turns](crate::tenants) of their tenants: only then are rows sorted by tenant, each once. What it takes of a block
//! goes together again, so a batch has no more runs than it needs. The rows of a batch are of one [class](crate::class): that of the oldest
//! row of the tenant whose turn comes first; others wait for their own. Now and then a batch begins with the oldest row, whoever's turn it is:
//! so no row waits for ever behind a higher priority, and the oldest epoch always comes nearer to its end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Block;
use crate::class::Class;
use crate::clock::Moment;
use crate::share::Shares;
use crate::tenants::{Bill, TenantId, Tenants};

/// For how many pieces a batch has room before it takes one; it is often a few, and sometimes one a row.
const PIECES: usize = 32;

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
    queues: Vec<Queue<C>>,
    tenants: Tenants,
    ages: Ages,
    rows: usize,
    /// How many rows of each class wait, where there are several.
    classes: BTreeMap<Class, usize>,
    /// The most bytes of rows in a batch, of more than one row.
    bytes_max: usize,
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

/// The sorted rows of a tenant, each class in a line of its own.
#[derive(Debug)]
struct Queue<C> {
    /// None is empty, but for that of a model with one class, which stays.
    lines: Vec<Line<C>>,
}

/// The rows of a tenant and class, in the order of their polls.
#[derive(Debug)]
struct Line<C> {
    class: Class,
    pieces: VecDeque<Piece<C>>,
    rows: usize,
}

impl<C> Line<C> {
    fn rows_within(&self, bytes_max: usize) -> usize {
        self.pieces.front().map_or(usize::MAX, |piece| rows_within(&piece.lot.block, bytes_max))
    }
}

/// A batch that is being filled.
struct Filling<C> {
    /// Whose rows it takes, once it has one.
    class: Option<Class>,
    room: usize,
    pieces: Vec<Piece<C>>,
}

impl<C> Queue<C> {
    /// The line whose first row is the oldest.
    fn oldest(&self) -> Option<&Line<C>> {
        let first = |line: &&Line<C>| line.pieces.front().map(|piece| (piece.polled_at(), piece.lot.number));
        self.lines.iter().filter(|line| line.rows > 0).min_by_key(first)
    }

    /// How many rows it has for a batch of a class. A batch of none in particular takes that of the oldest row.
    fn rows(&self, class: Option<&Class>, bytes_max: usize) -> usize {
        match class {
            Some(class) => self.lines.iter().find(|line| line.class == *class).map_or(0, |line| line.rows),
            None => self.oldest().map_or(0, |line| line.rows.min(line.rows_within(bytes_max))),
        }
    }

    /// The place of the line of a class.
    fn line(&mut self, class: &Class) -> usize {
        self.lines.iter().position(|line| line.class == *class).unwrap_or_else(|| {
            self.lines.push(Line { class: class.clone(), pieces: VecDeque::new(), rows: 0 });
            self.lines.len() - 1
        })
    }

    fn forget_empty(&mut self) {
        self.lines.retain(|line| line.rows > 0 || line.class.is_only());
    }
}

impl<C> Piece<C> {
    fn polled_at(&self) -> Moment {
        self.lot.block.polled.polled_at
    }
}

impl<C: Clone> Window<C> {
    /// An empty window, whose tenants have these shares, and whose batches have so many bytes at most.
    pub fn new(shares: Arc<Shares>, bytes_max: usize) -> Self {
        Self {
            arrived: VecDeque::new(),
            queues: Vec::new(),
            tenants: Tenants::new(shares),
            ages: Ages::default(),
            rows: 0,
            classes: BTreeMap::new(),
            bytes_max,
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
            if !block.class.is_only() {
                *self.classes.entry(block.class.clone()).or_default() += rows.len();
            }
            let later = |run: &&Run<C>| run.block.polled.polled_at > polled_at;
            let later = self.arrived.iter().rev().take_while(later).count();
            self.arrived.insert(self.arrived.len() - later, Run { block, rows, token });
        }
    }

    /// The number of rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The most rows that wait and may run together.
    pub fn fullest(&self) -> usize {
        self.classes.values().copied().max().unwrap_or(self.rows)
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
            let mut rows = 0;
            for line in &mut queue.lines {
                let count = line.pieces.iter().take_while(|piece| overdue(piece.polled_at())).count();
                let taken: usize = line.pieces.range(..count).map(|piece| piece.rows.len()).sum();
                line.rows -= taken;
                rows += taken;
                pieces.extend(line.pieces.drain(..count));
            }
            queue.forget_empty();
            self.tenants.remove(tenant, rows);
        }
        let mut runs = together(pieces);
        let count = self.arrived.iter().take_while(|run| overdue(run.block.polled.polled_at)).count();
        runs.extend(self.arrived.drain(..count));
        self.took(&runs);
        runs
    }

    /// Takes rows out, `rows_max` at most, as their tenants' turns come; `price` is what a row is expected to cost.
    pub fn take(&mut self, rows_max: usize, price: Duration) -> Taken<C> {
        if self.classes.len() <= 1 && self.rows <= self.room(rows_max) {
            return Taken { runs: self.take_all(), bill: None };
        }
        self.sort();
        let rows = rows_max.min(self.rows);
        let mut bill = Bill::new(price, rows);
        let mut batch = Filling { class: None, room: rows_max, pieces: Vec::with_capacity(rows.min(PIECES)) };
        self.crowded += 1;
        if self.crowded.is_multiple_of(OLDEST_FIRST)
            && rows_max > 0
            && let Some(tenant) = self.oldest_tenant()
        {
            self.tenants.out_of_turn(&mut bill, tenant, 1);
            self.take_of(tenant, 1, &mut batch);
        }
        loop {
            let (queues, bytes_max) = (&self.queues, self.bytes_max);
            let takes = |tenant: TenantId| queues[tenant.index()].rows(batch.class.as_ref(), bytes_max);
            let Some(turn) = self.tenants.next(&mut bill, batch.room, takes) else { break };
            self.take_of(turn.tenant, turn.rows, &mut batch);
        }
        let pieces = batch.pieces;
        let runs = together(pieces);
        self.took(&runs);
        Taken { runs, bill: Some(bill).filter(|bill| !bill.is_empty()) }
    }

    /// How many rows a batch has room for that takes all there is, which are of one class.
    fn room(&self, rows_max: usize) -> usize {
        let sorted = || self.queues.iter().find_map(|queue| queue.oldest()?.pieces.front());
        let first = self.arrived.front().map(|run| &run.block).or_else(|| Some(&sorted()?.lot.block));
        first.map_or(rows_max, |block| rows_max.min(rows_within(block, self.bytes_max)))
    }

    /// The batch of a bill took so long.
    pub fn settle(&mut self, bill: Bill, took: Duration) {
        self.tenants.settle(bill, took);
    }

    fn take_all(&mut self) -> Vec<Run<C>> {
        let mut pieces = Vec::new();
        for queue in &mut self.queues {
            for line in &mut queue.lines {
                line.rows = 0;
                pieces.extend(line.pieces.drain(..));
            }
            queue.forget_empty();
        }
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
            if let Some(rows) = self.classes.get_mut(&run.block.class) {
                *rows -= run.rows.len();
                if *rows == 0 {
                    self.classes.remove(&run.block.class);
                }
            }
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
                    self.queues.resize_with(tenant.index() + 1, || Queue { lines: Vec::new() });
                }
                let queue = &mut self.queues[tenant.index()];
                let place = queue.line(&lot.block.class);
                let line = &mut queue.lines[place];
                line.rows += rows.len();
                let piece = Piece { lot: Rc::clone(&lot), rows };
                let later =
                    line.pieces.iter().rev().take_while(|other| other.polled_at() > piece.polled_at());
                line.pieces.insert(line.pieces.len() - later.count(), piece);
            }
        }
    }

    fn oldest_tenant(&self) -> Option<TenantId> {
        let first =
            |(place, queue): (usize, &Queue<C>)| Some((queue.oldest()?.pieces.front()?.polled_at(), place));
        let oldest = self.queues.iter().enumerate().filter_map(first).min();
        oldest.map(|(_, place)| TenantId::at(place))
    }

    /// Takes the oldest rows of a tenant for a batch, whose class is that of the first rows it takes.
    fn take_of(&mut self, tenant: TenantId, mut rows: usize, batch: &mut Filling<C>) {
        let queue = &mut self.queues[tenant.index()];
        let class = batch.class.get_or_insert_with(|| {
            let oldest = queue.oldest().expect("whose turn it is has something waiting");
            batch.room = batch.room.min(oldest.rows_within(self.bytes_max));
            oldest.class.clone()
        });
        let place = queue.line(class);
        let line = &mut queue.lines[place];
        line.rows -= rows;
        batch.room -= rows;
        while rows > 0 {
            let first = line.pieces.front_mut().expect("a tenant takes no more than it has waiting");
            if first.rows.len() <= rows {
                rows -= first.rows.len();
                batch.pieces.extend(line.pieces.pop_front());
            } else {
                let cut = first.rows.start + rows;
                batch.pieces.push(Piece { lot: Rc::clone(&first.lot), rows: first.rows.start..cut });
                first.rows.start = cut;
                rows = 0;
            }
        }
        queue.forget_empty();
    }
}

/// How many rows as those of a block a batch of so many bytes has room for. One always has it. Where all rows of a model are as large,
/// its policy has seen to that.
fn rows_within(block: &Block, bytes_max: usize) -> usize {
    if block.class.is_only() { usize::MAX } else { (bytes_max / block.row_bytes().max(1)).max(1) }
}

/// Pieces as runs, the neighbours of a block in one.
fn together<C: Clone>(mut pieces: Vec<Piece<C>>) -> Vec<Run<C>> {
    pieces.sort_unstable_by_key(|piece| (piece.polled_at(), piece.lot.number, piece.rows.start));
    let mut runs: Vec<Run<C>> = Vec::with_capacity(pieces.len());
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
