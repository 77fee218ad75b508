//! From what was seen to what is said of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::basis::{Basis, float, whole};
use super::lanes::{Filled, Lanes};
use super::picture::{Cell, Series};
use super::report::{
    Estimate, HotKey, ModelReport, PartitionReport, Report, StageReport, TenantReport, Total,
};
use super::sums::{Line, Mean, Tally};
use super::tick::{PartitionTick, Stage, bucket_micros};
use super::verdict::{Finding, Signs, Verdict};
use super::{advice, forecast};

/// What is to be kept, and how far ahead it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// The oldest record that is not committed is never older than so many seconds.
    pub lag_seconds_max: f64,
    /// It is looked so many seconds ahead.
    pub horizon_seconds: f64,
    /// How much of what a device could do is planned to be used.
    pub utilisation: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Self { lag_seconds_max: 60.0, horizon_seconds: 3_600.0, utilisation: 0.7 }
    }
}

/// The stages beside the devices.
const BESIDE: [Stage; 3] = [Stage::Client, Stage::Worker, Stage::Commit];

/// How many tenants are listed.
pub(super) const TENANTS_LISTED: usize = 20;

/// A growth of what comes is looked ahead with if it is this many errors from nothing.
const GROWTH_ERRORS: f64 = 3.0;

/// Says what this ground says.
pub fn analyse(basis: &Basis, objective: Objective) -> Report {
    let lanes = Lanes::new(basis);
    let used = lanes.used();
    let parts: Vec<Part> =
        (0..lanes.lanes.len()).map(|place| Part::new(basis, &lanes, place, used)).collect();
    let arriving = lanes.arriving();
    let growing: Vec<bool> = parts.iter().map(|part| part.signs(basis, arriving, &[]).is_growing()).collect();
    let growing = growing_by(&parts, &growing);
    let total = total(basis, &lanes, &parts, objective);
    let report = |part: &Part| part.report(basis, arriving, &growing, &total, objective);
    let partitions: Vec<PartitionReport> = parts.iter().map(report).collect();
    let never =
        partitions.iter().any(|part| part.drained_in.is_none() && part.lag.is_some_and(|lag| lag > 0));
    let longest =
        partitions.iter().filter_map(|part| part.drained_in).map(|time| time.value).fold(0.0, f64::max);
    Report {
        source: basis.setup.source.clone(),
        group: basis.setup.group.clone(),
        topic: basis.setup.topic.clone(),
        at_millis: basis.picture.at_millis,
        seconds: basis.picture.seconds(),
        objective,
        total: Total { drained_in: (!never).then_some(longest), ..total },
        partitions,
        models: models(basis),
        tenants: tenants(basis),
        stages: stages(basis),
        unknown: unknown(basis),
        replay: None,
    }
}

fn growing_by(parts: &[Part], growing: &[bool]) -> Vec<(i32, bool)> {
    let busy = parts.iter().zip(growing).filter(|(part, _)| part.arriving > 0.0);
    busy.map(|(part, growing)| (part.partition, *growing)).collect()
}

/// What was worked out of a partition.
struct Part {
    partition: i32,
    state: PartitionTick,
    arriving: f64,
    rate_max: Option<f64>,
    rate_max_now: Option<f64>,
    hot: Option<Hot>,
    /// The part of the devices that all partitions use.
    used: f64,
}

struct Hot {
    cell: Cell,
    tally: Tally,
    share: f64,
    rate_max: Option<f64>,
    bounded: bool,
}

impl Part {
    fn new(basis: &Basis, lanes: &Lanes<'_>, place: usize, used: f64) -> Self {
        let lane = &lanes.lanes[place];
        let (partition, arriving) = (lane.partition, lane.arriving);
        let state = basis.picture.partitions.get(&partition).copied().unwrap_or_default();
        let known = lane.records > 0 && !basis.costs.is_empty();
        let stages = BESIDE.into_iter().filter_map(|stage| basis.stage_rate_max(stage));
        let others = (lanes.arriving() - arriving) * basis.others;
        let beside = (stages.fold(f64::INFINITY, f64::min) - others).max(0.0);
        let rate_max = |filled| known.then(|| lanes.rates(&[place], filled)[place].min(beside));
        let hot = lane.hot.map(|(cell, tally)| {
            let share = float(tally.records) / float(lane.records.max(1));
            let bears = lanes.key_rate_max(place);
            let bounded = bears.is_some_and(|(rate, by_tenant)| by_tenant && share * arriving >= 0.9 * rate);
            Hot { cell, tally, share, rate_max: bears.map(|(rate, _)| rate), bounded }
        });
        let (rate_max, rate_max_now) = (rate_max(Filled::Full), rate_max(Filled::Now));
        Self { partition, state, arriving, rate_max, rate_max_now, hot, used }
    }

