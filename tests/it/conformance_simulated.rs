//! The conformance suite against the simulated broker.

use std::sync::Arc;
use std::time::Duration;

use operators::broker::simulated::SimulatedBroker;
use operators::clock::ManualClock;
use operators::lease::{NextOffset, Partition};

use crate::conformance::{Operator, Subject, conformance_tests};

fn subject(check: &str) -> Subject {
    let clock = Arc::new(ManualClock::new());
    let broker = SimulatedBroker::new(clock.clone(), 1);
    Subject {
        broker: Box::new(broker.clone()),
        named: Box::new(broker.as_instance("named")),
        hasty: Box::new(broker.with_transaction_timeout(Subject::SHORT)),
        unique: check.to_owned(),
        pass_time: Box::new(move || clock.advance(Duration::from_millis(50))),
        operator: Box::new(Hand(broker)),
    }
}

/// What an operator does to the simulated broker.
struct Hand(SimulatedBroker);

impl Operator for Hand {
    fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        self.0.delete_before(topic, Partition(partition), NextOffset(offset));
    }

    fn make_anew(&self, topic: &str) {
        self.0.make_anew(topic, 1);
    }

    fn add_partitions(&self, topic: &str, partitions: i32) {
        self.0.add_partitions(topic, partitions);
    }
}

conformance_tests!(subject);
