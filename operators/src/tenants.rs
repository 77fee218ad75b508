//! Whose turn it is among the tenants that wait for one model: weighted deficit round robin, by priorities, in time.
//!
//! Each tenant has an account in nanoseconds of the device. A round visits the tenants that wait one after the other, and pays into each
//! account half of what a row costs, times the weight of the tenant; a tenant takes rows for as long as there is something in its account
//! (Shreedhar and Varghese, *Efficient Fair Queueing using Deficit Round Robin*, SIGCOMM 1995, in the variant that lets the last row
//! overdraw the account, because what a row costs is not known before). So a batch is shared by as many tenants as it has rows, and a
//! tenant with few rows is never further than two rounds from a batch.
//!
//! What a row costs is known only when its batch has run. It is charged at the *price* of the day, and set right by the [`Bill`]: each
//! tenant pays the part of the batch's time that it has of the batch's rows. A tenant whose rows turn out dear is so long passed over.
//!
//! A tenant that waits for nothing saves nothing up, and one that waits alone pays nothing: accounts only mean something between tenants
//! that wait at the same time. Tenants of a higher priority come first as long as one of them waits.
//!
//! Ids are what strangers send: they are kept only while rows of theirs wait or run, and a few more, so that in a steady state nothing is
//! allocated. A long one is kept as its hash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::share::{Shares, id_key};

/// The place of a tenant in the accounts, while it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantId(u32);

impl TenantId {
    /// The tenant at an index.
    pub fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 rows wait"))
    }

    /// The place as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many bytes of ids are kept of tenants that have nothing waiting or running.
const IDLE_BYTES_MAX: usize = 16 << 10;

/// What a known tenant takes besides its id.
const ACCOUNT_BYTES: usize = 128;

/// For how many tenants a bill has room at once, at most.
const BILL_ROOM: usize = 64;

/// The accounts of the tenants that wait for one model.
#[derive(Debug)]
pub struct Tenants {
    shares: Arc<Shares>,
    ids: BTreeMap<Box<[u8]>, TenantId>,
    accounts: Vec<Account>,
    free: Vec<TenantId>,
    /// Tenants that had nothing any more when they were put here.
    idle: Vec<TenantId>,
    idle_bytes: usize,
    /// By priority.
    tiers: BTreeMap<u8, Tier>,
}

#[derive(Debug, Default)]
struct Account {
    id: Box<[u8]>,
    weight: i64,
    priority: u8,
    /// What it may still take in this round; below zero while it has had more than it has paid for.
    nanos: i64,
    /// The round in which it was paid last.
    round: u64,
    waiting: usize,
    /// Its rows on bills that are not settled.
    billed: usize,
    in_ring: bool,
}

/// The tenants of one priority.
#[derive(Debug, Default)]
struct Tier {
    /// Those that wait, the next first; and some that don't wait any more.
    ring: VecDeque<TenantId>,
    round: u64,
    /// What this round pays for a weight of one.
    quantum: i64,
    /// Whether anybody took a row in this round.
    served: bool,
    /// Whether the first in the ring has begun its visit: a batch had no room for all that it could pay for.
    visiting: bool,
    /// Whether it was seen in this round that what everybody has is not too much.
    evened: bool,
    /// How many in the ring don't wait.
    gone: usize,
}

/// The rows that a tenant is to take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The tenant.
    pub tenant: TenantId,
    /// How many of its rows, at least one.
    pub rows: usize,
    /// Whether it was charged for them.
    pub charged: bool,
}

/// Who was charged for the rows of a batch. It goes back to [`Tenants::settle`].
#[derive(Debug)]
#[must_use = "who is on a bill is not forgotten until it is settled"]
pub struct Bill {
    price: i64,
    rows: usize,
    /// For how many tenants there is room as soon as one is charged.
    room: usize,
    charged: Vec<(TenantId, usize)>,
}

impl Bill {
    /// A bill of a batch of so many rows at most, which are charged at this price.
    pub fn new(price: Duration, rows: usize) -> Self {
        Self { price: nanos(price).max(1), rows: 0, room: rows.min(BILL_ROOM), charged: Vec::new() }
    }

    /// Whether nobody was charged.
    pub fn is_empty(&self) -> bool {
        self.charged.is_empty()
    }

    fn add(&mut self, turn: Turn) {
        self.rows += turn.rows;
        match self.charged.last_mut() {
            _ if !turn.charged => {}
            Some((tenant, rows)) if *tenant == turn.tenant => *rows += turn.rows,
            last => {
                if last.is_none() {
                    // Not before: whoever waits alone is not charged.
                    self.charged.reserve(self.room);
                }
                self.charged.push((turn.tenant, turn.rows));
            }
        }
    }
}

impl Tenants {
    /// Nobody waits yet.
    pub fn new(shares: Arc<Shares>) -> Self {
        Self {
            shares,
            ids: BTreeMap::new(),
            accounts: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            idle_bytes: 0,
            tiers: BTreeMap::new(),
        }
    }

