//! Exit codes: what a supervisor learns from the end of the process.

use std::process::ExitCode;

use operators::broker::{BrokerError, Class};
use operators::model::ModelError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped cleanly.
    Done = 0,
    /// The thing asked for failed.
    Failed = 1,
    /// Unusable arguments or configuration.
    Unusable = 2,
    /// An objective will be missed.
    Capacity = 3,
    /// The broker was not reachable, or did not allow it, within the start-up bound.
    Unreachable = 10,
    /// Another process uses this transactional id.
    Fenced = 11,
    /// An outcome is missing: a defect of the engine.
    OutcomeMissing = 12,
    /// Committed offsets lie outside the log, and the policy is to stop.
    OffsetsOutOfRange = 13,
    /// The model store or an execution provider is required and absent.
    ModelsAbsent = 14,
}

/// Every one.
#[cfg(test)]
pub(super) const ALL: [Exit; 9] = [
    Exit::Done,
    Exit::Failed,
    Exit::Unusable,
    Exit::Capacity,
    Exit::Unreachable,
    Exit::Fenced,
    Exit::OutcomeMissing,
    Exit::OffsetsOutOfRange,
    Exit::ModelsAbsent,
];

impl Exit {
    /// The exit of this code; [`Exit::Failed`] if there is none.
    pub fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Unusable,
            3 => Self::Capacity,
            10 => Self::Unreachable,
            11 => Self::Fenced,
            12 => Self::OutcomeMissing,
            13 => Self::OffsetsOutOfRange,
            14 => Self::ModelsAbsent,
            _ => Self::Failed,
        }
    }

    /// How a command ends that a broker's error stopped.
    pub fn of_broker(error: &BrokerError) -> Self {
        match error.class {
            Class::Unreachable | Class::Refused => Self::Unreachable,
            Class::Fenced => Self::Fenced,
            Class::Retriable | Class::Abortable | Class::Fatal | Class::QueueFull | Class::TooLarge => {
                Self::Failed
            }
        }
    }

    /// How a command ends that can't do without a model.
    pub fn of_model(error: &ModelError) -> Self {
        match error {
            ModelError::Runtime(_) | ModelError::Provider { .. } | ModelError::Store { .. } => {
                Self::ModelsAbsent
            }
            ModelError::Load { .. } | ModelError::Unsupported { .. } => Self::Failed,
        }
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit as Self
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(u8::from(exit))
    }
}
