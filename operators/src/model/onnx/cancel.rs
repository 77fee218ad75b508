//! The options of a model's runs, through which another thread can end one. The only `unsafe` of the models.

#![allow(
    unsafe_code,
    reason = "the bindings are more careful with these options than they need be; the block says why it is sound"
)]

use ort::session::{HasSelectedOutputs, RunOptions};

use crate::model::Cancel;

/// Options that the thread which runs the model shares with whoever cancels it.
pub(super) struct SharedOptions(RunOptions<HasSelectedOutputs>);

// SAFETY: the bindings keep these options to one thread because they may hold outputs that were allocated before and that two runs
// would write to at once. These hold none: they are made in `OnnxModel::new`, which allocates none, and are never changed. A session
// runs with them on one thread only. What another thread does with them is to set the flag that the library reads between two nodes:
// that flag is there to be set by other threads.
unsafe impl Sync for SharedOptions {}

impl SharedOptions {
    pub(super) fn new(options: RunOptions<HasSelectedOutputs>) -> Self {
        Self(options)
    }

    pub(super) fn get(&self) -> &RunOptions<HasSelectedOutputs> {
        &self.0
    }
}

impl Cancel for SharedOptions {
    fn cancel(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::debug!(%error, "a run could not be cancelled");
        }
    }
}
