//! The source: polls the leases of its worker, opens each record in its ledger, and sends what it polled, one piece an activation.
//!
//! ```text
//!     orders ──▶┌────────┐
//!               │ Source │── polled @ epoch ──▶        epoch = clock / `epoch.interval`, while anything is in flight
//!   queue p ───▶│        │
//!   queue q ───▶└────────┘
//!                   │ open(offset, epoch)
//!                   ▼
//!                 ledgers
//! ```
//!
//! It sleeps until a queue, an order, returned budget or the next epoch wakes it. While nothing is in flight the epoch stands still: an
//! idle engine has no frontier to move. A lease without budget stays marked and is polled when the transaction thread returns some.

use std::sync::Arc;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::source as timely_source;
use timely::dataflow::{Scope, StreamVec};

use crate::alarm::{Alarm, Alarms};
use crate::breaker::Breaker;
use crate::broker::{PollLimit, Polled};
use crate::budget::Budget;
use crate::clock::{Clock, Moment};
use crate::fault::{Fault, Faults};
use crate::holdings::{Holding, Holdings};
use crate::lease::Partition;
use crate::observe::Observer;
use crate::outbox::Outbox;
use crate::ports::{Order, Ports};
use crate::records::Size;

/// What a source works with.
#[derive(Clone)]
pub struct SourceParts {
    /// Where its orders come in.
    pub ports: Arc<Ports>,
    /// What may be in flight.
    pub budget: Arc<Budget>,
    /// Where offsets go that have no outcome to wait for.
    pub outbox: Arc<Outbox>,
    /// While it holds, nothing is polled.
    pub breaker: Arc<Breaker>,
    /// Where it says that a partition can't be read.
    pub faults: Arc<Faults>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The length of an epoch.
    pub epoch_interval: Duration,
    /// What one activation polls at most.
    pub activation: PollLimit,
}

/// How often the tails of quiet partitions are looked at, and leases tell their state.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the source of a worker. Its capability is dropped at [`Order::Stop`].
pub fn source<'scope>(
    scope: Scope<'scope, u64>,
    parts: SourceParts,
    holdings: Holdings,
    alarms: &Alarms,
) -> StreamVec<'scope, u64, Arc<Polled>> {
    timely_source::<_, CapacityContainerBuilder<Vec<Arc<Polled>>>, _, _>(
        scope,
        "Source",
        |capability, info| {
            let worker = scope.worker().index();
            parts.ports.connect(worker, scope.worker().sync_activator_for(info.address.to_vec()));
            let alarm = alarms.register(scope.activator_for(info.address));
            let mut source = Source {
                worker,
                parts,
                holdings,
                alarm,
                turn: None,
                told: Moment::START,
                usual: Size::default(),
            };
            let mut capability = Some(capability);

            move |output| {
                source.obey(&mut capability);
                let Some(capability) = capability.as_mut() else { return };
                source.advance(capability);
                if let Some(polled) = source.poll(*capability.time()) {
                    output.session(capability).give(Arc::new(polled));
                }
                source.tell();
                source.sleep(*capability.time());
            }
        },
    )
}

struct Source {
    worker: usize,
    parts: SourceParts,
    holdings: Holdings,
    alarm: Alarm,
    /// Whose turn it is to be polled first.
    turn: Option<Partition>,
    told: Moment,
    /// How much the last poll brought.
    usual: Size,
}

impl Source {
    fn obey(&mut self, capability: &mut Option<Capability<u64>>) {
        for order in self.parts.ports.receive(self.worker) {
            let mut holdings = self.holdings.borrow_mut();
            match order {
                Order::Grant(grant) => {
                    let partition = grant.lease.partition;
                    tracing::info!(
                        partition = partition.0,
                        term = grant.lease.term.0,
                        start = grant.start.0,
                        "lease granted"
                    );
                    let earlier = holdings.insert(partition, Holding::new(grant, self.parts.outbox.order()));
                    assert!(earlier.is_none(), "a partition has one lease at a time");
                }
                Order::Drain(lease) => {
                    if let Some(holding) = holdings.get_mut(&lease.partition) {
                        holding.drain();
                    }
                }
                Order::Drop(lease) => {
                    if let Some(holding) = holdings.remove(&lease.partition) {
                        tracing::info!(partition = lease.partition.0, term = lease.term.0, "lease ended");
                        holding.forget(&self.parts.budget);
                        self.parts.observer.lease_ended(lease.partition);
                    }
                }
                Order::Stop => *capability = None,
            }
        }
    }

