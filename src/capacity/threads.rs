//! What the threads of this process do, as Linux counts it: on a processor, or ready and waiting for one. Nothing elsewhere.

use std::collections::BTreeMap;
use std::fs;

use dataflows::capacity::tick::{Stage, StageTick};

/// Follows the threads from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Threads {
    before: BTreeMap<u64, Times>,
}

/// Nanoseconds since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    on_cpu: u64,
    ready: u64,
}

impl Threads {
    /// What each stage did since the last look. Of the client's threads only the busiest counts: it is one connection that gives out first.
    pub(super) fn look(&mut self) -> Vec<StageTick> {
        let mut now = BTreeMap::new();
        let mut stages: BTreeMap<Stage, StageTick> = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|id| id.parse::<u64>().ok()) else { continue };
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let Some(stage) = stage_of(read("comm").trim()) else { continue };
            let Some(times) = times(&read("schedstat")) else { continue };
            now.insert(id, times);
            let before = self.before.get(&id).copied().unwrap_or(times);
            let micros =
                |now: u64, before: u64| i64::try_from(now.saturating_sub(before) / 1_000).unwrap_or(i64::MAX);
            let (on_cpu, ready) = (micros(times.on_cpu, before.on_cpu), micros(times.ready, before.ready));
            let seen = stages.entry(stage).or_insert(StageTick { stage, threads: 0, on_cpu: 0, ready: 0 });
            if stage != Stage::Client {
                seen.threads += 1;
                seen.on_cpu += on_cpu;
                seen.ready += ready;
            } else if on_cpu >= seen.on_cpu {
                *seen = StageTick { stage, threads: 1, on_cpu, ready };
            }
        }
        self.before = now;
        stages.into_values().collect()
    }
}

/// The stage of a thread by its name, of which Linux keeps fifteen bytes.
fn stage_of(name: &str) -> Option<Stage> {
    match name {
        _ if name.starts_with("timely:work") => Some(Stage::Worker),
        _ if name.starts_with("executor-") => Some(Stage::Infer),
        "transactions" => Some(Stage::Commit),
        _ if name.starts_with("rdk:") => Some(Stage::Client),
        _ => None,
    }
}

/// Out of `/proc/PID/task/TID/schedstat`.
fn times(text: &str) -> Option<Times> {
    let mut fields = text.split_ascii_whitespace();
    let (on_cpu, ready) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Times { on_cpu, ready })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_known_by_its_name_and_its_times_are_read() {
        assert_eq!(stage_of("timely:work-12"), Some(Stage::Worker));
        assert_eq!(stage_of("executor-0"), Some(Stage::Infer));
        assert_eq!(stage_of("rdk:broker1"), Some(Stage::Client));
        assert_eq!(stage_of("http"), None);
        assert_eq!(times("1200345 900 17\n"), Some(Times { on_cpu: 1_200_345, ready: 900 }));
        assert_eq!(times(""), None);
    }

    #[test]
    fn an_executor_that_works_is_seen() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let work = || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let thread =
                std::thread::Builder::new().name("executor-9".to_owned()).spawn_scoped(scope, work).unwrap();
            let mut threads = Threads::default();
            let has_proc = std::path::Path::new("/proc/self/task").exists();
            // Until it was on a processor at all, however busy the machine is; where there is no `/proc`, nothing is seen.
            let seen = loop {
                let seen = threads.look().into_iter().find(|seen| seen.stage == Stage::Infer);
                if !has_proc || seen.is_some_and(|seen| seen.on_cpu > 0) {
                    break seen.is_some() == has_proc;
                }
            };
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            thread.join().unwrap();
            seen
        });
        assert!(seen);
    }
}
