//! The timely operators of Tidemill, and the pure cores inside them.
//!
//! One operator or one core a file. A core is a plain struct: a function of what it was told and of `now`. The operator around it
//! moves containers, capabilities and frontiers, and decides nothing. Time, broker and model come in through the traits
//! [`clock::Clock`], [`broker::Broker`] and [`model::Backend`], each with a real and a simulated implementation.

pub mod alarm;
pub mod allowance;
pub mod at_least_once;
pub mod block;
pub mod breaker;
pub mod broker;
pub mod budget;
pub mod catalog;
pub mod class;
pub mod clock;
pub mod codec;
pub mod commit;
pub mod commit_order;
pub mod continuity;
pub mod cost;
pub mod dead_letter;
pub mod decode;
pub mod device;
pub mod done;
pub mod exchange;
pub mod execute;
pub mod fair;
pub mod fault;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod gate;
pub mod group;
pub mod health;
pub mod holdings;
pub mod infer;
pub mod journal;
pub mod lease;
pub mod ledger;
pub mod letters;
pub mod metadata;
pub mod model;
pub mod observe;
pub mod outbox;
pub mod outcome;
pub mod partitioner;
pub mod placement;
pub mod policy;
pub mod ports;
pub mod quota;
pub mod records;
pub mod share;
pub mod sink;
pub mod source;
pub mod tenants;
pub mod tensor;
pub mod tenure;
pub mod transaction;
pub mod tuning;
pub mod watch;
pub mod window;
