//! CPU time and memory, as the kernel counts them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::failure::Failure;

/// The unit of times in `/proc/PID/stat`: 100 a second on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process, in user and kernel mode, since it began.
pub(crate) fn of_process(process: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .map_err(|source| Failure::io("read the CPU time of a process", source))?;
    // The name may hold spaces and parentheses: count from behind the last one.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u32 =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

/// The most memory that a process has held, in bytes.
pub(crate) fn memory_max(process: u32) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .map_err(|source| Failure::io("read the memory of a process", source))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Failure::Unexpected("the kernel tells no VmHWM".to_owned()))
}

/// CPU time of the threads of this process, to the nanosecond.
pub(crate) struct Stopwatch {
    threads: BTreeMap<String, u64>,
}

impl Stopwatch {
    /// Starts to measure every thread that is there, and those that come.
    pub(crate) fn start() -> Self {
        Self { threads: threads() }
    }

    /// CPU time since the start, of the threads that are still there.
    pub(crate) fn nanos(&self) -> u64 {
        let spent = threads()
            .into_iter()
            .map(|(thread, now)| now.saturating_sub(self.threads.get(&thread).copied().unwrap_or(0)));
        spent.sum()
    }
}

/// The time that each thread has run for.
fn threads() -> BTreeMap<String, u64> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return BTreeMap::new() };
    let times = tasks.filter_map(|task| {
        let task = task.ok()?;
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = text.split_whitespace().next()?.parse().ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), nanos))
    });
    times.collect()
}
