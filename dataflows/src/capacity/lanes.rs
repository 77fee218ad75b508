//! The partitions as what is read in order, each with its keys: what rates are worked out of.

use std::collections::{BTreeMap, BTreeSet};

use super::basis::{Basis, float, whole};
use super::bearing::{Flow, Pool, rates};
use super::picture::Cell;
use super::sums::Tally;

/// Keys of a partition that are told apart when rates are worked out; the others of a model are one flow.
const KEYS_APART: usize = 8;

/// How large batches are of models that a partition with a backlog has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// As large as they may be.
    Full,
    /// As large as they are now.
    Now,
}

/// All partitions.
#[derive(Debug)]
pub struct Lanes<'a> {
    basis: &'a Basis,
    /// The partitions, and what comes to each.
    pub lanes: Vec<Lane>,
    pools: Vec<Pool>,
}

/// A partition.
#[derive(Debug)]
pub struct Lane {
    /// Its number.
    pub partition: i32,
    /// Records a second that come.
    pub arriving: f64,
    /// Records that were counted.
    pub records: i64,
    /// Its hottest key, and what was counted of it.
    pub hot: Option<(Cell, Tally)>,
    /// Its keys, those that are alike together; their costs are not filled in.
    keys: Vec<Flow>,
}

impl<'a> Lanes<'a> {
    /// Those of this ground.
    pub fn new(basis: &'a Basis) -> Self {
        let mut by_partition: BTreeMap<i32, Vec<(Cell, Tally)>> =
            basis.picture.partitions.keys().map(|partition| (*partition, Vec::new())).collect();
        for (cell, tally) in &basis.picture.sums.cells {
            // A partition that went to another process is not looked at any more.
            if let Some(keys) = by_partition.get_mut(&cell.partition) {
                keys.push((*cell, *tally));
            }
        }
        let weights: BTreeMap<&str, u32> =
            basis.setup.weights.iter().map(|(name, weight)| (&**name, *weight)).collect();
        let bounds: BTreeMap<&str, f64> =
            basis.setup.rates.iter().map(|(name, rate)| (&**name, *rate)).collect();
        let lane = |(lane, (partition, mut keys)): (usize, (i32, Vec<(Cell, Tally)>))| {
            keys.sort_by_key(|(cell, tally)| (-tally.records, *cell));
            let records = keys.iter().map(|(_, tally)| tally.records).sum();
            let mut flows = Vec::new();
            let mut others: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
            for (place, (cell, tally)) in keys.iter().enumerate() {
                let share = float(tally.records) / float(records).max(1.0);
                let tenant = basis.picture.names.name(cell.tenant);
                let weight = f64::from(weights.get(tenant).copied().unwrap_or(1));
                if place < KEYS_APART {
                    let rate_max = bounds.get(tenant).copied().or(basis.setup.rate_default);
                    let rate_max = rate_max.unwrap_or(f64::INFINITY);
                    flows.push(Flow { lane, share, model: cell.model, weight, cost: 0.0, rate_max });
                } else {
                    let (shares, weights) = others.entry(cell.model).or_default();
                    *shares += share;
                    *weights += weight;
                }
            }
            flows.extend(others.into_iter().map(|(model, (share, weight))| Flow {
                lane,
                share,
                model,
                weight,
                cost: 0.0,
                rate_max: f64::INFINITY,
            }));
            Lane {
                partition,
                arriving: basis.arriving(partition),
                records,
                hot: keys.first().copied(),
                keys: flows,
            }
        };
        let lanes = by_partition.into_iter().enumerate().map(lane).collect();
        Self { basis, lanes, pools: basis.pools() }
    }

    /// What comes to all of them.
    pub fn arriving(&self) -> f64 {
        self.lanes.iter().map(|lane| lane.arriving).sum()
    }

