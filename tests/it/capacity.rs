//! `tidemill capacity` of a recorded trace: what is said, in which form, and how it ends.

use std::path::Path;

use dataflows::capacity::sums::{Line, Tally};
use dataflows::capacity::tick::{CellTick, Cost, ModelSetup, ModelTick, PartitionTick};
use dataflows::capacity::{Setup, Tick};
use tidemill::capacity::{setup_line, tick_line};

use crate::cli::{folder, run, tidemill};

/// A minute of one executor whose batches of 64 take 34 ms: 1,882 a second. Of the first partition's requests so many come a second.
fn trace(comes: i64) -> String {
    let model = ModelSetup {
        id: "m".to_owned(),
        devices: vec![0],
        size_max: 64,
        delay_millis: Some(50.0),
        slo_millis: None,
        weight: 1,
    };
    let setup = Setup {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        partitions: 2,
        executors: 1,
        devices: 1,
        models: vec![model],
        ..Setup::default()
    };
    let mut text = setup_line(&setup);
    for second in 0..60 {
        let done = comes.min(1_700);
        let mut batches = Line::default();
        (0..(done + 100) / 64).for_each(|_| batches.add(Line::point(64, 34_000)));
        let state = |partition, comes: i64, done: i64| PartitionTick {
            partition,
            end: Some(comes * second),
            committed: Some(done * second),
            ..PartitionTick::default()
        };
        let cell = |partition, tenant: &str, records| CellTick {
            partition,
            model: "m".to_owned(),
            tenant: tenant.to_owned(),
            tally: Tally { records, excess: 0, bytes: 0 },
        };
        text += &tick_line(&Tick {
            at_millis: 1_800_000_000_000 + second * 1_000,
            millis: 1_000,
            partitions: vec![state(0, comes, done), state(1, 100, 100)],
            cells: vec![cell(0, "<hot>\u{1b}", done * 9 / 10), cell(0, "b", done / 10), cell(1, "c", 100)],
            models: vec![ModelTick {
                model: "m".to_owned(),
                batches,
                cost: Some(Cost { fixed: 2_000.0, row: 500.0, efficient: 64 }),
                ..ModelTick::default()
            }],
            ..Tick::default()
        });
    }
    text
}

fn capacity(folder: &Path, text: &str, args: &[&str]) -> (i32, String, String) {
    std::fs::write(folder.join("trace.jsonl"), text).unwrap();
    let mut command = tidemill(folder);
    command.args(["capacity", "--trace", "trace.jsonl"]).args(args);
    run(command)
}

#[test]
fn a_load_that_is_borne_exits_with_zero_and_one_that_is_not_with_three() {
    let folder = folder("");
    let (code, stdout, stderr) = capacity(folder.path(), &trace(600), &[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("no partition will be more than 60 s behind"), "{stdout}");

    let (code, stdout, stderr) = capacity(folder.path(), &trace(2_500), &[]);
    assert_eq!((code, stderr.as_str()), (3, ""), "{stdout}");
    for part in ["SKEWED", "|m", "never", "advice: move the tenant", "a batch takes"] {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    // A tenant's name comes from strangers: none of it is an order to the terminal.
    assert!(!stdout.contains('\u{1b}'), "{stdout}");
}

#[test]
fn changes_are_thought_through_and_told_as_json_too() {
    let folder = folder("");
    let args = ["--json", "--what-if", "load=+200%", "--what-if", "load=+200%,executors=4"];
    let (code, stdout, _) = capacity(folder.path(), &trace(600), &args);
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let missed = |report: &serde_json::Value| {
        let partitions = report["partitions"].as_array().unwrap();
        partitions.iter().filter(|partition| !partition["missed_in"].is_null()).count()
    };
    assert_eq!((code, missed(&object["report"])), (0, 0), "{stdout}");
    assert_eq!(missed(&object["cases"][0]["report"]), 1, "{stdout}");
    assert_eq!(missed(&object["cases"][1]["report"]), 0, "{stdout}");
    let (code, stdout, _) = capacity(folder.path(), &trace(600), &["--what-if", "load=+200%"]);
    assert!(code == 0 && stdout.contains("load=+200%"), "{stdout}");
}

#[test]
fn how_long_requests_would_take_is_told_of_a_replay_of_them() {
    let folder = folder("");
    let args = ["--json", "--what-if", "batch.delay_max=5ms", "--what-if", "load=+300%"];
    let (_, stdout, _) = capacity(folder.path(), &trace(600), &args);
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let p99 = |report: &serde_json::Value| report["replay"]["models"][0]["p99_millis"]["value"].as_f64();
    let (now, short) = (p99(&object["report"]), p99(&object["cases"][0]["report"]));
    assert!(short < now && short > Some(0.0), "{now:?} {short:?}");
    let oldest = |report: &serde_json::Value| {
        let partitions = report["replay"]["partitions"].as_array().unwrap();
        partitions.iter().filter_map(|one| one["lag_seconds_max"]["value"].as_f64()).fold(0.0, f64::max)
    };
    // 2,800 a second come of which 1,882 could be borne.
    assert!(oldest(&object["report"]) < 1.0 && oldest(&object["cases"][1]["report"]) > 10.0, "{stdout}");
    let (_, stdout, _) = capacity(folder.path(), &trace(600), &args[1..]);
    assert!(stdout.contains("a replay of the 41300 requests"), "{stdout}");
    // Without a case there is nothing that a replay could say and the engine has not measured.
    let (_, stdout, _) = capacity(folder.path(), &trace(600), &["--json"]);
    assert!(!stdout.contains("replay"), "{stdout}");
}

#[test]
fn a_page_needs_nothing_else_and_takes_no_orders_from_names() {
    let folder = folder("");
    let args = ["--html", "page.html", "--what-if", "load=+50%"];
    let (code, ..) = capacity(folder.path(), &trace(2_500), &args);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert_eq!(code, 3);
    for part in [
        "Partition 0: SKEWED",
        "Lag, and its forecast",
        "Who sends where",
        "What a batch takes",
        "What if",
        "<svg",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("&lt;hot&gt;") && !page.contains("<hot>") && !page.contains("src="));
}

#[test]
fn what_can_t_be_read_or_thought_through_exits_with_two_and_says_why() {
    let folder = folder("");
    let broken = trace(600) + "{\"tick\": 1}\n";
    for (text, args, part) in [
        (broken.as_str(), &[][..], "line 62"),
        ("", &[], "does not begin"),
        (&trace(600), &["--what-if", "nonsense"], "is no change"),
        (&trace(600), &["--what-if", "model.m=other"], "of model `other` nothing was seen"),
        (&trace(600), &["--what-if", "processes=-1"], "leave none"),
    ] {
        let (code, stdout, stderr) = capacity(folder.path(), text, args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{part}: {stderr}");
        let stderr = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    let mut command = tidemill(folder.path());
    command.args(["capacity", "--attach", "127.0.0.1:1"]);
    let (code, _, stderr) = run(command);
    assert!(code == 1 && stderr.contains("--attach"), "{stderr}");
    let mut command = tidemill(folder.path());
    command.args(["capacity", "--attach", "127.0.0.1:1,127.0.0.1:2", "--record", "trace.jsonl"]);
    let (code, _, stderr) = run(command);
    assert!(code == 2 && stderr.contains("a trace is of one process"), "{stderr}");
}
