//! The watch over one executor: which run of a model is under way, since when, and what is done about one that does not return.
//!
//! A run that takes longer than it may is *cancelled*; if it does not return within a grace after that, its executor is *given up*, and
//! nobody waits for what it says. The executor and whoever looks decide under one lock, so that a run has either returned or been given
//! up, whatever happens at the same moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::model::Cancel;

/// The watch over one executor. Shared by its thread and by whoever looks after it.
#[derive(Default)]
pub struct Watch {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Option<Run>,
    given_up: bool,
}

/// A run under way that has a bound.
struct Run {
    what: Running,
    since: Moment,
    max: Duration,
    cancel: Option<Arc<dyn Cancel>>,
    cancelled: bool,
}

/// What an executor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// Rows of the batch that has this id.
    Rows(u64),
    /// A row that is known to be good, on behalf of this batch.
    GoodRow(u64),
}

impl Running {
    /// The id of the batch.
    pub fn batch(self) -> u64 {
        match self {
            Self::Rows(id) | Self::GoodRow(id) => id,
        }
    }
}

/// How a run ended, as its executor learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    InTime,
    /// After it was cancelled.
    Cancelled,
    /// After its executor was given up: nobody waits for the batch any more.
    GivenUp,
}

/// What was done about a run that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was cancelled, and may still return.
    Cancelled(Running),
    /// Its executor was given up.
    GivenUp(Running),
}

impl Watch {
    /// A run begins, on the executor's thread. Without a bound it is not watched.
    pub fn begin(&self, what: Running, now: Moment, max: Option<Duration>, cancel: Option<Arc<dyn Cancel>>) {
        let run = max.map(|max| Run { what, since: now, max, cancel, cancelled: false });
        self.state().run = run;
    }

    /// The run has returned, on the executor's thread.
    pub fn end(&self) -> Ended {
        let mut state = self.state();
        let run = state.run.take();
        match (state.given_up, run) {
            (true, _) => Ended::GivenUp,
            (false, Some(run)) if run.cancelled => Ended::Cancelled,
            (false, _) => Ended::InTime,
        }
    }

    /// When [`Watch::look`] will have something to do about the run under way.
    pub fn due(&self, grace: Duration) -> Moment {
        let state = self.state();
        let Some(run) = state.run.as_ref().filter(|_| !state.given_up) else { return Moment::NEVER };
        run.since.after(if run.cancelled { run.max + grace } else { run.max })
    }

    /// Does what is to be done about the run under way. An executor is given up once, and never watched again.
    pub fn look(&self, now: Moment, grace: Duration) -> Option<Done> {
        let mut state = self.state();
        if state.given_up {
            return None;
        }
        let run = state.run.as_mut()?;
        if !run.cancelled && now.since(run.since) >= run.max {
            run.cancelled = true;
            if let Some(cancel) = &run.cancel {
                cancel.cancel();
            }
            return Some(Done::Cancelled(run.what));
        }
        if run.cancelled && now.since(run.since) >= run.max + grace {
            let what = run.what;
            state.given_up = true;
            return Some(Done::GivenUp(what));
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_millis(100);

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Cancel for Count {
        fn cancel(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn millis(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    #[test]
    fn a_run_is_cancelled_once_and_given_up_once_each_after_its_time() {
        let (watch, count) = (Watch::default(), Arc::new(Count::default()));
        let what = Running::Rows(7);
        watch.begin(what, millis(5), Some(MAX), Some(Arc::clone(&count) as Arc<_>));
        let looks = [104, 105, 105, 114, 115, 900].map(|at| watch.look(millis(at), GRACE));
        let (cancelled, given_up) = (Some(Done::Cancelled(what)), Some(Done::GivenUp(what)));
        assert_eq!(looks, [None, cancelled, None, None, given_up, None]);
        assert_eq!((count.0.load(Ordering::SeqCst), watch.end()), (1, Ended::GivenUp));
    }

    #[test]
    fn a_run_that_returns_when_it_is_cancelled_is_told_so_and_the_next_one_has_all_its_time() {
        let watch = Watch::default();
        watch.begin(Running::Rows(1), millis(0), Some(MAX), None);
        assert!(watch.look(millis(101), GRACE).is_some());
        assert_eq!(watch.end(), Ended::Cancelled);
        watch.begin(Running::GoodRow(1), millis(105), Some(MAX), None);
        assert_eq!(watch.look(millis(204), GRACE), None);
        assert_eq!(watch.end(), Ended::InTime);
    }

    #[test]
    fn a_run_without_a_bound_may_take_for_ever() {
        let watch = Watch::default();
        watch.begin(Running::Rows(1), millis(0), None, None);
        assert_eq!((watch.look(Moment::NEVER, GRACE), watch.end()), (None, Ended::InTime));
    }

    proptest! {
        /// Whenever it is looked at, and whenever a run returns: it has returned, or its executor is given up, and never both.
        #[test]
        fn a_run_has_returned_or_is_given_up(looks in prop::collection::vec(0_u64..300, 0..12), returns in 0_u64..300) {
            let watch = Watch::default();
            watch.begin(Running::Rows(1), millis(0), Some(MAX), None);
            let (mut looks, mut given_up) = (looks, false);
            looks.sort_unstable();
            for at in looks.into_iter().filter(|at| *at < returns) {
                let due = watch.due(GRACE) <= millis(at);
                let done = watch.look(millis(at), GRACE);
                prop_assert_eq!(done.is_some(), due, "it is due exactly when there is something to do");
                given_up |= matches!(done, Some(Done::GivenUp(_)));
            }
            prop_assert_eq!(watch.end() == Ended::GivenUp, given_up);
            prop_assert!(!given_up || returns > 110);
        }
    }
}
