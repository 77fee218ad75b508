//! Carries out a schedule: engines under load, what goes wrong with them, quiet, and the audit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operators::broker::{Broker, Writer};
use operators::clock::{Clock, Moment, SystemClock};
use operators::records::Records;
use tempfile::TempDir;

use super::engine::{Engine, series_in};
use super::own::OwnBroker;
use super::proxy::{END_TXN, Line, Proxy, Trick};
use super::rig::Rig;
use super::schedule::{Action, ENGINES_MAX, SESSION, Schedule};
use super::tally::{Counts, Outcome};
use super::wait::{PATIENCE, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Partitions of the topic of requests.
const PARTITIONS: usize = 8;

/// How often what is due, and whether the engines live, is looked at; and how often what they have counted.
const LOOK: Duration = Duration::from_millis(20);
const COUNT: Duration = Duration::from_millis(250);

/// The exit code of an engine that could not reach its broker at the start: its supervisor starts it again.
const NO_BROKER: i32 = 10;

/// What several schedules stand on: a broker, the proxy before it, and the models.
pub(crate) struct Ground {
    broker: Arc<OwnBroker>,
    proxy: Proxy,
    models: TempDir,
    nodes: usize,
}

impl Ground {
    pub(crate) fn new(nodes: usize) -> Self {
        let models = tempfile::tempdir().unwrap();
        let served = ["models/anomaly-32", "models/cnn-6x64", "models/ffnn-784", "models/mlp-16"];
        for model in served.iter().chain(&["tests/models/gather-poison", "tests/models/slow"]) {
            let from = Path::new(ROOT).join(format!("{model}.onnx"));
            std::fs::copy(&from, models.path().join(from.file_name().unwrap())).unwrap();
        }
        let proxy = Proxy::new(nodes);
        let broker = Arc::new(OwnBroker::start_with(nodes, &[], Some(&proxy)));
        Self { broker, proxy, models, nodes }
    }

    /// Whether a node has passed over the markers of a transaction in this schedule's topics. Kafka 4.3 takes partitions without a leader
    /// for deleted ones; at a start on a single node every partition may be without one while decided transactions are ended.
    pub(crate) fn has_forgotten(&self, schedule: &Schedule) -> bool {
        let topics = format!("{}-", stem(schedule));
        self.broker.logs().iter().filter_map(|(_, log)| std::fs::read_to_string(log).ok()).any(|log| {
            log.lines().any(|line| line.contains(&topics) && line.contains("are likely deleted already"))
        })
    }

    /// Leaves what the broker has logged, and what it knows of transactions and offsets, in a folder.
    pub(crate) fn copy_logs(&self, to: &Path) {
        for (name, log) in self.broker.logs() {
            // There is none of a node that could not be started.
            drop(std::fs::copy(&log, to.join(&name)));
            for (segment, path) in own_topics(&log.with_file_name("data")) {
                drop(std::fs::copy(path, to.join(format!("{name}.{segment}"))));
            }
        }
    }
}

/// Carries out a schedule. What a failure leaves goes into the folder `kept`.
pub(crate) fn run(ground: &Ground, schedule: &Schedule, kept: &Path) -> Outcome {
    let clock = SystemClock::new();
    let mut run = Run::new(ground, schedule, kept.to_owned());
    for engine in 0..schedule.engines {
        run.start(engine);
    }
    run.until_shared();
    let load = run.rig.load(schedule.requests(), Some(f64::from(schedule.rate)));
    run.carry_out(schedule);
    run.await_nodes();
    load.finish();
    assert!(run.writer.flush(PATIENCE), "single requests were not acknowledged");
    run.until_drained();
    let report = run.rig.report();
    run.rig.until_committed();
    run.stop_all();
    if !report.clean() {
        run.rig.copy_logs(kept);
    }
    let skipped = std::mem::take(&mut run.skipped);
    Outcome::new(schedule, &report, run.counts, skipped, clock.now().since(Moment::START))
}

/// The segments of Kafka's own topics, of transactions and of committed offsets, in the data folder that the file names.
fn own_topics(data: &Path) -> Vec<(String, PathBuf)> {
    let folders = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let data = std::fs::read_to_string(data).unwrap_or_default();
    let kept = ["__consumer_offsets-", "__transaction_state-"];
    let partitions = folders(Path::new(data.trim_end()))
        .filter(|partition| kept.iter().any(|kept| name(partition).starts_with(kept)));
    let segments = partitions.flat_map(|partition| {
        folders(&partition.path())
            .map(move |segment| (format!("{}.{}", name(&partition), name(&segment)), segment.path()))
            .collect::<Vec<_>>()
    });
    segments.filter(|(_, path)| path.extension() == Some("log".as_ref())).collect()
}

/// A schedule that is being carried out.
struct Run<'a> {
    ground: &'a Ground,
    rig: Rig,
    slots: [Slot; ENGINES_MAX],
    /// For requests of single steps.
    writer: Box<dyn Writer>,
    written: u64,
    /// Nodes that are starting again.
    nodes: Vec<JoinHandle<()>>,
    /// Of engines that are no more.
    counts: Counts,
    skipped: Vec<String>,
}