    fn lag(&self) -> Option<i64> {
        Some((self.state.end? - self.state.committed?).max(0))
    }

    fn lag_seconds(&self, at_millis: i64) -> Option<f64> {
        let oldest = || self.state.oldest_millis.map(|oldest| float((at_millis - oldest).max(0)) / 1e3);
        if self.lag()? == 0 { Some(0.0) } else { oldest() }
    }

    /// How long the oldest record has waited; where its time is not known, how long what waits takes to come again, or to be committed.
    fn lag_seconds_or_guess(&self, at_millis: i64, committing: f64) -> f64 {
        let guess = || self.lag().map_or(0.0, float) / self.arriving.max(committing).max(1e-9);
        self.lag_seconds(at_millis).unwrap_or_else(guess)
    }

    fn signs(&self, basis: &Basis, all: f64, growing: &[(i32, bool)]) -> Signs {
        let line = |series| basis.picture.sums.series.get(&series).copied().unwrap_or_default();
        let arrived = line(Series::Arrived(self.partition));
        let rate = |series| basis.rate(series).unwrap_or_default();
        let per_second = float(basis.picture.ticks.max(1)) / basis.picture.seconds();
        // Each point is what a tick brought, at its time in milliseconds.
        let slope = arrived.fit().map_or(Mean::default(), |fit| Mean {
            mean: fit.slope * 1e3 * per_second,
            error: fit.slope_error * 1e3 * per_second,
        });
        let others: Vec<bool> = growing
            .iter()
            .filter(|(partition, _)| *partition != self.partition)
            .map(|(_, growing)| *growing)
            .collect();
        let well = others.iter().filter(|growing| !**growing).count();
        let stage = BESIDE
            .into_iter()
            .filter_map(|stage| Some((stage.name(), basis.useful(stage)?)))
            .max_by(|left, right| left.1.total_cmp(&right.1));
        let fill = self.hot.as_ref().and_then(|hot| basis.costs.get(&hot.cell.model));
        let seen = Signs {
            ticks: arrived.n.max(line(Series::Committed(self.partition)).n),
            seconds: basis.picture.recent.seconds(),
            span_seconds: basis.picture.seconds(),
            arriving: Mean { mean: self.arriving, ..rate(Series::Arrived(self.partition)) },
            growing: slope,
            committing: rate(Series::Committed(self.partition)),
            lag_growing: lag_growing(basis, self.partition).unwrap_or_default(),
            lag_growing_in_span: lag_slope(&basis.picture.sums.series, self.partition).unwrap_or_default(),
            lag: self.lag().unwrap_or(0),
            lag_seconds: self
                .lag_seconds_or_guess(basis.picture.at_millis, rate(Series::Committed(self.partition)).mean),
            rate_max: self.rate_max,
            share: if all > 0.0 { self.arriving / all } else { 0.0 },
            even_share: 1.0 / whole(growing.len().max(1)),
            others_well: if others.is_empty() { 0.0 } else { whole(well) / whole(others.len()) },
            hot_share: self.hot.as_ref().map_or(0.0, |hot| hot.share),
            hot_used: self.hot.as_ref().and_then(|hot| Some(hot.share * self.arriving / hot.rate_max?)),
            device_used: basis.useful(Stage::Infer),
            stage_used: stage,
            fill: fill.map(|cost| cost.rows_now / cost.rows_full.max(1.0)),
            bounded: self.hot.as_ref().is_some_and(|hot| hot.bounded),
        };
        if basis.is_case { self.imagined(basis, seen) } else { seen }
    }

    /// What would be seen if things were so: the lag that there is, and what would become of it.
    fn imagined(&self, basis: &Basis, seen: Signs) -> Signs {
        let Some(rate) = self.rate_max else { return seen };
        let lag_growing = Mean { mean: self.arriving - rate, error: basis.error() * rate / 3.0 };
        let committing = Mean { mean: self.arriving.min(rate), error: 0.0 };
        let device_used = Some(self.used.min(1.0));
        Signs { lag_growing, lag_growing_in_span: lag_growing, committing, device_used, ..seen }
    }

