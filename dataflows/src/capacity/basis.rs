//! What a picture says of loads and costs: the ground that every answer stands on, and what a what-if changes.

use std::collections::{BTreeMap, BTreeSet};

use super::bearing::Pool;
use super::picture::{Picture, Series};
use super::sums::{Line, Mean};
use super::tick::{Cost, ModelSetup, Setup, Stage};

/// Batches say what each row adds if their sizes stray from the mean by this share of it at least, and there are so many.
const STRAY_MIN: f64 = 0.15;
const BATCHES_MIN: i64 = 12;

/// No prediction is claimed to be better than this.
const ERROR_MIN: f64 = 0.08;

/// A stage whose threads are less busy than this says nothing of how many records it could bear: threads that wake for little spend more
/// on each record.
const STAGE_BUSY_MIN: f64 = 0.5;

/// What is known of a model's batches.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCost {
    /// Seconds of a batch of any size.
    pub fixed: f64,
    /// Seconds that each row adds.
    pub row: f64,
    /// Seconds that an executor waits for each batch though its rows are there.
    pub handoff: f64,
    /// By what share the time of a full batch may be off.
    pub error: f64,
    /// Where the line comes from.
    pub from: &'static str,
    /// Rows of a batch now, on average.
    pub rows_now: f64,
    /// Rows of a batch that is as large as it is going to be.
    pub rows_full: f64,
    /// The longest that a row waits for others, in seconds.
    pub wait: f64,
}

impl ModelCost {
    /// Seconds of an executor a row, in batches of so many.
    pub fn per_row(&self, rows: f64) -> f64 {
        (self.fixed + self.handoff) / rows.max(1.0) + self.row
    }
}

/// The ground of an analysis.
#[derive(Clone, Debug)]
pub struct Basis {
    /// The engine.
    pub setup: Setup,
    /// What was seen.
    pub picture: Picture,
    /// Whether it was changed: then what was seen of lags is not what would be seen.
    pub is_case: bool,
    /// All arrivals are taken this many times.
    pub load: f64,
    /// What comes to the other partitions of a process is taken this many times: with more processes, each has fewer of them.
    pub others: f64,
    /// Dataflow workers are taken this many times.
    pub workers: f64,
    /// Whether keys are spread evenly over the partitions.
    pub is_spread: bool,
    /// What batches cost.
    pub costs: BTreeMap<u32, ModelCost>,
    /// Records a second of each partition that come.
    pub arriving: BTreeMap<i32, Mean>,
}

impl Basis {
    /// The ground that this picture gives.
    pub fn new(picture: Picture, setup: Setup) -> Self {
        let models: BTreeSet<u32> = picture.sums.mixes.keys().map(|(_, model)| *model).collect();
        let costs =
            models.iter().filter_map(|model| Some((*model, cost(&picture, &setup, *model)?))).collect();
        let arriving = picture.partitions.keys();
        let arriving =
            arriving.filter_map(|partition| Some((*partition, arriving_at(&picture, *partition)?)));
        let arriving = arriving.collect();
        Self {
            setup,
            picture,
            is_case: false,
            load: 1.0,
            others: 1.0,
            workers: 1.0,
            is_spread: false,
            costs,
            arriving,
        }
    }

    /// Takes over what batches of a model take from another process of the group, where this one has not seen it.
    pub fn borrow_cost(&mut self, model: &str, other: &Self) {
        let Some(cost) = other.cost_of(model).filter(|_| self.cost_of(model).is_none()) else { return };
        let number = self.picture.names.number(model, self.picture.ticks.unsigned_abs());
        self.costs.insert(number, cost.clone());
    }

    /// What batches of the model of this id take, if that is known.
    pub fn cost_of(&self, model: &str) -> Option<&ModelCost> {
        self.costs.get(&self.number_of(model)?)
    }

    /// The same, to be changed.
    pub fn cost_of_mut(&mut self, model: &str) -> Option<&mut ModelCost> {
        let number = self.number_of(model)?;
        self.costs.get_mut(&number)
    }

    fn number_of(&self, model: &str) -> Option<u32> {
        self.costs.keys().copied().find(|number| self.picture.names.name(*number) == model)
    }