/// The place of an engine: each life of it has the same name.
#[derive(Default)]
struct Slot {
    engine: Option<Engine>,
    is_frozen: bool,
    is_stopping: bool,
    /// What it had counted when it was last asked.
    counts: Counts,
}

/// What the names of the schedule's topics begin with.
fn stem(schedule: &Schedule) -> String {
    format!("chaos-{}", schedule.seed)
}

fn name(engine: usize) -> String {
    format!("engine-{engine}")
}

impl<'a> Run<'a> {
    fn new(ground: &'a Ground, schedule: &Schedule, kept: PathBuf) -> Self {
        let copies = if ground.nodes < 3 { 1 } else { 3 };
        let stem = stem(schedule);
        let partitions = i32::try_from(PARTITIONS).unwrap();
        let mut rig = Rig::replicated(ground.broker.bootstrap(), &stem, partitions, copies)
            .through(ground.proxy.bootstrap())
            .serving(ground.models.path().to_owned())
            .with(&format!("kafka.session_timeout={}s", SESSION.as_secs()))
            .with("kafka.transaction_timeout=4s")
            .with(&format!("commit.order={}", schedule.order))
            .with("stop.drain_timeout=5s")
            .with("models.slow.batch.size_max=1");
        rig.kept = Some(kept);
        let writer = rig.broker.writer().unwrap();
        Self {
            ground,
            rig,
            slots: Default::default(),
            writer,
            written: 0,
            nodes: Vec::new(),
            counts: Counts::default(),
            skipped: Vec::new(),
        }
    }

    fn carry_out(&mut self, schedule: &Schedule) {
        let clock = SystemClock::new();
        let passed = || clock.now().since(Moment::START);
        let mut counted = Duration::ZERO;
        for step in &schedule.steps {
            while passed() < step.at {
                thread::sleep(LOOK);
                self.look_after_engines();
                if passed() >= counted + COUNT {
                    self.count();
                    counted = passed();
                }
            }
            self.act(step.action);
        }
    }

    fn act(&mut self, action: Action) {
        if matches!(action, Action::KillNode(_) | Action::FillDisk(_)) {
            // On a busy machine the last start may take longer than the schedule gives it; a node that can't start is no fault of Kafka's.
            self.await_nodes();
        }
        let proxy = &self.ground.proxy;
        match action {
            Action::Start(engine) => self.start(engine),
            Action::Kill(engine) => self.kill(engine),
            Action::Stop(engine) => {
                self.signal(engine, "TERM");
                self.slots[engine].is_stopping = true;
            }
            Action::Freeze(engine) => {
                self.signal(engine, "STOP");
                self.slots[engine].is_frozen = true;
            }
            Action::Thaw(engine) => {
                self.signal(engine, "CONT");
                self.slots[engine].is_frozen = false;
            }
            Action::Hold(engine) => proxy.set(&name(engine), Line::Held),
            Action::Cut(engine) => proxy.set(&name(engine), Line::Cut),
            Action::HalfOpen(engine) => proxy.set(&name(engine), Line::HalfOpen),
            Action::Mend(engine) => proxy.mend(&name(engine)),
            Action::CutAnswer(engine) => proxy.play(&name(engine), END_TXN, 1, Trick::CutAnswer),
            // Twice: after the first time the client library asks again by itself, and the engine would notice nothing.
            Action::SwallowAnswer(engine) => proxy.play(&name(engine), END_TXN, 2, Trick::SwallowAnswer),
            Action::KillNode(node) => self.ground.broker.kill_node(node),
            Action::FillDisk(node) => {
                if let Err(why) = self.ground.broker.fill_disk(node) {
                    self.skipped.push(format!("full disk: {why}"));
                }
            }
            Action::StartNode(node) => {
                let broker = Arc::clone(&self.ground.broker);
                self.nodes.push(thread::spawn(move || {
                    // One whose disk was full may not have noticed yet.
                    broker.kill_node(node);
                    broker.start_node(node);
                }));
            }
            Action::Poison => self.send("gather-poison", 60, |row| if row % 20 == 7 { 99 } else { 2 }),
            Action::Slow => self.send("slow", 30, |row| row),
        }
    }