    fn report(
        &self,
        basis: &Basis,
        all: f64,
        growing: &[(i32, bool)],
        total: &Total,
        objective: Objective,
    ) -> PartitionReport {
        let signs = self.signs(basis, all, growing);
        let verdict = signs.verdict();
        let error = basis.error();
        let estimate = self.rate_max.map(|rate| Estimate::within(rate, error));
        let trend = Some(signs.growing)
            .filter(|growth| growth.mean.abs() > GROWTH_ERRORS * growth.error && growth.mean != 0.0);
        let ahead = forecast::Ahead {
            arriving: self.arriving,
            growing: trend.map_or(0.0, |growth| growth.mean),
            growing_for: signs.span_seconds,
            // Where it is not known what could be borne, it goes on as it does.
            rate_max: self.rate_max.unwrap_or(if signs.is_growing() {
                signs.committing.mean
            } else {
                f64::INFINITY
            }),
            lag: self.lag().map_or(0.0, float),
            lag_seconds: signs.lag_seconds,
        };
        let hot_key = self.hot.as_ref().map(|hot| HotKey {
            tenant: basis.picture.names.name(hot.cell.tenant).to_owned(),
            model: basis.picture.names.name(hot.cell.model).to_owned(),
            share: hot.share,
            share_excess: hot.share * float(hot.tally.excess) / float(hot.tally.records.max(1)),
            arriving: hot.share * self.arriving,
            rate_max: hot.rate_max,
        });
        let missed_in = match verdict {
            Verdict::Stalled => Some(0.0),
            _ => ahead.missed_in(objective),
        };
        let advice = advice::advice(&advice::Case {
            basis,
            signs: &signs,
            verdict,
            partition: self.partition,
            hot: hot_key.as_ref(),
            total,
            objective,
            missed_in,
        });
        let known = |series| basis.rate(series);
        PartitionReport {
            partition: self.partition,
            arriving: known(Series::Arrived(self.partition)).map(|mean| Mean { mean: self.arriving, ..mean }),
            growing: trend.map(|growth| growth.mean),
            committing: known(Series::Committed(self.partition)),
            share: signs.share,
            rate_max: estimate,
            rate_max_now: self.rate_max_now,
            utilisation: self.rate_max.map(|rate| self.arriving / rate.max(1e-9)),
            headroom: self.rate_max.map(|rate| 1.0 - self.arriving / rate.max(1e-9)),
            lag: self.lag(),
            lag_seconds: self.lag_seconds(basis.picture.at_millis),
            lag_growing: lag_growing(basis, self.partition),
            drained_in: ahead.drained_in(error),
            lost_in: ahead.lost_in(basis.setup.retention_millis),
            missed_in,
            hot_key,
            finding: Finding::new(verdict, signs.evidence(verdict), advice),
        }
    }
}

/// By how many records a second a lag grows: the slope of the lag itself. What came less what was committed says the same with more noise,
/// because what a burst brings is committed a moment later.
fn lag_growing(basis: &Basis, partition: i32) -> Option<Mean> {
    lag_slope(&basis.picture.recent.series, partition)
}

fn lag_slope(series: &BTreeMap<Series, Line>, partition: i32) -> Option<Mean> {
    let fit = series.get(&Series::Lag(partition))?.fit()?;
    Some(Mean { mean: fit.slope * 1e3, error: fit.slope_error * 1e3 })
}

