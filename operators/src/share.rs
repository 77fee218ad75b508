//! What was said of shares: which tenants and models get more of a device than others, and how much a tenant may ask for.
//!
//! Plain data. Who is served next is decided in [`tenants`](crate::tenants) and [`fair`](crate::fair), what has to wait
//! before it may be served at all in [`gate`](crate::gate).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::quota::Quota;

/// What a tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its part of the time of a device, against the weights of the others that wait.
    pub weight: u32,
    /// Whom it comes before: every tenant of a smaller one.
    pub priority: u8,
    /// How many of its records may pass in a time; `None` for any number.
    pub quota: Option<Quota>,
    /// How many of its records may be in inference, from the gate to their outcomes; `None` for any number.
    pub in_flight_max: Option<usize>,
    /// How long a record that is over one of both waits, counted from its poll, before it becomes a dead letter.
    pub wait_max: Duration,
}

/// How long a record that is over the bounds of its tenant waits where nothing is said.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

impl Share {
    /// Whether there is anything that the tenant may have too much of.
    pub fn is_bounded(&self) -> bool {
        self.quota.is_some() || self.in_flight_max.is_some()
    }

    /// The bounds, for people.
    pub fn bounds(&self) -> String {
        let quota =
            self.quota.map(|quota| format!("{} records a second, {} at once", quota.rate, quota.burst));
        let in_flight = self.in_flight_max.map(|max| format!("{max} in inference"));
        let bounds: Vec<String> = quota.into_iter().chain(in_flight).collect();
        bounds.join(", and ")
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, priority: 0, quota: None, in_flight_max: None, wait_max: WAIT_MAX }
    }
}

/// The shares of tenants and models. Whoever is not listed has the default, and a model that is not listed the weight 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Of tenants that are not listed.
    pub default: Share,
    /// Of tenants, by id.
    pub tenants: BTreeMap<String, Share>,
    /// The weights of models, by id.
    pub models: BTreeMap<String, u32>,
}

impl Shares {
    /// The share of the tenant of this id.
    pub fn of(&self, tenant: &str) -> Share {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }

    /// Whether a tenant is bounded.
    pub fn has_bounds(&self) -> bool {
        self.default.is_bounded() || self.tenants.values().any(Share::is_bounded)
    }

    /// The weight of the model of this id.
    pub fn of_model(&self, id: &str) -> u32 {
        self.models.get(id).copied().unwrap_or(1)
    }
}

/// Ids of tenants up to this length are kept as they are, in bytes.
pub(crate) const ID_KEPT_MAX: usize = 64;

/// What stands for the id of a tenant: itself, or, if it is long, its hash, which no short id is as long as.
pub(crate) fn id_key(id: &str) -> Cow<'_, [u8]> {
    if id.len() <= ID_KEPT_MAX {
        return Cow::Borrowed(id.as_bytes());
    }
    let mut key = blake3::hash(id.as_bytes()).as_bytes().to_vec();
    key.resize(ID_KEPT_MAX + 1, 0);
    Cow::Owned(key)
}
