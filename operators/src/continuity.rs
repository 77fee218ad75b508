//! Continuity: whether a log goes on where the group has left it, and what exactly is missing where it does not.
//!
//! ```text
//!   committed ─────▲            the next offset to read
//!   log        ░░░░░░░░┃▒▒▒▒▒▒▒▒┃        ┃ first, ┃ end
//!                   └──┘ deleted before it was read: the process stops, unless this very range was accepted as lost
//! ```
//!
//! A gap *inside* of a log (compaction, control records, aborted records) is none of this: what the broker leaves out there is done. What
//! counts is where the log begins and ends, and whether it is still the log of the topic that the offset was committed of.

use std::fmt;

use crate::broker::LogRange;
use crate::lease::{NextOffset, Partition};
use crate::metadata::TopicId;

/// A loss that an operator has accepted: exactly these offsets may be skipped, and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// The partition.
    pub partition: Partition,
    /// What the group has committed.
    pub from: NextOffset,
    /// Where to go on. Before `from` only in a topic that was made anew.
    pub to: NextOffset,
}

/// Where to begin in a partition of which the group has committed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// At the start of its log.
    #[default]
    Earliest,
    /// Nowhere: the process stops.
    Stop,
}

/// What to do where a log does not go on.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Without a committed offset.
    pub missing: Missing,
    /// What may be skipped.
    pub accepted: Vec<AcceptedLoss>,
}

/// What is known of a partition before it is read.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The partition.
    pub partition: Partition,
    /// What the group has committed.
    pub committed: Option<NextOffset>,
    /// The first offset past all that was committed as done: with outcomes that have overtaken others it lies past the former.
    pub reach: Option<NextOffset>,
    /// The topic that it was committed of, where that is known.
    pub of: Option<TopicId>,
    /// The log as it is.
    pub log: LogRange,
    /// The topic as it is, where the broker tells.
    pub topic: Option<TopicId>,
}

/// Where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first offset to read.
    pub at: NextOffset,
    /// The loss that was accepted for it.
    pub lost: Option<AcceptedLoss>,
    /// Whether it is the log that the group has left, so that what it has committed as done is done.
    pub goes_on: bool,
}

/// A log that does not go on where the group has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// The partition.
    pub partition: Partition,
    /// What the group has committed; the log's start where that is nothing.
    pub committed: NextOffset,
    /// The log as it is.
    pub log: LogRange,
    /// What has happened.
    pub how: How,
}

/// How a log came not to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Records were deleted before they were read.
    Deleted,
    /// The log ends before what is committed: its end was cut off, and may have grown again since.
    Cut,
    /// The topic was deleted, and another one was made of the same name.
    MadeAnew {
        /// The topic that was read.
        was: TopicId,
        /// The topic that there is.
        is: TopicId,
    },
    /// Nothing is committed, and the policy is to stop then.
    NothingCommitted,
    /// The client says that it can't read on, though the offset lies within the log: another log, then, than the one that was read.
    Unreadable,
}

impl Standing {
    /// Where to read on, or what is missing.
    ///
    /// # Errors
    ///
    /// If the log does not go on where the group has left it, and this very loss was not accepted.
    pub fn start(&self, policy: &Policy) -> Result<Start, Break> {
        let Self { partition, log, .. } = *self;
        let broken = |committed, how| Break { partition, committed, log, how };
        let Some(committed) = self.committed else {
            return match policy.missing {
                Missing::Earliest => Ok(Start { at: log.first, lost: None, goes_on: true }),
                Missing::Stop => Err(broken(log.first, How::NothingCommitted)),
            };
        };
        let reach = self.reach.unwrap_or(committed).max(committed);
        let broken = match (self.of, self.topic) {
            (Some(was), Some(is)) if was != is => broken(committed, How::MadeAnew { was, is }),
            _ if reach > log.end => broken(reach, How::Cut),
            _ if committed < log.first => broken(committed, How::Deleted),
            _ => return Ok(Start { at: committed, lost: None, goes_on: true }),
        };
        let goes_on = broken.how == How::Deleted;
        let accepted = broken.loss().filter(|loss| policy.accepted.contains(loss));
        accepted.map(|loss| Start { at: loss.to, lost: Some(loss), goes_on }).ok_or(broken)
    }
}

