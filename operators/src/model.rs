//! A model, as the engine sees it: rows of tensors in, rows of tensors out.
//!
//! [`onnx`] runs real models through ONNX Runtime; [`simulated`] computes a fixed function with a settable cost and settable faults;
//! a [`PacedBackend`] makes models of either take their time;
//! [`store`] finds model files in a folder, and [`load`] makes the catalog of them. What a model takes and gives is its [`signature`].

mod buckets;
pub mod load;
pub mod onnx;
mod paced;
pub mod signature;
pub mod simulated;
pub mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::tensor::{Column, Values};

pub use buckets::Buckets;
pub use paced::{Pace, PacedBackend, linear_pace};
pub use signature::{Signature, TensorSpec};

/// A model file that was found and hashed.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// The model's id: 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
    pub id: String,
    /// The folder's name where there is one for the version, else empty: for people.
    pub label: String,
    /// The first 16 hex digits of the file's BLAKE3: what results and dead letters name.
    pub version: String,
    /// Where the file is.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// Which output to serve alone.
    pub output: Option<String>,
    /// What the configuration says of its inputs, by their names.
    pub inputs: BTreeMap<String, InputOptions>,
}

/// What the configuration says of an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputOptions {
    /// Which of its axes is the batch's, or that none is.
    pub batch_axis: Option<Option<usize>>,
    /// The axes of every row, where the file leaves some of them open.
    pub shape: Option<Vec<usize>>,
    /// The axes of a row that runs, where rows may have others too.
    pub sample: Option<Vec<usize>>,
    /// What each of its numbers is, so that no request has to say it.
    pub value: Option<f64>,
}

/// Opens models; one a process.
pub trait Backend: Send + Sync {
    /// Opens `file` for one executor thread, and runs it once to see that it works.
    ///
    /// # Errors
    ///
    /// If the file is not a model that can be served, and why.
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError>;

    /// Opens `file` for an executor thread of one of several devices, counted from 0. A backend that knows one device only has that open it.
    ///
    /// # Errors
    ///
    /// As [`Backend::open`].
    fn open_on(&self, file: &ModelFile, device: usize) -> Result<Box<dyn Model>, ModelError> {
        let _ = device;
        self.open(file)
    }

    /// What runs the models, its version included: for people.
    fn name(&self) -> String;
}

/// A model opened for one executor thread.
pub trait Model: Send {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Runs `rows` rows at once. `inputs` holds a column for each input of the signature, in its order, of `rows` rows, or of one where the
    /// input is not batched; `outputs` becomes a column for each output, of `rows` rows in the same order. What it held before is
    /// overwritten, its room used again.
    ///
    /// # Errors
    ///
    /// If the run failed. Which row is to blame, or whether the device is, the caller finds out by running fewer.
    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError>;

    /// What ends a run of this model from another thread, if anything does.
    fn cancel(&self) -> Option<Arc<dyn Cancel>> {
        None
    }
}

impl dyn Model + '_ {
    /// Runs rows of floats, one after the other, of a model that takes and gives nothing else: for whoever has no columns.
    ///
    /// # Errors
    ///
    /// If the run failed.
    ///
    /// # Panics
    ///
    /// If its inputs are others.
    pub fn run_floats(&mut self, rows: usize, floats: &[f32]) -> Result<Vec<f32>, RunError> {
        let mut input = self.signature().zeros(0).remove(0);
        input.values = Values::F32(floats.to_vec());
        let mut outputs = Vec::new();
        self.run(rows, &[input], &mut outputs)?;
        Ok(outputs[0].floats().to_vec())
    }
}

/// Ends a run that is under way: it returns soon, with an error. If none is under way, the next one is not affected.
pub trait Cancel: Send + Sync {
    /// Ends it. Does not wait for that.
    fn cancel(&self);
}

/// A run of a model that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The library that runs models is absent, or of the wrong version.
    #[error("could not load ONNX Runtime: {0}")]
    Runtime(String),
    /// An execution provider that the configuration requires did not take effect.
    #[error("execution provider {provider} is required and did not take effect: {reason}")]
    Provider {
        /// The provider.
        provider: String,
        /// Why not.
        reason: String,
    },
    /// The file could not be read, or is not a model.
    #[error("could not load {path}: {reason}")]
    Load {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The model takes or gives what the engine cannot serve.
    #[error("model {id} can't be served: {reason}")]
    Unsupported {
        /// The model's id.
        id: String,
        /// What it has that can't be served.
        reason: String,
    },
    /// The folder of models could not be read.
    #[error("could not read the model folder {path}: {reason}")]
    Store {
        /// The folder.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// Whether `id` is one that a model may have. Such a name is also safe as a file name.
pub fn is_model_id(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&id.len()) && id[0] != b'.' && id.iter().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_model_id_leads_out_of_the_store() {
        for bad in ["", ".", "..", ".hidden", "a/b", "..\\b", "a\0b", "mödel", "a b", &"x".repeat(129)] {
            assert!(!is_model_id(bad.as_bytes()), "{bad:?}");
        }
        for good in ["a", "mlp-16", "A.b_C-9", &"x".repeat(128)] {
            assert!(is_model_id(good.as_bytes()), "{good:?}");
        }
    }
}
