//! The integration tests, in one binary.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![expect(clippy::needless_pass_by_value, reason = "options of tests are written where they are used")]

mod broker;
mod capacity;
mod chaos;
mod cli;
mod conformance;
mod conformance_real;
mod conformance_simulated;
mod docs;
mod fragile;
mod http;
mod jetson;
mod kafka_broker;
mod onnx;
mod oracle;
mod real;
mod simulated;
mod tensors;
mod tidy;
