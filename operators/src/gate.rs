//! The gate before the windows: what a tenant may not ask for now waits here, and ends here if that takes too long.
//!
//! A tenant may have a quota, so many records a second, and a bound on what it has in inference, from the gate to the outcome. A row that
//! is over either is *parked*, in the order of the polls of its tenant, until there is a token and a place for it. What is parked is in
//! no window: it closes no batch and takes no turn. It waits for as long as its tenant's share says, which may be not at all, and no
//! longer than its model's deadline: then it is *late*, and ends as a dead letter.
//!
//! Rows of tenants without bounds are not looked at twice, and where no tenant has any the gate is open: nobody asks whose a row is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::allowance::{Account, Allowances, Ready};
use crate::block::Block;
use crate::clock::Moment;
use crate::lease::{Lease, Offset};
use crate::outcome::Outcomes;
use crate::window::{Ages, Run};

/// How soon a gate looks again for a place that another worker's gate gives back.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The gate of a device. `C` is the right to send outcomes.
#[derive(Debug)]
pub struct Gate<C> {
    allowances: Arc<Allowances>,
    /// Whether no tenant has bounds: asked for each block, and settled by the configuration.
    open: bool,
    /// Tenants with something parked or in inference, by the numbers of their accounts.
    tenants: BTreeMap<u64, Tenant<C>>,
    /// Tenants with something parked, by when to look whether it may pass.
    due: BTreeSet<(Moment, u64)>,
    /// The rows in inference of tenants that may have so many there.
    inside: BTreeMap<(Lease, Offset), u64>,
    /// What is parked, by how long it may be.
    ages: BTreeMap<Duration, Ages>,
}

#[derive(Debug)]
struct Tenant<C> {
    account: Arc<Account>,
    /// Rows in inference that have a place.
    inside: usize,
    parked: VecDeque<Parked<C>>,
    /// Its place in `due`, if it is there.
    due: Option<Moment>,
}

#[derive(Clone, Debug)]
struct Parked<C> {
    run: Run<C>,
    limit: Duration,
}

impl<C> Parked<C> {
    fn polled_at(&self) -> Moment {
        self.run.block.polled.polled_at
    }

    fn is_late(&self, excused: Moment, now: Moment) -> bool {
        self.polled_at().max(excused).after(self.limit) <= now
    }
}

/// What became of the rows of a block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// These pass.
    pub pass: Vec<Range<usize>>,
    /// These are parked.
    pub parked: Vec<Range<usize>>,
}

/// Parked rows that have waited for as long as they may.
#[derive(Debug)]
pub struct Late<C> {
    /// The rows: of one tenant.
    pub run: Run<C>,
    /// How long that was.
    pub limit: Duration,
}

impl<C: Clone> Gate<C> {
    /// A gate with nothing before it.
    pub fn new(allowances: Arc<Allowances>) -> Self {
        Self {
            open: !allowances.shares().has_bounds(),
            allowances,
            tenants: BTreeMap::new(),
            due: BTreeSet::new(),
            inside: BTreeMap::new(),
            ages: BTreeMap::new(),
        }
    }

    /// Whether everything passes, because no tenant has bounds.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Looks at rows of a block, whose model has this deadline: they pass, or are parked.
    pub fn admit(
        &mut self,
        block: &Arc<Block>,
        rows: Range<usize>,
        token: &C,
        deadline: Option<Duration>,
        now: Moment,
    ) -> Admission {
        let mut admission = Admission::default();
        for (id, own) in block.tenants(rows) {
            let Some(account) = self.allowances.account(id, now) else {
                join(&mut admission.pass, own);
                continue;
            };
            let number = account.number;
            // Behind what waits already, even if there are tokens by now: that is released first.
            let waits = self.tenants.get(&number).is_some_and(|tenant| !tenant.parked.is_empty());
            let admitted = if waits { 0 } else { account.admit(own.len(), now) };
            let passing = own.start + admitted;
            self.enter(&account, block, own.start..passing);
            join(&mut admission.pass, own.start..passing);
            if passing < own.end {
                join(&mut admission.parked, passing..own.end);
                let run = Run { block: Arc::clone(block), rows: passing..own.end, token: token.clone() };
                self.park(&account, run, deadline, now);
            }
        }
        admission
    }

    /// These rows have a token and a place.
    fn enter(&mut self, account: &Arc<Account>, block: &Block, rows: Range<usize>) {
        if account.has_places() && !rows.is_empty() {
            self.tenant(account).inside += rows.len();
            self.inside.extend(rows.map(|row| (block.origin(row), account.number)));
        }
    }

    fn park(&mut self, account: &Arc<Account>, run: Run<C>, deadline: Option<Duration>, now: Moment) {
        let limit = account.share.wait_max.min(deadline.unwrap_or(Duration::MAX));
        self.ages.entry(limit).or_default().add(run.block.polled.polled_at, run.rows.len());
        let parked = &mut self.tenant(account).parked;
        let one = Parked { run, limit };
        let later = parked.iter().rev().take_while(|other| other.polled_at() > one.polled_at()).count();
        parked.insert(parked.len() - later, one);
        self.look(account.number, now);
    }

