//! The machine that a trace is replayed on: a simulated engine of one process, in a time of its own.
//!
//! What decides in the engine decides here, and is the same code: how much may be in flight ([`budget`](operators::budget)), when a batch closes
//! ([`policy`](operators::policy), [`cost`](operators::cost)), which model is next ([`fair`](operators::fair)), and whose rows it takes
//! ([`tenants`](operators::tenants)). What takes time is a batch, `a + b*n`, and the wait for the next commit; decoding, hand-offs and the broker
//! take none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use operators::budget::{Budget, LeaseAccount, Record};
use operators::catalog::{BatchPolicy, ModelIndex};
use operators::clock::Moment;
use operators::cost::{CostModel, Sample};
use operators::device::QUEUED;
use operators::done::Done;
use operators::fair::{Booking, Fair};
use operators::lease::{NextOffset, Partition};
use operators::policy::{Decision, Demand, Offer, Waiting, decide};
use operators::share::Shares;
use operators::tenants::Bill;

use super::arrivals::Arrivals;
use super::gates::Gates;
use super::line::{Fate, Line};
use super::plan::{Model, Plan, seconds};
use crate::capacity::basis::whole;
use crate::capacity::tick::bucket;

/// What one poll of a partition takes at most, as an activation of a source does.
const POLL_MAX: usize = 4_096;

/// The time between two looks at lags.
const LOOK: Duration = Duration::from_secs(1);

/// What came of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Of each model.
    pub(super) models: Vec<ModelOutcome>,
    /// Of each lane: records without an outcome at the end, and how old the oldest ever was, in seconds.
    pub lanes: Vec<(usize, f64)>,
    /// The part of the executors' time that was used.
    pub used: f64,
}

/// What came of the records of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelOutcome {
    /// Its batches.
    pub batches: usize,
    /// Their rows.
    pub rows: usize,
    /// How long records took from poll to outcome: their number by [`bucket`].
    pub latency: Box<[u64; 256]>,
}

/// A partition.
struct Lane {
    /// What came and was not polled.
    queue: VecDeque<usize>,
    /// What came, the first without an outcome in front.
    open: VecDeque<usize>,
    account: LeaseAccount,
    came: usize,
    ended: usize,
    /// What has its outcome and is not committed.
    done: usize,
    oldest_max: Duration,
}

struct Device {
    lines: BTreeMap<ModelIndex, Line>,
    costs: BTreeMap<ModelIndex, CostModel>,
    fair: Fair,
    demand: Demand,
    running: usize,
    /// Handed over, and not begun.
    queue: VecDeque<Batch>,
}

struct Batch {
    model: ModelIndex,
    rows: Vec<usize>,
    booking: Booking,
    bill: Option<Bill>,
    took: Duration,
}

/// The machine.
pub(super) struct Machine<'a> {
    plan: &'a Plan,
    trace: &'a Arrivals,
    fates: Vec<Fate>,
    lanes: Vec<Lane>,
    devices: Vec<Device>,
    gates: Gates,
    budget: Budget,
    /// Batches that run: when they end, on which device, and which they are.
    running: BinaryHeap<Reverse<(Moment, usize, u64)>>,
    batches: BTreeMap<u64, Batch>,
    next_id: u64,
    commit_at: Moment,
    look_at: Moment,
    next: usize,
    busy: Duration,
    outcome: Outcome,
}

impl<'a> Machine<'a> {
    /// Nothing has come yet.
    pub(super) fn new(plan: &'a Plan, trace: &'a Arrivals) -> Self {
        let budget = Budget::new(plan.budget);
        let account = |partition: &i32| {
            budget.account(Partition(*partition), Done::before(NextOffset(0)), Record::None)
        };
        let lane = |partition| Lane {
            queue: VecDeque::new(),
            open: VecDeque::new(),
            account: account(partition),
            came: 0,
            ended: 0,
            done: 0,
            oldest_max: Duration::ZERO,
        };
        let shares = Arc::new(plan.shares.clone());
        let model = |_| ModelOutcome { batches: 0, rows: 0, latency: Box::new([0; 256]) };
        Self {
            plan,
            trace,
            fates: vec![Fate::default(); trace.records.len()],
            lanes: trace.partitions.iter().map(lane).collect(),
            devices: (0..plan.devices).map(|number| Device::new(number, plan, &shares)).collect(),
            gates: Gates::new(&plan.shares, &trace.tenants),
            budget,
            running: BinaryHeap::new(),
            batches: BTreeMap::new(),
            next_id: 0,
            commit_at: Moment::NEVER,
            look_at: Moment::START.after(LOOK),
            next: 0,
            busy: Duration::ZERO,
            outcome: Outcome { models: plan.models.iter().map(model).collect(), ..Outcome::default() },
        }
    }

