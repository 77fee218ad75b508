//! What a batch costs: the time that so many rows of one model take on one device, learned from the batches that ran.
//!
//! The model is a line, `a + b*n`, with neither part below nothing, and a correction for each size class (1, 2 to 3, 4 to 7, …), because
//! no line fits a net whose large batches fall out of a cache. What was seen lately counts most; a class that is not visited any more
//! fades into the line, so that what was slow once is tried again some day. One batch that took very long moves little: a sample counts
//! for at most twice what was expected, so a device that has become slower is followed, only not in one step.
//!
//! From that comes the *efficient* size: the smallest whose rows a second are within a few percent of the best. On a CPU a convolution net
//! is slower a row in a large batch, and its efficient size is 1.

use std::time::Duration;

use crate::model::Buckets;

/// Size classes: the powers of two up to the largest batch that can be configured.
const CLASSES: usize = 17;

/// How many samples a class remembers: each new one weighs at least 1 in so many.
const MEMORY: f64 = 16.0;

/// What is left of the weight of the other classes after each sample.
const FADING: f64 = 1.0 - 1.0 / 256.0;

/// A class never fades to nothing: it is all that tells the slope of the line when every batch has the same size.
const WEIGHT_MIN: f64 = 0.01;

/// So many samples of a class weigh as much as the line.
const DOUBT: f64 = 1.0;

/// How many times what was expected a sample counts for at most.
const SURPRISE_MAX: f64 = 2.0;

/// A size is efficient if it gives this share of the most rows a second.
const EFFICIENT: f64 = 0.95;

/// The tail of the costs is followed quickly upwards and slowly down, so that it stays above nearly all of them.
const TAIL_UP: f64 = 0.1;
const TAIL_DOWN: f64 = 0.002;
/// Where it begins, and the most that it can be, in multiples of what was expected.
const TAIL: (f64, f64) = (1.2, 4.0);

/// What a batch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its rows.
    pub rows: usize,
    /// From its start on an executor to its outcomes.
    pub took: Duration,
}

/// What has been learned of the batches of one model on one device.
#[derive(Clone, Debug)]
pub struct CostModel {
    size_max: usize,
    /// The sizes that batches are run at: what is expected is expected of all rows that are computed.
    buckets: Buckets,
    classes: [Class; CLASSES],
    /// The line, in seconds: of any batch, and of each row.
    fixed: f64,
    row: f64,
    /// Nearly no batch takes more than so many times what is expected of it.
    tail: f64,
    efficient: usize,
}

/// The batches of about the same size.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    weight: f64,
    rows: f64,
    seconds: f64,
}

impl CostModel {
    /// A model of batches of at most `size_max` rows that has seen nothing: it expects them to take no time.
    pub fn new(size_max: usize) -> Self {
        let (tail, _) = TAIL;
        let classes = [Class::default(); CLASSES];
        let (size_max, buckets) = (size_max.max(1), Buckets::exact());
        Self { size_max, buckets, classes, fixed: 0.0, row: 0.0, tail, efficient: size_max }
    }

    /// The same, of batches that are run at some sizes only.
    pub fn with_buckets(self, buckets: Buckets) -> Self {
        Self { buckets, ..self }
    }

    /// Learns from a batch. One that took no time tells nothing: its clock stood still.
    pub fn observe(&mut self, sample: Sample) {
        let Sample { rows, took } = sample;
        if took.is_zero() {
            return;
        }
        let seconds = took.as_secs_f64();
        let expected = self.seconds(rows);
        let seen = if expected > 0.0 { seconds.min(expected * SURPRISE_MAX) } else { seconds };
        if expected > 0.0 {
            let ratio = (seconds / expected).min(TAIL.1);
            let step = if ratio > self.tail { TAIL_UP } else { TAIL_DOWN };
            self.tail += step * (ratio - self.tail);
        }
        let rows = self.buckets.computed(rows);
        let place = class_of(rows);
        for (other, class) in self.classes.iter_mut().enumerate() {
            if other != place && class.weight > 0.0 {
                class.weight = (class.weight * FADING).max(WEIGHT_MIN);
            }
        }
        self.classes[place].add(count(rows), seen);
        (self.fixed, self.row) = line(&self.classes);
        self.efficient = self.most_efficient();
    }

    /// What a batch of so many rows is expected to take.
    pub fn estimate(&self, rows: usize) -> Duration {
        Duration::from_secs_f64(self.seconds(rows))
    }

    /// What nearly no batch of so many rows will take longer than.
    pub fn safe(&self, rows: usize) -> Duration {
        Duration::from_secs_f64(self.seconds(rows) * self.tail.max(1.0))
    }

    /// What any batch costs, whatever its size: `a`.
    pub fn fixed(&self) -> Duration {
        Duration::from_secs_f64(self.fixed)
    }

    /// What each row adds: `b`.
    pub fn row(&self) -> Duration {
        Duration::from_secs_f64(self.row)
    }

    /// The smallest size that gives nearly as many rows a second as any.
    pub fn efficient(&self) -> usize {
        self.efficient
    }

