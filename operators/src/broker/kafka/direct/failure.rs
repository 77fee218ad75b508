//! What an error of the protocol means to the engine.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::error::ParseResponseErrorCode as _;

use crate::broker::{BrokerError, Class};

/// An error code of an answer; `None` for success.
pub(super) fn code(number: i16) -> Option<Code> {
    number.err()
}

/// Whether the same request may succeed a little later, perhaps at another broker, and certainly has done no harm.
pub(super) fn is_passing(code: Code) -> bool {
    match code {
        // The last transaction's markers are being written.
        Code::ConcurrentTransactions => true,
        // What is corrupt was made so by us, or by the line; the same bytes again would only be counted as another try.
        Code::CorruptMessage => false,
        code => code.is_retriable(),
    }
}

/// Whether the coordinator of a transaction or a group is to be looked for again.
pub(super) fn has_moved(code: Code) -> bool {
    matches!(code, Code::NotCoordinator | Code::CoordinatorNotAvailable)
}

/// The class of an error that a coordinator has answered to a call of a transaction.
pub(super) fn class_of_call(code: Code) -> Class {
    match code {
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::FencedInstanceId
        | Code::OffsetMetadataTooLarge
        | Code::RebalanceInProgress
        | Code::TransactionAbortable => Class::Abortable,
        Code::ProducerFenced | Code::InvalidProducerEpoch => Class::Fenced,
        code if refuses(code) => Class::Refused,
        code if is_passing(code) => Class::Retriable,
        _ => Class::Fatal,
    }
}

/// The class of a record's failed delivery: whatever it was, the transaction can't be committed. That another producer has taken over is
/// said for certain only by the coordinator, when the transaction is ended.
pub(super) fn class_of_delivery(code: Code) -> Class {
    if refuses(code) { Class::Refused } else { Class::Abortable }
}

fn refuses(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::InvalidTopicException
            | Code::InvalidGroupId
            | Code::InvalidTimestamp
            | Code::UnsupportedVersion
            | Code::UnsupportedForMessageFormat
            | Code::PolicyViolation
            | Code::InvalidRequest
    )
}

/// The error of a call that the broker has answered with a code.
pub(super) fn of(
    class: Class,
    operation: &'static str,
    code: Code,
    message: impl Into<String>,
) -> BrokerError {
    let message = message.into();
    let message = if message.is_empty() { code.to_string() } else { message };
    BrokerError { class, operation, code: name(code), message }
}

/// No broker has answered in time, or the line was lost: what became of the request is not known.
pub(super) fn unanswered(operation: &'static str, reason: impl Into<String>) -> BrokerError {
    BrokerError { class: Class::Retriable, operation, code: "_TRANSPORT".to_owned(), message: reason.into() }
}

/// Kafka's own name for an error: `ILLEGAL_GENERATION`.
fn name(code: Code) -> String {
    let known = match code {
        // These are called otherwise in Kafka, and by librdkafka, whose names the engine knows.
        Code::MessageTooLarge => Some("MSG_SIZE_TOO_LARGE"),
        Code::UnknownTopicOrPartition => Some("UNKNOWN_TOPIC_OR_PART"),
        Code::Unknown(number) => return format!("ERROR_{number}"),
        _ => None,
    };
    known.map_or_else(|| shouted(&format!("{code:?}")), str::to_owned)
}

/// `IllegalGeneration` as `ILLEGAL_GENERATION`.
fn shouted(name: &str) -> String {
    let mut shouted = String::with_capacity(name.len() + 8);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !shouted.is_empty() {
            shouted.push('_');
        }
        shouted.push(letter.to_ascii_uppercase());
    }
    shouted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_kafkas_own_names() {
        assert_eq!(name(Code::IllegalGeneration), "ILLEGAL_GENERATION");
        assert_eq!(name(Code::OffsetMetadataTooLarge), crate::commit::round::METADATA_TOO_LARGE);
        assert_eq!(name(Code::MessageTooLarge), "MSG_SIZE_TOO_LARGE");
        assert_eq!(name(Code::Unknown(999)), "ERROR_999");
    }

    #[test]
    fn a_stale_member_costs_the_transaction_and_a_rival_the_producer() {
        for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::StaleMemberEpoch] {
            assert_eq!(class_of_call(code), Class::Abortable, "{code:?}");
        }
        for code in [Code::ProducerFenced, Code::InvalidProducerEpoch] {
            assert_eq!(class_of_call(code), Class::Fenced, "{code:?}");
            assert_eq!(class_of_delivery(code), Class::Abortable, "{code:?}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_what_nobody_knows_is_fatal() {
        assert_eq!(class_of_call(Code::TransactionalIdAuthorizationFailed), Class::Refused);
        assert_eq!(class_of_delivery(Code::TopicAuthorizationFailed), Class::Refused);
        assert_eq!(class_of_call(Code::InvalidTxnState), Class::Fatal);
        assert_eq!(class_of_call(Code::Unknown(999)), Class::Fatal);
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for code in [Code::ConcurrentTransactions, Code::NotCoordinator, Code::UnknownTopicOrPartition] {
            assert!(is_passing(code), "{code:?}");
            assert_eq!(class_of_call(code), Class::Retriable, "{code:?}");
        }
        assert!(!is_passing(Code::CorruptMessage));
        assert!(!is_passing(Code::OutOfOrderSequenceNumber));
    }
}
