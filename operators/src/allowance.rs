//! What tenants may ask for: the tokens of each and its places in inference, for all workers of a process.
//!
//! Accounts are shared, because the rows of a tenant come to the devices of several workers. Each worker's [gate](crate::gate) asks here,
//! and only for tenants that have bounds.
//!
//! Ids are what strangers send. A tenant is remembered while a gate holds its account or something is missing in it; of those that have
//! no settings of their own there are at most [`TENANTS_MAX`], and all further ones stand in one account.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::quota::Bucket;
use crate::share::{Share, Shares, id_key};

/// How many tenants without settings of their own have accounts of their own.
pub const TENANTS_MAX: usize = 65_536;

/// Below so many nobody looks for tenants to forget.
const SWEEP_MIN: usize = 1_024;

/// How often a full table is searched for tenants to forget.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The accounts of a process.
#[derive(Debug, Default)]
pub struct Allowances {
    shares: Arc<Shares>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_id: BTreeMap<Box<[u8]>, Arc<Account>>,
    next_number: u64,
    /// At how many tenants some are forgotten, and when that was done last.
    sweep_at: usize,
    swept: Moment,
}

/// What one tenant may still ask for.
#[derive(Debug)]
pub struct Account {
    /// What tells it from every other of its process.
    pub number: u64,
    /// What it was opened for.
    pub share: Share,
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    bucket: Bucket,
    /// Places taken.
    in_flight: usize,
}

/// When an account may admit a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// At this moment, as far as it is known now.
    At(Moment),
    /// When one of the rows that have a place, so many, has its outcome.
    WithPlace(usize),
}

impl Allowances {
    /// Nobody has asked for anything yet.
    pub fn new(shares: Arc<Shares>) -> Self {
        Self { shares, accounts: Mutex::default() }
    }

    /// What was said of tenants and models.
    pub fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    /// The account of a tenant; `None` if it has no bounds.
    pub fn account(&self, id: &str, now: Moment) -> Option<Arc<Account>> {
        let share = self.shares.of(id);
        share.is_bounded().then(|| {
            let named = self.shares.tenants.contains_key(id);
            lock(&self.accounts).find(&id_key(id), share, named, now)
        })
    }

    /// How many accounts are open.
    #[cfg(test)]
    fn known(&self) -> usize {
        lock(&self.accounts).by_id.len()
    }
}

impl Accounts {
    fn find(&mut self, id: &[u8], share: Share, named: bool, now: Moment) -> Arc<Account> {
        if let Some(account) = self.by_id.get(id) {
            return Arc::clone(account);
        }
        let full = self.by_id.len() >= TENANTS_MAX;
        // A table that stays full is not searched again for each stranger.
        if self.by_id.len() >= self.sweep_at.max(SWEEP_MIN)
            && (!full || now.since(self.swept) >= SWEEP_INTERVAL)
        {
            self.by_id.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_whole(now));
            self.sweep_at = (2 * self.by_id.len()).min(TENANTS_MAX);
            self.swept = now;
        }
        // The account of the crowd has the empty id, which no tenant has.
        let crowded = self.by_id.len() >= TENANTS_MAX && !named;
        let id = if crowded { &[] } else { id };
        let next_number = &mut self.next_number;
        let account = self.by_id.entry(id.into()).or_insert_with(|| {
            *next_number += 1;
            Arc::new(Account { number: *next_number, share, left: Mutex::default() })
        });
        Arc::clone(account)
    }
}

impl Account {
    /// Takes a token and a place for each of so many rows, as far as there are some; returns for how many there were.
    pub fn admit(&self, rows: usize, now: Moment) -> usize {
        let mut left = lock(&self.left);
        let places =
            self.share.in_flight_max.map_or(rows, |max| rows.min(max.saturating_sub(left.in_flight)));
        let admitted = match self.share.quota {
            None => places,
            Some(quota) => (0..places).take_while(|_| left.bucket.take(quota, now)).count(),
        };
        if self.has_places() {
            left.in_flight += admitted;
        }
        admitted
    }

