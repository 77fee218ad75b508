//! Gathers a running engine's own observations into ticks. Told once a batch and once a second, never once a record.
//!
//! It is bounded: so many keys of each partition are told apart, the most frequent ones ([`sketch`](super::sketch)).

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use operators::block::Block;
use operators::catalog::ModelIndex;
use operators::lease::Partition;
use operators::observe::{BatchSeen, CostSeen, LeaseSeen};

use super::bursts::Bursts;
use super::sketch::Sketch;
use super::sums::Line;
use super::tick::{BUCKETS, CellTick, Cost, ModelTick, PartitionTick, StageTick, Tick, bucket};

/// The longest name of a tenant that is kept, in bytes; a longer one is cut, and still told apart.
const NAME_MAX: usize = 64;

/// Gathers what observers are told.
#[derive(Debug)]
pub struct Gatherer {
    /// The ids of the models, by their places in the catalog.
    models: Vec<String>,
    keys_max: usize,
    /// Of a seed that no sender knows, who could else make names that are counted together. Nothing is in the order of what it gives.
    numbers: RandomState,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    since_millis: Option<i64>,
    /// The keys of each partition, by model and the hash of their tenant.
    cells: BTreeMap<Partition, Sketch<(ModelIndex, u64), String>>,
    models: BTreeMap<ModelIndex, Model>,
    costs: BTreeMap<(ModelIndex, usize), CostSeen>,
    leases: BTreeMap<Partition, LeaseSeen>,
    bursts: Bursts,
}

#[derive(Debug)]
struct Model {
    batches: Line,
    handoffs: Line,
    /// How many rows took so long, by [`bucket`].
    latency: Box<[i64; BUCKETS]>,
}

impl Default for Model {
    fn default() -> Self {
        Self { batches: Line::default(), handoffs: Line::default(), latency: Box::new([0; BUCKETS]) }
    }
}

impl Model {
    fn took(&mut self, micros: u64, rows: i64) {
        self.latency[usize::from(bucket(micros))] += rows;
    }
}

fn name(tenant: &str) -> String {
    tenant[..tenant.floor_char_boundary(NAME_MAX)].to_owned()
}

