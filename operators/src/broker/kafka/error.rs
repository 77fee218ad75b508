//! What an error of librdkafka means to the engine.

use rdkafka::error::{KafkaError, RDKafkaError, RDKafkaErrorCode as Code};

use super::native;
use crate::broker::{BrokerError, Class};

/// What librdkafka says of an error of a transactional call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) code: Code,
    pub(super) fatal: bool,
    pub(super) abortable: bool,
    pub(super) retriable: bool,
}

impl From<&RDKafkaError> for Facts {
    fn from(error: &RDKafkaError) -> Self {
        Self {
            code: error.code(),
            fatal: error.is_fatal(),
            abortable: error.txn_requires_abort(),
            retriable: error.is_retriable(),
        }
    }
}

/// The class of an error of a transactional call. The order matters: a fatal error may carry other marks, and an error without any
/// leaves the producer in a state that nobody knows.
pub(super) fn class_of_transaction(facts: Facts) -> Class {
    if facts.fatal {
        if fences(facts.code) { Class::Fenced } else { Class::Fatal }
    } else if refuses(facts.code) {
        // Also where the transaction could be aborted: the next one would end in the same way.
        Class::Refused
    } else if facts.abortable {
        Class::Abortable
    } else if facts.retriable {
        Class::Retriable
    } else {
        Class::Fatal
    }
}

/// The class of an error outside of transactions: of a consumer, an admin client, or a delivery.
pub(super) fn class_of(code: Code) -> Class {
    match code {
        Code::QueueFull => Class::QueueFull,
        Code::MessageSizeTooLarge => Class::TooLarge,
        Code::UnstableOffsetCommit
        | Code::NotCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::PollExceeded
        | Code::RebalanceInProgress => Class::Retriable,
        code if fences(code) => Class::Fenced,
        code if refuses(code) => Class::Refused,
        code if unreachable(code) => Class::Unreachable,
        _ => Class::Fatal,
    }
}

/// The class of a record's failed delivery within a transaction: whatever it was, the transaction can't be committed.
pub(super) fn class_of_delivery(code: Code) -> Class {
    match class_of(code) {
        class @ (Class::Fenced | Class::Refused) => class,
        _ => Class::Abortable,
    }
}

/// The class of an error of a commit outside of transactions.
pub(super) fn class_of_commit(code: Code) -> Class {
    match code {
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::AssignmentLost
        | Code::OffsetMetadataTooLarge => Class::Abortable,
        code => class_of(code),
    }
}

fn fences(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::FencedInstanceId
            | Code::UnreleasedInstanceId
    )
}

fn unreachable(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::WaitingForCoordinator
    )
}

fn refuses(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::SSL
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::InvalidArgument
            | Code::InvalidConfig
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidTransactionTimeout
            | Code::InvalidSessionTimeout
            | Code::InvalidGroupId
            | Code::InvalidTimestamp
            | Code::InconsistentGroupProtocol
            | Code::GroupMaxSizeReached
            | Code::PolicyViolation
            | Code::TopicAlreadyExists
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedAssignor
    )
}

/// An error with a code, outside of transactions.
pub(super) fn by_code(operation: &'static str, code: Code, message: impl Into<String>) -> BrokerError {
    with_class(class_of(code), operation, code, message)
}

/// An error whose class is known already.
pub(super) fn with_class(
    class: Class,
    operation: &'static str,
    code: Code,
    message: impl Into<String>,
) -> BrokerError {
    let message = message.into();
    let message = if message.is_empty() { code.to_string() } else { message };
    BrokerError { class, operation, code: native::error_name(code), message }
}

/// An error of the bindings.
pub(super) fn of(operation: &'static str, error: &KafkaError) -> BrokerError {
    match error {
        KafkaError::Transaction(error) => {
            with_class(class_of_transaction(error.into()), operation, error.code(), error.string())
        }
        KafkaError::ClientConfig(_, description, key, value) => {
            // The value may be a secret, and librdkafka quotes it.
            let description = if value.is_empty() {
                description.clone()
            } else {
                description.replace(value.as_str(), "...")
            };
            refused(operation, "_INVALID_ARG", format!("{key}: {description}"))
        }
        KafkaError::ClientCreation(reason) | KafkaError::AdminOpCreation(reason) => {
            refused(operation, "_INVALID_ARG", reason.clone())
        }
        KafkaError::AdminOp(code) => by_code(operation, *code, ""),
        error => match error.rdkafka_error_code() {
            Some(code) => by_code(operation, code, ""),
            None => BrokerError {
                class: Class::Fatal,
                operation,
                code: "_FAIL".to_owned(),
                message: error.to_string(),
            },
        },
    }
}

