//! The right to read a partition, for one term.

use serde::{Deserialize, Serialize};

/// The number of a partition of the requests topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub i32);

/// The position of a record in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(pub i64);

impl Offset {
    /// The offset after this one.
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

/// The first offset of a partition that has not been read, or has not been committed. It is this that Kafka commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextOffset(pub i64);

/// The number of a grant: it grows with each, over all partitions of a process, and is never used twice in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

/// The right to read one partition, for one term. What belongs to an earlier term of the same partition is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The partition that may be read.
    pub partition: Partition,
    /// The term in which it may be read.
    pub term: Term,
}
