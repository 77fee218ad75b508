//! Requests as a careful user of `serde_json` would read them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

/// A request by `serde`: its text borrowed where it can be.
#[derive(Deserialize)]
#[expect(
    dead_code,
    clippy::struct_field_names,
    reason = "the names are the interface's; what is decoded is not looked at"
)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow)]
    model_id: Cow<'a, str>,
    pub(crate) input: Vec<f32>,
    metadata: Option<BTreeMap<String, String>>,
    enqueued_at: Option<jiff::Timestamp>,
}