    /// Runs until the trace is over. What has no outcome then has none.
    pub(super) fn run(mut self) -> Outcome {
        let end = Moment::START.after(self.trace.length);
        let mut now = Moment::START;
        while now <= end {
            self.arrive(now);
            self.finish(now);
            self.commit(now);
            self.poll(now);
            for place in self.gates.release(now) {
                self.admit(place);
            }
            let wake = self.submit(now);
            self.look(now);
            let came = self.trace.records.get(self.next).map_or(Moment::NEVER, |arrival| arrival.at);
            let finished = self.running.peek().map_or(Moment::NEVER, |Reverse((at, ..))| *at);
            let next =
                came.min(finished).min(wake).min(self.commit_at).min(self.look_at).min(self.gates.due());
            // Whatever is due is later than now: what was due now has been done.
            now = next.max(now.after(Duration::from_nanos(1)));
        }
        let executors = whole(self.plan.devices * self.plan.executors);
        self.outcome.used = self.busy.as_secs_f64() / self.trace.length.as_secs_f64().max(1e-9) / executors;
        self.outcome.lanes =
            self.lanes.iter().map(|lane| (lane.came - lane.ended, lane.oldest_max.as_secs_f64())).collect();
        self.outcome
    }

    fn arrive(&mut self, now: Moment) {
        while let Some(arrival) = self.trace.records.get(self.next).filter(|arrival| arrival.at <= now) {
            let lane = &mut self.lanes[arrival.lane];
            lane.queue.push_back(self.next);
            lane.open.push_back(self.next);
            lane.came += 1;
            self.next += 1;
        }
    }

    /// The partitions are polled in turn for as long as the budget lasts.
    fn poll(&mut self, now: Moment) {
        loop {
            let mut polled = false;
            for lane in 0..self.lanes.len() {
                let waiting = self.lanes[lane].queue.len();
                if waiting == 0 {
                    continue;
                }
                let room = self.budget.room(&self.lanes[lane].account).map_or(0, |limit| limit.records);
                let count = room.min(waiting).min(POLL_MAX);
                if count == 0 {
                    continue;
                }
                self.budget.charge(&self.lanes[lane].account, count, 0);
                polled = true;
                for _ in 0..count {
                    let place = self.lanes[lane].queue.pop_front().expect("as many wait");
                    self.fates[place].polled_at = now;
                    if self.gates.pass(self.trace.records[place].tenant, place, now) {
                        self.admit(place);
                    }
                }
            }
            if !polled {
                return;
            }
        }
    }

    /// A record goes to the line of its model.
    fn admit(&mut self, place: usize) {
        let arrival = &self.trace.records[place];
        let devices = &self.plan.models[arrival.model].devices;
        let lot = usize::try_from(arrival.lot).unwrap_or(usize::MAX) % devices.len();
        let device = &mut self.devices[devices[lot]];
        let line =
            device.lines.get_mut(&index(arrival.model)).expect("a device has a line for each of its models");
        line.push(place, &mut self.fates);
    }

    /// Gives every device what it has room for; returns when a window wants to be looked at again.
    fn submit(&mut self, now: Moment) -> Moment {
        let mut wake = Moment::NEVER;
        for number in 0..self.devices.len() {
            wake = wake.min(self.submit_to(number, now));
        }
        wake
    }

    fn submit_to(&mut self, number: usize, now: Moment) -> Moment {
        let executors = self.plan.executors;
        let slots = executors * (1 + QUEUED);
        loop {
            let device = &mut self.devices[number];
            let under_way = device.running + device.queue.len();
            if under_way >= slots {
                return Moment::NEVER;
            }
            device.demand.tell(now, under_way.min(executors), executors);
            let (idle, ahead) =
                (under_way < executors, under_way.saturating_sub(executors) / executors.max(1));
            let offer = Offer { idle, ahead, demand: device.demand.share() };
            let decisions = device.decisions(now, offer, &self.plan.models, &self.fates);
            let ready: Vec<ModelIndex> = decisions
                .iter()
                .filter(|(_, decision)| matches!(decision, Decision::Close { .. }))
                .map(|(model, _)| *model)
                .collect();
            let next = device.fair.next(&ready);
            let decision = next.and_then(|next| decisions.iter().find(|(model, _)| *model == next));
            let Some((model, Decision::Close { rows, .. })) = decision.copied() else {
                let waits = decisions.iter().filter_map(|(_, decision)| match decision {
                    Decision::Wait(moment) => Some(*moment),
                    Decision::Close { .. } => None,
                });
                return waits.min().unwrap_or(Moment::NEVER);
            };
            let price = device.costs[&model].estimate(rows) / u32::try_from(rows).unwrap_or(1).max(1);
            let line = device.lines.get_mut(&model).expect("it has decided");
            let (rows, bill) =
                line.take(rows, price, &self.trace.records, &self.trace.tenants, &mut self.fates);
            let took = self.plan.models[model.0 as usize].takes(rows.len());
            let booking = device.fair.submitted(model);
            device.queue.push_back(Batch { model, rows, booking, bill, took });
            self.begin(number, now);
        }
    }

