//! What does the job: the engine or a peer of it, in a process of its own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, Moment, SystemClock};

use super::world::World;
use super::{Failure, Setup, cpu};
use crate::config::Delivery;

/// How long a system may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// What starting up leaves to do is done by then.
const SETTLE: Duration = Duration::from_secs(2);

/// What does the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum System {
    /// `tidemill run`.
    Tidemill {
        /// The binary.
        program: PathBuf,
        /// A command to run it under, with its arguments: `perf record -g -o FILE`.
        under: Option<String>,
    },
    /// A folder with a program `run`, which is told everything in its environment: see `benches/peers/README.md`.
    Peer {
        /// The folder.
        folder: PathBuf,
    },
}

/// A system that runs; ended with SIGKILL where it is not stopped.
pub struct Running {
    child: Child,
    /// The system's process: the child, or the child's child where it runs under something.
    process: u32,
    /// Where the engine tells whether it is ready.
    port: Option<u16>,
}

impl Running {
    /// Starts a system, and waits until it is at rest: the engine until it is ready, any for what starting up leaves to do.
    ///
    /// # Errors
    ///
    /// If it can't be started, or ends by itself, or takes longer than a minute.
    pub fn start(setup: &Setup, world: &World) -> Result<Self, Failure> {
        let mut running = Self::launch(setup, world)?;
        let clock = SystemClock::new();
        while running.port.is_some_and(|port| !is_ready(port)) {
            running.still_runs()?;
            if clock.now().since(Moment::START) > PATIENCE {
                return Err(Failure::Late { what: "starting the engine", limit: PATIENCE });
            }
            thread::sleep(Duration::from_millis(50));
        }
        if let System::Tidemill { under: Some(_), .. } = &setup.system {
            running.process = only_child(running.child.id()).unwrap_or(running.process);
        }
        thread::sleep(SETTLE);
        running.still_runs()?;
        Ok(running)
    }