    /// What a series brought each second, lately.
    pub fn rate(&self, series: Series) -> Option<Mean> {
        recent_rate(&self.picture, series)
    }

    /// Records a second that come to a partition. Where its end is not known, what is done of it.
    pub fn arriving(&self, partition: i32) -> f64 {
        let seen = self.arriving.get(&partition).map(|mean| mean.mean);
        let done = || {
            let tally = self.picture.sums.partitions.get(&partition);
            tally.map_or(0.0, |tally| float(tally.records) / self.picture.seconds())
        };
        self.load * seen.unwrap_or_else(done)
    }

    /// The devices, grouped with the models that are placed on them.
    pub fn pools(&self) -> Vec<Pool> {
        let mut groups: Vec<(BTreeSet<usize>, BTreeMap<u32, f64>)> = Vec::new();
        for model in self.costs.keys() {
            let setup = model_setup(&self.setup, self.picture.names.name(*model));
            let devices = setup.map(|setup| setup.devices.clone()).filter(|devices| !devices.is_empty());
            let mut devices: BTreeSet<usize> = devices.unwrap_or_else(|| vec![0]).into_iter().collect();
            let mut models =
                BTreeMap::from([(*model, setup.map_or(1.0, |setup| f64::from(setup.weight.max(1))))]);
            // Groups that have a device in common are one: their models shift to where there is room.
            groups.retain(|(others, theirs)| {
                let apart = others.is_disjoint(&devices);
                if !apart {
                    devices.extend(others);
                    models.extend(theirs);
                }
                apart
            });
            groups.push((devices, models));
        }
        let executors = self.setup.executors.max(1);
        let pool = |(devices, models): (BTreeSet<usize>, _)| Pool {
            executors: whole(devices.len() * executors),
            models,
        };
        groups.into_iter().map(pool).collect()
    }

    /// By what share rates that were worked out may be off.
    pub fn error(&self) -> f64 {
        let errors = self.costs.values().map(|cost| cost.error);
        errors.fold(ERROR_MIN, f64::max)
    }

    /// The records a second that a stage of threads could bear at most, where it is busy enough to tell.
    pub fn stage_rate_max(&self, stage: Stage) -> Option<f64> {
        let useful = self.useful(stage)?;
        let threads = if stage == Stage::Worker { self.workers } else { 1.0 };
        // A process more has its own threads of each stage.
        let bears = || self.load * self.inferred() * threads / useful;
        (useful >= STAGE_BUSY_MIN && stage != Stage::Infer).then(bears)
    }

    /// Rows a second that were inferred lately.
    pub fn inferred(&self) -> f64 {
        let recent = &self.picture.recent;
        batches(&recent.series).map(|(_, line)| float(line.x)).sum::<f64>() / recent.seconds()
    }

    /// The part of the time of its threads for which a stage was useful lately; of executors, for which they had something to do.
    pub fn useful(&self, stage: Stage) -> Option<f64> {
        let recent = &self.picture.recent;
        if stage == Stage::Infer {
            let executors = whole(self.setup.executors.max(1) * self.setup.devices.max(1));
            let busy: f64 = batches(&recent.series).map(|(_, line)| float(line.y)).sum();
            // An executor that waits for a batch whose rows are there is no more to be had than one that runs.
            let handed: f64 = recent
                .series
                .iter()
                .filter(|(series, _)| matches!(series, Series::Handoffs(_)))
                .map(|(_, line)| float(line.y))
                .sum();
            return (busy > 0.0).then(|| (busy + handed) / 1e6 / recent.seconds() / executors);
        }
        let line = recent.series.get(&Series::Threads(stage))?;
        let threads = *self.picture.threads.get(&stage)?;
        Some(float(line.x) / 1e6 / recent.seconds() / whole(threads.max(1)))
    }

    /// The batches of each model, of the whole span.
    pub fn batches(&self) -> impl Iterator<Item = (u32, Line)> + '_ {
        batches(&self.picture.sums.series)
    }
}

fn batches(series: &BTreeMap<Series, Line>) -> impl Iterator<Item = (u32, Line)> + '_ {
    series.iter().filter_map(|(series, line)| match series {
        Series::Batches(model) => Some((*model, *line)),
        _ => None,
    })
}

