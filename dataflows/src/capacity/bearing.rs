//! How much of a load a process could bear: the rates that come of sharing its devices as the engine shares them.
//!
//! Executors are shared among the models that wait, and a model's part among its tenants, by time and weight; whoever needs less than its part
//! leaves the rest to others (max-min fairness; see [`fair`](operators::fair) and [`tenants`](operators::tenants), which do it row by row).
//! A partition is read in order, so its traffic keeps its mix: it is as fast as the slowest of its keys lets it be.

use std::collections::BTreeMap;

/// The traffic of a key, or of keys that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Its partition, or what is read in order as one is.
    pub lane: usize,
    /// Its part of the records of the lane, from 0 to 1.
    pub share: f64,
    /// Its model.
    pub model: u32,
    /// The weights of its tenants, summed.
    pub weight: f64,
    /// Useful time of an executor a record, in seconds.
    pub cost: f64,
    /// Records a second that it may ask for, at most.
    pub rate_max: f64,
}

/// Executors, and the models that share them by their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// How many seconds of executors there are in a second.
    pub executors: f64,
    /// The models and their weights.
    pub models: BTreeMap<u32, f64>,
}

/// Rates that change by less than this share in a round are settled, and after so many rounds it is enough.
const SETTLED: f64 = 3e-4;
const ROUNDS: usize = 40;

/// How often what is left is given away.
const FILLS: usize = 3;

/// The records a second of each lane, if each is offered so many; [`f64::INFINITY`] for a lane that has a backlog.
pub fn rates(flows: &[Flow], pools: &[Pool], offered: &[f64]) -> Vec<f64> {
    // What each lane gets, and which of its flows keeps it from more.
    let mut rates = offered.to_vec();
    let mut slowest: Vec<Option<usize>> = vec![None; offered.len()];
    let mut next = vec![0.0; offered.len()];
    let mut table = Table::new(flows, pools);
    for round in 0..ROUNDS {
        for (place, flow) in flows.iter().enumerate() {
            // The slowest flow asks for all that its lane is offered; the others for what they need beside it.
            let is_slowest = round == 0 || slowest[flow.lane] == Some(place);
            let wanted = if is_slowest { offered[flow.lane] } else { rates[flow.lane] };
            table.asked[place].0 = (wanted * flow.share).min(flow.rate_max) * flow.cost;
        }
        table.give();
        next.copy_from_slice(offered);
        slowest.fill(None);
        for (place, flow) in flows.iter().enumerate() {
            // Whoever got all that it asked for could have had more, up to its own bound.
            let (given, (demand, _)) = (table.given[place], table.asked[place]);
            let is_short = given < demand * (1.0 - 1e-9);
            let bears = if is_short { given / (flow.share * flow.cost) } else { f64::INFINITY };
            let bears = bears.min(if flow.share > 0.0 { flow.rate_max / flow.share } else { f64::INFINITY });
            if bears < next[flow.lane] {
                next[flow.lane] = bears;
                slowest[flow.lane] = Some(place);
            }
        }
        let settled = rates.iter().zip(&next).all(|(old, new)| {
            (old - new).abs() <= SETTLED * new.abs() || (old.is_infinite() && new.is_infinite())
        });
        // Half of the way: two lanes that make room for each other would else swing.
        for (rate, new) in rates.iter_mut().zip(&next) {
            *rate = if round > 0 && new.is_finite() { f64::midpoint(*rate, *new) } else { *new };
        }
        if settled {
            break;
        }
    }
    // Lanes whose slowest flow changes from round to round do not settle: they leave time that they want, or take some that is not there.
    for _ in 0..FILLS {
        fill(flows, pools, offered, &mut rates);
    }
    rates
}

/// Gives what is left of the executors' time to those who want more, or takes from them what is too much: each as much more or less of what it
/// has as its fullest pool has room for.
fn fill(flows: &[Flow], pools: &[Pool], offered: &[f64], rates: &mut [f64]) {
    let mut times = vec![f64::INFINITY; rates.len()];
    for flow in flows.iter().filter(|flow| flow.share > 0.0) {
        times[flow.lane] = times[flow.lane].min(flow.rate_max / flow.share / rates[flow.lane].max(1e-12));
    }
    for pool in pools {
        let own = || flows.iter().filter(|flow| pool.models.contains_key(&flow.model));
        let used = |flow: &Flow| rates[flow.lane] * flow.share * flow.cost;
        let wants = |flow: &&Flow| offered[flow.lane] > rates[flow.lane] && used(flow) > 0.0;
        let wanting: f64 = own().filter(wants).map(used).sum();
        if wanting > 0.0 && wanting.is_finite() {
            let left = pool.executors - own().map(used).sum::<f64>();
            for flow in own().filter(wants) {
                times[flow.lane] = times[flow.lane].min((1.0 + left / wanting).max(0.0));
            }
        }
    }
    for ((rate, times), offered) in rates.iter_mut().zip(times).zip(offered) {
        if times.is_finite() {
            *rate = (*rate * times).min(*offered);
        }
    }
}

