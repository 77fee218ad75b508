//! The file of one process as bytes: a header, and a slot of fixed length each executor.
//!
//! A slot is written in one piece before the model is called. Whoever is killed while it is written had not called yet: the sum does not
//! fit, and the slot counts for nothing.

use std::collections::BTreeSet;

use super::Name;
use crate::lease::{Offset, Partition};

const MAGIC: &[u8; 8] = b"tidemilJ";
const VERSION: u32 = 1;
/// The longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;
/// Magic, version, rows of a slot, length of the topic's name, the name, sum.
const HEADER_BYTES: usize = 8 + 4 + 4 + 4 + TOPIC_BYTES_MAX + SUM_BYTES;
const SUM_BYTES: usize = 8;
const NAME_BYTES: usize = 4 + 8 + 8;
/// Count, and sum.
const SLOT_HEAD_BYTES: usize = 4 + SUM_BYTES;

/// The beginning of a slot in which nothing is in flight.
pub(super) const EMPTY_SLOT: [u8; 4] = [0; 4];

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it ends before its header does")]
    Truncated,
    #[error("it was written by another program, or is damaged")]
    Foreign,
    #[error("it was written by another version of this program")]
    Version,
    #[error("it is larger than any journal")]
    TooLarge,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) topic: String,
    pub(super) names: BTreeSet<Name>,
    /// Slots that were cut off or are damaged.
    pub(super) torn: usize,
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..SUM_BYTES].try_into().expect("a hash is longer")
}

/// The header of a file whose slots hold so many rows.
pub(super) fn header(topic: &str, rows_max: usize) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(u32::try_from(rows_max).unwrap_or(u32::MAX).to_le_bytes());
    let topic = &topic.as_bytes()[..topic.len().min(TOPIC_BYTES_MAX)];
    header.extend(u32::try_from(topic.len()).expect("it is short").to_le_bytes());
    header.extend(topic);
    header.resize(HEADER_BYTES - SUM_BYTES, 0);
    header.extend(sum(&header));
    header
}

/// Where the slot at `place` begins.
pub(super) fn slot_start(place: usize, rows_max: usize) -> u64 {
    (HEADER_BYTES + place * slot_bytes(rows_max)) as u64
}

fn slot_bytes(rows_max: usize) -> usize {
    SLOT_HEAD_BYTES + rows_max * NAME_BYTES
}

/// Writes a slot with these names into `into`, in place of what is there.
pub(super) fn slot(into: &mut Vec<u8>, names: impl Iterator<Item = Name>) {
    into.clear();
    into.resize(SLOT_HEAD_BYTES, 0);
    let mut count = 0_u32;
    for Name { partition, offset, millis } in names {
        into.extend(partition.0.to_le_bytes());
        into.extend(offset.0.to_le_bytes());
        into.extend(millis.to_le_bytes());
        count += 1;
    }
    into[..4].copy_from_slice(&count.to_le_bytes());
    let sum = sum(&into[SLOT_HEAD_BYTES..]);
    into[4..SLOT_HEAD_BYTES].copy_from_slice(&sum);
}

/// Reads a file, whatever is in it.
pub(super) fn decode(bytes: &[u8]) -> Result<Found, Unreadable> {
    let head = bytes.get(..HEADER_BYTES).ok_or(
        if MAGIC.starts_with(&bytes[..bytes.len().min(8)]) || bytes.starts_with(MAGIC) {
            Unreadable::Truncated
        } else {
            Unreadable::Foreign
        },
    )?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let (said, told) = head.split_at(HEADER_BYTES - SUM_BYTES);
    if !head.starts_with(MAGIC) {
        return Err(Unreadable::Foreign);
    }
    if number(8) != VERSION {
        return Err(Unreadable::Version);
    }
    let (rows_max, topic_bytes) = (number(12) as usize, number(16) as usize);
    let topic = said.get(20..).and_then(|rest| rest.get(..topic_bytes));
    let topic = topic.and_then(|topic| std::str::from_utf8(topic).ok()).filter(|_| sum(said) == told);
    let topic = topic.ok_or(Unreadable::Foreign)?.to_owned();
    let mut found = Found { topic, names: BTreeSet::new(), torn: 0 };
    for slot in bytes[HEADER_BYTES..].chunks(slot_bytes(rows_max)) {
        match names(slot) {
            Some(names) => found.names.extend(names),
            None => found.torn += 1,
        }
    }
    Ok(found)
}

