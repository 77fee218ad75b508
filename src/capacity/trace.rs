//! A trace: what was seen, as lines of JSON. The first says of what engine, each other one is a tick.

use dataflows::capacity::{Setup, Tick};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Written<'a> {
    Setup(&'a Setup),
    Tick(&'a Tick),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Read {
    Setup(Box<Setup>),
    Tick(Box<Tick>),
}

/// Why something is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A line is not one of a trace.
    #[error("line {line} is none of a trace: {source}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// There is no first line.
    #[error("it does not begin with the line that says of what engine it is")]
    NoSetup,
    /// Time goes back.
    #[error("line {line} is of an earlier time than the one before it")]
    Backwards {
        /// Its number, from 1.
        line: usize,
    },
}

/// The first line.
pub fn setup_line(setup: &Setup) -> String {
    line(&Written::Setup(setup))
}

/// The line of a tick.
pub fn tick_line(tick: &Tick) -> String {
    line(&Written::Tick(tick))
}

fn line(written: &Written<'_>) -> String {
    let mut line = serde_json::to_string(written).expect("it has texts for keys");
    line.push('\n');
    line
}

/// Reads a trace. A last line that was cut off is left out: whoever wrote it may have been killed.
///
/// # Errors
///
/// If it is none.
pub fn parse(text: &str) -> Result<(Setup, Vec<Tick>), TraceError> {
    let mut setup = None;
    let mut ticks: Vec<Tick> = Vec::new();
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).peekable();
    while let Some((number, line)) = lines.next() {
        let read = match serde_json::from_str(line) {
            Ok(read) => read,
            Err(_) if lines.peek().is_none() && !text.ends_with('\n') && setup.is_some() => break,
            Err(source) => return Err(TraceError::Line { line: number, source }),
        };
        match read {
            // The trace of an engine that was started again goes on below the first one's.
            Read::Setup(found) => setup = Some(*found),
            Read::Tick(_) if setup.is_none() => return Err(TraceError::NoSetup),
            Read::Tick(tick) if ticks.last().is_some_and(|last| last.at_millis > tick.at_millis) => {
                return Err(TraceError::Backwards { line: number });
            }
            Read::Tick(tick) => ticks.push(*tick),
        }
    }
    Ok((setup.ok_or(TraceError::NoSetup)?, ticks))
}

#[cfg(test)]
mod tests {
    use dataflows::capacity::sums::{Line, Tally};
    use dataflows::capacity::tick::{CellTick, ModelSetup, ModelTick, PartitionTick, Stage, StageTick};
    use proptest::prelude::*;

    use super::*;

    fn tick(at_millis: i64) -> Tick {
        let tally = Tally { records: 3, excess: 1, bytes: 300 };
        Tick {
            at_millis,
            millis: 1_000,
            partitions: vec![PartitionTick {
                partition: 1,
                end: Some(5),
                committed: None,
                oldest_millis: Some(7),
                in_flight: 2,
            }],
            cells: vec![CellTick { partition: 1, model: "m".to_owned(), tenant: "a\"\n".to_owned(), tally }],
            models: vec![ModelTick {
                model: "m".to_owned(),
                // A batch of 64 rows that took an hour.
                batches: Line::point(64, 3_600_000_000),
                handoffs: Line::point(1, 900),
                latency: vec![(9, 4)],
                cost: None,
            }],
            stages: vec![StageTick { stage: Stage::Worker, threads: 2, on_cpu: 7, ready: 1 }],
            bursts: vec![1, 0, 2],
        }
    }

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let setup = Setup {
            source: "http://x".to_owned(),
            executors: 2,
            models: vec![ModelSetup {
                id: "m".to_owned(),
                delay_millis: Some(50.0),
                ..ModelSetup::default()
            }],
            ..Setup::default()
        };
        let text = setup_line(&setup) + &tick_line(&tick(1)) + "\n" + &tick_line(&tick(2));
        assert_eq!(parse(&text).unwrap(), (setup.clone(), vec![tick(1), tick(2)]));
        // It was killed while it wrote.
        assert_eq!(parse(&text[..text.len() - 9]).unwrap(), (setup, vec![tick(1)]));
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        let setup = setup_line(&Setup::default());
        assert!(matches!(parse(""), Err(TraceError::NoSetup)));
        assert!(matches!(parse(&tick_line(&tick(1))), Err(TraceError::NoSetup)));
        let backwards = setup.clone() + &tick_line(&tick(2)) + &tick_line(&tick(1));
        assert!(matches!(parse(&backwards), Err(TraceError::Backwards { line: 3 })));
        assert!(matches!(parse(&(setup + "{\"tack\":1}\n")), Err(TraceError::Line { line: 2, .. })));
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in "[ -~\n{}\"]{0,200}") {
            let read = parse(&text);
            prop_assert!(read.is_ok() || read.is_err());
        }
    }
}
