//! Errors of commands: each with its exit code and what to do, shown to people by miette and to programs as one JSON object.

use std::fmt;
use std::io::Write as _;

use miette::Diagnostic;
use operators::broker::{BrokerError, Class};
use operators::model::ModelError;

use super::exit::Exit;
use crate::config::{Fault, Faults};
use crate::http::HttpError;

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The broker could not do something.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A model, or what runs models, could not be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Metrics and health can't be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What was asked for could not be written to stdout.
    #[error("could not write to stdout: {0}")]
    Output(std::io::Error),
    /// Something else.
    #[error("{message}")]
    Failed {
        /// How the command ends.
        exit: Exit,
        /// What happened.
        message: String,
        /// What to do.
        help: Option<String>,
    },
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        Self::Config(fault.into())
    }
}

impl CliError {
    /// An error of a command of its own.
    pub fn failed(exit: Exit, message: impl Into<String>) -> Self {
        Self::Failed { exit, message: message.into(), help: None }
    }

    /// Says what to do about a [`CliError::Failed`]; the others know.
    #[must_use]
    pub fn with_help(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Failed { exit, message, .. } => Self::Failed { exit, message, help: Some(advice.into()) },
            other => other,
        }
    }

    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Http(_) => Exit::Unusable,
            Self::Broker(error) => Exit::of_broker(error),
            Self::Model(error) => Exit::of_model(error),
            Self::Output(_) => Exit::Failed,
            Self::Failed { exit, .. } => *exit,
        }
    }

    /// What to do.
    fn advice(&self) -> Option<&str> {
        match self {
            Self::Config(_) => Some("`tidemill check --explain` lists every key"),
            Self::Broker(error) => match error.class {
                Class::Unreachable => Some(
                    "is `kafka.bootstrap_servers` right, and the broker up? `kafka.start_timeout` bounds the wait",
                ),
                Class::Refused => {
                    Some("do name, access and configuration fit? `tidemill check` shows what is in force")
                }
                Class::Fenced => Some(
                    "another process has this `kafka.group` and `kafka.instance`: stop it, or set `kafka.instance` to a name of its own",
                ),
                _ => None,
            },
            Self::Model(ModelError::Runtime(_)) => {
                Some("set `onnx.library`, or ORT_DYLIB_PATH, to the path of libonnxruntime")
            }
            Self::Model(ModelError::Store { .. }) => Some("set `models.path` to the folder of models"),
            Self::Model(ModelError::Provider { .. }) => {
                Some("set `onnx.require_gpu=false` to go on with the CPU")
            }
            Self::Model(_) | Self::Output(_) => None,
            Self::Http(_) => Some("set `http.address` to a free address, or to \"off\""),
            Self::Failed { help, .. } => help.as_deref(),
        }
    }

    /// The faults of a configuration, if it is these.
    fn faults(&self) -> impl Iterator<Item = &Fault> {
        let faults = if let Self::Config(faults) = self { Some(faults) } else { None };
        faults.into_iter().flat_map(Faults::iter)
    }
}

impl Diagnostic for CliError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.advice().map(|advice| Box::new(advice) as Box<dyn fmt::Display>)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let is_config = matches!(self, Self::Config(_));
        is_config.then(|| {
            Box::new(self.faults().map(|fault| fault as &dyn Diagnostic)) as Box<dyn Iterator<Item = _>>
        })
    }
}

/// Tells of an error on stderr, and how the command ends. A reader that has gone away is no error.
pub(super) fn report(error: CliError, json: bool) -> Exit {
    if let CliError::Output(cause) = &error
        && cause.kind() == std::io::ErrorKind::BrokenPipe
    {
        return Exit::Done;
    }
    let exit = error.exit();
    let text = if json { as_json(&error) + "\n" } else { format!("{:?}", miette::Report::new(error)) };
    // Nobody is left to tell, if even this can't be written.
    match std::io::stderr().write_all(text.as_bytes()) {
        Ok(()) | Err(_) => exit,
    }
}

/// The error as one object.
fn as_json(error: &CliError) -> String {
    let faults: Vec<_> = error
        .faults()
        .map(|fault| serde_json::json!({ "message": fault.message(), "help": fault.advice() }))
        .collect();
    let mut object = serde_json::json!({
        "code": u8::from(error.exit()),
        "message": error.to_string(),
        "help": error.advice(),
    });
    if !faults.is_empty() {
        object["faults"] = faults.into();
    }
    serde_json::json!({ "error": object }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_json_object() {
        let error = CliError::from(Fault::new("unknown key `x`").help("did you mean `y`?"));
        let object: serde_json::Value = serde_json::from_str(&as_json(&error)).unwrap();
        assert_eq!(object["error"]["code"], 2);
        assert_eq!(object["error"]["faults"][0]["message"], "unknown key `x`");
        assert_eq!(object["error"]["faults"][0]["help"], "did you mean `y`?");
    }

    #[test]
    fn a_broker_that_does_not_answer_has_a_code_of_its_own() {
        let broken = |class| {
            CliError::from(BrokerError {
                class,
                operation: "list topics",
                code: String::new(),
                message: String::new(),
            })
        };
        assert_eq!(broken(Class::Unreachable).exit(), Exit::Unreachable);
        assert_eq!(broken(Class::Fenced).exit(), Exit::Fenced);
        assert_eq!(broken(Class::Fatal).exit(), Exit::Failed);
    }
}
