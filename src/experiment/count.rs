//! Counts outcomes by the origin of their requests.

use operators::broker::{Broker as _, Isolation};
use operators::lease::Partition;
use serde::Deserialize;

use super::Failure;
use super::world::World;

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Requests without an outcome.
    pub lost: u64,
    /// Outcomes beyond the first of their request, or of no request.
    pub duplicated: u64,
    /// Dead letters: the load has only good requests.
    pub dead_letters: u64,
}

#[derive(Deserialize)]
struct Result_ {
    origin: Origin,
}

#[derive(Deserialize)]
struct Origin {
    partition: usize,
    offset: usize,
}

/// Reads results and dead letters, and counts them against `requests`, which were dealt out over the partitions.
///
/// # Errors
///
/// If a log can't be read.
pub fn count(world: &World, requests: u64) -> Result<Count, Failure> {
    let rooms = world.dealt(requests).into_iter().map(|count| usize::try_from(count).unwrap_or(0));
    let mut outcomes: Vec<Vec<u32>> = rooms.map(|count| vec![0; count]).collect();
    let mut found = Count::default();
    let topics = &world.config.topics;
    for partition in (0..topics.results.partitions).map(Partition) {
        world.broker.read(&topics.results.name, partition, Isolation::ReadCommitted, &mut |record| {
            let value = record.record.value().unwrap_or_default();
            let origin = serde_json::from_slice::<Result_>(value).ok().map(|result| result.origin);
            let count = origin.and_then(|origin| outcomes.get_mut(origin.partition)?.get_mut(origin.offset));
            match count {
                Some(count) => *count += 1,
                None => found.duplicated += 1,
            }
        })?;
    }
    for partition in (0..topics.dlq.partitions).map(Partition) {
        world
            .broker
            .read(&topics.dlq.name, partition, Isolation::ReadCommitted, &mut |_| found.dead_letters += 1)?;
    }
    for count in outcomes.into_iter().flatten() {
        found.lost += u64::from(count == 0);
        found.duplicated += u64::from(count.saturating_sub(1));
    }
    Ok(found)
}
