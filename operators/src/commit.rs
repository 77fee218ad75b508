//! How a process commits: in transactions, or, at least once, outside of any; and what both ways have in common.
//!
//! | `delivery` | who does it | results and dead letters | offsets |
//! | --- | --- | --- | --- |
//! | exactly once | [`transaction`](crate::transaction) | in a transaction | in the same |
//! | at least once | [`at_least_once`](crate::at_least_once) | by themselves | once those are acknowledged, by the group's member |
//!
//! Either takes from the outbox what the partition frontiers have passed, retains it until its offsets are committed, and only then
//! gives the budget back what it was charged.

pub(crate) mod round;
pub(crate) mod sight;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use crate::at_least_once::AtLeastOnce;
use crate::broker::{Broker, BrokerError, Ownership, PlainProducer, Producer};
use crate::budget::Budget;
use crate::clock::{Clock, Moment};
use crate::fault::Faults;
use crate::health::Health;
use crate::observe::Observer;
use crate::outbox::{Outbox, TransactionLimit};
use crate::tenure::Tenure;
use crate::transaction::ExactlyOnce;

/// What a process promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Each record has one outcome, which is seen together with the commit of its offset.
    #[default]
    ExactlyOnce,
    /// Each record has an outcome, and after a failure some have more than one.
    AtLeastOnce,
}

/// The producer of a process. It is made before the process joins its group, because a transactional one shuts out its predecessors, and
/// that must come before the group's offsets are read.
pub enum Outlet {
    /// For commits in transactions.
    Transactional(Box<dyn Producer>),
    /// For commits outside of them.
    Plain(Box<dyn PlainProducer>),
}

impl Outlet {
    /// Makes the producer that keeps this promise.
    ///
    /// # Errors
    ///
    /// If the broker could not be reached within the start-up bound, or refused.
    pub fn new(delivery: Delivery, broker: &dyn Broker, transactional_id: &str) -> Result<Self, BrokerError> {
        Ok(match delivery {
            Delivery::ExactlyOnce => Self::Transactional(broker.producer(transactional_id)?),
            Delivery::AtLeastOnce => Self::Plain(broker.plain_producer()?),
        })
    }

    /// What commits with this producer.
    pub fn committer(self, config: CommitConfig, parts: CommitParts) -> Box<dyn Committer> {
        match self {
            Self::Transactional(producer) => Box::new(ExactlyOnce::new(config, parts, producer)),
            Self::Plain(producer) => Box::new(AtLeastOnce::new(config, parts, producer)),
        }
    }
}

/// What commits. Each step makes at most one call that can fail, so that a simulated run can crash between any two.
pub trait Committer: Send {
    /// Goes one step further.
    fn step(&mut self) -> Pace;
}

/// What the transaction thread does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Another step at once.
    Again,
    /// Nothing to do before this moment, unless the outbox changes.
    Until(Moment),
    /// Nothing to do before this moment, whatever happens: a call is to be tried again.
    BackOff(Moment),
    /// The engine has a fault: no further step does anything.
    Stopped,
}

/// The name of the condition in the health of the process while commits have been failing for a while.
pub const FAILING_COMMITS: &str = "transactions";

/// What commits are told.
#[derive(Clone, Debug)]
pub struct CommitConfig {
    /// Stable for the process's slot, different for every two processes that run at once.
    pub transactional_id: String,
    /// The consumer group.
    pub group: String,
    /// The topic whose offsets are committed.
    pub requests: String,
    /// Where results go.
    pub results: String,
    /// Where dead letters go.
    pub dead_letters: String,
    /// The time from the begin of one commit to that of the next, while there is something to commit.
    pub interval: Duration,
    /// What one of them may hold.
    pub limit: TransactionLimit,
    /// Waiting for this many records starts one before its interval is over.
    pub records_full: usize,
    /// The broker aborts a transaction that is open for longer.
    pub timeout: Duration,
}

/// What the transaction thread works with.
#[derive(Clone)]
pub struct CommitParts {
    /// Where producers come from.
    pub broker: Arc<dyn Broker>,
    /// Proof of membership.
    pub ownership: Arc<dyn Ownership>,
    /// What is to be committed.
    pub outbox: Arc<Outbox>,
    /// Which leases are held.
    pub tenure: Arc<Tenure>,
    /// Where committed records give back what they were charged.
    pub budget: Arc<Budget>,
    /// Where it says that the engine must stop.
    pub faults: Arc<Faults>,
    /// Where it says that commits have been failing for a while.
    pub health: Arc<Health>,
    /// Called after a release while a source had to go without budget.
    pub wake_sources: Arc<dyn Fn() + Send + Sync>,
    /// Whom to tell.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