    fn tenant(&mut self, account: &Arc<Account>) -> &mut Tenant<C> {
        self.tenants.entry(account.number).or_insert_with(|| Tenant {
            account: Arc::clone(account),
            inside: 0,
            parked: VecDeque::new(),
            due: None,
        })
    }

    /// The rows that may pass by now. They wait here no more.
    pub fn release(&mut self, now: Moment) -> Vec<Run<C>> {
        let mut released = Vec::new();
        while let Some(&(at, number)) = self.due.first()
            && at <= now
        {
            let tenant = self.tenants.get_mut(&number).expect("who is due is known");
            let (account, before) = (Arc::clone(&tenant.account), released.len());
            while let Some(first) = tenant.parked.front_mut() {
                let rows = first.run.rows.clone();
                let passing = rows.start + account.admit(rows.len(), now);
                if passing == rows.start {
                    break;
                }
                let run = Run { rows: rows.start..passing, ..first.run.clone() };
                first.run.rows.start = passing;
                let (limit, left) = (first.limit, passing < rows.end);
                forget(&mut self.ages, limit, &run);
                if !left {
                    tenant.parked.pop_front();
                }
                released.push(run);
                if left {
                    break;
                }
            }
            for Run { block, rows, .. } in &released[before..] {
                self.enter(&account, block, rows.clone());
            }
            self.look(number, now);
        }
        released
    }

    /// These rows have their outcomes.
    pub fn ended(&mut self, outcomes: &Outcomes, now: Moment) {
        if self.inside.is_empty() {
            return;
        }
        let mut touched = BTreeSet::new();
        for index in 0..outcomes.len() {
            let (lease, offset, _) = outcomes.origin(index);
            if let Some(number) = self.inside.remove(&(lease, offset)) {
                let tenant = self.tenants.get_mut(&number).expect("who has something in inference is known");
                tenant.inside -= 1;
                tenant.account.leave();
                touched.insert(number);
            }
        }
        touched.into_iter().for_each(|number| self.look(number, now));
    }

    /// When to look whether a parked row may pass, unless an outcome makes a place before.
    pub fn due(&self) -> Moment {
        self.due.first().map_or(Moment::NEVER, |(at, _)| *at)
    }

    /// When the next parked row will be late. Up to `excused` nobody is to blame for its waiting.
    pub fn late_at(&self, excused: Moment) -> Moment {
        let late = |(limit, ages): (&Duration, &Ages)| Some(ages.oldest()?.max(excused).after(*limit));
        self.ages.iter().filter_map(late).min().unwrap_or(Moment::NEVER)
    }

    /// Takes the parked rows out that are late.
    pub fn take_late(&mut self, excused: Moment, now: Moment) -> Vec<Late<C>> {
        let mut late = Vec::new();
        if self.late_at(excused) > now {
            return late;
        }
        let waiting: Vec<u64> = self.due.iter().map(|(_, number)| *number).collect();
        for number in waiting.into_iter().chain(self.held_up()) {
            let tenant = self.tenants.get_mut(&number).expect("who has something parked is known");
            let before = late.len();
            for parked in std::mem::take(&mut tenant.parked) {
                if parked.is_late(excused, now) {
                    let Parked { run, limit } = parked;
                    forget(&mut self.ages, limit, &run);
                    late.push(Late { run, limit });
                } else {
                    tenant.parked.push_back(parked);
                }
            }
            if late.len() > before {
                self.look(number, now);
            }
        }
        late
    }

    /// Tenants with something parked that are not due before one of their own rows has its outcome.
    fn held_up(&self) -> Vec<u64> {
        let held_up = |(number, tenant): (&u64, &Tenant<C>)| {
            (tenant.due.is_none() && !tenant.parked.is_empty()).then_some(*number)
        };
        self.tenants.iter().filter_map(held_up).collect()
    }

    /// Finds out anew when a tenant is due, and forgets one that has nothing here.
    fn look(&mut self, number: u64, now: Moment) {
        let tenant = self.tenants.get_mut(&number).expect("it was there above");
        let due = match tenant.account.ready() {
            _ if tenant.parked.is_empty() => None,
            Ready::At(at) => Some(at),
            Ready::WithPlace(taken) => (taken > tenant.inside).then(|| now.after(LOOK_AGAIN)),
        };
        if tenant.due != due {
            if let Some(at) = std::mem::replace(&mut tenant.due, due) {
                self.due.remove(&(at, number));
            }
            self.due.extend(due.map(|at| (at, number)));
        }
        if tenant.parked.is_empty() && tenant.inside == 0 {
            self.tenants.remove(&number);
        }
    }
}

/// What is parked no more has no age.
fn forget<C>(ages: &mut BTreeMap<Duration, Ages>, limit: Duration, run: &Run<C>) {
    let of_limit = ages.get_mut(&limit).expect("what is parked has an age");
    of_limit.remove(run.block.polled.polled_at, run.rows.len());
    if of_limit.oldest().is_none() {
        ages.remove(&limit);
    }
}

/// Adds a range at the end of others, to the last of them where it begins there.
fn join(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests;
