//! The order in which the outcomes of a lease are committed, and, for order by key, whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;

use crate::lease::Offset;
use crate::partitioner::murmur2;

/// Which outcomes of a lease may be committed before which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitOrder {
    /// In the order of offsets. A straggler holds back everything behind it in its partition, and nothing but an offset is committed.
    #[default]
    Partition,
    /// In the order of offsets among the records of a key. A straggler holds back its own key.
    Key,
    /// As they come.
    None,
}

/// A record's key, as far as order asks for it: keys that share a hash wait for each other, which is more order than was asked for.
/// `None` for a record without key, which waits for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey(Option<NonZeroU32>);

impl OrderKey {
    /// Of a record that waits for no other.
    pub const FREE: Self = Self(None);

    /// Of a record with this key.
    pub fn of(key: Option<&[u8]>) -> Self {
        Self(key.and_then(|key| NonZeroU32::new(murmur2(key) | 1)))
    }
}

/// Whose turn it is among the records of each key.
///
/// ```
/// use operators::commit_order::{OrderKey, Turns};
/// use operators::lease::Offset;
///
/// let (mut turns, key) = (Turns::default(), OrderKey::of(Some(b"acme|mlp-16")));
/// turns.open(key, Offset(1));
/// turns.open(key, Offset(2));
/// let mut free = Vec::new();
/// turns.close(key, Offset(2), |offset| free.push(offset));
/// assert!(free.is_empty(), "the first of the key is still open");
/// turns.close(key, Offset(1), |offset| free.push(offset));
/// assert_eq!(free, [Offset(1), Offset(2)]);
/// ```
#[derive(Debug, Default)]
pub struct Turns {
    /// Of each key those that have not had their turn, in order, and whether each is closed.
    waiting: BTreeMap<OrderKey, VecDeque<(Offset, bool)>>,
}

impl Turns {
    /// Notes that a record was opened, after every earlier one of its key.
    pub fn open(&mut self, key: OrderKey, offset: Offset) {
        if key != OrderKey::FREE {
            self.waiting.entry(key).or_default().push_back((offset, false));
        }
    }

    /// Notes that a record was closed, and gives each record whose turn has come by that to `free`, in order.
    pub fn close(&mut self, key: OrderKey, offset: Offset, mut free: impl FnMut(Offset)) {
        let Some(waiting) = self.waiting.get_mut(&key) else { return free(offset) };
        if let Ok(place) = waiting.binary_search_by_key(&offset, |(offset, _)| *offset) {
            waiting[place].1 = true;
        }
        while let Some((offset, true)) = waiting.front() {
            free(*offset);
            waiting.pop_front();
        }
        if waiting.is_empty() {
            self.waiting.remove(&key);
        }
    }
}
