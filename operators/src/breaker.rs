//! The breaker: a bound on the dead letters of a minute for which no sender is to blame; over it the process takes no more records.
//!
//! A model that a new version has spoiled, or a machine too slow for its deadlines, would otherwise empty the topic into the dead-letter
//! topic, letter by well-formed letter. Only such letters count ([`counts`]): what senders write can't stop a process.
//!
//! The allowance is a bucket with a minute's worth of letters in it, filled up evenly over each minute. When it is empty the breaker
//! *holds*: sources poll nothing, no batch is submitted, no deadline ends a record, and the process is not ready, until a quarter of
//! the bucket is there again. What was under way goes on, and its letters are taken on credit, another minute's worth at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::observe::Observer;

/// The name of the condition that a holding breaker sets in the health of the process.
pub const TOO_MANY_LETTERS: &str = "dead_letters";

const MINUTE: Duration = Duration::from_mins(1);

/// A breaker that held goes on when the bucket needs no longer than this to be full: a quarter is there.
const EMPTY_ENOUGH: Duration = Duration::from_secs(45);

/// Whether a letter for this reason counts: it tells of a world that may be broken, not of a request that is.
///
/// `unknown_model` does not count, although a model that was not deployed causes it: anybody who can write a request can cause it too.
pub fn counts(reason: Reason) -> bool {
    matches!(reason, Reason::InferenceFailed | Reason::DeadlineExceeded | Reason::ModelUnavailable)
}

/// The bucket: so many letters a minute.
///
/// It is kept as the moment at which it will be full again; each letter moves that by its share of a minute.
#[derive(Clone, Debug)]
pub struct Allowance {
    share: Duration,
    full_at: Moment,
    holding: bool,
}

impl Allowance {
    /// A full bucket.
    ///
    /// # Panics
    ///
    /// If no letter is allowed: say that nothing counts instead.
    pub fn new(per_minute: u32) -> Self {
        assert!(per_minute > 0, "a bucket holds at least one letter");
        Self { share: MINUTE / per_minute, full_at: Moment::START, holding: false }
    }

    /// Takes a letter out.
    pub fn take(&mut self, now: Moment) {
        let latest = now.after(2 * MINUTE);
        self.full_at = self.full_at.max(now).after(self.share).min(latest);
        // What does not hold one more letter is empty.
        self.holding |= self.full_at.after(self.share) > now.after(MINUTE);
    }

    /// Until when nothing may be done that could cause a letter, if so.
    pub fn held_until(&mut self, now: Moment) -> Option<Moment> {
        let wait = self.full_at.since(now).saturating_sub(EMPTY_ENOUGH);
        self.holding &= !wait.is_zero();
        self.holding.then(|| now.after(wait))
    }
}

/// The breaker of a process, shared by whatever writes letters and whatever causes them.
pub struct Breaker {
    allowance: Option<Mutex<Allowance>>,
    /// Looked at before the lock is taken: it is as a rule false.
    holding: AtomicBool,
    health: Arc<Health>,
    observer: Arc<dyn Observer>,
}

impl Breaker {
    /// A breaker for so many letters a minute; without a bound it never holds.
    pub fn new(per_minute: Option<u32>, health: Arc<Health>, observer: Arc<dyn Observer>) -> Self {
        let allowance = per_minute.map(|per_minute| Mutex::new(Allowance::new(per_minute)));
        Self { allowance, holding: AtomicBool::new(false), health, observer }
    }

    /// Counts a letter.
    pub fn count(&self, reason: Reason, now: Moment) {
        let Some(allowance) = self.allowance.as_ref().filter(|_| counts(reason)) else { return };
        let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(now);
        if allowance.held_until(now).is_some() && !self.holding.swap(true, Ordering::SeqCst) {
            let reason = "more dead letters in a minute than `dead_letters.per_minute_max`: nothing is polled for a while";
            tracing::error!("too many dead letters; no record is taken for a while");
            self.health.set_unready(TOO_MANY_LETTERS, reason);
            self.observer.breaker(true);
        }
    }

