//! Instructions, as callgrind counts them: this program once more, with one piece to do, on a processor that valgrind simulates.

use std::process::{Command, Stdio};

/// Whether there is a valgrind.
pub(crate) fn is_there() -> bool {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// The instructions of all rounds of a piece.
pub(crate) fn instructions(piece: &str) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        // Counting begins and ends with the function of this name.
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*pieces::measured*"])
        .arg(program)
        .args(["--piece", piece])
        .output()
        .map_err(|error| format!("valgrind could not be started: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected =
        told.lines().find_map(|line| line.rsplit_once("Collected :")?.1.trim().parse::<u64>().ok());
    match collected {
        Some(count) if output.status.success() && count > 0 => Ok(count),
        _ => Err(format!("valgrind counted nothing of {piece:?}:\n{told}")),
    }
}
