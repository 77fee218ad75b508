//! Predictions beside what then happened.
//!
//! Each scene is observed for a while. Then a backlog is piled up in one partition after the other, and its rate and the time to drain it are
//! compared with what was predicted of them before. At last the load is raised above what the devices bear: each partition that falls behind
//! then has to be named, and with it the key with the most of its requests.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use dataflows::capacity::Report;
use dataflows::capacity::verdict::Verdict;
use serde_json::json;
use tidemill::experiment::system::System;
use tidemill::experiment::{Failure, Setup};

use crate::drain::drain;
use crate::latency::{P99, compare};
use crate::scene::{ROOT, Scene, Stage, Work};
use crate::traffic::Sent;

/// What is to come to rest before anything counts: the first batches open models, and a broker that has just started is slow.
const SETTLE: Duration = Duration::from_secs(6);

/// How long a drain is meant to take, in seconds.
const DRAIN_SECONDS: f64 = 6.0;

/// How far the load is raised above what was predicted of the devices.
const OVERLOAD: f64 = 1.3;

/// How long an overload lasts before it is looked who falls behind.
const OVERLOAD_TIME: Duration = Duration::from_secs(20);

/// A partition falls behind if its lag grew by this share of what was sent to it meanwhile, in both halves of the time.
const BEHIND: f64 = 0.08;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of observation, at most 60
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(10..=60))]
    observe: u64,
    /// Partitions of each scene that a backlog is piled up in
    #[arg(long, default_value_t = 2)]
    drains: usize,
    /// Only the first so many scenes: with the tenth, whose executor computes, it takes more than a quarter of an hour
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=10))]
    scenes: u64,
    /// Only this scene, counted from 1
    #[arg(long, conflicts_with = "scenes", value_parser = clap::value_parser!(u64).range(1..=10))]
    scene: Option<u64>,
}

/// Three mixes: one model; two whose batches cost alike; three, of which one has small batches that cost more a row.
const MIXES: [&[(&str, &[usize], usize)]; 3] = [
    &[("mlp-16", &[16], 64)],
    &[("mlp-16", &[16], 64), ("cnn-6x64", &[6, 64], 32)],
    &[("mlp-16", &[16], 64), ("cnn-6x64", &[6, 64], 32), ("ffnn-784", &[784], 8)],
];

/// A model that a core is busy with for a third of a millisecond a row.
const HEAVY: &[(&str, &[usize], usize)] = &[("heavy-16", &[16], 16)];

fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (place, skew) in [0.8, 1.1, 1.4].into_iter().enumerate() {
        for (number, mix) in MIXES.into_iter().enumerate() {
            let bursts = (place + number) % 2 == 1;
            let seed = 100 + (place * 3 + number) as u64;
            scenes.push(Scene { skew, mix, work: Work::Paced, bursts, seed });
        }
    }
    scenes.push(Scene { skew: 1.1, mix: HEAVY, work: Work::Computed, bursts: false, seed: 109 });
    scenes
}

/// A prediction and what happened.
#[derive(Debug)]
struct Outcome {
    scene: String,
    partition: i32,
    rate: (f64, f64),
    drain: (f64, f64),
    within: bool,
}

impl Outcome {
    fn rate_error(&self) -> f64 {
        (self.rate.0 / self.rate.1 - 1.0).abs()
    }

    fn drain_error(&self) -> f64 {
        (self.drain.0 / self.drain.1 - 1.0).abs()
    }
}

/// Who was named, of those who fell behind; who fell behind for a while only; and who was named and did not.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    right: usize,
    all: usize,
    between: usize,
    wrongly: usize,
}

/// All that came of it.
#[derive(Debug, Default)]
struct Figures {
    outcomes: Vec<Outcome>,
    latencies: Vec<P99>,
    named: Named,
}

pub(crate) fn run(args: &Args, json: Option<&Path>) -> Result<(), Failure> {
    let bootstrap = std::env::var("TIDEMILL_BOOTSTRAP").ok().filter(|servers| !servers.is_empty());
    let bootstrap = bootstrap.ok_or_else(|| {
        Failure::Unexpected(
            "there is no broker: `make capacity-proof`, or `scripts/kafka.sh run -- …`".to_owned(),
        )
    })?;
    let setup = Setup {
        system: System::Tidemill { program: env!("CARGO_BIN_EXE_tidemill").into(), under: None },
        file: Some(format!("{ROOT}/tidemill.toml").into()),
        sets: vec![format!("kafka.bootstrap_servers={bootstrap}")],
        keeps_topics: true,
    };
    let mut figures = Figures::default();
    let chosen = |number: u64| args.scene.map_or(number <= args.scenes, |only| number == only);
    for (_, scene) in (1..).zip(scenes()).filter(|(number, _)| chosen(*number)) {
        println!("{}", scene.name());
        play(args, &setup, &scene, &mut figures)?;
    }
    if let Some(path) = json {
        write(path, &figures).map_err(|source| Failure::io("write the figures", source))?;
    }
    let Figures { outcomes, latencies, named } = &figures;
    let within = outcomes.iter().filter(|outcome| outcome.within).count();
    println!(
        "{} rates, {within} within their interval; {} partitions named that did not fall behind, {} that did for a while are left out",
        outcomes.len(),
        named.wrongly,
        named.between
    );
    println!(
        "{} p99, {} within their interval, p99_error_median={:.3}",
        latencies.len(),
        latencies.iter().filter(|p99| p99.is_within()).count(),
        median(latencies.iter().map(P99::error))
    );
    println!(
        "capacity: rate_error_median={:.3} drain_error_median={:.3} named={}/{}",
        median(outcomes.iter().map(Outcome::rate_error)),
        median(outcomes.iter().map(Outcome::drain_error)),
        named.right,
        named.all
    );
    Ok(())
}

