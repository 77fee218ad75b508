//! Tenants, some of them asking more often than others.

use rand::Rng;

/// Tenants with a Zipf distribution: the k-th asks in proportion to 1 / k^skew.
#[derive(Debug)]
pub(super) struct Tenants {
    names: Vec<String>,
    /// The probability of this tenant or one before it.
    cumulative: Vec<f64>,
}

impl Tenants {
    pub(super) fn new(count: usize, skew: f64) -> Self {
        let digits = count.saturating_sub(1).to_string().len().max(2);
        let names = (0..count).map(|tenant| format!("tenant-{tenant:0digits$}")).collect();
        let weight = |rank: u32| f64::from(rank).powf(-skew);
        let ranks = 1..=u32::try_from(count).unwrap_or(u32::MAX);
        let total: f64 = ranks.clone().map(weight).sum();
        let mut sum = 0.0;
        let cumulative = ranks.map(|rank| {
            sum += weight(rank);
            sum / total
        });
        Self { cumulative: cumulative.collect(), names }
    }

    pub(super) fn pick(&self, random: &mut impl Rng) -> &str {
        let uniform = f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0);
        let place = self.cumulative.partition_point(|&sum| sum <= uniform);
        &self.names[place.min(self.names.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn counts(skew: f64) -> BTreeMap<String, u32> {
        let tenants = Tenants::new(8, skew);
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut counts = BTreeMap::new();
        for _ in 0..8_000 {
            *counts.entry(tenants.pick(&mut random).to_owned()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn without_skew_every_tenant_asks_equally_often() {
        let counts = counts(0.0);
        assert_eq!(counts.len(), 8);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn with_skew_the_first_tenant_asks_most() {
        // 1 / H(8) = 0.368 of 8,000 with an exponent of 1.
        let counts = counts(1.0);
        assert!((2_800..3_100).contains(&counts["tenant-00"]), "{counts:?}");
        assert!((1_350..1_600).contains(&counts["tenant-01"]), "{counts:?}");
        assert_eq!(counts.len(), 8);
    }
}
