//! Which device a row goes to, of those that its model is placed on.
//!
//! A device is numbered as the worker that is its home. Rows of one key go to one device, so that they run in their order; where a request
//! has no key, its place in the log decides.

use crate::lease::{Lease, Offset};
use crate::partitioner::murmur2;

/// Spreads what is left of a hash once partitions have been chosen by it: `2^32` divided by the golden ratio (Knuth, *The Art of Computer
/// Programming*, volume 3, section 6.4).
const GOLDEN: u32 = 0x9e37_79b9;

/// The device of a request with this key that stands there in its topic.
///
/// ```
/// use operators::lease::{Lease, Offset, Partition, Term};
/// use operators::placement::device_of;
///
/// let lease = Lease { partition: Partition(3), term: Term(1) };
/// let device = device_of(&[0, 2], Some(b"acme|mlp-16"), lease, Offset(7));
/// assert!(device == 0 || device == 2);
/// assert_eq!(device, device_of(&[0, 2], Some(b"acme|mlp-16"), lease, Offset(8)));
/// ```
///
/// # Panics
///
/// If there is no device.
pub fn device_of(devices: &[usize], key: Option<&[u8]>, lease: Lease, offset: Offset) -> usize {
    if let [only] = devices {
        return *only;
    }
    let hash = match key {
        Some(key) => murmur2(key),
        None => murmur2(&[lease.partition.0.to_le_bytes().as_slice(), &offset.0.to_le_bytes()].concat()),
    };
    // All keys of a partition have the same remainder of their hashes, or nearly: what decides is what lies above it.
    let spread = (hash.wrapping_mul(GOLDEN) >> 16) as usize;
    devices[spread % devices.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Partition, Term};
    use crate::partitioner::partition_for_key;

    /// How many of these requests go to each of three devices.
    fn spread(keys: impl Iterator<Item = Option<String>>) -> [usize; 3] {
        let lease = Lease { partition: Partition(5), term: Term(1) };
        let mut counts = [0; 3];
        for (offset, key) in (0..).zip(keys) {
            counts[device_of(&[0, 1, 2], key.as_deref().map(str::as_bytes), lease, Offset(offset))] += 1;
        }
        counts
    }

    #[test]
    fn the_keys_of_a_partition_are_spread_over_all_devices() {
        for partitions in [1, 2, 3, 6, 64] {
            let all = (0..).map(|tenant| format!("tenant-{tenant}|mlp-16"));
            let own = all.filter(|key| partition_for_key(key.as_bytes(), partitions) == Partition(0));
            let counts = spread(own.take(3_000).map(Some));
            assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{partitions}: {counts:?}");
        }
    }

    #[test]
    fn requests_without_a_key_are_spread_by_their_offsets() {
        let counts = spread((0..3_000).map(|_| None));
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
