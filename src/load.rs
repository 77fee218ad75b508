//! A seeded load: requests as clients send them, and among them bad ones of every kind.
//!
//! ```text
//!   seed ─▶ Load ─▶ requests, the same bytes for the same options, each with the end that it must come to
//!   rate ─▶ Schedule ─▶ when the n-th of them is due
//! ```
//!
//! What is sent and when are apart: a load can be written at once, into a topic that is drained later, or paced in an open loop.

mod bad;
mod model_row;
mod open_inference;
mod schedule;
mod tenants;
mod tensor;
mod write;

use operators::codec::form::{FORMS, Form};
use operators::dead_letter::Reason;
use operators::model::is_model_id;
use operators::records::{RecordView, Records};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use bad::{BAD_KINDS, BadKind};
pub use model_row::ModelRow;
pub use schedule::{Bursts, Schedule};

use crate::request::MODEL_ID;
use tenants::Tenants;
use write::{Parts, Writer};

/// The form of generated requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadForm {
    /// JSON
    #[default]
    Json,
    /// Raw tensors, application/x-tensor
    Tensor,
    /// JSON of the Open Inference Protocol, application/x-open-inference+json
    OpenInference,
    /// The same with its tensor behind the JSON, application/octet-stream
    OpenInferenceBinary,
    /// Each of them, at random
    Mixed,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The number of requests.
    pub requests: u64,
    /// The number of tenants.
    pub tenants: usize,
    /// The models, asked equally often.
    pub models: Vec<ModelRow>,
    /// The form of the good requests. Bad ones have that of their kind.
    pub form: LoadForm,
    /// The exponent of the Zipf distribution over tenants; 0 for an even one.
    pub skew: f64,
    /// Equal options with equal seeds give equal bytes.
    pub seed: u64,
    /// The fraction of bad requests, from 0 to 1. Their number is exact, their places are random.
    pub bad: f64,
    /// The kinds of bad requests, taken in turn.
    pub bad_kinds: Vec<BadKind>,
    /// The size that an oversized request exceeds, in bytes: by less than 1 KiB, so that a topic with a little more room takes it.
    pub oversized_bytes: usize,
    /// Decimals of each float, from 1 to 7.
    pub decimals: u8,
    /// `enqueued_at` of the first request, in microseconds since the Unix epoch.
    pub enqueued_from_micros: i64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            requests: 20_000,
            tenants: 8,
            models: Vec::new(),
            form: LoadForm::Json,
            skew: 0.0,
            seed: 1,
            bad: 0.0,
            bad_kinds: BAD_KINDS.to_vec(),
            oversized_bytes: 256 * 1024,
            decimals: 4,
            enqueued_from_micros: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
        }
    }
}

/// Why a load cannot be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A model is not written as [`ModelRow`] reads it.
    #[error(
        "`{0}` is not a model with the floats of its row: write it as `mlp-16:16`, or with its axes as `cnn-6x64:6x64`, and with the name of its input behind that if it is not `input`"
    )]
    Model(String),
    /// A kind of bad request does not exist.
    #[error("`{0}` is not a kind of bad request; there are {names}", names = bad::names())]
    Kind(String),
    /// An option is out of its range.
    #[error("{option} must be {range}")]
    Range {
        /// The option.
        option: &'static str,
        /// What it may be.
        range: &'static str,
    },
}

/// The end that a request must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A result.
    Result,
    /// A dead letter with this reason.
    DeadLetter(Reason),
}

/// A request that was generated, beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name; a bad request may not say it.
    pub request_id: String,
    /// What is bad about it, if anything is.
    pub bad: Option<BadKind>,
}

impl Made {
    /// The end that the request must come to.
    pub fn expected(&self) -> Expected {
        self.bad.map_or(Expected::Result, |kind| Expected::DeadLetter(kind.reason()))
    }
}

/// A generated request with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    records: Records,
    /// What it is.
    pub made: Made,
}

impl Generated {
    /// Its key, value and headers.
    pub fn record(&self) -> RecordView<'_> {
        self.records.get(0)
    }
}

/// A load under way.
///
/// ```
/// use tidemill::load::{Load, LoadOptions, ModelRow};
///
/// let models = vec![ModelRow::new("mlp-16", &[16])];
/// let options = LoadOptions { requests: 100, models, bad: 0.2, ..LoadOptions::default() };
/// let requests: Vec<_> = Load::new(options.clone()).unwrap().collect();
/// assert_eq!(requests.iter().filter(|request| request.made.bad.is_some()).count(), 20);
/// assert_eq!(requests, Load::new(options).unwrap().collect::<Vec<_>>());
/// ```
#[derive(Debug)]
pub struct Load {
    options: LoadOptions,
    tenants: Tenants,
    writer: Writer,
    random: ChaCha8Rng,
    next: u64,
    bad_left: u64,
    bad_made: usize,
}

