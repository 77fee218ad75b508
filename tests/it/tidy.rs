//! The house rules that neither the compiler nor clippy can see.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The longest a file and a function may be, in lines: what is longer holds two ideas.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// ARCHITECTURE.md is read in one sitting.
const MAP_LINES_MAX: usize = 450;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the tree below these folders whose name ends so, as paths from the root with their text, in order.
fn files(folders: &[&str], ending: &str) -> Vec<(String, String)> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.to_str().is_some_and(|path| path.ends_with(ending) && !path.contains("/target/")) {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text));
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    files(&["src", "operators", "dataflows", "benches", "tests"], ".rs")
}

/// Each function, as its first line and its number of lines. That it ends with a brace under its first letter is rustfmt's work.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_function = |line: &str| {
        let mut words = line.trim_start().split(' ');
        let known = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
        words.find(|word| !known.contains(word)) == Some("fn")
    };
    let body = |first: usize| {
        let indent = lines[first].len() - lines[first].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let one_line = lines[first].ends_with('}') || lines[first].ends_with(';');
        let length = if one_line { 1 } else { 1 + lines[first..].iter().position(|line| *line == end)? };
        Some((lines[first], length))
    };
    (0..lines.len()).filter(|&line| is_function(lines[line])).filter_map(body).collect()
}

#[test]
fn each_file_says_what_it_is_for_and_holds_one_idea() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//! ") {
            faults.push(format!("{path}: does not begin with a line that says what it is for"));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{path}: {lines} lines, {FILE_LINES_MAX} at most"));
        }
        for (function, lines) in functions(&text) {
            if lines > FUNCTION_LINES_MAX {
                faults.push(format!(
                    "{path}: {lines} lines, {FUNCTION_LINES_MAX} at most: {}",
                    function.trim()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_length_of_a_function_is_measured() {
    let text = "fn one() {}\nimpl A {\n    pub(crate) const fn two(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n}\nlet fn_ = 1;\n";
    assert_eq!(functions(text), [("fn one() {}", 1), ("    pub(crate) const fn two(", 5)]);
}

#[test]
fn the_code_map_names_every_file_and_no_other() {
    let page = |path| std::fs::read_to_string(root().join(path)).unwrap();
    let pages = ["ARCHITECTURE.md", "tests/README.md", "benches/README.md"].map(page);
    let map =
        |page: &'_ str| page.split_once("\n## Code map\n").expect("the page has a code map").1.to_owned();
    let maps = pages.each_ref().map(|page| map(page)).concat();
    let mapped: BTreeSet<&str> = maps.lines().filter_map(|line| line.split(' ').next()).collect();
    let mapped: BTreeSet<&str> = mapped.into_iter().filter(|word| word.contains('/')).collect();
    // Whose tests a `tests.rs` has, its folder says.
    let is_named = |path: &str| !path.ends_with("/tests.rs");
    let sources = sources();
    let scripts = [files(&["scripts"], ".sh"), files(&["scripts"], ".py")].concat();
    let there: BTreeSet<&str> =
        sources.iter().chain(&scripts).map(|(path, _)| path.as_str()).filter(|path| is_named(path)).collect();
    let unmapped: Vec<&&str> = there.difference(&mapped).collect();
    let gone: Vec<&&str> = mapped.difference(&there).filter(|path| !root().join(path).exists()).collect();
    assert!(
        unmapped.is_empty(),
        "in no code map of ARCHITECTURE.md, tests/README.md or benches/README.md: {unmapped:#?}"
    );
    assert!(gone.is_empty(), "in a code map, but not there: {gone:#?}");
    assert!(pages[0].lines().count() <= MAP_LINES_MAX, "ARCHITECTURE.md has more than {MAP_LINES_MAX} lines");
}

/// The names in a manifest's tables of dependencies.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(manifest)).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = tables.iter().filter_map(|name| table.get(*name)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn dependencies_point_inwards() {
    let operators = dependencies("operators/Cargo.toml");
    assert!(!operators.contains("dataflows") && !operators.contains("tidemill"), "{operators:?}");
    let dataflows = dependencies("dataflows/Cargo.toml");
    assert!(dataflows.contains("operators") && !dataflows.contains("tidemill"), "{dataflows:?}");
    // What configuration, commands and metrics need stays out of the engine.
    for outer in ["clap", "toml", "axum", "tokio", "prometheus-client", "indicatif", "miette"] {
        assert!(
            !operators.contains(outer) && !dataflows.contains(outer),
            "{outer} belongs to the root package"
        );
    }
}

#[test]
fn nothing_names_a_folder_of_one_machine() {
    // Put together here, so that this file does not find itself.
    let homes = ["root", "home", "work", "Users"].map(|name| format!("/{name}/"));
    let folders =
        ["src", "operators", "dataflows", "benches", "tests", "docs", "scripts", ".ci", "README.md"];
    for ending in [".rs", ".md", ".toml", ".sh", ".py", "run"] {
        for (path, text) in files(&folders, ending) {
            for (number, line) in text.lines().enumerate() {
                let named = homes.iter().find(|home| line.contains(*home));
                assert!(named.is_none(), "{path}:{}: {line}", number + 1);
            }
        }
    }
}
