//! Its tests, against a model that keeps everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn opened(offset: i64) -> Opened {
    let key = OrderKey::FREE;
    Opened { offset: Offset(offset), epoch: 0, at: Moment::START, millis: 0, bytes: 0, key }
}

fn with_key(offset: i64, key: u8) -> Opened {
    Opened { key: OrderKey::of(Some(&[key])), ..opened(offset) }
}

fn ledger(order: CommitOrder, start: i64) -> Ledger<i64> {
    Ledger::new(order, Done::before(NextOffset(start)))
}

fn open(ledger: &mut Ledger<i64>, offsets: impl IntoIterator<Item = i64>) {
    for offset in offsets {
        assert_eq!(ledger.open(opened(offset)), Delivery::First);
    }
}

fn close(ledger: &mut Ledger<i64>, offsets: impl IntoIterator<Item = i64>) {
    offsets.into_iter().for_each(|offset| ledger.close(Offset(offset), |_| offset).unwrap());
}

fn ready(ledger: &mut Ledger<i64>) -> Vec<i64> {
    let mut all = Vec::new();
    ledger.drain_ready(|_, outcome| all.push(outcome));
    all
}

#[test]
fn outcomes_leave_in_the_order_of_offsets() {
    let mut ledger = ledger(CommitOrder::Partition, 40);
    open(&mut ledger, [40, 41, 43]);
    close(&mut ledger, [43]);
    assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(40), vec![]));
    close(&mut ledger, [40]);
    assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(41), vec![40]));
    close(&mut ledger, [41]);
    assert_eq!((ledger.frontier(), ready(&mut ledger)), (NextOffset(44), vec![41, 43]));
    assert!(ledger.is_empty());
}

#[test]
fn without_order_an_outcome_overtakes_an_open_record() {
    let mut ledger = ledger(CommitOrder::None, 40);
    open(&mut ledger, [40, 41, 43]);
    close(&mut ledger, [43]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![43], NextOffset(40)));
    close(&mut ledger, [41, 40]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![41, 40], NextOffset(44)));
    assert!(ledger.is_empty());
}

#[test]
fn by_key_an_outcome_overtakes_open_records_of_other_keys_only() {
    let mut ledger = ledger(CommitOrder::Key, 0);
    for (offset, key) in [(0, b'a'), (1, b'b'), (2, b'a'), (3, b'b')] {
        assert_eq!(ledger.open(with_key(offset, key)), Delivery::First);
    }
    close(&mut ledger, [2, 3]);
    assert_eq!(ready(&mut ledger), [0; 0], "the first of each key is still open");
    close(&mut ledger, [1]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![1, 3], NextOffset(0)));
    close(&mut ledger, [0]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![0, 2], NextOffset(4)));
}

#[test]
fn a_second_outcome_is_refused_before_and_after_the_frontier_passed() {
    for order in [CommitOrder::Partition, CommitOrder::Key, CommitOrder::None] {
        let mut ledger = ledger(order, 0);
        open(&mut ledger, [0, 1]);
        close(&mut ledger, [1]);
        ready(&mut ledger);
        assert_eq!(ledger.close(Offset(1), |_| 1), Err(CloseError::Twice));
        close(&mut ledger, [0]);
        ready(&mut ledger);
        assert_eq!(ledger.close(Offset(0), |_| 0), Err(CloseError::Twice));
        assert_eq!(ledger.close(Offset(1), |_| 1), Err(CloseError::Twice));
        assert_eq!(ledger.close(Offset(2), |_| 2), Err(CloseError::Unopened));
    }
}

#[test]
fn a_record_delivered_twice_is_opened_once() {
    let mut ledger = ledger(CommitOrder::Partition, 5);
    assert_eq!(ledger.open(opened(4)), Delivery::Again);
    open(&mut ledger, [6]);
    assert_eq!([6, 5].map(|offset| ledger.open(opened(offset))), [Delivery::Again; 2]);
    assert_eq!(ledger.open_records(), 1);
}

#[test]
fn what_an_earlier_owner_has_done_is_not_opened() {
    let mut done = Done::before(NextOffset(5));
    [6, 7, 9].iter().for_each(|offset| done.complete_one(Offset(*offset)));
    let mut ledger: Ledger<i64> = Ledger::new(CommitOrder::Partition, done);
    let deliveries: Vec<Delivery> = (5..12).map(|offset| ledger.open(opened(offset))).collect();
    let [first, done] = [Delivery::First, Delivery::Done];
    assert_eq!(deliveries, [first, done, done, first, done, first, first]);
    close(&mut ledger, [5]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![5], NextOffset(8)));
}

#[test]
fn the_frontier_passes_trailing_control_records() {
    let mut ledger = ledger(CommitOrder::Partition, 5);
    ledger.pass(NextOffset(9));
    assert_eq!(ledger.frontier(), NextOffset(9));
    open(&mut ledger, [9]);
    ledger.pass(NextOffset(12));
    assert_eq!(ledger.frontier(), NextOffset(9));
}