    /// The place of the tenant of this id, until it has nothing waiting or running any more.
    pub fn find(&mut self, id: &str) -> TenantId {
        let key = id_key(id);
        if let Some(tenant) = self.ids.get(&*key) {
            return *tenant;
        }
        let share = self.shares.of(id);
        let account = Account {
            id: key.into(),
            weight: i64::from(share.weight.max(1)),
            priority: share.priority,
            ..Account::default()
        };
        let id = account.id.clone();
        let tenant = if let Some(tenant) = self.free.pop() {
            self.accounts[tenant.index()] = account;
            tenant
        } else {
            self.accounts.push(account);
            TenantId::at(self.accounts.len() - 1)
        };
        self.ids.insert(id, tenant);
        tenant
    }

    /// Rows of a tenant have come to wait.
    pub fn add(&mut self, tenant: TenantId, rows: usize) {
        let account = &mut self.accounts[tenant.index()];
        let waited = account.waiting > 0;
        account.waiting += rows;
        if rows == 0 || waited {
            return;
        }
        let tier = self.tiers.entry(account.priority).or_default();
        if account.in_ring {
            tier.gone -= 1;
        } else {
            if account.billed == 0 {
                account.nanos = 0;
            }
            account.in_ring = true;
            account.round = tier.round;
            tier.ring.push_back(tenant);
        }
    }

    /// Who comes next, and with how many rows; `room` at most. They are on the bill.
    ///
    /// A tenant has no turn while none of its rows is one that may be taken, of which it has as many as `takes` says; what it is paid
    /// meanwhile it keeps.
    pub fn next(&mut self, bill: &mut Bill, room: usize, takes: impl Fn(TenantId) -> usize) -> Option<Turn> {
        if room == 0 {
            return None;
        }
        let mut passed_over = 0;
        let turn = loop {
            let (&priority, tier) = self.tiers.iter_mut().next_back()?;
            let Some(&tenant) = tier.ring.front() else {
                self.tiers.remove(&priority);
                continue;
            };
            let account = &mut self.accounts[tenant.index()];
            if account.waiting == 0 {
                tier.pop();
                tier.gone -= 1;
                self.leave(tenant);
                continue;
            }
            let most = takes(tenant).min(account.waiting).min(room);
            if most == 0 && passed_over == tier.ring.len() {
                return None;
            }
            if tier.ring.len() == 1 && most > 0 {
                account.nanos = 0;
                break Turn { tenant, rows: most, charged: false };
            }
            if account.round == tier.round && account.nanos <= 0 {
                if tier.visiting {
                    tier.rotate();
                    continue;
                }
                tier.begin_round(bill.price, &mut self.accounts);
            }
            let account = &mut self.accounts[tenant.index()];
            if account.round != tier.round {
                account.round = tier.round;
                account.nanos = account.nanos.saturating_add(account.weight.saturating_mul(tier.quantum));
            }
            passed_over = if most == 0 { passed_over + 1 } else { 0 };
            if account.nanos <= 0 || most == 0 {
                tier.rotate();
                continue;
            }
            if account.nanos > 2 * account.weight.saturating_mul(tier.quantum) && !tier.evened {
                tier.even(&mut self.accounts);
                continue;
            }
            tier.served = true;
            let rows = usize::try_from(account.nanos.unsigned_abs().div_ceil(bill.price.unsigned_abs()));
            let rows = rows.unwrap_or(usize::MAX).min(most);
            break Turn { tenant, rows, charged: true };
        };
        self.take(turn, bill);
        Some(turn)
    }

    /// A tenant takes so many of its rows, whoever's turn it is: it pays for them as if it were its own.
    pub fn out_of_turn(&mut self, bill: &mut Bill, tenant: TenantId, rows: usize) {
        self.take(Turn { tenant, rows, charged: true }, bill);
    }

    fn take(&mut self, turn: Turn, bill: &mut Bill) {
        let account = &mut self.accounts[turn.tenant.index()];
        account.waiting -= turn.rows;
        if turn.charged {
            account.nanos = account.nanos.saturating_sub(bill.price.saturating_mul(signed(turn.rows)));
            account.billed += turn.rows;
        }
        bill.add(turn);
        let (empty, poor, priority) = (account.waiting == 0, account.nanos <= 0, account.priority);
        let tier = self.tiers.get_mut(&priority).expect("who waits is in a tier");
        if tier.ring.front() == Some(&turn.tenant) && empty {
            tier.pop();
            self.leave(turn.tenant);
        } else if empty {
            self.lose(turn.tenant);
        } else if tier.ring.front() == Some(&turn.tenant) && turn.charged {
            tier.visiting = true;
            if poor {
                tier.rotate();
            }
        }
    }

    /// Rows of a tenant wait no more, and nobody is charged for them.
    pub fn remove(&mut self, tenant: TenantId, rows: usize) {
        let account = &mut self.accounts[tenant.index()];
        account.waiting -= rows;
        if account.waiting == 0 && rows > 0 {
            self.lose(tenant);
        }
    }

