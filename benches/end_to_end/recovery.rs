//! The engine is killed and started again at once: how long nobody sees a new result.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, Moment, SystemClock};
use tidemill::config::Config;
use tidemill::load::Schedule;

use crate::figures::Figures;
use tidemill::experiment::count::count;
use tidemill::experiment::open_loop::{Progress, panicked, sleep_until, write, writer};
use tidemill::experiment::raw::Raw;
use tidemill::experiment::system::Running;
use tidemill::experiment::{Failure, Setup, World};

/// Requests a second, over all partitions.
const RATE: u32 = 1_000;

/// When the engine is killed, in seconds: see the open loop's warm-up.
const KILLED_AFTER: u32 = 8;

/// What is sent after the kill, in seconds.
const REST: u32 = 22;

/// After how long without a sign of life the group gives a member's partitions to others.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// What the killed engine had committed may become visible for this long: no engine starts so fast.
const AFTERMATH: Duration = Duration::from_millis(300);

/// How long results may stay away.
const SILENCE: Duration = Duration::from_secs(40);

/// How a member is known to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// By an id that each start is given anew: the group waits for the dead member until its session is over.
    Dynamic,
    /// By a name: whoever comes back under it gets its partitions at once.
    Static,
}

impl Membership {
    fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "recovery",
            Self::Static => "recovery-static",
        }
    }

    /// The most that a recovery may take.
    fn bar(self) -> Duration {
        match self {
            Self::Dynamic => SESSION_TIMEOUT + Duration::from_secs(5),
            Self::Static => Duration::from_secs(3),
        }
    }
}

pub(crate) fn run(setup: &Setup, membership: Membership) -> Result<Figures, Failure> {
    let mut sets = vec![
        format!("kafka.session_timeout={}s", SESSION_TIMEOUT.as_secs()),
        "kafka.transaction_timeout=5s".to_owned(),
    ];
    if membership == Membership::Static {
        sets.push("kafka.static_membership=true".to_owned());
    }
    let setup = Setup { sets: [&sets[..], &setup.sets[..]].concat(), ..setup.clone() };
    let world = World::of_model(&setup, membership.name(), "mlp-16", 16)?;
    let (before, requests) = (u64::from(KILLED_AFTER * RATE), u64::from((KILLED_AFTER + REST) * RATE));
    let load = world.load(requests)?;
    let engine = Running::start(&setup, &world)?;
    let clock = Arc::new(SystemClock::new());
    let start = clock.now().after(Duration::from_millis(500));
    let schedule = Schedule::at_rate(f64::from(RATE))?;
    let reading = spawn_reader(&world.config, requests, Arc::clone(&clock))?;
    let writing = {
        let (writer, clock, config) = (writer(&world)?, Arc::clone(&clock), world.config.clone());
        thread::spawn(move || write(writer, &config, load, schedule, start, &clock, &Progress::default()))
    };
    sleep_until(&clock, start.after(schedule.due(before)));
    let killed = clock.now();
    engine.kill()?;
    let engine = Running::start(&setup, &world)?;
    writing.join().map_err(|_| panicked("the load"))??;
    let seen = reading.join().map_err(|_| panicked("the reader"))??;
    let rss_bytes = engine.stop()?;
    let count = count(&world, requests)?;
    let first = seen.into_iter().filter(|seen| *seen > killed.after(AFTERMATH)).min();
    let first = first.ok_or_else(|| Failure::Unexpected("nothing was seen after the kill".to_owned()))?;
    Ok(Figures {
        name: membership.name(),
        payload_floats: Some(16),
        records: requests,
        recovery_seconds: Some(first.since(killed).as_secs_f64()),
        recovery_seconds_max: Some(membership.bar().as_secs_f64()),
        rss_bytes,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}

/// Reads results until all are there, and tells when each became visible.
fn spawn_reader(
    config: &Config,
    requests: u64,
    clock: Arc<SystemClock>,
) -> Result<thread::JoinHandle<Result<Vec<Moment>, Failure>>, Failure> {
    let raw = Raw::new(config, &format!("{}-reader", config.kafka.group))?;
    raw.assign(&config.topics.results.name, config.topics.results.partitions)?;
    Ok(thread::spawn(move || {
        let mut seen = Vec::new();
        while (seen.len() as u64) < requests {
            match raw.poll(SILENCE)? {
                Some(_) => seen.push(clock.now()),
                None => return Err(Failure::Late { what: "reading the next result", limit: SILENCE }),
            }
        }
        Ok(seen)
    }))
}
