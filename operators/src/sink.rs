//! The sink: outcomes come home, close their records in the ledger, and leave for the transaction thread as the frontier passes them.
//!
//! ```text
//!   dead letters of this worker's decode ──▶┌──────┐
//!   outcomes of every infer, exchanged ────▶│ Sink │── what the partition frontier passed ──▶ outbox ──▶ transaction
//!   ─ ─ epoch frontier ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ▶└──────┘
//!                                               │ close(offset)      ▲ oldest open
//!                                               ▼                    │
//!                                             ledgers ───────────────┘
//! ```
//!
//! Here both witnesses meet. The ledger decides what is committed. The epoch frontier says that nothing more can come for an epoch: a
//! record still open then was dropped by an operator, and the engine stops before anything at or past it is committed. It stops as well
//! when a record is given a second outcome, and when one is open past the deadline while the process is ready, because a leaked
//! capability would hold the epoch frontier back for ever and so blind it. Only the time counts in which the oldest epoch stands still: in
//! a backlog before a slow model a record may wait for longer, as long as others of the oldest epoch get their outcomes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::progress::frontier::AntichainRef;

use crate::alarm::Alarms;
use crate::budget::Budget;
use crate::clock::{Clock, Moment};
use crate::fault::{Fault, Faults};
use crate::health::Health;
use crate::holdings::Holdings;
use crate::lease::Partition;
use crate::ledger::Opened;
use crate::observe::Observer;
use crate::outbox::{Outbox, Retained};
use crate::outcome::Outcomes;

/// When the oldest epoch under way last came nearer to its end: an outcome of it reached any sink of the process, or the epoch frontier
/// moved.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    fn note(&self, now: Moment) {
        self.0.fetch_max(now.nanos(), Ordering::Relaxed);
    }

    fn last(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What a sink works with.
#[derive(Clone)]
pub struct SinkParts {
    /// Where outcomes go that a frontier has passed.
    pub outbox: Arc<Outbox>,
    /// Where what outcomes weigh is charged.
    pub budget: Arc<Budget>,
    /// Where it says that the engine must stop.
    pub faults: Arc<Faults>,
    /// While the process is unready, nobody is blamed for a record that waits.
    pub health: Arc<Health>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Shared by the sinks of the process.
    pub progress: Arc<Progress>,
    /// How long a record may be without an outcome while the process is ready and the oldest epoch stands still.
    pub open_max: Duration,
    /// The length of an epoch.
    pub epoch_interval: Duration,
}

/// How often the deadline of open records is looked at, whatever else happens.
const DEADLINE_INTERVAL: Duration = Duration::from_secs(1);

/// Methods to bring outcomes to their end.
pub trait Sink<'scope> {
    /// Brings each block of outcomes home, and hands what the partition frontiers pass to the outbox.
    fn sink_home(self, parts: SinkParts, holdings: Holdings, alarms: &Alarms);
}

impl<'scope> Sink<'scope> for StreamVec<'scope, u64, Arc<Outcomes>> {
    fn sink_home(self, parts: SinkParts, holdings: Holdings, alarms: &Alarms) {
        let scope = self.scope();
        let home = Exchange::new(|outcomes: &Arc<Outcomes>| outcomes.home as u64);
        let alarms = alarms.clone();
        self.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            home,
            "Sink",
            move |_capability, info| {
                let alarm = alarms.register(scope.activator_for(info.address));
                let worker = scope.worker().index();
                let mut touched = BTreeSet::new();
                let mut ready_since = Moment::START;
                let mut oldest_epoch = None;

                move |(input, frontier), _output| {
                    let epoch = frontier.frontier().first().copied();
                    let mut moved = std::mem::replace(&mut oldest_epoch, epoch) != epoch;
                    input.for_each(|stamp, data| {
                        moved |= stamp.least().is_some_and(|at| epoch.is_none_or(|epoch| *at <= epoch));
                        for outcomes in data.drain(..) {
                            parts.close(&holdings, &outcomes, &mut touched);
                        }
                    });
                    if moved {
                        parts.progress.note(parts.clock.now());
                    }
                    if !parts.health.is_ready() {
                        ready_since = parts.clock.now();
                    }
                    if parts.faults.get().is_none() {
                        parts.witness(&holdings, frontier.frontier(), ready_since, worker);
                    }
                    if parts.faults.get().is_none() {
                        for partition in std::mem::take(&mut touched) {
                            if let Some(holding) = holdings.borrow_mut().get_mut(&partition) {
                                holding.offer(&parts.outbox);
                            }
                        }
                    }
                    // Not only while something is open: a record that is polled later need not activate the sink.
                    alarm.set(parts.clock.now().after(DEADLINE_INTERVAL));
                }
            },
        );
    }
}

impl SinkParts {
    fn close(&self, holdings: &Holdings, outcomes: &Arc<Outcomes>, touched: &mut BTreeSet<Partition>) {
        let mut holdings = holdings.borrow_mut();
        let weight = outcomes.bytes() / outcomes.len().max(1);
        let mut next = 0;
        while next < outcomes.len() {
            // Outcomes come in runs of one lease, as the records were polled.
            let first = next;
            let lease = outcomes.origin(first).0;
            next =
                (first..outcomes.len()).find(|at| outcomes.origin(*at).0 != lease).unwrap_or(outcomes.len());
            // An outcome of a lease that has ended is stale: the new owner does the record again.
            let Some(holding) = holdings.get_mut(&lease.partition).filter(|holding| holding.lease == lease)
            else {
                continue;
            };
            touched.insert(lease.partition);
            self.budget.charge(&holding.account, 0, weight * (next - first));
            for index in first..next {
                let offset = outcomes.origin(index).1;
                let retain = |opened: &Opened| {
                    Retained::new(Arc::clone(outcomes), index, opened.bytes as usize + weight)
                };
                if let Err(error) = holding.ledger.close(offset, retain) {
                    self.faults.raise(Fault::SurplusOutcome { partition: lease.partition, offset, error });
                    return;
                }
            }
        }
    }

    fn witness(
        &self,
        holdings: &Holdings,
        frontier: AntichainRef<'_, u64>,
        ready_since: Moment,
        worker: usize,
    ) {
        let now = self.clock.now();
        let closed_before = frontier.first().copied().unwrap_or(u64::MAX);
        for (partition, holding) in holdings.borrow().iter() {
            let Some(oldest) = holding.ledger.oldest_open() else { continue };
            if oldest.epoch < closed_before {
                let (partition, offset) = (*partition, oldest.offset);
                return self.faults.raise(Fault::MissingOutcome { partition, offset });
            }
            // The time in which the process was unready is nobody's fault, and once it is ready there is all of it to make up for.
            if now.since(oldest.at.max(ready_since).max(self.progress.last())) > self.open_max {
                return self.faults.raise(Fault::Overdue { partition: *partition, offset: oldest.offset });
            }
        }
        let interval = u64::try_from(self.epoch_interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        if closed_before != u64::MAX {
            let behind = (now.nanos() / interval).saturating_sub(closed_before);
            // While nothing is in flight the epoch stands still, and is behind nothing.
            self.observer.epoch_lag(worker, if self.budget.in_flight() > 0 { behind } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests;
