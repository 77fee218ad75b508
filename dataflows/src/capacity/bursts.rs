//! When within a tick records came: a replay of bursts that are shorter than a tick needs to know.

use std::collections::VecDeque;
use std::time::Duration;

use operators::clock::Moment;

/// The length of a slot.
const SLOT: Duration = Duration::from_millis(100);

/// Slots of a tick at most; of a longer one the last.
const SLOTS_MAX: usize = 64;

/// Records by the slots that they were polled in.
#[derive(Debug, Default)]
pub struct Bursts {
    counts: VecDeque<(u64, u32)>,
    last: u64,
}

impl Bursts {
    /// So many were polled at this moment.
    pub fn count(&mut self, at: Moment, records: u32) {
        let slot = at.nanos() / u64::try_from(SLOT.as_nanos()).unwrap_or(1);
        self.last = self.last.max(slot);
        // Blocks of several workers come nearly in order.
        match self.counts.iter_mut().rev().find(|(of, _)| *of == slot) {
            Some((_, count)) => *count = count.saturating_add(records),
            None => self.counts.push_back((slot, records)),
        }
        if self.counts.len() > SLOTS_MAX {
            self.counts.pop_front();
        }
    }

    /// What each slot had of a tick that was so long, the earliest first; nothing where nothing came.
    pub fn take(&mut self, millis: i64) -> Vec<u32> {
        let counts = std::mem::take(&mut self.counts);
        if counts.is_empty() {
            return Vec::new();
        }
        let slots = u128::from(millis.unsigned_abs()).div_ceil(SLOT.as_millis());
        let slots = usize::try_from(slots).unwrap_or(SLOTS_MAX).clamp(1, SLOTS_MAX);
        let mut taken = vec![0_u32; slots];
        for (slot, count) in counts {
            let back = usize::try_from(self.last - slot).unwrap_or(usize::MAX).min(slots - 1);
            let place = &mut taken[slots - 1 - back];
            *place = place.saturating_add(count);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    #[test]
    fn what_came_is_told_by_tenths_of_a_second_up_to_the_last_that_came() {
        let mut bursts = Bursts::default();
        assert_eq!(bursts.take(1_000), Vec::<u32>::new());
        for (millis, records) in [(2_050, 3), (2_310, 1), (2_390, 1), (2_080, 2)] {
            bursts.count(at(millis), records);
        }
        assert_eq!(bursts.take(500), [0, 5, 0, 0, 2]);
        assert_eq!(bursts.take(500), Vec::<u32>::new());
        // What is older than the tick came before it and is counted at its start.
        bursts.count(at(2_100), 7);
        bursts.count(at(3_000), 1);
        assert_eq!(bursts.take(300), [7, 0, 1]);
    }

    #[test]
    fn a_long_tick_keeps_no_more_than_its_last_slots() {
        let mut bursts = Bursts::default();
        (0..1_000).for_each(|slot| bursts.count(at(100 * slot), 1));
        assert_eq!(bursts.take(100_000), vec![1; SLOTS_MAX]);
    }
}
