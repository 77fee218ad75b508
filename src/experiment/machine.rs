//! Where the figures were made: without it they mean nothing.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine, and the commit that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// What the kernel calls its processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// What `git describe` says in the current folder.
    pub commit: String,
}

impl Machine {
    /// Looks at it.
    pub fn look() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"));
        let cpu = model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
        let described = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
        let commit = described.ok().filter(|output| output.status.success());
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            commit: commit.unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}
