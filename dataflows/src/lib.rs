//! The assembled graphs of Tidemill, and what drives them.
//!
//! [`inference`] is the graph of the main job on one worker. [`engine`] runs it with real threads; [`lockstep`] runs it in one thread,
//! a step at a time under a seed and a manual clock, so that a run can be repeated. [`capacity`] is another graph, beside the job: what each
//! partition could bear.

pub mod capacity;
pub mod engine;
pub mod inference;
pub mod lockstep;