    /// Whether what it admits takes a place, which is to be given back with [`Account::leave`].
    pub fn has_places(&self) -> bool {
        self.share.in_flight_max.is_some()
    }

    /// A row that was admitted has its outcome.
    pub fn leave(&self) {
        lock(&self.left).in_flight -= 1;
    }

    /// When it may admit the next row.
    pub fn ready(&self) -> Ready {
        let left = lock(&self.left);
        if self.share.in_flight_max.is_some_and(|max| left.in_flight >= max) {
            return Ready::WithPlace(left.in_flight);
        }
        Ready::At(self.share.quota.map_or(Moment::START, |quota| left.bucket.ready_at(quota)))
    }

    /// Whether it is as if it had just been opened.
    fn is_whole(&self, now: Moment) -> bool {
        let left = lock(&self.left);
        left.in_flight == 0 && left.bucket.is_full(now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    fn at(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    fn allowances(default: Share, tenants: &[(&str, Share)]) -> Allowances {
        let tenants = tenants.iter().map(|(id, share)| ((*id).to_owned(), *share)).collect();
        Allowances::new(Arc::new(Shares { default, tenants, ..Shares::default() }))
    }

    fn rated(rate: u32, burst: u32) -> Share {
        Share { quota: Some(Quota { rate, burst }), ..Share::default() }
    }

    #[test]
    fn who_has_no_bounds_has_no_account() {
        let allowances = allowances(Share::default(), &[("a", rated(1, 1))]);
        assert!(allowances.account("b", at(0)).is_none());
        assert_eq!((allowances.known(), allowances.account("a", at(0)).is_some()), (0, true));
    }

    #[test]
    fn without_a_place_no_token_is_taken() {
        let share = Share { in_flight_max: Some(2), ..rated(10, 5) };
        let account = allowances(share, &[]).account("a", at(0)).unwrap();
        assert_eq!((account.admit(4, at(0)), account.ready()), (2, Ready::WithPlace(2)));
        account.leave();
        account.leave();
        assert_eq!((account.admit(9, at(0)), account.admit(1, at(0))), (2, 0));
        account.leave();
        account.leave();
        assert_eq!((account.admit(9, at(0)), account.ready()), (1, Ready::At(at(100))));
    }

    #[test]
    fn one_account_serves_every_gate_of_the_process() {
        let allowances = allowances(rated(1, 3), &[]);
        let [one, other] = [(); 2].map(|()| allowances.account("a", at(0)).unwrap());
        assert_eq!((one.admit(2, at(0)), other.admit(2, at(0)), one.number), (2, 1, other.number));
    }

    #[test]
    fn strangers_are_forgotten_once_nothing_of_theirs_is_missing() {
        let allowances = allowances(rated(1, 1), &[]);
        for round in 0..5_u64 {
            for id in 0..2_000 {
                let now = at(2_000 * round);
                let account = allowances.account(&format!("{round} {id}"), now).unwrap();
                assert_eq!(account.admit(1, now), 1);
            }
        }
        assert!(allowances.known() <= 2 * 2_000 + SWEEP_MIN, "{}", allowances.known());
    }

    #[test]
    fn beyond_the_bound_strangers_stand_in_one_account_and_those_with_settings_in_their_own() {
        let allowances = allowances(rated(1, 1), &[("named", rated(1, 9))]);
        let admits = |id: &str| allowances.account(id, at(0)).unwrap().admit(9, at(0));
        let passed: usize = (0..TENANTS_MAX + 100).map(|id| admits(&format!("stranger {id}"))).sum();
        assert_eq!((passed, allowances.known()), (TENANTS_MAX + 1, TENANTS_MAX + 1));
        assert_eq!((admits("named"), allowances.known()), (9, TENANTS_MAX + 2));
    }
}
