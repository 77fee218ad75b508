//! Carries out an experiment: point after point, each in a world of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use operators::model::Backend as _;
use operators::model::onnx::OnnxBackend;
use operators::model::store;

use super::count::count;
use super::drain::{self, Drained};
use super::figures::{Figures, Measured, as_float, faults, insert};
use super::machine::Machine;
use super::open_loop::{self, Loop, millis};
use super::plan::{Measure, Parameters, Plan, Point};
use super::sustainable;
use super::system::System;
use super::{Failure, Setup, World, cpu, floor};
use crate::config::{self, Sources};
use crate::load::{LoadForm, LoadOptions, ModelRow};
use crate::surroundings::onnx_config;

/// What carries experiments out.
#[derive(Clone, Debug)]
pub struct Instrument {
    /// The binary of the engine.
    pub program: PathBuf,
    /// The configuration file that settings stand over.
    pub file: Option<PathBuf>,
    /// Settings that stand under those of the points.
    pub sets: Vec<String>,
    /// Whether topics stay in the broker after every measurement. Those of one that fails, or loses something, do anyway.
    pub keeps_topics: bool,
}

/// Hears of every measurement as soon as it is made.
pub trait Listener {
    /// A measurement begins; so many of so many were made before.
    fn begins(&mut self, done: usize, all: usize, label: &str);

    /// A measurement was made.
    ///
    /// # Errors
    ///
    /// If it can't be told to anybody, which ends the experiment.
    fn measured(&mut self, measured: &Measured) -> std::io::Result<()>;
}

impl Instrument {
    /// Sees that every point can be carried out: that its settings can be used and its model is there. So an hour of measuring does not
    /// end at a typing error.
    ///
    /// # Errors
    ///
    /// If one can't.
    pub fn check(&self, plan: &Plan) -> Result<(), Failure> {
        for point in &plan.points {
            let setup = self.setup(point);
            if let System::Peer { folder } = &setup.system
                && !folder.join("run").is_file()
            {
                let folder = folder.display();
                return Err(Failure::Unexpected(format!("{folder} is no peer: there is no program `run`")));
            }
            Self::load(&setup, &point.parameters)?;
        }
        Ok(())
    }

    /// Measures every point, all of them once before any is measured again: what the machine does besides comes over all of them.
    ///
    /// # Errors
    ///
    /// If the listener fails. A point that fails is told, and the next one is measured.
    pub fn run(&self, plan: &Plan, listener: &mut dyn Listener) -> std::io::Result<Vec<Measured>> {
        let machine = Machine::look();
        let all = plan.points.len() * plan.repetitions as usize;
        let mut measured = Vec::with_capacity(all);
        for repetition in 1..=plan.repetitions {
            for point in &plan.points {
                let names = plan.swept.iter().cloned().zip(point.swept.iter().cloned());
                let swept: Vec<String> =
                    names.clone().map(|(name, value)| format!("{name}={value}")).collect();
                listener.begins(measured.len(), all, &swept.join(" "));
                let (figures, error) = match self.measure(point) {
                    Ok((figures, cleared)) => (figures, cleared.err().map(|leftover| leftover.to_string())),
                    Err(failure) => (Figures::new(), Some(failure.to_string())),
                };
                let one = Measured {
                    experiment: plan.title.clone(),
                    point: names.collect(),
                    system: name_of(&point.parameters.system),
                    model: point.parameters.model.clone(),
                    measure: point.parameters.measure,
                    repetition,
                    figures,
                    error,
                    machine: machine.clone(),
                };
                listener.measured(&one)?;
                measured.push(one);
            }
        }
        Ok(measured)
    }

    fn setup(&self, point: &Point) -> Setup {
        let system = match point.parameters.system.as_str() {
            "tidemill" => System::Tidemill { program: self.program.clone(), under: None },
            folder => System::Peer { folder: folder.into() },
        };
        let sets = self.sets.iter().chain(&point.sets).cloned().collect();
        Setup { system, file: self.file.clone(), sets, keeps_topics: self.keeps_topics }
    }

