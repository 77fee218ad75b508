//! Pages that have to say what the code does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use operators::catalog::{BatchPolicy, Catalog, Limits, ModelIndex, NotFinite};
use operators::clock::ManualClock;
use operators::dead_letter::{Reason, Stage};
use operators::health::Health;
use operators::lease::Partition;
use operators::model::load::{ModelSettings, load_catalog};
use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use operators::observe::{BatchSeen, CloseReason, LeaseSeen, Observer, RowSeen};
use tidemill::metrics::Metrics;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_page_of_settings_says_what_default_toml_says() {
    let page = root().join("docs/configuration.md");
    let made = tidemill::config::markdown();
    if std::env::var_os("TIDEMILL_REWRITE").is_some() {
        std::fs::write(&page, &made).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == made,
        "docs/configuration.md is out of date: run `TIDEMILL_REWRITE=1 cargo test --test it docs`"
    );
}

/// The first cells of the rows below a headline of docs/operations.md.
fn rows_below(headline: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, below) = page.split_once(&format!("\n## {headline}\n")).expect("the page has this headline");
    let section = below.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(cell, _)| cell.to_owned()).collect()
}

/// One model.
fn catalog() -> Catalog {
    let backend = SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]);
    let settings = |_: &str| ModelSettings {
        output: None,
        inputs: BTreeMap::new(),
        not_finite: NotFinite::Refuse,
        batch: BatchPolicy::Static { size_max: 1, delay_max: Duration::ZERO },
        batch_bytes_max: 1,
        limits: Limits::default(),
        open_bytes_max: None,
        devices: vec![0],
    };
    load_catalog(&backend, backend.found(), &ManualClock::new(), settings).unwrap().catalog
}

/// Every metric, after one of everything was told.
fn metric_names() -> BTreeSet<String> {
    let health = Arc::new(Health::new());
    let metrics = Metrics::new(Arc::new(ManualClock::new()), Arc::clone(&health));
    metrics.serve(&catalog());
    metrics.tell_apart(std::iter::empty(), 1);
    let second = Duration::from_secs(1);
    let row = RowSeen { tenant: "t", queue: second, total: second };
    metrics.batch(&BatchSeen {
        model: ModelIndex(0),
        id: "m",
        closed: CloseReason::Full,
        calls: 1,
        padded: 3,
        inference: second,
        took: second,
        handoff: Some(Duration::from_micros(300)),
        rows: &[row],
    });
    metrics.dead_letter(Reason::Undecodable, Stage::Decode, None);
    metrics.epoch_lag(0, 1);
    metrics.lost(Partition(0), 1);
    metrics.lease(&LeaseSeen {
        partition: Partition(0),
        frontier: 0,
        committed: 0,
        end: Some(1),
        in_flight: 0,
        oldest_millis: Some(0),
    });
    health.set_unready("test", "every condition is shown");
    let name = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        Some(format!("{name}{ending}"))
    };
    metrics.text().lines().filter_map(name).collect()
}

#[test]
fn every_metric_has_a_row_in_operations_md_and_every_row_a_metric() {
    assert_eq!(rows_below("Metrics"), metric_names());
}

/// Every file of ours that can log, up to its tests.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
        }
    }
}

/// The last text between quotes in the arguments of a macro that begin here.
fn last_literal(arguments: &str) -> Option<String> {
    let (mut depth, mut quoted, mut last, mut escaped) = (1, None::<String>, None, false);
    for letter in arguments.chars() {
        match (&mut quoted, letter) {
            (Some(text), _) if escaped => {
                text.push(letter);
                escaped = false;
            }
            (Some(_), '\\') => escaped = true,
            (Some(_), '"') => last = quoted.take(),
            (Some(text), _) => text.push(letter),
            (None, '"') => quoted = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

/// What is logged as a warning or an error, except texts that come from librdkafka.
fn warnings() -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["operators/src", "dataflows/src", "src"] {
        sources(&root().join(folder), &mut files);
    }
    let mut found = BTreeSet::new();
    for (path, text) in files {
        for level in ["warn!(", "error!("] {
            for (place, _) in text.match_indices(level) {
                let message = last_literal(&text[place + level.len()..]);
                let message =
                    message.unwrap_or_else(|| panic!("a {level} without message in {}", path.display()));
                found.extend(Some(message).filter(|message| !message.contains('{')));
            }
        }
    }
    found
}

#[test]
fn every_warning_in_the_log_has_a_row_in_operations_md_and_every_row_a_warning() {
    assert_eq!(rows_below("Warnings and errors in the log"), warnings());
}

#[test]
fn every_test_that_guarantees_md_names_is_there() {
    let page = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let mut files = Vec::new();
    for folder in ["operators", "dataflows/src", "src", "tests"] {
        code(&root().join(folder), &mut files);
    }
    // Names of tests are sentences: with four words or more nothing else is written so.
    let is_test = |word: &&str| {
        word.matches('_').count() > 2
            && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 40, "{named:?}");
    let is_absent = |name: &&&str| {
        let function = format!("fn {name}(");
        !files.iter().any(|text| text.contains(&function))
    };
    let absent: Vec<_> = named.iter().filter(is_absent).collect();
    assert!(absent.is_empty(), "docs/guarantees.md names tests that are not there: {absent:#?}");
}

/// The text of every file of Rust below a folder.
fn code(folder: &Path, found: &mut Vec<String>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            code(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}
