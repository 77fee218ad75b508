//! Several processes of a group as one: each is analysed by itself, because a partition has the devices of its own process only, and what is said of
//! each is put together.

use std::collections::BTreeMap;

use super::replay::{Replay, ReplayedModel};
use super::report::{Estimate, ModelReport, Report, StageReport, TenantReport, Total};
use super::sums::Mean;
use super::tick::{CellTick, ModelTick, StageTick, Tick};

/// What was seen of several processes at once, as if it were one: a tick a second.
pub fn ticks(of: &[&[Tick]]) -> Vec<Tick> {
    let mut by_second: BTreeMap<i64, Vec<&Tick>> = BTreeMap::new();
    for tick in of.iter().flat_map(|ticks| ticks.iter()) {
        by_second.entry(tick.at_millis.div_euclid(1_000)).or_default().push(tick);
    }
    by_second.into_values().map(|ticks| tick(&ticks)).collect()
}

fn tick(of: &[&Tick]) -> Tick {
    let mut cells: BTreeMap<(i32, &str, &str), CellTick> = BTreeMap::new();
    let mut models: BTreeMap<&str, ModelTick> = BTreeMap::new();
    let mut stages: BTreeMap<_, StageTick> = BTreeMap::new();
    let mut partitions = BTreeMap::new();
    for tick in of {
        partitions.extend(tick.partitions.iter().map(|partition| (partition.partition, *partition)));
        for cell in &tick.cells {
            let kept = cells.entry((cell.partition, &cell.model, &cell.tenant));
            kept.and_modify(|kept| kept.tally.add(cell.tally)).or_insert_with(|| cell.clone());
        }
        for model in &tick.models {
            let kept = models.entry(&model.model);
            kept.and_modify(|kept| {
                kept.batches.add(model.batches);
                kept.handoffs.add(model.handoffs);
                kept.latency.extend(&model.latency);
                kept.cost = model.cost.or(kept.cost);
            })
            .or_insert_with(|| model.clone());
        }
        for stage in &tick.stages {
            let kept = stages.entry(stage.stage);
            kept.and_modify(|kept: &mut StageTick| {
                kept.threads += stage.threads;
                kept.on_cpu += stage.on_cpu;
                kept.ready += stage.ready;
            })
            .or_insert(*stage);
        }
    }
    Tick {
        at_millis: of.iter().map(|tick| tick.at_millis).max().unwrap_or(0),
        millis: of.iter().map(|tick| tick.millis).max().unwrap_or(0),
        partitions: partitions.into_values().collect(),
        cells: cells.into_values().collect(),
        models: models.into_values().collect(),
        stages: stages.into_values().collect(),
        bursts: Vec::new(),
    }
}

/// The reports of several processes as one; `None` if there is none.
pub fn reports(of: Vec<Report>) -> Option<Report> {
    let mut of = of.into_iter();
    let first = of.next()?;
    let others: Vec<Report> = of.collect();
    if others.is_empty() {
        return Some(first);
    }
    let all: Vec<&Report> = [&first].into_iter().chain(&others).collect();
    let total = total(&all);
    let mut partitions: Vec<_> = all.iter().flat_map(|report| report.partitions.iter().cloned()).collect();
    // One that moved from one to another while they were looked at is both's: whoever commits more has it.
    partitions.sort_by(|left, right| {
        let committing = |partition: &super::report::PartitionReport| {
            partition.committing.map_or(0.0, |committing| -committing.mean)
        };
        left.partition.cmp(&right.partition).then(committing(left).total_cmp(&committing(right)))
    });
    partitions.dedup_by_key(|partition| partition.partition);
    for partition in &mut partitions {
        let arriving = partition.arriving.map_or(0.0, |arriving| arriving.mean);
        partition.share = arriving / total.arriving.mean.max(1e-9);
    }
    let mut unknown: Vec<String> = all.iter().flat_map(|report| report.unknown.iter().cloned()).collect();
    unknown.sort();
    unknown.dedup();
    let sources: Vec<&str> = all.iter().map(|report| &*report.source).collect();
    Some(Report {
        source: sources.join(", "),
        at_millis: all.iter().map(|report| report.at_millis).max().unwrap_or(0),
        seconds: all.iter().map(|report| report.seconds).fold(0.0, f64::max),
        total,
        partitions,
        models: models(&all),
        tenants: tenants(&all),
        stages: stages(&all),
        unknown,
        replay: replay(&all),
        ..first.clone()
    })
}

