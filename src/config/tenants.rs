//! Tenants in the configuration: what each gets of a device, and how much it may ask for.

use std::collections::BTreeMap;

use operators::fair::WEIGHT_MAX;
use operators::quota::Quota;
use operators::share::Share;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::units::{Auto, Bound, Wait};

/// What may be set for a tenant.
pub(super) const TENANT_KEYS: [&str; 6] =
    ["weight", "priority", "rate_max", "burst", "in_flight_max", "wait_max"];

/// The longest id of a tenant that something is set for, in bytes.
const ID_MAX: usize = 256;

/// The tenants, as they are written: a default, and what differs.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TenantsFile {
    default: TenantFile,
    #[serde(flatten)]
    by_id: BTreeMap<String, TenantOverridesFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantFile {
    weight: Weight,
    priority: Priority,
    rate_max: Bound,
    burst: Auto<Burst>,
    in_flight_max: Bound,
    wait_max: Wait,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantOverridesFile {
    weight: Option<Weight>,
    priority: Option<Priority>,
    rate_max: Option<Bound>,
    burst: Option<Auto<Burst>>,
    in_flight_max: Option<Bound>,
    wait_max: Option<Wait>,
}

/// A weight, of tenants or of models.
pub(super) type Weight = Within<1, WEIGHT_MAX>;

type Priority = Within<0, 9>;

type Burst = Within<1, 1_000_000_000>;

/// A whole number between two others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let within = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        within
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{number} is not a number from {MIN} to {MAX}")))
    }
}

/// The tenants, as they are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// What a tenant gets for whom nothing is set.
    pub default: Share,
    /// What the others get, by id.
    pub by_id: BTreeMap<String, Share>,
    /// Those for whom a burst is set and no rate, `default` among them: it would be without effect.
    pub bursts_without_rate: Vec<String>,
}

/// What is wrong with the id of a tenant, if anything is.
pub(super) fn id_fault(id: &str) -> Option<&'static str> {
    match id.len() {
        0 => Some("a tenant's id is not empty"),
        1..=ID_MAX => None,
        _ => Some("nothing can be set for a tenant whose id has more than 256 bytes"),
    }
}

pub(super) fn tenants(written: &TenantsFile) -> Tenants {
    let default = &written.default;
    let of = |own: &TenantOverridesFile| {
        let rate = own.rate_max.unwrap_or(default.rate_max).0;
        let burst = own.burst.unwrap_or(default.burst).exactly();
        let in_flight_max = own.in_flight_max.unwrap_or(default.in_flight_max).0;
        Share {
            weight: own.weight.unwrap_or(default.weight).0,
            priority: small(own.priority.unwrap_or(default.priority)),
            quota: rate.map(|rate| Quota { rate, burst: burst.map_or(rate, |burst| burst.0) }),
            in_flight_max: in_flight_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
            wait_max: own.wait_max.unwrap_or(default.wait_max).0,
        }
    };
    let idle = |own: &TenantOverridesFile| {
        own.burst.is_some_and(|burst| burst.exactly().is_some())
            && own.rate_max.unwrap_or(default.rate_max).0.is_none()
    };
    let by_id = written.by_id.iter().map(|(id, own)| (id.clone(), of(own))).collect();
    let of_all = default.burst.exactly().is_some() && default.rate_max.0.is_none();
    let named = written.by_id.iter().filter(|(_, own)| idle(own)).map(|(id, _)| id.clone());
    let bursts_without_rate = of_all.then(|| "default".to_owned()).into_iter().chain(named).collect();
    Tenants { default: of(&TenantOverridesFile::default()), by_id, bursts_without_rate }
}

fn small(priority: Priority) -> u8 {
    u8::try_from(priority.0).expect("it is 9 at most")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Fault, Faults, Machine, Sources, load};

    fn loaded(sets: &[&str]) -> Result<Tenants, String> {
        let machine = Machine { host: Some("h".into()), cores: 2, ..Machine::default() };
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let loaded = load(&Sources { sets, machine, ..Sources::default() });
        let said = |faults: Faults| faults.iter().map(Fault::message).collect::<Vec<_>>().join("\n");
        loaded.map(|loaded| loaded.config.tenants).map_err(said)
    }

    #[test]
    fn a_tenant_has_what_is_set_for_it_and_else_the_default() {
        let tenants = loaded(&[
            "tenants.default.weight=2",
            "tenants.default.wait_max=3s",
            "tenants.default.rate_max=50",
            "tenants.acme.priority=3",
            "tenants.acme.rate_max=off",
            "tenants.acme.in_flight_max=7",
            "tenants.\"o' brian|x.y\".weight=1000",
            "tenants.\"o' brian|x.y\".burst=9",
            "tenants.\"o' brian|x.y\".wait_max=0s",
        ]);
        let quota = |burst| Some(Quota { rate: 50, burst });
        let default =
            Share { weight: 2, quota: quota(50), wait_max: Duration::from_secs(3), ..Share::default() };
        let acme = Share { priority: 3, quota: None, in_flight_max: Some(7), ..default };
        let brian = Share { weight: 1_000, quota: quota(9), wait_max: Duration::ZERO, ..default };
        let by_id = [("acme".to_owned(), acme), ("o' brian|x.y".to_owned(), brian)].into();
        assert_eq!(tenants, Ok(Tenants { default, by_id, bursts_without_rate: Vec::new() }));
    }

    #[test]
    fn without_settings_nobody_has_bounds() {
        let tenants = loaded(&[]).unwrap();
        assert_eq!((tenants.default, tenants.by_id.len()), (Share::default(), 0));
        assert!(!tenants.default.is_bounded());
    }

    #[test]
    fn what_can_not_be_set_is_refused_with_a_reason() {
        let refused = |set: &str| loaded(&[set]).unwrap_err();
        assert!(refused("tenants.acme.weight=0").contains("0 is not a number from 1 to 1000"));
        assert!(refused("tenants.acme.priority=10").contains("10 is not a number from 0 to 9"));
        assert!(refused("tenants.acme.rate_max=0").contains("0 is not a number of at least 1"));
        assert!(refused("tenants.acme.burst=0").contains("0 is not a number from 1 to 1000000000"));
        assert!(refused("tenants.acme.wait_max=soon").contains("is not a duration"));
        assert!(refused("tenants.acme.wieght=1").contains("unknown key `tenants.acme.wieght`"));
        assert!(refused("tenants.\"\".weight=1").contains("is not empty"));
        let long = format!("tenants.{}.weight=1", "x".repeat(257));
        assert!(refused(&long).contains("more than 256 bytes"));
    }
}
