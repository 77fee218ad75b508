//! The binary `tidemill`: the command line in the real world.

use std::process::ExitCode;

/// Blocks and batches are made and dropped on different threads all the time, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::cli::main(std::env::args_os(), tidemill::surroundings::Real)
}