fn add(left: Mean, right: Mean) -> Mean {
    Mean { mean: left.mean + right.mean, error: left.error.hypot(right.error) }
}

fn sum(estimates: impl Iterator<Item = Estimate>) -> Option<Estimate> {
    estimates.reduce(|left, right| Estimate {
        value: left.value + right.value,
        low: left.low + right.low,
        high: left.high + right.high,
    })
}

fn total(all: &[&Report]) -> Total {
    let of = || all.iter().map(|report| &report.total);
    let arriving = of().map(|total| total.arriving).fold(Mean::default(), add);
    // What one of them bears is only known where something of its batches is.
    let known = of().all(|total| total.rate_max.is_some() || total.arriving.mean <= 0.0);
    let rate_max = sum(of().filter_map(|total| total.rate_max)).filter(|_| known);
    let fullest = of().max_by(|left, right| {
        let used = |total: &Total| total.utilisation.unwrap_or(0.0);
        used(left).total_cmp(&used(right))
    });
    let drained = of().map(|total| total.drained_in);
    Total {
        arriving,
        committing: of().map(|total| total.committing).fold(Mean::default(), add),
        lag: of().map(|total| total.lag).sum(),
        rate_max,
        utilisation: rate_max.map(|rate| arriving.mean / rate.value.max(1e-9)),
        drained_in: drained.reduce(|left, right| Some(left?.max(right?))).flatten(),
        executors_needed: of().filter_map(|total| total.executors_needed).max(),
        limit: fullest.and_then(|total| total.limit.clone()),
    }
}

/// The larger one, if there are two.
fn larger(left: Option<f64>, right: Option<f64>) -> Option<f64> {
    left.into_iter().chain(right).reduce(f64::max)
}

fn models(all: &[&Report]) -> Vec<ModelReport> {
    let mut models: BTreeMap<&str, ModelReport> = BTreeMap::new();
    for model in all.iter().flat_map(|report| &report.models) {
        let Some(kept) = models.get_mut(&*model.model) else {
            models.insert(&model.model, model.clone());
            continue;
        };
        // What batches are like is taken from where most of them are.
        let most = if model.rate > kept.rate { model.clone() } else { kept.clone() };
        *kept = ModelReport {
            rate: kept.rate + model.rate,
            busy: kept.busy + model.busy,
            rate_max: kept.rate_max + model.rate_max,
            p50_millis: larger(kept.p50_millis, model.p50_millis),
            p99_millis: larger(kept.p99_millis, model.p99_millis),
            ..most
        };
    }
    let processes = super::basis::whole(all.len());
    let model = |model: ModelReport| ModelReport { busy: model.busy / processes, ..model };
    models.into_values().map(model).collect()
}

fn tenants(all: &[&Report]) -> Vec<TenantReport> {
    let mut tenants: BTreeMap<&str, TenantReport> = BTreeMap::new();
    let inferred: f64 = all.iter().flat_map(|report| &report.models).map(|model| model.rate).sum();
    for report in all {
        let own: f64 = report.models.iter().map(|model| model.rate).sum();
        for tenant in &report.tenants {
            let part = if inferred > 0.0 { own / inferred } else { 0.0 };
            let scaled = TenantReport {
                share: tenant.share * part,
                busy_share: tenant.busy_share * part,
                ..tenant.clone()
            };
            let kept = tenants.entry(&tenant.tenant);
            kept.and_modify(|kept| {
                kept.rate += scaled.rate;
                kept.share += scaled.share;
                kept.busy_share += scaled.busy_share;
                kept.partitions.extend(&scaled.partitions);
                kept.partitions.sort_unstable();
                kept.partitions.dedup();
            })
            .or_insert(scaled);
        }
    }
    let mut tenants: Vec<TenantReport> = tenants.into_values().collect();
    tenants.sort_by(|left, right| right.busy_share.total_cmp(&left.busy_share));
    tenants.truncate(super::analyse::TENANTS_LISTED);
    tenants
}

