//! One part of a process fails for good, and the process ends all the same, with the exit code that says so.
//!
//! Each case runs `tidemill run` in a process of its own, this test binary once more, whose broker or model is wrong on purpose.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use operators::broker::simulated::SimulatedBroker;
use operators::broker::{
    Admin, Broker, BrokerError, Committed, GroupEvent, GroupToken, Isolation, LogRange, LogRecord, Member,
    OffsetCommit, Ownership, PlainProducer, PollEnd, PollLimit, Polled, Producer, Queue, Waker, Writer,
};
use operators::clock::SystemClock;
use operators::lease::{Lease, NextOffset, Offset, Partition};
use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use operators::model::{Backend, Model, ModelError, ModelFile, RunError, Signature};
use operators::records::{RecordView, Records};
use operators::tensor::Column;
use tidemill::cli::{Candidate, CliError, Surroundings};
use tidemill::config::Config;

/// Says to the process of a case what is to fail.
const WHO: &str = "TIDEMILL_TEST_CASE";
/// SIGABRT, as Linux numbers it.
const ABORTED: i32 = 6;
/// How a case ends that has not ended by itself.
const WENT_ON: i32 = 99;
/// The number that the model fails on: it is not among those that it is opened with.
const FATAL: f32 = 13.0;

/// Runs a case; returns how it ended, and its log.
fn run(who: &str) -> (ExitStatus, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "fragile::case", "--ignored", "--nocapture", "--test-threads=1"]);
    let output = command.env(WHO, who).output().unwrap();
    (output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_panic_in_whatever_thread_ends_the_process_at_once() {
    for who in ["group", "worker", "executor", "transactions"] {
        let (status, log) = run(who);
        assert!(log.contains(&format!("{who} panics on purpose")), "{who}: {status:?}\n{log}");
        assert_eq!(status.signal(), Some(ABORTED), "{who}: {status:?}\n{log}");
    }
}

#[test]
fn a_model_that_never_returns_ends_the_process_after_the_deadline() {
    let (status, log) = run("stuck model");
    assert_eq!(status.code(), Some(12), "{status:?}\n{log}");
    assert!(log.contains("outcome.deadline"), "{log}");
}

#[test]
fn a_stop_comes_to_its_end_while_the_device_is_broken() {
    let (status, log) = run("broken device");
    assert_eq!(status.code(), Some(0), "{status:?}\n{log}");
    assert!(log.contains("device failed on a good row"), "{log}");
}

#[test]
#[ignore = "it is the other process of the tests above"]
fn case() {
    let Ok(who) = std::env::var(WHO) else { return };
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_mins(1));
        std::process::exit(WENT_ON);
    });
    let settings = [
        "http.address=127.0.0.1:0",
        "workers=1",
        "onnx.executors=1",
        "outcome.deadline=2s",
        "onnx.run_max=off",
        "journal.dir=",
        "stop.drain_timeout=2s",
        "log.filter=info",
    ];
    let arguments =
        ["tidemill", "run"].into_iter().chain(settings.into_iter().flat_map(|setting| ["--set", setting]));
    let ended = tidemill::cli::main(arguments.map(Into::into), Fragile { who });
    let code = (0..=u8::MAX).find(|code| ExitCode::from(*code) == ended).unwrap();
    std::process::exit(code.into());
}

/// Surroundings of which one part fails as soon as it is used.
struct Fragile {
    who: String,
}

fn panic_if(who: &str, it: &str) {
    assert!(who != it, "{it} panics on purpose");
}

/// SIGTERM to this very process.
fn ask_to_stop() {
    let process = std::process::id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &process]).status().unwrap().success());
}

impl Surroundings for Fragile {
    /// A broker with a request in it.
    fn broker(&self, config: &Config) -> Result<Arc<dyn Broker>, CliError> {
        let broker = SimulatedBroker::new(Arc::new(SystemClock::new()), 1).blocking(true);
        for spec in config.topics.specs(false) {
            broker.admin()?.create(&spec)?;
        }
        let mut record = Records::default();
        let value = format!(r#"{{"request_id":"r","tenant_id":"t","model_id":"m","input":[{FATAL}]}}"#);
        record.push(Some(b"t|m"), Some(value.as_bytes()));
        record.push_header(b"model_id", Some(b"m"));
        broker.writer()?.write(&config.topics.requests.name, Some(0), None, record.get(0), 0)?;
        Ok(Arc::new(FragileBroker { inner: broker, who: self.who.clone() }))
    }

    fn backend(&self, _: &Config) -> Result<Arc<dyn Backend>, CliError> {
        let inner = SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]);
        Ok(Arc::new(FragileBackend { inner, who: self.who.clone() }))
    }

    fn models(&self, _: &Config) -> Result<Vec<Candidate>, CliError> {
        let files = SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]).files();
        Ok(files.into_iter().map(|file| Candidate { id: file.id.clone(), file: Ok(file) }).collect())
    }
}

