//! The models, run by the audit itself: one row at a time, on `ort` directly, without anything of the engine.

use std::collections::BTreeMap;
use std::path::Path;

use operators::model::{ModelError, ModelFile, onnx};
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{TensorElementType, TensorRef};

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
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is served.
    Serves {
        /// The shape of a row.
        row_shape: Vec<usize>,
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

/// An open model.
struct Loaded {
    session: Session,
    input: String,
    /// The shape of a batch of one row.
    shape: Vec<i64>,
    row_shape: Vec<usize>,
    output: String,
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
            Some(Ok(model)) => Lookup::Serves { row_shape: model.row_shape.clone() },
        }
    }

    fn infer(&mut self, model_id: &str, input: &[f32]) -> Result<Vec<f32>, String> {
        match self.model(model_id) {
            None => Err("there is no such model".to_owned()),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(model)) => model.run(input),
        }
    }
}

impl Loaded {
    fn open(environment: &Environment, file: &ModelFile) -> Result<Self, String> {
        let session = session(environment, &file.path).map_err(|error| error.to_string())?;
        let [input] = session.inputs() else {
            return Err(format!("it has {} inputs, and one is served", session.inputs().len()));
        };
        if input.dtype().tensor_type() != Some(TensorElementType::Float32) {
            return Err(format!("input {} is not of 32-bit floats", input.name()));
        }
        let shape = input.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        let Some((-1, row)) = shape.split_first() else {
            return Err(format!("the first axis of input {} is not dynamic", input.name()));
        };
        let row_shape = row.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<Vec<usize>>>();
        let row_shape = row_shape.ok_or_else(|| format!("input {} has two dynamic axes", input.name()))?;
        let output = match (&file.output, session.outputs()) {
            (Some(name), outputs) => outputs.iter().find(|output| output.name() == name),
            (None, [output]) => Some(output),
            (None, outputs) => return Err(format!("it has {} outputs, and none is named", outputs.len())),
        };
        let output = output.filter(|output| output.dtype().tensor_type() == Some(TensorElementType::Float32));
        let output = output.ok_or("it has no such output, or not of 32-bit floats")?.name().to_owned();
        let shape = std::iter::once(1).chain(row.iter().copied()).collect();
        Ok(Self { input: input.name().to_owned(), shape, row_shape, output, session })
    }

    fn run(&mut self, row: &[f32]) -> Result<Vec<f32>, String> {
        let tensor =
            TensorRef::from_array_view((self.shape.clone(), row)).map_err(|error| error.to_string())?;
        let inputs = vec![(self.input.as_str(), SessionInputValue::from(tensor))];
        let outputs = self.session.run(inputs).map_err(|error| error.to_string())?;
        let output =
            outputs.get(&self.output).ok_or_else(|| format!("there is no output {}", self.output))?;
        let (_, floats) = output.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
        Ok(floats.to_vec())
    }
}

/// A session with one thread, which sleeps when it has nothing to do.
fn session(environment: &Environment, path: &Path) -> Result<Session, ort::Error> {
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(path)
}