impl Gatherer {
    /// One that tells `keys_max` keys of each partition apart; `models` are the ids of the catalog's models, in their order.
    pub fn new(models: Vec<String>, keys_max: usize) -> Self {
        Self { models, keys_max, numbers: RandomState::default(), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch ran.
    pub fn batch(&self, batch: &BatchSeen<'_>) {
        let rows = i64::try_from(batch.rows.len()).unwrap_or(i64::MAX);
        if rows == 0 {
            return;
        }
        let micros = i64::try_from(batch.took.as_micros()).unwrap_or(i64::MAX);
        let seen = &mut *self.seen();
        let model = seen.models.entry(batch.model).or_default();
        // A batch that had to be isolated tells nothing of what batches cost, but its time is gone all the same.
        model.batches.add(Line::point(rows, micros));
        if let Some(handoff) = batch.handoff {
            let micros = i64::try_from(handoff.as_micros()).unwrap_or(i64::MAX);
            model.handoffs.add(Line::point(1, micros));
        }
        // Rows that were polled together took equally long.
        for rows in batch.rows.chunk_by(|row, next| row.total == next.total) {
            let micros = u64::try_from(rows[0].total.as_micros()).unwrap_or(u64::MAX);
            model.took(micros, i64::try_from(rows.len()).unwrap_or(i64::MAX));
        }
    }

    /// Rows of a model were decoded. They are counted here and not with their outcomes: of a backlog, those come in the order in which tenants
    /// have their turns, and not as the requests came.
    pub fn decoded(&self, block: &Block) {
        let seen = &mut *self.seen();
        seen.bursts.count(block.polled.polled_at, u32::try_from(block.len()).unwrap_or(u32::MAX));
        let partition = |row: usize| block.origin(row).0.partition;
        let mut rows = (0..block.len()).peekable();
        // What was polled together came from one partition after the other.
        while let Some(first) = rows.peek().copied() {
            let of = partition(first);
            let sketch = seen.cells.entry(of).or_insert_with(|| Sketch::new(self.keys_max));
            while let Some(row) = rows.next_if(|row| partition(*row) == of) {
                let tenant = block.tenant_id(row);
                let bytes = block.polled.records.get(block.rows[row].record as usize).payload_bytes();
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                // Numbers are compared quicker than texts, for each record. Two tenants of one number would be counted together.
                sketch.count((block.model, self.numbers.hash_one(tenant)), || name(tenant), bytes);
            }
        }
    }

    /// What batches of a model are known to cost on a device.
    pub fn cost(&self, model: ModelIndex, device: usize, cost: CostSeen) {
        self.seen().costs.insert((model, device), cost);
    }

    /// The state of a lease.
    pub fn lease(&self, lease: &LeaseSeen) {
        self.seen().leases.insert(lease.partition, *lease);
    }

    /// A lease was released or lost.
    pub fn lease_ended(&self, partition: Partition) {
        self.seen().leases.remove(&partition);
    }

    /// What was seen since the last tick, up to this moment; `None` at the first, which only begins.
    pub fn tick(&self, at_millis: i64, stages: Vec<StageTick>) -> Option<Tick> {
        let (mut cells, models, costs, leases, since, bursts) = {
            let seen = &mut *self.seen();
            // Taken whole: what is in it is sorted and let go of while workers go on.
            let (cells, models) = (std::mem::take(&mut seen.cells), std::mem::take(&mut seen.models));
            let since = seen.since_millis.replace(at_millis);
            // A model that rests is told of all the same.
            seen.models = models.keys().map(|model| (*model, Model::default())).collect();
            let bursts = seen.bursts.take(since.map_or(0, |since| at_millis - since));
            (cells, models, seen.costs.clone(), seen.leases.clone(), since, bursts)
        };
        let cells: Vec<_> = cells.iter_mut().map(|(partition, sketch)| (*partition, sketch.take())).collect();
        let id = |index: ModelIndex| self.models.get(index.0 as usize).cloned().unwrap_or_default();
        let cells = cells.iter().flat_map(|(partition, cells)| {
            cells.iter().map(|counted| CellTick {
                partition: partition.0,
                model: id(counted.key.0),
                tenant: counted.name.clone(),
                tally: counted.tally,
            })
        });
        let cells = cells.collect();
        let partitions = leases.values().map(partition_tick).collect();
        let models = models
            .into_iter()
            .map(|(index, model)| {
                let cost = costs.iter().find(|((of, _), _)| *of == index).map(|(_, cost)| micros(*cost));
                let latency = (0..=u8::MAX).zip(*model.latency).filter(|(_, rows)| *rows > 0).collect();
                ModelTick {
                    model: id(index),
                    batches: model.batches,
                    handoffs: model.handoffs,
                    latency,
                    cost,
                }
            })
            .collect();
        let millis = (at_millis - since?).max(1);
        Some(Tick { at_millis, millis, partitions, cells, models, stages, bursts })
    }
}

fn partition_tick(lease: &LeaseSeen) -> PartitionTick {
    PartitionTick {
        partition: lease.partition.0,
        end: lease.end,
        committed: Some(lease.committed),
        oldest_millis: lease.oldest_millis.filter(|millis| *millis >= 0),
        in_flight: i64::try_from(lease.in_flight).unwrap_or(i64::MAX),
    }
}

fn micros(cost: CostSeen) -> Cost {
    let micros = |duration: std::time::Duration| duration.as_secs_f64() * 1e6;
    Cost { fixed: micros(cost.fixed), row: micros(cost.row), efficient: cost.efficient }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use operators::block::Row;
    use operators::broker::{Polled, RecordTime};
    use operators::clock::Moment;
    use operators::lease::{Lease, Offset, Term};
    use operators::observe::{CloseReason, RowSeen};

    use super::super::sums::Tally;
    use super::*;

    fn gatherer(keys_max: usize) -> Gatherer {
        Gatherer::new(vec![String::new(), "m".to_owned()], keys_max)
    }

    /// A block of these tenants' requests, each with ten bytes.
    fn decoded(gatherer: &Gatherer, partition: i32, tenants: &[&str]) {
        let mut polled = Polled { polled_at: Moment::START, ..Polled::default() };
        let mut text = String::new();
        let mut rows = Vec::new();
        for (place, tenant) in (0..).zip(tenants) {
            polled.records.push(Some(b"key"), Some(b"of 7 b."));
            polled
                .origins
                .push((Lease { partition: Partition(partition), term: Term(1) }, Offset(place.into())));
            polled.times.push(RecordTime { millis: 0, append: false });
            let start = u32::try_from(text.len()).unwrap();
            text.push_str(tenant);
            let tenant_id = start..u32::try_from(text.len()).unwrap();
            rows.push(Row { record: place, request_id: 0..0, tenant_id });
        }
        let block = Block::new(ModelIndex(1), 0, Vec::new(), Arc::new(polled));
        gatherer.decoded(&Block { rows, text, ..block });
    }

    fn batch(gatherer: &Gatherer, rows: usize) {
        let total = Duration::from_millis(5);
        gatherer.batch(&BatchSeen {
            model: ModelIndex(1),
            id: "m",
            closed: CloseReason::Full,
            calls: 1,
            padded: 0,
            inference: Duration::from_millis(1),
            took: Duration::from_millis(2),
            handoff: Some(Duration::from_micros(300)),
            rows: &vec![RowSeen { tenant: "a", queue: total, total }; rows],
        });
    }

    #[test]
    fn a_tick_has_what_was_seen_since_the_last_one() {
        let gatherer = gatherer(10);
        assert_eq!(gatherer.tick(1_000, Vec::new()), None);
        let lease = LeaseSeen {
            partition: Partition(7),
            frontier: 5,
            committed: 4,
            end: Some(9),
            in_flight: 1,
            oldest_millis: Some(-1),
        };
        gatherer.lease(&lease);
        decoded(&gatherer, 7, &["a", "b", "a"]);
        decoded(&gatherer, 8, &[""]);
        batch(&gatherer, 4);
        let tick = gatherer.tick(2_000, Vec::new()).unwrap();
        assert_eq!((tick.at_millis, tick.millis), (2_000, 1_000));
        let state = PartitionTick {
            partition: 7,
            end: Some(9),
            committed: Some(4),
            oldest_millis: None,
            in_flight: 1,
        };
        assert_eq!(tick.partitions, [state]);
        let cell = |partition, tenant: &str, records| CellTick {
            partition,
            model: "m".to_owned(),
            tenant: tenant.to_owned(),
            tally: Tally { records, excess: 0, bytes: 10 * records },
        };
        assert_eq!(tick.cells, [cell(7, "a", 2), cell(7, "b", 1), cell(8, "", 1)]);
        assert_eq!(tick.models[0].batches, Line::point(4, 2_000));
        assert_eq!(tick.models[0].latency, [(bucket(5_000), 4)]);

        gatherer.lease_ended(Partition(7));
        let tick = gatherer.tick(3_000, Vec::new()).unwrap();
        assert!(tick.cells.is_empty() && tick.partitions.is_empty() && tick.models[0].batches.n == 0);
    }

    #[test]
    fn a_flood_of_names_takes_no_more_room_and_loses_no_record() {
        let gatherer = gatherer(4);
        gatherer.tick(0, Vec::new());
        for number in 0..1_000 {
            decoded(&gatherer, 0, &[&format!("{number}{}", "é".repeat(60)), "heavy"]);
        }
        let cells = gatherer.tick(1_000, Vec::new()).unwrap().cells;
        assert_eq!((cells.len(), cells.iter().map(|cell| cell.tally.records).sum::<i64>()), (4, 2_000));
        let heavy = cells.iter().find(|cell| cell.tenant == "heavy").unwrap();
        assert!(heavy.tally.records - heavy.tally.excess <= 1_000 && heavy.tally.records >= 1_000);
    }
}
