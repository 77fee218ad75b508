//! Which TensorRT there is: an engine that one version has built is of no use to another.

#![allow(unsafe_code, reason = "TensorRT is asked through a C function; every block says why it is sound")]

use std::ffi::OsStr;
use std::sync::OnceLock;

use libloading::{Library, Symbol};

/// What the library is called, the newest that ONNX Runtime is built for first.
const NAMES: [&str; 3] = ["libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so"];

/// The number by which the installed library calls itself; `None` if there is none.
pub(super) fn version() -> Option<i32> {
    static VERSION: OnceLock<Option<i32>> = OnceLock::new();
    *VERSION.get_or_init(|| NAMES.iter().find_map(version_of))
}

fn version_of(name: impl AsRef<OsStr>) -> Option<i32> {
    // SAFETY: what a library does when it is loaded is as trusted as it is in ONNX Runtime, which loads the same one next. The function is
    // declared so in NvInferRuntimeBase.h: it takes nothing, and returns an int.
    unsafe {
        let library = Library::new(name.as_ref()).ok()?;
        let ask: Symbol<'_, unsafe extern "C" fn() -> i32> = library.get(b"getInferLibVersion\0").ok()?;
        let version = ask();
        // It stays, because ONNX Runtime needs it anyway, and not every library bears to be loaded twice.
        std::mem::forget(library);
        Some(version)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A library made of this.
    fn library(folder: &tempfile::TempDir, name: &str, source: &str) -> std::path::PathBuf {
        let (text, made) = (folder.path().join(format!("{name}.c")), folder.path().join(name));
        std::fs::write(&text, source).unwrap();
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&made).arg(&text).status();
        assert!(status.unwrap().success());
        made
    }

    #[test]
    fn a_library_says_which_version_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let made = library(&folder, "libnvinfer.so.10", "int getInferLibVersion(void) { return 100300; }");
        assert_eq!(version_of(made), Some(100_300));
        let another = library(&folder, "libother.so", "int other(void) { return 1; }");
        assert_eq!(version_of(another), None);
        assert_eq!(version_of(folder.path().join("libmissing.so")), None);
    }
}
