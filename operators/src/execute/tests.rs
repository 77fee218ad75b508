//! Execution, against simulated models: whatever is poison and whatever breaks, each row ends once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::catalog::{BatchPolicy, NotFinite};
use crate::clock::ManualClock;
use crate::codec::form::Form;
use crate::fixtures::{Recorder, TestModels, block, execute_parts, lease, models};
use crate::lease::Offset;
use crate::model::simulated::{POISON, SimulatedBackend, SimulatedModel, expected};
use crate::observe::CloseReason;
use crate::window::Run;

const ROW_LEN: usize = 2;
const OUTPUT_LEN: usize = 2;

struct Rig {
    executor: Executor,
    models: TestModels,
    observer: Arc<Recorder>,
    clock: Arc<ManualClock>,
}

fn rig_with(not_finite: NotFinite, adjust: impl FnOnce(&mut ExecuteParts)) -> Rig {
    let backend = SimulatedBackend::new([SimulatedModel::new("m", ROW_LEN, OUTPUT_LEN)]);
    let models = models(backend, BatchPolicy::Static { size_max: 64, delay_max: Duration::ZERO }, not_finite);
    let (clock, observer) = (Arc::new(ManualClock::new()), Arc::default());
    let mut parts = execute_parts(&models, &clock, &observer);
    adjust(&mut parts);
    Rig { executor: Executor::new(parts), models, observer, clock }
}

fn rig() -> Rig {
    rig_with(NotFinite::Refuse, |_| {})
}

/// A batch of runs: of each its epoch and its rows. Run `n` is of partition `n`.
fn batch(rig: &Rig, runs: &[(u64, Vec<Vec<f32>>)]) -> Batch {
    let model = ModelIndex(0);
    let run = |(partition, (epoch, rows)): (i32, &(u64, Vec<Vec<f32>>))| {
        let block = block(model, lease(partition, 1), rows, rig.clock.now());
        Run { rows: 0..block.len(), block, token: *epoch }
    };
    Batch {
        id: 7,
        model,
        served: Arc::clone(rig.models.catalog.served(model).unwrap()),
        runs: (0..).zip(runs).map(run).collect(),
        closed: CloseReason::Full,
        attempt: 1,
        hangs: 0,
    }
}

fn row(number: usize, poison: bool) -> Vec<f32> {
    vec![if poison { POISON } else { f32::from(u16::try_from(number).unwrap()) }, 0.5]
}

/// What each record came to: partition and offset, its epoch, and its output unless it is a dead letter.
type Ends = BTreeMap<(i32, i64), (u64, Option<Vec<f32>>)>;

fn ends(outcomes: &[(u64, Outcomes)]) -> Ends {
    let mut ends = Ends::new();
    for (epoch, outcomes) in outcomes {
        for index in 0..outcomes.len() {
            let (lease, Offset(offset), kind) = outcomes.origin(index);
            let output = (kind == Kind::Result).then(|| {
                let value = outcomes.record(index).value().unwrap();
                let value: serde_json::Value = serde_json::from_slice(value).unwrap();
                assert_eq!(value["origin"]["offset"], offset);
                serde_json::from_value(value["output"].clone()).unwrap()
            });
            let earlier = ends.insert((lease.partition.0, offset), (*epoch, output));
            assert!(earlier.is_none(), "two outcomes at {lease:?} {offset}");
        }
    }
    ends
}