    /// Rows of a batch of each model while its devices are used up: as many as there may be where there is a backlog; else as many as come
    /// while they wait for their turn.
    fn rows(&self, backlog: &[usize], filled: Filled) -> BTreeMap<u32, f64> {
        let behind: BTreeSet<u32> =
            backlog.iter().flat_map(|lane| self.lanes[*lane].keys.iter().map(|flow| flow.model)).collect();
        let full = |model: u32| {
            let cost = &self.basis.costs[&model];
            if filled == Filled::Full { cost.rows_full } else { cost.rows_now }
        };
        let runs = behind.iter().filter(|model| self.basis.costs.contains_key(model)).map(|model| {
            let cost = &self.basis.costs[model];
            cost.fixed + cost.row * full(*model)
        });
        let run = runs.fold(0.0, f64::max);
        let executors = whole(self.basis.setup.executors.max(1));
        let mut rates: BTreeMap<u32, f64> = BTreeMap::new();
        for lane in &self.lanes {
            for flow in &lane.keys {
                *rates.entry(flow.model).or_default() += lane.arriving * flow.share;
            }
        }
        let rows = self.basis.costs.iter().map(|(model, cost)| {
            let come = rates.get(model).copied().unwrap_or(0.0) * (cost.wait + run / executors);
            let beside = come.max(cost.rows_now).clamp(1.0, cost.rows_full.max(1.0));
            (*model, if behind.contains(model) { full(*model) } else { beside })
        });
        rows.collect()
    }

    fn flows(&self, backlog: &[usize], filled: Filled) -> Vec<Flow> {
        let rows = self.rows(backlog, filled);
        let known = |flow: &Flow| Some(self.basis.costs.get(&flow.model)?.per_row(*rows.get(&flow.model)?));
        let flows = self.lanes.iter().flat_map(|lane| &lane.keys);
        flows.filter_map(|flow| Some(Flow { cost: known(flow)?, ..flow.clone() })).collect()
    }

    /// The rate of each partition if these have a backlog and the others what comes to them.
    pub fn rates(&self, backlog: &[usize], filled: Filled) -> Vec<f64> {
        let offered = |(place, lane): (usize, &Lane)| {
            if backlog.contains(&place) { f64::INFINITY } else { lane.arriving * self.basis.others }
        };
        let offered: Vec<f64> = self.lanes.iter().enumerate().map(offered).collect();
        rates(&self.flows(backlog, filled), &self.pools, &offered)
    }

    /// What the hottest key of a partition can get, everything else staying as it is, and whether it is its tenant's bound that says so.
    pub fn key_rate_max(&self, place: usize) -> Option<(f64, bool)> {
        let lane = &self.lanes[place];
        let mut flows = self.flows(&[place], Filled::Full);
        // The key is read apart from the rest of its partition, as if it were the only one behind.
        let hot = flows.iter().position(|flow| flow.lane == place)?;
        let own = self.lanes.len();
        let mut offered: Vec<f64> = self.lanes.iter().map(|lane| lane.arriving * self.basis.others).collect();
        let key = flows.remove(hot);
        let rest: f64 = flows.iter().filter(|flow| flow.lane == place).map(|flow| flow.share).sum();
        flows.iter_mut().filter(|flow| flow.lane == place && rest > 0.0).for_each(|flow| flow.share /= rest);
        offered[place] = lane.arriving * (1.0 - key.share);
        offered.push(f64::INFINITY);
        let bound = key.rate_max;
        flows.push(Flow { lane: own, share: 1.0, ..key });
        let rate = rates(&flows, &self.pools, &offered)[own];
        Some((rate, rate >= 0.999 * bound))
    }

    /// The part that is used of the devices that are used up first, with full batches; of those of a process of several.
    pub fn used(&self) -> f64 {
        let all: Vec<usize> = (0..self.lanes.len()).collect();
        let flows = self.flows(&all, Filled::Full);
        let used = self.pools.iter().map(|pool| {
            let own = flows.iter().filter(|flow| pool.models.contains_key(&flow.model));
            let asked = own.map(|flow| self.lanes[flow.lane].arriving * flow.share * flow.cost).sum::<f64>();
            asked * self.basis.others / pool.executors
        });
        used.fold(0.0, f64::max)
    }
}
