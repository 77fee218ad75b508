//! Waiting, always with a bound.

use std::time::Duration;

use operators::clock::{Clock, Moment, SystemClock};

/// How long a test waits for something that takes a moment on an idle machine. Wide, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Asks `look` again and again until it has an answer.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let waited = clock.now().since(Moment::START);
        assert!(waited < PATIENCE, "gave up waiting for {what} after {waited:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
