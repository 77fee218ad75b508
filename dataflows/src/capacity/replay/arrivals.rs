//! The trace that is replayed: each record that came, when, and under which key.
//!
//! Ticks say how many records came to each partition in about a second, which keys were read, and how many in each tenth of it. The moments within
//! that and the order of keys are drawn, evenly, from a fixed seed: the same ticks give the same trace.

use std::collections::BTreeMap;
use std::time::Duration;

use operators::clock::Moment;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::super::basis::{Basis, float};
use super::super::tick::{CellTick, Tick};

/// Records that are replayed at most: the newest ticks that have no more.
pub(super) const RECORDS_MAX: usize = 400_000;

const SEED: u64 = 0x71de;

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// When it came, from the start of the trace.
    pub at: Moment,
    /// Its partition, by its place in [`Arrivals::partitions`].
    pub lane: usize,
    /// Its model, by its place in [`Arrivals::models`].
    pub(super) model: usize,
    /// Its tenant, by its place in [`Arrivals::tenants`].
    pub tenant: usize,
    /// A number that its request's key has, for what is split by it.
    pub lot: u64,
}

/// All of them, by when they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrivals {
    /// The records.
    pub records: Vec<Arrival>,
    /// The numbers of the partitions.
    pub partitions: Vec<i32>,
    /// The ids of the models, each with something known of what its batches cost.
    pub(super) models: Vec<String>,
    /// The ids of the tenants.
    pub tenants: Vec<String>,
    /// How long the trace is.
    pub length: Duration,
}

/// Keys and how many records each had, summed up to draw from.
#[derive(Clone, Debug, Default)]
struct Mix {
    /// Model and tenant, and all records up to and with this key.
    keys: Vec<(usize, usize, i64)>,
}

impl Mix {
    fn add(&mut self, model: usize, tenant: usize, records: i64) {
        if records > 0 {
            self.keys.push((model, tenant, self.records() + records));
        }
    }

    fn records(&self) -> i64 {
        self.keys.last().map_or(0, |(_, _, sum)| *sum)
    }

    fn draw(&self, lots: &mut ChaCha8Rng) -> Option<(usize, usize)> {
        if self.keys.is_empty() {
            return None;
        }
        let lot = lots.random_range(0..self.records());
        let place = self.keys.partition_point(|(_, _, sum)| *sum <= lot);
        self.keys.get(place).map(|(model, tenant, _)| (*model, *tenant))
    }
}

/// Places of names.
#[derive(Debug, Default)]
struct Places {
    names: Vec<String>,
    by_name: BTreeMap<String, usize>,
}

impl Places {
    fn of(&mut self, name: &str) -> usize {
        if let Some(place) = self.by_name.get(name) {
            return *place;
        }
        self.by_name.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.names.len() - 1
    }
}

/// A tick, as it is drawn from.
struct Drawn {
    millis: i64,
    /// What came to each lane.
    came: Vec<f64>,
    /// What waited in each lane at its end, and how much of that was polled.
    lag: Vec<(i64, i64)>,
    mixes: BTreeMap<usize, Mix>,
    /// Records up to and with each of its slots, where that is known.
    slots: Vec<u64>,
}

impl Drawn {
    /// A moment within it, in microseconds from its start.
    fn moment(&self, lots: &mut ChaCha8Rng) -> u64 {
        let micros = self.millis.unsigned_abs().max(1) * 1_000;
        let Some(all) = self.slots.last().copied().filter(|all| *all > 0) else {
            return lots.random_range(0..=micros);
        };
        let lot = lots.random_range(0..all);
        let slot = self.slots.partition_point(|sum| *sum <= lot) as u64;
        let length = micros / self.slots.len() as u64;
        slot * length + lots.random_range(0..=length)
    }
}

impl Arrivals {
    /// Those that these ticks tell of, `load` times as many; nothing where they say nothing of keys, or nothing is known of what batches cost.
    pub(super) fn of(basis: &Basis, ticks: &[Tick]) -> Option<Self> {
        let partitions: Vec<i32> = basis.picture.partitions.keys().copied().collect();
        let (mut models, mut tenants) = (Places::default(), Places::default());
        let known = |model: &str| basis.cost_of(model).is_some();
        let ticks = read(ticks, &partitions, |cell| {
            known(&cell.model).then(|| (models.of(&cell.model), tenants.of(&cell.tenant)))
        });
        let ticks = newest(&ticks, basis.load)?;
        let mut whole: BTreeMap<usize, Mix> = BTreeMap::new();
        for (lane, mix) in ticks.iter().flat_map(|tick| &tick.mixes) {
            let mut before = 0;
            for (model, tenant, sum) in &mix.keys {
                whole.entry(*lane).or_default().add(*model, *tenant, sum - before);
                before = *sum;
            }
        }
        let mut arrivals =
            Self { partitions, models: models.names, tenants: tenants.names, ..Self::default() };
        arrivals.draw(ticks, &whole, basis);
        Some(arrivals).filter(|arrivals| !arrivals.records.is_empty())
    }