impl Load {
    /// Starts a load.
    ///
    /// # Errors
    ///
    /// If an option is out of its range.
    pub fn new(options: LoadOptions) -> Result<Self, LoadError> {
        let ranges = [
            (!options.models.is_empty(), "the models", "at least one"),
            (options.models.iter().all(|model| is_model_id(model.id.as_bytes())), "a model id", "valid"),
            (
                options.models.iter().all(|model| model.row_len <= 10_000_000),
                "the floats of a row",
                "0 to 10000000",
            ),
            (options.oversized_bytes <= 1_000_000_000, "the size to exceed", "0 to 1000000000 bytes"),
            ((1..=1_000_000).contains(&options.tenants), "the number of tenants", "1 to 1000000"),
            ((0.0..=10.0).contains(&options.skew), "the skew", "0 to 10"),
            ((0.0..=1.0).contains(&options.bad), "the fraction of bad requests", "0 to 1"),
            (
                options.bad == 0.0 || !options.bad_kinds.is_empty(),
                "the kinds of bad requests",
                "at least one",
            ),
            ((1..=7).contains(&options.decimals), "the decimals", "1 to 7"),
        ];
        if let Some((_, option, range)) = ranges.into_iter().find(|(kept, ..)| !kept) {
            return Err(LoadError::Range { option, range });
        }
        Ok(Self {
            tenants: Tenants::new(options.tenants, options.skew),
            writer: Writer::new(options.decimals),
            random: ChaCha8Rng::seed_from_u64(options.seed),
            next: 0,
            bad_left: share(options.requests, options.bad),
            bad_made: 0,
            options,
        })
    }

    /// Adds the next request to `records`; `None` after the last.
    pub fn push_next(&mut self, records: &mut Records) -> Option<Made> {
        let left = self.options.requests.checked_sub(self.next).filter(|&left| left > 0)?;
        let index = self.next;
        self.next += 1;

        let model = &self.options.models[self.random.next_u32() as usize % self.options.models.len()];
        let tenant_id = self.tenants.pick(&mut self.random);
        let request_id = format!("r{}-{index}", self.options.seed);
        let micros = i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(50);
        let enqueued_at_micros = self.options.enqueued_from_micros.saturating_add(micros);
        let parts = Parts { request_id: &request_id, tenant_id, model, enqueued_at_micros };

        let bad = (self.random.next_u64() % left < self.bad_left).then(|| {
            let kind = self.options.bad_kinds[self.bad_made % self.options.bad_kinds.len()];
            self.bad_left -= 1;
            self.bad_made += 1;
            kind
        });
        match bad {
            None => {
                let key = format!("{tenant_id}|{}", model.id);
                let form = match self.options.form {
                    LoadForm::Json => Form::Json,
                    LoadForm::Tensor => Form::Tensor,
                    LoadForm::OpenInference => Form::OpenInference,
                    LoadForm::OpenInferenceBinary => Form::OpenInferenceBinary,
                    LoadForm::Mixed => FORMS[self.random.next_u32() as usize % FORMS.len()],
                };
                match form {
                    Form::Json => {
                        records.push_with(Some(key.as_bytes()), |out| {
                            self.writer.request(out, &parts, &mut self.random);
                        });
                    }
                    Form::Tensor => {
                        let row = self.writer.numbers(model.row_len, &mut self.random);
                        tensor::push(records, &key, &parts, &tensor::bytes(&row));
                    }
                    Form::OpenInference | Form::OpenInferenceBinary => {
                        let (writer, random) = (&self.writer, &mut self.random);
                        let binary = form == Form::OpenInferenceBinary;
                        let draft = open_inference::Draft::new(writer, &parts, binary, random);
                        draft.push(records, &key, writer, &parts, random);
                    }
                }
                records.push_header(MODEL_ID, Some(model.id.as_bytes()));
            }
            Some(kind) => {
                let oversized = self.options.oversized_bytes;
                let other = self.options.models.iter().find(|other| other.id != model.id);
                let other = other.map(|other| other.id.as_str());
                bad::push(kind, records, &self.writer, &parts, &mut self.random, other, oversized);
            }
        }
        Some(Made { request_id, bad })
    }
}

impl Iterator for Load {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        let mut records = Records::default();
        self.push_next(&mut records).map(|made| Generated { records, made })
    }
}

/// `fraction` of `whole`, to the nearest.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of requests is far below 2^52, a fraction not below 0"
)]
fn share(whole: u64, fraction: f64) -> u64 {
    (whole as f64 * fraction).round() as u64
}

#[cfg(test)]
mod tests;