    /// The largest size, up to the efficient one, that is safely done within `limit`; at least one row.
    pub fn within(&self, limit: Duration) -> usize {
        let (mut fits, mut exceeds) = (1, self.efficient + 1);
        while fits + 1 < exceeds {
            let middle = usize::midpoint(fits, exceeds);
            if self.safe(middle) <= limit { fits = middle } else { exceeds = middle }
        }
        fits
    }

    fn line(&self, rows: f64) -> f64 {
        self.fixed + self.row * rows
    }

    fn seconds(&self, rows: usize) -> f64 {
        let rows = self.buckets.computed(rows);
        let class = &self.classes[class_of(rows)];
        let line = self.line(count(rows));
        let there = self.line(class.rows);
        if class.weight == 0.0 || there <= 0.0 {
            return line;
        }
        line * (class.weight * class.seconds / there + DOUBT) / (class.weight + DOUBT)
    }

    fn most_efficient(&self) -> usize {
        let powers = Buckets::powers(self.size_max);
        let own = self.buckets.sizes().iter().copied().filter(|size| *size <= self.size_max);
        let sizes = Buckets::of(powers.sizes().iter().copied().chain(own));
        let rate = |size: usize| count(size) / self.seconds(size).max(1e-12);
        let best = sizes.sizes().iter().copied().map(rate).fold(0.0, f64::max);
        let efficient = sizes.sizes().iter().copied().find(|size| rate(*size) >= EFFICIENT * best);
        efficient.unwrap_or(self.size_max)
    }
}

impl Class {
    fn add(&mut self, rows: f64, seconds: f64) {
        self.weight = (self.weight + 1.0).min(MEMORY);
        self.rows += (rows - self.rows) / self.weight;
        self.seconds += (seconds - self.seconds) / self.weight;
    }
}

