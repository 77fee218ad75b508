//! A schedule: what goes wrong, with whom and when, all of it from a seed.
//!
//! Plain data: it can be printed, and carried out again. Every fault in it has its end, so that after the last step everybody is there
//! who should be, and every line is whole.

use std::fmt;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// After how long without a sign of life the group gives up a member.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// The seeds that are always carried out, in less than a minute.
pub(crate) const CORPUS: [u64; 2] = [7, 8];

/// Engines at most, those that join later among them.
pub(crate) const ENGINES_MAX: usize = 3;

/// The first fault comes when there has been load for a while.
const CALM_MILLIS: u64 = 1_000;

/// The faults begin within so much time after that.
const SPAN_MILLIS: u64 = 7_000;

/// There is load for so long after the last step.
const AFTER: Duration = Duration::from_millis(1_500);

/// What is done at a moment. Engines and nodes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Starts an engine: one that was killed or stopped, or one that joins.
    Start(usize),
    /// SIGKILL.
    Kill(usize),
    /// SIGTERM.
    Stop(usize),
    /// SIGSTOP.
    Freeze(usize),
    /// SIGCONT.
    Thaw(usize),
    /// Nothing comes through between an engine and the broker; it waits.
    Hold(usize),
    /// The connections of an engine are closed, and so are new ones.
    Cut(usize),
    /// The connections of an engine stay open, and what is sent on them is lost.
    HalfOpen(usize),
    /// The connections of an engine are whole again.
    Mend(usize),
    /// The answer to its next request to end a transaction is lost, with its connection.
    CutAnswer(usize),
    /// The answers to its next requests to end a transaction are lost, and the connections stay open.
    SwallowAnswer(usize),
    /// A node of the broker is killed.
    KillNode(usize),
    /// No write of a node succeeds any more.
    FillDisk(usize),
    /// A node of the broker is started with the data that it had.
    StartNode(usize),
    /// Rows that their model can't take are sent, among others that it can.
    Poison,
    /// Rows are sent to a model that takes its time.
    Slow,
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(engine) => write!(out, "engine {engine}: starts"),
            Self::Kill(engine) => write!(out, "engine {engine}: SIGKILL"),
            Self::Stop(engine) => write!(out, "engine {engine}: SIGTERM"),
            Self::Freeze(engine) => write!(out, "engine {engine}: SIGSTOP"),
            Self::Thaw(engine) => write!(out, "engine {engine}: SIGCONT"),
            Self::Hold(engine) => write!(out, "engine {engine}: connections held"),
            Self::Cut(engine) => write!(out, "engine {engine}: connections cut"),
            Self::HalfOpen(engine) => write!(out, "engine {engine}: connections half open"),
            Self::Mend(engine) => write!(out, "engine {engine}: connections whole again"),
            Self::CutAnswer(engine) => write!(out, "engine {engine}: the answer to EndTxn cut off"),
            Self::SwallowAnswer(engine) => write!(out, "engine {engine}: the answers to EndTxn swallowed"),
            Self::KillNode(node) => write!(out, "node {node}: SIGKILL"),
            Self::FillDisk(node) => write!(out, "node {node}: disk full"),
            Self::StartNode(node) => write!(out, "node {node}: starts again"),
            Self::Poison => write!(out, "load: poisoned rows"),
            Self::Slow => write!(out, "load: rows for a slow model"),
        }
    }
}

/// A kind of fault, as it is counted in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill,
    Zombie,
    Blink,
    Restart,
    Join,
    Leave,
    Hold,
    Cut,
    HalfOpen,
    CutAnswer,
    SwallowAnswer,
    BrokerKill,
    FullDisk,
    Poison,
    Slow,
}

