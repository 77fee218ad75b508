//! The models that a process serves, as decode and routing see them.

use std::sync::Arc;
use std::time::Duration;

use crate::cost::Sample;
use crate::model::Signature;

/// The place of a model in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ModelIndex(pub u32);

/// A model that is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its id.
    pub id: String,
    /// Its version: the first 16 hex digits of the file's BLAKE3.
    pub version: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// Whether NaN and infinities pass.
    pub not_finite: NotFinite,
    /// When a batch of it closes.
    pub batch: BatchPolicy,
    /// The most bytes of input in a batch, of more than one row. Where all rows are as large, `batch` has seen to it.
    pub bytes_max: usize,
    /// What batches of it took when it was loaded, if that was measured.
    pub measured: Vec<Sample>,
    /// How long its rows and its runs may take.
    pub limits: Limits,
    /// The devices that it is placed on, at least one, each numbered as the worker that is its home.
    pub devices: Vec<usize>,
}

/// What to do with NaN and infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFinite {
    /// An input or output that holds one makes its record a dead letter.
    #[default]
    Refuse,
    /// Inputs pass; in the result's JSON, which cannot write them, each is `null`.
    Allow,
}

/// When a window gives up its rows as a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchPolicy {
    /// When it is full, or its oldest row has waited long enough: to the letter.
    Static {
        /// Rows at most.
        size_max: usize,
        /// The longest that a row waits for others, counted from its poll.
        delay_max: Duration,
    },
    /// When it is best for every row to have its outcome in time.
    Slo {
        /// Rows at most.
        size_max: usize,
        /// The time from poll to outcome.
        slo: Duration,
    },
}

impl BatchPolicy {
    /// The most rows of a batch.
    pub fn size_max(self) -> usize {
        match self {
            Self::Static { size_max, .. } | Self::Slo { size_max, .. } => size_max,
        }
    }

    /// The same, with batches of at most `rows` rows; one row is always let through.
    pub fn within(self, rows: usize) -> Self {
        let within = |size_max: usize| size_max.min(rows).max(1);
        match self {
            Self::Static { size_max, delay_max } => Self::Static { size_max: within(size_max), delay_max },
            Self::Slo { size_max, slo } => Self::Slo { size_max: within(size_max), slo },
        }
    }
}

/// How long what a model does may take; without a bound, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From the poll of a row to its outcome.
    pub deadline: Option<Duration>,
    /// One run of the model.
    pub run_max: Option<Duration>,
}

/// What a model id leads to.
#[derive(Clone, Debug)]
pub enum Listing {
    /// A model that is served.
    Served(Arc<Served>),
    /// A model that exists and could not be loaded, and why.
    Unavailable {
        /// Its id.
        id: String,
        /// Why it could not be loaded.
        reason: String,
    },
}

impl Listing {
    /// The model's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Served(served) => &served.id,
            Self::Unavailable { id, .. } => id,
        }
    }
}

/// Every model of a process, sorted by id.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    listings: Vec<Listing>,
    devices: usize,
}

impl Catalog {
    /// A catalog of these models.
    ///
    /// # Panics
    ///
    /// If two have the same id.
    pub fn new(mut listings: Vec<Listing>) -> Self {
        listings.sort_by(|left, right| left.id().cmp(right.id()));
        assert!(listings.windows(2).all(|pair| pair[0].id() != pair[1].id()), "a model id is listed once");
        let served = listings.iter().filter_map(|listing| match listing {
            Listing::Served(served) => Some(served),
            Listing::Unavailable { .. } => None,
        });
        let last = served.flat_map(|served| &served.devices).max();
        let devices = last.map_or(0, |last| last + 1);
        Self { listings, devices }
    }

    /// How many devices there are: one more than the last that a model is placed on.
    pub fn devices(&self) -> usize {
        self.devices.max(1)
    }

    /// The place of the model of this id.
    pub fn find(&self, id: &[u8]) -> Option<ModelIndex> {
        let place = self.listings.binary_search_by(|listing| listing.id().as_bytes().cmp(id)).ok()?;
        Some(ModelIndex(u32::try_from(place).ok()?))
    }

    /// The listing at a place.
    ///
    /// # Panics
    ///
    /// If the place is of another catalog.
    pub fn listing(&self, model: ModelIndex) -> &Listing {
        &self.listings[model.0 as usize]
    }

    /// The model at a place, if it is served.
    pub fn served(&self, model: ModelIndex) -> Option<&Arc<Served>> {
        match self.listings.get(model.0 as usize) {
            Some(Listing::Served(served)) => Some(served),
            _ => None,
        }
    }

    /// Every listing, sorted by id.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }
}
