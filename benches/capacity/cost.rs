//! What it costs to observe a record, to maintain the sums of a second, and to say what they mean.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataflows::capacity::sums::{Line, Tally};
use dataflows::capacity::tick::{CellTick, Cost, ModelSetup, ModelTick, PartitionTick};
use dataflows::capacity::{Basis, Gatherer, Objective, Setup, Spans, Tick, analyse};
use operators::block::{Block, Row};
use operators::broker::Polled;
use operators::catalog::ModelIndex;
use operators::clock::{Clock as _, SystemClock};
use operators::lease::{Lease, Offset, Partition, Term};
use operators::observe::{BatchSeen, CloseReason, RowSeen};
use tidemill::experiment::Failure;

const PARTITIONS: i32 = 64;
const TENANTS: i32 = 1_000;

/// Rows of a block and of a batch.
const ROWS: usize = 64;

/// Ticks of which the median is taken, after those that fill the span.
const TICKS: i64 = 30;

pub(crate) fn run(json: Option<&Path>) -> Result<(), Failure> {
    let observing = observing();
    let [maintaining, analysing, memory] = maintaining();
    println!("observing: {observing:.0} ns a record, in batches of 64 rows of as many tenants");
    println!(
        "maintaining: {maintaining:.1} ms a tick, {PARTITIONS} partitions by {TENANTS} tenants, each with an update; {memory:.0} updates held"
    );
    println!("analysing: {analysing:.0} ms a report of them");
    if let Some(path) = json {
        let figures = serde_json::json!({
            "observe_ns_per_record": observing,
            "maintain_ms_per_tick": maintaining,
            "analyse_ms": analysing,
            "updates_held": memory,
        });
        let written = File::create(path).and_then(|mut file| writeln!(file, "{figures}"));
        written.map_err(|source| Failure::io("write the figures", source))?;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Nanoseconds a record, of blocks whose rows are of ever other tenants and partitions, and of the batches that they become.
fn observing() -> f64 {
    let clock = SystemClock::new();
    let gatherer = Gatherer::new(vec!["m".to_owned()], 1_000);
    let names: Vec<String> = (0..TENANTS).map(|tenant| format!("tenant-{tenant:04}")).collect();
    let total = Duration::from_millis(40);
    let blocks: Vec<Block> = (0..1_000).map(|block| made(block, &names)).collect();
    let rows = [RowSeen { tenant: "a", queue: total, total }; ROWS];
    let round = || {
        let began = clock.now();
        for block in &blocks {
            gatherer.decoded(block);
            gatherer.batch(&BatchSeen {
                model: ModelIndex(0),
                id: "m",
                closed: CloseReason::Full,
                calls: 1,
                padded: 0,
                inference: total,
                took: total,
                handoff: Some(Duration::from_micros(300)),
                rows: &rows,
            });
        }
        let spent = clock.now().since(began).as_secs_f64();
        drop(gatherer.tick(0, Vec::new()));
        spent * 1e9 / 64_000.0
    };
    round();
    median((0..9).map(|_| round()).collect())
}

fn made(number: usize, names: &[String]) -> Block {
    let mut polled = Polled::default();
    let (mut text, mut rows) = (String::new(), Vec::new());
    for row in 0..ROWS {
        let place = number * ROWS + row;
        let lease =
            Lease { partition: Partition(i32::try_from(place * 11 % 64).unwrap_or(0)), term: Term(1) };
        polled.records.push(Some(b"tenant|m"), Some(&[b'1'; 280]));
        polled.origins.push((lease, Offset(0)));
        let start = u32::try_from(text.len()).unwrap_or(0);
        text.push_str(&names[place * 7 % names.len()]);
        let tenant_id = start..u32::try_from(text.len()).unwrap_or(0);
        rows.push(Row { record: u32::try_from(row).unwrap_or(0), request_id: 0..0, tenant_id });
    }
    Block { rows, text, ..Block::new(ModelIndex(0), 0, Vec::new(), Arc::new(polled)) }
}

/// Milliseconds of a tick, and of a report; and updates that are held.
fn maintaining() -> [f64; 3] {
    timely::execute_directly(|worker| {
        let clock = SystemClock::new();
        let mut spans = Spans::new(worker, 12, 5);
        let mut spent = Vec::new();
        let mut tick = tick(0);
        for second in 0..60 + TICKS {
            advance(&mut tick, second);
            let began = clock.now();
            spans.add(worker, &tick);
            if second >= 60 {
                spent.push(clock.now().since(began).as_secs_f64() * 1e3);
            }
        }
        let models =
            vec![ModelSetup { id: "m".to_owned(), size_max: 64, weight: 1, ..ModelSetup::default() }];
        let setup = Setup { executors: 2, devices: 1, models, ..Setup::default() };
        let analysed = (0..5).map(|_| {
            let began = clock.now();
            let report = analyse(&Basis::new(spans.picture(), setup.clone()), Objective::default());
            assert_eq!(report.partitions.len(), 64);
            clock.now().since(began).as_secs_f64() * 1e3
        });
        let analysed = median(analysed.collect());
        #[expect(clippy::cast_precision_loss, reason = "far fewer")]
        let held = spans.updates() as f64;
        [median(spent), analysed, held]
    })
}

fn tick(at_millis: i64) -> Tick {
    let cells = (0..PARTITIONS).flat_map(|partition| {
        (0..TENANTS).map(move |tenant| CellTick {
            partition,
            model: "m".to_owned(),
            tenant: format!("tenant-{tenant:04}"),
            tally: Tally { records: 1 + i64::from(tenant % 7), excess: 0, bytes: 300 },
        })
    });
    let partition =
        |partition| PartitionTick { partition, end: Some(0), committed: Some(0), ..PartitionTick::default() };
    let batches = ModelTick {
        model: "m".to_owned(),
        batches: Line::point(64, 34_000),
        cost: Some(Cost { fixed: 2_000.0, row: 500.0, efficient: 64 }),
        ..ModelTick::default()
    };
    Tick {
        at_millis,
        millis: 1_000,
        partitions: (0..PARTITIONS).map(partition).collect(),
        cells: cells.collect(),
        models: vec![batches],
        ..Tick::default()
    }
}

fn advance(tick: &mut Tick, second: i64) {
    tick.at_millis = second * 1_000;
    for cell in &mut tick.cells {
        cell.tally.records = 1 + (cell.tally.records + second) % 9;
    }
    for partition in &mut tick.partitions {
        partition.end = partition.end.map(|end| end + 4_000);
        partition.committed = partition.committed.map(|committed| committed + 4_000);
    }
}
