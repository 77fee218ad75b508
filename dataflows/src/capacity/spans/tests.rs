//! What is maintained is what it would be from scratch, and memory stays.

use proptest::prelude::*;

use super::super::picture::Names;
use super::super::tick::{CellTick, ModelTick, PartitionTick, Stage, StageTick};
use super::*;

fn cell() -> impl Strategy<Value = CellTick> {
    let tally = (0_i64..50, 0_i64..3, 0_i64..5_000).prop_map(|(records, excess, bytes)| Tally {
        records,
        excess,
        bytes,
    });
    (0..4_i32, 0..3_u8, 0..12_u8, tally).prop_map(|(partition, model, tenant, tally)| CellTick {
        partition,
        model: format!("m{model}"),
        tenant: format!("t{tenant}"),
        tally,
    })
}

fn partition() -> impl Strategy<Value = PartitionTick> {
    // Ends and commits go back now and then, and are not always known.
    (0..4_i32, prop::option::of(0_i64..1_000), prop::option::of(0_i64..1_000), 0_i64..9).prop_map(
        |(partition, end, committed, in_flight)| PartitionTick {
            partition,
            end,
            committed,
            oldest_millis: end,
            in_flight,
        },
    )
}

fn model() -> impl Strategy<Value = ModelTick> {
    let batches = prop::collection::vec((1_i64..64, 1_i64..50_000), 0..4);
    (0..3_u8, batches, prop::collection::vec((0_u8..4, 1_i64..9), 0..3)).prop_map(
        |(model, batches, latency)| {
            let mut line = Line::default();
            batches.iter().for_each(|(rows, micros)| line.add(Line::point(*rows, *micros)));
            ModelTick { model: format!("m{model}"), batches: line, handoffs: line, latency, cost: None }
        },
    )
}

fn tick() -> impl Strategy<Value = Tick> {
    let unique = |mut partitions: Vec<PartitionTick>| {
        partitions.sort_by_key(|now| now.partition);
        partitions.dedup_by_key(|now| now.partition);
        partitions
    };
    let lists = (
        prop::collection::vec(partition(), 0..5),
        prop::collection::vec(cell(), 0..8),
        prop::collection::vec(model(), 0..3),
    );
    (900_i64..1_100, lists, 0_i64..1_000).prop_map(move |(millis, (partitions, cells, models), on_cpu)| {
        Tick {
            at_millis: 0,
            millis,
            partitions: unique(partitions),
            cells,
            models,
            stages: vec![StageTick { stage: Stage::Worker, threads: 2, on_cpu, ready: on_cpu / 3 }],
            bursts: Vec::new(),
        }
    })
}

fn ticks(most: usize) -> impl Strategy<Value = Vec<Tick>> {
    prop::collection::vec(tick(), 0..most).prop_map(|mut ticks| {
        let mut at_millis = 1_800_000_000_000;
        for tick in &mut ticks {
            at_millis += tick.millis;
            tick.at_millis = at_millis;
        }
        ticks
    })
}

/// With names in place of numbers, which depend on what was forgotten.
type Named = (
    BTreeMap<(i32, String, String), Tally>,
    BTreeMap<(i32, String), Tally>,
    BTreeMap<i32, Tally>,
    BTreeMap<String, Line>,
    i64,
);

fn named(picture: &Picture) -> Named {
    let name = |names: &Names, number: u32| names.name(number).to_owned();
    let (sums, names) = (&picture.sums, &picture.names);
    let cells = sums
        .cells
        .iter()
        .map(|(cell, tally)| ((cell.partition, name(names, cell.model), name(names, cell.tenant)), *tally));
    let mixes =
        sums.mixes.iter().map(|((partition, model), tally)| ((*partition, name(names, *model)), *tally));
    let series = sums.series.iter().map(|(series, line)| {
        let key = match series {
            Series::Batches(model) => format!("batches {}", names.name(*model)),
            Series::Handoffs(model) => format!("handoffs {}", names.name(*model)),
            Series::Latency(model, bucket) => format!("latency {} {bucket}", names.name(*model)),
            other => format!("{other:?}"),
        };
        (key, *line)
    });
    (cells.collect(), mixes.collect(), sums.partitions.clone(), series.collect(), picture.millis)
}

/// How many ticks a span covers after so many.
fn covered(count: usize, panes: usize, each: u64) -> usize {
    let each = usize::try_from(each).unwrap();
    let newest = count.checked_sub(1).map_or(0, |last| last % each + 1);
    (newest + (panes - 1) * each).min(count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_maintained_is_what_it_is_from_scratch(ticks in ticks(40), panes in 1_usize..5, each in 1_u64..4) {
        let given = ticks.clone();
        let maintained = timely::execute_directly(move |worker| {
            let mut spans = Spans::new(worker, panes, each);
            given.iter().map(|tick| { spans.add(worker, tick); spans.picture() }).collect::<Vec<_>>()
        });
        for (count, maintained) in (1..).zip(&maintained) {
            let recent = usize::try_from(RECENT_TICKS.div_ceil(each)).unwrap().min(panes);
            let scratch =
                Picture::of(&ticks[..count], covered(count, panes, each), covered(count, recent, each));
            prop_assert_eq!(named(maintained), named(&scratch), "after {} ticks", count);
            prop_assert_eq!(&maintained.partitions, &scratch.partitions);
            prop_assert_eq!((maintained.recent.ticks, maintained.recent.millis), (scratch.recent.ticks, scratch.recent.millis));
            let of = |picture: &Picture| picture.recent.series.get(&Series::Arrived(1)).copied();
            prop_assert_eq!(of(maintained), of(&scratch));
        }
    }
}

/// An hour with ten thousand keys, a thousand of which are seen in a second, and which are others after a while.
#[test]
fn memory_stays_over_an_hour() {
    let (held, names) = timely::execute_directly(|worker| {
        let mut spans = Spans::new(worker, 6, 10);
        let mut held = Vec::new();
        let mut names = 0;
        for second in 0..3_600_u32 {
            let cells = (0..1_000_u32).map(|place| {
                let key = (second * 1_000 + place) % 10_000 + second / 600 * 5_000;
                CellTick {
                    partition: i32::try_from(key % 64).unwrap(),
                    model: "m".to_owned(),
                    tenant: format!("t{key}"),
                    tally: Tally { records: 1, excess: 0, bytes: 10 },
                }
            });
            let at_millis = i64::from(second) * 1_000;
            spans.add(worker, &Tick { at_millis, millis: 1_000, cells: cells.collect(), ..Tick::default() });
            if second % 60 == 59 {
                held.push(spans.updates());
                names = names.max(spans.names());
            }
        }
        (held, names)
    });
    // 60 panes' worth of cells would be 60,000 and more; each cell is in the index once, at its present sum, and in each pane at most once.
    let (early, late) = held.split_at(10);
    let most = |held: &[usize]| *held.iter().max().unwrap();
    assert!(most(late) <= most(early) * 12 / 10, "{held:?}");
    assert!(most(late) < 120_000 && names <= 25_001, "{held:?} {names}");
}
