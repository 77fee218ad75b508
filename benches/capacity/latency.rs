//! How long requests take at a higher load: what a replay of those that came says of it, and what is then measured.

use std::thread;
use std::time::Duration;

use dataflows::capacity::report::Estimate;
use dataflows::capacity::{WhatIf, replay};
use tidemill::experiment::Failure;

use crate::scene::{Look, RATE, Stage};

/// The load is raised to this part of what is said to be borne.
const LOADED: f64 = 0.7;

/// How long the higher load is on before it is measured, and for how long it is.
const SETTLE: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);

/// The p99 of a model, in milliseconds.
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
pub(crate) fn compare(stage: &Stage, seen: &Look) -> Result<Vec<P99>, Failure> {
    let total = &seen.report.total;
    let Some(bears) = total.rate_max else { return Ok(Vec::new()) };
    let times = LOADED * bears.value / total.arriving.mean;
    let mut raised = seen.basis.clone();
    WhatIf::Load(times).apply(&mut raised).map_err(|error| Failure::Unexpected(error.to_string()))?;
    let now = replay(&seen.basis, &seen.ticks);
    let case = replay(&raised, &seen.ticks);
    let Some((now, case)) = now.zip(case) else { return Ok(Vec::new()) };
    let case = case.doubted(&now, &seen.report);
    stage.traffic.set_rate(RATE * times);
    thread::sleep(SETTLE + MEASURED);
    let then = stage.look(MEASURED)?;
    stage.traffic.set_rate(RATE);
    thread::sleep(SETTLE);
    let model = |model: &dataflows::capacity::report::ModelReport| {
        let replayed = case.models.iter().find(|replayed| replayed.model == model.model)?;
        let before = now.models.iter().find(|replayed| replayed.model == model.model)?;
        let measured = model.p99_millis?;
        println!(
            "  p99 of {} at {times:.1} times the load: {:.0} ms predicted ({:.0} to {:.0}), {measured:.0} measured; replayed as it was {:.0}; \
             batches of {:.0} predicted, {:.0} measured",
            model.model,
            replayed.p99_millis.value,
            replayed.p99_millis.low,
            replayed.p99_millis.high,
            before.p99_millis.value,
            replayed.batch_rows,
            model.batch_rows,
        );
        Some(P99 { model: model.model.clone(), predicted: replayed.p99_millis, measured })
    };
    Ok(then.report.models.iter().filter_map(model).collect())
}