    /// The load of a point; its model says what rows there are.
    fn load(setup: &Setup, parameters: &Parameters) -> Result<LoadOptions, Failure> {
        let sources = Sources::of_process(setup.file.clone(), setup.sets.clone());
        let config = config::load(&sources).map_err(Failure::Config)?.config;
        let found = store::find(&config.models.path, store::BYTES_MAX)?;
        let file = found.files.into_iter().find(|file| file.id == parameters.model);
        let (id, path) = (&parameters.model, config.models.path.display());
        let file = file.ok_or_else(|| Failure::Unexpected(format!("there is no model {id} in {path}")))?;
        let model = OnnxBackend::new(onnx_config(&config))?.open(&file)?;
        let row = ModelRow::of(id, model.signature()).ok_or_else(|| {
            Failure::Unexpected(format!("{id} takes more than rows of floats: no load can be made up for it"))
        })?;
        Ok(LoadOptions {
            models: vec![row],
            tenants: parameters.tenants,
            skew: parameters.skew,
            decimals: parameters.decimals,
            form: parameters.load_form().map_err(Failure::Unexpected)?,
            ..LoadOptions::default()
        })
    }

    /// Measures a point once. Returns its figures, and whether what was needed for them is cleared away.
    fn measure(&self, point: &Point) -> Result<(Figures, Result<(), Failure>), Failure> {
        let (setup, parameters) = (self.setup(point), &point.parameters);
        let load = Self::load(&setup, parameters)?;
        if parameters.measure == Measure::Sustainable {
            return sustainable::search(&setup, &load, parameters);
        }
        let world = World::new(&setup, &name_of(&parameters.system), load)?;
        let figures = self.measure_in(&world, &setup, parameters)?;
        let cleared = if faults(&figures) == 0.0 { world.end() } else { Ok(()) };
        Ok((figures, cleared))
    }

    fn measure_in(&self, world: &World, setup: &Setup, parameters: &Parameters) -> Result<Figures, Failure> {
        let meter = Meter::start();
        let mut figures = Figures::new();
        let requests = match parameters.measure {
            Measure::Drain => {
                let drained = drain::drain(setup, world, parameters.requests)?;
                tell_drain(&mut figures, parameters.requests, &drained, &meter);
                drained.requests
            }
            Measure::Kill => {
                let drained = drain::drain_killed(setup, world, parameters.requests)?;
                insert(&mut figures, "seconds", drained.took.as_secs_f64());
                insert(&mut figures, "recovery_seconds", drained.recovery.unwrap_or_default().as_secs_f64());
                insert(&mut figures, "memory_mb", as_float(drained.memory) / 1e6);
                drained.requests
            }
            Measure::Rate | Measure::Sustainable => {
                let asked = Loop {
                    rate: parameters.rate,
                    bursts: parameters.bursts(),
                    warm_up: parameters.warm_up,
                    window: parameters.window,
                    grace: None,
                };
                let looped = open_loop::run(setup, world, asked)?;
                tell_loop(&mut figures, parameters, &looped, &meter);
                looped.requests
            }
        };
        if parameters.measure == Measure::Kill {
            self.audit(world, &mut figures)?;
        } else {
            let count = count(world, requests)?;
            insert(&mut figures, "lost", as_float(count.lost));
            insert(&mut figures, "duplicated", as_float(count.duplicated));
            insert(&mut figures, "dead_letters", as_float(count.dead_letters));
        }
        let has_floor = parameters.floor
            && parameters.measure != Measure::Kill
            && matches!(setup.system, System::Tidemill { .. })
            && parameters.load_form() == Ok(LoadForm::Json);
        if has_floor {
            tell_floor(&mut figures, &floor::measure(world, requests)?);
        }
        Ok(figures)
    }

    /// The audit of the whole world, by `tidemill audit`: every output is compared with what the model says.
    fn audit(&self, world: &World, figures: &mut Figures) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.args(["audit", "--json"]);
        if let Some(file) = &self.file {
            command.arg("--config").arg(file);
        }
        for set in &world.sets {
            command.args(["--set", set]);
        }
        let output = command.output().map_err(|source| Failure::io("run the audit", source))?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            Failure::Unexpected(format!("the audit could not be made: {}", said.trim()))
        })?;
        for name in ["requests", "results", "dead_letters", "lost", "duplicated", "wrong", "unexpected"] {
            let value = report[name].as_f64();
            let value = value.ok_or_else(|| Failure::Unexpected(format!("the audit tells no `{name}`")))?;
            insert(figures, name, value);
        }
        Ok(())
    }
}