fn total(basis: &Basis, lanes: &Lanes<'_>, parts: &[Part], objective: Objective) -> Total {
    let add = |series: fn(i32) -> Series| {
        let means = parts.iter().filter_map(|part| basis.rate(series(part.partition)));
        means.fold(Mean::default(), |sum, mean| Mean {
            mean: sum.mean + mean.mean,
            error: sum.error.hypot(mean.error),
        })
    };
    let (arriving, used) = (lanes.arriving(), lanes.used());
    let of_all = |stage: Stage| Some((stage.name(), basis.stage_rate_max(stage)? / basis.others));
    let by_stage = BESIDE.into_iter().filter_map(of_all);
    let by_device = (used > 0.0 && arriving > 0.0).then(|| (Stage::Infer.name(), arriving / used));
    let least = by_stage.chain(by_device).min_by(|left, right| left.1.total_cmp(&right.1));
    let executors = whole(basis.setup.executors.max(1));
    Total {
        arriving: Mean { mean: arriving, ..add(Series::Arrived) },
        committing: add(Series::Committed),
        lag: parts.iter().filter_map(Part::lag).sum(),
        rate_max: least.map(|(_, rate)| Estimate::within(rate, basis.error())),
        utilisation: least.map(|(_, rate)| arriving / rate),
        drained_in: None,
        executors_needed: (used > 0.0).then(|| ceil(used * executors / objective.utilisation)),
        limit: least.map(|(stage, _)| stage.to_owned()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of executors")]
fn ceil(number: f64) -> usize {
    number.ceil().max(1.0) as usize
}

fn models(basis: &Basis) -> Vec<ModelReport> {
    let seconds = basis.picture.seconds();
    let executors = whole(basis.setup.executors.max(1));
    let model = |(model, line): (u32, Line)| {
        let cost = basis.costs.get(&model)?;
        let (p50, p99) = (latency(basis, model, 0.5), latency(basis, model, 0.99));
        Some(ModelReport {
            model: basis.picture.names.name(model).to_owned(),
            rate: float(line.x) / seconds,
            batch_rows: cost.rows_now,
            batch_rows_full: cost.rows_full,
            fixed_micros: cost.fixed * 1e6,
            row_micros: cost.row * 1e6,
            handoff_micros: cost.handoff * 1e6,
            cost_from: cost.from,
            busy: float(line.y) / 1e6 / seconds / executors,
            rate_max: executors / cost.per_row(cost.rows_full).max(1e-12),
            p50_millis: p50,
            p99_millis: p99,
        })
    };
    let mut models: Vec<_> = basis.batches().filter_map(model).collect();
    models.sort_by(|left, right| left.model.cmp(&right.model));
    models
}

/// A quantile of the latencies of a model, in milliseconds.
fn latency(basis: &Basis, model: u32, quantile: f64) -> Option<f64> {
    let from = Series::Latency(model, 0)..=Series::Latency(model, u8::MAX);
    let buckets: Vec<(u8, i64)> = basis
        .picture
        .sums
        .series
        .range(from)
        .filter_map(|(series, line)| match series {
            Series::Latency(_, bucket) => Some((*bucket, line.n)),
            _ => None,
        })
        .collect();
    let all: i64 = buckets.iter().map(|(_, n)| n).sum();
    let mut below = 0;
    let found = buckets.iter().find(|(_, n)| {
        below += n;
        float(below) >= quantile * float(all)
    });
    found.map(|(bucket, _)| bucket_micros(*bucket) / 1e3)
}

fn tenants(basis: &Basis) -> Vec<TenantReport> {
    let mut by_tenant: BTreeMap<u32, (i64, f64, Vec<i32>)> = BTreeMap::new();
    let (mut all, mut all_busy) = (0, 0.0);
    for (cell, tally) in &basis.picture.sums.cells {
        let each = basis.costs.get(&cell.model).map_or(0.0, |cost| cost.per_row(cost.rows_now));
        let busy = each * float(tally.records);
        let (records, time, partitions) = by_tenant.entry(cell.tenant).or_default();
        *records += tally.records;
        *time += busy;
        if partitions.last() != Some(&cell.partition) {
            partitions.push(cell.partition);
        }
        all += tally.records;
        all_busy += busy;
    }
    let mut tenants: Vec<_> = by_tenant.into_iter().collect();
    tenants.sort_by(|(_, left), (_, right)| right.1.total_cmp(&left.1).then(right.0.cmp(&left.0)));
    tenants.truncate(TENANTS_LISTED);
    let report = |(tenant, (records, busy, partitions)): (u32, (i64, f64, Vec<i32>))| {
        let share = float(records) / float(all.max(1));
        TenantReport {
            tenant: basis.picture.names.name(tenant).to_owned(),
            rate: share * basis.inferred(),
            share,
            busy_share: if all_busy > 0.0 { busy / all_busy } else { 0.0 },
            partitions,
        }
    };
    tenants.into_iter().map(report).collect()
}

fn stages(basis: &Basis) -> Vec<StageReport> {
    let seconds = basis.picture.seconds();
    let stage = |stage: Stage| {
        let threads = basis.picture.threads.get(&stage).copied()?;
        let line = basis.picture.sums.series.get(&Series::Threads(stage)).copied().unwrap_or_default();
        let waited = float(line.y) / 1e6 / seconds / whole(threads.max(1));
        Some(StageReport { stage: stage.name(), threads, useful: basis.useful(stage)?, waited })
    };
    Stage::ALL.into_iter().filter_map(stage).collect()
}

fn unknown(basis: &Basis) -> Vec<String> {
    let sums = &basis.picture.sums;
    let mut unknown = Vec::new();
    if sums.cells.is_empty() {
        unknown.push("which keys, tenants and models have the load: only offsets were seen".to_owned());
    }
    if basis.costs.is_empty() {
        unknown
            .push("what a partition could bear: nothing was seen of batches and what they take".to_owned());
    } else if basis.costs.values().any(|cost| cost.from == "mean") {
        unknown.push("what larger batches would gain: those that were seen are alike, and nothing was learned of others".to_owned());
    }
    if !sums.series.keys().any(|series| matches!(series, Series::Threads(_))) {
        unknown.push("how busy threads are".to_owned());
    }
    unknown
}

#[cfg(test)]
mod tests;
