//! The script that brings the broker, in an image with little in it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use super::own::script;

/// Programs that a slim image lacks.
const ABSENT: [&str; 4] = ["pgrep", "pidof", "pkill", "ps"];

/// Links to every program of this machine but those.
fn slim_programs(folder: &Path) {
    let path = std::env::var_os("PATH").unwrap();
    for entry in std::env::split_paths(&path).filter_map(|folder| folder.read_dir().ok()).flatten() {
        let entry = entry.unwrap();
        let (name, link) = (entry.file_name(), folder.join(entry.file_name()));
        if !ABSENT.iter().any(|absent| name == *absent) && !link.is_symlink() {
            symlink(entry.path(), link).unwrap();
        }
    }
}

#[test]
fn a_broker_is_seen_and_ended_without_the_programs_that_a_slim_image_lacks() {
    let (programs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    slim_programs(programs.path());
    let run = |arguments: &[&str]| -> Output {
        let mut command = script();
        command.env("PATH", programs.path()).args(arguments);
        command.arg("--state").arg(state.path()).output().unwrap()
    };
    let started = run(&["start"]);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let process = std::fs::read_to_string(state.path().join("pid")).unwrap();
    let program = Path::new("/proc").join(process.trim()).join("exe");
    let status = run(&["status"]);
    let stopped = run(&["stop"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    let lives = program.read_link().is_ok();
    if lives {
        Command::new("kill").args(["-s", "KILL", process.trim()]).status().unwrap();
    }
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.starts_with("running"), "{status}");
    assert!(!lives, "the broker was not ended");
}
