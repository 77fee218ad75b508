//! What Kafka remembers: requests as they came, results and dead letters as they were committed, without anything being inferred again.
//!
//! A result says of which request it is, in how large a batch it was, and what that took: that is nearly what a running engine sees. What it
//! does not say is how long executors were busy beside the model's own time, and how busy threads were.

use std::collections::BTreeMap;

use dataflows::capacity::sums::{Line, Tally};
use dataflows::capacity::tick::{CellTick, ModelTick, PartitionTick, bucket};
use dataflows::capacity::{Setup, Tick};
use operators::broker::{Broker, BrokerError, Isolation, LogRecord};
use operators::lease::{Offset, Partition};
use operators::records::RecordView;

use crate::audit::{Told, letter_origin, told};

/// Ticks at most: a longer time has longer ticks.
const TICKS_MAX: i64 = 600;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct History {
    /// From this moment, in milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// Up to this one.
    pub until_millis: i64,
    /// Records that are read at most, of all topics together.
    pub records_max: u64,
    /// Where requests, results and dead letters are.
    pub topics: [String; 3],
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The broker did not tell.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// There is no such topic.
    #[error("there is no topic {0:?}")]
    NoTopic(String),
    /// There are too many.
    #[error("more than {0} records lie in this time")]
    TooMany(u64),
}

/// What was in the logs, tick by tick.
#[derive(Debug, Default)]
struct Slots {
    since_millis: i64,
    step_millis: i64,
    slots: Vec<Slot>,
    read: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// The offset after the last request of each partition, and after the last that has its outcome.
    ends: BTreeMap<i32, i64>,
    done: BTreeMap<i32, i64>,
    cells: BTreeMap<(i32, String, String), Tally>,
    /// A batch is known by its model and its moment: its rows, and microseconds.
    batches: BTreeMap<(String, String), (i64, i64)>,
    latency: BTreeMap<(String, u8), i64>,
}

impl Slots {
    fn new(history: &History) -> Self {
        let long = (history.until_millis - history.since_millis).max(1_000);
        let step_millis = (long / TICKS_MAX).max(1_000);
        let count = usize::try_from((long + step_millis - 1) / step_millis).unwrap_or(0);
        let slots = (0..count).map(|_| Slot::default()).collect();
        Self { since_millis: history.since_millis, step_millis, slots, read: 0 }
    }

    fn at(&mut self, millis: i64) -> Option<&mut Slot> {
        let place =
            usize::try_from(millis.checked_sub(self.since_millis)?.checked_div_euclid(self.step_millis)?)
                .ok()?;
        self.slots.get_mut(place)
    }

    fn request(&mut self, partition: i32, record: &LogRecord<'_>) {
        if let Some(slot) = self.at(record.timestamp.millis) {
            let end = slot.ends.entry(partition).or_default();
            *end = (*end).max(record.offset.next().0);
            if let Some((tenant, model)) = key(record.record) {
                let bytes = i64::try_from(record.record.payload_bytes()).unwrap_or(i64::MAX);
                let tally = Tally { records: 1, excess: 0, bytes };
                slot.cells.entry((partition, model, tenant)).or_default().add(tally);
            }
        }
    }

