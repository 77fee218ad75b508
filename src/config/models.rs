//! Models in the configuration: where they are, and what is particular to each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use operators::catalog::NotFinite;

use super::written::{ModelOverridesFile, ModelsFile, Provider};

/// The folder of models, and what is particular to each.
#[derive(Clone, Debug)]
pub struct Models {
    /// The folder.
    pub path: PathBuf,
    /// What is particular, by model id.
    pub overrides: BTreeMap<String, ModelOverrides>,
}

/// What is particular to a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelOverrides {
    /// The time from poll to outcome that is to be kept, if there is a rule of its own: `Some(None)` is no such time.
    pub slo: Option<Option<Duration>>,
    /// Rows of a batch at most, if there is a rule of its own: `Some(None)` is `auto`.
    pub size_max: Option<Option<usize>>,
    /// The longest that a row waits, in the same way.
    pub delay_max: Option<Option<Duration>>,
    /// The largest input of a batch, in bytes.
    pub bytes_max: Option<usize>,
    /// How many times what others get of a device.
    pub weight: Option<u32>,
    /// The longest from the poll of a row to its outcome, if there is a rule of its own: `Some(None)` is for ever.
    pub deadline: Option<Option<Duration>>,
    /// The longest that a run may take, if there is a rule of its own: `Some(None)` is for ever.
    pub run_max: Option<Option<Duration>>,
    /// Execution providers.
    pub providers: Option<Vec<Provider>>,
    /// What to do with NaN and infinities.
    pub not_finite: Option<NotFinite>,
    /// Which output is served.
    pub output: Option<String>,
}

pub(super) fn models(written: ModelsFile) -> Models {
    let overrides = written.by_id.into_iter().map(|(id, model)| (id, overrides(model))).collect();
    Models { path: written.path, overrides }
}

fn overrides(written: ModelOverridesFile) -> ModelOverrides {
    ModelOverrides {
        slo: written.batch.slo.map(|slo| slo.0),
        size_max: written.batch.size_max.map(|size| size.exactly().map(|size| size.0)),
        delay_max: written.batch.delay_max.map(|delay| delay.exactly().map(|delay| delay.0)),
        bytes_max: written.batch.bytes_max.map(|bytes| bytes.0),
        weight: written.weight.map(|weight| weight.0),
        deadline: written.deadline.map(|deadline| deadline.0),
        run_max: written.run_max.map(|max| max.0),
        providers: written.providers,
        not_finite: written.not_finite,
        output: written.output,
    }
}