#[test]
fn nothing_leaves_past_the_window_and_nothing_more_is_opened() {
    let mut ledger = ledger(CommitOrder::None, 0);
    open(&mut ledger, 0..WINDOW - 1);
    assert_eq!(ledger.room(), 1);
    // Behind a gap, as compaction leaves them, a record may lie further on than room was left for.
    let beyond = 2 * WINDOW;
    open(&mut ledger, [beyond]);
    assert_eq!(ledger.room(), 0);
    close(&mut ledger, (1..WINDOW - 1).chain([beyond]));
    assert_eq!(ready(&mut ledger), (1..WINDOW - 1).collect::<Vec<_>>());
    assert_eq!((ready(&mut ledger), ledger.waiting(), ledger.open_records()), (vec![], 1, 1));
    close(&mut ledger, [0]);
    assert_eq!(ready(&mut ledger), [0]);
    assert_eq!((ready(&mut ledger), ledger.frontier()), (vec![beyond], NextOffset(beyond + 1)));
    assert_eq!(ledger.room(), usize::try_from(WINDOW).unwrap());
}

/// What was delivered, and what has become of it.
#[derive(Default)]
struct Model {
    delivered: Vec<i64>,
    closed: BTreeSet<i64>,
    left: Vec<i64>,
}

impl Model {
    fn open(&self) -> Vec<i64> {
        self.delivered.iter().copied().filter(|offset| !self.closed.contains(offset)).collect()
    }

    fn key(offset: i64) -> u8 {
        u8::try_from(offset % 3).unwrap()
    }

    /// Which of those that are closed may have left.
    fn may_leave(&self, order: CommitOrder) -> BTreeSet<i64> {
        let open = self.open();
        let is_blocked = |offset: i64| match order {
            CommitOrder::Partition => open.first().is_some_and(|first| *first < offset),
            CommitOrder::Key => {
                open.iter().any(|earlier| *earlier < offset && Self::key(*earlier) == Self::key(offset))
            }
            CommitOrder::None => false,
        };
        self.closed.iter().copied().filter(|offset| !is_blocked(*offset)).collect()
    }
}

proptest! {
    /// Whatever the gaps, the redeliveries and the order of outcomes: the frontier never goes back and never passes an offset without
    /// an outcome, and each outcome leaves once, as soon as the order lets it, and not before.
    #[test]
    fn each_outcome_leaves_when_its_order_lets_it(
        order in prop::sample::select(vec![CommitOrder::Partition, CommitOrder::Key, CommitOrder::None]),
        gaps in prop::collection::vec(1_i64..4, 1..60),
        actions in prop::collection::vec((any::<u8>(), any::<prop::sample::Index>()), 0..240),
    ) {
        let offsets: Vec<i64> = gaps.iter().scan(100, |at, gap| { *at += gap; Some(*at) }).collect();
        let (mut ledger, mut model) = (ledger(order, 100), Model::default());
        let mut last = ledger.frontier();
        for (action, index) in actions {
            let delivered = model.delivered.len();
            match action % 4 {
                0 | 1 if delivered < offsets.len() => {
                    let offset = offsets[delivered];
                    prop_assert_eq!(ledger.open(with_key(offset, Model::key(offset))), Delivery::First);
                    model.delivered.push(offset);
                }
                2 if delivered > 0 => {
                    let offset = offsets[index.index(delivered)];
                    let expected = if model.closed.insert(offset) { Ok(()) } else { Err(CloseError::Twice) };
                    prop_assert_eq!(ledger.close(Offset(offset), |_| offset), expected);
                }
                _ if delivered > 0 => {
                    let again = opened(offsets[index.index(delivered)]);
                    prop_assert_eq!(ledger.open(again), Delivery::Again);
                }
                _ => {}
            }
            let already = model.left.len();
            ledger.drain_ready(|opened, outcome| {
                assert_eq!(opened.offset.0, outcome);
                model.left.push(outcome);
            });
            prop_assert!(order == CommitOrder::None || model.left[already..].is_sorted());
            let left: BTreeSet<i64> = model.left.iter().copied().collect();
            prop_assert_eq!(left.len(), model.left.len(), "each leaves once");
            prop_assert_eq!(&left, &model.may_leave(order));
            let open = model.open();
            let read = model.delivered.last().map_or(100, |last| last + 1);
            let frontier = ledger.frontier();
            prop_assert_eq!(frontier.0, open.first().copied().unwrap_or(read));
            prop_assert!(frontier >= last);
            last = frontier;
            prop_assert_eq!(ledger.open_records(), open.len());
            prop_assert_eq!(ledger.waiting(), model.closed.len() - left.len());
            prop_assert_eq!(ledger.is_empty(), open.is_empty());
        }
        let mut forgotten = BTreeSet::new();
        ledger.forget(|opened, _| { forgotten.insert(opened.offset.0); });
        let left: BTreeSet<i64> = model.left.iter().copied().collect();
        prop_assert_eq!(forgotten, model.delivered.iter().copied().filter(|offset| !left.contains(offset)).collect());
    }
}
