//! An objective and nothing else, over a load that grows a hundred times: is it kept, and what does it cost in throughput?
//!
//! Two models: one that gains from batches, and a net that is slower a row the larger the batch, as convolutions on a CPU are. At each load
//! the objective runs by itself, and so does every static pair of size and delay of a grid; the pair with the most rows a second is the
//! best. A load that goes up and down within one run shows whether the policy follows, and one above capacity what it does when nothing
//! can be kept. Runs take place beside each other, since devices that sleep take no cores.
//!
//! Bar: the 99th percentile of each window of ten seconds is within the objective in 95 % of the windows below capacity, and at each load
//! there are at least 90 % of the rows a second of the best static policy.

use std::thread::JoinHandle;
use std::time::Duration;

use operators::catalog::BatchPolicy;
use serde_json::{Value, json};

use crate::figures::{millis, quantile, thousandth};
use crate::rig::{EXECUTORS, Load, Outcome, Phase, Ran, Rest, start};
use crate::timed::Cost;

const SLO: Duration = Duration::from_millis(80);
const SIZE_MAX: usize = 256;

const WINDOW: Duration = Duration::from_secs(10);

/// How long the objective runs at each load, and each static policy.
const KEPT: Duration = Duration::from_secs(100);
const SEARCHED: Duration = Duration::from_secs(8);

/// A model, and the loads that it is given.
struct Subject {
    name: &'static str,
    cost: Cost,
    loads: &'static [f64],
    overload: f64,
}

/// The first has a capacity of about 3,400 rows a second in batches that keep the objective, the second of about 480 row by row.
const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "gains",
        cost: |rows| Duration::from_millis(5) + Duration::from_micros(500) * number(rows),
        loads: &[30.0, 100.0, 300.0, 1_000.0, 2_000.0, 3_000.0],
        overload: 6_000.0,
    },
    Subject {
        name: "loses",
        cost: |rows| Duration::from_micros(4_000 + 125 * rows.min(42) as u64) * number(rows),
        loads: &[4.0, 40.0, 400.0],
        overload: 900.0,
    },
];

const SIZES: [usize; 5] = [1, 8, 32, 128, SIZE_MAX];
const DELAYS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(40)];

fn number(rows: usize) -> u32 {
    u32::try_from(rows).expect("a batch has far fewer rows")
}

/// Runs everything, and returns the figures of each load, and last those of all.
pub(crate) fn run() -> Vec<Value> {
    let mut figures = Vec::new();
    let kept: Vec<Vec<Run>> = SUBJECTS.iter().map(keep).collect();
    let kept: Vec<Vec<(Option<f64>, Ran)>> = kept.into_iter().map(wait).collect();
    for (subject, kept) in SUBJECTS.iter().zip(&kept) {
        let best = search(subject);
        for (load, ran) in kept {
            let best = best.iter().find(|best| Some(best.load) == *load);
            let point = figures_of(subject, *load, ran, best);
            eprintln!("{}", summary(&point));
            figures.push(point);
        }
    }
    let all = verdict(&figures);
    eprintln!("{}", summary(&all));
    figures.push(all);
    figures
}

/// A run at a steady load, or one whose load goes up and down.
type Run = (Option<f64>, JoinHandle<Ran>);

fn wait(runs: Vec<Run>) -> Vec<(Option<f64>, Ran)> {
    runs.into_iter().map(|(load, run)| (load, run.join().expect("a run ends"))).collect()
}

fn steady(load: f64, length: Duration) -> Vec<Phase> {
    vec![Phase { rows_per_second: load, length }]
}

/// The objective at each load, and over all of them in turn, up and down.
fn keep(subject: &Subject) -> Vec<Run> {
    let batch = BatchPolicy::Slo { size_max: SIZE_MAX, slo: SLO };
    let run =
        |load, phases: Vec<Phase>| (load, start(subject.cost, batch, Load::of_phases(&phases, Rest::Done)));
    let loads = subject.loads.iter();
    let down = subject.loads.iter().rev().skip(1);
    let sweep = loads.clone().chain(down).map(|load| Phase { rows_per_second: *load, length: WINDOW });
    let mut runs = vec![run(None, sweep.collect())];
    runs.extend(loads.map(|load| run(Some(*load), steady(*load, KEPT))));
    runs.push(run(Some(subject.overload), steady(subject.overload, SEARCHED)));
    runs
}

/// The best static policy at a load.
struct Best {
    load: f64,
    size_max: usize,
    delay_max: Duration,
    rows_per_second: f64,
    p99: Duration,
}

