//! What a test has to itself: topics and a group, a folder, load and audit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operators::broker::kafka::{KafkaBroker, KafkaConfig};
use operators::broker::{Broker, Isolation, TopicSpec};
use operators::clock::{Clock, Moment, SystemClock};
use operators::codec::form::{Form, ResultForm};
use operators::dead_letter::Reason;
use operators::lease::{NextOffset, Partition};
use operators::model::{InputOptions, ModelFile, store};
use tempfile::TempDir;
use tidemill::audit::{AuditOptions, AuditReport, OrtOracle, ResultKey, audit};
use tidemill::cli::audit::Patience;
use tidemill::load::{Load, LoadForm, LoadOptions, ModelRow, Schedule};
use tidemill::produce::{Sender, Watcher, send_load};

use super::engine::Engine;
use super::wait::{PATIENCE, until};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

/// The largest request that an engine takes here: so small that the topic takes larger ones.
pub(crate) const RECORD_BYTES_MAX: usize = 256 << 10;

/// The setting of engines that may double outcomes, where that is allowed.
pub(crate) const AT_LEAST_ONCE: &str = "delivery=at-least-once";

/// Topics, a group and a folder that nobody else uses.
pub(crate) struct Rig {
    pub(crate) broker: Arc<KafkaBroker>,
    /// Where its engines find the broker.
    bootstrap: String,
    /// The prefix of its topics, and its group.
    name: String,
    models: PathBuf,
    settings: Vec<String>,
    folder: TempDir,
    engines: Cell<usize>,
    /// Where a test that fails leaves what its engines have logged, instead of showing the end of it.
    pub(crate) kept: Option<PathBuf>,
    /// What is said of a model's inputs, for the audit: its engines are told it in settings.
    pub(crate) inputs: fn(&str) -> BTreeMap<String, InputOptions>,
}

/// The broker that the tests share.
pub(crate) fn shared_broker() -> String {
    std::env::var("TIDEMILL_BOOTSTRAP").expect("TIDEMILL_BOOTSTRAP is not set: run `make test`")
}

fn library() -> PathBuf {
    std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH is not set: run `make test`").into()
}

impl Rig {
    /// Makes topics on the shared broker, that of requests with so many partitions.
    pub(crate) fn new(stem: &str, partitions: i32) -> Self {
        Self::at(shared_broker(), stem, partitions)
    }

    /// Makes topics on the broker at `bootstrap`.
    pub(crate) fn at(bootstrap: String, stem: &str, partitions: i32) -> Self {
        Self::replicated(bootstrap, stem, partitions, 1)
    }