impl Kind {
    /// Every kind, those the oftener that have more ways to go wrong.
    const LOTS: [Self; 19] = [
        Self::Kill,
        Self::Kill,
        Self::Zombie,
        Self::Zombie,
        Self::Blink,
        Self::Restart,
        Self::Join,
        Self::Leave,
        Self::Hold,
        Self::Cut,
        Self::HalfOpen,
        Self::CutAnswer,
        Self::SwallowAnswer,
        Self::SwallowAnswer,
        Self::BrokerKill,
        Self::BrokerKill,
        Self::FullDisk,
        Self::Poison,
        Self::Slow,
    ];

    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Zombie => "zombie",
            Self::Blink => "blink",
            Self::Restart => "restart",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Hold => "held",
            Self::Cut => "cut",
            Self::HalfOpen => "half_open",
            Self::CutAnswer => "cut_answer",
            Self::SwallowAnswer => "swallowed_answer",
            Self::BrokerKill => "broker_kill",
            Self::FullDisk => "full_disk",
            Self::Poison => "poison",
            Self::Slow => "slow",
        }
    }

    /// What it does to `whom`, an engine or a node, and how long after its begin each.
    fn steps(self, whom: usize, dice: &mut Dice) -> Vec<(Duration, Action)> {
        let now = Duration::ZERO;
        let first_and_last = |first, last, length| vec![(now, first), (length, last)];
        match self {
            Self::Kill => first_and_last(Action::Kill(whom), Action::Start(whom), dice.millis(200, 2_500)),
            Self::Zombie => {
                let length = SESSION + dice.millis(1_000, 3_000);
                first_and_last(Action::Freeze(whom), Action::Thaw(whom), length)
            }
            Self::Blink => first_and_last(Action::Freeze(whom), Action::Thaw(whom), dice.millis(500, 5_000)),
            Self::Restart => first_and_last(Action::Stop(whom), Action::Start(whom), dice.millis(300, 2_000)),
            Self::Join => vec![(now, Action::Start(whom))],
            Self::Leave => vec![(now, Action::Stop(whom))],
            Self::Hold => first_and_last(Action::Hold(whom), Action::Mend(whom), dice.millis(500, 9_000)),
            Self::Cut => first_and_last(Action::Cut(whom), Action::Mend(whom), dice.millis(50, 8_000)),
            Self::HalfOpen => {
                first_and_last(Action::HalfOpen(whom), Action::Mend(whom), dice.millis(500, 9_000))
            }
            Self::CutAnswer => vec![(now, Action::CutAnswer(whom))],
            // Mended after a while, or an engine would wait for the answer for as long as its client does.
            Self::SwallowAnswer => {
                first_and_last(Action::SwallowAnswer(whom), Action::Mend(whom), dice.millis(6_000, 9_000))
            }
            Self::BrokerKill => {
                first_and_last(Action::KillNode(whom), Action::StartNode(whom), dice.millis(200, 4_000))
            }
            Self::FullDisk => {
                first_and_last(Action::FillDisk(whom), Action::StartNode(whom), dice.millis(3_000, 5_000))
            }
            Self::Poison => vec![(now, Action::Poison)],
            Self::Slow => vec![(now, Action::Slow)],
        }
    }
}

/// What is done, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// From the begin of the load.
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// Nodes of the broker.
    pub(crate) nodes: usize,
    /// Engines that are there from the begin.
    pub(crate) engines: usize,
    /// Requests a second.
    pub(crate) rate: u32,
    /// What the engines keep in order: `commit.order`.
    pub(crate) order: &'static str,
    /// For how long they are sent.
    pub(crate) length: Duration,
    /// In the order of their time.
    pub(crate) steps: Vec<Step>,
    /// What the steps bring about.
    pub(crate) faults: Vec<Kind>,
}

