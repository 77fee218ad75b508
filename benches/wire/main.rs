//! What it would cost to send blocks from one process to another: encodings by themselves, and in a cluster of two processes.
//!
//! ```text
//!   cargo bench --bench wire -- --json FILE
//!   cargo bench --bench wire --features abomonation
//! ```
//!
//! The engine is one process today, and its workers hand each other pointers. This is for the day that they are not, and for the
//! decision how: docs/decisions/0030-wire.md.

#[cfg(feature = "abomonation")]
mod abomonated;
mod cluster;
mod codec;
mod columns;
#[path = "../micro/given.rs"]
#[expect(dead_code, reason = "it is made for more benches than this")]
mod given;

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use operators::block::Block;
use operators::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use self::cluster::{Crossing, Packed};
use self::codec::{Bincode, Wire};
use self::columns::Columnar;

/// Rows of a block.
const ROWS: u32 = 64;

/// Floats of a row.
const FLOATS: [usize; 2] = [16, 784];

/// How often each encoding takes its turn.
const TURNS: usize = 9;

/// How long a turn is.
const TURN: Duration = Duration::from_millis(100);

#[derive(Debug, Parser)]
#[command(name = "wire", about = "Encodings of blocks between two processes")]
struct Args {
    /// Write the figures to a file too, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Be the second process of a cluster: the encoding, the floats of a row, and the addresses of both
    #[arg(long, hide = true, num_args = 4)]
    second: Option<Vec<String>>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// One encoding, and how blocks cross in it.
#[derive(Clone, Copy)]
struct Candidate {
    name: &'static str,
    encode: fn(&Block, &mut Vec<u8>),
    decode: fn(&[u8]) -> Block,
    cross: fn(cluster::Cluster, &Arc<Block>) -> cluster::Crossed,
}

impl Candidate {
    fn of<W: Wire, C: Crossing>() -> Self {
        Self { name: W::NAME, encode: W::encode, decode: W::decode, cross: cluster::run::<C> }
    }

    fn all() -> Vec<Self> {
        vec![
            Self::of::<Bincode, Arc<Block>>(),
            Self::of::<Columnar, Packed<Columnar>>(),
            #[cfg(feature = "abomonation")]
            Self::of::<abomonated::Abomonated, Packed<abomonated::Abomonated>>(),
        ]
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    if let Some(second) = args.second {
        return be_second(&second);
    }
    let mut file = args.json.map(File::create).transpose()?;
    let mut lines = Vec::new();
    for floats in FLOATS {
        let block = given::block(ROWS as usize, floats);
        let candidates = Candidate::all();
        for (candidate, alone) in candidates.iter().zip(alone(&candidates, &block)) {
            let crossed = cross(candidate, floats, &block)?;
            if let Some(file) = &mut file {
                writeln!(file, "{}", figures(candidate.name, floats, &alone, &crossed))?;
            }
            lines.push(line(candidate.name, floats, &alone, &crossed));
        }
    }
    // Not before: timely tells whom it waits for, in between.
    println!(
        "{:<12} {:>6} {:>14} {:>14} {:>10} {:>12} {:>12}",
        "", "", "encode", "decode", "bytes", "rows", "cpu"
    );
    println!(
        "{:<12} {:>6} {:>14} {:>14} {:>10} {:>12} {:>12}",
        "encoding", "floats", "ns a row", "ns a row", "a row", "a second", "ns a row"
    );
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn line(name: &str, floats: usize, alone: &Alone, crossed: &cluster::Crossed) -> String {
    format!(
        "{name:<12} {floats:>6} {:>14.1} {:>14.1} {:>10} {:>12.0} {:>12.1}",
        alone.encode, alone.decode, alone.bytes, crossed.rows_per_second, crossed.cpu_ns_per_row
    )
}

fn figures(name: &str, floats: usize, alone: &Alone, crossed: &cluster::Crossed) -> Value {
    json!({
        "encoding": name,
        "floats": floats,
        "encode_ns_per_row": alone.encode,
        "decode_ns_per_row": alone.decode,
        "wire_bytes_per_row": alone.bytes,
        "cluster_rows_per_second": crossed.rows_per_second,
        "cluster_cpu_ns_per_row": crossed.cpu_ns_per_row,
    })
}

/// An encoding by itself: medians, a row.
struct Alone {
    encode: f64,
    decode: f64,
    bytes: usize,
}

/// Each by itself, in turns, because machines drift.
fn alone(candidates: &[Candidate], block: &Arc<Block>) -> Vec<Alone> {
    let mut encoded: Vec<Vec<u8>> = vec![Vec::new(); candidates.len()];
    let mut times = vec![(Vec::new(), Vec::new()); candidates.len()];
    for _ in 0..TURNS {
        for ((candidate, buffer), (encode, decode)) in candidates.iter().zip(&mut encoded).zip(&mut times) {
            encode.push(turn(|| {
                buffer.clear();
                (candidate.encode)(black_box(block), buffer);
            }));
            assert!(codec::same(&(candidate.decode)(buffer), block), "{} changes a block", candidate.name);
            decode.push(turn(|| {
                black_box((candidate.decode)(black_box(buffer)));
            }));
        }
    }
    let medians = times.into_iter().zip(encoded).map(|((encode, decode), buffer)| Alone {
        encode: median(encode),
        decode: median(decode),
        bytes: buffer.len() / ROWS as usize,
    });
    medians.collect()
}

/// Nanoseconds a row of blocks that are done one after the other.
fn turn(mut block: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    let begun = clock.now();
    let mut rows = 0_u32;
    while clock.now().since(begun) < TURN {
        block();
        rows += ROWS;
    }
    clock.now().since(begun).as_secs_f64() * 1e9 / f64::from(rows)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The median of crossings in this encoding, from this process to one that is started for it.
fn cross(candidate: &Candidate, floats: usize, block: &Arc<Block>) -> io::Result<cluster::Crossed> {
    let runs: io::Result<Vec<_>> = (0..3)
        .map(|_| {
            let cluster = cluster::Cluster::start(candidate.name, floats)?;
            Ok((candidate.cross)(cluster, block))
        })
        .collect();
    let mut runs = runs?;
    runs.sort_by(|a, b| a.cpu_ns_per_row.total_cmp(&b.cpu_ns_per_row));
    Ok(runs.swap_remove(1))
}

/// The second process: it is told which encoding, how many floats, and where both are.
fn be_second(words: &[String]) -> io::Result<()> {
    let [name, floats, addresses @ ..] = words else { return Err(io::ErrorKind::InvalidInput.into()) };
    let floats = floats.parse().map_err(io::Error::other)?;
    let candidate = Candidate::all().into_iter().find(|candidate| candidate.name == name);
    let candidate = candidate.ok_or(io::ErrorKind::InvalidInput)?;
    let crossed = (candidate.cross)(cluster::Cluster::join(addresses), &given::block(ROWS as usize, floats));
    println!("{}", crossed.cpu_nanos);
    Ok(())
}
