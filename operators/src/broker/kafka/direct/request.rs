//! The requests that are made, each in the one version that is spoken.
//!
//! All of these versions are those of transactions of version 2 (KIP-890, Kafka 4.0): a broker that has them has all of them, and with
//! one version each there is one way through each exchange.

use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, EndTxnRequest, EndTxnResponse, FetchRequest,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest,
    InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

/// A kind of request, and its version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) key: ApiKey,
    pub(super) version: i16,
}

/// A request of ours.
pub(super) trait Ask: Encodable + HeaderVersion {
    /// Its kind and version.
    const KIND: Kind;
    /// What the broker answers.
    type Answer: Decodable + HeaderVersion;
}

macro_rules! asks {
    ($($request:ident => $answer:ident, $key:ident $version:literal;)+) => {
        $(impl Ask for $request {
            const KIND: Kind = Kind { key: ApiKey::$key, version: $version };
            type Answer = $answer;
        })+

        /// All kinds that a broker has to speak.
        pub(super) const SPOKEN: &[Kind] = &[$(<$request as Ask>::KIND),+];
    };
}

asks! {
    ApiVersionsRequest => ApiVersionsResponse, ApiVersions 3;
    MetadataRequest => MetadataResponse, Metadata 12;
    FindCoordinatorRequest => FindCoordinatorResponse, FindCoordinator 4;
    InitProducerIdRequest => InitProducerIdResponse, InitProducerId 4;
    // From 13 on a topic is asked for by its id: one that was made anew under the same name is another one.
    FetchRequest => FetchResponse, Fetch 13;
    // From 12 on a transaction need not be told of the partition before.
    ProduceRequest => ProduceResponse, Produce 12;
    // From 5 on a transaction need not be told of the group before.
    TxnOffsetCommitRequest => TxnOffsetCommitResponse, TxnOffsetCommit 5;
    // From 5 on the answer has the next epoch.
    EndTxnRequest => EndTxnResponse, EndTxn 5;
}