    /// Until when nothing may be done that could cause a letter, if so.
    pub fn held_until(&self, now: Moment) -> Option<Moment> {
        if !self.holding.load(Ordering::SeqCst) {
            return None;
        }
        let mut allowance = self.allowance.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let until = allowance.held_until(now);
        if until.is_none() && self.holding.swap(false, Ordering::SeqCst) {
            tracing::info!("dead letters are within their bound again");
            self.health.clear(TOO_MANY_LETTERS);
            self.observer.breaker(false);
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::Silent;

    fn second(seconds: u64) -> Moment {
        Moment::START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_minutes_worth_at_once_is_allowed_and_holds_until_a_quarter_is_there_again() {
        let mut allowance = Allowance::new(60);
        for _ in 0..59 {
            allowance.take(second(100));
            assert_eq!(allowance.held_until(second(100)), None);
        }
        allowance.take(second(100));
        assert_eq!(allowance.held_until(second(100)), Some(second(115)));
        assert_eq!(allowance.held_until(second(114)), Some(second(115)));
        assert_eq!(allowance.held_until(second(115)), None);
        assert_eq!(allowance.held_until(second(115)), None);
    }

    #[test]
    fn letters_that_were_under_way_are_paid_for_later_and_never_for_more_than_a_minute_longer() {
        let mut allowance = Allowance::new(60);
        (0..70).for_each(|_| allowance.take(second(0)));
        assert_eq!(allowance.held_until(second(0)), Some(second(25)));
        (0..10_000).for_each(|_| allowance.take(second(0)));
        assert_eq!(allowance.held_until(second(0)), Some(second(75)));
    }

    #[test]
    fn only_letters_that_no_sender_can_cause_at_will_are_counted_and_readiness_says_so() {
        let health = Arc::new(Health::new());
        let breaker = Breaker::new(Some(2), Arc::clone(&health), Arc::new(Silent));
        for reason in [Reason::UnknownModel, Reason::Undecodable, Reason::WrongShape, Reason::NotFinite] {
            (0..100).for_each(|_| breaker.count(reason, second(0)));
        }
        breaker.count(Reason::InferenceFailed, second(0));
        assert!(health.is_ready() && breaker.held_until(second(0)).is_none());
        breaker.count(Reason::DeadlineExceeded, second(0));
        assert_eq!(health.reasons()[0].0, TOO_MANY_LETTERS);
        assert_eq!(breaker.held_until(second(1)), Some(second(15)));
        assert_eq!(breaker.held_until(second(15)), None);
        assert!(health.is_ready());
    }

    #[test]
    fn without_a_bound_nothing_is_held() {
        let breaker = Breaker::new(None, Arc::default(), Arc::new(Silent));
        (0..100_000).for_each(|_| breaker.count(Reason::InferenceFailed, second(0)));
        assert_eq!(breaker.held_until(second(0)), None);
    }

    proptest! {
        /// Whenever something that causes a letter is tried, and nothing is tried while it is held: over any span of time there are no
        /// more letters than a bucket and what was filled in since.
        #[test]
        fn no_span_of_time_has_more_letters_than_a_bucket_and_what_was_filled_in(
            per_minute in 1_u32..200,
            tries in prop::collection::vec(0_u64..4_000, 1..400),
        ) {
            let mut allowance = Allowance::new(per_minute);
            let (mut now, mut letters) = (Moment::START, Vec::new());
            for wait in tries {
                now = now.after(Duration::from_millis(wait));
                if allowance.held_until(now).is_none() {
                    allowance.take(now);
                    letters.push(now);
                }
            }
            for (first, from) in letters.iter().enumerate() {
                for (count, to) in (1_u128..).zip(&letters[first..]) {
                    let filled = to.since(*from).as_nanos() * u128::from(per_minute) / MINUTE.as_nanos();
                    // One more, because a minute need not divide into equal shares.
                    prop_assert!(count <= u128::from(per_minute) + filled + 1);
                }
            }
        }

        /// However long it was held, it comes to its end.
        #[test]
        fn it_holds_for_a_bounded_time(per_minute in 1_u32..10_000, letters in 1_usize..20_000) {
            let mut allowance = Allowance::new(per_minute);
            (0..letters).for_each(|_| allowance.take(second(7)));
            prop_assert_eq!(allowance.held_until(second(7 + 75)), None);
        }
    }
}
