//! The conformance suite against the simulated broker.

use std::sync::Arc;
use std::time::Duration;

use operators::broker::simulated::SimulatedBroker;
use operators::clock::ManualClock;

use crate::conformance::{Subject, conformance_tests};

fn subject(check: &str) -> Subject {
    let clock = Arc::new(ManualClock::new());
    let broker = SimulatedBroker::new(clock.clone(), 1);
    Subject {
        broker: Box::new(broker.clone()),
        named: Box::new(broker.as_instance("named")),
        hasty: Box::new(broker.with_transaction_timeout(Subject::SHORT)),
        unique: check.to_owned(),
        pass_time: Box::new(move || clock.advance(Duration::from_millis(50))),
    }
}

conformance_tests!(subject);
