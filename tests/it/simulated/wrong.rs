//! Engines that are wrong on purpose: each must be caught, or the tests that pass prove nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dataflows::engine::Engine;
use dataflows::lockstep::{End, Next};
use operators::broker::{
    Admin, Broker, BrokerError, GroupToken, Isolation, LogRecord, Member, OffsetCommit, PlainProducer,
    Producer, Writer,
};
use operators::commit::Delivery;
use operators::commit_order::CommitOrder;
use operators::device::{Batch, Device, Executed};
use operators::fault::Fault;
use operators::lease::{NextOffset, Offset, Partition};
use operators::records::{RecordView, Records};

use super::world::{World, WorldOptions};

/// Damages what a device gives back.
struct Damaged<F> {
    inner: Box<dyn Device>,
    damage: F,
}

impl<F: FnMut(&mut Executed)> Device for Damaged<F> {
    fn executors(&self) -> usize {
        self.inner.executors()
    }

    fn room(&self) -> usize {
        self.inner.room()
    }

    fn submit(&mut self, batch: Batch) {
        self.inner.submit(batch);
    }

    fn finished(&mut self) -> Option<Executed> {
        let mut executed = self.inner.finished()?;
        (self.damage)(&mut executed);
        Some(executed)
    }
}

fn with_damage<F: FnMut(&mut Executed) + 'static>(
    engine: Engine,
    damage: impl Fn() -> F + Send + Sync + 'static,
) -> Engine {
    let wrap = move |inner| Box::new(Damaged { inner, damage: damage() }) as Box<dyn Device>;
    Engine { wrap_device: Some(Arc::new(wrap)), ..engine }
}

#[test]
fn a_record_dropped_inside_the_dataflow_stops_the_engine_before_anything_past_it_is_committed() {
    let world = World::new(11, WorldOptions::default());
    let dropped = Arc::new(std::sync::Mutex::new(None));
    let engine = with_damage(world.engine(), {
        let dropped = Arc::clone(&dropped);
        move || {
            let dropped = Arc::clone(&dropped);
            move |executed: &mut Executed| {
                let mut dropped = dropped.lock().unwrap();
                if dropped.is_none()
                    && let Some((_, outcomes)) =
                        executed.outcomes.iter_mut().find(|(_, outcomes)| !outcomes.is_empty())
                {
                    *dropped = Some(outcomes.origin(outcomes.len() - 1));
                    outcomes.pop();
                }
            }
        }
    });
    let end = world.run_with(engine, World::lots(11), |_| Next::Go);
    let (lease, offset, _) = dropped.lock().unwrap().expect("a record was dropped");
    assert_eq!(end, End::Fault(Fault::MissingOutcome { partition: lease.partition, offset }));
    // The next producer of the id ends the transaction that the engine may have left open.
    drop(world.broker.producer(&world.engine().config.transactional_id).unwrap());
    let mut admin = world.broker.admin().unwrap();
    let committed = admin.committed("workers", "requests", &[lease.partition]).unwrap().remove(0);
    assert!(committed.as_ref().is_none_or(|committed| committed.next.0 <= offset.0), "{committed:?}");
    assert_eq!(world.run(World::lots(12), |_| false), End::Stopped);
    world.assert_clean();
}

#[test]
fn a_second_outcome_for_a_record_stops_the_engine() {
    let world = World::new(12, WorldOptions::default());
    let engine = with_damage(world.engine(), || {
        let mut done = false;
        move |executed: &mut Executed| {
            if !done && let Some(first) = executed.outcomes.first().cloned() {
                executed.outcomes.push(first);
                done = true;
            }
        }
    });
    let end = world.run_with(engine, World::lots(12), |_| Next::Go);
    assert!(matches!(end, End::Fault(Fault::SurplusOutcome { .. })), "{end:?}");
    assert_eq!(world.run(World::lots(13), |_| false), End::Stopped);
    world.assert_clean();
}

/// A device that takes batches and gives none back.
struct Stuck(Box<dyn Device>);

impl Device for Stuck {
    fn executors(&self) -> usize {
        self.0.executors()
    }

    fn room(&self) -> usize {
        self.0.room()
    }

