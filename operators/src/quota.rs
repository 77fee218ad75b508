//! A quota: so many records a second, and some at once.
//!
//! A token bucket, kept as the one moment at which it will be full again: taking a token moves it on by what a token takes to come back.
//! So a bucket is a word, needs no timer, and one that is full is as good as none.

use std::time::Duration;

use crate::clock::Moment;

/// How many records may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Records a second, in the long run; at least one.
    pub rate: u32,
    /// Records at once, after a time without any; at least one.
    pub burst: u32,
}

impl Quota {
    /// How long a token takes to come back; never shorter than it should be.
    fn interval(self) -> Duration {
        Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(self.rate.max(1))))
    }
}

/// The tokens of one tenant; one is full at the start.
///
/// ```
/// use std::time::Duration;
/// use operators::clock::Moment;
/// use operators::quota::{Bucket, Quota};
///
/// let quota = Quota { rate: 10, burst: 2 };
/// let (mut bucket, now) = (Bucket::default(), Moment::START);
/// assert!(bucket.take(quota, now) && bucket.take(quota, now));
/// assert!(!bucket.take(quota, now), "it is empty");
/// let next = bucket.ready_at(quota);
/// assert_eq!(next, now.after(Duration::from_millis(100)));
/// assert!(bucket.take(quota, next));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Moment,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub fn take(&mut self, quota: Quota, now: Moment) -> bool {
        let there = self.ready_at(quota) <= now;
        if there {
            self.full_at = self.full_at.max(now).after(quota.interval());
        }
        there
    }

    /// When there is a token.
    pub fn ready_at(&self, quota: Quota) -> Moment {
        let others = quota.interval().saturating_mul(quota.burst.max(1) - 1);
        let others = u64::try_from(others.as_nanos()).unwrap_or(u64::MAX);
        Moment::from_nanos(self.full_at.nanos().saturating_sub(others))
    }

    /// Whether nothing is missing in it.
    pub fn is_full(&self, now: Moment) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However it is asked, in no time does it give more than the burst and what the rate gives, and who asks when it is ready is
        /// never sent away.
        #[test]
        fn it_never_gives_more_than_its_rate_and_burst(
            rate in 1_u32..2_000, burst in 1_u32..50,
            waits in prop::collection::vec(0_u64..5_000_000, 1..300),
        ) {
            let (quota, mut bucket, mut now) = (Quota { rate, burst }, Bucket::default(), Moment::START);
            let mut given: Vec<Moment> = Vec::new();
            for wait in waits {
                now = now.after(Duration::from_nanos(wait));
                let ready = bucket.ready_at(quota) <= now;
                prop_assert_eq!(bucket.take(quota, now), ready);
                given.extend(ready.then_some(now));
            }
            for (place, from) in given.iter().enumerate() {
                for (more, to) in given[place..].iter().enumerate() {
                    let gained = to.since(*from).as_nanos() * u128::from(rate) / 1_000_000_000;
                    prop_assert!(more as u128 <= u128::from(burst) + gained, "{} in {:?}", more + 1, to.since(*from));
                }
            }
            let later = now.after(Duration::from_mins(1));
            prop_assert!(bucket.is_full(later));
            for _ in 0..burst {
                prop_assert!(bucket.take(quota, later));
            }
            prop_assert!(!bucket.take(quota, later));
        }
    }
}