fn class_of(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(CLASSES - 1)
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer rows")]
fn count(rows: usize) -> f64 {
    rows as f64
}

/// The line through the classes, by least squares of the relative error.
fn line(classes: &[Class]) -> (f64, f64) {
    let seen = || classes.iter().filter(|class| class.weight > 0.0);
    let sum = |of: fn(&Class) -> f64| -> f64 {
        seen().map(|class| class.weight / class.seconds.powi(2) * of(class)).sum()
    };
    let (all, rows, seconds) = (sum(|_| 1.0), sum(|class| class.rows), sum(|class| class.seconds));
    let (squares, products) = (sum(|class| class.rows * class.rows), sum(|class| class.rows * class.seconds));
    if seen().count() < 2 {
        // One size tells nothing of how it divides. Half and half: larger batches are worth a try, and not for nothing.
        return (seconds / all / 2.0, seconds / rows / 2.0);
    }
    let row = (all * products - rows * seconds) / (all * squares - rows * rows);
    let fixed = (seconds - row * rows) / all;
    match (fixed < 0.0, row < 0.0) {
        (true, _) => (0.0, products / squares),
        (_, true) => (seconds / all, 0.0),
        _ => (fixed, row),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers from 0 to 1 without a pattern, the same for the same seed.
    struct Lots(u64);

    impl Lots {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.0 >> 33).unwrap()) / f64::from(1_u32 << 31)
        }

        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to `max`")]
        fn rows(&mut self, max: usize) -> usize {
            1 + (self.next() * count(max - 1)) as usize
        }
    }

    /// Shows the model batches of all sizes that take `seconds`, give or take a tenth, every 50th of them 20 times as long: at
    /// random there would now and then be as many in a row as no estimate stands.
    fn show(model: &mut CostModel, lots: &mut Lots, batches: usize, seconds: impl Fn(f64) -> f64) {
        for batch in 0..batches {
            let rows = lots.rows(64);
            let noise = 0.9 + 0.2 * lots.next();
            let outlier = if batch % 50 == 7 { 20.0 } else { 1.0 };
            let took = Duration::from_secs_f64(seconds(count(rows)) * noise * outlier);
            model.observe(Sample { rows, took });
        }
    }

    fn near(found: Duration, wanted: f64, off: f64) -> bool {
        (found.as_secs_f64() - wanted).abs() <= off
    }

    proptest! {
        #[test]
        fn the_line_is_found_under_noise_and_found_anew_after_a_change(
            seed in any::<u64>(), a in 1e-4_f64..1e-2, b in 1e-5_f64..1e-3, change in 0.2_f64..5.0,
        ) {
            let (mut model, mut lots) = (CostModel::new(64), Lots(seed));
            for factor in [1.0, change] {
                show(&mut model, &mut lots, 2_000, |rows| factor * (a + b * rows));
                // Of the few small batches one outlier moves more.
                for (rows, off) in [(1, 0.6), (2, 0.5), (8, 0.25), (31, 0.25), (63, 0.25)] {
                    let wanted = factor * (a + b * count(rows));
                    prop_assert!(near(model.estimate(rows), wanted, off * wanted), "{rows} rows: {wanted} {model:?}");
                    prop_assert!(model.safe(rows) >= model.estimate(rows));
                }
                let most = factor * (a + 64.0 * b);
                prop_assert!(near(model.fixed(), factor * a, 0.1 * most), "{a} {model:?}");
                prop_assert!(near(model.row(), factor * b, 0.1 * most / 8.0), "{b} {model:?}");
            }
        }

        /// Whatever it is shown: nothing is below nothing, and no size above the bounds is proposed.
        #[test]
        fn neither_part_of_the_line_is_below_nothing_and_no_size_exceeds_its_bounds(
            samples in prop::collection::vec((1_usize..2_000, 1_u64..u64::MAX / 2), 1..200),
            size_max in 1_usize..600,
            limit in 0_u64..10_000_000_000,
        ) {
            let mut model = CostModel::new(size_max);
            for (rows, nanos) in samples {
                model.observe(Sample { rows, took: Duration::from_nanos(nanos) });
                prop_assert!(model.fixed >= 0.0 && model.row >= 0.0 && model.fixed + model.row > 0.0, "{model:?}");
                prop_assert!((1..=size_max).contains(&model.efficient()));
                let limit = Duration::from_nanos(limit);
                let within = model.within(limit);
                prop_assert!((1..=model.efficient()).contains(&within));
                prop_assert!(within == 1 || model.safe(within) <= limit);
            }
        }

        #[test]
        fn with_a_fixed_part_the_efficient_size_is_within_a_few_percent_of_the_best(
            seed in any::<u64>(), a in 1e-4_f64..1e-2, b in 1e-5_f64..1e-3,
        ) {
            let (mut model, mut lots) = (CostModel::new(64), Lots(seed));
            show(&mut model, &mut lots, 1_000, |rows| a + b * rows);
            let rate = |rows: f64| rows / (a + b * rows);
            prop_assert!(rate(count(model.efficient())) >= 0.85 * rate(64.0), "{}", model.efficient());
        }
    }

    #[test]
    fn a_net_that_is_slower_a_row_in_larger_batches_is_not_batched() {
        let (mut model, mut lots) = (CostModel::new(64), Lots(1));
        show(&mut model, &mut lots, 1_000, |rows| 8e-4 * rows * (1.0 + rows / 32.0).min(2.3));
        assert_eq!(model.efficient(), 1, "{model:?}");
    }

    #[test]
    fn of_batches_that_are_filled_up_a_full_bucket_is_the_efficient_size() {
        let buckets = Buckets::of([12, 48]);
        let mut model = CostModel::new(64).with_buckets(buckets.clone());
        let millis = |rows: usize| 1 + rows as u64 / 12;
        for rows in [1, 12, 13, 48, 64] {
            let took: u64 = buckets.pieces(rows).map(|(_, size)| millis(size)).sum();
            (0..40).for_each(|_| model.observe(Sample { rows, took: Duration::from_millis(took) }));
        }
        assert_eq!(model.estimate(1), model.estimate(12), "a lone row costs a bucket");
        assert!(model.estimate(13) > model.estimate(12) * 2);
        assert_eq!(model.efficient(), 48, "{model:?}");
        assert_eq!(model.within(model.safe(12)), 12, "a row more would cost the next bucket");
    }

    #[test]
    fn an_outlier_moves_an_estimate_by_little_and_the_next_samples_undo_it() {
        let mut model = CostModel::new(64);
        let sample = |millis| Sample { rows: 8, took: Duration::from_millis(millis) };
        (0..50).for_each(|_| model.observe(sample(10)));
        model.observe(sample(10_000));
        assert!(model.estimate(8) < Duration::from_millis(11), "{model:?}");
        (0..100).for_each(|_| model.observe(sample(10)));
        assert!(model.estimate(8) < Duration::from_micros(10_100), "{model:?}");
    }

    #[test]
    fn a_size_that_was_slow_once_is_thought_better_of_when_it_was_not_tried_for_long() {
        let mut model = CostModel::new(64);
        let sample = |rows, micros| Sample { rows, took: Duration::from_micros(micros) };
        for rows in [1, 2, 4, 8, 16, 32] {
            (0..16).for_each(|_| model.observe(sample(rows, 1_000 + 10 * rows as u64)));
        }
        (0..16).for_each(|_| model.observe(sample(64, 50_000)));
        assert!(model.efficient() < 64, "{model:?}");
        for _ in 0..2_000 {
            [1, 32].iter().for_each(|rows| model.observe(sample(*rows, 1_000 + 10 * *rows as u64)));
        }
        assert_eq!(model.efficient(), 64, "{model:?}");
    }

    #[test]
    fn what_has_seen_nothing_expects_nothing_and_one_size_makes_larger_ones_worth_a_try() {
        let mut model = CostModel::new(32);
        assert_eq!((model.estimate(8), model.efficient()), (Duration::ZERO, 32));
        model.observe(Sample { rows: 1, took: Duration::from_millis(10) });
        assert_eq!((model.fixed(), model.row()), (Duration::from_millis(5), Duration::from_millis(5)));
        assert!(model.efficient() > 1);
    }
}
