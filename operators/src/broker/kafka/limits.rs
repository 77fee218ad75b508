//! The largest record that a topic takes, so that one too large is refused before it costs its whole transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admin::KafkaAdmin;
use super::config::KafkaConfig;
use crate::broker::{Admin, BrokerError};
use crate::records::RecordView;

/// The limits of the topics that a producer has sent to.
pub(super) struct TopicLimits {
    config: KafkaConfig,
    known: BTreeMap<String, usize>,
    /// The largest batch that the producer makes, whatever its topic takes; `None` for one that asks for the limit.
    batch: Option<usize>,
}

impl TopicLimits {
    /// None are known yet. Each is asked for once, and waited for no longer than `wait`.
    pub(super) fn new(config: &KafkaConfig, wait: Duration) -> Self {
        Self { batch: Some(batch_max(&config.producer)), ..Self::of_any_batch(config, wait) }
    }

    /// The same, for a producer that makes no batch larger than its topic takes.
    pub(super) fn of_any_batch(config: &KafkaConfig, wait: Duration) -> Self {
        let config = KafkaConfig { start_up_max: wait, ..config.clone() };
        Self { config, known: BTreeMap::new(), batch: None }
    }

    /// Whether a record is too large for its topic, however it is batched and compressed; then, the topic's limit.
    pub(super) fn exceeded(&mut self, topic: &str, record: RecordView<'_>) -> Option<usize> {
        let limit = self.largest(topic);
        (record.wire_bytes() > limit).then_some(limit)
    }

    /// The largest record, or batch, that a topic takes.
    pub(super) fn largest(&mut self, topic: &str) -> usize {
        match self.known.get(topic) {
            Some(limit) => *limit,
            None => self.learn(topic),
        }
    }

    /// Forgets all limits: one of them was wrong.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    fn learn(&mut self, topic: &str) -> usize {
        // Who may write to a topic need not be allowed to describe it. Then the broker refuses what is too large.
        let limit = self.ask(topic).unwrap_or_else(|error| {
            tracing::warn!(topic, %error, "the topic's largest record is not known");
            None
        });
        let limit = limit.unwrap_or(usize::MAX);
        if let Some(batch) = self.batch.filter(|batch| limit < *batch) {
            tracing::warn!(
                topic,
                limit,
                batch,
                "the topic takes smaller batches than the producer makes: set batch.size to the topic's max.message.bytes"
            );
        }
        *self.known.entry(topic.to_owned()).or_insert(limit)
    }

    fn ask(&self, topic: &str) -> Result<Option<usize>, BrokerError> {
        let described = KafkaAdmin::new(&self.config)?.describe(topic)?;
        Ok(described.and_then(|described| described.config.get("max.message.bytes")?.parse().ok()))
    }
}

/// The largest batch that a producer makes of several records, uncompressed.
fn batch_max(properties: &BTreeMap<String, String>) -> usize {
    const DEFAULT: usize = 1_000_000;
    let of = |name: &str| properties.get(name).and_then(|value| value.parse().ok()).unwrap_or(DEFAULT);
    of("batch.size").min(of("message.max.bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    #[test]
    fn a_batch_is_bounded_by_the_smaller_of_its_two_bounds() {
        let properties = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(batch_max(&properties(&[])), 1_000_000);
        assert_eq!(batch_max(&properties(&[("batch.size", "20000")])), 20_000);
        assert_eq!(
            batch_max(&properties(&[("batch.size", "20000"), ("message.max.bytes", "10000")])),
            10_000
        );
    }

    #[test]
    fn a_record_with_its_batch_is_measured_against_the_limit() {
        let mut limits = TopicLimits::new(&KafkaConfig::new("broker:9092"), Duration::ZERO);
        limits.known.insert("results".to_owned(), 200);
        let mut records = Records::default();
        records.push(Some(b"key"), Some(&[0; 90]));
        records.push(Some(b"key"), Some(&[0; 90]));
        records.push_header(b"model_id", Some(b"mlp-16"));
        assert_eq!(limits.exceeded("results", records.get(0)), None);
        assert_eq!(limits.exceeded("results", records.get(1)), Some(200));
    }
}
