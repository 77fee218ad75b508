//! Heavy hitters in bounded memory: Space-Saving (Metwally, Agrawal and El Abbadi, *Efficient computation of frequent and top-k elements in
//! data streams*, ICDT 2005).
//!
//! There is room for so many names. One that finds no room takes the place of the one with the fewest records, and takes over what was
//! counted for it: so a count is never too low, at most [`Tally::excess`] too high, and all counts together are exact. With `n` records
//! in `k` places no count is more than `n / k` too high, and whoever has more than that is there.

use std::collections::BTreeMap;

use super::sums::Tally;

/// The most frequent of what was counted. A key is small and quickly compared; its name is asked for when it is new.
#[derive(Debug)]
pub struct Sketch<K, N> {
    room: usize,
    places: BTreeMap<K, usize>,
    counted: Vec<Counted<K, N>>,
    /// The fewest records that a place had when it was last looked, and the places that had so many.
    fewest: (i64, Vec<usize>),
}

/// What was counted of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted<K, N> {
    /// The key.
    pub key: K,
    /// Its name.
    pub name: N,
    /// What was counted.
    pub tally: Tally,
}

impl<K: Ord + Copy, N> Sketch<K, N> {
    /// Nothing yet, and room for so many, at least one.
    pub fn new(room: usize) -> Self {
        Self { room: room.max(1), places: BTreeMap::new(), counted: Vec::new(), fewest: (0, Vec::new()) }
    }

    /// Counts one record of `key`.
    pub fn count(&mut self, key: K, name: impl FnOnce() -> N, bytes: i64) {
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.place_for(key, name()),
        };
        let tally = &mut self.counted[place].tally;
        tally.records += 1;
        tally.bytes += bytes;
    }

    fn place_for(&mut self, key: K, name: N) -> usize {
        let place = if self.counted.len() < self.room {
            self.counted.push(Counted { key, name, tally: Tally::default() });
            self.counted.len() - 1
        } else {
            let place = self.take_fewest();
            let counted = &mut self.counted[place];
            self.places.remove(&counted.key);
            counted.tally.excess = counted.tally.records;
            (counted.key, counted.name) = (key, name);
            place
        };
        self.places.insert(key, place);
        place
    }

    /// A place that has the fewest records. Counts only grow, so a place that has not grown since all were looked at is still one.
    fn take_fewest(&mut self) -> usize {
        loop {
            let (least, places) = &mut self.fewest;
            while let Some(place) = places.pop() {
                if self.counted[place].tally.records == *least {
                    return place;
                }
            }
            let records = || self.counted.iter().map(|counted| counted.tally.records);
            *least = records().min().expect("there is room for one");
            places.extend(
                records().enumerate().filter(|(_, records)| records == least).map(|(place, _)| place),
            );
        }
    }

    /// What was counted, in no order, and begins anew.
    pub fn take(&mut self) -> Vec<Counted<K, N>> {
        self.places.clear();
        self.fewest.1.clear();
        std::mem::take(&mut self.counted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_never_too_low_and_too_high_by_no_more_than_they_say(
            stream in prop::collection::vec(0_u8..40, 0..600), room in 1_usize..20,
        ) {
            let mut sketch = Sketch::new(room);
            let mut exact = BTreeMap::<u8, i64>::new();
            for key in &stream {
                sketch.count(*key, || (), 10);
                *exact.entry(*key).or_default() += 1;
            }
            let n = i64::try_from(stream.len()).unwrap();
            let found: BTreeMap<u8, Tally> =
                sketch.take().into_iter().map(|counted| (counted.key, counted.tally)).collect();
            prop_assert!(found.len() <= room);
            prop_assert_eq!(found.values().map(|tally| tally.records).sum::<i64>(), n);
            prop_assert_eq!(found.values().map(|tally| tally.bytes).sum::<i64>(), 10 * n);
            let bound = n / i64::try_from(room).unwrap();
            for (key, tally) in &found {
                prop_assert!(tally.records >= exact[key] && tally.records - tally.excess <= exact[key]);
                prop_assert!(tally.excess <= bound, "{} of {bound}", tally.excess);
            }
            for (key, count) in exact {
                prop_assert!(count <= bound || found.contains_key(&key), "{key} has {count}");
            }
        }
    }

    #[test]
    fn it_begins_anew_after_it_was_read() {
        let mut sketch = Sketch::new(2);
        sketch.count(1, || "a", 1);
        assert_eq!(sketch.take().len(), 1);
        sketch.count(2, || "b", 1);
        let tally = Tally { records: 1, excess: 0, bytes: 1 };
        assert_eq!(sketch.take(), [Counted { key: 2, name: "b", tally }]);
    }
}