fn stages(all: &[&Report]) -> Vec<StageReport> {
    let mut stages: Vec<StageReport> = Vec::new();
    for stage in all.iter().flat_map(|report| &report.stages) {
        let Some(kept) = stages.iter_mut().find(|kept| kept.stage == stage.stage) else {
            stages.push(stage.clone());
            continue;
        };
        let threads = kept.threads + stage.threads;
        let mean = |left: f64, right: f64| {
            let [left_threads, right_threads] = [kept.threads, stage.threads].map(super::basis::whole);
            (left * left_threads + right * right_threads) / (left_threads + right_threads).max(1.0)
        };
        let (useful, waited) = (mean(kept.useful, stage.useful), mean(kept.waited, stage.waited));
        *kept = StageReport { stage: kept.stage, threads, useful, waited };
    }
    stages
}

fn replay(all: &[&Report]) -> Option<Replay> {
    let replays: Vec<&Replay> = all.iter().filter_map(|report| report.replay.as_ref()).collect();
    let count = super::basis::whole(replays.len().max(1));
    let mut models: BTreeMap<&str, ReplayedModel> = BTreeMap::new();
    for model in replays.iter().flat_map(|replay| &replay.models) {
        let kept = models.entry(&model.model).or_insert_with(|| model.clone());
        if model.p99_millis.value > kept.p99_millis.value {
            *kept = model.clone();
        }
    }
    let mut partitions: Vec<_> =
        replays.iter().flat_map(|replay| replay.partitions.iter().cloned()).collect();
    partitions.sort_by_key(|partition| partition.partition);
    Some(Replay {
        seconds: replays.iter().map(|replay| replay.seconds).reduce(f64::max)?,
        records: replays.iter().map(|replay| replay.records).sum(),
        used: sum(replays.iter().map(|replay| replay.used))?.scaled(1.0 / count),
        models: models.into_values().collect(),
        partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::sums::Line;
    use crate::capacity::tick::{PartitionTick, Stage};

    #[test]
    fn ticks_of_the_same_second_are_one() {
        let of = |at_millis, partition, tenant: &str| Tick {
            at_millis,
            millis: 1_000,
            partitions: vec![PartitionTick { partition, end: Some(5), ..PartitionTick::default() }],
            cells: vec![CellTick {
                partition,
                model: "m".to_owned(),
                tenant: tenant.to_owned(),
                tally: super::super::sums::Tally { records: 2, ..Default::default() },
            }],
            models: vec![ModelTick {
                model: "m".to_owned(),
                batches: Line::point(8, 5_000),
                handoffs: Line::default(),
                latency: vec![(3, 8)],
                cost: None,
            }],
            stages: vec![StageTick { stage: Stage::Worker, threads: 1, on_cpu: 10, ready: 1 }],
            bursts: Vec::new(),
        };
        let (left, right) = ([of(1_100, 0, "a"), of(2_100, 0, "a")], [of(1_900, 1, "b"), of(2_050, 1, "b")]);
        let together = ticks(&[&left, &right]);
        assert_eq!(together.len(), 2);
        let first = &together[0];
        assert_eq!((first.partitions.len(), first.cells.len(), first.models[0].batches.n), (2, 2, 2));
        assert_eq!((first.stages[0].threads, first.stages[0].on_cpu), (2, 20));
        assert_eq!(first.at_millis, 1_900);
    }
}