/// CPU time of what stands around the system: the broker, where it is ours, and this process, which makes the load and reads the results.
struct Meter {
    broker: Option<(u32, Duration)>,
    load: Duration,
}

impl Meter {
    fn start() -> Self {
        let broker = broker().and_then(|process| Some((process, cpu::of_process(process).ok()?)));
        Self { broker, load: cpu::of_process(std::process::id()).unwrap_or_default() }
    }

    fn tell(&self, figures: &mut Figures, records: f64) {
        let since = |process, before: Duration| Some(cpu::of_process(process).ok()?.saturating_sub(before));
        let nanos = |time: Duration| time.as_secs_f64() * 1e9 / records.max(1.0);
        if let Some(spent) = self.broker.and_then(|(process, before)| since(process, before)) {
            insert(figures, "broker_cpu_ns_per_record", nanos(spent));
        }
        if let Some(spent) = since(std::process::id(), self.load) {
            insert(figures, "load_cpu_ns_per_record", nanos(spent));
        }
    }
}

/// The broker's process, where `scripts/kafka.sh run` has started it.
fn broker() -> Option<u32> {
    let state = std::env::var_os("TIDEMILL_KAFKA_STATE")?;
    std::fs::read_to_string(Path::new(&state).join("pid")).ok()?.trim().parse().ok()
}

fn tell_drain(figures: &mut Figures, requests: u64, drained: &Drained, meter: &Meter) {
    let (requests, all) = (as_float(requests), as_float(drained.requests));
    insert(figures, "requests", requests);
    insert(figures, "seconds", drained.took.as_secs_f64());
    insert(figures, "records_per_second", requests / drained.took.as_secs_f64().max(1e-9));
    insert(figures, "records_per_cpu_second", requests / drained.spent.as_secs_f64().max(1e-9));
    insert(figures, "cpu_ns_per_record", drained.spent.as_secs_f64() * 1e9 / requests);
    insert(figures, "memory_mb", as_float(drained.memory) / 1e6);
    // The broker has stored, and the load has written, the requests of the warm-up too.
    meter.tell(figures, all);
}

fn tell_loop(figures: &mut Figures, parameters: &Parameters, looped: &open_loop::Looped, meter: &Meter) {
    let seen = as_float(looped.in_window);
    insert(figures, "requests", as_float(looped.requests));
    insert(figures, "records_per_second", seen / parameters.window.as_secs_f64());
    insert(figures, "records_per_cpu_second", seen / looped.spent.as_secs_f64().max(1e-9));
    insert(figures, "cpu_ns_per_record", looped.spent.as_secs_f64() * 1e9 / seen.max(1.0));
    insert(figures, "memory_mb", as_float(looped.memory) / 1e6);
    insert(figures, "lag_slope_per_second", looped.lag.slope);
    for (name, quantile) in
        [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)]
    {
        insert(figures, name, millis(&looped.latencies, quantile));
    }
    if let Some(recovery) = looped.recovery {
        insert(figures, "bursts", as_float(recovery.bursts as u64));
        insert(figures, "bursts_not_recovered", as_float(recovery.not_recovered as u64));
        insert(figures, "recovery_seconds", recovery.seconds);
    }
    meter.tell(figures, as_float(looped.requests));
}

fn tell_floor(figures: &mut Figures, floor: &floor::Floor) {
    for (name, nanos) in floor.figures() {
        insert(figures, name, as_float(nanos));
    }
    let spent = figures.get("cpu_ns_per_record").copied();
    if let Some(spent) = spent {
        insert(figures, "engine_tax", spent / as_float(floor.sum()).max(1.0));
    }
}

/// A system's name: a peer's is that of its folder.
fn name_of(system: &str) -> String {
    Path::new(system)
        .file_name()
        .map_or_else(|| system.to_owned(), |name| name.to_string_lossy().into_owned())
}