    fn submit(&mut self, batch: Batch) {
        self.0.submit(batch);
    }

    fn finished(&mut self) -> Option<Executed> {
        None
    }
}

#[test]
fn a_model_that_never_returns_stops_the_engine_after_the_deadline() {
    let world = World::new(14, WorldOptions::default());
    let mut engine = world.engine();
    engine.config.open_max = Duration::from_secs(2);
    engine.wrap_device = Some(Arc::new(|inner| Box::new(Stuck(inner)) as Box<dyn Device>));
    let end = world.run_with(engine, World::lots(14), |_| Next::Go);
    assert!(matches!(end, End::Fault(Fault::Overdue { .. })), "{end:?}");
    assert_eq!(world.run(World::lots(15), |_| false), End::Stopped);
    world.assert_clean();
}

#[test]
fn two_rows_of_a_batch_swapped_are_found_by_the_audit() {
    let world = World::new(13, WorldOptions::default());
    world.backend.swap_rows(true);
    assert_eq!(world.run(World::lots(13), |_| false), End::Stopped);
    assert!(world.audit().wrong > 0);
}

/// A broker whose producers are wrong in one way.
#[derive(Clone)]
struct WrongBroker {
    inner: Arc<dyn Broker>,
    how: Wrong,
}

#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    /// Offsets are committed first, and the outcomes in a transaction of their own, or before they are acknowledged.
    OffsetsBeforeOutcomes,
    /// The committed offset stays behind the outcomes that were committed with it.
    OffsetsBehindOutcomes,
    /// What was done past the committed offset is not committed with it.
    MetadataStripped,
    /// Every hundredth record is never sent.
    DroppedRecords,
}

struct WrongProducer {
    inner: Box<dyn Producer>,
    how: Wrong,
    held: VecDeque<(String, Option<i32>, Records)>,
    sent: u64,
    phase: u8,
}

impl Broker for WrongBroker {
    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, BrokerError> {
        let inner = self.inner.producer(id)?;
        Ok(Box::new(WrongProducer { inner, how: self.how, held: VecDeque::new(), sent: 0, phase: 0 }))
    }
    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError> {
        let inner = self.inner.plain_producer()?;
        Ok(Box::new(HastyProducer { inner, held: VecDeque::new() }))
    }
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, BrokerError> {
        self.inner.member(group, topic)
    }
    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError> {
        self.inner.admin()
    }
    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError> {
        self.inner.writer()
    }
    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        self.inner.read_from(topic, partition, from, isolation, each)
    }
}

fn copied(record: RecordView<'_>) -> Records {
    let mut records = Records::default();
    records.push(record.key(), record.value());
    record.headers().for_each(|(name, value)| records.push_header(name, value));
    records
}

/// A producer outside of transactions that says of records that they are acknowledged, and sends them with the next ones.
struct HastyProducer {
    inner: Box<dyn PlainProducer>,
    held: VecDeque<(String, Option<i32>, Records)>,
}

impl PlainProducer for HastyProducer {
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        self.held.push_back((topic.to_owned(), partition, copied(record)));
        Ok(())
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.inner.drain(wait)?;
        while let Some((topic, partition, records)) = self.held.pop_front() {
            self.inner.send(&topic, partition, records.get(0))?;
        }
        Ok(true)
    }
}

impl WrongProducer {
    fn send_held(&mut self) -> Result<(), BrokerError> {
        while let Some((topic, partition, records)) = self.held.pop_front() {
            self.inner.send(&topic, partition, records.get(0))?;
        }
        Ok(())
    }
}

