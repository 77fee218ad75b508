//! An engine in a process of its own: `tidemill run`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use super::wait::until;

/// A running engine. It is killed when this is dropped.
pub(crate) struct Engine {
    child: Child,
    log: PathBuf,
}

impl Engine {
    /// Starts `command`, which logs to `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The field of this name in the line that an engine logs when it has ended.
    pub(crate) fn counted(&self, field: &str) -> u64 {
        let log = self.log();
        let line =
            log.lines().find(|line| line.contains("stopped committed=")).expect("it tells how it ended");
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        value.expect("the line has this field").parse().unwrap()
    }

    fn assert_runs(&mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "the engine ended by itself: {ended:?}");
    }

    /// Where it serves metrics and health.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("metrics and health are served"))?;
        line.split_once("address=")?.1.trim().parse().ok()
    }

    /// Status and body of a page, if it can be had.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address()?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The series of a metric of whole numbers, if the page can be had.
    pub(crate) fn series(&self, metric: &str) -> Option<Vec<u64>> {
        let (_, page) = self.page("/metrics")?;
        Some(series_in(&page, metric))
    }

    /// The partitions that it reads, if the page can be had.
    pub(crate) fn partitions(&self) -> Option<BTreeSet<i32>> {
        let (_, page) = self.page("/metrics")?;
        let named = page.lines().filter_map(|line| line.strip_prefix("tidemill_lag_records{partition=\""));
        named.map(|rest| rest.split('"').next()?.parse().ok()).collect()
    }

    /// The sum over the series of a metric; 0 if the page can't be had.
    pub(crate) fn count(&self, metric: &str) -> u64 {
        self.series(metric).unwrap_or_default().iter().sum()
    }

    /// Waits until `metric`, summed, is at least this.
    pub(crate) fn until_at_least(&mut self, metric: &str, least: u64) {
        until(&format!("{metric} to be {least}"), || {
            self.assert_runs();
            (self.count(metric) >= least).then_some(())
        });
    }

    /// Waits until it reads `partitions` partitions and is behind in none.
    pub(crate) fn until_drained(&mut self, partitions: usize) {
        until("the lag to be zero", || {
            self.assert_runs();
            let lags = self.series("tidemill_lag_records")?;
            (lags.len() == partitions && lags.iter().all(|lag| *lag == 0)).then_some(())
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "the signal {name} could not be sent");
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        until("the engine to end", || self.ended())
    }
}

/// The series of a metric of whole numbers in a page.
pub(crate) fn series_in(page: &str, metric: &str) -> Vec<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let ends = rest.starts_with('{') || rest.starts_with(' ');
        ends.then(|| rest.rsplit(' ').next()?.parse().ok())?
    });
    values.collect()
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}
