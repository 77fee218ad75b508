//! Tidemill: exactly-once streaming inference. The command line and what stands around the engine.

#![forbid(unsafe_code)]

pub mod audit;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod experiment;
mod html;
pub mod http;
pub mod load;
pub mod logging;
pub mod metrics;
mod plot;
pub mod produce;
pub mod request;
pub mod runtime;
pub mod surroundings;
pub mod timing;
pub mod topics;
