//! A topic full of requests, until the last outcome is there.

use std::thread;
use std::time::Duration;

use operators::broker::TopicSpec;
use operators::clock::{Clock as _, Moment, SystemClock};

use super::raw::Raw;
use super::system::Running;
use super::{Failure, Setup, World};

/// How long a drain may stand still, and how long where its system was killed: a group waits for who does not come back.
const STUCK: Duration = Duration::from_secs(30);
const STUCK_KILLED: Duration = Duration::from_mins(3);

/// For how long nothing more may come of a system that was killed and commits nothing, before all that it does twice has come.
const SETTLED: Duration = Duration::from_secs(5);

/// How many requests go through the system before any counts, as a part of those that do.
const WARM_UP_ONE_IN: u64 = 2;

/// How long a system is given to do what it cannot see yet, before it is looked whether it has: commits come every 100 ms.
const TEMPTED: Duration = Duration::from_millis(500);

/// More of the requests than this part of them may not be done before they can be seen: then it is not them that are measured.
const EARLY_ONE_IN: u64 = 20;

/// How often it is looked what is done.
const LOOK: Duration = Duration::from_millis(50);

/// What a drain took.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Requests in all, those of the warm-up included.
    pub requests: u64,
    /// From the moment at which the requests could be seen to the last outcome.
    pub took: Duration,
    /// CPU time of the system.
    pub spent: Duration,
    /// The most memory that it has held, in bytes.
    pub memory: u64,
    /// From SIGKILL to the next outcome, where it was killed.
    pub recovery: Option<Duration>,
}

/// Lets the system work off so many requests, after half as many that don't count.
///
/// # Errors
///
/// If the system fails, or stands still for half a minute.
pub fn drain(setup: &Setup, world: &World, requests: u64) -> Result<Drained, Failure> {
    drain_watched(setup, world, requests, || Ok(())).map(|(drained, _)| drained)
}

/// The same, and what `look` sees immediately before those that count, and when they are done.
///
/// # Errors
///
/// As [`drain`], and if `look` fails.
pub fn drain_watched<S>(
    setup: &Setup,
    world: &World,
    requests: u64,
    look: impl Fn() -> Result<S, Failure>,
) -> Result<(Drained, [S; 2]), Failure> {
    let warm = requests / WARM_UP_ONE_IN;
    let mut load = world.load(warm + requests)?;
    let mut running = Running::start(setup, world)?;
    world.write(&mut load, warm)?;
    let done = Done::new(world)?;
    done.wait(world, warm, STUCK).map_err(|failure| running.blamed(failure))?;
    let rested = done.sum()?;
    // The system is at rest before there is anything to do, so that its start is no part of what is measured; nor is the first touch of its
    // memory, but for what it gives back while it rests.
    let waiting = world.preload(load, warm)?;
    thread::sleep(TEMPTED);
    done.none_early(rested, requests)?;
    let (before, seen) = (running.cpu()?, look()?);
    let clock = SystemClock::new();
    waiting.commit()?;
    done.wait(world, warm + requests, STUCK).map_err(|failure| running.blamed(failure))?;
    let took = clock.now().since(Moment::START);
    let (spent, seen) = (running.cpu()?.saturating_sub(before), [seen, look()?]);
    let memory = running.stop()?;
    Ok((Drained { requests: warm + requests, took, spent, memory, recovery: None }, seen))
}

/// The same, where the system is killed with a third of the requests done and started again at once. CPU time and memory are those of
/// its second life.
///
/// # Errors
///
/// If the system fails, or stands still for three minutes.
pub fn drain_killed(setup: &Setup, world: &World, requests: u64) -> Result<Drained, Failure> {
    let mut load = world.load(requests)?;
    world.write(&mut load, requests)?;
    let mut first = Running::start(setup, world)?;
    let done = Done::new(world)?;
    let clock = SystemClock::new();
    done.wait_for_sum(requests / 3, STUCK).map_err(|failure| first.blamed(failure))?;
    first.kill()?;
    let (killed, was) = (clock.now(), done.sum()?);
    if was >= requests {
        return Err(Failure::Unexpected(
            "everything was done before the system was killed: ask for more requests".into(),
        ));
    }
    let mut second = Running::launch(setup, world)?;
    done.wait_for_sum(was + 1, STUCK_KILLED).map_err(|failure| second.blamed(failure))?;
    let recovery = clock.now().since(killed);
    done.wait(world, requests, STUCK_KILLED).map_err(|failure| second.blamed(failure))?;
    let last = done.settled(&clock).map_err(|failure| second.blamed(failure))?;
    let took = last.since(Moment::START);
    let spent = second.cpu()?;
    let memory = second.stop()?;
    Ok(Drained { requests, took, spent, memory, recovery: Some(recovery) })
}

