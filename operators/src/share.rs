//! What was said of shares: which tenants and models get more of a device than others.
//!
//! Plain data. Who is served next is decided in [`tenants`](crate::tenants) and [`fair`](crate::fair).

use std::collections::BTreeMap;

/// What a tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its part of the time of a device, against the weights of the others that wait.
    pub weight: u32,
    /// Whom it comes before: every tenant of a smaller one.
    pub priority: u8,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, priority: 0 }
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

    /// The weight of the model of this id.
    pub fn of_model(&self, id: &str) -> u32 {
        self.models.get(id).copied().unwrap_or(1)
    }
}
