//! Which librdkafka properties can't be passed through: those that the broker's clients refuse, and a few for which there is a better
//! place.

use operators::broker::kafka::{self, ClientKind};

/// Why a property of a client can't be set, if it can't: `kind` is `consumer`, `producer` or `admin`.
pub fn refused_property(kind: &str, property: &str) -> Option<&'static str> {
    let client = match kind {
        "consumer" => ClientKind::Consumer,
        "producer" => ClientKind::Producer,
        _ => ClientKind::Admin,
    };
    match (client, property) {
        (_, "bootstrap.servers" | "metadata.broker.list") => {
            Some("`kafka.bootstrap_servers` is the key for it")
        }
        (ClientKind::Consumer, "group.id") => Some("`kafka.group` is the key for it"),
        (ClientKind::Consumer, "group.protocol") => Some("`kafka.group_protocol` is the key for it"),
        (ClientKind::Consumer, "session.timeout.ms") => Some("`kafka.session_timeout` is the key for it"),
        (ClientKind::Consumer, "group.instance.id") => {
            Some("`kafka.static_membership` and `kafka.instance` are the keys for it")
        }
        (ClientKind::Producer, "transaction.timeout.ms") => {
            Some("`kafka.transaction_timeout` is the key for it")
        }
        (ClientKind::Producer, "transactional.id") => {
            Some("`kafka.group` and `kafka.instance` are the keys for it")
        }
        _ => kafka::refused_property(client, property),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_promise_is_refused_and_the_rest_passes() {
        assert!(refused_property("consumer", "isolation.level").is_some());
        assert!(refused_property("producer", "transactional.id").is_some());
        assert!(refused_property("producer", "acks").is_some());
        for property in ["security.protocol", "sasl.password", "ssl.ca.location", "client.rack"] {
            assert_eq!(refused_property("consumer", property), None);
            assert_eq!(refused_property("producer", property), None);
        }
    }
}