    /// The same, with so many copies of each partition.
    pub(crate) fn replicated(bootstrap: String, stem: &str, partitions: i32, copies: i32) -> Self {
        // Two tests that begin in the same microsecond would else make the same topics.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        library();
        let broker = Arc::new(KafkaBroker::new(KafkaConfig::new(bootstrap.clone())).unwrap());
        let (micros, next) = (SystemClock::new().wall_micros(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{stem}-{}-{micros}-{next}", std::process::id());
        let rig = Self {
            broker,
            bootstrap,
            name,
            models: MODELS.into(),
            settings: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            engines: Cell::new(0),
            kept: None,
            inputs: |_| BTreeMap::new(),
        };
        let dead_letters =
            BTreeMap::from([("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())]);
        let make = |name: String, partitions, config| {
            let spec = TopicSpec { name, partitions, replication: copies, config };
            rig.broker.admin().unwrap().create(&spec).unwrap();
        };
        make(rig.requests(), partitions, BTreeMap::new());
        make(rig.results(), partitions.min(32), BTreeMap::new());
        make(rig.dead_letters(), 4, dead_letters);
        rig
    }

    /// Its engines find the broker there, while load and audit go to it directly: the address of a proxy.
    pub(crate) fn through(mut self, bootstrap: String) -> Self {
        self.bootstrap = bootstrap;
        self
    }

    /// Leaves what its engines have logged, and the acknowledgement log, in a folder.
    pub(crate) fn copy_logs(&self, to: &Path) {
        let files = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        for file in files.filter(|file| file.path().is_file()) {
            // In the middle of a failure another one changes nothing.
            drop(std::fs::copy(file.path(), to.join(file.file_name())));
        }
    }

    /// Where its engines find the broker.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// One more setting of its engines, written `key=value`.
    pub(crate) fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Its engines serve the models of this folder.
    pub(crate) fn serving(mut self, models: PathBuf) -> Self {
        self.models = models;
        self
    }

    /// A dead member is noticed soon.
    pub(crate) fn with_short_sessions(self) -> Self {
        self.with("kafka.transaction_timeout=3s").with("kafka.session_timeout=4s")
    }

    pub(crate) fn requests(&self) -> String {
        format!("{}.requests", self.name)
    }

    pub(crate) fn results(&self) -> String {
        format!("{}.results", self.name)
    }

    pub(crate) fn dead_letters(&self) -> String {
        format!("{}.dlq", self.name)
    }

    /// The folder of its engines' crash journals.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) fn group(&self) -> &str {
        &self.name
    }

    /// Starts an engine with two workers.
    pub(crate) fn engine(&self, instance: &str) -> Engine {
        self.engine_with(instance, 2)
    }

    /// Starts an engine.
    pub(crate) fn engine_with(&self, instance: &str, workers: usize) -> Engine {
        self.engine_told(instance, workers, &[])
    }

    /// Starts an engine with arguments besides.
    pub(crate) fn engine_told(&self, instance: &str, workers: usize, told: &[&str]) -> Engine {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL__") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).args(["run", "--workers", &workers.to_string()]).args(told);
        let ours = [
            format!("kafka.bootstrap_servers={}", self.bootstrap),
            format!("kafka.group={}", self.name),
            format!("kafka.instance={instance}"),
            format!("topics.requests={}", self.requests()),
            format!("topics.results={}", self.results()),
            format!("topics.dlq={}", self.dead_letters()),
            format!("models.path={}", self.models.display()),
            "models.anomaly-32.output=score".to_owned(),
            format!("records.bytes_max={RECORD_BYTES_MAX}"),
            "http.address=127.0.0.1:0".to_owned(),
            format!("journal.dir={}", self.journal().display()),
        ];
        for setting in ours.iter().chain(&self.settings) {
            command.args(["--set", setting]);
        }
        // By this name a proxy knows whose connection it is.
        for kind in ["consumer", "producer", "admin"] {
            command.args(["--set", &format!("kafka.{kind}.client.id={instance}")]);
        }
        let number = self.engines.replace(self.engines.get() + 1);
        Engine::start(command, self.folder.path().join(format!("engine-{number:02}-{instance}.log")))
    }

    /// The models' files, with the output that is served.
    fn files(&self) -> Vec<ModelFile> {
        let mut files = store::find(&self.models, store::BYTES_MAX).unwrap().files;
        for file in &mut files {
            file.output = (file.id == "anomaly-32").then(|| "score".to_owned());
            file.inputs = (self.inputs)(&file.id);
        }
        files
    }

    /// Starts to send requests to four models, in every form, 1 % of them bad, of every kind in turn; so many a second, or as fast as can be.
    pub(crate) fn load(&self, requests: u64, rate: Option<f64>) -> Loading {
        let models = ["anomaly-32:32", "cnn-6x64:6x64", "ffnn-784:784", "mlp-16:16"];
        let clock = SystemClock::new();
        let load = Load::new(LoadOptions {
            requests,
            models: models.iter().map(|model| model.parse::<ModelRow>().unwrap()).collect(),
            form: LoadForm::Mixed,
            bad: 0.01,
            oversized_bytes: RECORD_BYTES_MAX,
            enqueued_from_micros: clock.wall_micros(),
            tenants: 32,
            ..LoadOptions::default()
        });
        let (load, writer, topic) = (load.unwrap(), self.broker.writer().unwrap(), self.requests());
        let schedule = rate.map_or_else(Schedule::at_once, |rate| Schedule::at_rate(rate).unwrap());
        let log = File::create(self.ack_log()).unwrap();
        let hurried = Arc::new(AtomicBool::new(false));
        let mut pace = Pace { clock, hurried: Arc::clone(&hurried) };
        let sent = thread::spawn(move || {
            let mut sender = Sender::new(writer, &topic, Some(Box::new(log)));
            send_load(load, None, schedule, &mut sender, &mut pace).unwrap();
            sender.finish(PATIENCE).unwrap();
            assert!(sender.tally().complete(), "{:?}", sender.tally());
        });
        Loading { sent, hurried }
    }

    fn ack_log(&self) -> PathBuf {
        self.folder.path().join("acknowledged.jsonl")
    }

    /// The key that its engines give to results.
    fn result_key(&self) -> ResultKey {
        let by_request = self.settings.iter().any(|setting| setting == "results.key=request_key");
        if by_request { ResultKey::RequestKey } else { ResultKey::RequestId }
    }

    /// The form that its engines give to results.
    fn result_form(&self) -> ResultForm {
        let form = self.settings.iter().find_map(|setting| setting.strip_prefix("results.form="));
        match form {
            None | Some("json") => ResultForm::Always(Form::Json),
            Some("tensor") => ResultForm::Always(Form::Tensor),
            Some("open_inference") => ResultForm::Always(Form::OpenInference),
            Some("open_inference_binary") => ResultForm::Always(Form::OpenInferenceBinary),
            Some("request") => ResultForm::Request,
            Some(other) => panic!("there is no form {other}"),
        }
    }

    /// Waits until each request has its outcome, audits, and checks that all is well.
    pub(crate) fn audit(&self) -> AuditReport {
        let report = self.report();
        assert!(report.clean(), "{report}");
        report
    }

    /// The same, without running the models, where a good request may end for this reason.
    pub(crate) fn audit_trusting(&self, reason: Reason) -> AuditReport {
        let options = AuditOptions { infer: false, trusted: vec![reason], ..self.options() };
        let report = self.report_with(&options);
        assert!(report.clean(), "{report}");
        report
    }

    /// Waits until each request has its outcome, and audits.
    pub(crate) fn report(&self) -> AuditReport {
        self.report_with(&self.options())
    }

    fn options(&self) -> AuditOptions {
        // There is none where a test sends by itself.
        let ack_log = self.ack_log();
        let ack_log = ack_log.exists().then_some(ack_log);
        AuditOptions {
            strict: true,
            group: Some(self.name.clone()),
            record_bytes_max: Some(RECORD_BYTES_MAX),
            duplicates_allowed: self.settings.iter().any(|setting| setting == AT_LEAST_ONCE),
            result_key: self.result_key(),
            result_form: self.result_form(),
            ack_log,
            ..AuditOptions::new(&self.requests(), &self.results(), &self.dead_letters())
        }
    }

    fn report_with(&self, options: &AuditOptions) -> AuditReport {
        let mut oracle = OrtOracle::new(&library(), self.files()).unwrap();
        let clock = SystemClock::new();
        audit(&*self.broker, options, &mut oracle, &mut Patience::new(&clock, PATIENCE)).unwrap()
    }

    /// Waits until the group has committed everything in the topic of requests: no commit is stuck.
    pub(crate) fn until_committed(&self) {
        let mut admin = self.broker.admin().unwrap();
        let described = admin.describe(&self.requests()).unwrap().expect("the topic is there");
        let partitions: Vec<Partition> = (0..described.partitions).map(Partition).collect();
        let end = |partition: &Partition| {
            let isolation = Isolation::ReadCommitted;
            self.broker.read(&self.requests(), *partition, isolation, &mut |_| ()).unwrap()
        };
        let ends: Vec<NextOffset> = partitions.iter().map(end).collect();
        until("every offset to be committed", || {
            let committed = admin.committed(&self.name, &self.requests(), &partitions).ok()?;
            let next = committed.into_iter().map(|committed| committed.map_or(NextOffset(0), |one| one.next));
            (next.collect::<Vec<_>>() == ends).then_some(())
        });
    }
}

impl Drop for Rig {
    /// A test that fails shows or keeps what its engines have logged.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        if let Some(kept) = &self.kept {
            return self.copy_logs(kept);
        }
        let files = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = files.map(|file| file.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        for path in logs {
            let log = std::fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- {}", path.display());
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// A load under way.
pub(crate) struct Loading {
    sent: JoinHandle<()>,
    hurried: Arc<AtomicBool>,
}

impl Loading {
    /// Waits until the broker has acknowledged all of it.
    pub(crate) fn finish(self) {
        self.sent.join().expect("the load is sent whole");
    }

    /// Sends the rest at once, and waits until the broker has acknowledged all of it. There must be a rest: else the test has gone on
    /// without load.
    pub(crate) fn hurry(self) {
        assert!(!self.sent.is_finished(), "the load was over before the test was");
        self.hurried.store(true, Ordering::SeqCst);
        self.finish();
    }
}

/// Keeps the schedule of a load.
struct Pace {
    clock: SystemClock,
    hurried: Arc<AtomicBool>,
}

impl Watcher for Pace {
    fn wait_until(&mut self, due: Duration) -> bool {
        let wait = Moment::START.after(due).since(self.clock.now());
        if wait.is_zero() || self.hurried.load(Ordering::SeqCst) {
            return false;
        }
        thread::sleep(wait);
        true
    }
}