    /// Starts a system, and waits for nothing.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn launch(setup: &Setup, world: &World) -> Result<Self, Failure> {
        match &setup.system {
            System::Tidemill { program, under } => {
                let port = free_port()?;
                let mut running = Self::spawn(engine(program, under.as_deref(), setup, world, port))?;
                running.port = Some(port);
                Ok(running)
            }
            System::Peer { folder } => {
                let mut command = Command::new(folder.join("run"));
                command.envs(environment(world));
                Self::spawn(command)
            }
        }
    }

    fn spawn(mut command: Command) -> Result<Self, Failure> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|source| Failure::io("start the system", source))?;
        Ok(Self { process: child.id(), child, port: None })
    }

    /// Where the engine tells of itself, if it is one.
    pub fn address(&self) -> Option<String> {
        self.port.map(|port| format!("127.0.0.1:{port}"))
    }

    /// # Errors
    ///
    /// If it has ended.
    pub fn still_runs(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Failure::Ended(status)),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// What is to be told of a failure that may be this system's: that it has ended, if it has.
    pub fn blamed(&mut self, failure: Failure) -> Failure {
        self.still_runs().err().unwrap_or(failure)
    }

    /// CPU time so far, of the process and those that it has started.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        cpu::of_tree(self.process)
    }

    /// SIGKILL, to the process and those that it has started.
    ///
    /// # Errors
    ///
    /// If it can't be sent.
    pub fn kill(mut self) -> Result<(), Failure> {
        self.end().map_err(|source| Failure::io("kill the system", source))
    }

    fn end(&mut self) -> std::io::Result<()> {
        let started: Vec<String> = cpu::tree(self.process).iter().skip(1).map(ToString::to_string).collect();
        self.child.kill()?;
        if !started.is_empty() {
            Command::new("kill").arg("-KILL").args(started).stderr(Stdio::null()).status()?;
        }
        self.child.wait().map(drop)
    }

    /// Stops it gracefully; the most memory that it has held, in bytes.
    ///
    /// # Errors
    ///
    /// If it does not stop within a minute, or not cleanly.
    pub fn stop(mut self) -> Result<u64, Failure> {
        let memory = cpu::memory_max(self.process)?;
        let killed = Command::new("kill").args(["-TERM", &self.process.to_string()]).status();
        killed.map_err(|source| Failure::io("stop the system", source))?;
        let clock = SystemClock::new();
        loop {
            let status =
                self.child.try_wait().map_err(|source| Failure::io("wait for the system", source))?;
            match status {
                Some(status) if status.success() => return Ok(memory),
                Some(status) => return Err(Failure::Ended(status)),
                None if clock.now().since(Moment::START) > PATIENCE => {
                    return Err(Failure::Late { what: "stopping the system", limit: PATIENCE });
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It fails where it has just ended, and then there is nothing to end.
            let _ended = self.end();
        }
    }
}

/// SIGKILL to whatever this process has started and what that has started: for when it is told to end itself. A system left behind would
/// take its share of the machine from all that is measured after it.
pub fn kill_all() {
    let own = std::process::id();
    // Once more, for what was being started meanwhile.
    for _ in 0..2 {
        let started: Vec<String> =
            cpu::tree(own).iter().filter(|id| **id != own).map(ToString::to_string).collect();
        if !started.is_empty() {
            // It fails for those that have ended meanwhile.
            let _ended = Command::new("kill").arg("-KILL").args(started).stderr(Stdio::null()).status();
        }
    }
}

/// How the engine is started.
fn engine(program: &Path, under: Option<&str>, setup: &Setup, world: &World, port: u16) -> Command {
    let mut command = match under.map(str::split_whitespace) {
        Some(mut words) => {
            let mut command = Command::new(words.next().unwrap_or("env"));
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.arg("run");
    if let Some(file) = &setup.file {
        command.arg("--config").arg(file);
    }
    for set in world.sets.iter().chain([&format!("http.address=127.0.0.1:{port}")]) {
        command.args(["--set", set]);
    }
    command
}

/// What a peer is told. Where it was set up it knows by itself, or by `PEER_HOME`.
fn environment(world: &World) -> Vec<(&'static str, String)> {
    let config = &world.config;
    let policy = config.batch_policy_default();
    let delay = match policy {
        operators::catalog::BatchPolicy::Static { delay_max, .. } => delay_max,
        operators::catalog::BatchPolicy::Slo { slo, .. } => slo,
    };
    let delivery = match config.delivery {
        Delivery::ExactlyOnce => "exactly-once",
        Delivery::AtLeastOnce => "at-least-once",
    };
    // A peer may run in a folder of its own.
    let models = std::path::absolute(&config.models.path).unwrap_or_else(|_| config.models.path.clone());
    vec![
        ("PEER_BOOTSTRAP", config.kafka.bootstrap_servers.clone()),
        ("PEER_REQUESTS", config.topics.requests.name.clone()),
        ("PEER_RESULTS", config.topics.results.name.clone()),
        ("PEER_DLQ", config.topics.dlq.name.clone()),
        ("PEER_GROUP", config.kafka.group.clone()),
        ("PEER_INSTANCE", config.kafka.instance.clone()),
        ("PEER_MODELS", models.display().to_string()),
        ("PEER_MODEL_IDS", world.model.id.clone()),
        ("PEER_DELIVERY", delivery.to_owned()),
        ("PEER_THREADS", config.workers.to_string()),
        ("PEER_BATCH_SIZE", policy.size_max().to_string()),
        ("PEER_BATCH_DELAY_MS", delay.as_millis().to_string()),
        ("PEER_COMMIT_INTERVAL_MS", config.commit.interval.as_millis().to_string()),
    ]
}

fn free_port() -> Result<u16, Failure> {
    let found = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|source| Failure::io("find a free port", source))
}

fn is_ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 12];
    let asked = stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer.ends_with(b"200")
}

fn only_child(process: u32) -> Option<u32> {
    cpu::tree(process).get(1).copied()
}
