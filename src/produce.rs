//! Sends requests, and only such as can be served: a producer that validates.
//!
//! ```text
//!   JSON lines ──▶ header and key derived ─┐
//!                                          ├─▶ Validator ──▶ Sender ──▶ requests topic
//!   Load (generated) ──────────────────────┘       │            └────▶ acknowledgement log
//!                                                  └─▶ refused, with the field that is to blame
//! ```
//!
//! A refused request holds up none of the others. When a request is due comes from a [`Schedule`], an open loop; the wait itself is the
//! caller's, through [`Watcher`].

mod lines;
mod sender;
mod validate;

use std::io::BufRead;
use std::time::Duration;

use operators::broker::BrokerError;
use operators::records::Records;

use crate::load::{Load, Schedule};
use crate::request::Names;
use lines::{Line, Lines};

pub use sender::{Sender, Tally};
pub use validate::{Refusal, Validator};

/// What a producer tells of itself, and what it waits for.
pub trait Watcher {
    /// Waits until `due` has passed since the start, and says whether it had to wait at all.
    fn wait_until(&mut self, due: Duration) -> bool {
        let _ = due;
        false
    }

    /// Called now and then.
    fn progress(&mut self, tally: &Tally) {
        let _ = tally;
    }
}

/// Waits for nothing and tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {}

/// Why a producer stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The broker took no more records.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The lines could not be read.
    #[error("could not read line {line} of the requests: {source}")]
    Input {
        /// The line, counted from 1.
        line: u64,
        /// Why not.
        source: std::io::Error,
    },
    /// An acknowledgement could not be noted.
    #[error("could not write the acknowledgement log: {0}")]
    AckLog(std::io::Error),
}

/// Sends a request for each line of JSON, empty lines aside, as they become due. A line that is no request is refused, and counted in
/// the sender's tally with its number.
///
/// # Errors
///
/// If the lines can't be read, or the broker takes no more.
pub fn send_lines(
    input: impl BufRead,
    validator: &Validator,
    schedule: Schedule,
    sender: &mut Sender<'_>,
    watcher: &mut dyn Watcher,
) -> Result<(), ProduceError> {
    let mut lines = Lines::new(input, validator.record_bytes_max);
    let mut records = Records::default();
    let mut index = 0;
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(source) => return Err(ProduceError::Input { line: lines.number(), source }),
        };
        let request = match line {
            Line::TooLong(bytes) => Err(Refusal::TooLarge { bytes, bytes_max: validator.record_bytes_max }),
            Line::Whole(text) => {
                records.pop();
                validator.push_line(text, &mut records)
            }
        };
        match request {
            Err(refusal) => sender.refuse(format!("line {}: {refusal}", lines.number())),
            Ok(request) => {
                sender.idle_if(watcher.wait_until(schedule.due(index)))?;
                sender.send(records.get(0), Some(&request.request_id))?;
                index += 1;
            }
        }
        watcher.progress(sender.tally());
    }
}

/// Sends a generated load as it becomes due. With a validator the bad requests are refused; without one they are sent on purpose.
///
/// # Errors
///
/// If the broker takes no more.
pub fn send_load(
    mut load: Load,
    validator: Option<&Validator>,
    schedule: Schedule,
    sender: &mut Sender<'_>,
    watcher: &mut dyn Watcher,
) -> Result<(), ProduceError> {
    let mut records = Records::default();
    let mut index = 0;
    loop {
        records.pop();
        let Some(made) = load.push_next(&mut records) else { return Ok(()) };
        let record = records.get(0);
        if let Some(Err(refusal)) = validator.map(|validator| validator.check(record)) {
            sender.refuse(format!("request {}: {refusal}", made.request_id));
        } else {
            sender.idle_if(watcher.wait_until(schedule.due(index)))?;
            let names = made.bad.map(|_| Names::of(record));
            let request_id = names.map_or(Some(made.request_id), |names| names.request_id);
            sender.send(record, request_id.as_deref())?;
            index += 1;
        }
        watcher.progress(sender.tally());
    }
}

#[cfg(test)]
mod tests;
