//! Proof of membership in a group, as librdkafka has it and as the protocol does.

use std::sync::Arc;

use rdkafka::consumer::ConsumerGroupMetadata;

/// What a member of a group is to its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) group: String,
    /// Negative for who is not, or no longer, a member.
    pub(super) generation: i32,
    /// Empty for who is not, or no longer, a member.
    pub(super) member: String,
    /// The name under which the group keeps its partitions for it, if it has one.
    pub(super) instance: Option<String>,
}

/// A proof of membership, for either producer.
pub struct KafkaToken {
    pub(super) metadata: Arc<ConsumerGroupMetadata>,
    pub(super) membership: Membership,
}
