//! One arena for the memory of all sessions on the CPU. Each would have its own, as large as its largest batch ever needed, though only as
//! many run at once as there are executors.

#![allow(
    unsafe_code,
    reason = "the bindings can make sessions use such an allocator, and can't make one; the block says why it is sound"
)]

use std::ptr;

use ort::AsPointer as _;
use ort::environment::Environment;
use ort::sys::{OrtAllocatorType, OrtMemType};

/// Makes an arena in the environment, which lives as long as that: `SessionBuilder::with_env_allocators` makes a session use it.
pub(super) fn share(environment: &Environment) -> ort::Result<()> {
    let (api, mut cpu) = (ort::api(), ptr::null_mut());
    // SAFETY: the environment is alive, because it is borrowed, and the library changes it under a lock of its own. What says where the memory
    // is was made by the first call, is read by the second, and released when nobody needs it any more; a null configuration means
    // the library's defaults.
    unsafe {
        let made = (api.CreateCpuMemoryInfo)(
            OrtAllocatorType::OrtArenaAllocator,
            OrtMemType::OrtMemTypeDefault,
            &raw mut cpu,
        );
        ort::Error::result_from_status(made)?;
        let shared = (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), cpu, ptr::null());
        (api.ReleaseMemoryInfo)(cpu);
        ort::Error::result_from_status(shared)
    }
}