impl AcceptedLoss {
    /// As it is given on the command line: `TOPIC:PARTITION:FROM..TO`.
    pub fn argument(&self, topic: &str) -> String {
        format!("{topic}:{}:{}..{}", self.partition.0, self.from.0, self.to.0)
    }
}

impl Break {
    /// The loss to accept, to go on; `None` where no range can be named without guessing.
    pub fn loss(&self) -> Option<AcceptedLoss> {
        let Self { partition, committed, log, how } = *self;
        let loss = AcceptedLoss { partition, from: committed, to: log.first };
        match how {
            How::Deleted | How::MadeAnew { .. } => Some(loss),
            How::Cut | How::NothingCommitted | How::Unreadable => None,
        }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition: Partition(partition), committed: NextOffset(next), log, how } = self;
        let (first, end) = (log.first.0, log.end.0);
        match how {
            How::Deleted => write!(
                f,
                "partition {partition}: offsets {next}..{first} were deleted before they were read, and its log holds {first}..{end}"
            ),
            How::Cut => write!(
                f,
                "partition {partition}: its log holds {first}..{end} and ends before offset {next}, which the group has committed: \
                 the end was cut off, or the topic was made anew"
            ),
            How::MadeAnew { was, is } => write!(
                f,
                "partition {partition}: offset {next} was committed of the topic {was}, and the topic was made anew: \
                 it is {is} now, and its log holds {first}..{end}"
            ),
            How::NothingCommitted => write!(
                f,
                "partition {partition}: the group has committed nothing, and its log holds {first}..{end}"
            ),
            How::Unreadable => write!(
                f,
                "partition {partition}: its log can't be read on from offset {next}, though it holds {first}..{end}: \
                 its end was cut off, and has grown again"
            ),
        }
    }
}

/// Every log of a topic that does not go on, with what accepts each loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaks {
    /// The topic.
    pub topic: String,
    /// Where.
    pub breaks: Vec<Break>,
}

impl Breaks {
    /// What to say on the command line to go on without what is lost.
    pub fn arguments(&self) -> Vec<String> {
        let losses = self.breaks.iter().filter_map(Break::loss);
        losses.map(|loss| format!("--accept-loss {}", loss.argument(&self.topic))).collect()
    }
}

