//! Health: whether the process is ready for work, and if not, why; and whether it is beyond help.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The health of a process, shared by everything that has a say in it.
///
/// It is *ready* while no condition stands against it, and *live* until a fault is recorded, which is never taken back.
///
/// # Examples
///
/// ```
/// use operators::health::Health;
///
/// let health = Health::new();
/// health.set_unready("broker", "no answer for 12 s");
/// assert_eq!(health.reasons(), [("broker".to_owned(), "no answer for 12 s".to_owned())]);
/// health.clear("broker");
/// assert!(health.is_ready() && health.is_live());
/// ```
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    unready: BTreeMap<String, String>,
    fault: Option<String>,
}

impl Health {
    /// Ready, and live.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts up the condition `name`, or changes its reason. Use few names, each for one thing that can be the matter.
    pub fn set_unready(&self, name: &str, reason: impl Into<String>) {
        self.with(|state| state.unready.insert(name.to_owned(), reason.into()));
    }

    /// Takes the condition `name` down, if it stands.
    pub fn clear(&self, name: &str) {
        self.with(|state| state.unready.remove(name));
    }

    /// Whether no condition stands and no fault is recorded.
    pub fn is_ready(&self) -> bool {
        self.with(|state| state.unready.is_empty() && state.fault.is_none())
    }

    /// Every condition that stands with its reason, sorted by name; a fault is the condition `fault`.
    pub fn reasons(&self) -> Vec<(String, String)> {
        self.with(|state| {
            let fault = state.fault.iter().map(|reason| ("fault".to_owned(), reason.clone()));
            fault.chain(state.unready.iter().map(|(name, reason)| (name.clone(), reason.clone()))).collect()
        })
    }

    /// Records that the process is beyond help and has to be started again. The first reason stays.
    pub fn record_fault(&self, reason: impl Into<String>) {
        self.with(|state| {
            state.fault.get_or_insert_with(|| reason.into());
        });
    }

    /// Whether no fault is recorded.
    pub fn is_live(&self) -> bool {
        self.with(|state| state.fault.is_none())
    }

    /// Health has to be told also after a thread panicked while it told something.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_only_when_the_last_condition_is_gone() {
        let health = Health::new();
        health.set_unready("models", "loading");
        health.set_unready("broker", "no answer");
        health.set_unready("broker", "still no answer");
        health.clear("models");
        health.clear("never stood");
        assert!(!health.is_ready());
        assert_eq!(health.reasons(), [("broker".to_owned(), "still no answer".to_owned())]);
        health.clear("broker");
        assert!(health.is_ready());
    }

    #[test]
    fn a_fault_is_never_taken_back() {
        let health = Health::new();
        health.record_fault("an outcome is missing");
        health.record_fault("a consequence");
        health.clear("fault");
        assert!(!health.is_live() && !health.is_ready());
        assert_eq!(health.reasons(), [("fault".to_owned(), "an outcome is missing".to_owned())]);
    }
}
