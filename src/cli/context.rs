//! What every command has at hand.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use operators::broker::Broker;
use operators::clock::Clock;
use operators::model::{Backend, ModelFile};

use super::error::CliError;
use crate::config::{Config, Loaded, Sources};
use crate::logging;

/// What lies outside of the process, made from the configuration: real in the binary, simulated in tests.
pub trait Surroundings: Send + Sync {
    /// The broker. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If the configuration can't be used.
    fn broker(&self, config: &Config) -> Result<Arc<dyn Broker>, CliError>;

    /// What runs models.
    ///
    /// # Errors
    ///
    /// If it is absent.
    fn backend(&self, config: &Config) -> Result<Arc<dyn Backend>, CliError>;

    /// The models in the folder, sorted by id: a file, or why there is none that can be used.
    ///
    /// # Errors
    ///
    /// If the folder can't be read.
    fn models(&self, config: &Config) -> Result<Vec<Candidate>, CliError>;
}

/// What was found in the folder of models.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model's id, or, where it has none, the path.
    pub id: String,
    /// Its file, or what is wrong.
    pub file: Result<ModelFile, String>,
}

/// What every command has at hand.
pub struct Context {
    sources: Sources,
    surroundings: Arc<dyn Surroundings>,
    /// Whether results are written as JSON.
    pub json: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Context {
    /// A context.
    pub fn new(
        sources: Sources,
        json: bool,
        clock: Arc<dyn Clock>,
        surroundings: Arc<dyn Surroundings>,
    ) -> Self {
        Self { sources, surroundings, json, clock }
    }

    /// Reads the configuration, and starts to log as it says.
    ///
    /// # Errors
    ///
    /// If the configuration can't be used.
    pub fn load(&self) -> Result<Loaded, CliError> {
        let loaded = crate::config::load(&self.sources)?;
        logging::start(&loaded.config)?;
        Ok(loaded)
    }

    /// The configuration file that was named, and the settings of the command line: for a process that is to have the same.
    pub fn layers(&self) -> (Option<PathBuf>, Vec<String>) {
        (self.sources.file.clone(), self.sources.sets.clone())
    }

    /// What lies outside of the process.
    pub fn surroundings(&self) -> &dyn Surroundings {
        &*self.surroundings
    }

    /// Writes what was asked for to stdout.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn print(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
    }
}
