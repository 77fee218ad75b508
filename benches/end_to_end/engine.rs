//! The engine: `tidemill run`, in a process of its own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use operators::clock::{Clock as _, SystemClock};

use crate::cpu;
use crate::failure::Failure;
use crate::world::{ROOT, Setup, World};

/// How long the engine may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// What starting up leaves to do is done by then.
const SETTLE: Duration = Duration::from_secs(2);

/// A running engine; ended with SIGKILL where it is not stopped.
pub(crate) struct Engine {
    child: Child,
    /// The engine's process: the child, or the child's child where it runs under something.
    process: u32,
}

impl Engine {
    /// Starts an engine, and waits until it is ready and at rest.
    pub(crate) fn start(setup: &Setup, world: &World) -> Result<Self, Failure> {
        let port = free_port()?;
        let tidemill = env!("CARGO_BIN_EXE_tidemill");
        let mut words = setup.under.iter().flat_map(|under| under.split_whitespace()).chain([tidemill]);
        let mut command = Command::new(words.next().unwrap_or(tidemill));
        command.args(words).args(["run", "--config"]).arg(format!("{ROOT}/tidemill.toml"));
        for set in world.sets.iter().chain([&format!("http.address=127.0.0.1:{port}")]) {
            command.args(["--set", set]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|source| Failure::io("start the engine", source))?;
        let mut engine = Self { process: child.id(), child };
        let clock = SystemClock::new();
        while !is_ready(port) {
            if let Ok(Some(status)) = engine.child.try_wait() {
                return Err(Failure::Ended(status));
            }
            if clock.now().nanos() > u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX) {
                return Err(Failure::Late { what: "starting the engine", limit: PATIENCE });
            }
            thread::sleep(Duration::from_millis(50));
        }
        if setup.under.is_some() {
            engine.process = only_child(engine.child.id()).unwrap_or(engine.process);
        }
        thread::sleep(SETTLE);
        Ok(engine)
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu::of_process(self.process)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|source| Failure::io("kill the engine", source))
    }

    /// Stops the engine gracefully; the most memory that it has held, in bytes.
    pub(crate) fn stop(mut self) -> Result<u64, Failure> {
        let memory = cpu::memory_max(self.process)?;
        let killed = Command::new("kill").args(["-TERM", &self.process.to_string()]).status();
        killed.map_err(|source| Failure::io("stop the engine", source))?;
        let status = self.child.wait().map_err(|source| Failure::io("wait for the engine", source))?;
        if status.success() { Ok(memory) } else { Err(Failure::Ended(status)) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It fails where the engine has been stopped, and then there is nothing to end.
        let _ended = self.child.kill().and_then(|()| self.child.wait().map(|_| ()));
    }
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
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
