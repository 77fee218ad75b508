//! Why a point could not be measured.

use std::io;
use std::time::Duration;

use operators::broker::BrokerError;
use operators::model::{ModelError, RunError};
use rdkafka::error::KafkaError;
use tidemill::config::Faults;
use tidemill::load::LoadError;

/// Why a point could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("a client of the bench failed: {0}")]
    Client(#[from] KafkaError),
    #[error("the configuration can't be used: {0:?}")]
    Config(Faults),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("could not {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("{what} took longer than {limit:?}")]
    Late { what: &'static str, limit: Duration },
    #[error("the engine ended by itself: {0}")]
    Ended(std::process::ExitStatus),
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    pub(crate) fn io(what: &'static str, source: io::Error) -> Self {
        Self::Io { what, source }
    }
}