/// What is known of a model by its id.
pub fn model_setup<'a>(setup: &'a Setup, id: &str) -> Option<&'a ModelSetup> {
    setup.models.iter().find(|model| model.id == id).or(setup.model_default.as_ref())
}

/// What comes has changed if what came lately is so many errors from what came in the whole span.
const CHANGED_ERRORS: f64 = 3.0;

/// What comes to a partition each second: over the whole span, or, where that has changed, lately.
fn arriving_at(picture: &Picture, partition: i32) -> Option<Mean> {
    let series = Series::Arrived(partition);
    let all = per_second(picture.sums.series.get(&series)?, picture.ticks, picture.seconds());
    let Some(recent) = recent_rate(picture, series) else { return Some(all) };
    let error = all.error.hypot(recent.error);
    Some(if (recent.mean - all.mean).abs() > CHANGED_ERRORS * error { recent } else { all })
}

fn recent_rate(picture: &Picture, series: Series) -> Option<Mean> {
    let recent = &picture.recent;
    Some(per_second(recent.series.get(&series)?, recent.ticks, recent.seconds()))
}

/// From what ticks brought to what seconds did.
fn per_second(line: &Line, ticks: i64, seconds: f64) -> Mean {
    let (mean, each) = (line.mean_y(), float(ticks.max(1)) / seconds);
    Mean { mean: mean.mean * each, error: mean.error * each }
}

fn cost(picture: &Picture, setup: &Setup, model: u32) -> Option<ModelCost> {
    let line = picture.sums.series.get(&Series::Batches(model)).copied().filter(|line| line.n > 0)?;
    let about = model_setup(setup, picture.names.name(model));
    let learned = picture.costs.get(&model).copied();
    let size_max = about.map(|about| about.size_max).filter(|size| *size > 0);
    let (rows_now, took) = (line.mean_x(), line.mean_y());
    let mean_error = took.error / took.mean.max(1e-9);
    let fit = line.fit().filter(|fit| {
        line.n >= BATCHES_MIN
            && line.stray_x() >= STRAY_MIN
            && fit.slope > 0.0
            && fit.intercept >= -0.05 * took.mean
    });
    let rows_full = match (about.and_then(|about| about.slo_millis), learned, size_max) {
        (Some(_), Some(Cost { efficient, .. }), Some(size)) => whole(efficient.min(size).max(1)),
        (_, _, Some(size)) => whole(size),
        // Of a history nobody knows how large batches may be: as large as they were.
        (_, _, None) => rows_now,
    };
    let (fixed, row, off, from) = match (fit, learned) {
        (Some(fit), _) => {
            let at_full = fit.intercept + fit.slope * rows_full;
            let off = fit.slope_error * (rows_full - rows_now).abs() / at_full.max(1e-9);
            (fit.intercept.max(0.0), fit.slope, off, "batches")
        }
        // What was learned before, made right where batches were seen.
        (None, Some(cost)) if cost.fixed + cost.row * rows_now > 0.0 => {
            let scale = took.mean / (cost.fixed + cost.row * rows_now);
            let far = (rows_full / rows_now.max(1.0)).ln().abs().min(2.0);
            (cost.fixed * scale, cost.row * scale, 0.03 * far, "learned")
        }
        // Nothing says which part of it is for the batch and which for its rows.
        _ => (
            0.0,
            took.mean / rows_now.max(1.0),
            0.25 * (rows_full / rows_now.max(1.0) - 1.0).clamp(0.0, 1.0),
            "mean",
        ),
    };
    let wait = about.and_then(|about| about.delay_millis.or(about.slo_millis.map(|slo| slo / 2.0)));
    Some(ModelCost {
        fixed: fixed / 1e6,
        row: row / 1e6,
        handoff: picture.sums.series.get(&Series::Handoffs(model)).map_or(0.0, |line| line.mean_y().mean)
            / 1e6,
        // Nine of ten lie within 1.65 standard errors.
        error: 1.65 * (off.powi(2) + mean_error.powi(2)).sqrt() + ERROR_MIN,
        from,
        rows_now,
        rows_full,
        wait: wait.unwrap_or(0.0) / 1e3,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a span")]
pub(super) fn float(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "rows, threads and executors are few")]
pub(super) fn whole(number: usize) -> f64 {
    number as f64
}
