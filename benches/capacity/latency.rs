//! How long requests take at a higher load: what a replay of those that came says of it, and what is then measured.

use std::thread;
use std::time::Duration;

use dataflows::capacity::report::{Estimate, ModelReport};
use dataflows::capacity::{WhatIf, replay};
use tidemill::experiment::Failure;

use crate::scene::{Look, Scene, Stage};

/// The load is raised to this part of what is said to be borne.
const LOADED: f64 = 0.7;

/// How long the higher load is on before it is measured, for how long it is each time, and how often. Of ten seconds a hundredth is a tenth of
/// one: whatever holds the machine up for so long decides a p99, and it is the median of several that a replay can be compared with.
const SETTLE: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(5);
const TIMES: usize = 3;

/// The p99 of a model, in milliseconds; what is measured is the median of several.
#[derive(Clone, Debug)]
pub(crate) struct P99 {
    pub(crate) model: String,
    pub(crate) predicted: Estimate,
    pub(crate) measured: f64,
}

impl P99 {
    pub(crate) fn error(&self) -> f64 {
        (self.predicted.value / self.measured - 1.0).abs()
    }

    pub(crate) fn is_within(&self) -> bool {
        (self.predicted.low..=self.predicted.high).contains(&self.measured)
    }
}

/// Raises the load, and compares.
pub(crate) fn compare(stage: &Stage, scene: &Scene, seen: &Look) -> Result<Vec<P99>, Failure> {
    let total = &seen.report.total;
    let Some(bears) = total.rate_max else { return Ok(Vec::new()) };
    let times = LOADED * bears.value / total.arriving.mean;
    let mut raised = seen.basis.clone();
    WhatIf::Load(times).apply(&mut raised).map_err(|error| Failure::Unexpected(error.to_string()))?;
    let now = replay(&seen.basis, &seen.ticks);
    let case = replay(&raised, &seen.ticks);
    let Some((now, case)) = now.zip(case) else { return Ok(Vec::new()) };
    let case = case.doubted(&now, &seen.report);
    stage.traffic.set_rate(scene.work.rate() * times);
    thread::sleep(SETTLE);
    let look = |_| {
        thread::sleep(MEASURED);
        Ok(stage.look(MEASURED)?.report.models)
    };
    let looks: Vec<Vec<ModelReport>> = (0..TIMES).map(look).collect::<Result<_, Failure>>()?;
    stage.traffic.set_rate(scene.work.rate());
    thread::sleep(SETTLE);
    let model = |model: &ModelReport| {
        let replayed = case.models.iter().find(|replayed| replayed.model == model.model)?;
        let before = now.models.iter().find(|replayed| replayed.model == model.model)?;
        let same = looks.iter().flatten().filter(|seen| seen.model == model.model);
        let mut measured: Vec<f64> = same.filter_map(|seen| seen.p99_millis).collect();
        measured.sort_by(f64::total_cmp);
        let all: Vec<String> = measured.iter().map(|millis| format!("{millis:.0}")).collect();
        let measured = *measured.get(measured.len() / 2)?;
        println!(
            "  p99 of {} at {times:.1} times the load: {:.0} ms predicted ({:.0} to {:.0}), {} measured; replayed as it was {:.0}; \
             batches of {:.0} predicted, {:.0} measured",
            model.model,
            replayed.p99_millis.value,
            replayed.p99_millis.low,
            replayed.p99_millis.high,
            all.join(", "),
            before.p99_millis.value,
            replayed.batch_rows,
            model.batch_rows,
        );
        Some(P99 { model: model.model.clone(), predicted: replayed.p99_millis, measured })
    };
    Ok(looks.last().into_iter().flatten().filter_map(model).collect())
}
