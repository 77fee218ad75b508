//! Fingerprints: what is kept of a request instead of its bytes.

use operators::records::RecordView;

/// The fingerprint of a record's key, value and headers: two records with the same one are equal.
pub(super) type Fingerprint = [u8; 16];

/// The fingerprint of a name; 0 for none.
pub(super) type NamePrint = u64;

/// The fingerprint of a name that may be absent.
pub(super) fn name(bytes: Option<&[u8]>) -> NamePrint {
    bytes.map_or(0, |bytes| {
        let hash = blake3::hash(bytes);
        let mut eight = [0; 8];
        eight.copy_from_slice(&hash.as_bytes()[..8]);
        NamePrint::from_le_bytes(eight).max(1)
    })
}

/// How much of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes of the key.
    pub(super) key: usize,
    /// Bytes of the value.
    pub(super) value: usize,
    /// Headers.
    pub(super) headers: usize,
}

impl Extent {
    /// All of it.
    pub(super) const ALL: Self = Self { key: usize::MAX, value: usize::MAX, headers: usize::MAX };

    /// The extent of a record.
    pub(super) fn of(record: RecordView<'_>) -> Self {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        Self { key: length(record.key()), value: length(record.value()), headers: record.headers().len() }
    }
}

/// The fingerprint of as much of a record as lies in `extent`.
pub(super) fn record(record: RecordView<'_>, extent: Extent) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: Option<&[u8]>| {
        // With its length in front, no part can be taken for the end of another; null is not empty.
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        hasher.update(&length.to_le_bytes()).update(bytes.unwrap_or_default());
    };
    part(record.key().map(|key| &key[..key.len().min(extent.key)]));
    part(record.value().map(|value| &value[..value.len().min(extent.value)]));
    for (name, value) in record.headers().take(extent.headers) {
        part(Some(name));
        part(value);
    }
    let mut sixteen = [0; 16];
    sixteen.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sixteen
}

#[cfg(test)]
mod tests {
    use operators::records::Records;
    use proptest::prelude::*;

    use super::*;

    type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn of(parts: &Parts) -> Fingerprint {
        let (key, value, headers) = parts;
        let mut records = Records::default();
        records.push(key.as_deref(), value.as_deref());
        for (name, value) in headers {
            records.push_header(name, value.as_deref());
        }
        record(records.get(0), Extent::ALL)
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || proptest::collection::vec(0_u8..2, 0..3);
        let maybe = move || proptest::option::of(bytes());
        (maybe(), maybe(), proptest::collection::vec((bytes(), maybe()), 0..3))
    }

    proptest! {
        #[test]
        fn records_are_equal_where_their_fingerprints_are(left in parts(), right in parts()) {
            prop_assert_eq!(left == right, of(&left) == of(&right));
        }
    }
}
