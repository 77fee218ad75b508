//! How often the whole engine asks for memory, a record, between the broker and the broker.
//!
//! The engine runs in a process of its own, which is this bench once more, with an allocator that counts. What C libraries ask for is not
//! counted: ONNX Runtime, the member of the group, LZ4.

use std::alloc::System;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tidemill::experiment::count::count;
use tidemill::experiment::drain::drain_watched;
use tidemill::experiment::system::System as Engine;
use tidemill::experiment::{Failure, Setup, World};

use crate::figures::Figures;

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Names the file into which an engine of this program writes its counts.
const COUNTS: &str = "TIDEMILL_BENCH_COUNTS";

/// How often it does.
const TOLD: Duration = Duration::from_millis(20);

/// Runs the engine instead of the bench, if that is asked for.
pub(crate) fn as_engine() -> Option<ExitCode> {
    let path = PathBuf::from(std::env::var_os(COUNTS)?);
    thread::spawn(move || {
        loop {
            let seen = COUNTING.stats();
            let (times, bytes) = (seen.allocations + seen.reallocations, seen.bytes_allocated);
            // Whole or not at all, for whoever reads it.
            let written = path.with_extension("new");
            let told = File::create(&written).and_then(|mut file| write!(file, "{times} {bytes}"));
            if told.and_then(|()| std::fs::rename(&written, &path)).is_err() {
                return;
            }
            thread::sleep(TOLD);
        }
    });
    Some(tidemill::cli::main(std::env::args_os(), tidemill::surroundings::Real))
}

pub(crate) fn run(
    setup: &Setup,
    name: &'static str,
    model: &str,
    row_len: usize,
    requests: u64,
) -> Result<Figures, Failure> {
    let io = |source| Failure::io("count what the engine asks for", source);
    let folder = tempfile::tempdir().map_err(io)?;
    let path = folder.path().join("counts");
    let program = std::env::current_exe().map_err(io)?;
    let under = Some(format!("env {COUNTS}={}", path.display()));
    let setup = Setup { system: Engine::Tidemill { program, under }, ..setup.clone() };
    let world = World::of_model(&setup, name, model, row_len)?;
    let look = || {
        // What was written last may be older than what is asked about.
        thread::sleep(3 * TOLD);
        read(&path).map_err(io)
    };
    let (drained, [before, after]) = drain_watched(&setup, &world, requests, look)?;
    let count = count(&world, drained.requests)?;
    #[expect(clippy::cast_precision_loss, reason = "it is a mean")]
    let each = |before: u64, after: u64| Some((after - before) as f64 / requests as f64);
    Ok(Figures {
        name,
        payload_floats: Some(row_len),
        records: requests,
        allocations_per_record: each(before.0, after.0),
        allocated_bytes_per_record: each(before.1, after.1),
        rss_bytes: drained.memory,
        lost: count.lost,
        duplicated: count.duplicated,
        dead_letters: count.dead_letters,
        ..Figures::default()
    })
}

/// How often memory was asked for, and how many bytes of it.
fn read(path: &Path) -> std::io::Result<(u64, u64)> {
    let text = std::fs::read_to_string(path)?;
    let numbers =
        text.split_once(' ').and_then(|(times, bytes)| Some((times.parse().ok()?, bytes.parse().ok()?)));
    numbers.ok_or_else(|| std::io::Error::other(format!("{text:?} are no counts")))
}
