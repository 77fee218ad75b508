//! Who a producer is to the broker.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::ProducerId;

use super::failure;
use crate::broker::{BrokerError, Class};

/// The broker's number for a producer, and how often it was handed out or a transaction ended: what an older epoch sends is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: i64,
    pub(super) epoch: i16,
    /// Whether its records are parts of transactions.
    pub(super) is_transactional: bool,
}

impl Identity {
    /// Who the broker says it is from now on.
    ///
    /// # Errors
    ///
    /// [`Class::Fatal`] if it says nobody.
    pub(super) fn renewed(
        self,
        operation: &'static str,
        id: ProducerId,
        epoch: i16,
    ) -> Result<Self, BrokerError> {
        if id.0 < 0 || epoch < 0 {
            let message = format!("the broker names no producer: {} in epoch {epoch}", id.0);
            return Err(failure::of(Class::Fatal, operation, Code::UnknownServerError, message));
        }
        Ok(Self { id: id.0, epoch, ..self })
    }

    /// Nobody yet.
    pub(super) fn none(is_transactional: bool) -> Self {
        Self { id: -1, epoch: -1, is_transactional }
    }
}
