//! Decoding requests: ours beside `serde_json` with derived types, and raw tensors beside both.
//!
//! One thread, in turns of a few milliseconds, so that what else the machine does meets both alike; figures are medians of the turns, and
//! ratios those of neighbouring turns.
//!
//! Bar: at least 1.8 times the rate of `serde_json` on each request of 784 floats.

use std::hint::black_box;
use std::time::Duration;

use operators::clock::{Clock, SystemClock};
use operators::codec::{json, x_tensor};
use serde_json::{Value, json};

use crate::figures::{median, thousandth};
use crate::given::{request, tensor};
use crate::typed::Request;

const BAR: f64 = 1.8;

/// Floats, and how each is written: with so many decimals, or as Python writes an `f32` that became a float there.
const SHAPES: [(usize, Option<usize>); 5] =
    [(16, Some(4)), (16, Some(9)), (784, Some(4)), (784, Some(9)), (784, None)];

const TURNS: usize = 400;
const TURN: Duration = Duration::from_millis(5);

/// Runs everything, and returns the figures of each request, and last those of all.
pub(crate) fn run() -> Vec<Value> {
    let clock = SystemClock::new();
    let mut figures: Vec<Value> =
        SHAPES.iter().map(|(floats, decimals)| beside(&clock, *floats, *decimals)).collect();
    let least = figures
        .iter()
        .filter(|point| point["floats"] == 784)
        .filter_map(|point| point["of_serde_json"].as_f64());
    let least = least.fold(f64::INFINITY, f64::min);
    figures.push(json!({ "name": "decode", "of_serde_json_784": least, "met": least >= BAR }));
    figures.iter().for_each(|point| eprintln!("{point}"));
    figures
}

fn beside(clock: &dyn Clock, floats: usize, decimals: Option<usize>) -> Value {
    let value = request("mlp-16", floats, decimals);
    let (mut values, mut text) = (Vec::new(), String::new());
    let mut ours = || {
        values.clear();
        text.clear();
        let request =
            json::decode(black_box(value.as_bytes()), floats, &mut values, &mut text).expect("a request");
        assert_eq!(request.floats, floats);
        black_box((&values, &text));
    };
    let mut theirs = || {
        let request: Request<'_> = serde_json::from_slice(black_box(value.as_bytes())).expect("a request");
        assert_eq!(request.input.len(), floats);
        black_box(&request.input);
    };
    let records = tensor(floats);
    let (mut raw, mut raw_text) = (Vec::new(), String::new());
    let mut tensor = || {
        raw.clear();
        raw_text.clear();
        let request =
            x_tensor::decode(black_box(records.get(0)), &mut raw, &mut raw_text).expect("a request");
        assert_eq!(request.floats, floats);
        black_box((&raw, &raw_text));
    };
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push([nanos(clock, &mut ours), nanos(clock, &mut theirs), nanos(clock, &mut tensor)]);
    }
    let column = |place: usize| median(turns.iter().map(|turn| turn[place]).collect()).round();
    let name = decimals.map_or_else(|| "17 digits".to_owned(), |decimals| format!("{decimals} decimals"));
    json!({
        "name": format!("{floats} floats, {name}"),
        "floats": floats,
        "bytes": value.len(),
        "ours_ns": column(0),
        "serde_json_ns": column(1),
        "x_tensor_ns": column(2),
        "of_serde_json": thousandth(median(turns.iter().map(|[ours, theirs, _]| theirs / ours).collect())),
    })
}

/// What one call takes, over a turn of them.
fn nanos(clock: &dyn Clock, call: &mut dyn FnMut()) -> f64 {
    let (start, mut calls) = (clock.now(), 0_u32);
    loop {
        // The clock is not asked each time.
        (0..16).for_each(|_| call());
        calls += 16;
        let took = clock.now().since(start);
        if took >= TURN {
            return took.as_secs_f64() * 1e9 / f64::from(calls);
        }
    }
}
