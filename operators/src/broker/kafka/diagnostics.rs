//! What librdkafka has to say goes to `tracing`.

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, error, info, warn};

/// A line of librdkafka's log.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(target: "librdkafka", facility, "{message}");
        }
        // A broker that went away is an error to librdkafka, which reconnects by itself.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Debug => debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// An error of a client as a whole. Most heal by themselves; those that do not also come as the error of a call. That no broker
/// answers is told with every attempt, hundreds of times a minute, and is in the log as well.
pub(super) fn client_error(error: &KafkaError, reason: &str) {
    if matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::BrokerTransportFailure)) {
        debug!(target: "librdkafka", %error, "{reason}");
    } else {
        warn!(target: "librdkafka", %error, "{reason}");
    }
}