    fn epoch(&self, now: Moment) -> u64 {
        let interval = u64::try_from(self.parts.epoch_interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        now.nanos() / interval
    }

    /// Moves the capability to the epoch of now, while anything is in flight in the process.
    fn advance(&self, capability: &mut Capability<u64>) {
        let epoch = self.epoch(self.parts.clock.now());
        if epoch > *capability.time() && (self.parts.budget.in_flight() > 0 || self.has_work()) {
            capability.downgrade(&epoch);
        }
    }

    fn has_work(&self) -> bool {
        self.holdings.borrow().values().any(Holding::is_dirty)
    }

    fn could_poll(&self) -> bool {
        let budget = &self.parts.budget;
        self.holdings.borrow().values().any(|holding| holding.is_dirty() && holding.room(budget).is_some())
    }

    fn poll(&mut self, epoch: u64) -> Option<Polled> {
        let now = self.parts.clock.now();
        if self.parts.breaker.held_until(now).is_some() {
            return None;
        }
        let mut polled = Polled::with_room(now, self.usual);
        let mut was_idle = false;
        let mut holdings = self.holdings.borrow_mut();
        let (before, after): (Vec<Partition>, Vec<Partition>) =
            holdings.keys().partition(|partition| Some(**partition) <= self.turn);
        for partition in after.into_iter().chain(before) {
            let taken = (polled.origins.len(), polled.records.payload_bytes());
            let left = PollLimit {
                records: self.parts.activation.records.saturating_sub(taken.0),
                bytes: self.parts.activation.bytes.saturating_sub(taken.1),
            };
            if left.records == 0 || left.bytes == 0 {
                break;
            }
            let Some(holding) = holdings.get_mut(&partition) else { continue };
            if !holding.is_dirty() {
                continue;
            }
            let Some(room) = holding.room(&self.parts.budget) else { continue };
            let limit =
                PollLimit { records: room.records.min(left.records), bytes: room.bytes.min(left.bytes) };
            match holding.poll(&mut polled, limit, epoch, now, &self.parts.budget) {
                Ok(idle) => was_idle |= idle,
                Err(error) => {
                    self.parts.faults.raise(Fault::Broker(error));
                    continue;
                }
            }
            holding.pass_tail();
            holding.offer(&self.parts.outbox);
            self.turn = Some(partition);
        }
        drop(holdings);
        if was_idle {
            // The other sources must move their epochs again, or the epoch frontier would stand still.
            self.parts.ports.wake_all();
        }
        self.usual = polled.records.size();
        if polled.origins.len() == polled.skipped.len() {
            return None;
        }
        polled.records.fit();
        self.parts.observer.polled(polled.origins.len(), polled.records.payload_bytes());
        Some(polled)
    }

    fn tell(&mut self) {
        let now = self.parts.clock.now();
        if now.since(self.told) < TELL_INTERVAL && self.told != Moment::START {
            return;
        }
        self.told = now;
        for holding in self.holdings.borrow_mut().values_mut() {
            holding.pass_tail();
            holding.offer(&self.parts.outbox);
            holding.settle(now);
            holding.tell(&*self.parts.observer);
        }
    }

    /// Sets the alarm for whatever comes first: more to poll, the next epoch, or the next telling.
    fn sleep(&self, epoch: u64) {
        let now = self.parts.clock.now();
        let held = self.parts.breaker.held_until(now);
        if held.is_none() {
            if self.could_poll() {
                return self.alarm.now();
            }
            if self.has_work() {
                // Told before looking once more: what is released after that look is released by somebody who has heard of it.
                self.parts.budget.starve();
                if self.could_poll() {
                    return self.alarm.now();
                }
            }
        }
        let telling =
            if self.holdings.borrow().is_empty() { Moment::NEVER } else { self.told.after(TELL_INTERVAL) };
        let mut next = telling.min(held.unwrap_or(Moment::NEVER));
        if self.parts.budget.in_flight() > 0 {
            let interval = u64::try_from(self.parts.epoch_interval.as_nanos()).unwrap_or(u64::MAX).max(1);
            let epoch = epoch.max(self.epoch(now));
            next = next.min(Moment::from_nanos((epoch + 1).saturating_mul(interval)));
        }
        self.alarm.set(next);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;
    use timely::worker::Worker;

    use super::*;
    use crate::broker::Class;
    use crate::budget::{BudgetConfig, LeaseAccount};
    use crate::clock::ManualClock;
    use crate::fixtures::{Recorder, TestQueue, Watched, broker_error, lease, on_a_worker};
    use crate::lease::{Lease, NextOffset, Offset};
    use crate::observe::Silent;
    use crate::outbox::TransactionLimit;
    use crate::ports::Grant;

    const EPOCH: Duration = Duration::from_millis(50);
    const LETTERS_MAX: u32 = 8;

    /// A source, and everything around it that a test moves by hand.
    struct Rig<'w> {
        worker: &'w mut Worker,
        alarms: Alarms,
        clock: Arc<ManualClock>,
        observer: Arc<Recorder>,
        parts: SourceParts,
        watched: Watched<Arc<Polled>>,
    }

    impl<'w> Rig<'w> {
        fn new(worker: &'w mut Worker, budget: BudgetConfig, activation: PollLimit) -> Self {
            let (clock, observer, alarms) = (Arc::new(ManualClock::new()), Arc::default(), Alarms::new());
            let parts = SourceParts {
                ports: Arc::new(Ports::new(1)),
                budget: Arc::new(Budget::new(budget)),
                breaker: Arc::new(Breaker::new(Some(LETTERS_MAX), Arc::default(), Arc::new(Silent))),
                outbox: Arc::default(),
                faults: Arc::default(),
                observer: Arc::clone(&observer) as Arc<dyn Observer>,
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                epoch_interval: EPOCH,
                activation,
            };
            let holdings: Holdings = Rc::new(RefCell::new(BTreeMap::new()));
            let watched =
                worker.dataflow(|scope| Watched::new(source(scope, parts.clone(), holdings, &alarms)));
            Self { worker, alarms, clock, observer, parts, watched }
        }

        fn grant(&mut self, partition: i32) -> (TestQueue, Arc<LeaseAccount>) {
            let (queue, account) = (TestQueue::default(), Arc::new(LeaseAccount::default()));
            let dirty = Arc::new(AtomicBool::new(false));
            queue.set_waker(self.parts.ports.waker(Partition(partition), Arc::clone(&dirty)));
            let grant = Grant {
                lease: lease(partition, 1),
                start: NextOffset(0),
                queue: Box::new(queue.clone()),
                dirty,
                account: Arc::clone(&account),
            };
            self.parts.ports.send(0, Order::Grant(grant));
            (queue, account)
        }

        /// Rings the alarms that are due, and steps until nothing happens.
        fn turn(&mut self) {
            for _ in 0..40 {
                self.alarms.ring(self.clock.now());
                self.worker.step();
            }
        }

        fn later(&mut self, wait: Duration) {
            self.clock.advance(wait);
            self.turn();
        }

        /// The epoch of each piece that was sent, with the partitions and offsets in it.
        fn sent(&self) -> Vec<(u64, Vec<(i32, i64)>)> {
            let origin = |(lease, offset): &(Lease, Offset)| (lease.partition.0, offset.0);
            let sent = self.watched.out.borrow();
            sent.iter().map(|(epoch, polled)| (*epoch, polled.origins.iter().map(origin).collect())).collect()
        }

        fn sizes(&self) -> Vec<usize> {
            self.sent().iter().map(|(_, origins)| origins.len()).collect()
        }
    }

    const ROOMY: BudgetConfig = BudgetConfig { records_max: 1_000, bytes_max: 1 << 20, partitions: 2 };
    const ACTIVATION: PollLimit = PollLimit { records: 4, bytes: 1 << 20 };

    #[test]
    fn a_starved_lease_is_polled_again_when_budget_returns() {
        on_a_worker(|worker| {
            let tight = BudgetConfig { records_max: 10, partitions: 1, ..ROOMY };
            let mut rig = Rig::new(worker, tight, ACTIVATION);
            let (queue, account) = rig.grant(0);
            queue.append(20);
            rig.turn();
            assert_eq!((rig.sizes(), queue.waiting()), (vec![4, 4, 2], 10));
            assert!(rig.parts.budget.was_starved(), "whoever releases has to know");
            rig.later(EPOCH);
            assert_eq!(queue.waiting(), 10, "time brings no budget");
            rig.parts.budget.release(&account, 3, 0);
            rig.parts.ports.wake_all();
            rig.turn();
            assert_eq!((rig.sizes(), queue.waiting()), (vec![4, 4, 2, 3], 7));
        });
    }

    #[test]
    fn the_epoch_stands_still_while_nothing_is_in_flight() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, account) = rig.grant(0);
            rig.turn();
            rig.later(Duration::from_secs(1));
            assert_eq!(rig.watched.frontier(), Some(0));
            queue.append(2);
            rig.turn();
            assert_eq!(rig.sent(), [(20, vec![(0, 0), (0, 1)])], "a second is twenty epochs");
            rig.later(EPOCH * 3);
            assert_eq!(rig.watched.frontier(), Some(23), "it moves while something is in flight");
            rig.parts.budget.release(&account, 2, 0);
            rig.later(EPOCH * 5);
            assert_eq!(rig.watched.frontier(), Some(23));
        });
    }

    #[test]
    fn a_stop_lets_the_dataflow_end() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            rig.turn();
            assert!(!rig.watched.probe.done());
            rig.parts.ports.send(0, Order::Stop);
            rig.turn();
            assert!(rig.watched.probe.done());
        });
    }

    #[test]
    fn leases_are_polled_in_turn() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, PollLimit { records: 2, ..ACTIVATION });
            let (first, second) = (rig.grant(0).0, rig.grant(1).0);
            first.append(6);
            second.append(6);
            rig.turn();
            let turns: Vec<i32> = rig.sent().iter().map(|(_, origins)| origins[0].0).collect();
            assert_eq!(turns, [0, 1, 0, 1, 0, 1]);
        });
    }

    #[test]
    fn one_activation_reads_several_leases() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (first, second) = (rig.grant(0).0, rig.grant(1).0);
            first.append(1);
            second.append(5);
            rig.turn();
            assert_eq!(rig.sent()[0].1, [(0, 0), (1, 0), (1, 1), (1, 2)]);
            assert_eq!((rig.sizes(), rig.observer.seen().polled), (vec![4, 2], 6));
        });
    }

    #[test]
    fn a_record_delivered_again_does_not_enter_twice() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, account) = rig.grant(0);
            queue.append(2);
            rig.turn();
            queue.deliver(1);
            queue.append(1);
            rig.turn();
            assert_eq!(account.records(), 3);
        });
    }

    #[test]
    fn nothing_is_polled_while_the_breaker_holds_and_all_of_it_after_that() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, account) = rig.grant(0);
            let letter = |rig: &Rig<'_>| {
                rig.parts.breaker.count(crate::dead_letter::Reason::DeadlineExceeded, rig.clock.now());
            };
            (0..LETTERS_MAX).for_each(|_| letter(&rig));
            queue.append(3);
            rig.turn();
            assert_eq!((queue.waiting(), account.records()), (3, 0));
            rig.later(Duration::from_secs(14));
            assert_eq!((queue.waiting(), account.records()), (3, 0));
            rig.later(Duration::from_secs(1));
            assert_eq!((queue.waiting(), account.records()), (0, 3));
        });
    }

    #[test]
    fn control_records_at_the_tail_are_passed_over() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, _) = rig.grant(0);
            rig.turn();
            assert_eq!(rig.parts.outbox.waiting().leases, 0);
            queue.append_control();
            rig.later(TELL_INTERVAL);
            let parts = rig.parts.outbox.take(TransactionLimit { records: 1, bytes: 1 });
            assert_eq!((parts[0].done.base(), parts[0].outcomes.len()), (NextOffset(1), 0));
        });
    }

    #[test]
    fn a_lease_that_drains_is_read_no_more_and_one_that_is_dropped_gives_its_budget_back() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, account) = rig.grant(0);
            queue.append(3);
            rig.turn();
            rig.parts.ports.send(0, Order::Drain(lease(0, 1)));
            queue.append(3);
            rig.turn();
            assert_eq!((queue.waiting(), account.records(), account.is_drained()), (3, 3, false));
            rig.parts.ports.send(0, Order::Drop(lease(0, 1)));
            rig.turn();
            assert_eq!((account.records(), rig.parts.budget.in_flight()), (0, 0));
            assert_eq!(rig.observer.seen().ended, [Partition(0)]);
        });
    }

    #[test]
    fn a_partition_that_cannot_be_read_is_a_fault() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            let (queue, _) = rig.grant(0);
            queue.break_it();
            rig.turn();
            assert_eq!(rig.parts.faults.get(), Some(&Fault::Broker(broker_error(Class::Fatal))));
        });
    }

    #[test]
    fn a_lease_tells_its_state_about_once_a_second() {
        on_a_worker(|worker| {
            let mut rig = Rig::new(worker, ROOMY, ACTIVATION);
            rig.clock.advance(TELL_INTERVAL);
            let (queue, _) = rig.grant(0);
            queue.append(3);
            rig.turn();
            rig.later(TELL_INTERVAL);
            let seen = rig.observer.seen().leases;
            let last = seen.last().unwrap();
            assert_eq!(
                (last.frontier, last.end, last.in_flight, last.oldest_millis),
                (0, Some(3), 3, Some(1_000))
            );
            assert!(seen.len() <= 3, "{} times", seen.len());
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever arrives, is released and goes by in time: each record is sent once, in the order of its partition, and never more
        /// than the budget is in flight.
        #[test]
        fn every_record_is_sent_once_and_in_order(
            moves in prop::collection::vec((0_usize..3, 0_usize..12, 0_usize..12, 0_u64..120), 1..30),
            records_max in 6_usize..30,
            activation in 1_usize..9,
        ) {
            let (sent, in_flight_max) = on_a_worker(|worker| {
                let budget = BudgetConfig { records_max, bytes_max: 1 << 20, partitions: 3 };
                let mut rig = Rig::new(worker, budget, PollLimit { records: activation, bytes: 1 << 20 });
                let leases: Vec<_> = (0..3).map(|partition| rig.grant(partition)).collect();
                let mut in_flight_max = 0;
                let end = [(0, 0, 64, 10), (1, 0, 64, 10), (2, 0, 64, 10)].repeat(40);
                for (place, arrive, release, millis) in moves.iter().copied().chain(end) {
                    leases[place].0.append(arrive);
                    rig.later(Duration::from_millis(millis));
                    in_flight_max = in_flight_max.max(rig.parts.budget.in_flight());
                    let account = &leases[place].1;
                    rig.parts.budget.release(account, release.min(account.records()), 0);
                    rig.parts.ports.wake_all();
                }
                (rig.sent(), in_flight_max)
            });
            prop_assert!(in_flight_max <= records_max);
            prop_assert!(sent.is_sorted_by_key(|(epoch, _)| *epoch));
            for (partition, place) in (0..).zip(0..3) {
                let all = sent.iter().flat_map(|(_, origins)| origins);
                let offsets: Vec<i64> = all.filter(|(at, _)| *at == partition).map(|(_, offset)| *offset).collect();
                let arrived: usize = moves.iter().filter(|(at, ..)| *at == place).map(|(_, arrive, ..)| arrive).sum();
                prop_assert_eq!(offsets, (0..i64::try_from(arrived).unwrap()).collect::<Vec<_>>());
            }
        }
    }
}
