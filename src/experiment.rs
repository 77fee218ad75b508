//! Experiments: the engine, or another system that does its job, in a process of its own on a real broker, measured from outside.
//!
//! ```text
//!   experiments/NAME.toml ─▶ points, each a few times ─▶ world: topics and a group of its own
//!                                                         │  load ─▶ requests ─▶ system ─▶ results ─▶ reader
//!                                                         ▼
//!                                   figures: rates, latencies, CPU of system, broker and load, the floor, who was lost or doubled
//! ```
//!
//! The *floor* of a point is what consuming, decoding, inferring, encoding and producing cost, each alone in the same run. What comes out
//! depends on the machine, which is told with it; the counts of lost and doubled requests do not.

pub mod compare;
pub mod count;
pub mod cpu;
pub mod drain;
mod failure;
pub mod figures;
pub mod floor;
pub mod instrument;
pub mod machine;
pub mod open_loop;
pub mod plan;
pub mod raw;
mod recovery;
pub mod report;
pub mod scaling;
pub mod statistics;
pub mod summary;
mod sustainable;
pub mod system;
mod world;

pub use failure::Failure;
pub use world::{Setup, World};
