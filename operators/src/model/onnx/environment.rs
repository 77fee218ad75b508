//! The library, loaded once a process.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::model::ModelError;

/// What is loaded.
#[derive(Clone, Debug)]
pub(super) struct Runtime {
    pub(super) library: PathBuf,
    /// For people.
    pub(super) version: String,
    /// What the library says of its build, which no other build says.
    pub(super) build: String,
    pub(super) environment: Environment,
    /// Whether sessions can share the environment's arena.
    pub(super) has_arena: bool,
}

/// ONNX Runtime allows one environment a process, even after the first is gone, so it stays here for good. A library that failed to
/// load leaves this empty: a better one may still be loaded.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The process's runtime, loaded from `library`, else from where `ORT_DYLIB_PATH` says, else from where the system finds it.
pub(super) fn runtime(library: Option<&Path>) -> Result<Runtime, ModelError> {
    let library = absolute(&library.map_or_else(default_library, Path::to_owned));
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*loaded {
        Some(runtime) if runtime.library == library => return Ok(runtime.clone()),
        Some(runtime) => {
            let reason = format!(
                "{} is loaded already, and a process has room for one: {} can't be loaded too",
                runtime.library.display(),
                library.display()
            );
            return Err(ModelError::Runtime(reason));
        }
        None => {}
    }
    let builder = ort::init_from(&library).map_err(|error| with_advice(&error.to_string()))?;
    let environment = builder
        .with_telemetry(false)
        .build()
        .map_err(|error| with_advice(&super::bounded(error.message())))?;
    // Else every line that the library could say is written, and then thrown away.
    environment.set_log_level(LogLevel::Warning);
    let shared = super::arena::share(&environment);
    if let Err(error) = &shared {
        tracing::debug!(%error, "each session has an arena of its own");
    }
    let build = ort::info().to_owned();
    let file = library.canonicalize().unwrap_or_else(|_| library.clone());
    let has_arena = shared.is_ok();
    let runtime = Runtime { version: version(&file, &build), build, library, environment, has_arena };
    tracing::info!(library = %runtime.library.display(), version = %runtime.version, "ONNX Runtime loaded");
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

/// The process's environment, made at the first call: what else in the process runs models through ONNX Runtime must share it, because
/// there is room for one.
///
/// # Errors
///
/// If the library can't be loaded, or another one is loaded already.
pub fn environment(library: Option<&Path>) -> Result<Environment, ModelError> {
    runtime(library).map(|runtime| runtime.environment)
}

fn default_library() -> PathBuf {
    let named = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    named.map_or_else(
        || format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX).into(),
        PathBuf::from,
    )
}

/// A bare name is left for the system's loader to find. Any other relative path is relative to the current folder, where `ort` would
/// try the executable's first.
fn absolute(library: &Path) -> PathBuf {
    let bare = library.parent().is_some_and(|parent| parent.as_os_str().is_empty());
    if bare {
        return library.to_owned();
    }
    std::path::absolute(library).unwrap_or_else(|_| library.to_owned())
}

fn with_advice(reason: &str) -> ModelError {
    ModelError::Runtime(format!(
        "{reason}; set ORT_DYLIB_PATH, or `onnx.library` in the configuration, to a libonnxruntime of version 1.{} or later, or run \
         `scripts/onnxruntime.sh install`",
        ort::MINOR_VERSION
    ))
}

/// The library's version: from the end of its file's name (`libonnxruntime.so.1.31.1`), else from the branch that it was built from
/// (`rel-1.31.1`), else what it says of its build.
fn version(file: &Path, build: &str) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let of_file = name.split_once(".so.").map(|(_, version)| version);
    let of_branch = build.split(['=', ',', ' ']).find_map(|word| word.strip_prefix("rel-"));
    of_file.or(of_branch).map_or_else(|| super::bounded(build), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_file_or_the_branch_and_else_the_build_is_shown() {
        let own = "ORT Build Info: git-branch=HEAD, git-commit-id=6af1a93, build type=Release";
        let released = "ORT Build Info: git-branch=rel-1.20.1, git-commit-id=26250ae, build type=Release";
        assert_eq!(version(Path::new("/opt/libonnxruntime.so.1.31.1"), own), "1.31.1");
        assert_eq!(version(Path::new("/opt/libonnxruntime.so"), released), "1.20.1");
        assert_eq!(version(Path::new("/opt/libonnxruntime.so"), own), own);
    }

    #[test]
    fn only_a_bare_name_is_left_to_the_loader() {
        assert_eq!(absolute(Path::new("libonnxruntime.so")), Path::new("libonnxruntime.so"));
        assert!(absolute(Path::new("lib/libonnxruntime.so")).is_absolute());
        assert_eq!(absolute(Path::new("/opt/x.so")), Path::new("/opt/x.so"));
    }
}