    fn draw(&mut self, ticks: &[Drawn], whole: &BTreeMap<usize, Mix>, basis: &Basis) {
        let mut lots = ChaCha8Rng::seed_from_u64(SEED);
        let lanes = self.partitions.len();
        let mut owed = vec![0.0; lanes];
        let backlog = backlog(ticks, lanes);
        let mut start = Duration::ZERO;
        for (place, tick) in ticks.iter().enumerate() {
            let millis = tick.millis.unsigned_abs().max(1);
            for (lane, owed) in owed.iter_mut().enumerate() {
                let Some(all) = whole.get(&lane) else { continue };
                let mix = tick.mixes.get(&lane).unwrap_or(all);
                *owed += tick.came[lane] * basis.load;
                let came = owed.floor();
                *owed -= came;
                // Of the first tick only what waits at its end is taken.
                let count = if place == 0 { backlog[lane] } else { count(came) };
                for _ in 0..count.min(i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX)) {
                    let Some((model, tenant)) = mix.draw(&mut lots) else { break };
                    let micros = if place == 0 { 0 } else { tick.moment(&mut lots) };
                    let after = Duration::from_micros(micros);
                    let lane = if basis.is_spread { lots.random_range(0..lanes) } else { lane };
                    let (at, lot) = (Moment::START.after(start + after), lots.next_u64());
                    self.records.push(Arrival { at, lane, model, tenant, lot });
                }
            }
            if place > 0 {
                start += Duration::from_millis(millis);
            }
        }
        self.records.sort_by_key(|arrival| arrival.at);
        self.length = start;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "what came in a second")]
fn count(came: f64) -> i64 {
    came as i64
}

/// What waits in each lane when the trace begins. What was polled by then, up to what comes in a second, is on its way in any engine that is
/// well, and no backlog: all of it at once would be a burst that there never was.
fn backlog(ticks: &[Drawn], lanes: usize) -> Vec<i64> {
    let Some((first, others)) = ticks.split_first() else { return vec![0; lanes] };
    let seconds = float(others.iter().map(|tick| tick.millis).sum()) / 1e3;
    let backlog = |lane: usize| {
        let (waits, polled) = first.lag[lane];
        let a_second = others.iter().map(|tick| tick.came[lane]).sum::<f64>() / seconds.max(1e-3);
        waits - polled.min(count(a_second.ceil()))
    };
    (0..lanes).map(backlog).collect()
}

/// What each tick says of each lane. The first says only what was there.
fn read(
    ticks: &[Tick],
    partitions: &[i32],
    mut key: impl FnMut(&CellTick) -> Option<(usize, usize)>,
) -> Vec<Drawn> {
    let lane_of: BTreeMap<i32, usize> =
        partitions.iter().enumerate().map(|(lane, partition)| (*partition, lane)).collect();
    let mut ends: Vec<Option<i64>> = vec![None; partitions.len()];
    let tick = |tick: &Tick| {
        let (mut came, mut lag) = (vec![0.0; partitions.len()], vec![(0, 0); partitions.len()]);
        let mut mixes: BTreeMap<usize, Mix> = BTreeMap::new();
        let mut counted = vec![0; partitions.len()];
        for cell in &tick.cells {
            let Some(lane) = lane_of.get(&cell.partition) else { continue };
            counted[*lane] += cell.tally.records;
            if let Some((model, tenant)) = key(cell) {
                mixes.entry(*lane).or_default().add(model, tenant, cell.tally.records);
            }
        }
        for now in &tick.partitions {
            let Some(lane) = lane_of.get(&now.partition).copied() else { continue };
            let before = std::mem::replace(&mut ends[lane], now.end);
            // Where the end of the log is not known, what was read came.
            came[lane] = match (before, now.end) {
                (Some(before), Some(end)) => float((end - before).max(0)),
                _ => float(counted[lane]),
            };
            let waits = now.end.zip(now.committed).map_or(0, |(end, committed)| (end - committed).max(0));
            lag[lane] = (waits, now.in_flight.clamp(0, waits));
        }
        let mut sum = 0;
        let slots = tick.bursts.iter().map(|count| {
            sum += u64::from(*count);
            sum
        });
        let slots = slots.collect();
        Drawn { millis: tick.millis, came, lag, mixes, slots }
    };
    ticks.iter().map(tick).collect()
}

/// The newest ticks that have no more records than may be replayed, behind one that says what was there before them.
fn newest(ticks: &[Drawn], load: f64) -> Option<&[Drawn]> {
    let most = float(i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX));
    let mut records = 0.0;
    let fit = ticks.iter().rev().take_while(|tick| {
        records += load * tick.came.iter().sum::<f64>();
        records <= most
    });
    let fit = fit.count();
    (fit >= 2).then(|| &ticks[ticks.len() - fit..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_drawn_as_often_as_they_came() {
        let mut mix = Mix::default();
        mix.add(0, 0, 900);
        mix.add(0, 1, 0);
        mix.add(1, 2, 100);
        let mut lots = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<_> = (0..10_000).filter_map(|_| mix.draw(&mut lots)).collect();
        let second = drawn.iter().filter(|key| **key == (1, 2)).count();
        assert!((900..1_100).contains(&second), "{second}");
        assert!(drawn.iter().all(|key| *key != (0, 1)));
        assert_eq!(Mix::default().draw(&mut lots), None);
    }
}