    /// Executors that have nothing to do take what was handed over.
    fn begin(&mut self, number: usize, now: Moment) {
        let device = &mut self.devices[number];
        while device.running < self.plan.executors
            && let Some(batch) = device.queue.pop_front()
        {
            device.running += 1;
            let handoff = self.plan.models[batch.model.0 as usize].handoff;
            let end = now.after(seconds(handoff)).after(batch.took);
            self.running.push(Reverse((end, number, self.next_id)));
            self.batches.insert(self.next_id, batch);
            self.next_id += 1;
        }
    }

    fn finish(&mut self, now: Moment) {
        while let Some(Reverse((_, number, id))) = self.running.pop_if_due(now) {
            let batch = self.batches.remove(&id).expect("it runs");
            let device = &mut self.devices[number];
            device.running -= 1;
            device.fair.finished(batch.booking, batch.took);
            if let Some(bill) = batch.bill {
                device.lines.get_mut(&batch.model).expect("its rows were there").settle(bill, batch.took);
            }
            let sample = Sample { rows: batch.rows.len(), took: batch.took };
            device.costs.get_mut(&batch.model).expect("its cost is known").observe(sample);
            self.busy += batch.took;
            // What was there at the start had begun to wait before, and nobody knows when.
            let counted = Moment::START.after(LOOK);
            let model = &mut self.outcome.models[batch.model.0 as usize];
            model.batches += 1;
            model.rows += batch.rows.len();
            for place in batch.rows {
                let fate = &mut self.fates[place];
                fate.ended = true;
                if self.trace.records[place].at > counted {
                    let micros = u64::try_from(now.since(fate.polled_at).as_micros()).unwrap_or(u64::MAX);
                    model.latency[usize::from(bucket(micros))] += 1;
                }
                let lane = &mut self.lanes[self.trace.records[place].lane];
                lane.ended += 1;
                lane.done += 1;
            }
            self.commit_at = self.commit_at.min(now.after(self.plan.commit));
            self.begin(number, now);
        }
    }

    fn commit(&mut self, now: Moment) {
        if self.commit_at <= now {
            self.commit_at = Moment::NEVER;
            for lane in &mut self.lanes {
                self.budget.release(&lane.account, std::mem::take(&mut lane.done), 0);
            }
        }
    }

    /// How old the oldest record of each lane is.
    fn look(&mut self, now: Moment) {
        if self.look_at > now {
            return;
        }
        self.look_at = now.after(LOOK);
        for lane in &mut self.lanes {
            while lane.open.front().is_some_and(|place| self.fates[*place].ended) {
                lane.open.pop_front();
            }
            if let Some(oldest) = lane.open.front() {
                lane.oldest_max = lane.oldest_max.max(now.since(self.trace.records[*oldest].at));
            }
        }
    }
}

/// Takes what is due off a heap.
trait PopIfDue {
    fn pop_if_due(&mut self, now: Moment) -> Option<Reverse<(Moment, usize, u64)>>;
}

impl PopIfDue for BinaryHeap<Reverse<(Moment, usize, u64)>> {
    fn pop_if_due(&mut self, now: Moment) -> Option<Reverse<(Moment, usize, u64)>> {
        let is_due = self.peek().is_some_and(|Reverse((at, ..))| *at <= now);
        if is_due { self.pop() } else { None }
    }
}

impl Device {
    fn new(number: usize, plan: &Plan, shares: &Arc<Shares>) -> Self {
        let mut device = Self {
            lines: BTreeMap::new(),
            costs: BTreeMap::new(),
            fair: Fair::new(),
            demand: Demand::default(),
            running: 0,
            queue: VecDeque::new(),
        };
        for (place, model) in plan.models.iter().enumerate() {
            if model.devices.contains(&number) {
                device.lines.insert(index(place), Line::new(Arc::clone(shares)));
                device.costs.insert(index(place), model.learned());
                device.fair.weigh(index(place), model.weight);
            }
        }
        device
    }

    /// What each window does now.
    fn decisions(
        &mut self,
        now: Moment,
        offer: Offer,
        models: &[Model],
        fates: &[Fate],
    ) -> Vec<(ModelIndex, Decision)> {
        let costs = &self.costs;
        let decide = |(model, line): (&ModelIndex, &mut Line)| {
            let waiting = Waiting { oldest: line.oldest(fates)?, rows: line.rows() };
            let policy: BatchPolicy = models[model.0 as usize].policy;
            Some((*model, decide(policy, now, waiting, &costs[model], offer)))
        };
        self.lines.iter_mut().filter_map(decide).collect()
    }
}

fn index(place: usize) -> ModelIndex {
    ModelIndex(u32::try_from(place).expect("models are few"))
}