/// How far a group is, by what it has committed; or, of one that commits nothing, by how many outcomes there are.
pub struct Done {
    group: Raw,
    reader: Raw,
    requests: (String, i32),
    outcomes: [(String, i32); 2],
}

impl Done {
    /// Looks at the group of this world.
    ///
    /// # Errors
    ///
    /// If no client can be made.
    pub fn new(world: &World) -> Result<Self, Failure> {
        let topics = &world.config.topics;
        let named = |topic: &TopicSpec| (topic.name.clone(), topic.partitions);
        Ok(Self {
            group: Raw::of_offsets(&world.config, &world.config.kafka.group)?,
            reader: Raw::new(&world.config, &format!("{}-outcomes", world.name))?,
            requests: named(&topics.requests),
            outcomes: [named(&topics.results), named(&topics.dlq)],
        })
    }

    /// How many requests are done.
    ///
    /// # Errors
    ///
    /// If the broker does not answer.
    pub fn sum(&self) -> Result<u64, Failure> {
        let committed = self.group.committed(&self.requests.0, self.requests.1)?.iter().sum();
        if committed > 0 { Ok(committed) } else { self.outcomes() }
    }

    fn outcomes(&self) -> Result<u64, Failure> {
        let of_topic = |(topic, partitions): &(String, i32)| self.reader.ends(topic, *partitions);
        self.outcomes.iter().map(of_topic).sum()
    }

    /// Sees that none of the requests is done that can't be seen yet. So many were when the system was at rest; offsets of what ends a
    /// transaction may have come to them.
    fn none_early(&self, rested: u64, requests: u64) -> Result<(), Failure> {
        let (early, ends) = (self.sum()?.saturating_sub(rested), 2 * self.partitions());
        if early > requests / EARLY_ONE_IN + ends {
            return Err(Failure::Unexpected(format!(
                "the system has done {early} requests before they were committed: it has to read what is committed alone"
            )));
        }
        Ok(())
    }

    fn partitions(&self) -> u64 {
        let topics = self.outcomes.iter().chain([&self.requests]);
        topics.map(|(_, partitions)| u64::try_from(*partitions).unwrap_or(0)).sum()
    }

    /// Waits until so many are done.
    ///
    /// # Errors
    ///
    /// If nothing is done for so long.
    pub fn wait_for_sum(&self, requests: u64, stuck: Duration) -> Result<(), Failure> {
        self.until(stuck, |done| Ok(done.sum()? >= requests))
    }

    /// Waits until every one of so many requests is done, which were dealt out to the partitions.
    ///
    /// # Errors
    ///
    /// If nothing is done for so long.
    pub fn wait(&self, world: &World, requests: u64, stuck: Duration) -> Result<(), Failure> {
        let dealt = world.dealt(requests);
        self.until(stuck, |done| {
            let committed = done.group.committed(&done.requests.0, done.requests.1)?;
            if committed.iter().all(|committed| *committed == 0) {
                return Ok(done.outcomes()? >= requests);
            }
            Ok(committed.iter().zip(&dealt).all(|(committed, dealt)| committed >= dealt))
        })
    }

    /// Waits until no more outcomes come of a system that commits nothing, and gives the moment of the last: what it did twice is among
    /// them, so that there are as many as requests before each request has one. Of any other, it is now.
    fn settled(&self, clock: &SystemClock) -> Result<Moment, Failure> {
        let began = clock.now();
        let (mut seen, mut moved) = (0, began);
        if self.group.committed(&self.requests.0, self.requests.1)?.iter().any(|committed| *committed > 0) {
            return Ok(began);
        }
        while clock.now().since(moved) < SETTLED {
            if clock.now().since(began) > STUCK_KILLED {
                return Err(Failure::Late { what: "an end to its outcomes", limit: STUCK_KILLED });
            }
            let outcomes = self.outcomes()?;
            if outcomes > seen {
                (seen, moved) = (outcomes, clock.now());
            }
            thread::sleep(LOOK);
        }
        Ok(moved)
    }

    fn until(
        &self,
        stuck: Duration,
        is_done: impl Fn(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let clock = SystemClock::new();
        let (mut seen, mut moved) = (0, clock.now());
        loop {
            // A broker that is too busy to answer once has not failed: the system may be getting on all the same.
            let sum = match is_done(self) {
                Ok(true) => return Ok(()),
                Ok(false) => self.sum(),
                Err(failure) => Err(failure),
            };
            let now = clock.now();
            match sum {
                Ok(sum) if sum > seen => (seen, moved) = (sum, now),
                Err(failure) if now.since(moved) > stuck => return Err(failure),
                _ if now.since(moved) > stuck => {
                    return Err(Failure::Late { what: "committing the next request", limit: stuck });
                }
                _ => {}
            }
            thread::sleep(LOOK);
        }
    }
}
