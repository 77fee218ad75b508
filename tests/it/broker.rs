//! The promise on a real broker: the binary as it is shipped, run as its own process, under load, crashes, outages and strangers; and
//! after each the audit. `make test` brings the broker and ONNX Runtime; without them these fail.

mod at_least_once;
mod capacity;
mod crash;
mod engine;
mod experiment;
mod fencing;
mod fixed;
mod fleet;
mod group;
mod killers;
mod looks;
mod nodes;
mod offsets;
pub(crate) mod operator;
mod outage;
mod own;
mod poison;
mod proxy;
mod quota;
mod real;
mod rig;
mod served;
mod shifts;
mod slim;
mod stop;
mod straggler;
mod strangers;
mod unknown;
mod wait;
