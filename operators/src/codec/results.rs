//! The results of a batch, each in the form that it is to have.

use std::cell::OnceCell;

use super::facts::{BatchFacts, NotFiniteOutput, RowFacts};
use super::form::Form;
use super::json::ResultTemplate;
use super::open_inference::{Body, OpenInferenceResults};
use super::x_tensor::TensorResults;
use crate::records::Records;

/// The results of one batch. What those of a form have in common is rendered when the first of them is written.
#[derive(Debug)]
pub struct Results<'a> {
    facts: BatchFacts<'a>,
    json: OnceCell<ResultTemplate<'a>>,
    tensor: OnceCell<TensorResults<'a>>,
    open_inference: OnceCell<OpenInferenceResults<'a>>,
    open_inference_binary: OnceCell<OpenInferenceResults<'a>>,
}

impl<'a> Results<'a> {
    /// The results of a batch of which this is known.
    pub fn new(facts: BatchFacts<'a>) -> Self {
        Self {
            facts,
            json: OnceCell::new(),
            tensor: OnceCell::new(),
            open_inference: OnceCell::new(),
            open_inference_binary: OnceCell::new(),
        }
    }

    /// Appends the value of one result to `out`. Returns how many bytes of it are JSON, where its headers have to say that.
    ///
    /// # Errors
    ///
    /// If an output holds NaN or an infinity and the model's configuration forbids it. Then `out` is as it was.
    pub fn encode(
        &self,
        form: Form,
        row: &RowFacts<'_>,
        out: &mut Vec<u8>,
    ) -> Result<usize, NotFiniteOutput> {
        match form {
            Form::Json => self.json().encode(row, out).map(|()| 0),
            Form::Tensor => self.tensor().encode(row, out).map(|()| 0),
            Form::OpenInference => self.open_inference(Body::Json).encode(row, out),
            Form::OpenInferenceBinary => self.open_inference(Body::Binary).encode(row, out),
        }
    }

    /// Gives the record pushed last the headers of one result, beside `model_id` and `tenant_id`, which results of every form have. `json` is
    /// what [`Results::encode`] has returned.
    pub fn headers(&self, form: Form, row: &RowFacts<'_>, json: usize, records: &mut Records) {
        match form {
            Form::Json => {}
            Form::Tensor => self.tensor().headers(row, records),
            Form::OpenInference => self.open_inference(Body::Json).headers(json, records),
            Form::OpenInferenceBinary => self.open_inference(Body::Binary).headers(json, records),
        }
    }

    fn json(&self) -> &ResultTemplate<'a> {
        self.json.get_or_init(|| ResultTemplate::new(&self.facts))
    }

    fn tensor(&self) -> &TensorResults<'a> {
        self.tensor.get_or_init(|| TensorResults::new(self.facts))
    }

    fn open_inference(&self, body: Body) -> &OpenInferenceResults<'a> {
        let cell = match body {
            Body::Json => &self.open_inference,
            Body::Binary => &self.open_inference_binary,
        };
        cell.get_or_init(|| OpenInferenceResults::new(self.facts, body))
    }
}
