//! The suspects: records that were in flight when a process died, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Name;

/// Suspects at most. Beyond, those with the fewest crashes are forgotten, among these the ones that have been there for the longest.
const SUSPECTS_MAX: usize = 4_096;

/// After so long without a crash a suspect is forgotten: a week.
const KEPT_SECONDS: i64 = 7 * 24 * 60 * 60;

const VERSION: u32 = 1;

/// What is kept of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Crashes {
    crashes: u32,
    /// When the last one was counted, in seconds since the Unix epoch.
    seconds: i64,
}

/// The suspects of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Suspects {
    by_name: BTreeMap<Name, Crashes>,
}

/// The file, as JSON, for people too.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    topic: String,
    records: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    name: Name,
    #[serde(flatten)]
    crashes: Crashes,
}

impl Suspects {
    /// Reads the file. If it is none, of another topic or version, or damaged, there is no suspect.
    pub(super) fn read(path: &Path, topic: &str) -> Self {
        let read =
            fs::read(path).map_err(|error| (error.kind() != io::ErrorKind::NotFound, error.to_string()));
        let read = read.and_then(|bytes| Self::decode(&bytes, topic).map_err(|reason| (true, reason)));
        read.unwrap_or_else(|(is_odd, reason)| {
            if is_odd {
                tracing::warn!(path = %path.display(), reason, "passed over in the crash journal");
            }
            Self::default()
        })
    }

    fn decode(bytes: &[u8], topic: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if document.version != VERSION || document.topic != topic {
            return Err(format!("it is of version {} and topic {:?}", document.version, document.topic));
        }
        Ok(Self { by_name: document.records.into_iter().map(|line| (line.name, line.crashes)).collect() })
    }

    fn encode(&self, topic: &str) -> Vec<u8> {
        let lines = self.by_name.iter().map(|(name, crashes)| Line { name: *name, crashes: *crashes });
        let document = Document { version: VERSION, topic: topic.to_owned(), records: lines.collect() };
        serde_json::to_vec_pretty(&document).expect("names and numbers can be written")
    }

    /// Puts them in place of what the file says, all or nothing.
    pub(super) fn write(&self, path: &Path, topic: &str) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, self.encode(topic))?;
        fs::rename(new, path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn crashes(&self, name: &Name) -> u32 {
        self.by_name.get(name).map_or(0, |found| found.crashes)
    }

    /// A process died that had these in flight.
    pub(super) fn crashed(&mut self, names: &BTreeSet<Name>, seconds: i64) {
        for name in names {
            let crashes = self.crashes(name).saturating_add(1);
            self.by_name.insert(*name, Crashes { crashes, seconds });
        }
        if let Some(over) = self.by_name.len().checked_sub(SUSPECTS_MAX) {
            let mut order: Vec<(u32, i64, Name)> =
                self.by_name.iter().map(|(name, found)| (found.crashes, found.seconds, *name)).collect();
            order.sort_unstable();
            for (_, _, name) in &order[..over] {
                self.by_name.remove(name);
            }
        }
    }

    /// This one has returned; tells whether it was a suspect.
    pub(super) fn clear(&mut self, name: &Name) -> bool {
        self.by_name.remove(name).is_some()
    }

    pub(super) fn forget_old(&mut self, now: i64) {
        self.by_name.retain(|_, found| now.saturating_sub(found.seconds) < KEPT_SECONDS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::{Offset, Partition};

    fn name(offset: i64) -> Name {
        Name { partition: Partition(1), offset: Offset(offset), millis: 7 }
    }

    fn names(offsets: std::ops::Range<i64>) -> BTreeSet<Name> {
        offsets.map(name).collect()
    }

    #[test]
    fn those_with_the_fewest_and_oldest_crashes_are_forgotten_first() {
        let mut suspects = Suspects::default();
        let max = i64::try_from(SUSPECTS_MAX).unwrap();
        suspects.crashed(&names(0..2), 1);
        suspects.crashed(&names(0..1), 2);
        suspects.crashed(&names(2..max + 1), 3);
        assert_eq!(suspects.by_name.len(), SUSPECTS_MAX);
        assert_eq!([0, 1, 2].map(|offset| suspects.crashes(&name(offset))), [2, 0, 1]);
    }

    #[test]
    fn a_suspect_is_forgotten_a_week_after_its_last_crash_or_when_it_returns() {
        let mut suspects = Suspects::default();
        suspects.crashed(&names(0..2), 100);
        suspects.crashed(&names(1..2), 101);
        suspects.forget_old(100 + KEPT_SECONDS);
        assert_eq!([0, 1].map(|offset| suspects.crashes(&name(offset))), [0, 2]);
        assert_eq!(
            (suspects.clear(&name(1)), suspects.clear(&name(1)), suspects.is_empty()),
            (true, false, true)
        );
    }

    #[test]
    fn a_record_of_a_topic_made_anew_is_another_record() {
        let mut suspects = Suspects::default();
        suspects.crashed(&names(0..1), 100);
        assert_eq!(suspects.crashes(&Name { millis: 8, ..name(0) }), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(crashes in prop::collection::vec((0_i64..9, 1_i64..5, any::<i64>()), 0..9)) {
            let mut suspects = Suspects::default();
            for (from, count, at) in crashes {
                suspects.crashed(&names(from..from + count), at);
            }
            let bytes = suspects.encode("requests");
            prop_assert!(Suspects::decode(&bytes, "others").is_err());
            prop_assert_eq!(Suspects::decode(&bytes, "requests"), Ok(suspects));
        }

        #[test]
        fn whatever_bytes_there_are_they_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Suspects::decode(&bytes, "requests").is_err());
        }

        #[test]
        fn a_file_that_was_cut_off_is_refused(at in any::<prop::sample::Index>()) {
            let mut suspects = Suspects::default();
            suspects.crashed(&names(0..3), 5);
            let bytes = suspects.encode("requests");
            prop_assert!(Suspects::decode(&bytes[..at.index(bytes.len())], "requests").is_err());
        }
    }
}
