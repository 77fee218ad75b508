//! A hash over everything that ever happened, by which two runs are compared.

use std::fmt;

use crate::broker::RecordTime;
use crate::lease::{Offset, Partition};
use crate::records::RecordView;

use super::log::ProducerId;

/// The hash so far.
#[derive(Debug, Default)]
pub(super) struct History {
    hasher: blake3::Hasher,
    line: String,
}

impl History {
    /// Adds an event, told as text.
    pub(super) fn note(&mut self, event: fmt::Arguments<'_>) {
        self.line.clear();
        fmt::Write::write_fmt(&mut self.line, event).expect("a string takes any text");
        let Self { hasher, line } = self;
        add(hasher, Some(line.as_bytes()));
    }

    /// Adds a record that was appended.
    pub(super) fn record(
        &mut self,
        topic: &str,
        partition: Partition,
        offset: Offset,
        producer: Option<ProducerId>,
        time: RecordTime,
        record: RecordView<'_>,
    ) {
        let hasher = &mut self.hasher;
        add(hasher, Some(topic.as_bytes()));
        hasher.update(&partition.0.to_le_bytes());
        hasher.update(&offset.0.to_le_bytes());
        hasher.update(&producer.map_or(u64::MAX, |producer| producer.0).to_le_bytes());
        hasher.update(&time.millis.to_le_bytes());
        add(hasher, record.key());
        add(hasher, record.value());
        for (name, value) in record.headers() {
            add(hasher, Some(name));
            add(hasher, value);
        }
    }

    /// The hash, in hexadecimal.
    pub(super) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// Adds bytes with their length, so that no two histories run together into the same bytes.
fn add(hasher: &mut blake3::Hasher, bytes: Option<&[u8]>) {
    let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
    hasher.update(&length.to_le_bytes());
    hasher.update(bytes.unwrap_or_default());
}