/// Refused, for a reason that no further call will change.
pub(super) fn refused(operation: &'static str, code: &str, message: impl Into<String>) -> BrokerError {
    BrokerError { class: Class::Refused, operation, code: code.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts { code: Code::Fail, fatal: false, abortable: false, retriable: false };

    #[test]
    fn a_fatal_mark_counts_before_every_other() {
        let all = Facts { fatal: true, abortable: true, retriable: true, ..PLAIN };
        assert_eq!(class_of_transaction(all), Class::Fatal);
        for code in [Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch] {
            assert_eq!(class_of_transaction(Facts { code, ..all }), Class::Fenced);
        }
        assert_eq!(
            class_of_transaction(Facts { code: Code::InvalidTransactionalState, ..all }),
            Class::Fatal
        );
    }

    #[test]
    fn abort_counts_before_retry_and_no_mark_at_all_is_fatal() {
        let both = Facts { abortable: true, retriable: true, ..PLAIN };
        assert_eq!(class_of_transaction(both), Class::Abortable);
        assert_eq!(class_of_transaction(Facts { abortable: false, ..both }), Class::Retriable);
        assert_eq!(class_of_transaction(PLAIN), Class::Fatal);
    }

    #[test]
    fn a_stale_member_only_costs_the_transaction() {
        for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::StaleMemberEpoch] {
            assert_eq!(
                class_of_transaction(Facts { code, abortable: true, ..PLAIN }),
                Class::Abortable,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_stale_member_has_committed_nothing_and_may_become_a_member_again() {
        for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::StaleMemberEpoch] {
            assert_eq!(class_of_commit(code), Class::Abortable, "{code:?}");
        }
        assert_eq!(class_of_commit(Code::RebalanceInProgress), Class::Retriable);
        assert_eq!(class_of_commit(Code::OperationTimedOut), Class::Unreachable);
        assert_eq!(class_of_commit(Code::GroupAuthorizationFailed), Class::Refused);
    }

    #[test]
    fn what_is_not_allowed_is_refused_rather_than_aborted_for_ever() {
        let facts = Facts { code: Code::TopicAuthorizationFailed, abortable: true, ..PLAIN };
        assert_eq!(class_of_transaction(facts), Class::Refused);
        assert_eq!(class_of_delivery(Code::TopicAuthorizationFailed), Class::Refused);
    }

    #[test]
    fn a_failed_delivery_costs_the_transaction_whatever_it_was() {
        for code in [Code::MessageSizeTooLarge, Code::MessageTimedOut, Code::InvalidRecord, Code::PurgeQueue]
        {
            assert_eq!(class_of_delivery(code), Class::Abortable, "{code:?}");
        }
    }

    #[test]
    fn errors_carry_kafkas_own_names() {
        assert_eq!(native::error_name(Code::IllegalGeneration), "ILLEGAL_GENERATION");
        assert_eq!(native::error_name(Code::OperationTimedOut), "_TIMED_OUT");
        let error = by_code("describe the topic", Code::OperationTimedOut, "");
        assert_eq!(error.class, Class::Unreachable);
        assert!(error.to_string().starts_with("could not describe the topic: "), "{error}");
    }

    #[test]
    fn a_refused_value_is_not_printed() {
        let error = KafkaError::ClientConfig(
            rdkafka_sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID,
            "invalid value \"hunter2\"".to_owned(),
            "ssl.key.password".to_owned(),
            "hunter2".to_owned(),
        );
        let error = of("make the client", &error);
        assert_eq!(error.class, Class::Refused);
        assert_eq!(error.message, "ssl.key.password: invalid value \"...\"");
    }
}