/// What batches take, as it was seen.
fn tell_costs(report: &Report, when: &str) {
    for model in &report.models {
        println!(
            "  {} {when}: batches take {:.0} us + {:.0} us a row, by {}, and {:.0} us to be handed over; {:.1} rows each",
            model.model,
            model.fixed_micros,
            model.row_micros,
            model.cost_from,
            model.handoff_micros,
            model.batch_rows
        );
    }
}

fn median(errors: impl Iterator<Item = f64>) -> f64 {
    let mut errors: Vec<f64> = errors.collect();
    errors.sort_by(f64::total_cmp);
    errors.get(errors.len() / 2).copied().unwrap_or(f64::NAN)
}

fn play(args: &Args, setup: &Setup, scene: &Scene, figures: &mut Figures) -> Result<(), Failure> {
    let stage = Stage::open(setup, scene)?;
    let observed = Duration::from_secs(args.observe);
    thread::sleep(SETTLE + observed);
    let seen = stage.look(observed)?;
    figures.latencies.extend(compare(&stage, scene, &seen)?);
    let report = &seen.report;
    tell_costs(report, "observed");
    for partition in chosen(report, args.drains) {
        figures.outcomes.extend(predict(&stage, report, scene, partition)?);
        thread::sleep(Duration::from_secs(2));
    }
    let bears = report.total.rate_max.map_or(scene.work.rate(), |rate| rate.value);
    overload(&stage, bears * OVERLOAD, &mut figures.named)?;
    stage.close()
}

/// The partition with the most records, that with the fewest, and some between.
fn chosen(report: &Report, count: usize) -> Vec<i32> {
    let mut partitions: Vec<(f64, i32)> = report
        .partitions
        .iter()
        .filter(|partition| partition.rate_max.is_some() && partition.share > 0.01)
        .map(|partition| (partition.share, partition.partition))
        .collect();
    partitions.sort_by(|left, right| right.0.total_cmp(&left.0));
    let last = partitions.len().saturating_sub(1);
    let places = (0..count.max(1)).map(|place| if count < 2 { 0 } else { place * last / (count - 1) });
    let mut chosen: Vec<i32> =
        places.filter_map(|place| partitions.get(place)).map(|(_, partition)| *partition).collect();
    chosen.dedup();
    chosen
}

fn predict(
    stage: &Stage,
    report: &Report,
    scene: &Scene,
    partition: i32,
) -> Result<Option<Outcome>, Failure> {
    let Some(found) = report.partitions.iter().find(|found| found.partition == partition) else {
        return Ok(None);
    };
    let (Some(bears), Some(comes)) = (found.rate_max, found.arriving) else { return Ok(None) };
    let spare = bears.value - comes.mean;
    if spare <= 0.0 {
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of requests")]
    let count = (spare * DRAIN_SECONDS) as u64;
    let drained = drain(stage, partition, count, DRAIN_SECONDS)?;
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let predicted = drained.backlog as f64 / spare;
    let outcome = Outcome {
        scene: scene.name(),
        partition,
        rate: (bears.value, drained.rate),
        drain: (predicted, drained.seconds),
        within: (bears.low..=bears.high).contains(&drained.rate),
    };
    println!(
        "  partition {partition}: {:.0} a second predicted ({:.0} to {:.0}), {:.0} measured ({:+.1} %); drained in {:.1} s, {:.1} s measured",
        bears.value,
        bears.low,
        bears.high,
        drained.rate,
        100.0 * (bears.value / drained.rate - 1.0),
        predicted,
        drained.seconds
    );
    Ok(Some(outcome))
}

/// What became of a partition under overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    /// Its lag grew, in both halves of the time.
    Behind,
    /// Its lag grew for a while, and then it did not.
    CameAndWent,
    Well,
}

