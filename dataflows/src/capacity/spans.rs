//! Sums over a sliding span, maintained on differential dataflow.
//!
//! ```text
//!   cells ──┬─▶ arranged by cell (read when somebody asks)
//!           ├─▶ by partition ──────────▶ count ─▶ sums
//!           └─▶ by partition and model ▶ count ─▶ sums
//!   series ───▶ by series ─────────────▶ count ─▶ sums
//! ```
//!
//! What is summed is the *difference* of each update: a [`Tally`] or a [`Line`] rather than a count of ones, so that a tick is one update a
//! cell however many records it had. A tick is added when it comes and taken away when it is older than the span. The traces are compacted
//! up to the present, so that what was added and taken away is gone from memory too. Within the span cells are kept in *panes* of several
//! ticks, each summed up: so memory follows the number of cells, not of ticks, and the oldest pane leaves all at once.
//!
//! One worker is enough: see `cargo bench --bench capacity`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::difference::{Abelian, Semigroup};
use differential_dataflow::input::{Input, InputSession};
use differential_dataflow::operators::CountTotal;
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::cursor::{Cursor, cursor_list};
use differential_dataflow::trace::implementations::KeySpine;
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::Probe;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::worker::Worker;

use super::picture::{Adds, Cell, Picture, RECENT_TICKS, Reader, Recent, Series, Sums};
use super::sums::{Line, Tally};
use super::tick::Tick;

/// The sums of the last ticks.
pub struct Spans {
    panes: Panes,
    cells: InputSession<u64, Cell, Tally>,
    series: InputSession<u64, Series, Line>,
    index: TraceAgent<KeySpine<Cell, u64, Tally>>,
    sums: Rc<RefCell<Sums>>,
    probe: ProbeHandle<u64>,
    reader: Reader,
    picture: Picture,
    tick: u64,
}

/// What will have to be taken away, the oldest first.
#[derive(Debug)]
struct Panes {
    /// Panes in a span, and ticks in a pane.
    kept: usize,
    ticks: u64,
    held: VecDeque<Pane>,
}

#[derive(Debug, Default)]
struct Pane {
    ticks: i64,
    millis: i64,
    cells: BTreeMap<Cell, Tally>,
    series: BTreeMap<Series, Line>,
}

impl Spans {
    /// A span of `panes` panes of `ticks` ticks each, nothing in it yet. Between two ticks it covers `(panes - 1) * ticks` to
    /// `panes * ticks` of them.
    pub fn new(worker: &mut Worker, panes: usize, ticks: u64) -> Self {
        let sums = Rc::new(RefCell::new(Sums::default()));
        let probe = ProbeHandle::new();
        let (cells, series, index) = worker.dataflow(|scope| {
            let (cells_input, cells) = scope.new_collection::<Cell, Tally>();
            let (series_input, series) = scope.new_collection::<Series, Line>();
            let arranged = cells.clone().arrange_by_self_named("Arrange: cells");
            let index = arranged.trace.clone();
            arranged.stream.probe_with(&probe);
            maintain(cells.clone().map(|cell| cell.partition), &sums, &probe, |sums| &mut sums.partitions);
            maintain(cells.map(|cell| (cell.partition, cell.model)), &sums, &probe, |sums| &mut sums.mixes);
            maintain(series, &sums, &probe, |sums| &mut sums.series);
            (cells_input, series_input, index)
        });
        let panes = Panes { kept: panes.max(1), ticks: ticks.max(1), held: VecDeque::new() };
        let (reader, picture) = (Reader::default(), Picture::default());
        Self { panes, cells, series, index, sums, probe, reader, picture, tick: 0 }
    }

    /// Adds a tick, takes away what is too old for the span now, and works until the sums are right.
    pub fn add(&mut self, worker: &mut Worker, tick: &Tick) {
        let place = self.tick;
        let names = &mut self.picture.names;
        let adds = self.reader.adds(tick, |name| names.number(name, place));
        if let Some(old) = self.panes.add(place, tick.millis, &adds) {
            for (cell, mut tally) in old.cells {
                tally.negate();
                self.cells.update(cell, tally);
            }
            for (series, mut line) in old.series {
                line.negate();
                self.series.update(series, line);
            }
        }
        adds.cells.into_iter().for_each(|(cell, tally)| self.cells.update(cell, tally));
        adds.series.into_iter().for_each(|(series, line)| self.series.update(series, line));
        self.picture.last(tick, place);

        self.tick += 1;
        self.cells.advance_to(self.tick);
        self.cells.flush();
        self.series.advance_to(self.tick);
        self.series.flush();
        // Nobody asks what the sums were: what lies before this tick may be summed up.
        let now = [self.tick];
        self.index.set_logical_compaction(AntichainRef::new(&now));
        self.index.set_physical_compaction(AntichainRef::new(&now));
        worker.step_while(|| self.probe.less_than(&self.tick));
        let oldest = self.tick.saturating_sub((self.panes.kept as u64 + 1) * self.panes.ticks);
        if self.tick.is_multiple_of(self.panes.ticks) {
            let Picture { names, costs, .. } = &mut self.picture;
            names.forget(oldest);
            costs.retain(|model, _| !names.name(*model).is_empty());
        }
    }

