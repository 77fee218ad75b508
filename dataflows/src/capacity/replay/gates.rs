//! What tenants may ask for in a replay: those that have a rate wait for its tokens, as at the engine's [gate](operators::gate).

use std::collections::VecDeque;

use operators::clock::Moment;
use operators::quota::{Bucket, Quota};
use operators::share::Shares;

/// The tenants with a rate, each with those of its records that wait.
#[derive(Debug)]
pub(super) struct Gates {
    gates: Vec<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    quota: Quota,
    bucket: Bucket,
    parked: VecDeque<usize>,
}

impl Gates {
    /// Of these tenants.
    pub(super) fn new(shares: &Shares, tenants: &[String]) -> Self {
        let gate = |quota| Gate { quota, bucket: Bucket::default(), parked: VecDeque::new() };
        Self { gates: tenants.iter().map(|tenant| shares.of(tenant).quota.map(gate)).collect() }
    }

    /// Whether a record of this tenant passes now; else it is kept until it does.
    pub(super) fn pass(&mut self, tenant: usize, place: usize, now: Moment) -> bool {
        let Some(gate) = &mut self.gates[tenant] else { return true };
        let passes = gate.parked.is_empty() && gate.bucket.take(gate.quota, now);
        if !passes {
            gate.parked.push_back(place);
        }
        passes
    }

    /// Those that pass now.
    pub(super) fn release(&mut self, now: Moment) -> Vec<usize> {
        let mut passed = Vec::new();
        for gate in self.gates.iter_mut().flatten() {
            while !gate.parked.is_empty() && gate.bucket.take(gate.quota, now) {
                passed.extend(gate.parked.pop_front());
            }
        }
        passed
    }

    /// When one will pass.
    pub(super) fn due(&self) -> Moment {
        let waiting = self.gates.iter().flatten().filter(|gate| !gate.parked.is_empty());
        waiting.map(|gate| gate.bucket.ready_at(gate.quota)).min().unwrap_or(Moment::NEVER)
    }
}
