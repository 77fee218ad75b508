//! The conformance suite against Apache Kafka.

use std::time::Duration;

use operators::broker::kafka::{KafkaBroker, KafkaConfig, ProducerClient};
use operators::clock::{Clock, SystemClock};

use crate::broker::operator::Cluster;
use crate::conformance::{Subject, conformance_tests};

/// With the direct producer, asked for by name: `auto` would take the library where something is wrong with it.
fn subject(check: &str) -> Subject {
    with_producer(check, ProducerClient::Direct)
}

fn with_producer(check: &str, producer_client: ProducerClient) -> Subject {
    let bootstrap = std::env::var("TIDEMILL_BOOTSTRAP")
        .expect("TIDEMILL_BOOTSTRAP names no broker; run `make test`, which starts one");
    let operator = Box::new(Cluster::new(&bootstrap));
    let mut config = KafkaConfig { producer_client, ..KafkaConfig::new(bootstrap) };
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

/// What depends on the producer, with the library's.
mod librdkafka {
    use operators::broker::kafka::ProducerClient;

    use crate::conformance::{Subject, conformance_tests};

    fn subject(check: &str) -> Subject {
        super::with_producer(&format!("{check}-librdkafka"), ProducerClient::Librdkafka)
    }

    conformance_tests! { subject:
        a_committed_transaction_is_seen,
        an_aborted_transaction_is_never_seen,
        an_open_transaction_holds_back_what_is_behind_it,
        a_transaction_spans_partitions_and_topics,
        offsets_and_metadata_are_committed_with_the_transaction,
        offsets_of_an_aborted_transaction_are_forgotten,
        a_transaction_of_offsets_alone_commits,
        a_transaction_of_nothing_commits,
        a_transaction_whose_records_may_not_have_been_sent_is_aborted,
        metadata_over_the_limit_is_abortable,
        a_fenced_producer_can_do_nothing_more,
        a_new_producer_aborts_what_its_predecessor_left_open,
        a_stale_generation_is_abortable_and_the_producer_stays_good,
        a_member_that_has_left_cannot_commit,
        a_record_too_large_for_the_client_leaves_the_transaction_good,
        a_record_too_large_for_its_topic_leaves_the_transaction_good,
        a_transaction_over_its_time_is_aborted_and_its_producer_is_dead,
        what_a_plain_producer_has_drained_is_seen,
        a_record_too_large_leaves_a_plain_producer_good,
    }
}