/// The names in a slot, if it is whole. The last slot of a file is as long as what was written in it.
fn names(slot: &[u8]) -> Option<impl Iterator<Item = Name>> {
    let count = u32::from_le_bytes(slot.get(..4)?.try_into().expect("four bytes")) as usize;
    let rows: &[u8] = if count == 0 {
        &[]
    } else {
        let rows = slot.get(SLOT_HEAD_BYTES..)?.get(..count.checked_mul(NAME_BYTES)?)?;
        (sum(rows) == slot[4..SLOT_HEAD_BYTES]).then_some(rows)?
    };
    Some(rows.chunks_exact(NAME_BYTES).map(|row| {
        let eight = |at: usize| i64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
        let partition = Partition(i32::from_le_bytes(row[..4].try_into().expect("four bytes")));
        Name { partition, offset: Offset(eight(4)), millis: eight(12) }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROWS_MAX: usize = 5;

    fn name() -> impl Strategy<Value = Name> {
        (any::<i32>(), any::<i64>(), any::<i64>()).prop_map(|(partition, offset, millis)| Name {
            partition: Partition(partition),
            offset: Offset(offset),
            millis,
        })
    }

    /// A file, and the names in each of its slots.
    fn file() -> impl Strategy<Value = (Vec<u8>, Vec<BTreeSet<Name>>)> {
        prop::collection::vec(prop::collection::btree_set(name(), 0..=ROWS_MAX), 0..5).prop_map(|slots| {
            let (mut file, mut buffer) = (header("requests", ROWS_MAX), Vec::new());
            for (place, names) in slots.iter().enumerate() {
                slot(&mut buffer, names.iter().copied());
                file.resize(usize::try_from(slot_start(place, ROWS_MAX)).unwrap(), 0xee);
                file.extend(&buffer);
            }
            (file, slots)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((file, slots) in file()) {
            let names = slots.into_iter().flatten().collect();
            prop_assert_eq!(decode(&file), Ok(Found { topic: "requests".to_owned(), names, torn: 0 }));
        }

        #[test]
        fn whatever_bytes_there_are_they_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..700), ours in any::<bool>()) {
            // Also after a header of ours.
            let file = if ours { [header("requests", ROWS_MAX), bytes].concat() } else { bytes };
            prop_assert!(decode(&file).is_ok() == ours);
        }

        /// A name is never made up: whatever happens to a file, what is read of it was written, and the slots that were spared are read.
        #[test]
        fn damage_costs_the_slot_that_it_hits_and_no_other(
            (file, slots) in file(), at in any::<prop::sample::Index>(), flip in 1_u8..=255, cut in any::<bool>(),
        ) {
            let at = at.index(file.len());
            let mut damaged = file;
            if cut { damaged.truncate(at) } else { damaged[at] ^= flip }
            let hit = at.checked_sub(HEADER_BYTES).map(|at| at / slot_bytes(ROWS_MAX));
            match (decode(&damaged), hit) {
                (Ok(found), Some(hit)) => {
                    let whole: BTreeSet<Name> = slots.iter().flatten().copied().collect();
                    prop_assert!(found.names.is_subset(&whole));
                    let lost = if cut { hit..slots.len() } else { hit..hit + 1 };
                    let spared = slots.iter().enumerate().filter(|(place, _)| !lost.contains(place));
                    let spared: BTreeSet<Name> = spared.flat_map(|(_, names)| names).copied().collect();
                    prop_assert!(found.names.is_superset(&spared));
                }
                (found, _) => prop_assert!(found.is_err() && hit.is_none()),
            }
        }
    }

    #[test]
    fn a_header_says_whose_file_it_is() {
        assert_eq!(decode(b""), Err(Unreadable::Truncated));
        assert_eq!(decode(&header("requests", 1)[..100]), Err(Unreadable::Truncated));
        assert_eq!(decode(b"something else"), Err(Unreadable::Foreign));
        let mut later = header("requests", 1);
        later[8] = 2;
        assert_eq!(decode(&later), Err(Unreadable::Version));
    }
}
