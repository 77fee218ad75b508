//! A call that may ignore its bound, on a thread of its own, so that nobody waits for it for longer.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What `call` returns, or `None` if it has not returned by then. Its thread stays with it until it does: what the call works with
/// must be its own.
pub(super) fn within<T: Send + 'static>(
    wait: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (tell, told) = mpsc::sync_channel(1);
    thread::Builder::new().name("kafka call".to_owned()).spawn(move || {
        // Nobody listens any more to one that comes too late.
        drop(tell.send(call()));
    })?;
    Ok(told.recv_timeout(wait).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_returns_is_told_and_one_that_does_not_is_left_alone() {
        assert_eq!(within(Duration::from_mins(1), || 7).unwrap(), Some(7));
        let (end, ended) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(20), move || ended.recv().is_ok()).unwrap(), None);
        drop(end);
    }
}
