//! A load on an engine: what is predicted of it, and what then happens.

use std::path::Path;
use std::time::Duration;

use dataflows::capacity::{Basis, Objective, Report, Tick, analyse};
use operators::broker::kafka::KafkaBroker;
use tempfile::TempDir;
use tidemill::capacity::{basis, fetch};
use tidemill::experiment::raw::Raw;
use tidemill::experiment::system::Running;
use tidemill::experiment::{Failure, Setup, World};
use tidemill::load::{LoadOptions, ModelRow};
use tidemill::surroundings::kafka_config;

use crate::traffic::{Target, Traffic};

/// Where the project lies.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 8;

/// Tenants.
const TENANTS: usize = 60;

/// What takes an executor's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Two executors whose batches take time for which nobody computes, so that the machine's cores are free for everything else.
    Paced,
    /// One that computes, on a core that it shares with the broker, the load and the rest of the engine.
    Computed,
}

impl Work {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Paced => &["onnx.pace.fixed=4ms", "onnx.pace.row=500us", "onnx.executors=2", "workers=2"],
            Self::Computed => &["onnx.executors=1", "workers=1"],
        }
    }

    /// Requests a second that the load begins with: less than half of what the executors bear.
    pub(crate) fn rate(self) -> f64 {
        match self {
            Self::Paced => 1_200.0,
            Self::Computed => 600.0,
        }
    }

    /// Where its models lie, in the project.
    fn models(self) -> &'static str {
        match self {
            Self::Paced => "models",
            Self::Computed => "tests/models",
        }
    }
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// The exponent of the Zipf distribution over tenants.
    pub(crate) skew: f64,
    /// The models, and the largest batch of each.
    pub(crate) mix: &'static [(&'static str, &'static [usize], usize)],
    pub(crate) work: Work,
    /// Whether it comes in bursts.
    pub(crate) bursts: bool,
    /// Decides tenants and numbers.
    pub(crate) seed: u64,
}

impl Scene {
    /// Its name, for people.
    pub(crate) fn name(&self) -> String {
        let mix: Vec<String> = self.mix.iter().map(|(model, _, rows)| format!("{model} of {rows}")).collect();
        let computed = if self.work == Work::Computed { ", computed" } else { "" };
        let bursts = if self.bursts { ", bursts" } else { "" };
        format!("Zipf {}, {}{computed}{bursts}", self.skew, mix.join(" + "))
    }

    /// Its models alone: an engine opens all that it finds.
    fn models(&self) -> std::io::Result<TempDir> {
        let folder = tempfile::tempdir()?;
        for (model, _, _) in self.mix {
            let file = format!("{model}.onnx");
            let from = Path::new(ROOT).join(self.work.models()).join(&file);
            std::fs::copy(from, folder.path().join(file))?;
        }
        Ok(folder)
    }
}

/// What the engine has seen, and what is said of it.
pub(crate) struct Look {
    pub(crate) basis: Basis,
    pub(crate) report: Report,
    pub(crate) ticks: Vec<Tick>,
}

/// A scene that is on.
pub(crate) struct Stage {
    world: World,
    running: Running,
    pub(crate) target: Target,
    pub(crate) traffic: Traffic,
    offsets: Raw,
    /// Gone with the stage.
    _models: TempDir,
}

impl Stage {
    /// Starts the engine and the load, and lets both come to rest.
    pub(crate) fn open(setup: &Setup, scene: &Scene) -> Result<Self, Failure> {
        let mut setup = setup.clone();
        for set in scene.work.settings() {
            setup = setup.with(set);
        }
        setup = setup.with("commit.interval=50ms");
        let models = scene.models().map_err(|source| Failure::io("copy the models of a scene", source))?;
        setup = setup.with(&format!("models.path={}", models.path().display()));
        setup = setup.with(&format!("topics.requests.partitions={PARTITIONS}"));
        for (model, _, rows) in scene.mix {
            setup = setup.with(&format!("models.{model}.batch.size_max={rows}"));
        }
        let load = LoadOptions {
            requests: u64::MAX / 2,
            tenants: TENANTS,
            models: scene.mix.iter().map(|(model, row, _)| ModelRow::new(model, row)).collect(),
            skew: scene.skew,
            seed: scene.seed,
            ..LoadOptions::default()
        };
        let world = World::new(&setup, "capacity", load.clone())?;
        let running = Running::start(&setup, &world)?;
        let broker = KafkaBroker::new(kafka_config(&world.config))?;
        let target = Target::new(broker, &world.config.topics.requests.name, PARTITIONS, load);
        let traffic = Traffic::start(target.clone(), scene.work.rate(), scene.bursts);
        let offsets = Raw::of_offsets(&world.config, &world.config.kafka.group)?;
        Ok(Self { world, running, target, traffic, offsets, _models: models })
    }

    /// What the engine has seen in its last seconds, `span` at most.
    pub(crate) fn look(&self, span: Duration) -> Result<Look, Failure> {
        let address = self.running.address().unwrap_or_default();
        let (setup, mut ticks) =
            fetch(&address, i64::MIN).map_err(|error| Failure::Unexpected(error.to_string()))?;
        let most = usize::try_from(span.as_secs()).unwrap_or(usize::MAX);
        // One more, from which what came in the first is counted.
        ticks.drain(..ticks.len().saturating_sub(most + 1));
        let basis = basis(setup, &ticks, span);
        let report = analyse(&basis, Objective { lag_seconds_max: 5.0, ..Objective::default() });
        Ok(Look { basis, report, ticks })
    }

    /// What is committed of each partition.
    pub(crate) fn committed(&self) -> Result<Vec<u64>, Failure> {
        let topic = &self.world.config.topics.requests.name;
        self.offsets.committed(topic, PARTITIONS)
    }

    /// How far each partition is behind what was sent.
    pub(crate) fn lags(&self) -> Result<Vec<u64>, Failure> {
        let committed = self.committed()?;
        let lag =
            |(partition, committed): (i32, &u64)| self.target.sent_to(partition).saturating_sub(*committed);
        Ok((0..).zip(&committed).map(lag).collect())
    }

    /// Ends the load and the engine. What is not done of it is thrown away with the topics.
    pub(crate) fn close(self) -> Result<(), Failure> {
        self.traffic.stop()?;
        self.running.kill()
    }
}
