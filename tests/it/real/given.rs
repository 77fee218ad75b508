//! What models of other people are given: the same inputs as in `scripts/reference.py`, to the bit, and what Python's onnxruntime has
//! answered to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use operators::model::{InputOptions, ModelFile, store};
use serde_json::Value;

/// The largest difference between two answers that are the same: of floats that were summed up in another order.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// The pitches of the streams that silero-vad hears.
pub(crate) const PITCHES: [u64; 5] = [90, 120, 180, 240, 300];

/// How many chunks of each stream it hears.
pub(crate) const CHUNKS: u64 = 6;

/// Samples of a chunk, the 64 before it included.
pub(crate) const CHUNK_LEN: usize = 576;

/// Axes of a line of text: of its three colours, its height and its width.
pub(crate) const LINE: [usize; 3] = [3, 48, 192];

/// Files whose types magika tells.
pub(crate) const FILES: [&str; 4] = [
    "fn main() {\n    let x: u32 = 5;\n    println!(\"{x}\");\n}\n",
    "{\"a\": [1, 2, 3], \"b\": {\"c\": null}}\n",
    "<html><head><title>x</title></head><body><p>hi</p></body></html>\n",
    "import os\nfor x in range(10):\n    print(x)\n",
];

/// Where the models are.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("TIDEMILL_REAL_MODELS").expect("TIDEMILL_REAL_MODELS is not set: run `make test`").into()
}

/// The file of a model in a folder, with what its owner would say of its inputs.
pub(crate) fn file(folder: &Path, id: &str) -> ModelFile {
    let mut files = store::find(folder, store::BYTES_MAX).unwrap().files.into_iter();
    let file = files.find(|file| file.id == id).unwrap_or_else(|| panic!("{id} is not there"));
    ModelFile { inputs: inputs(id), ..file }
}

/// What the owner of a model would say of its inputs.
pub(crate) fn inputs(id: &str) -> BTreeMap<String, InputOptions> {
    let said: &[(&str, InputOptions)] = match id {
        // A chunk has one length, and all audio is sampled at one rate. That the batch is the second axis of the state, its name tells.
        "silero-vad" => &[
            ("input", InputOptions { shape: Some(vec![CHUNK_LEN]), ..InputOptions::default() }),
            ("sr", InputOptions { value: Some(16_000.0), ..InputOptions::default() }),
        ],
        // Lines may have any width.
        "pp-ocr-cls" => &[("x", InputOptions { sample: Some(LINE.to_vec()), ..InputOptions::default() })],
        _ => &[],
    };
    said.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect()
}

/// What Python's onnxruntime has answered: of each row, the numbers of each output.
pub(crate) fn expected(id: &str) -> Vec<BTreeMap<String, Vec<f64>>> {
    let mut all: BTreeMap<String, Value> = serde_json::from_str(include_str!("expected.json")).unwrap();
    serde_json::from_value(all.remove(id).unwrap()).unwrap()
}

/// How far two answers are apart.
pub(crate) fn distance(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
}

/// Numbers of no pattern in -1..1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 + seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(i16::try_from(state >> 49).unwrap()) / 16_384.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A chunk of a buzz whose pitch rises, with the 64 samples before it.
pub(crate) fn voice(pitch: u64, chunk: u64) -> Vec<f32> {
    let sample = |place: u64| {
        let Some(sample) = place.checked_sub(64) else { return 0.0 };
        let phase = i16::try_from(sample * (pitch + sample / 1024 * 4) % 16_000).unwrap();
        f32::from(phase - 8_000) / 16_384.0
    };
    (chunk * 512..chunk * 512 + 576).map(sample).collect()
}

/// A line of something like text.
pub(crate) fn line(number: usize, upside_down: bool) -> Vec<f32> {
    let [colours, height, width] = LINE;
    let mut image = vec![1.0; height * width];
    for column in (0..width).step_by(12) {
        let stroke = (column * 7 + number * 5) % 23 + 8;
        for row in 40 - stroke..40 {
            let thick = if row < 36 { 4 } else { 9 };
            image[row * width + column..][..thick].fill(-1.0);
        }
    }
    if upside_down {
        image.reverse();
    }
    image.repeat(colours)
}

/// The first and the last 1,024 bytes of a file, as magika wants them: a missing byte is 256.
pub(crate) fn beginning_and_end(text: &str) -> Vec<i32> {
    let file = text.repeat(8).into_bytes();
    let file = &file[..file.len().min(1024)];
    let missing = vec![256; 1024 - file.len()];
    let bytes = || file.iter().copied().map(i32::from);
    bytes().chain(missing.iter().copied()).chain(missing.iter().copied()).chain(bytes()).collect()
}
