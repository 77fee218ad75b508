//! What a result says, in whatever form.

use std::time::Duration;

use crate::catalog::NotFinite;
use crate::lease::{Offset, Partition};

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
    /// The row that the model gave.
    pub output: &'a [f32],
}

/// An output holds NaN or an infinity, and its model's configuration forbids it.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the output holds {value} at index {index}; set `not_finite = \"allow\"` for the model to let it pass"
)]
pub struct NotFiniteOutput {
    /// The first place of one.
    pub index: usize,
    /// What stands there.
    pub value: f32,
}
