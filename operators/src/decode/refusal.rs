//! Why a record is no row.

use std::borrow::Cow;

use crate::dead_letter::{Reason, Stage};

/// Why a record is no row.
pub(super) struct Refusal<'a> {
    pub(super) reason: Reason,
    pub(super) stage: Stage,
    pub(super) message: Cow<'a, str>,
    pub(super) tenant: Option<String>,
}

impl Refusal<'static> {
    /// What can be told without a look at the body.
    pub(super) fn decode(reason: Reason, message: &'static str) -> Self {
        Self { reason, stage: Stage::Decode, message: Cow::Borrowed(message), tenant: None }
    }

    /// The body is not what its form says.
    pub(super) fn undecodable(message: String, tenant: Option<String>) -> Self {
        Self { message: Cow::Owned(message), tenant, ..Self::decode(Reason::Undecodable, "") }
    }

    /// The body names another model than the header.
    pub(super) fn mismatch(body: &str, tenant: String) -> Self {
        let message = Cow::Owned(format!("the body's `model_id` is {body:?}, and the header's is another"));
        Self { message, tenant: Some(tenant), ..Self::decode(Reason::ModelIdMismatch, "") }
    }

    /// The body is in order, and the model does not take it.
    pub(super) fn route(reason: Reason, message: String, tenant: String) -> Self {
        Self { reason, stage: Stage::Route, message: Cow::Owned(message), tenant: Some(tenant) }
    }
}