fn search(subject: &Subject) -> Vec<Best> {
    let loads: Vec<f64> = subject.loads.iter().copied().chain([subject.overload]).collect();
    let mut best: Vec<Option<Best>> = loads.iter().map(|_| None).collect();
    for size_max in SIZES {
        let runs: Vec<_> = DELAYS
            .iter()
            .flat_map(|delay_max| loads.iter().map(|load| (*delay_max, *load)))
            .map(|(delay_max, load)| {
                let batch = BatchPolicy::Static { size_max, delay_max };
                let load = Load::of_phases(&steady(load, SEARCHED), Rest::Dropped);
                (delay_max, start(subject.cost, batch, load))
            })
            .collect();
        for (place, (delay_max, run)) in runs.into_iter().enumerate() {
            let ran = run.join().expect("a run ends");
            let place = place % loads.len();
            let (load, rows_per_second) = (loads[place], rate(&ran, SEARCHED));
            let found =
                Best { load, size_max, delay_max, rows_per_second, p99: quantile(&ran.outcomes, 0.99) };
            if best[place].as_ref().is_none_or(|best| best.rows_per_second < rows_per_second) {
                best[place] = Some(found);
            }
        }
    }
    best.into_iter().flatten().collect()
}

#[expect(clippy::cast_precision_loss, reason = "a bench has far fewer rows")]
fn rate(ran: &Ran, length: Duration) -> f64 {
    let outcomes = ran.outcomes.iter().filter(|outcome| outcome.at <= length).count();
    outcomes as f64 / length.as_secs_f64()
}

/// The 99th percentile of each window.
fn windows(outcomes: &[Outcome]) -> Vec<Duration> {
    let window = |outcome: &Outcome| outcome.at.as_millis() / WINDOW.as_millis();
    let last = outcomes.iter().map(window).max().map_or(0, |last| last + 1);
    let of = |place| outcomes.iter().filter(|outcome| window(outcome) == place).copied().collect::<Vec<_>>();
    (0..last)
        .map(of)
        .filter(|outcomes| !outcomes.is_empty())
        .map(|outcomes| quantile(&outcomes, 0.99))
        .collect()
}

fn figures_of(subject: &Subject, load: Option<f64>, ran: &Ran, best: Option<&Best>) -> Value {
    let overload = load == Some(subject.overload);
    let windows = if overload { Vec::new() } else { windows(&ran.outcomes) };
    let within = windows.iter().filter(|p99| **p99 <= SLO).count();
    let name = match load {
        Some(load) if overload => format!("{}-over-{load}", subject.name),
        Some(load) => format!("{}-{load}", subject.name),
        None => format!("{}-up-and-down", subject.name),
    };
    let length = if overload { SEARCHED } else { KEPT };
    let rows_per_second = load.map(|_| rate(ran, length).round());
    // In so much time both have had the same arrivals.
    let ratio = best.map(|best| rate(ran, SEARCHED) / best.rows_per_second);
    json!({
        "name": name,
        "executors": EXECUTORS,
        "slo_ms": millis(SLO),
        "rows": ran.outcomes.len(),
        "lost": ran.due - ran.ended,
        "p50_ms": millis(quantile(&ran.outcomes, 0.5)),
        "p99_ms": millis(quantile(&ran.outcomes, 0.99)),
        "windows": windows.len(),
        "windows_within": within,
        "window_p99_ms": windows.into_iter().map(millis).collect::<Vec<_>>(),
        "batch_rows_median": middle(&ran.batches),
        "rows_per_second": rows_per_second,
        "best_static": best.map(|best| format!("{} rows, {:?}", best.size_max, best.delay_max)),
        "best_static_rows_per_second": best.map(|best| best.rows_per_second.round()),
        "best_static_p99_ms": best.map(|best| millis(best.p99)),
        "of_best_static": ratio.map(thousandth),
    })
}

fn middle(batches: &[usize]) -> usize {
    let mut batches = batches.to_vec();
    batches.sort_unstable();
    batches.get(batches.len() / 2).copied().unwrap_or(0)
}

/// Whether the bar is reached.
fn verdict(figures: &[Value]) -> Value {
    let sum = |key: &str| figures.iter().filter_map(|point| point[key].as_u64()).sum::<u64>();
    let (windows, within, lost) = (sum("windows"), sum("windows_within"), sum("lost"));
    let ratios = figures.iter().filter_map(|point| point["of_best_static"].as_f64());
    let least = ratios.fold(f64::INFINITY, f64::min);
    json!({
        "name": "slo",
        "windows": windows,
        "windows_within": within,
        "of_best_static": least,
        "lost": lost,
        "met": lost == 0 && within * 100 >= windows * 95 && least >= 0.9,
    })
}

fn summary(point: &Value) -> String {
    let text = |key: &str| point[key].as_str().map_or_else(|| point[key].to_string(), str::to_owned);
    let of = format!("{} of {} windows within the objective", text("windows_within"), text("windows"));
    if point["met"].is_boolean() {
        let least = text("of_best_static");
        return format!(
            "all: {of}, {least} of the best static throughput at least; bar met: {}",
            text("met")
        );
    }
    let line = format!(
        "{:<18} p50 {} ms, p99 {} ms, {of}; batches of {}",
        text("name"),
        text("p50_ms"),
        text("p99_ms"),
        text("batch_rows_median"),
    );
    if point["of_best_static"].is_null() {
        return line;
    }
    format!(
        "{line}; {} rows/s, {} of the best static ({}: {} rows/s, p99 {} ms)",
        text("rows_per_second"),
        text("of_best_static"),
        text("best_static"),
        text("best_static_rows_per_second"),
        text("best_static_p99_ms"),
    )
}
