//! Libraries that can't be loaded. They are tried in a process of their own, because a process that has loaded a good one keeps it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::path::Path;
use std::process::Command;

use operators::model::ModelError;
use operators::model::onnx::{OnnxBackend, OnnxConfig};

/// What the engine says of a library that it can't load.
fn refusal(library: &Path) -> String {
    let config = OnnxConfig { library: Some(library.to_owned()), ..OnnxConfig::default() };
    match OnnxBackend::new(config) {
        Err(error @ ModelError::Runtime(_)) => error.to_string(),
        other => panic!("{} is taken for ONNX Runtime: {other:?}", library.display()),
    }
}

/// Compiles a library out of a line of C.
fn library(folder: &Path, source: &str) -> std::path::PathBuf {
    let (code, library) = (folder.join("library.c"), folder.join("library.so"));
    fs::write(&code, source).unwrap();
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &code]).output();
    let output = compiler.expect("a C compiler is needed: install gcc or clang");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn says_what_to_do(refused: &str) {
    assert!(refused.starts_with("could not load ONNX Runtime: "), "{refused}");
    for advice in
        ["set ORT_DYLIB_PATH", "`onnx.library` in the configuration", "`scripts/onnxruntime.sh install`"]
    {
        assert!(refused.contains(advice), "{refused}");
    }
}

#[test]
fn a_library_that_is_absent_is_an_error_that_says_what_to_do() {
    let refused = refusal(Path::new("/nowhere/libonnxruntime.so"));
    assert!(refused.contains("/nowhere/libonnxruntime.so"), "{refused}");
    says_what_to_do(&refused);
}

#[test]
fn a_library_that_is_another_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let refused = refusal(&library(folder.path(), "int nothing(void) { return 0; }"));
    assert!(refused.contains("does not export `OrtGetApiBase`"), "{refused}");
    says_what_to_do(&refused);
}

#[test]
fn a_library_that_is_too_old_is_an_error_that_names_the_version_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let old = "static const void *api(unsigned version) { return 0; } \
               static const char *version(void) { return \"1.17.3\"; } \
               static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {api, version}; \
               const void *OrtGetApiBase(void) { return &base; }";
    let refused = refusal(&library(folder.path(), old));
    assert!(refused.contains("1.17.3") && refused.contains("of version 1.20 or later"), "{refused}");
    says_what_to_do(&refused);
}
