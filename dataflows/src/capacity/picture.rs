//! What a span holds: sums over its ticks, and the last state of each partition.
//!
//! [`Picture::of`] makes it from the ticks, all at once; [`Spans`](super::Spans) has it maintained. Both are the same, to the last digit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sums::{Line, Tally};
use super::tick::{Cost, PartitionTick, Stage, Tick};

/// The traffic of one tenant for one model in one partition; names are numbered by [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The partition.
    pub partition: i32,
    /// The model.
    pub model: u32,
    /// The tenant.
    pub tenant: u32,
}

/// A thing of which points are summed up, each with its time in milliseconds as x, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Series {
    /// Records that came to the end of a partition in a tick.
    Arrived(i32),
    /// Offsets that were committed in a tick.
    Committed(i32),
    /// The lag of a partition at the end of a tick.
    Lag(i32),
    /// Batches of a model: x are rows, y the microseconds that they took.
    Batches(u32),
    /// What handing over a batch of a model takes: y are microseconds.
    Handoffs(u32),
    /// Latencies of a model in a bucket; only counted.
    Latency(u32, u8),
    /// What the threads of a stage did in a tick: x are microseconds on a processor, y those that they waited for one.
    Threads(Stage),
}

/// The sums of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of each cell.
    pub cells: BTreeMap<Cell, Tally>,
    /// Of each partition.
    pub partitions: BTreeMap<i32, Tally>,
    /// Of each model in each partition.
    pub mixes: BTreeMap<(i32, u32), Tally>,
    /// Of each series.
    pub series: BTreeMap<Series, Line>,
}

/// What a span holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// The moment of its last tick, in milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// Its ticks.
    pub ticks: i64,
    /// The milliseconds of them.
    pub millis: i64,
    /// Its sums.
    pub sums: Sums,
    /// Its last part: what is the matter now, and not what was the matter a minute ago.
    pub recent: Recent,
    /// Each partition at its end.
    pub partitions: BTreeMap<i32, PartitionTick>,
    /// What batches are known to cost, by model.
    pub costs: BTreeMap<u32, Cost>,
    /// The threads of each stage.
    pub threads: BTreeMap<Stage, usize>,
    /// The names of tenants and models.
    pub names: Names,
}

/// The last part of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Its ticks.
    pub ticks: i64,
    /// The milliseconds of them.
    pub millis: i64,
    /// The sums of each series over it.
    pub series: BTreeMap<Series, Line>,
}

/// Ticks of the last part of a span, about: as many whole panes as hold them.
pub const RECENT_TICKS: u64 = 15;

/// Numbers for names. A name keeps its number for as long as it is in the span; then the number may be another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    numbers: BTreeMap<String, u32>,
    names: Vec<Option<(String, u64)>>,
    free: Vec<u32>,
}