/// Who sits at which pool, and what each asks for and is given. Made once, because what is asked changes from round to round and nothing else
/// does.
struct Table {
    pools: Vec<(f64, Vec<Model>)>,
    /// What each flow asks for of the executors' time, and its weight.
    asked: Vec<(f64, f64)>,
    /// What it is given.
    given: Vec<f64>,
}

/// The flows of a model of a pool.
struct Model {
    weight: f64,
    flows: Vec<usize>,
}

impl Table {
    fn new(flows: &[Flow], pools: &[Pool]) -> Self {
        let mut of_models: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, flow) in flows.iter().enumerate() {
            of_models.entry(flow.model).or_default().push(place);
        }
        let model = |(model, weight): (&u32, &f64)| {
            let flows = of_models.get(model).cloned().unwrap_or_default();
            Model { weight: *weight, flows }
        };
        let pools = pools.iter().map(|pool| (pool.executors, pool.models.iter().map(model).collect()));
        let asked = flows.iter().map(|flow| (0.0, flow.weight)).collect();
        Self { pools: pools.collect(), asked, given: vec![0.0; flows.len()] }
    }

    /// Gives each flow its part, of what it asks for.
    fn give(&mut self) {
        let Self { pools, asked, given } = self;
        for (executors, models) in pools {
            let of_models: Vec<(f64, f64)> = models
                .iter()
                .map(|model| (model.flows.iter().map(|place| asked[*place].0).sum(), model.weight))
                .collect();
            let mut parts = vec![0.0; models.len()];
            split(*executors, 0..models.len(), &of_models, &mut parts);
            for (model, part) in models.iter().zip(parts) {
                split(part, model.flows.iter().copied(), asked, given);
            }
        }
    }
}

/// Splits `whole` among those at `places` by weight, nobody getting more than it asks for: max-min fairness. All are offered the same for
/// their weight; whoever needs less takes what it needs, and what it leaves is offered to the others, until nobody needs less.
fn split(whole: f64, places: impl Iterator<Item = usize> + Clone, asked: &[(f64, f64)], parts: &mut [f64]) {
    let (mut left, mut weights) = (whole, 0.0);
    for place in places.clone() {
        parts[place] = UNSERVED;
        weights += asked[place].1;
    }
    loop {
        let level = (left / weights.max(f64::MIN_POSITIVE)).max(0.0);
        let mut is_last = true;
        for place in places.clone() {
            let (demand, weight) = asked[place];
            if parts[place] == UNSERVED && demand <= level * weight {
                parts[place] = demand;
                left -= demand;
                weights -= weight;
                is_last = false;
            }
        }
        if is_last {
            let unserved = |place: &usize| parts[*place] == UNSERVED;
            let rest: Vec<usize> = places.filter(unserved).collect();
            // Nothing by weight is nothing, however much there is.
            rest.into_iter().for_each(|place| parts[place] = (level * asked[place].1).max(0.0));
            return;
        }
    }
}