impl fmt::Display for Breaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log of {:?} does not go on where the group has left it: ", self.topic)?;
        for (place, broken) in self.breaks.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{broken}")?;
        }
        let arguments = self.arguments();
        if !arguments.is_empty() {
            write!(f, "; to go on without what is lost: {}", arguments.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: TopicId = TopicId([1; 16]);
    const NEW: TopicId = TopicId([2; 16]);

    fn standing(committed: impl Into<Option<i64>>, of: Option<TopicId>, first: i64, end: i64) -> Standing {
        Standing {
            partition: Partition(3),
            committed: committed.into().map(NextOffset),
            reach: None,
            of,
            log: LogRange { first: NextOffset(first), end: NextOffset(end) },
            topic: Some(NEW),
        }
    }

    fn accepting(from: i64, to: i64) -> Policy {
        let loss = AcceptedLoss { partition: Partition(3), from: NextOffset(from), to: NextOffset(to) };
        Policy { accepted: vec![loss], ..Policy::default() }
    }

    fn at(standing: Standing, policy: &Policy) -> Result<i64, How> {
        standing.start(policy).map(|start| start.at.0).map_err(|broken| broken.how)
    }

    #[test]
    fn a_log_that_holds_the_next_offset_goes_on_there() {
        let none = Policy::default();
        for (next, first, end) in [(4, 4, 9), (6, 4, 9), (9, 4, 9), (9, 9, 9)] {
            assert_eq!(at(standing(next, Some(NEW), first, end), &none), Ok(next));
            assert_eq!(
                at(standing(next, None, first, end), &none),
                Ok(next),
                "an older commit names no topic"
            );
        }
    }

    #[test]
    fn a_partition_without_a_commit_begins_at_its_start_or_not_at_all() {
        assert_eq!(at(standing(None, None, 4, 9), &Policy::default()), Ok(4));
        let stop = Policy { missing: Missing::Stop, ..Policy::default() };
        assert_eq!(at(standing(None, None, 4, 9), &stop), Err(How::NothingCommitted));
    }

    #[test]
    fn what_was_deleted_is_skipped_only_by_exactly_the_range_that_was_accepted() {
        let deleted = standing(2, Some(NEW), 5, 9);
        let broken = deleted.start(&Policy::default()).unwrap_err();
        let says = "partition 3: offsets 2..5 were deleted before they were read, and its log holds 5..9";
        assert_eq!(broken.to_string(), says);
        assert_eq!(broken.loss().unwrap().argument("requests"), "requests:3:2..5");
        let start = deleted.start(&accepting(2, 5)).unwrap();
        assert_eq!((start.at, start.lost.is_some(), start.goes_on), (NextOffset(5), true, true));
        for (from, to) in [(2, 4), (2, 6), (1, 5), (3, 5)] {
            assert_eq!(at(deleted, &accepting(from, to)), Err(How::Deleted), "{from}..{to}");
        }
        let elsewhere = AcceptedLoss { partition: Partition(4), ..accepting(2, 5).accepted[0] };
        assert!(deleted.start(&Policy { accepted: vec![elsewhere], ..Policy::default() }).is_err());
    }

    #[test]
    fn a_topic_made_anew_is_told_also_where_its_log_holds_the_offset_and_read_from_its_start_if_accepted() {
        for (next, first, end) in [(6, 0, 9), (6, 0, 2), (6, 8, 9), (0, 0, 0)] {
            let anew = standing(next, Some(OLD), first, end);
            assert_eq!(at(anew, &Policy::default()), Err(How::MadeAnew { was: OLD, is: NEW }));
            assert_eq!(at(anew, &accepting(next, first)), Ok(first));
        }
        assert!(!standing(6, Some(OLD), 0, 9).start(&accepting(6, 0)).unwrap().goes_on);
    }

    #[test]
    fn where_a_log_was_cut_no_range_can_be_named() {
        let cut = standing(12, Some(NEW), 4, 9);
        assert_eq!(at(cut, &accepting(12, 9)), Err(How::Cut));
        assert_eq!(at(cut, &accepting(12, 4)), Err(How::Cut));
        assert_eq!(cut.start(&Policy::default()).unwrap_err().loss(), None);
        let reach = Some(NextOffset(10));
        assert_eq!(at(Standing { reach, ..standing(5, Some(NEW), 4, 9) }, &Policy::default()), Err(How::Cut));
        assert_eq!(at(Standing { reach, ..standing(5, Some(NEW), 4, 10) }, &Policy::default()), Ok(5));
    }

    #[test]
    fn all_breaks_are_told_at_once_with_what_accepts_each() {
        let broken = |next, first| standing(next, Some(NEW), first, 9).start(&Policy::default()).unwrap_err();
        let breaks = Breaks { topic: "requests".into(), breaks: vec![broken(1, 2), broken(12, 2)] };
        let text = breaks.to_string();
        assert!(text.contains("offsets 1..2 were deleted") && text.contains("before offset 12"), "{text}");
        assert!(text.ends_with("to go on without what is lost: --accept-loss requests:3:1..2"), "{text}");
    }

    proptest! {
        /// Whatever stands there: reading begins at the committed offset, or at a place that the operator has named, or nowhere.
        #[test]
        fn nothing_is_ever_skipped_that_was_not_named(
            next in 0_i64..8, first in 0_i64..8, length in 0_i64..8, from in 0_i64..8, to in 0_i64..8,
            of in prop::option::of(prop::bool::ANY),
        ) {
            let of = of.map(|old| if old { OLD } else { NEW });
            let standing = standing(next, of, first, first + length);
            if let Ok(start) = standing.start(&accepting(from, to)) {
                let goes_on = of != Some(OLD) && (first..=first + length).contains(&next) && start.at.0 == next;
                let named = (from, to) == (next, first) && start.at.0 == to && start.lost.is_some();
                prop_assert!(goes_on || named, "{start:?}");
            }
        }
    }
}
