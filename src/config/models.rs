//! Models in the configuration: where they are, and what is particular to each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use operators::catalog::NotFinite;
use operators::model::InputOptions;
use operators::model::onnx::BucketRule;

use super::written::{InputFile, ModelOverridesFile, ModelsFile, Provider};

/// The folder of models, and what is particular to each.
#[derive(Clone, Debug)]
pub struct Models {
    /// The folder.
    pub path: PathBuf,
    /// What is particular, by model id.
    pub overrides: BTreeMap<String, ModelOverrides>,
}

/// What is particular to a model.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// The sizes that batches are run at.
    pub buckets: Option<BucketRule>,
    /// The devices that it is placed on, each by the number of its GPU.
    pub devices: Option<Vec<i32>>,
    /// What to do with NaN and infinities.
    pub not_finite: Option<NotFinite>,
    /// Which output is served alone.
    pub output: Option<String>,
    /// What is particular to its inputs, by their names.
    pub inputs: BTreeMap<String, InputOptions>,
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
        buckets: written.buckets.map(|buckets| buckets.0),
        devices: written.devices.map(|devices| devices.into_iter().map(|device| device.0).collect()),
        not_finite: written.not_finite,
        output: written.output,
        inputs: written.inputs.into_iter().map(|(name, input)| (name, options(input))).collect(),
    }
}

fn options(written: InputFile) -> InputOptions {
    InputOptions {
        batch_axis: written.batch_axis.map(|axis| axis.0),
        shape: written.shape.map(|axes| axes.0),
        sample: written.sample.map(|axes| axes.0),
        value: written.value.map(|value| value.0),
    }
}
