//! The producer's acknowledgement log: what the broker has said that it has.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use operators::lease::{Offset, Partition};
use serde::Deserialize;

use super::AuditError;
use super::book::Book;
use super::fingerprint::{self, NamePrint};
use super::report::{FaultKind, Findings};

/// An acknowledged request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    partition: Partition,
    /// `None` where the broker had the request already, and did not say again where.
    offset: Option<Offset>,
    /// `None` where the producer sent a request that says none.
    request_id: Option<NamePrint>,
}

#[derive(Deserialize)]
struct Line {
    topic: String,
    partition: Partition,
    offset: Option<Offset>,
    request_id: Option<String>,
}

/// Reads a log of acknowledged requests of `topic`. A last line that was cut, because the producer was killed, is left out.
pub(super) fn read(path: &Path, topic: &str) -> Result<Vec<Ack>, AuditError> {
    let mut acks = Vec::new();
    let fail = |line: usize, reason: String| AuditError::AckLog {
        path: path.display().to_string(),
        line: line as u64,
        reason,
    };
    let mut file = BufReader::new(File::open(path).map_err(|error| fail(0, error.to_string()))?);
    let mut text = Vec::new();
    loop {
        text.clear();
        let number = acks.len() + 1;
        file.read_until(b'\n', &mut text).map_err(|error| fail(number, error.to_string()))?;
        if !text.ends_with(b"\n") {
            return Ok(acks);
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| fail(number, error.to_string()))?;
        if line.topic != topic {
            return Err(fail(number, format!("it is of topic {:?}, and the audit of {topic:?}", line.topic)));
        }
        let request_id =
            line.request_id.filter(|id| !id.is_empty()).map(|id| fingerprint::name(Some(id.as_bytes())));
        acks.push(Ack { partition: line.partition, offset: line.offset, request_id });
    }
}

/// Finds each acknowledged request at its place.
pub(super) fn check(acks: &[Ack], book: &Book, findings: &mut Findings) {
    for ack in acks {
        let Some(offset) = ack.offset else {
            // One that says no id either could be any.
            if ack.request_id.is_some_and(|id| !book.holds_somewhere(ack.partition, id)) {
                let what = "acknowledged, and nowhere in its partition".to_owned();
                findings.add(FaultKind::Missing, None, None, what);
            }
            continue;
        };
        if book.holds(ack.partition, offset, ack.request_id) == Some(false) {
            let what = "acknowledged, and not in the topic".to_owned();
            findings.add(FaultKind::Missing, Some((ack.partition, offset)), None, what);
        }
        if book.was_deleted_without_outcome(ack.partition, offset) {
            let what = "acknowledged, and deleted from the topic without an outcome".to_owned();
            findings.add(FaultKind::Lost, Some((ack.partition, offset)), None, what);
        }
    }
}
