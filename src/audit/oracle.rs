//! The models, run by the audit itself: one row at a time, on `ort` directly, without anything of the engine.

use std::collections::BTreeMap;
use std::path::Path;

use operators::model::{ModelError, ModelFile, onnx};
use ort::environment::Environment;

use self::loaded::Loaded;
use super::inputs::Inputs;
use crate::request::Tensor;

mod loaded;

/// What knows the models, and says what a request's output must be.
pub trait Oracle {
    /// What is known of a model.
    fn lookup(&mut self, model_id: &str) -> Lookup;

    /// Runs a model on one row.
    ///
    /// # Errors
    ///
    /// If it fails on it, and why.
    fn infer(&mut self, model_id: &str, input: &[f32]) -> Result<Vec<f32>, String>;

    /// Runs a model on one row of any tensors. Its outputs stand one behind the other, in the order of the model's file; whole numbers
    /// and truths are the nearest floats.
    ///
    /// # Errors
    ///
    /// If it fails on it, and why; and where the oracle knows only models of floats, if they are no row of one.
    fn infer_tensors(&mut self, model_id: &str, tensors: &[Tensor]) -> Result<Vec<f64>, String> {
        let [tensor] = tensors else { return Err(format!("model {model_id} is known as one of floats")) };
        #[expect(clippy::cast_possible_truncation, reason = "the model takes 32 bits")]
        let row: Vec<f32> = tensor.numbers.iter().map(|number| number.float() as f32).collect();
        Ok(self.infer(model_id, &row)?.into_iter().map(f64::from).collect())
    }
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is served.
    Serves {
        /// What a request has to give.
        inputs: Inputs,
    },
    /// There is none of this id.
    NoSuchModel,
    /// There is one, and it can't be served.
    Unavailable(String),
    /// The oracle does not know: then nothing that depends on it is checked.
    NotAsked,
}

/// Knows nothing: for an audit that counts outcomes and compares no numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOracle;

impl Oracle for NoOracle {
    fn lookup(&mut self, _model_id: &str) -> Lookup {
        Lookup::NotAsked
    }

    fn infer(&mut self, model_id: &str, _input: &[f32]) -> Result<Vec<f32>, String> {
        Err(format!("nothing is known of model {model_id}: run the audit with `infer` off"))
    }
}

/// Why there is no oracle.
#[derive(Debug, thiserror::Error)]
#[error("the audit has nothing to run models with: {0}")]
pub struct OracleError(#[from] ModelError);

/// Runs model files through ONNX Runtime, one row at a time.
pub struct OrtOracle {
    environment: Environment,
    files: BTreeMap<String, ModelFile>,
    /// Each file once it has been asked for: the model, or why it can't be served.
    models: BTreeMap<String, Result<Loaded, String>>,
}

impl OrtOracle {
    /// An oracle for these files. `library` is ONNX Runtime's shared library, the same as the engine's if that is in this process.
    ///
    /// # Errors
    ///
    /// If the library can't be loaded, or the process has loaded another.
    pub fn new(library: &Path, files: impl IntoIterator<Item = ModelFile>) -> Result<Self, OracleError> {
        // A process has room for one environment: this is all that oracle and engine share.
        let environment = onnx::environment(Some(library))?;
        let files = files.into_iter().map(|file| (file.id.clone(), file)).collect();
        Ok(Self { environment, files, models: BTreeMap::new() })
    }

    /// Adds a model that was found and can't be served, and why.
    pub fn add_unavailable(&mut self, model_id: &str, reason: &str) {
        self.models.insert(model_id.to_owned(), Err(reason.to_owned()));
    }

    /// The model of this id, opened when it is first asked for; `None` if there is none.
    fn model(&mut self, model_id: &str) -> Option<&mut Result<Loaded, String>> {
        if !self.models.contains_key(model_id) {
            let loaded = Loaded::open(&self.environment, self.files.get(model_id)?);
            self.models.insert(model_id.to_owned(), loaded);
        }
        self.models.get_mut(model_id)
    }
}

impl Oracle for OrtOracle {
    fn lookup(&mut self, model_id: &str) -> Lookup {
        match self.model(model_id) {
            None => Lookup::NoSuchModel,
            Some(Err(reason)) => Lookup::Unavailable(reason.clone()),
            Some(Ok(model)) => Lookup::Serves { inputs: model.inputs().clone() },
        }
    }

    fn infer(&mut self, model_id: &str, input: &[f32]) -> Result<Vec<f32>, String> {
        match self.model(model_id) {
            None => Err("there is no such model".to_owned()),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(model)) => model.run_floats(input),
        }
    }

    fn infer_tensors(&mut self, model_id: &str, tensors: &[Tensor]) -> Result<Vec<f64>, String> {
        match self.model(model_id) {
            None => Err("there is no such model".to_owned()),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(model)) => model.run(tensors),
        }
    }
}