/// Sent and lag of each partition.
type Moment = (Sent, Vec<u64>);

fn overload(stage: &Stage, rate: f64, named: &mut Named) -> Result<(), Failure> {
    stage.traffic.set_rate(rate);
    thread::sleep(Duration::from_secs(3));
    let moment = || -> Result<Moment, Failure> { Ok((stage.target.sent(), stage.lags()?)) };
    let before = moment()?;
    thread::sleep(OVERLOAD_TIME / 2);
    let middle = moment()?;
    thread::sleep(OVERLOAD_TIME / 2);
    let report = stage.look(OVERLOAD_TIME)?.report;
    tell_costs(&report, "overloaded");
    let after = moment()?;
    for found in &report.partitions {
        let halves = [grew(&before, &middle, found.partition), grew(&middle, &after, found.partition)];
        let truth = match halves.map(|(came, grew)| is_behind(came, grew)) {
            [true, true] => Truth::Behind,
            [false, false] => Truth::Well,
            _ => Truth::CameAndWent,
        };
        let is_named = matches!(found.finding.verdict, Verdict::Skewed | Verdict::Saturated);
        let keys = hottest(&before.0, &after.0, found.partition);
        let key =
            found.hot_key.as_ref().map(|key| format!("{}|{}", key.tenant, key.model)).unwrap_or_default();
        let told = format!(
            "  partition {} grew by {} of {} and {} of {}",
            found.partition, halves[0].1, halves[0].0, halves[1].1, halves[1].0
        );
        let verdict = found.finding.verdict.name();
        match truth {
            Truth::Behind => {
                let right = is_named && keys.contains(&key);
                named.all += 1;
                named.right += usize::from(right);
                let wrong = if right { "" } else { ": WRONG" };
                println!("{told}: {verdict}, {key}{wrong}");
                if !right {
                    println!("    {}; its keys: {keys:?}", found.finding.evidence.join("; "));
                }
            }
            Truth::CameAndWent => {
                named.between += 1;
                println!("{told}: that came and went; {verdict}");
            }
            Truth::Well if is_named => {
                named.wrongly += 1;
                println!("{told}, and is named: {}", found.finding.evidence.join("; "));
            }
            Truth::Well => {}
        }
    }
    Ok(())
}

/// What was sent to a partition between two moments, and by how much its lag grew.
fn grew(before: &Moment, after: &Moment, partition: i32) -> (u64, i64) {
    let sent = |(sent, _): &Moment| sent.get(&partition).map_or(0, |keys| keys.values().sum::<u64>());
    let lag = |(_, lags): &Moment| {
        let lag = usize::try_from(partition).ok().and_then(|place| lags.get(place)).copied().unwrap_or(0);
        i64::try_from(lag).unwrap_or(i64::MAX)
    };
    (sent(after) - sent(before), lag(after) - lag(before))
}

#[expect(clippy::cast_precision_loss, reason = "a number of requests")]
fn is_behind(came: u64, grew: i64) -> bool {
    came > 100 && grew as f64 > BEHIND * came as f64
}

/// The keys with the most requests of a partition in a time: several where none has clearly the most.
fn hottest(before: &Sent, after: &Sent, partition: i32) -> Vec<String> {
    let Some(keys) = after.get(&partition) else { return Vec::new() };
    let earlier = |key: &String| before.get(&partition).and_then(|keys| keys.get(key)).copied().unwrap_or(0);
    let mut counts: Vec<(u64, &String)> =
        keys.iter().map(|(key, count)| (count - earlier(key), key)).collect();
    counts.sort_by(|left, right| right.cmp(left));
    let most = counts.first().map_or(0, |(count, _)| *count);
    // What was sent in a time and what was done in it are not the same records: a tie is a tie within chance.
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let near = |count: u64| count as f64 >= most as f64 - 3.0 * (most as f64).sqrt();
    counts.into_iter().filter(|(count, _)| near(*count)).map(|(_, key)| key.clone()).collect()
}

fn write(path: &Path, figures: &Figures) -> std::io::Result<()> {
    let Figures { outcomes, latencies, named } = figures;
    let mut file = File::create(path)?;
    for outcome in outcomes {
        let line = json!({
            "scene": outcome.scene,
            "partition": outcome.partition,
            "rate_predicted": outcome.rate.0,
            "rate": outcome.rate.1,
            "drain_predicted": outcome.drain.0,
            "drain": outcome.drain.1,
            "within": outcome.within,
        });
        writeln!(file, "{line}")?;
    }
    for P99 { model, predicted, measured } in latencies {
        writeln!(file, "{}", json!({ "model": model, "p99_predicted": predicted, "p99": measured }))?;
    }
    writeln!(
        file,
        "{}",
        json!({ "named": named.right, "behind": named.all, "between": named.between, "wrongly": named.wrongly })
    )
}
