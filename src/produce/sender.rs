//! Sends records, and keeps account of their acknowledgements.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use operators::broker::{BrokerError, Class, Writer};
use operators::lease::{Offset, Partition};
use operators::records::RecordView;
use serde::Serialize;

use super::ProduceError;

/// Complaints that are kept; the others are only counted.
const COMPLAINTS_MAX: usize = 20;

/// Acknowledgements are collected at least every so many records.
const COLLECT_EVERY: u64 = 64;

/// What became of the records so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records handed to the broker's client.
    pub sent: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// Records that the broker has acknowledged.
    pub acknowledged: u64,
    /// Records that the broker or its client did not take.
    pub failed: u64,
    /// Records that were refused before they were sent.
    pub refused: u64,
    /// The first of the failures and refusals, for people.
    pub complaints: Vec<String>,
}

impl Tally {
    /// Records that were sent and of which nothing has been heard.
    pub fn unacknowledged(&self) -> u64 {
        self.sent - self.acknowledged - self.failed
    }

    /// Whether everything that was to be sent is in the topic.
    pub fn complete(&self) -> bool {
        self.refused == 0 && self.acknowledged == self.sent
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }
}

/// A line of the acknowledgement log.
#[derive(Serialize)]
struct Acknowledgement<'a> {
    topic: &'a str,
    partition: Partition,
    /// `null` where the broker does not say it.
    offset: Option<Offset>,
    request_id: Option<&'a str>,
}

/// Writes records to a topic; and to a log, once each is acknowledged, where it is.
pub struct Sender<'a> {
    writer: Box<dyn Writer>,
    topic: String,
    ack_log: Option<Box<dyn Write + 'a>>,
    /// The request ids of what is under way, by tag; empty without a log.
    under_way: BTreeMap<u64, Option<String>>,
    tally: Tally,
}

impl<'a> Sender<'a> {
    /// A sender to `topic`. Each acknowledged record becomes a line of JSON in `ack_log`: `topic`, `partition`, `offset`, `request_id`.
    pub fn new(writer: Box<dyn Writer>, topic: &str, ack_log: Option<Box<dyn Write + 'a>>) -> Self {
        let topic = topic.to_owned();
        Self { writer, topic, ack_log, under_way: BTreeMap::new(), tally: Tally::default() }
    }

    /// What became of the records so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Hands a record over. One that the broker can never take is counted as failed; the next may still be sent.
    ///
    /// # Errors
    ///
    /// If the broker takes no more, or the log can't be written.
    pub fn send(&mut self, record: RecordView<'_>, request_id: Option<&str>) -> Result<(), ProduceError> {
        let tag = self.tally.sent;
        self.tally.sent += 1;
        if self.ack_log.is_some() {
            self.under_way.insert(tag, request_id.map(str::to_owned));
        }
        match self.writer.write(&self.topic, None, None, record, tag) {
            Ok(()) => self.tally.bytes += record.payload_bytes() as u64,
            Err(error) if error.class == Class::TooLarge => self.fail(tag, &error),
            Err(error) => {
                self.fail(tag, &error);
                return Err(error.into());
            }
        }
        self.idle_if(self.tally.sent.is_multiple_of(COLLECT_EVERY))
    }

    /// Counts a record that is not sent.
    pub fn refuse(&mut self, complaint: String) {
        self.tally.refused += 1;
        self.tally.complain(complaint);
    }

    /// Takes in what has been acknowledged, if there is time for it.
    ///
    /// # Errors
    ///
    /// If the log can't be written.
    pub fn idle_if(&mut self, idle: bool) -> Result<(), ProduceError> {
        if idle { self.collect() } else { Ok(()) }
    }

    /// Waits up to `wait` until every record is acknowledged or has failed.
    ///
    /// # Errors
    ///
    /// If the log can't be written.
    pub fn finish(&mut self, wait: Duration) -> Result<(), ProduceError> {
        let flushed = self.writer.flush(wait);
        self.collect()?;
        if !flushed {
            let under_way = self.tally.unacknowledged();
            self.tally.complain(format!("{under_way} records were not acknowledged within {wait:?}"));
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), ProduceError> {
        let acknowledged = self.writer.acknowledged();
        if acknowledged.is_empty() {
            return Ok(());
        }
        for (tag, place) in acknowledged {
            match place {
                Ok((partition, offset)) => {
                    self.tally.acknowledged += 1;
                    self.log(tag, partition, offset).map_err(ProduceError::AckLog)?;
                }
                Err(error) => self.fail(tag, &error),
            }
        }
        self.ack_log.as_mut().map_or(Ok(()), Write::flush).map_err(ProduceError::AckLog)
    }

    fn log(&mut self, tag: u64, partition: Partition, offset: Option<Offset>) -> std::io::Result<()> {
        let Some(log) = &mut self.ack_log else { return Ok(()) };
        let request_id = self.under_way.remove(&tag).flatten();
        let line =
            Acknowledgement { topic: &self.topic, partition, offset, request_id: request_id.as_deref() };
        serde_json::to_writer(&mut *log, &line)?;
        log.write_all(b"\n")
    }

    fn fail(&mut self, tag: u64, error: &BrokerError) {
        self.under_way.remove(&tag);
        self.tally.failed += 1;
        self.tally.complain(format!("record {}: {error}", tag + 1));
    }
}