impl Schedule {
    /// The schedule of a seed, for a broker of so many nodes.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let engines = 2 + dice.below(ENGINES_MAX - 1);
        let rate = 40 + 20 * u32::from(dice.byte() % 4);
        let mut plan = Plan::new(engines, nodes);
        for _ in 0..4 + dice.below(4) {
            let kind = Kind::LOTS[dice.below(Kind::LOTS.len())];
            plan.add(kind, &mut dice);
        }
        plan.steps.sort_by_key(|step| step.at);
        let order = ["partition", "key", "none"][dice.below(3)];
        let last = plan.steps.last().map_or(Duration::from_millis(CALM_MILLIS), |step| step.at);
        Self {
            seed,
            nodes,
            engines,
            rate,
            order,
            length: last + AFTER,
            steps: plan.steps,
            faults: plan.faults,
        }
    }

    /// How many requests are sent, besides those of single steps.
    pub(crate) fn requests(&self) -> u64 {
        u64::from(self.rate) * self.length.as_secs()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "seed {}: {} engines, commit.order={}, {} nodes, {} requests a second for {:.1} s",
            self.seed,
            self.engines,
            self.order,
            self.nodes,
            self.rate,
            self.length.as_secs_f64()
        )?;
        for step in &self.steps {
            writeln!(out, "{:>8.3} s  {}", step.at.as_secs_f64(), step.action)?;
        }
        Ok(())
    }
}

/// A schedule in the making: who is busy with a fault, until when.
struct Plan {
    /// For each engine, those that join later included; `None` while it is not there.
    engines: Vec<Option<Duration>>,
    /// When no node is down any more: two at once would take the quorum away.
    nodes_whole: Duration,
    nodes: usize,
    steps: Vec<Step>,
    faults: Vec<Kind>,
}

/// Between the end of a fault and the begin of the next of the same engine, or node: it has to come back first.
const RECOVERY: Duration = Duration::from_millis(1_500);

impl Plan {
    fn new(engines: usize, nodes: usize) -> Self {
        let engines = (0..ENGINES_MAX).map(|engine| (engine < engines).then_some(Duration::ZERO)).collect();
        Self { engines, nodes_whole: Duration::ZERO, nodes, steps: Vec::new(), faults: Vec::new() }
    }

    /// Adds a fault of this kind, unless nobody is free for it.
    fn add(&mut self, kind: Kind, dice: &mut Dice) {
        let at = dice.millis(CALM_MILLIS, CALM_MILLIS + SPAN_MILLIS);
        let Some(whom) = self.whom(kind, at, dice) else { return };
        let steps = kind.steps(whom, dice);
        let end = at + steps.last().map_or(Duration::ZERO, |(after, _)| *after) + RECOVERY;
        match kind {
            Kind::Poison | Kind::Slow => {}
            Kind::BrokerKill | Kind::FullDisk => self.nodes_whole = end,
            Kind::Leave => self.engines[whom] = None,
            _ => self.engines[whom] = Some(end),
        }
        self.steps.extend(steps.into_iter().map(|(after, action)| Step { at: at + after, action }));
        self.faults.push(kind);
    }

    /// The engine, or the node, that this can happen to at that time.
    fn whom(&self, kind: Kind, at: Duration, dice: &mut Dice) -> Option<usize> {
        let free = |engine: &usize| self.engines[*engine].is_some_and(|busy| busy <= at);
        let engines = 0..self.engines.len();
        match kind {
            Kind::Poison | Kind::Slow => Some(0),
            Kind::BrokerKill | Kind::FullDisk => (self.nodes_whole <= at).then(|| dice.below(self.nodes)),
            // Only one that was never there: who has left stays away.
            Kind::Join => engines.into_iter().find(|engine| {
                self.engines[*engine].is_none()
                    && !self.steps.iter().any(|step| step.action == Action::Stop(*engine))
            }),
            Kind::Leave => {
                let stays = self.engines.iter().flatten().count() > 2;
                let untouched = |engine: &usize| self.engines[*engine] == Some(Duration::ZERO);
                engines.into_iter().find(untouched).filter(|_| stays)
            }
            _ => {
                let free: Vec<usize> = engines.filter(free).collect();
                (!free.is_empty()).then(|| free[dice.below(free.len())])
            }
        }
    }
}

/// What a seed throws.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.next_u32()).map_or(0, |number| number % bound)
    }

    fn byte(&mut self) -> u8 {
        self.0.next_u32().to_be_bytes()[0]
    }

    fn millis(&mut self, least: u64, bound: u64) -> Duration {
        Duration::from_millis(least + self.0.next_u64() % (bound - least))
    }
}