/// The part of those who still want more than they were offered.
const UNSERVED: f64 = -1.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(lane: usize, share: f64, model: u32) -> Flow {
        Flow { lane, share, model, weight: 1.0, cost: 0.01, rate_max: f64::INFINITY }
    }

    fn pool(executors: f64) -> Vec<Pool> {
        vec![Pool { executors, models: BTreeMap::from([(0, 1.0), (1, 1.0)]) }]
    }

    fn near(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(found, expected)| (found / expected - 1.0).abs() < 2e-3);
        assert!(near && found.len() == expected.len(), "{found:?}, not {expected:?}");
    }

    #[test]
    fn a_lane_with_a_backlog_gets_what_the_others_leave() {
        let flows = [flow(0, 1.0, 0), flow(1, 1.0, 0)];
        // 200 a second in all, 50 of them for the other.
        near(&rates(&flows, &pool(2.0), &[f64::INFINITY, 50.0]), &[150.0, 50.0]);
        near(&rates(&flows, &pool(2.0), &[f64::INFINITY, f64::INFINITY]), &[100.0, 100.0]);
        near(&rates(&flows, &pool(2.0), &[30.0, 50.0]), &[30.0, 50.0]);
    }

    #[test]
    fn a_lane_is_as_fast_as_its_slowest_key() {
        // Nine of ten records of lane 0 are one tenant's, who gets half of the time and what the third tenant leaves.
        let flows = [flow(0, 0.9, 0), flow(0, 0.1, 0), flow(1, 1.0, 0)];
        let found = rates(&flows, &pool(1.0), &[f64::INFINITY, f64::INFINITY]);
        // x of lane 0, y of lane 1: 0.9 x = y, x + y = 100.
        near(&found, &[52.63, 47.37]);
    }

    #[test]
    fn models_share_by_time_before_tenants_do() {
        let mut flows = vec![flow(0, 1.0, 0), flow(1, 1.0, 1), flow(2, 1.0, 1)];
        flows[0].cost = 0.02;
        near(&rates(&flows, &pool(1.0), &[f64::INFINITY; 3]), &[25.0, 25.0, 25.0]);
    }

    #[test]
    fn a_tenant_s_bound_holds_its_lane_up() {
        let mut flows = vec![flow(0, 0.5, 0), flow(0, 0.5, 0), flow(1, 1.0, 0)];
        flows[0].rate_max = 10.0;
        near(&rates(&flows, &pool(1.0), &[f64::INFINITY, 30.0]), &[20.0, 30.0]);
    }

    #[test]
    fn who_has_no_weight_gets_nothing() {
        let mut parts = [0.0; 2];
        split(1.0, 0..2, &[(5.0, 0.0), (5.0, 1.0)], &mut parts);
        assert!(parts[0].abs() < 1e-12 && (parts[1] - 1.0).abs() < 1e-12, "{parts:?}");
        split(1.0, 0..1, &[(5.0, 0.0)], &mut parts);
        assert!(parts[0].abs() < 1e-12, "{parts:?}");
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_it_asks_for_and_nothing_is_left_that_somebody_wants(
            whole in 0.1..10.0, asked in prop::collection::vec((0.0..5.0, 0.1..4.0), 1..8),
        ) {
            let mut parts = vec![0.0; asked.len()];
            split(whole, 0..asked.len(), &asked, &mut parts);
            let given: f64 = parts.iter().sum();
            let wanted: f64 = asked.iter().map(|(demand, _)| demand).sum();
            prop_assert!((given - whole.min(wanted)).abs() < 1e-9);
            for ((demand, weight), part) in asked.iter().zip(&parts) {
                prop_assert!(*part <= demand + 1e-12);
                // Who has less than it wants has, by weight, no less than anybody else.
                if part + 1e-9 < *demand {
                    for ((_, other), theirs) in asked.iter().zip(&parts) {
                        prop_assert!(part / weight >= theirs / other - 1e-9);
                    }
                }
            }
        }

        #[test]
        fn no_more_time_is_given_than_there_is(
            shares in prop::collection::vec((0_usize..3, 0.05..1.0, 0_u32..2, 0.001..0.1), 1..10),
            offered in prop::collection::vec(prop::option::of(1.0..100.0), 3), executors in 0.5..4.0,
        ) {
            let total = |lane| shares.iter().filter(|(of, ..)| *of == lane).map(|(_, share, ..)| share).sum::<f64>();
            let flows: Vec<Flow> = shares.iter().map(|(lane, share, model, cost)| {
                Flow { cost: *cost, ..flow(*lane, share / total(*lane), *model) }
            }).collect();
            let offered: Vec<f64> = offered.iter().map(|rate| rate.unwrap_or(f64::INFINITY)).collect();
            let found = rates(&flows, &pool(executors), &offered);
            let used: f64 = flows.iter().map(|flow| found[flow.lane] * flow.share * flow.cost).sum();
            prop_assert!(used <= executors * 1.005, "{used} of {executors}");
            prop_assert!(found.iter().zip(&offered).all(|(found, offered)| *found <= offered * 1.000_001));
            // Who has a backlog and any traffic uses up what there is.
            let busy = flows.iter().any(|flow| offered[flow.lane].is_infinite());
            prop_assert!(!busy || used >= executors * 0.99, "{used} of {executors}: {found:?}");
        }
    }
}
