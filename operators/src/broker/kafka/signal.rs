//! Wakes a thread that waits for something to do.
//!
//! The bindings' own polls wait too, but in whole milliseconds: the last fraction of one they spend polling without a pause, which
//! would be most of what an idle process costs.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Remembers that it was raised until somebody has waited for it.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Wakes who waits, or who waits next. Never blocks for longer than it takes to say so.
    pub(super) fn raise(&self) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Waits until the signal is raised, up to `wait`.
    pub(super) fn wait(&self, wait: Duration) {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut raised, _) = self
            .changed
            .wait_timeout_while(raised, wait, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_raised_before_the_wait_is_not_lost_and_counts_once() {
        let signal = Signal::default();
        signal.raise();
        signal.raise();
        signal.wait(Duration::MAX);
        signal.wait(Duration::ZERO);
        assert!(!*signal.raised.lock().unwrap());
    }
}
