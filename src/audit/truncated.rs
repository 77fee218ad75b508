//! Truncated letters: those too large for the dead-letter topic, compared with their requests in a reading of its own.
//!
//! A letter that says that it was cut holds the first 4 KiB of the value; where that is not enough, less of the key and fewer headers.
//! Its fingerprint can't be compared with one of the whole request. Such letters are rare, so the request is read again.

use std::collections::BTreeMap;

use operators::lease::{Offset, Partition};
use operators::records::RecordView;

use super::fingerprint::{self, Extent, Fingerprint};
use super::report::Place;

/// Bytes of the value in a truncated letter.
const VALUE_BYTES: usize = 4096;

/// What the headers of a letter may take, beside the request in it.
const LETTERHEAD_BYTES: usize = 8192;

/// What a header may take beside its name and its value.
const HEADER_BYTES: usize = 16;

/// A truncated letter.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) place: Place,
    /// What it has of the request.
    pub(super) extent: Extent,
    /// Of that much.
    pub(super) found: Fingerprint,
}

/// The truncated letters that have been read, by origin.
#[derive(Debug)]
pub(super) struct Truncated {
    pub(super) letters: BTreeMap<Partition, BTreeMap<Offset, Vec<Cut>>>,
    /// A letter that is smaller than this must not be truncated.
    bytes_max: usize,
}

impl Truncated {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { letters: BTreeMap::new(), bytes_max }
    }

    pub(super) fn push(&mut self, partition: Partition, offset: Offset, cut: Cut) {
        self.letters.entry(partition).or_default().entry(offset).or_default().push(cut);
    }

    /// What is wrong with the cut of a letter of this request, if anything is.
    pub(super) fn complaint(&self, request: RecordView<'_>, cut: &Cut) -> Option<String> {
        let whole = Extent::of(request);
        if fingerprint::record(request, cut.extent) != cut.found {
            return Some("key, value or headers of the request were changed".to_owned());
        }
        if cut.extent == whole {
            return Some("it says that it is truncated, and it is whole".to_owned());
        }
        if cut.extent.value != whole.value.min(VALUE_BYTES) {
            return Some(format!("it has {} bytes of the value, not the first 4 KiB", cut.extent.value));
        }
        let bytes = request.payload_bytes() + HEADER_BYTES * whole.headers;
        (bytes.saturating_add(LETTERHEAD_BYTES) < self.bytes_max)
            .then(|| format!("it is truncated, and the request has only {bytes} bytes"))
    }
}
