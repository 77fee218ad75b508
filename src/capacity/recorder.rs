//! Writes a trace while it is watched.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use dataflows::capacity::{Setup, Tick};

use super::trace::{setup_line, tick_line};

/// A file that a trace is written to, each tick once.
#[derive(Debug)]
pub struct Recorder {
    out: BufWriter<File>,
    last_millis: i64,
}

impl Recorder {
    /// Begins a new file.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn create(path: &Path, setup: &Setup) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(setup_line(setup).as_bytes())?;
        out.flush()?;
        Ok(Self { out, last_millis: i64::MIN })
    }

    /// Writes the ticks that are not there yet.
    ///
    /// # Errors
    ///
    /// If they can't be written.
    pub fn write(&mut self, ticks: &[Tick]) -> io::Result<()> {
        for tick in ticks.iter().filter(|tick| tick.at_millis > self.last_millis) {
            self.out.write_all(tick_line(tick).as_bytes())?;
        }
        self.last_millis = ticks.last().map_or(self.last_millis, |last| last.at_millis.max(self.last_millis));
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn each_tick_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.jsonl");
        let ticks: Vec<Tick> = [1, 2, 3].map(|at_millis| Tick { at_millis, ..Tick::default() }).into();
        let mut recorder = Recorder::create(&path, &Setup::default()).unwrap();
        recorder.write(&ticks[..2]).unwrap();
        recorder.write(&ticks).unwrap();
        recorder.write(&[]).unwrap();
        assert_eq!(parse(&std::fs::read_to_string(path).unwrap()).unwrap().1, ticks);
    }
}
