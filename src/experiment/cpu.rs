//! CPU time and memory, as the kernel counts them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::Failure;

/// The unit of times in `/proc/PID/stat`: 100 a second on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// The fields of `/proc/PID/stat` behind the name, which may hold spaces and parentheses.
fn fields(process: u32) -> std::io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], places: std::ops::Range<usize>) -> u32 {
    fields.get(places).into_iter().flatten().filter_map(|ticks| ticks.parse::<u32>().ok()).sum()
}

/// CPU time of a process, in user and kernel mode, since it began.
///
/// # Errors
///
/// If there is no such process.
pub fn of_process(process: u32) -> Result<Duration, Failure> {
    let fields = fields(process).map_err(|source| Failure::io("read the CPU time of a process", source))?;
    Ok(TICK * ticks(&fields, 11..13))
}

/// The same, of the processes that it has started too, those that have ended and were waited for included.
///
/// # Errors
///
/// If there is no such process.
pub fn of_tree(process: u32) -> Result<Duration, Failure> {
    of_process(process)?;
    let of_each = tree(process).into_iter().filter_map(|process| fields(process).ok());
    Ok(TICK * of_each.map(|fields| ticks(&fields, 11..15)).sum::<u32>())
}

/// A process, and those that it has started, directly or not.
pub fn tree(process: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let parent = fields(id).ok().and_then(|fields| fields.get(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (id, parent)));
    }
    let mut found: Vec<u32> = vec![process];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(id, of)| *of == parent && *id != parent).map(|(id, _)| *id));
        next += 1;
    }
    found
}

/// The most memory that a process and those that it has started have held, in bytes: the sum of what each held at most.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn memory_max(process: u32) -> Result<u64, Failure> {
    let of_one = |process: u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map(|kib| kib * 1024)
    };
    let first = of_one(process).ok_or_else(|| Failure::Unexpected("the kernel tells no VmHWM".to_owned()))?;
    Ok(first + tree(process).into_iter().skip(1).filter_map(of_one).sum::<u64>())
}

/// CPU time of the threads of this process, to the nanosecond.
pub struct Stopwatch {
    threads: BTreeMap<String, u64>,
}

impl Stopwatch {
    /// Starts to measure every thread that is there, and those that come.
    pub fn start() -> Self {
        Self { threads: threads() }
    }

    /// CPU time since the start, of the threads that are still there.
    pub fn nanos(&self) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_process_has_started_counts_with_it() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let mut found = tree(shell.id());
        for _ in 0..500 {
            if found.len() == 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            found = tree(shell.id());
        }
        Command::new("kill").arg(found[1].to_string()).status().unwrap();
        shell.wait().unwrap();
        assert_eq!((found[0], found.len()), (shell.id(), 2));
    }

    #[test]
    fn there_is_no_time_of_a_process_that_is_not_there() {
        assert!(of_process(u32::MAX).is_err());
        assert!(of_tree(std::process::id()).unwrap() >= of_process(std::process::id()).unwrap());
    }
}
