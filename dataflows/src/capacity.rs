//! Capacity analysis: which partition will miss its objective, when, why, and what is the smallest change that mends it.
//!
//! ```text
//!   Gatherer ─▶ Tick ─┐
//!   (a running engine) │
//!   Kafka's history ───┼─▶ Spans ───────▶ Picture ─▶ analyse ─▶ Report ─▶ table, JSON, page, metrics, exit code
//!   a recorded trace ──┘   (differential)                 ▲
//!                                                      what-if
//! ```
//!
//! A *tick* is what was seen in about a second. A *span* is the ticks that are looked back on: sums over it are maintained on differential
//! dataflow, each tick added once and taken away once ([`spans`]). A *cell* is the traffic of one tenant for one model in one partition, which
//! is what a record's key says. A *picture* is what the span holds now, and everything after it is a pure function of it.
//!
//! What a partition could bear follows from useful time, waiting excluded (Kalavri et al., *Three steps is all you need*, OSDI 2018): from
//! what batches cost, and from how the engine shares its devices ([`bearing`]). What rates don't say, how long records would take,
//! a [`replay`](mod@replay) of the trace does.

pub mod advice;
pub mod analyse;
pub mod basis;
pub mod bearing;
pub mod bursts;
pub mod forecast;
pub mod gather;
pub mod lanes;
pub mod picture;
pub mod pilot;
pub mod replay;
pub mod report;
pub mod setting;
pub mod sketch;
pub mod spans;
pub mod sums;
pub mod tick;
pub mod together;
pub mod verdict;
pub mod what_if;

pub use analyse::{Objective, analyse};
pub use basis::Basis;
pub use gather::Gatherer;
pub use picture::Picture;
pub use pilot::{Change, Pilot};
pub use replay::{Replay, replay};
pub use report::Report;
pub use spans::Spans;
pub use tick::{Setup, Tick};
pub use what_if::{WhatIf, WhatIfError};
