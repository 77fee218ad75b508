//! The records of a trace that wait for one model on one device: what the engine's [window](operators::window) is, of numbers instead of rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use operators::clock::Moment;
use operators::share::Shares;
use operators::tenants::{Bill, TenantId, Tenants};

use super::arrivals::Arrival;

/// Those that wait. A record is named by its place in the trace.
#[derive(Debug)]
pub(super) struct Line {
    /// Those that nobody has sorted by tenant yet, in the order of their polls.
    arrived: VecDeque<usize>,
    sorted: Vec<VecDeque<usize>>,
    tenants: Tenants,
    /// All that wait, and some that wait no more, in the order of their polls.
    order: VecDeque<usize>,
    rows: usize,
}

/// What becomes of the records of a trace, by their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// When it was polled.
    pub polled_at: Moment,
    /// Whether it waits in a line.
    pub waits: bool,
    /// Whether it has its outcome.
    pub ended: bool,
}

impl Line {
    /// Nobody waits yet.
    pub(super) fn new(shares: Arc<Shares>) -> Self {
        Self {
            arrived: VecDeque::new(),
            sorted: Vec::new(),
            tenants: Tenants::new(shares),
            order: VecDeque::new(),
            rows: 0,
        }
    }

    /// One more waits.
    pub(super) fn push(&mut self, place: usize, fates: &mut [Fate]) {
        fates[place].waits = true;
        self.arrived.push_back(place);
        self.order.push_back(place);
        self.rows += 1;
    }

    /// How many wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// When the oldest was polled.
    pub(super) fn oldest(&mut self, fates: &[Fate]) -> Option<Moment> {
        while self.order.front().is_some_and(|place| !fates[*place].waits) {
            self.order.pop_front();
        }
        self.order.front().map(|place| fates[*place].polled_at)
    }

    /// Takes records for a batch, as the window does: all of them where there is room, else by the turns of their tenants.
    pub(super) fn take(
        &mut self,
        rows: usize,
        price: Duration,
        records: &[Arrival],
        names: &[String],
        fates: &mut [Fate],
    ) -> (Vec<usize>, Option<Bill>) {
        let mut taken = Vec::with_capacity(rows.min(self.rows));
        let bill = if self.rows <= rows {
            self.sorted.iter_mut().for_each(|sorted| taken.extend(sorted.drain(..)));
            self.tenants.clear();
            taken.extend(self.arrived.drain(..));
            None
        } else {
            self.sort(records, names);
            let mut bill = Bill::new(price, rows);
            while let Some(turn) = self
                .tenants
                .next(&mut bill, rows - taken.len(), |tenant: TenantId| self.sorted[tenant.index()].len())
            {
                taken.extend(self.sorted[turn.tenant.index()].drain(..turn.rows));
            }
            Some(bill).filter(|bill| !bill.is_empty())
        };
        taken.iter().for_each(|place| fates[*place].waits = false);
        self.rows -= taken.len();
        (taken, bill)
    }

    /// The batch of a bill took so long.
    pub(super) fn settle(&mut self, bill: Bill, took: Duration) {
        self.tenants.settle(bill, took);
    }

    fn sort(&mut self, records: &[Arrival], names: &[String]) {
        for place in self.arrived.drain(..) {
            let tenant = self.tenants.find(&names[records[place].tenant]);
            self.tenants.add(tenant, 1);
            if self.sorted.len() <= tenant.index() {
                self.sorted.resize_with(tenant.index() + 1, VecDeque::new);
            }
            self.sorted[tenant.index()].push_back(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_batch_is_shared_by_its_tenants_and_one_with_room_takes_all() {
        let arrival = |tenant| Arrival { at: Moment::START, lane: 0, model: 0, tenant, lot: 0 };
        let records: Vec<Arrival> = (0..20).map(|place| arrival(usize::from(place >= 16))).collect();
        let names = ["many".to_owned(), "few".to_owned()];
        let mut fates = vec![Fate::default(); records.len()];
        let mut line = Line::new(Arc::new(Shares::default()));
        (0..records.len()).for_each(|place| line.push(place, &mut fates));
        let (taken, bill) = line.take(8, Duration::from_millis(1), &records, &names, &mut fates);
        let few = taken.iter().filter(|place| **place >= 16).count();
        assert!(taken.len() == 8 && (3..=4).contains(&few), "{taken:?}");
        line.settle(bill.unwrap(), Duration::from_millis(8));
        assert!(line.oldest(&fates).is_some());
        let (rest, bill) = line.take(64, Duration::from_millis(1), &records, &names, &mut fates);
        assert!(rest.len() == 12 && bill.is_none() && line.rows() == 0 && line.oldest(&fates).is_none());
    }
}
