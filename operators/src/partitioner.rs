//! Which partition a key belongs to, exactly as Java's clients and librdkafka's `murmur2_random` have it.
//!
//! A topic that several clients write to keeps a key in one partition only if all of them agree on this function.

use crate::lease::Partition;

/// Java's seed for keys, which makes its hash a different one from the reference `MurmurHash2` with seed 0.
const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The 32-bit `MurmurHash2` of `bytes`, seeded as `org.apache.kafka.common.utils.Utils.murmur2` seeds it.
///
/// ```
/// // A value of Kafka's own tests, where it is the signed -790332482.
/// assert_eq!(operators::partitioner::murmur2(b"foobar"), 0xd0e4_7bbe);
/// ```
pub fn murmur2(bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks::<4>();
    // Java hashes the length as a 32-bit number too; a record's key is far below 4 GiB, so nothing is cut off.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = words.iter().fold(SEED ^ length, |hash, word| {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        let mixed = (mixed ^ (mixed >> 24)).wrapping_mul(MULTIPLIER);
        hash.wrapping_mul(MULTIPLIER) ^ mixed
    });
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0, |last, byte| (last << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition of `key` in a topic of `partitions` partitions, as Java's `DefaultPartitioner` chooses it.
///
/// ```
/// use operators::lease::Partition;
/// use operators::partitioner::partition_for_key;
///
/// assert_eq!(partition_for_key(b"tenant-3|mlp-16", 64), Partition(22));
/// ```
///
/// # Panics
///
/// If `partitions` is not positive: no such topic exists.
pub fn partition_for_key(key: &[u8], partitions: i32) -> Partition {
    assert!(partitions > 0, "a topic has at least one partition");
    // Java makes the hash positive by clearing its sign, not by taking the absolute value.
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    Partition(positive % partitions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn murmur2_agrees_with_an_independent_implementation() {
        // Written out by a Python implementation that works on whole numbers; the words are also in Kafka's own tests.
        let vectors: [(&[u8], u32); 11] = [
            (b"", 0x106e_08d9),
            (b"2", 0x26ae_77e8),
            (b"21", 0xc5f2_f8ec),
            (b"abc", 0x1c94_221b),
            (b"foobar", 0xd0e4_7bbe),
            (b"a-little-bit-long-string", 0xc53b_1da0),
            (b"a-little-bit-longer-string", 0xa768_c9c3),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 0xfc7d_49cd),
            (b"tenant-3|mlp-16", 0xda57_5d16),
            (b"\xff\xfe\x80\x00\x7f", 0xa07a_bb98),
            (b"\0\0\0\0\0\0\0\0", 0xe0d7_5103),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key), hash, "{key:?}");
        }
        let every_byte: Vec<u8> = (0..=255).collect();
        assert_eq!(murmur2(&every_byte), 0x8bde_9476);
    }

    #[test]
    fn the_sign_is_cleared_before_the_remainder_is_taken() {
        let partitions = [4, 8, 32, 64].map(|partitions| partition_for_key(b"foobar", partitions).0);
        assert_eq!(partitions, [2, 6, 30, 62]);
        assert_eq!(partition_for_key(b"21", 8), Partition(4));
    }

    proptest! {
        #[test]
        fn a_partition_is_always_one_of_the_topic(key: Vec<u8>, partitions in 1..i32::MAX) {
            prop_assert!((0..partitions).contains(&partition_for_key(&key, partitions).0));
        }
    }
}
