//! What of a partition is done: everything before a next offset, and some offsets past it.
//!
//! ```text
//!   offset   38   39 │ 40   41   42   43   44   45   46
//!            done done│open done done open  -   done
//!                     ▲                               done past the base: 41..43, 45..46
//!                   base: the first offset that is not done
//! ```
//!
//! With `commit.order = "partition"` nothing past the base is ever done. With `"key"` and `"none"` outcomes overtake a straggler, and what
//! was committed past it has to be known to whoever reads the partition next: else it would be done twice.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::lease::{NextOffset, Offset};

/// How far past the base an offset may be done. The offset metadata of Kafka holds 4,096 characters unless the broker is told otherwise:
/// room for a bit for each offset of such a window, in base64.
pub const WINDOW: i64 = 24_000;

/// The offsets of a partition that are done. By default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    base: i64,
    /// Runs past the base, by their first offset, with the first offset after them. They neither touch nor overlap.
    runs: BTreeMap<i64, i64>,
}

impl Done {
    /// Everything before `base`, and nothing else.
    pub fn before(base: NextOffset) -> Self {
        Self { base: base.0, runs: BTreeMap::new() }
    }

    /// The first offset that is not done.
    pub fn base(&self) -> NextOffset {
        NextOffset(self.base)
    }

    /// The runs of offsets past the base that are done, in order.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = Range<i64>> {
        self.runs.iter().map(|(first, end)| *first..*end)
    }

    /// The first offset past all that is done.
    pub fn reach(&self) -> NextOffset {
        NextOffset(self.runs.last_key_value().map_or(self.base, |(_, end)| *end))
    }

    /// How many offsets before `next` are not done.
    pub fn open_before(&self, next: NextOffset) -> u64 {
        let done: i64 = self.runs().map(|run| (run.end.min(next.0) - run.start).max(0)).sum();
        u64::try_from(next.0 - self.base - done).unwrap_or(0)
    }

    /// Whether nothing past the base is done.
    pub fn is_prefix(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether the offset is done.
    pub fn contains(&self, offset: Offset) -> bool {
        offset.0 < self.base
            || self.runs.range(..=offset.0).next_back().is_some_and(|(_, end)| offset.0 < *end)
    }

    /// Notes that these offsets are done. Those among them that are done already change nothing.
    pub fn complete(&mut self, offsets: Range<NextOffset>) {
        let (mut first, mut end) = (offsets.start.0, offsets.end.0);
        if end <= first.max(self.base) {
            return;
        }
        if first <= self.base {
            self.base = end;
            self.absorb();
            return;
        }
        if let Some((before, its_end)) = self.runs.range(..=first).next_back()
            && *its_end >= first
        {
            first = *before;
            end = end.max(*its_end);
        }
        while let Some((after, its_end)) = self.runs.range(first..=end).next() {
            end = end.max(*its_end);
            let after = *after;
            self.runs.remove(&after);
        }
        self.runs.insert(first, end);
    }

    /// Notes that this offset is done.
    pub fn complete_one(&mut self, offset: Offset) {
        self.complete(NextOffset(offset.0)..offset.next());
    }

    /// Notes that everything before `next` is done.
    pub fn pass(&mut self, next: NextOffset) {
        self.complete(self.base()..next);
    }

    /// Takes the runs that the base has reached into it.
    fn absorb(&mut self) {
        while let Some(run) = self.runs.first_entry()
            && *run.key() <= self.base
        {
            self.base = self.base.max(run.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_base_passes_what_was_done_past_it() {
        let mut done = Done::before(NextOffset(40));
        for offset in [41, 42, 45] {
            done.complete_one(Offset(offset));
        }
        assert_eq!((done.base(), done.runs().collect::<Vec<_>>()), (NextOffset(40), vec![41..43, 45..46]));
        done.complete_one(Offset(40));
        assert_eq!((done.base(), done.runs().next(), done.runs().count()), (NextOffset(43), Some(45..46), 1));
        done.pass(NextOffset(45));
        assert_eq!(done, Done::before(NextOffset(46)));
    }

    proptest! {
        /// Against a set of every single offset: in whatever order and however often offsets are done.
        #[test]
        fn it_is_the_set_of_what_was_done(
            ranges in prop::collection::vec((0_i64..60, 0_i64..9), 0..40),
        ) {
            let mut done = Done::before(NextOffset(5));
            let mut model: BTreeSet<i64> = (0..5).collect();
            for (first, length) in ranges {
                done.complete(NextOffset(first)..NextOffset(first + length));
                model.extend(first..first + length);
                let base = (0..80).find(|offset| !model.contains(offset)).unwrap();
                prop_assert_eq!(done.base().0, base);
                for offset in 0..80 {
                    prop_assert_eq!(done.contains(Offset(offset)), model.contains(&offset));
                }
                let runs: Vec<_> = done.runs().collect();
                prop_assert!(runs.iter().all(|run| run.start > base && run.start < run.end));
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(done.is_prefix(), runs.is_empty());
            }
        }
    }
}
