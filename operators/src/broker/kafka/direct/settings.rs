//! What of a configuration for librdkafka direct clients have, and what they have not.

use std::time::Duration;

use super::batch::Compression;
use super::outgoing::Bounds;
use crate::broker::kafka::config::KafkaConfig;

/// The direct producer's settings, under the names of librdkafka's properties.
#[derive(Clone, Debug)]
pub(super) struct DirectSettings {
    /// `client.id`.
    pub(super) client: String,
    /// `compression.type`.
    pub(super) compression: Compression,
    /// `queue.buffering.max.messages` and `queue.buffering.max.kbytes`.
    pub(super) bounds: Bounds,
    /// `batch.size`.
    pub(super) batch_bytes: usize,
    /// `message.max.bytes`.
    pub(super) record_bytes: usize,
    /// `retry.backoff.ms`.
    pub(super) back_off: Duration,
}

impl DirectSettings {
    /// What is configured, over the same defaults that librdkafka is given.
    ///
    /// # Errors
    ///
    /// The name of a property that only librdkafka has, or whose value only it understands. The value may be a secret.
    pub(super) fn of(config: &KafkaConfig) -> Result<Self, String> {
        let mut settings = Self {
            client: "tidemill".to_owned(),
            compression: Compression::Lz4,
            bounds: Bounds { records: 500_000, bytes: 64 << 20 },
            batch_bytes: 1_000_000,
            record_bytes: 1_000_000,
            back_off: Duration::from_millis(20),
        };
        for (name, value) in &config.producer {
            settings.set(name, value).ok_or_else(|| name.clone())?;
        }
        Ok(settings)
    }

    /// Takes a property over; `None` if that can't be.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "client.id" => value.clone_into(&mut self.client),
            "compression.type" | "compression.codec" => {
                self.compression = match value {
                    "none" => Compression::None,
                    "lz4" => Compression::Lz4,
                    _ => return None,
                }
            }
            "security.protocol" if value.eq_ignore_ascii_case("plaintext") => {}
            // A record waits for others only while its leader has not answered what was sent before.
            "linger.ms" | "queue.buffering.max.ms" => value.parse::<f64>().map(drop).ok()?,
            "queue.buffering.max.messages" => self.bounds.records = positive(value)?,
            "queue.buffering.max.kbytes" => self.bounds.bytes = positive(value)?.checked_mul(1024)?,
            "batch.size" => self.batch_bytes = positive(value)?,
            "message.max.bytes" => self.record_bytes = positive(value)?,
            "retry.backoff.ms" => {
                self.back_off = Duration::from_millis(u64::try_from(positive(value)?).ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The direct reader's settings, under the names of librdkafka's properties.
#[derive(Clone, Debug)]
pub(in crate::broker::kafka) struct ReaderSettings {
    /// `client.id`.
    pub(super) client: String,
    /// `fetch.min.bytes`: an answer waits for so much.
    pub(super) bytes_min: i32,
    /// `fetch.wait.max.ms`: and no longer than this.
    pub(super) wait: Duration,
    /// `fetch.max.bytes`.
    pub(super) bytes_max: i32,
    /// `fetch.message.max.bytes`: what of an answer is one partition's.
    pub(super) partition_bytes: i32,
    /// `queued.max.messages.kbytes`: what may wait of one partition, as it came.
    pub(super) queue_bytes: usize,
    /// `fetch.queue.backoff.ms`: where most partitions have no room, those that have are asked for together, so often at most.
    pub(super) gather: Duration,
    /// `fetch.error.backoff.ms`.
    pub(super) back_off: Duration,
    /// `topic.metadata.refresh.interval.ms`.
    pub(super) look_age: Duration,
}

impl ReaderSettings {
    /// What is configured, over the same defaults that librdkafka is given.
    ///
    /// # Errors
    ///
    /// The name of a property that only librdkafka has, or whose value only it understands. The value may be a secret.
    pub(in crate::broker::kafka) fn of(config: &KafkaConfig) -> Result<Self, String> {
        let mut settings = Self {
            client: "tidemill".to_owned(),
            bytes_min: 64 << 10,
            wait: Duration::from_millis(25),
            bytes_max: 2 << 20,
            partition_bytes: 128 << 10,
            queue_bytes: 512 << 10,
            gather: Duration::from_millis(10),
            back_off: Duration::from_millis(50),
            look_age: Duration::from_secs(30),
        };
        for (name, value) in &config.consumer {
            settings.set(name, value).ok_or_else(|| name.clone())?;
        }
        Ok(settings)
    }

    /// Takes a property over; `None` if that can't be.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let bytes = || i32::try_from(positive(value)?).ok();
        let time = || Some(Duration::from_millis(u64::try_from(positive(value)?).ok()?));
        match name {
            "client.id" => value.clone_into(&mut self.client),
            "fetch.min.bytes" => self.bytes_min = bytes()?,
            "fetch.wait.max.ms" => self.wait = Duration::from_millis(value.parse().ok()?),
            "fetch.max.bytes" => self.bytes_max = bytes()?,
            "fetch.message.max.bytes" | "max.partition.fetch.bytes" => self.partition_bytes = bytes()?,
            "queued.max.messages.kbytes" => self.queue_bytes = positive(value)?.checked_mul(1024)?,
            "fetch.error.backoff.ms" => self.back_off = time()?,
            "topic.metadata.refresh.interval.ms" => self.look_age = time()?,
            "security.protocol" if value.eq_ignore_ascii_case("plaintext") => {}
            // Always.
            "check.crcs" if value == "true" => {}
            "fetch.queue.backoff.ms" => self.gather = Duration::from_millis(value.parse().ok()?),
            // What waits is counted in bytes alone.
            "queued.min.messages" => positive(value).map(drop)?,
            // Of the member alone, which is librdkafka's.
            "group.instance.id"
            | "heartbeat.interval.ms"
            | "max.poll.interval.ms"
            | "coordinator.query.interval.ms" => {}
            _ => return None,
        }
        Some(())
    }
}

fn positive(value: &str) -> Option<usize> {
    value.parse().ok().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<DirectSettings, String> {
        let mut config = KafkaConfig::new("broker:9092");
        config.producer =
            properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        DirectSettings::of(&config)
    }

    #[test]
    fn what_both_have_is_taken_over() {
        let settings = of(&[
            ("client.id", "edge"),
            ("compression.type", "none"),
            ("linger.ms", "5"),
            ("message.max.bytes", "2000"),
            ("queue.buffering.max.kbytes", "3"),
        ])
        .unwrap();
        assert_eq!((settings.client.as_str(), settings.compression), ("edge", Compression::None));
        assert_eq!((settings.record_bytes, settings.bounds.bytes), (2_000, 3 * 1024));
    }

    #[test]
    fn what_only_librdkafka_has_is_named() {
        for (name, value) in [
            ("security.protocol", "ssl"),
            ("sasl.mechanism", "PLAIN"),
            ("compression.type", "zstd"),
            ("retry.backoff.ms", "0"),
            ("message.max.bytes", "much"),
            ("sasl.password", "hunter2"),
        ] {
            assert_eq!(of(&[(name, value)]).unwrap_err(), name, "and nothing of its value");
        }
    }
}