    fn done(&mut self, partition: Partition, offset: Offset, millis: i64) -> Option<&mut Slot> {
        let slot = self.at(millis)?;
        let done = slot.done.entry(partition.0).or_default();
        *done = (*done).max(offset.next().0);
        Some(slot)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a batch")]
    fn result(&mut self, told: Told, millis: i64) {
        let Some(slot) = self.done(told.partition, told.offset, millis) else { return };
        let rows = told.batch_size.max(1);
        let micros = told.inference_ms.max(0.0) * 1e3;
        *slot
            .latency
            .entry((told.model.clone(), bucket((told.latency_ms.max(0.0) * 1e3) as u64)))
            .or_default() += 1;
        slot.batches.insert((told.model, told.inferred_at), (rows, micros as i64));
    }
}

/// Tenant and model of a request, as its key says: `tenant|model`.
fn key(record: RecordView<'_>) -> Option<(String, String)> {
    let key = std::str::from_utf8(record.key()?).ok()?;
    let (tenant, model) = key.rsplit_once('|')?;
    Some((tenant.to_owned(), model.to_owned()))
}

/// Reads the history of a group's work, and what was seen of it as ticks.
///
/// # Errors
///
/// If the broker does not tell, or there is more of it than was asked for at most.
pub fn read(broker: &dyn Broker, history: &History, group: &str) -> Result<Vec<Tick>, HistoryError> {
    let mut admin = broker.admin()?;
    let mut slots = Slots::new(history);
    let mut partitions = [0; 3];
    for (topic, count) in history.topics.iter().zip(&mut partitions) {
        *count = admin.describe(topic)?.ok_or_else(|| HistoryError::NoTopic(topic.clone()))?.partitions;
    }
    let requests: Vec<Partition> = (0..partitions[0]).map(Partition).collect();
    let committed = admin.committed(group, &history.topics[0], &requests)?;
    for (place, (topic, count)) in history.topics.iter().zip(partitions).enumerate() {
        for partition in (0..count).map(Partition) {
            let from = admin.since(topic, partition, history.since_millis)?;
            let left = history.records_max.saturating_sub(slots.read);
            let range = admin.range(topic, partition)?;
            if u64::try_from(range.end.0 - from.0).unwrap_or(0) > left {
                return Err(HistoryError::TooMany(history.records_max));
            }
            broker.read_from(topic, partition, from, Isolation::ReadCommitted, &mut |record| {
                slots.read += 1;
                let millis = record.timestamp.millis;
                match place {
                    0 => slots.request(partition.0, &record),
                    1 => {
                        // What is no result is somebody else's, and the audit's business.
                        if let Some(told) = told(record.record) {
                            slots.result(told, millis);
                        }
                    }
                    _ => {
                        if let Some((partition, offset)) = letter_origin(record.record) {
                            slots.done(partition, offset, millis);
                        }
                    }
                }
            })?;
        }
    }
    let mut starts = BTreeMap::new();
    for (partition, committed) in requests.iter().zip(&committed) {
        let from = admin.since(&history.topics[0], *partition, history.since_millis)?;
        let committed = committed.as_ref().map(|committed| committed.next.0);
        starts.insert(partition.0, (from.0, committed));
    }
    Ok(slots.ticks(&starts))
}

impl Slots {
    /// The ticks; `starts` has where each partition began, and what is committed of it now.
    fn ticks(self, starts: &BTreeMap<i32, (i64, Option<i64>)>) -> Vec<Tick> {
        let mut ends: BTreeMap<i32, i64> =
            starts.iter().map(|(partition, (from, _))| (*partition, *from)).collect();
        // Before its first outcome nobody knows how far a partition was: as far as the first outcome that is there, or as far as now.
        let first = |partition: i32| self.slots.iter().find_map(|slot| slot.done.get(&partition).copied());
        let mut done: BTreeMap<i32, Option<i64>> = starts
            .iter()
            .map(|(partition, (from, committed))| {
                let seen = first(*partition).map(|done| done.min(*from));
                (*partition, seen.or(*committed))
            })
            .collect();
        // When the requests up to an offset had come.
        let mut came: BTreeMap<i32, Vec<(i64, i64)>> = BTreeMap::new();
        let mut ticks = Vec::with_capacity(self.slots.len());
        for (place, slot) in (1..).zip(self.slots) {
            let at_millis = self.since_millis + place * self.step_millis;
            for (partition, end) in &slot.ends {
                ends.entry(*partition).and_modify(|old| *old = (*old).max(*end));
                came.entry(*partition).or_default().push((*end, at_millis - self.step_millis));
            }
            for (partition, now) in &slot.done {
                done.entry(*partition).and_modify(|old| *old = Some(old.map_or(*now, |old| old.max(*now))));
            }
            let partitions = ends.iter().map(|(partition, end)| {
                let committed = done.get(partition).copied().flatten();
                let came = came.get(partition).map_or(&[][..], Vec::as_slice);
                let oldest = committed.and_then(|committed| {
                    let place = came.partition_point(|(end, _)| *end <= committed);
                    came.get(place).map(|(_, millis)| *millis)
                });
                PartitionTick {
                    partition: *partition,
                    end: Some(*end),
                    committed,
                    oldest_millis: oldest,
                    in_flight: 0,
                }
            });
            let partitions = partitions.collect();
            ticks.push(slot.tick(at_millis, self.step_millis, partitions));
        }
        ticks
    }
}

impl Slot {
    fn tick(self, at_millis: i64, millis: i64, partitions: Vec<PartitionTick>) -> Tick {
        let mut models: BTreeMap<String, ModelTick> = BTreeMap::new();
        let model = |models: &mut BTreeMap<String, ModelTick>, id: &str| {
            models
                .entry(id.to_owned())
                .or_insert_with(|| ModelTick { model: id.to_owned(), ..ModelTick::default() });
        };
        for ((id, _), (rows, micros)) in &self.batches {
            model(&mut models, id);
            models.entry(id.clone()).and_modify(|tick| tick.batches.add(Line::point(*rows, *micros)));
        }
        for ((id, bucket), count) in &self.latency {
            model(&mut models, id);
            models.entry(id.clone()).and_modify(|tick| tick.latency.push((*bucket, *count)));
        }
        let cell = |((partition, model, tenant), tally)| CellTick { partition, model, tenant, tally };
        Tick {
            at_millis,
            millis,
            partitions,
            cells: self.cells.into_iter().map(cell).collect(),
            models: models.into_values().collect(),
            ..Tick::default()
        }
    }
}

/// A group that is looked at from outside: how far it is and how far its topic, once a second.
///
/// # Errors
///
/// If the broker does not tell.
pub fn look(broker: &dyn Broker, setup: &Setup, at_millis: i64, millis: i64) -> Result<Tick, BrokerError> {
    let mut admin = broker.admin()?;
    let count = i32::try_from(setup.partitions).unwrap_or(i32::MAX);
    let partitions: Vec<Partition> = (0..count).map(Partition).collect();
    let committed = admin.committed(&setup.group, &setup.topic, &partitions)?;
    let mut seen = Vec::with_capacity(partitions.len());
    for (partition, committed) in partitions.iter().zip(committed) {
        let range = admin.range(&setup.topic, *partition)?;
        // A group that has committed nothing of a partition has all of it before it.
        let committed = committed.map_or(range.first.0, |committed| committed.next.0);
        let (end, committed) = (Some(range.end.0), Some(committed));
        seen.push(PartitionTick {
            partition: partition.0,
            end,
            committed,
            oldest_millis: None,
            in_flight: 0,
        });
    }
    Ok(Tick { at_millis, millis, partitions: seen, ..Tick::default() })
}

#[cfg(test)]
mod tests {
    use operators::records::Records;

