//! A broker of a test's own, which it may stop and start.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::wait::until;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");

/// A broker that stops hands its partitions over first. Where there is nobody to take them, Kafka 4.3 leaves them without a leader, and
/// may then note a transaction as committed without having written a single commit marker: nobody can read past it any more.
const NO_HANDOVER: &str = "controlled.shutdown.enable=false";

/// A broker that ends, and is removed, when this is dropped, and also when the test's process ends in whatever way.
pub(crate) struct OwnBroker {
    state: TempDir,
    /// The script that holds it. It runs until its input is closed.
    holder: Child,
}

impl OwnBroker {
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = state.path().join("told-port");
        let log = std::fs::File::create(state.path().join("script.log")).unwrap();
        let mut command = script();
        command.arg("run").arg("--state").arg(state.path()).arg("--port-file").arg(&port);
        command.args(["--set", NO_HANDOVER, "--", "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut broker = Self { holder: command.spawn().unwrap(), state };
        until("a broker of the test's own", || {
            let ended = broker.holder.try_wait().unwrap();
            assert!(ended.is_none(), "the broker did not start: {}", broker.script_log());
            port.exists().then_some(())
        });
        broker
    }

    fn script_log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("script.log")).unwrap_or_default()
    }

    /// Its address, the same after each start.
    pub(crate) fn bootstrap(&self) -> String {
        let port = std::fs::read_to_string(self.state.path().join("told-port")).unwrap();
        format!("127.0.0.1:{}", port.trim())
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
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}
