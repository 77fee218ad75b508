//! The fair order of the models on a device: whoever has had the least of the device's time comes next.
//!
//! Each model has an account of the time that the device spent on it, over its weight. Among the models with a batch ready, the one with the smallest
//! account is served; while it has nothing to serve, a model saves nothing up: on its return its account is raised to the smallest
//! account of those that wait, and if none waits, to the largest of all. This is the virtual token counter of Sheng et al., *Fairness
//! in Serving Large Language Models* (OSDI 2024), with time instead of tokens.
//!
//! A device takes several batches at once, and what one of them costs is known only when it is finished. So the time of a batch is
//! booked when it is submitted, as what the model's last batch took, and set right when it is finished. Two models that always have a
//! batch ready then never differ by more than one batch's time, and by how far the batches under way were misjudged.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalog::ModelIndex;

/// The most that a model may weigh.
pub const WEIGHT_MAX: u32 = 1_000;

/// The accounts of the models on one device.
#[derive(Debug, Default)]
pub struct Fair {
    accounts: BTreeMap<ModelIndex, Account>,
}

#[derive(Debug)]
struct Account {
    /// A model of weight 2 pays half for the same time.
    weight: u32,
    nanos: u128,
    waiting: bool,
    /// What its last finished batch took.
    last: Option<u64>,
}

impl Default for Account {
    fn default() -> Self {
        Self { weight: 1, nanos: 0, waiting: false, last: None }
    }
}

impl Account {
    /// What a time counts for, finely enough that nothing is too short to count.
    fn counted(&self, nanos: u64) -> u128 {
        u128::from(nanos) * u128::from(WEIGHT_MAX) / u128::from(self.weight)
    }
}

/// What was booked for a batch under way. It goes back to [`Fair::finished`].
#[derive(Debug)]
#[must_use = "what is booked has to be set right when the batch is finished"]
pub struct Booking {
    model: ModelIndex,
    nanos: u64,
}

impl Fair {
    /// No model has had anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A model gets so many times what others get.
    pub fn weigh(&mut self, model: ModelIndex, weight: u32) {
        self.accounts.entry(model).or_default().weight = weight.clamp(1, WEIGHT_MAX);
    }

    /// Which of the models with a batch ready comes next.
    pub fn next(&mut self, ready: &[ModelIndex]) -> Option<ModelIndex> {
        for (model, account) in &mut self.accounts {
            account.waiting &= ready.contains(model);
        }
        let waiting = self.accounts.values().filter(|account| account.waiting).map(|account| account.nanos);
        let all = self.accounts.values().map(|account| account.nanos);
        let floor = waiting.min().or(all.max()).unwrap_or(0);
        for model in ready {
            let account = self.accounts.entry(*model).or_default();
            if !account.waiting {
                account.waiting = true;
                account.nanos = account.nanos.max(floor);
            }
        }
        ready.iter().copied().min_by_key(|model| (self.accounts[model].nanos, *model))
    }

    /// Books the time that a batch is expected to take.
    pub fn submitted(&mut self, model: ModelIndex) -> Booking {
        let dearest = self.accounts.values().filter_map(|account| account.last).max();
        let account = self.accounts.entry(model).or_default();
        // A model that has not run yet is taken for the dearest. Never nothing, or it would be given every place of the device.
        let nanos = account.last.or(dearest).unwrap_or(0).max(1);
        account.nanos += account.counted(nanos);
        Booking { model, nanos }
    }

