//! Fair share: what a flood does to its quiet neighbours, and what it costs that it does no more.
//!
//! One tenant sends a thousand times what each of ten others sends, to the same model and in the same order of polls: bursts that come
//! at once, at 80 % of what the device can do in all. The quiet tenants' 99th percentile is compared with their own in a run without the
//! flood. The same rows once more, all under one name, show the queue that it would be without fair share.
//!
//! Then a backlog, once with names and once without: the difference in rows a second is what fair share costs. On a device that takes time
//! it costs what its batches lose; with a model that takes none, what the engine itself spends on turns.
//!
//! Bar: with size and delay given, the quiet 99th percentile beside the flood is at most 1.5 times that without, and the backlog is worked off
//! at no less than 97 % of the rate. With an objective a lone row is run at once, which no neighbour of full batches can have: there the bar is
//! the objective.

use std::time::Duration;

use operators::catalog::BatchPolicy;
use serde_json::{Value, json};

use crate::figures::{median, millis, quantile, thousandth};
use crate::rig::{Arrivals, Due, EXECUTORS, Load, Outcome, Phase, Ran, Rest, start};
use crate::timed::Cost;

const SLO: Duration = Duration::from_millis(80);
const GIVEN: BatchPolicy = BatchPolicy::Static { size_max: 64, delay_max: Duration::from_millis(50) };
const OBJECTIVE: BatchPolicy = BatchPolicy::Slo { size_max: 64, slo: SLO };

/// Two executors do 3,459 rows a second in batches of 64.
const COST: Cost =
    |rows| Duration::from_millis(5) + Duration::from_micros(500) * u32::try_from(rows).unwrap_or(u32::MAX);
const CAPACITY: f64 = 2.0 * 64.0 / 0.037;

/// The flood is tenant 0.
const QUIET: std::ops::RangeInclusive<u16> = 1..=10;
const BURST: u16 = 2_000;
/// Of each run of a load, and how many of them there are, each with other random numbers.
const LENGTH: Duration = Duration::from_mins(1);
const REPEATS: u64 = 4;

const BACKLOG: u32 = 16_000;
/// Where the model takes no time.
const BACKLOG_AT_ONCE: u32 = 200_000;
const DRAINS: usize = 9;

/// Who sends, and whether their names are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Senders {
    /// The quiet ones alone.
    Quiet,
    /// They and the flood.
    All,
    /// They and the flood, all under one name.
    Nameless,
}

/// Runs everything, and returns the figures of each part, and last those of all.
pub(crate) fn run() -> Vec<Value> {
    let policies = [("given", GIVEN), ("objective", OBJECTIVE)];
    let running: Vec<_> = policies
        .iter()
        .flat_map(|(name, policy)| {
            [Senders::Quiet, Senders::All, Senders::Nameless].map(|who| (*name, *policy, who))
        })
        .map(|(name, policy, senders)| {
            let runs: Vec<_> = (0..REPEATS).map(|seed| start(COST, policy, load(senders, seed))).collect();
            (name, senders, runs)
        })
        .collect();
    let ran: Vec<(&str, Senders, Vec<Ran>)> = running
        .into_iter()
        .map(|(name, senders, runs)| {
            (name, senders, runs.into_iter().map(|run| run.join().expect("a run ends")).collect())
        })
        .collect();
    let mut figures: Vec<Value> = policies.iter().map(|(name, _)| latency(name, &ran)).collect();
    figures.push(drains("backlog", COST, BACKLOG, Mix::Flood, 3, true));
    figures.push(drains("backlog-no-model", |_| Duration::ZERO, BACKLOG_AT_ONCE, Mix::Flood, DRAINS, false));
    figures.push(drains(
        "backlog-no-model-even",
        |_| Duration::ZERO,
        BACKLOG_AT_ONCE,
        Mix::Even,
        DRAINS,
        false,
    ));
    figures.iter().for_each(|point| eprintln!("{point}"));
    let verdict = verdict(&figures);
    eprintln!("{verdict}");
    figures.push(verdict);
    figures
}

/// A load of 80 % of the capacity, of which each quiet tenant has a thousandth of what the flood has.
fn load(senders: Senders, seed: u64) -> Load {
    let total = 0.8 * CAPACITY;
    let of_quiet = total / (1_000.0 + f64::from(*QUIET.end()));
    let phase = |rows_per_second| [Phase { rows_per_second, length: LENGTH }];
    let quiet = QUIET.map(|tenant| Arrivals::new(&phase(of_quiet), tenant, seed * 100 + u64::from(tenant)));
    let mut rows: Vec<Due> = quiet.flatten().collect();
    if senders != Senders::Quiet {
        let bursts = Arrivals::new(&phase(1_000.0 * of_quiet / f64::from(BURST)), 0, seed * 100);
        let bursts: Vec<Due> = bursts.collect();
        // At random they would come on top of each other, and go beyond the capacity: they come evenly.
        let every = LENGTH / u32::try_from(bursts.len()).expect("there are few bursts");
        let at = (0..).zip(&bursts).map(|(number, burst)| Due { after: every * number, ..*burst });
        rows.extend(at.flat_map(|burst| std::iter::repeat_n(burst, usize::from(BURST))));
    }
    rows.sort_by_key(|row| row.after);
    Load {
        rows: Box::new(rows.into_iter()),
        length: LENGTH + Duration::from_secs(10),
        rest: Rest::Done,
        named: senders != Senders::Nameless,
    }
}

