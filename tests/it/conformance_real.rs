//! The conformance suite against Apache Kafka.

use std::time::Duration;

use operators::broker::kafka::{ClientChoice, KafkaBroker, KafkaConfig};
use operators::clock::{Clock, SystemClock};

use crate::broker::operator::Cluster;
use crate::conformance::{Subject, conformance_tests};

/// With direct clients, asked for by name: `auto` would take the library where something is wrong with them.
fn subject(check: &str) -> Subject {
    with_clients(check, ClientChoice::Direct)
}

fn with_clients(check: &str, client: ClientChoice) -> Subject {
    let bootstrap = std::env::var("TIDEMILL_BOOTSTRAP")
        .expect("TIDEMILL_BOOTSTRAP names no broker; run `make test`, which starts one");
    let operator = Box::new(Cluster::new(&bootstrap));
    let mut config =
        KafkaConfig { producer_client: client, consumer_client: client, ..KafkaConfig::new(bootstrap) };
    // A group hears of a change with a heartbeat: at the default of three seconds a hand-over would take ten.
    config.consumer.insert("heartbeat.interval.ms".to_owned(), "300".to_owned());
    config.consumer.insert("topic.metadata.refresh.interval.ms".to_owned(), "500".to_owned());
    let hasty = KafkaConfig { transaction_timeout: Subject::SHORT, ..config.clone() };
    let mut named = config.clone();
    named.consumer.insert("group.instance.id".to_owned(), "named".to_owned());
    Subject {
        named: Box::new(KafkaBroker::new(named).expect("the configuration is sound")),
        broker: Box::new(KafkaBroker::new(config).expect("the configuration is sound")),
        hasty: Box::new(KafkaBroker::new(hasty).expect("the configuration is sound")),
        unique: format!("{check}-{}", SystemClock::new().wall_micros()),
        pass_time: Box::new(|| std::thread::park_timeout(Duration::from_millis(50))),
        operator,
    }
}

conformance_tests!(subject);

/// What depends on who produces and who reads, with the library's clients.
mod librdkafka {
    use operators::broker::kafka::ClientChoice;

    use crate::conformance::{Subject, member_tests, producer_tests};

    fn subject(check: &str) -> Subject {
        super::with_clients(&format!("{check}-librdkafka"), ClientChoice::Librdkafka)
    }

    producer_tests!(subject);
    member_tests!(subject);
}