    fn await_nodes(&mut self) {
        for node in self.nodes.drain(..) {
            node.join().expect("a node starts again");
        }
    }

    /// Sends so many rows of four numbers, of which the last is `last` of the row's number.
    fn send(&mut self, model: &str, rows: u64, last: impl Fn(u64) -> u64) {
        for row in 0..rows {
            self.written += 1;
            let value = format!(
                r#"{{"request_id":"single-{}","tenant_id":"t-{}","model_id":"{model}","input":[1,2,3,{}]}}"#,
                self.written,
                row % 16,
                last(row)
            );
            let mut record = Records::default();
            record.push(Some(format!("t-{}|{model}", row % 16).as_bytes()), Some(value.as_bytes()));
            record.push_header(b"model_id", Some(model.as_bytes()));
            self.writer.write(&self.rig.requests(), None, None, record.get(0), self.written).unwrap();
        }
    }

    /// Starts an engine, once its predecessor has ended.
    fn start(&mut self, engine: usize) {
        if self.slots[engine].is_stopping {
            self.await_end(engine);
        }
        self.slots[engine] = Slot { engine: Some(self.rig.engine(&name(engine))), ..Slot::default() };
    }

    fn kill(&mut self, engine: usize) {
        self.count();
        let slot = std::mem::take(&mut self.slots[engine]);
        self.counts.add(slot.counts);
        slot.engine.expect("the schedule kills who is there").kill();
    }

    fn signal(&self, engine: usize, signal: &str) {
        let there = self.slots[engine].engine.as_ref();
        there.expect("the schedule signals to who is there").signal(signal);
    }

    /// Waits until an engine that was asked to stop has ended as it should.
    fn await_end(&mut self, engine: usize) {
        self.count();
        let mut slot = std::mem::take(&mut self.slots[engine]);
        let mut ending = slot.engine.take().expect("it was asked to stop");
        let code = ending.end().code();
        assert_eq!(code, Some(0), "engine {engine} was asked to stop: {}", tail(&ending));
        self.counts.add(Counts { inferred: ending.counted("inferred"), ..slot.counts });
    }

    /// Finds engines that have ended by themselves.
    fn look_after_engines(&mut self) {
        for engine in 0..ENGINES_MAX {
            let Some(running) = &mut self.slots[engine].engine else { continue };
            let Some(status) = running.ended() else { continue };
            if self.slots[engine].is_stopping {
                self.await_end(engine);
                continue;
            }
            let code = status.code();
            assert_eq!(code, Some(NO_BROKER), "engine {engine} ended by itself: {status}\n{}", tail(running));
            self.counts.add(std::mem::take(&mut self.slots[engine]).counts);
            self.counts.restarted += 1;
            self.start(engine);
        }
    }

    /// Asks the engines what they have counted.
    fn count(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_frozen) {
            let page = slot.engine.as_ref().and_then(|engine| engine.page("/metrics"));
            if let Some((_, page)) = page {
                slot.counts = Counts::of(&page);
            }
        }
    }

    /// The lag of each partition that an engine reads.
    fn lags(&mut self) -> Vec<u64> {
        self.look_after_engines();
        let pages = self.slots.iter().filter_map(|slot| slot.engine.as_ref()?.page("/metrics"));
        pages.flat_map(|(_, page)| series_in(&page, "tidemill_lag_records")).collect()
    }

    fn until_shared(&mut self) {
        until("every partition to be read", || (self.lags().len() == PARTITIONS).then_some(()));
    }

    fn until_drained(&mut self) {
        until("every engine to be done", || {
            let lags = self.lags();
            (lags.len() == PARTITIONS && lags.iter().all(|lag| *lag == 0)).then_some(())
        });
    }

    fn stop_all(&mut self) {
        let there = |slot: &Slot| slot.engine.is_some();
        let engines: Vec<usize> = (0..ENGINES_MAX).filter(|engine| there(&self.slots[*engine])).collect();
        for engine in engines {
            if !self.slots[engine].is_stopping {
                self.signal(engine, "TERM");
            }
            self.await_end(engine);
        }
    }
}

impl Drop for Run<'_> {
    /// Whatever has happened, the next schedule begins with whole lines.
    fn drop(&mut self) {
        for engine in 0..ENGINES_MAX {
            self.ground.proxy.mend(&name(engine));
        }
    }
}

/// The end of what an engine has logged.
fn tail(engine: &Engine) -> String {
    let log = engine.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