struct FragileBackend {
    inner: SimulatedBackend,
    who: String,
}

struct FragileModel {
    inner: Box<dyn Model>,
    who: String,
    broken: bool,
    asked: bool,
}

impl Backend for FragileBackend {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        let (inner, who) = (self.inner.open(file)?, self.who.clone());
        Ok(Box::new(FragileModel { inner, who, broken: false, asked: false }))
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

impl Model for FragileModel {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        self.broken |= self.who == "broken device" && inputs[0].floats().contains(&FATAL);
        if self.broken {
            if !std::mem::replace(&mut self.asked, true) {
                ask_to_stop();
            }
            return Err(RunError("it is broken on purpose".to_owned()));
        }
        if inputs[0].floats().contains(&FATAL) {
            panic_if(&self.who, "executor");
            if self.who == "stuck model" {
                loop {
                    std::thread::park();
                }
            }
        }
        self.inner.run(rows, inputs, outputs)
    }
}

struct FragileBroker {
    inner: SimulatedBroker,
    who: String,
}

impl Broker for FragileBroker {
    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(FragileProducer { inner: self.inner.producer(id)?, who: self.who.clone() }))
    }
    fn plain_producer(&self) -> Result<Box<dyn PlainProducer>, BrokerError> {
        self.inner.plain_producer()
    }
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, BrokerError> {
        Ok(Box::new(FragileMember { inner: self.inner.member(group, topic)?, who: self.who.clone() }))
    }
    fn admin(&self) -> Result<Box<dyn Admin>, BrokerError> {
        self.inner.admin()
    }
    fn writer(&self) -> Result<Box<dyn Writer>, BrokerError> {
        self.inner.writer()
    }
    fn read_from(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        isolation: Isolation,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<NextOffset, BrokerError> {
        self.inner.read_from(topic, partition, from, isolation, each)
    }
}

struct FragileProducer {
    inner: Box<dyn Producer>,
    who: String,
}

impl Producer for FragileProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        panic_if(&self.who, "transactions");
        self.inner.begin()
    }
    fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RecordView<'_>,
    ) -> Result<(), BrokerError> {
        self.inner.send(topic, partition, record)
    }
    fn drain(&mut self, wait: Duration) -> Result<bool, BrokerError> {
        self.inner.drain(wait)
    }
    fn send_offsets(
        &mut self,
        topic: &str,
        offsets: &[OffsetCommit],
        token: &GroupToken,
    ) -> Result<(), BrokerError> {
        self.inner.send_offsets(topic, offsets, token)
    }
    fn commit(&mut self) -> Result<(), BrokerError> {
        self.inner.commit()
    }
    fn abort(&mut self) -> Result<(), BrokerError> {
        self.inner.abort()
    }
}

struct FragileMember {
    inner: Box<dyn Member>,
    who: String,
}

impl Member for FragileMember {
    fn poll(&mut self, wait: Duration) -> Option<GroupEvent> {
        self.inner.poll(wait)
    }
    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        panic_if(&self.who, "group");
        self.inner.committed(partitions)
    }
    fn log_ranges(&mut self, partitions: &[Partition]) -> Result<Vec<LogRange>, BrokerError> {
        self.inner.log_ranges(partitions)
    }
    fn assign(&mut self, starts: &[(Partition, NextOffset)]) -> Result<(), BrokerError> {
        self.inner.assign(starts)
    }
    fn queue(&mut self, partition: Partition, wake: Waker) -> Result<Box<dyn Queue>, BrokerError> {
        Ok(Box::new(FragileQueue { inner: self.inner.queue(partition, wake)?, who: self.who.clone() }))
    }
    fn unassign(&mut self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.inner.unassign(partitions)
    }
    fn ownership(&self) -> Arc<dyn Ownership> {
        self.inner.ownership()
    }
    fn leave(&mut self) -> Result<(), BrokerError> {
        self.inner.leave()
    }
}

struct FragileQueue {
    inner: Box<dyn Queue>,
    who: String,
}

impl Queue for FragileQueue {
    fn poll(&mut self, lease: Lease, into: &mut Polled, limit: PollLimit) -> Result<PollEnd, BrokerError> {
        panic_if(&self.who, "worker");
        self.inner.poll(lease, into, limit)
    }
    fn position(&self) -> Option<NextOffset> {
        self.inner.position()
    }
    fn end(&self) -> Option<NextOffset> {
        self.inner.end()
    }
}