fn header(outcomes: &Outcomes, index: usize, name: &str) -> Option<String> {
    let value = outcomes.record(index).header(name.as_bytes())??;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// The whole batch, and two halves a level for each poison row. Where both halves fail, a good row, and a second try for each of them; so
/// also for batches so small that no half of another can tell anything.
fn calls_max(rows: usize, poison: usize) -> usize {
    let twice = if poison > 1 || rows <= 2 { 3 } else { 0 };
    1 + poison * (2 * rows.next_power_of_two().ilog2() as usize + twice)
}

proptest! {
    /// Whichever rows are poison, and however the batch is composed of blocks, epochs and partitions: those rows become dead letters,
    /// every other row its own result, at the epoch of its record.
    #[test]
    fn exactly_the_poison_rows_become_dead_letters(
        runs in prop::collection::vec((0_u64..4, prop::collection::vec(prop::bool::weighted(0.2), 1..12)), 1..6),
    ) {
        let mut rig = rig();
        let mut numbers = 0..;
        let mut expected_ends = Ends::new();
        let runs: Vec<(u64, Vec<Vec<f32>>)> = (0..).zip(&runs).map(|(partition, (epoch, poison))| {
            let rows = (0..).zip(poison).map(|(offset, poison)| {
                let row = row(numbers.next().unwrap(), *poison);
                let end = (!poison).then(|| expected(&row, OUTPUT_LEN));
                expected_ends.insert((partition, offset), (*epoch, end));
                row
            });
            (*epoch, rows.collect())
        }).collect();
        let poison = expected_ends.values().filter(|(_, end)| end.is_none()).count();
        let batch = batch(&rig, &runs);
        let before = rig.models.backend.calls();
        let executed = rig.executor.execute(&batch).unwrap();
        let calls = usize::try_from(rig.models.backend.calls() - before).unwrap();
        prop_assert_eq!(executed.id, 7);
        prop_assert!(executed.left.is_none());
        prop_assert_eq!(ends(&executed.outcomes), expected_ends);
        let seen = rig.observer.seen();
        let rows = batch.rows();
        prop_assert_eq!(&seen.batches, &[(CloseReason::Full, rows, u32::try_from(calls).unwrap())]);
        prop_assert_eq!(seen.dead_letters, vec![(Reason::InferenceFailed, Stage::Infer); poison]);
        prop_assert!(calls <= calls_max(rows, poison), "{calls} calls for {poison} poison rows among {rows}");
    }

    /// The same, on a device that breaks at some call and recovers at a later one: whenever that is, only poison rows are blamed.
    #[test]
    fn a_device_that_breaks_while_poison_is_looked_for_makes_no_dead_letter(
        poison in prop::collection::vec(prop::bool::weighted(0.1), 1..65), good in 0_u64..40, broken in 1_u64..20,
    ) {
        let mut rig = rig();
        let rows = poison.iter().enumerate().map(|(number, poison)| row(number, *poison)).collect();
        let mut batch = batch(&rig, &[(3, rows)]);
        rig.executor.warm_up();
        rig.models.backend.break_device_after(good, broken);
        let mut all = Ends::new();
        loop {
            let executed = rig.executor.execute(&batch).unwrap();
            for (origin, end) in ends(&executed.outcomes) {
                prop_assert!(all.insert(origin, end).is_none());
            }
            let Some(Left::Broken(left, _)) = executed.left else { break };
            batch = left;
        }
        let blamed: Vec<bool> = all.values().map(|(_, end)| end.is_none()).collect();
        prop_assert_eq!(blamed, poison);
    }

    /// A device that fails for good after some calls: what it did not do comes back, and nothing is lost, doubled or blamed.
    #[test]
    fn what_a_broken_device_leaves_is_neither_lost_nor_blamed(rows in 1_usize..40, fails in 1_u64..200) {
        let mut rig = rig();
        let runs = vec![(3, (0..rows).map(|number| row(number, false)).collect::<Vec<_>>())];
        let mut batch = batch(&rig, &runs);
        rig.executor.warm_up();
        rig.models.backend.break_device(fails);
        let (mut all, mut attempts) = (Ends::new(), 0);
        loop {
            attempts += 1;
            let executed = rig.executor.execute(&batch).unwrap();
            for (origin, end) in ends(&executed.outcomes) {
                prop_assert!(all.insert(origin, end).is_none());
            }
            let Some(Left::Broken(left, reason)) = executed.left else { break };
            prop_assert_eq!(reason, "the simulated device is broken");
            prop_assert_eq!((left.attempt, left.closed, left.id), (batch.attempt + 1, CloseReason::Retry, 7));
            batch = left;
        }
        prop_assert!(attempts <= fails + 1);
        prop_assert_eq!(all.len(), rows);
        prop_assert!(all.values().all(|(epoch, end)| *epoch == 3 && end.is_some()));
        prop_assert!(rig.observer.seen().dead_letters.is_empty());
    }
}

#[test]
fn one_poison_row_among_64_costs_at_most_12_calls_wherever_it_is() {
    for place in 0..64 {
        let mut rig = rig();
        let batch = batch(&rig, &[(0, (0..64).map(|number| row(number, number == place)).collect())]);
        let executed = rig.executor.execute(&batch).unwrap();
        let blamed: Vec<usize> = (0..)
            .zip(ends(&executed.outcomes).values())
            .filter(|(_, (_, end))| end.is_none())
            .map(|(place, _)| place)
            .collect();
        assert_eq!(blamed, [place]);
        let (_, _, calls) = rig.observer.seen().batches[0];
        assert!(calls <= 1 + 12, "{calls} calls for a poison row at {place}");
    }
}

#[test]
fn a_device_that_is_broken_from_the_start_gives_every_row_back_after_a_few_calls() {
    let mut rig = rig();
    rig.models.backend.break_device(u64::MAX);
    let batch = batch(&rig, &[(1, (0..32).map(|number| row(number, false)).collect())]);
    let executed = rig.executor.execute(&batch).unwrap();
    assert!(executed.outcomes.is_empty());
    let Some(Left::Broken(left, _)) = executed.left else { panic!("rows are left") };
    let offsets: Vec<_> = left.each_row().map(|(block, row, _)| block.origin(row).1.0).collect();
    assert_eq!(offsets, (0..32).collect::<Vec<_>>());
    // The whole, its halves, and the row known to be good.
    assert_eq!(rig.observer.seen().batches, [(CloseReason::Full, 0, 4)]);
}

#[test]
fn a_model_that_does_not_open_is_a_broken_device_and_not_a_bad_row() {
    let mut rig = rig_with(NotFinite::Refuse, |parts| parts.backend = Arc::new(SimulatedBackend::default()));
    rig.executor.warm_up();
    let batch = batch(&rig, &[(0, vec![row(1, false)])]);
    let executed = rig.executor.execute(&batch).unwrap();
    let Some(Left::Broken(left, reason)) = executed.left else { panic!("the row is left") };
    assert!(executed.outcomes.is_empty() && left.rows() == 1);
    assert!(reason.contains("no such model"), "{reason}");
}

#[test]
fn a_letter_names_the_attempt_the_model_and_what_the_model_said() {
    let mut rig = rig();
    let batch = Batch { attempt: 3, ..batch(&rig, &[(0, vec![row(0, true)])]) };
    let executed = rig.executor.execute(&batch).unwrap();
    let letters = &executed.outcomes[0].1;
    assert_eq!(header(letters, 0, "inference.dlq.attempt").as_deref(), Some("3"));
    assert_eq!(header(letters, 0, "inference.dlq.model").as_deref(), Some("m"));
    assert_eq!(header(letters, 0, "inference.dlq.model_version").as_deref(), Some(&*batch.served.version));
    let message = header(letters, 0, "inference.dlq.message").unwrap();
    assert!(message.contains("row 0 of 1 is poison"), "{message}");
}

#[test]
fn a_result_over_the_topics_limit_is_a_dead_letter_and_its_neighbours_are_not() {
    let mut rig = rig_with(NotFinite::Refuse, |parts| parts.result_bytes_max = 330);
    let mut batch = batch(&rig, &[(0, vec![row(1, false), row(2, false), row(3, false)])]);
    let mut long = Block::clone(&batch.runs[0].block);
    let start = u32::try_from(long.text.len()).unwrap();
    long.text.push_str(&"long".repeat(40));
    long.rows[1].request_id = start..start + 160;
    batch.runs[0].block = Arc::new(long);
    let executed = rig.executor.execute(&batch).unwrap();
    let results: Vec<bool> = ends(&executed.outcomes).into_values().map(|(_, end)| end.is_some()).collect();
    assert_eq!(results, [true, false, true]);
    assert_eq!(rig.observer.seen().dead_letters, [(Reason::ResultTooLarge, Stage::Encode)]);
}

#[test]
fn an_output_that_is_not_finite_is_a_dead_letter_where_the_model_forbids_it() {
    let run = |not_finite| {
        let mut rig = rig_with(not_finite, |_| {});
        let batch = batch(&rig, &[(0, vec![row(1, false), vec![f32::INFINITY, 0.0]])]);
        let executed = rig.executor.execute(&batch).unwrap();
        let kinds: Vec<_> =
            (0..2).map(|index| executed.outcomes[0].1.origin(index).2 == Kind::Result).collect();
        (kinds, rig.observer.seen().dead_letters)
    };
    assert_eq!(run(NotFinite::Refuse), (vec![true, false], vec![(Reason::NotFinite, Stage::Encode)]));
    assert_eq!(run(NotFinite::Allow), (vec![true, true], vec![]));
}

#[test]
fn the_key_of_a_result_is_the_request_id_or_the_requests_own_key() {
    let key = |own: bool| {
        let mut rig = rig_with(NotFinite::Refuse, |parts| parts.result_key_is_request_key = own);
        let batch = batch(&rig, &[(0, vec![row(1, false)])]);
        let executed = rig.executor.execute(&batch).unwrap();
        executed.outcomes[0].1.record(0).key().unwrap().to_vec()
    };
    assert_eq!((key(false), key(true)), (b"r".to_vec(), b"acme|m".to_vec()));
}

#[test]
fn a_result_has_the_form_that_is_configured_or_that_of_its_request() {
    for (form, tensor) in [
        (ResultForm::Always(Form::Json), false),
        (ResultForm::Always(Form::Tensor), true),
        (ResultForm::Request, false),
    ] {
        let mut rig = rig_with(NotFinite::Refuse, |parts| parts.result_form = form);
        let batch = one_row(&rig, ModelIndex(0));
        let executed = rig.executor.execute(&batch).unwrap();
        let record = executed.outcomes[0].1.record(0);
        let header = |name: &str| record.header(name.as_bytes()).flatten();
        assert_eq!(header("content-type").is_some(), tensor, "{form:?}");
        if tensor {
            let output: Vec<u8> =
                expected(&[1.0, 0.5], OUTPUT_LEN).iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!((record.value(), header("shape")), (Some(&output[..]), Some(&b"2"[..])));
            assert_eq!((header("model_id"), header("origin_offset")), (Some(&b"m"[..]), Some(&b"0"[..])));
        } else {
            assert_eq!(record.value().map(|value| value[0]), Some(b'{'));
        }
    }
}

/// A batch of one row for a model.
fn one_row(rig: &Rig, model: ModelIndex) -> Batch {
    let block = block(model, lease(0, 1), &[vec![1.0, 0.5]], rig.clock.now());
    Batch {
        id: 7,
        model,
        served: Arc::clone(rig.models.catalog.served(model).unwrap()),
        runs: vec![Run { rows: 0..1, block, token: 0 }],
        closed: CloseReason::Full,
        attempt: 1,
        hangs: 0,
    }
}

proptest! {
    /// Whichever models are asked for: never is more open than may be, what is closed is what was not used for the longest, nothing is
    /// closed for a model that is open or has room, and each row has its result.
    #[test]
    fn models_are_closed_for_others_as_they_were_used(
        sizes in prop::collection::vec(1_u64..10, 4), room in 9_u64..30, asked in prop::collection::vec(0_u32..4, 1..40),
    ) {
        let backend =
            SimulatedBackend::new(["a", "b", "c", "d"].map(|id| SimulatedModel::new(id, ROW_LEN, OUTPUT_LEN)));
        let policy = BatchPolicy::Static { size_max: 64, delay_max: Duration::ZERO };
        let models = models(backend, policy, NotFinite::Refuse);
        let (clock, observer) = (Arc::new(ManualClock::new()), Arc::default());
        let mut parts = execute_parts(&models, &clock, &observer);
        let mut files = (*parts.files).clone();
        files.values_mut().zip(&sizes).for_each(|(file, bytes)| file.bytes = *bytes);
        (parts.files, parts.open_bytes_max) = (Arc::new(files), Some(room));
        let mut rig = Rig { executor: Executor::new(parts), models, observer, clock };
        rig.executor.warm_up();
        // The least recently used first.
        let mut open: Vec<usize> = Vec::new();
        let size = |open: &[usize]| open.iter().map(|model| sizes[*model]).sum::<u64>();
        let mut expected: Vec<(ModelIndex, bool)> = Vec::new();
        let index = |model: usize| ModelIndex(u32::try_from(model).unwrap());
        for (model, bytes) in sizes.iter().enumerate() {
            if size(&open) + bytes <= room {
                open.push(model);
                expected.push((index(model), true));
            }
        }
        for model in asked {
            let executed = rig.executor.execute(&one_row(&rig, ModelIndex(model))).unwrap();
            prop_assert_eq!(executed.outcomes[0].1.origin(0).2, Kind::Result);
            let model = model as usize;
            if open.contains(&model) {
                open.retain(|other| *other != model);
            } else {
                while size(&open) + sizes[model] > room {
                    expected.push((index(open.remove(0)), false));
                }
                expected.push((index(model), true));
            }
            open.push(model);
            prop_assert!(size(&open) <= room);
        }
        prop_assert_eq!(rig.observer.seen().sessions, expected);
    }
}

#[test]
fn a_hand_over_is_the_time_for_which_rows_and_executor_were_both_there() {
    let mut rig = rig();
    let at = |millis| Moment::START.after(Duration::from_millis(millis));
    let millis = |millis| Some(Duration::from_millis(millis));
    rig.clock.advance(Duration::from_millis(10));
    let full = batch(&rig, &[(0, vec![row(0, false)])]);
    assert_eq!(rig.executor.handoff(&full, at(13)), millis(3), "since the row was polled");
    rig.executor.free_since = at(12);
    assert_eq!(rig.executor.handoff(&full, at(13)), millis(1), "since the executor had nothing to do");
    let due = Batch { closed: CloseReason::Deadline, ..full.clone() };
    assert_eq!(rig.executor.handoff(&due, at(13)), millis(1), "rows wait for nobody here");
    let idle = Batch { closed: CloseReason::Idle, ..full.clone() };
    assert_eq!(rig.executor.handoff(&idle, at(13)), None, "an objective may have wanted it to wait");
    assert_eq!(rig.executor.handoff(&full, at(5_000)), None, "nobody hands a batch over for so long");
}