impl Producer for WrongProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        self.phase = 0;
        self.inner.begin()
    }

    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        self.sent += 1;
        match self.how {
            Wrong::DroppedRecords if self.sent.is_multiple_of(100) => Ok(()),
            Wrong::OffsetsBeforeOutcomes => {
                self.held.push_back((topic.to_owned(), partition, copied(record)));
                Ok(())
            }
            _ => self.inner.send(topic, partition, record),
        }
    }

    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.inner.drain(wait)
    }

    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        let mut offsets = offsets.to_vec();
        if self.how == Wrong::OffsetsBehindOutcomes {
            offsets.iter_mut().for_each(|offset| offset.next = NextOffset((offset.next.0 - 1).max(0)));
        }
        if self.how == Wrong::MetadataStripped {
            offsets.iter_mut().for_each(|offset| offset.metadata.clear());
        }
        self.inner.send_offsets(topic, &offsets, token)
    }

    fn commit(&mut self) -> Result<(), BrokerError> {
        if self.how != Wrong::OffsetsBeforeOutcomes {
            return self.inner.commit();
        }
        if self.phase == 0 {
            self.inner.commit()?;
            self.phase = 1;
            // The call ends here, so that a crash can come between the two transactions.
            return Err(BrokerError {
                class: operators::broker::Class::Retriable,
                operation: "commit the transaction",
                code: "HALF".into(),
                message: "only the offsets".into(),
            });
        }
        self.inner.begin()?;
        self.send_held()?;
        self.inner.commit()
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.held.clear();
        self.inner.abort()
    }
}

/// Runs a wrong engine with a crash at each of the first calls of its transactions; returns what the audits found.
fn lost_and_duplicated(how: Wrong, order: CommitOrder, delivery: Delivery) -> (u64, u64) {
    let mut found = (0, 0);
    for crash_at in 1..40 {
        let options = WorldOptions { requests: 120, delivery, ..WorldOptions::default() };
        let world = World::new(crash_at, options);
        world.set_order(order);
        for round in 0..2 {
            let engine = world.engine();
            let broker = WrongBroker { inner: Arc::clone(&engine.broker), how };
            let engine = Engine { broker: Arc::new(broker), ..engine };
            let lots =
                dataflows::lockstep::Lots { turns_max: 30_000, ..World::lots(crash_at + round * 1_000) };
            world.run_with(engine, lots, move |progress| {
                let crash = round == 0 && progress.transaction_turns >= crash_at;
                if crash { Next::Crash } else { Next::Go }
            });
        }
        let report = world.audit();
        found = (found.0 + report.lost, found.1 + report.duplicated);
    }
    found
}

#[test]
fn an_engine_that_commits_offsets_before_outcomes_loses_records_and_is_found_out() {
    assert!(
        lost_and_duplicated(Wrong::OffsetsBeforeOutcomes, CommitOrder::Partition, Delivery::ExactlyOnce).0
            > 0
    );
}

#[test]
fn an_engine_at_least_once_that_commits_before_the_acknowledgement_loses_records_and_is_found_out() {
    let found =
        lost_and_duplicated(Wrong::OffsetsBeforeOutcomes, CommitOrder::Partition, Delivery::AtLeastOnce);
    assert!(found.0 > 0);
}

#[test]
fn an_engine_whose_offsets_stay_behind_its_outcomes_doubles_records_and_is_found_out() {
    assert!(
        lost_and_duplicated(Wrong::OffsetsBehindOutcomes, CommitOrder::Partition, Delivery::ExactlyOnce).1
            > 0
    );
}

#[test]
fn an_engine_that_does_not_commit_what_overtook_a_straggler_doubles_records_and_is_found_out() {
    assert!(lost_and_duplicated(Wrong::MetadataStripped, CommitOrder::None, Delivery::ExactlyOnce).1 > 0);
    assert!(lost_and_duplicated(Wrong::MetadataStripped, CommitOrder::Key, Delivery::ExactlyOnce).1 > 0);
}

#[test]
fn an_engine_that_drops_a_record_at_the_producer_is_found_out() {
    assert!(lost_and_duplicated(Wrong::DroppedRecords, CommitOrder::Partition, Delivery::ExactlyOnce).0 > 0);
}

#[test]
fn the_same_crashes_find_nothing_in_the_engine_as_it_is() {
    for (crash_at, order) in (1..40).zip(super::ORDERS.into_iter().cycle()) {
        let world = World::new(crash_at, WorldOptions { requests: 120, ..WorldOptions::default() });
        world.set_order(order);
        let crash = move |progress: dataflows::lockstep::Progress| progress.transaction_turns >= crash_at;
        world.run(World::lots(crash_at), crash);
        assert_eq!(world.run(World::lots(crash_at + 1_000), |_| false), End::Stopped);
        world.assert_clean();
    }
}