/// The quiet tenants' latency under one policy.
fn latency(policy: &str, ran: &[(&str, Senders, Vec<Ran>)]) -> Value {
    let of = |wanted: Senders| -> (Vec<Outcome>, usize) {
        let runs = ran.iter().filter(|(name, senders, _)| *name == policy && *senders == wanted);
        let runs: Vec<&Ran> = runs.flat_map(|(.., runs)| runs).collect();
        let quiet = |outcome: &&Outcome| outcome.tenant > 0;
        let outcomes = runs.iter().flat_map(|ran| ran.outcomes.iter().filter(quiet).copied()).collect();
        (outcomes, runs.iter().map(|ran| ran.due - ran.ended).sum())
    };
    let [(alone, lost_alone), (beside, lost), (queued, lost_queued)] =
        [Senders::Quiet, Senders::All, Senders::Nameless].map(of);
    let ratio =
        |outcomes: &[Outcome]| quantile(outcomes, 0.99).as_secs_f64() / quantile(&alone, 0.99).as_secs_f64();
    json!({
        "name": policy,
        "executors": EXECUTORS,
        "quiet_rows": beside.len(),
        "lost": lost + lost_alone + lost_queued,
        "quiet_p50_ms": millis(quantile(&alone, 0.5)),
        "quiet_p99_ms": millis(quantile(&alone, 0.99)),
        "beside_flood_p50_ms": millis(quantile(&beside, 0.5)),
        "beside_flood_p99_ms": millis(quantile(&beside, 0.99)),
        "without_fair_share_p99_ms": millis(quantile(&queued, 0.99)),
        "p99_ratio": thousandth(ratio(&beside)),
        "p99_ratio_without_fair_share": thousandth(ratio(&queued)),
    })
}

/// Whose the rows of a backlog are.
#[derive(Clone, Copy, Debug)]
enum Mix {
    /// One in a hundred is of a quiet tenant, the others of the flood.
    Flood,
    /// They are of a thousand tenants in turn.
    Even,
}

/// How fast a backlog is worked off, with names and without, in turn or at the same time.
fn drains(name: &str, cost: Cost, rows: u32, mix: Mix, repeats: usize, together: bool) -> Value {
    let drain = |named| {
        let tenant = move |row: u32| {
            let tenant = match mix {
                Mix::Flood if row.is_multiple_of(100) => 1 + row / 100 % u32::from(*QUIET.end()),
                Mix::Flood => 0,
                Mix::Even => row % 1_000,
            };
            Due { after: Duration::ZERO, tenant: u16::try_from(tenant).expect("it is below 1,000") }
        };
        let load = Load {
            rows: Box::new((0..rows).map(tenant)),
            length: Duration::from_hours(1),
            rest: Rest::Done,
            named,
        };
        start(cost, GIVEN, load)
    };
    let rate = |ran: &Ran| {
        let last = ran.outcomes.iter().map(|outcome| outcome.at).max().unwrap_or_default();
        f64::from(rows) / last.as_secs_f64()
    };
    let mut pairs = Vec::new();
    if together {
        let running: Vec<_> = (0..repeats).map(|_| [true, false].map(drain)).collect();
        pairs.extend(running.into_iter().map(|pair| pair.map(|run| run.join().expect("a run ends"))));
    } else {
        pairs.extend(
            (0..repeats).map(|_| [true, false].map(|named| drain(named).join().expect("a run ends"))),
        );
    }
    let [named, nameless] = [0, 1].map(|place| median(pairs.iter().map(|pair| rate(&pair[place])).collect()));
    let ratios = pairs.iter().map(|[named, nameless]| rate(named) / rate(nameless)).collect();
    let lost: usize = pairs.iter().flatten().map(|ran| ran.due - ran.ended).sum();
    json!({
        "name": name,
        "rows": rows,
        "repeats": repeats,
        "lost": lost,
        "rows_per_second": named.round(),
        "rows_per_second_without_fair_share": nameless.round(),
        "of_without_fair_share": thousandth(median(ratios)),
    })
}

/// Whether the bar is reached.
fn verdict(figures: &[Value]) -> Value {
    let figure = |name: &str, key: &str| {
        figures
            .iter()
            .find(|point| point["name"] == name)
            .and_then(|point| point[key].as_f64())
            .unwrap_or(f64::NAN)
    };
    let lost: u64 = figures.iter().filter_map(|point| point["lost"].as_u64()).sum();
    let ratio = figure("given", "p99_ratio");
    let of = figure("backlog", "of_without_fair_share");
    let kept = figure("objective", "beside_flood_p99_ms") <= millis(SLO);
    json!({
        "name": "fairness",
        "p99_ratio": ratio,
        "throughput_of_without_fair_share": of,
        "objective_kept": kept,
        "lost": lost,
        "met": lost == 0 && ratio <= 1.5 && of >= 0.97 && kept,
    })
}
