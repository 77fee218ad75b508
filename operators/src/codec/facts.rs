//! What a result says, in whatever form.

use std::time::Duration;

use crate::catalog::NotFinite;
use crate::lease::{Offset, Partition};
use crate::model::TensorSpec;
use crate::tensor::Column;

/// What the results of a batch have in common.
#[derive(Clone, Copy, Debug)]
pub struct BatchFacts<'a> {
    /// The model that ran.
    pub model_id: &'a str,
    /// Its version.
    pub model_version: &'a str,
    /// The requests topic.
    pub topic: &'a str,
    /// Rows in the batch.
    pub batch_size: usize,
    /// The time of the run.
    pub inference: Duration,
    /// When the run ended, as [`rfc3339_micros`](super::json::rfc3339_micros) writes it.
    pub inferred_at: &'a str,
    /// Whether NaN and infinities pass.
    pub not_finite: NotFinite,
    /// What the model gives.
    pub outputs: &'a [TensorSpec],
    /// What it gave: a column for each of `outputs`.
    pub columns: &'a [Column],
}

impl BatchFacts<'_> {
    /// The first number of a row that is not finite, if the model's configuration forbids that.
    pub(super) fn check(&self, row: usize) -> Result<(), NotFiniteOutput> {
        if self.not_finite == NotFinite::Allow {
            return Ok(());
        }
        for (place, Column { values, .. }) in self.columns.iter().enumerate() {
            let range = self.columns[place].place(row);
            if values.are_finite(range.clone()) {
                continue;
            }
            let index =
                range.clone().position(|index| !values.are_finite(index..index + 1)).unwrap_or_default();
            let value = values.as_f64(range.start + index);
            let output = (self.columns.len() > 1).then(|| self.outputs[place].name.clone());
            return Err(NotFiniteOutput { output, index, value });
        }
        Ok(())
    }
}

/// What a result says of its own record.
#[derive(Clone, Copy, Debug)]
pub struct RowFacts<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// The partition that the request came from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
    /// From poll to outcome.
    pub latency: Duration,
    /// From poll to the start of the run.
    pub queue: Duration,
    /// Which row of the batch it is.
    pub index: usize,
}

/// An output holds NaN or an infinity, and its model's configuration forbids it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the output{} holds {value} at index {index}; set `not_finite = \"allow\"` for the model to let it pass",
    .output.as_ref().map_or(String::new(), |name| format!(" `{name}`"))
)]
pub struct NotFiniteOutput {
    /// The name of the output, where the model has several.
    pub output: Option<String>,
    /// The first place of one.
    pub index: usize,
    /// What stands there.
    pub value: f64,
}
