//! Metrics of tenants. Their names come from strangers: so many of them have series of their own, and all others share one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use operators::observe::RowSeen;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::{Seconds, count, micros};

/// The longest name that has series of its own, in bytes.
const NAME_MAX: usize = 64;

/// The series of all tenants.
#[derive(Debug)]
pub(super) struct Tenants {
    families: Families,
    told: Mutex<Option<Told>>,
}

#[derive(Debug)]
struct Families {
    records: Family<TenantLabel, Counter>,
    latency: Family<TenantLabel, Histogram, Seconds>,
    parked: Family<TenantLabel, Gauge>,
    over_quota: Family<TenantLabel, Counter>,
}

/// The tenants that are told apart.
#[derive(Debug)]
struct Told {
    /// How many more may come.
    left: usize,
    by_name: BTreeMap<String, Series>,
    others: Series,
}

#[derive(Clone, Debug)]
struct Series {
    records: Counter,
    latency: Histogram,
    parked: Gauge,
    over_quota: Counter,
}

/// `tenant` is empty for all that are not told apart.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

impl Tenants {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Families {
            records: Family::default(),
            latency: Family::new_with_constructor(Seconds),
            parked: Family::default(),
            over_quota: Family::default(),
        };
        registry.register("tenant_records", "Rows inferred, by tenant", families.records.clone());
        registry.register(
            "tenant_latency_seconds",
            "From poll to outcome, by tenant",
            families.latency.clone(),
        );
        let help = "Records that wait because their tenant has no more of its quota, or of its places";
        registry.register("tenant_parked_records", help, families.parked.clone());
        let help = "Records that ended because of that";
        registry.register("tenant_over_quota_records", help, families.over_quota.clone());
        Self { families, told: Mutex::new(None) }
    }

    /// Tells tenants apart from now on: these, and whoever comes first, until there are `max`; of none, nothing is told at all.
    pub(super) fn tell_apart<'a>(&self, named: impl Iterator<Item = &'a str>, max: usize) {
        if max == 0 {
            return;
        }
        let mut told =
            Told { left: max, by_name: BTreeMap::new(), others: self.families.series(String::new()) };
        for name in named {
            told.series(name, &self.families);
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    /// Rows had their outcomes. In a batch nearly every row is of another tenant than the one before it, so each is counted by itself: one
    /// search and three additions.
    pub(super) fn batch(&self, rows: &[RowSeen<'_>]) {
        self.with(|told, families| {
            for row in rows {
                let series = told.series(row.tenant, families);
                series.records.inc();
                series.latency.observe(micros(row.total));
            }
        });
    }

    /// So many more rows of a tenant wait at the gate; or fewer.
    pub(super) fn parked(&self, tenant: &str, rows: i64) {
        self.with(|told, families| {
            told.series(tenant, families).parked.inc_by(rows);
        });
    }

    /// Rows of a tenant ended at the gate.
    pub(super) fn over_quota(&self, tenant: &str, rows: usize) {
        self.with(|told, families| {
            told.series(tenant, families).over_quota.inc_by(count(rows));
        });
    }

    fn with(&self, act: impl FnOnce(&mut Told, &Families)) {
        if let Some(told) = &mut *self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            act(told, &self.families);
        }
    }
}

impl Told {
    /// The series of a tenant. One that has had its own keeps it: a series that ended would be counted again from zero.
    fn series(&mut self, name: &str, families: &Families) -> &Series {
        let is_other = name.is_empty() || name.len() > NAME_MAX;
        if !is_other && self.left > 0 && !self.by_name.contains_key(name) {
            self.left -= 1;
            self.by_name.insert(name.to_owned(), families.series(name.to_owned()));
        }
        // No tenant that is too long, or has no name, is in the map.
        self.by_name.get(name).unwrap_or(&self.others)
    }
}

impl Families {
    fn series(&self, tenant: String) -> Series {
        let label = TenantLabel { tenant };
        Series {
            records: self.records.get_or_create_owned(&label),
            latency: self.latency.get_or_create_owned(&label),
            parked: self.parked.get_or_create_owned(&label),
            over_quota: self.over_quota.get_or_create_owned(&label),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text;

    use super::*;

    fn page(named: &[&str], max: usize, act: impl FnOnce(&Tenants)) -> String {
        let mut registry = Registry::default();
        let tenants = Tenants::register(&mut registry);
        tenants.tell_apart(named.iter().copied(), max);
        act(&tenants);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn rows_are_counted_for_their_tenants_and_those_beyond_the_bound_together() {
        let page = page(&["named"], 2, |tenants| {
            let long = "x".repeat(65);
            let total = Duration::from_millis(1);
            let row = |tenant| RowSeen { tenant, queue: total, total };
            tenants.batch(&["first", "first", "second", &long, "named"].map(row));
            tenants.parked("second", 5);
            tenants.parked("third", -2);
            tenants.over_quota("first", 7);
        });
        for line in [
            r#"tenant_records_total{tenant="first"} 2"#,
            r#"tenant_records_total{tenant="named"} 1"#,
            r#"tenant_records_total{tenant=""} 2"#,
            r#"tenant_latency_seconds_count{tenant="first"} 2"#,
            r#"tenant_parked_records{tenant=""} 3"#,
            r#"tenant_over_quota_records_total{tenant="first"} 7"#,
        ] {
            assert!(page.contains(line), "{line} is missing in {page}");
        }
        assert!(
            ["second", "third", "xx"].iter().all(|name| !page.contains(&format!("tenant=\"{name}"))),
            "{page}"
        );
    }

    #[test]
    fn with_a_bound_of_zero_nothing_is_told() {
        let page = page(&["named"], 0, |tenants| tenants.over_quota("first", 7));
        assert!(!page.contains("tenant="), "{page}");
    }

    #[test]
    fn a_hostile_name_stays_in_its_label() {
        let page = page(&[], 9, |tenants| tenants.over_quota("a\"} 9\n# x\\", 7));
        assert!(page.contains(r#"tenant_over_quota_records_total{tenant="a\"} 9\n# x\\"} 7"#), "{page}");
    }
}
