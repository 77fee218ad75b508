//! Who a producer is to the broker.

/// The broker's number for a transactional id, and how often it was handed out or a transaction ended: what an older epoch sends is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: i64,
    pub(super) epoch: i16,
}