impl Names {
    /// The number of a name that was seen in this tick.
    pub fn number(&mut self, name: &str, tick: u64) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            if let Some((_, seen)) = &mut self.names[*number as usize] {
                *seen = tick;
            }
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            u32::try_from(self.names.len() - 1).expect("the names of a span are bounded")
        });
        self.names[number as usize] = Some((name.to_owned(), tick));
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// The name of this number.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).and_then(Option::as_ref).map_or("", |(name, _)| name)
    }

    /// Forgets the names that were not seen since this tick.
    pub fn forget(&mut self, before: u64) {
        for (number, place) in self.names.iter_mut().enumerate() {
            if let Some((name, _)) = place.take_if(|(_, seen)| *seen < before) {
                self.numbers.remove(&name);
                self.free.push(u32::try_from(number).expect("it was one"));
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// What a tick adds to the sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adds {
    /// To cells.
    pub cells: Vec<(Cell, Tally)>,
    /// To series.
    pub series: Vec<(Series, Line)>,
}

/// Turns ticks into what they add: it remembers where each partition stood a tick before.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    before: BTreeMap<i32, PartitionTick>,
    first_millis: Option<i64>,
}

impl Reader {
    /// What this tick adds. `number` gives names their numbers.
    pub fn adds(&mut self, tick: &Tick, mut number: impl FnMut(&str) -> u32) -> Adds {
        let x = tick.at_millis - *self.first_millis.get_or_insert(tick.at_millis);
        let mut adds = Adds::default();
        for now in &tick.partitions {
            let partition = now.partition;
            let Some(before) = self.before.insert(partition, *now) else { continue };
            // An end that goes back is another log: what is between them is no record.
            let step = |before: Option<i64>, now: Option<i64>| Some((now? - before?).max(0));
            let arrived = step(before.end, now.end);
            let committed = step(before.committed, now.committed);
            let lag = now.end.zip(now.committed).map(|(end, committed)| (end - committed).max(0));
            let points = [
                (Series::Arrived(partition), arrived),
                (Series::Committed(partition), committed),
                (Series::Lag(partition), lag),
            ];
            adds.series
                .extend(points.into_iter().filter_map(|(series, y)| Some((series, Line::point(x, y?)))));
        }
        self.before.retain(|partition, _| tick.partitions.iter().any(|now| now.partition == *partition));
        for cell in &tick.cells {
            let (model, tenant) = (number(&cell.model), number(&cell.tenant));
            adds.cells.push((Cell { partition: cell.partition, model, tenant }, cell.tally));
        }
        for model in &tick.models {
            let index = number(&model.model);
            adds.series.push((Series::Batches(index), model.batches));
            adds.series.push((Series::Handoffs(index), model.handoffs));
            let latency = model.latency.iter();
            adds.series.extend(
                latency
                    .map(|(bucket, n)| (Series::Latency(index, *bucket), Line { n: *n, ..Line::default() })),
            );
        }
        for stage in &tick.stages {
            adds.series.push((Series::Threads(stage.stage), Line::point(stage.on_cpu, stage.ready)));
        }
        adds
    }
}

impl Sums {
    /// Adds what a tick adds.
    pub fn add(&mut self, adds: &Adds) {
        for (cell, tally) in &adds.cells {
            self.cells.entry(*cell).or_default().add(*tally);
            self.partitions.entry(cell.partition).or_default().add(*tally);
            self.mixes.entry((cell.partition, cell.model)).or_default().add(*tally);
        }
        for (series, line) in &adds.series {
            self.series.entry(*series).or_default().add(*line);
        }
    }

    /// Leaves out what sums up to nothing.
    pub fn tidy(&mut self) {
        self.cells.retain(|_, tally| *tally != Tally::default());
        self.partitions.retain(|_, tally| *tally != Tally::default());
        self.mixes.retain(|_, tally| *tally != Tally::default());
        self.series.retain(|_, line| *line != Line::default());
    }
}

impl Recent {
    /// Adds so many ticks.
    pub fn add<'a>(&mut self, ticks: i64, millis: i64, series: impl IntoIterator<Item = &'a (Series, Line)>) {
        self.ticks += ticks;
        self.millis += millis;
        for (series, line) in series {
            self.series.entry(*series).or_default().add(*line);
        }
    }

    /// Its seconds.
    #[expect(clippy::cast_precision_loss, reason = "a span is short")]
    pub fn seconds(&self) -> f64 {
        self.millis.max(1) as f64 / 1e3
    }
}

impl Picture {
    /// What these ticks hold, from scratch: the last `span` of them, and of these the last `recent` once more by themselves.
    pub fn of(ticks: &[Tick], span: usize, recent: usize) -> Self {
        let mut picture = Self::default();
        let mut reader = Reader::default();
        let (left, old) = (ticks.len().saturating_sub(span), ticks.len().saturating_sub(recent));
        for (place, tick) in (0_u64..).zip(ticks) {
            let names = &mut picture.names;
            let adds = reader.adds(tick, |name| names.number(name, place));
            if place >= left as u64 {
                picture.sums.add(&adds);
                picture.ticks += 1;
                picture.millis += tick.millis;
            }
            if place >= old as u64 {
                picture.recent.add(1, tick.millis, &adds.series);
            }
            picture.last(tick, place);
        }
        picture.sums.tidy();
        picture.recent.series.retain(|_, line| *line != Line::default());
        picture
    }

    /// Takes over the state at the end of a tick.
    pub(super) fn last(&mut self, tick: &Tick, place: u64) {
        self.at_millis = tick.at_millis;
        self.partitions = tick.partitions.iter().map(|now| (now.partition, *now)).collect();
        self.threads = tick.stages.iter().map(|stage| (stage.stage, stage.threads)).collect();
        for model in &tick.models {
            if let Some(cost) = model.cost {
                let index = self.names.number(&model.model, place);
                self.costs.insert(index, cost);
            }
        }
    }

    /// Its seconds.
    #[expect(clippy::cast_precision_loss, reason = "a span is short")]
    pub fn seconds(&self) -> f64 {
        self.millis.max(1) as f64 / 1e3
    }
}
