//! Whatever a producer compresses its requests with.

use std::time::Duration;

use operators::broker::Broker as _;
use operators::broker::kafka::{ClientChoice, KafkaBroker, KafkaConfig};
use operators::records::Records;

use super::reader::Reader;
use super::{broker, config, make_topic, unique, until};

/// By either reader, as it was written.
#[test]
fn whatever_a_producer_compresses_with_is_read() {
    const EACH: usize = 200;
    let topic = make_topic(&broker(), "requests", 1);
    let mut sent = Records::default();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let mut config = config();
        config.producer.insert("compression.type".to_owned(), codec.to_owned());
        let mut writer = KafkaBroker::new(config).unwrap().writer().unwrap();
        for place in 0..EACH {
            let value = format!("{codec} {place} ").repeat(place);
            let index = sent.push(Some(codec.as_bytes()), Some(value.as_bytes()));
            writer.write(&topic, Some(0), None, sent.get(index), 0).unwrap();
        }
        until("the writes", || writer.flush(Duration::from_millis(50)).then_some(()));
    }
    for consumer_client in [ClientChoice::Direct, ClientChoice::Librdkafka] {
        let broker = KafkaBroker::new(KafkaConfig { consumer_client, ..config() }).unwrap();
        let mut reader = Reader::new(&broker, &unique("group"), &topic);
        until("the records", || {
            reader.step();
            (reader.polled.records.len() >= sent.len()).then_some(())
        });
        assert!(reader.polled.records == sent, "{consumer_client:?}");
    }
}
