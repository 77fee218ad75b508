//! Why a point could not be measured.

use std::io;
use std::time::Duration;

use operators::broker::BrokerError;
use operators::model::{ModelError, RunError};
use rdkafka::error::KafkaError;

use crate::config::Faults;
use crate::load::LoadError;

/// Why a point could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A topic of a measurement stays in the broker, though its user did not ask for that.
    #[error("topic {topic} of the measurement can't be deleted: {source}; --keep-topics leaves topics alone")]
    Leftover {
        /// Which.
        topic: String,
        /// Why.
        source: BrokerError,
    },
    /// A client of the experiment failed.
    #[error("a client of the experiment failed: {0}")]
    Client(#[from] KafkaError),
    /// A setting can't be used.
    #[error("the configuration can't be used: {}", faults(.0))]
    Config(Faults),
    /// There is no such load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model can't be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A run of the model failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine did not do something.
    #[error("could not {what}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something took too long.
    #[error("{what} took longer than {limit:?}")]
    Late {
        /// What.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The system ended.
    #[error("the system ended by itself: {0}")]
    Ended(std::process::ExitStatus),
    /// Anything else.
    #[error("{0}")]
    Unexpected(String),
}

fn faults(faults: &Faults) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Failure {
    /// What the machine did not do, and why not.
    pub fn io(what: &'static str, source: io::Error) -> Self {
        Self::Io { what, source }
    }
}