    /// What the span holds now. Cells are read for this; nothing keeps them ready.
    pub fn picture(&mut self) -> Picture {
        let mut picture = self.picture.clone();
        picture.ticks = self.panes.held.iter().map(|pane| pane.ticks).sum();
        picture.millis = self.panes.held.iter().map(|pane| pane.millis).sum();
        picture.sums.clone_from(&self.sums.borrow());
        picture.sums.cells = self.read_cells();
        picture.sums.tidy();
        picture.recent = self.panes.recent();
        picture
    }

    fn read_cells(&mut self) -> BTreeMap<Cell, Tally> {
        let batches = self.index.batches_through(Antichain::new().borrow()).unwrap_or_default();
        let (mut cursor, storage) = cursor_list(batches);
        let mut cells = BTreeMap::new();
        while let Some(cell) = cursor.get_key(&storage) {
            let mut sum = Tally::default();
            cursor.map_times(&storage, |_, tally| sum.plus_equals(tally));
            if sum != Tally::default() {
                cells.insert(*cell, sum);
            }
            cursor.step_key(&storage);
        }
        cells
    }

    /// How many updates of cells are in memory: what is to stay bounded.
    pub fn updates(&self) -> usize {
        let mut updates = 0;
        self.index.map_spans(|span| updates += span.inner.as_ref().map_or(0, |batch| batch.updates));
        updates + self.panes.held.iter().map(|pane| pane.cells.len()).sum::<usize>()
    }

    /// How many names are known.
    pub fn names(&self) -> usize {
        self.picture.names.len()
    }
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Spans").field("tick", &self.tick).finish_non_exhaustive()
    }
}

impl Panes {
    /// Adds to the newest pane, or begins one; gives back the pane that is too old then.
    fn add(&mut self, place: u64, millis: i64, adds: &Adds) -> Option<Pane> {
        if place.is_multiple_of(self.ticks) {
            self.held.push_back(Pane::default());
        }
        if let Some(pane) = self.held.back_mut() {
            pane.ticks += 1;
            pane.millis += millis;
            for (cell, tally) in &adds.cells {
                pane.cells.entry(*cell).or_default().add(*tally);
            }
            for (series, line) in &adds.series {
                pane.series.entry(*series).or_default().add(*line);
            }
        }
        if self.held.len() > self.kept { self.held.pop_front() } else { None }
    }
}

impl Panes {
    /// The newest panes that hold the ticks of a recent part, or fewer where there are not as many.
    fn recent(&self) -> Recent {
        let panes = RECENT_TICKS.div_ceil(self.ticks);
        let mut recent = Recent::default();
        for pane in self.held.iter().rev().take(usize::try_from(panes).unwrap_or(usize::MAX)) {
            let series: Vec<(Series, Line)> =
                pane.series.iter().map(|(series, line)| (*series, *line)).collect();
            recent.add(pane.ticks, pane.millis, &series);
        }
        recent.series.retain(|_, line| *line != Line::default());
        recent
    }
}

/// Keeps `place` of the sums what `collection` sums up to.
fn maintain<'scope, K, R>(
    collection: VecCollection<'scope, u64, K, R>,
    sums: &Rc<RefCell<Sums>>,
    probe: &ProbeHandle<u64>,
    place: impl Fn(&mut Sums) -> &mut BTreeMap<K, R> + 'static,
) where
    K: differential_dataflow::ExchangeData + differential_dataflow::Hashable,
    R: differential_dataflow::ExchangeData + Semigroup,
{
    let sums = Rc::clone(sums);
    collection
        .count_total()
        .inspect(move |((key, sum), _, change)| {
            let sums = &mut *sums.borrow_mut();
            let kept = place(sums);
            // Of an update the old sum is taken back and the new one given, in any order.
            if *change > 0 {
                kept.insert(key.clone(), sum.clone());
            } else if kept.get(key) == Some(sum) {
                kept.remove(key);
            }
        })
        .probe_with(probe);
}

#[cfg(test)]
mod tests;