    use super::*;

    fn told(offset: i64, inferred_at: &str) -> Told {
        Told {
            partition: Partition(1),
            offset: Offset(offset),
            model: "m".to_owned(),
            batch_size: 2,
            inference_ms: 4.0,
            latency_ms: 40.0,
            inferred_at: inferred_at.to_owned(),
        }
    }

    #[test]
    fn results_tell_batches_lags_and_who_sent() {
        let topics = [(); 3].map(|()| String::new());
        let history = History { since_millis: 0, until_millis: 3_000, records_max: 10, topics };
        let mut slots = Slots::new(&history);
        slots.at(500).unwrap().ends.insert(1, 14);
        slots.result(told(10, "a"), 1_200);
        slots.result(told(11, "a"), 1_200);
        slots.result(told(12, "b"), 2_500);
        // It was before, or comes after.
        slots.result(told(13, "c"), -1);
        slots.result(told(13, "c"), 99_000);
        let ticks = slots.ticks(&BTreeMap::from([(1, (10, Some(14)))]));
        let states: Vec<_> =
            ticks.iter().map(|tick| (tick.partitions[0].end, tick.partitions[0].committed)).collect();
        assert_eq!(states, [(Some(14), Some(10)), (Some(14), Some(12)), (Some(14), Some(13))]);
        assert_eq!(ticks[2].partitions[0].oldest_millis, Some(0));
        assert_eq!(ticks[1].models[0].batches, Line::point(2, 4_000));
        assert_eq!(ticks[1].models[0].latency, [(bucket(40_000), 2)]);
    }

    #[test]
    fn a_key_says_whose_request_it_is() {
        let mut records = Records::default();
        for (text, whose) in [
            (Some(&b"a|m"[..]), Some(("a", "m"))),
            (Some(b"a|b|m"), Some(("a|b", "m"))),
            (Some(b"am"), None),
            (Some(b"\xff|m"), None),
            (None, None),
        ] {
            let place = records.push(text, None);
            let whose = whose.map(|(tenant, model)| (tenant.to_owned(), model.to_owned()));
            assert_eq!(key(records.get(place)), whose, "{text:?}");
        }
    }

    #[test]
    fn a_long_time_has_longer_ticks_and_no_more_of_them() {
        let topics = [(); 3].map(|()| String::new());
        let history = History { since_millis: 0, until_millis: 7_200_000, records_max: 10, topics };
        let slots = Slots::new(&history);
        assert_eq!((slots.slots.len(), slots.step_millis), (600, 12_000));
    }
}