    /// One in the ring waits no more. It is taken out when it is seen; once there are as many such as others, all of them are.
    fn lose(&mut self, tenant: TenantId) {
        let priority = self.accounts[tenant.index()].priority;
        let tier = self.tiers.get_mut(&priority).expect("who waited is in a tier");
        tier.gone += 1;
        if tier.gone * 2 > tier.ring.len() {
            tier.gone = 0;
            tier.visiting = false;
            for tenant in std::mem::take(&mut tier.ring) {
                if self.accounts[tenant.index()].waiting > 0 {
                    self.tiers.get_mut(&priority).expect("it is there").ring.push_back(tenant);
                } else {
                    self.leave(tenant);
                }
            }
        }
    }

    /// Nobody waits any more, and nobody is charged for that.
    pub fn clear(&mut self) {
        for tier in std::mem::take(&mut self.tiers).into_values() {
            for tenant in tier.ring {
                self.accounts[tenant.index()].waiting = 0;
                self.leave(tenant);
            }
        }
    }

    /// The batch of a bill took so long: what its rows were charged is set right.
    pub fn settle(&mut self, bill: Bill, took: Duration) {
        let took = i128::from(nanos(took));
        for (tenant, rows) in bill.charged {
            let account = &mut self.accounts[tenant.index()];
            let owed = i64::try_from(took * rows as i128 / bill.rows.max(1) as i128).unwrap_or(i64::MAX);
            let paid = bill.price.saturating_mul(signed(rows));
            account.nanos = account.nanos.saturating_add(paid.saturating_sub(owed));
            account.billed -= rows;
            if account.in_ring {
                self.tiers.entry(account.priority).or_default().evened = false;
            } else {
                self.leave(tenant);
            }
        }
    }

    /// A tenant has left the ring, or is out of it and less is known of it than before.
    fn leave(&mut self, tenant: TenantId) {
        let account = &mut self.accounts[tenant.index()];
        account.in_ring = false;
        account.nanos = account.nanos.min(0);
        if account.is_idle() {
            self.idle.push(tenant);
            self.idle_bytes += account.id.len() + ACCOUNT_BYTES;
            if self.idle_bytes > IDLE_BYTES_MAX {
                self.forget_idle();
            }
        }
    }

    fn forget_idle(&mut self) {
        self.idle_bytes = 0;
        for tenant in std::mem::take(&mut self.idle) {
            let account = &mut self.accounts[tenant.index()];
            // It may have come back, and it may have been here twice.
            if account.is_idle() && self.ids.remove(&account.id).is_some() {
                account.id = Box::default();
                self.free.push(tenant);
            }
        }
    }

    /// How many tenants are known.
    pub fn known(&self) -> usize {
        self.ids.len()
    }
}

impl Account {
    fn is_idle(&self) -> bool {
        !self.in_ring && self.waiting == 0 && self.billed == 0
    }
}

impl Tier {
    fn pop(&mut self) {
        self.ring.pop_front();
        self.visiting = false;
    }

    /// The visit of the first is over.
    fn rotate(&mut self) {
        self.ring.rotate_left(1);
        self.visiting = false;
    }

    /// Everybody was visited: the next round pays half of what a row costs now, so that no visit is worth more than half of a batch.
    /// If nobody could take a row, as many rounds are skipped as pass before somebody can.
    fn begin_round(&mut self, price: i64, accounts: &mut [Account]) {
        self.round += 1;
        self.quantum = (price / 2).max(1);
        if !std::mem::take(&mut self.served) {
            let missing = |account: &Account| account.nanos.min(0).saturating_neg();
            let skipped = self.fewest_rounds(accounts, missing);
            self.pay_rounds(accounts, skipped);
        }
        self.evened = false;
    }

    /// A batch that took much less than it was charged leaves everybody with more than a round pays, and the first of them would have
    /// the next batches alone. What all have is taken back; who has more than others keeps that.
    fn even(&mut self, accounts: &mut [Account]) {
        let surplus = self.fewest_rounds(accounts, |account| account.nanos.max(0));
        self.pay_rounds(accounts, -surplus);
        self.evened = true;
    }

    /// How many rounds pay so much to each that waits, for the one to which they pay it first.
    fn fewest_rounds(&self, accounts: &[Account], nanos: impl Fn(&Account) -> i64) -> i64 {
        let waiting = self.ring.iter().map(|tenant| &accounts[tenant.index()]);
        let waiting = waiting.filter(|account| account.waiting > 0);
        let rounds =
            waiting.map(|account| nanos(account) / account.weight.saturating_mul(self.quantum.max(1)));
        rounds.min().unwrap_or(0)
    }

    fn pay_rounds(&self, accounts: &mut [Account], rounds: i64) {
        for tenant in &self.ring {
            let account = &mut accounts[tenant.index()];
            let paid = account.weight.saturating_mul(self.quantum.max(1)).saturating_mul(rounds);
            account.nanos = account.nanos.saturating_add(paid);
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn signed(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
