//! What sessions take of the memory of a process, on ONNX Runtime: with the arena that they share, and with one for each.
//!
//! A process of its own for each of the two, because what was once taken does not come back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use operators::model::onnx::{OnnxBackend, OnnxConfig, Provider};
use operators::model::{Backend, InputOptions, Model, ModelFile, store};
use serde_json::{Value, json};

/// Sessions of each model, as of so many executors.
const SESSIONS: usize = 6;
/// The sizes of the batches that each session runs, in no order, as they come, and how often it runs all of them.
const SIZES: [usize; 8] = [17, 1, 32, 5, 24, 9, 29, 13];
const ROWS_MAX: usize = 32;
const ROUNDS: usize = 2;
/// A small convolution net over pictures, a recurrent net, and one of embeddings.
const MODELS: [&str; 3] = ["pp-ocr-cls", "silero-vad", "magika"];
const WITHOUT: &str =
    "`eval \"$(scripts/onnxruntime.sh env)\"` and `eval \"$(scripts/real_models.sh env)\"` before";

/// Whose memory is looked at.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Arena {
    /// All sessions share one.
    Shared,
    /// Each session has one.
    Own,
}

/// Runs everything, and returns the figures; or why the runtime or the models are not there.
pub(crate) fn run() -> Result<Vec<Value>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut points = Vec::new();
    for model in MODELS {
        let of = |arena: &str| {
            let mut command = Command::new(&program);
            let output = command.args(["memory", "--arena", arena, "--model", model]).output();
            let output = output.map_err(|error| error.to_string())?;
            let (said, failed) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            said.trim().parse::<f64>().map_err(|_| format!("{model}: {}", failed.trim()))
        };
        let (shared, own) = (of("shared")?, of("own")?);
        let point = json!({
            "name": "memory",
            "model": model,
            "sessions": SESSIONS,
            "rows_max": ROWS_MAX,
            "mb_per_session_shared_arena": shared,
            "mb_per_session_own_arena": own,
        });
        eprintln!("{point}");
        points.push(point);
    }
    Ok(points)
}

/// In a process of its own: prints what a session of a model takes, in megabytes.
pub(crate) fn child(arena: Arena, model: &str) -> Result<Vec<Value>, String> {
    let config = OnnxConfig {
        providers: vec![Provider::Cpu],
        rows_max: ROWS_MAX,
        shared_arena: matches!(arena, Arena::Shared),
        ..OnnxConfig::default()
    };
    let backend = OnnxBackend::new(config).map_err(|error| format!("{error}: run {WITHOUT}"))?;
    let folder = std::env::var_os("TIDEMILL_REAL_MODELS")
        .ok_or_else(|| format!("the models are not there: run {WITHOUT}"))?;
    let file = file(&PathBuf::from(folder), model)?;
    // What the library takes for itself with its first session belongs to none.
    let first = opened(&backend, &file)?;
    let before = resident()?;
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| opened(&backend, &file)).collect::<Result<_, _>>()?;
    let mut outputs = Vec::new();
    for _ in 0..ROUNDS {
        for session in &mut sessions {
            for rows in SIZES {
                let inputs = session.signature().zeros(rows);
                session.run(rows, &inputs, &mut outputs).map_err(|error| error.to_string())?;
            }
        }
    }
    let taken = resident()?.saturating_sub(before);
    drop(first);
    let tenths = taken / SESSIONS as u64 / 100_000;
    println!("{}.{}", tenths / 10, tenths % 10);
    Ok(Vec::new())
}

fn opened(backend: &OnnxBackend, file: &ModelFile) -> Result<Box<dyn Model>, String> {
    backend.open(file).map_err(|error| error.to_string())
}

/// The file of a model, with what its owner would say of its inputs: a chunk of audio has one length and one rate, and a line any width.
fn file(folder: &Path, id: &str) -> Result<ModelFile, String> {
    let found = store::find(folder, store::BYTES_MAX).map_err(|error| error.to_string())?;
    let file =
        found.files.into_iter().find(|file| file.id == id).ok_or_else(|| format!("{id} is not there"))?;
    let inputs = [
        ("silero-vad", "input", InputOptions { shape: Some(vec![576]), ..InputOptions::default() }),
        ("silero-vad", "sr", InputOptions { value: Some(16_000.0), ..InputOptions::default() }),
        ("pp-ocr-cls", "x", InputOptions { sample: Some(vec![3, 48, 192]), ..InputOptions::default() }),
    ];
    let inputs = inputs.into_iter().filter(|(model, ..)| *model == id);
    let inputs: BTreeMap<_, _> = inputs.map(|(_, name, options)| (name.to_owned(), options)).collect();
    Ok(ModelFile { inputs, ..file })
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("the kernel tells no VmRSS")? * 1024)
}
