//! A broker of a test's own, which it may stop and start.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use tempfile::TempDir;

use super::proxy::Proxy;
use super::wait::until;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");

/// A broker that stops hands its partitions over first. Where there is nobody to take them, Kafka 4.3 leaves them without a leader, and
/// may then note a transaction as committed without having written a single commit marker: nobody can read past it any more.
const NO_HANDOVER: &str = "controlled.shutdown.enable=false";

/// A broker that ends, and is removed, when this is dropped, and also when the test's process ends in whatever way.
pub(crate) struct OwnBroker {
    state: TempDir,
    nodes: usize,
    /// The script that holds it. It runs until its input is closed.
    holder: Child,
}

impl OwnBroker {
    pub(crate) fn start() -> Self {
        Self::start_with(1, &[], None)
    }

    /// Starts a broker of so many nodes with these settings besides, written `key=value`, and the proxy before it.
    pub(crate) fn start_with(nodes: usize, settings: &[&str], proxy: Option<&Proxy>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = state.path().join("told-port");
        let log = std::fs::File::create(state.path().join("script.log")).unwrap();
        let mut command = script();
        command.arg("run").arg("--state").arg(state.path()).arg("--port-file").arg(&port);
        command.args(["--nodes", &nodes.to_string()]);
        if let Some(proxy) = proxy {
            let ports: Vec<String> = proxy.ports().iter().map(u16::to_string).collect();
            command.args(["--proxy", &ports.join(",")]);
        }
        for setting in settings.iter().chain(&[NO_HANDOVER]) {
            command.args(["--set", setting]);
        }
        command.args(["--", "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut broker = Self { holder: command.spawn().unwrap(), state, nodes };
        until("a broker of the test's own", || {
            let ended = broker.holder.try_wait().unwrap();
            assert!(ended.is_none(), "the broker did not start: {}", broker.script_log());
            port.exists().then_some(())
        });
        if let Some(proxy) = proxy {
            proxy.lead_to(&broker.recall("behind"));
        }
        broker
    }

    fn script_log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("script.log")).unwrap_or_default()
    }

    /// The folder in which the script keeps what it knows of a node, counted from 0.
    fn folder(&self, node: usize) -> PathBuf {
        if self.nodes == 1 {
            self.state.path().to_owned()
        } else {
            self.state.path().join(format!("node-{}", node + 1))
        }
    }

    /// A number that the script keeps of each node.
    fn recall<T: FromStr<Err: Debug>>(&self, name: &str) -> Vec<T> {
        let file = |node| std::fs::read_to_string(self.folder(node).join(name)).unwrap();
        (0..self.nodes).map(|node| file(node).trim().parse().unwrap()).collect()
    }

    /// Its addresses, the same after each start.
    pub(crate) fn bootstrap(&self) -> String {
        let ports: Vec<u16> = self.recall("port");
        ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Stops it as an operator would; its data stays.
    pub(crate) fn stop(&self) {
        self.run(&["stop", "--keep"]);
    }

    /// Ends it at once; its data stays.
    pub(crate) fn kill(&self) {
        self.run(&["kill"]);
    }

    /// Starts it with the data that it had.
    pub(crate) fn start_again(&self) {
        self.run(&["start"]);
    }

    /// Ends one of its nodes at once, counted from 0; its data stays.
    pub(crate) fn kill_node(&self, node: usize) {
        self.run_for(node, "kill");
    }

    /// Starts one of its nodes with the data that it had.
    pub(crate) fn start_node(&self, node: usize) {
        self.run_for(node, "start");
    }

    fn run_for(&self, node: usize, command: &str) {
        if self.nodes == 1 {
            self.run(&[command]);
        } else {
            self.run(&[command, "--node", &(node + 1).to_string()]);
        }
    }

    /// From now on no file of this node may be larger than a few KiB: every further write of it fails, as on a disk that is full. Its
    /// next start knows nothing of that. Without the program for it, says so.
    pub(crate) fn fill_disk(&self, node: usize) -> Result<(), String> {
        let process: u32 = self.recall("pid")[node];
        let status = Command::new("prlimit").args(["--pid", &process.to_string(), "--fsize=4096"]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("prlimit failed: {status}")),
            Err(error) => Err(format!("prlimit: {error}")),
        }
    }

    /// What its nodes have logged since their last start, each with a name. The file `data` beside it names the node's data folder.
    pub(crate) fn logs(&self) -> Vec<(String, PathBuf)> {
        let log = |node| (format!("node-{node}.log"), self.folder(node).join("broker.log"));
        (0..self.nodes).map(log).collect()
    }

    fn run(&self, arguments: &[&str]) {
        let state: PathBuf = self.state.path().into();
        let output = script().args(arguments).arg("--state").arg(state).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The script, with nothing of the broker that the tests share.
pub(crate) fn script() -> Command {
    let mut command = Command::new(SCRIPT);
    command.env_remove("TIDEMILL_BOOTSTRAP").env_remove("TIDEMILL_KAFKA_STATE").stdin(Stdio::null());
    command
}

impl Drop for OwnBroker {
    /// A test that fails shows the end of what the nodes have logged.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, path) in self.logs() {
                let log = std::fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("---- {name}\n{}", lines[lines.len().saturating_sub(10)..].join("\n"));
            }
        }
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}