    /// Sets right what was booked for a batch, which took `time`.
    #[expect(clippy::needless_pass_by_value, reason = "a booking is set right once")]
    pub fn finished(&mut self, booking: Booking, time: Duration) {
        let Booking { model, nanos } = booking;
        let took = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let account = self.accounts.entry(model).or_default();
        account.nanos = account.nanos.saturating_sub(account.counted(nanos)) + account.counted(took);
        account.last = Some(took);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const TURN: Duration = Duration::from_millis(1);

    /// Serves one batch alone, and says whose it was.
    fn serve(fair: &mut Fair, ready: &[ModelIndex], time: Duration) -> ModelIndex {
        let model = fair.next(ready).expect("somebody is ready");
        let booking = fair.submitted(model);
        fair.finished(booking, time);
        model
    }

    #[test]
    fn a_model_that_was_away_saves_nothing_up() {
        let (busy, late) = (ModelIndex(0), ModelIndex(1));
        let mut fair = Fair::new();
        for _ in 0..10 {
            assert_eq!(serve(&mut fair, &[busy], TURN), busy);
        }
        let turns: Vec<_> = (0..4).map(|_| serve(&mut fair, &[busy, late], TURN)).collect();
        assert_eq!(turns, [busy, late, busy, late]);
        assert_eq!(fair.next(&[]), None);
    }

    #[test]
    fn after_a_time_in_which_none_waited_all_begin_even() {
        let (busy, late) = (ModelIndex(0), ModelIndex(1));
        let mut fair = Fair::new();
        for _ in 0..10 {
            serve(&mut fair, &[busy], TURN);
        }
        assert_eq!(fair.next(&[]), None);
        // `late` comes first, alone: that must not give it the ten turns that `busy` had before.
        assert_eq!(serve(&mut fair, &[late], TURN), late);
        let turns: Vec<_> = (0..4).map(|_| serve(&mut fair, &[busy, late], TURN)).collect();
        assert_eq!(turns, [busy, late, busy, late]);
    }

    #[test]
    fn models_that_have_never_run_share_the_places_of_a_device() {
        let ready = [ModelIndex(0), ModelIndex(1)];
        let mut fair = Fair::new();
        let turns: Vec<_> = (0..4)
            .map(|_| {
                let model = fair.next(&ready).unwrap();
                let _booking = fair.submitted(model);
                model.0
            })
            .collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }

    proptest! {
        #[test]
        fn models_that_always_wait_never_differ_by_more_than_one_batch_of_their_weights(
            costs in prop::collection::vec((1_u64..1_000, 1_u32..9), 2..6),
            turns in 1_usize..400,
        ) {
            let ready: Vec<ModelIndex> = (0..).take(costs.len()).map(ModelIndex).collect();
            let mut fair = Fair::new();
            ready.iter().zip(&costs).for_each(|(model, (_, weight))| fair.weigh(*model, *weight));
            let (costs, weights): (Vec<u64>, Vec<u32>) = costs.into_iter().unzip();
            let mut served = vec![0_u64; costs.len()];
            for _ in 0..turns {
                let place = fair.next(&ready).unwrap().0 as usize;
                served[place] += costs[place];
                let booking = fair.submitted(ready[place]);
                fair.finished(booking, Duration::from_nanos(costs[place]));
                let each = served.iter().zip(&weights).map(|(served, weight)| served / u64::from(*weight));
                let spread = each.clone().max().unwrap() - each.min().unwrap();
                prop_assert!(spread <= *costs.iter().max().unwrap());
            }
        }

        /// The same with several batches under way, once each model has run often enough for the first misjudgement to be made up.
        #[test]
        fn nor_do_they_while_several_batches_are_under_way(
            costs in prop::collection::vec(100_u64..1_000, 2..5),
            places in 1_usize..9,
            seed in any::<u64>(),
        ) {
            let ready: Vec<ModelIndex> = (0..).take(costs.len()).map(ModelIndex).collect();
            let mut fair = Fair::new();
            let mut submitted = vec![0_u64; costs.len()];
            let mut under_way = VecDeque::new();
            for turn in 0..1_000_u64 {
                while under_way.len() < places {
                    let model = fair.next(&ready).unwrap();
                    submitted[model.0 as usize] += costs[model.0 as usize];
                    under_way.push_back(fair.submitted(model));
                }
                let spread = submitted.iter().max().unwrap() - submitted.iter().min().unwrap();
                prop_assert!(turn < 500 || spread <= *costs.iter().max().unwrap(), "{submitted:?}");
                // They finish in any order, but no batch is overtaken for ever.
                let lot = seed.rotate_left(u32::try_from(turn % 64).unwrap()) % places as u64;
                let place = if turn % 4 == 0 { 0 } else { usize::try_from(lot).unwrap() };
                let booking = under_way.remove(place).unwrap();
                let took = Duration::from_nanos(costs[booking.model.0 as usize]);
                fair.finished(booking, took);
            }
        }
    }
}
