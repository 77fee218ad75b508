//! An experiment on the real broker, by the binary: its figures, its page, and itself beside itself.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tidemill::experiment::cpu;

use super::operator::Cluster;
use super::own::OwnBroker;
use super::rig::shared_broker;
use super::wait::until;

fn tidemill(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(words)
        .output()
        .expect("the binary can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// How many topics there are of an experiment that is run with these words.
fn topics_left(words: &[&str]) -> usize {
    let bench = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(words)
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary can be run");
    let named = format!("bench-{}-", bench.id());
    assert!(bench.wait_with_output().expect("it ends").status.success());
    let topics = Cluster::new(&shared_broker()).topics();
    topics.iter().filter(|topic| topic.starts_with(&named)).count()
}

/// How an experiment of one point, measured once with these words besides, ends, and the line that it tells.
fn told(experiment: &str, words: &[&str]) -> (i32, Value) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("experiment.toml").display().to_string();
    std::fs::write(&file, experiment).expect("the experiment can be written");
    let (code, stdout, stderr) = tidemill(&[&["bench", "run", &file, "--json"], words].concat());
    let line = serde_json::from_str(&stdout);
    (code, line.unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")))
}

/// The line of one that ends well.
fn measured(experiment: &str) -> Value {
    let (code, line) = told(experiment, &[]);
    assert_eq!(code, 0, "{line}");
    line
}

#[test]
fn an_experiment_tells_what_each_point_took_and_that_nothing_was_lost() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let experiment = "title = 'small'\nrepetitions = 1\n[fixed]\nmodel = 'mlp-16'\nrequests = 2000\n\
                      topics.requests.partitions = 4\ntopics.results.partitions = 2\n[sweep]\nworkers = [1, 2]\n";
    std::fs::write(path("small.toml"), experiment).expect("the experiment can be written");
    let (out, html) = (path("small.jsonl"), path("small.html"));
    let (code, stdout, stderr) =
        tidemill(&["bench", "run", &path("small.toml"), "--out", &out, "--html", &html, "--json"]);
    assert_eq!(code, 0, "{stderr}");

    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let figure =
            |name: &str| line["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {line}"));
        assert_eq!((figure("lost"), figure("duplicated"), figure("dead_letters")), (0.0, 0.0, 0.0));
        assert!(figure("records_per_second") > 0.0 && figure("cpu_ns_per_record") > 0.0);
        assert!(figure("floor_cpu_ns_per_record") > 0.0 && figure("engine_tax") > 0.0);
    }
    assert_eq!(lines[1]["point"]["workers"], "2");
    assert_eq!(stdout, std::fs::read_to_string(&out).expect("the figures are there"));
    let page = std::fs::read_to_string(&html).expect("the page is there");
    assert!(page.contains("Universal Scalability Law") && page.contains("workers 2"));

    let plots = path("plots");
    let (code, files, stderr) = tidemill(&["bench", "report", &out, "--plots", &plots]);
    assert_eq!(code, 0, "{stderr}");
    assert!(files.contains("records-a-second-by-workers.svg"), "{files}");
    for file in files.lines() {
        let plot = std::fs::read_to_string(file).expect("it is there");
        assert!(plot.starts_with("<svg"), "{file}");
    }
    let (code, ..) = tidemill(&["bench", "report", &out]);
    assert_eq!(code, 2, "neither a page nor plots are asked for");

    let (code, compared, stderr) = tidemill(&["bench", "compare", &out, &out]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        compared.contains("figures moved beyond the noise") && compared.starts_with("0 of"),
        "{compared}"
    );
}

#[test]
fn an_engine_that_is_killed_in_an_experiment_loses_nothing() {
    // Batches that take their time, so that there is a middle of the backlog to be killed in.
    let experiment = "title = 'killed'\nrepetitions = 1\n[fixed]\nmeasure = 'kill'\nmodel = 'mlp-16'\nrequests = 3000\n\
                      topics.requests.partitions = 4\ntopics.results.partitions = 2\nonnx.executors = 1\n\
                      onnx.pace.row = '1ms'\nkafka.static_membership = true\nin_flight.records_max = 2000\ncommit.records_max = 500\n";
    let line = measured(experiment);
    let figures = &line["figures"];
    for name in ["lost", "duplicated", "wrong", "unexpected"] {
        assert_eq!(figures[name], 0.0, "{name}: {line}");
    }
    assert_eq!(figures["results"], 3000.0);
    assert!(figures["recovery_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

/// A folder with a system that does something wrong, as `scripts/foreign_peer.py` has it.
fn wrong_system(what: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let run = folder.path().join("run");
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/foreign_client.sh");
    let text = format!(
        "#!/usr/bin/env bash\nexec '{client}' peer {what} '{}'\n",
        folder.path().join("was").display()
    );
    std::fs::write(&run, text).expect("it can be written");
    std::fs::set_permissions(&run, Permissions::from_mode(0o755)).expect("it can be made a program");
    folder
}

#[test]
fn what_a_killed_system_that_commits_nothing_does_twice_hides_nothing_of_what_it_still_does() {
    // A half is done twice: as many outcomes as requests are there before each request has one.
    let system = wrong_system("twice");
    let experiment = format!(
        "title = 'twice'\nrepetitions = 1\n[fixed]\nmeasure = 'kill'\nmodel = 'mlp-16'\nrequests = 1000\nsystem = '{}'\n\
         kafka.producer.compression.type = 'none'\ntopics.requests.partitions = 2\ntopics.results.partitions = 1\n",
        system.path().display()
    );
    // It has never seen the model, so that none of its results is right.
    let (code, line) = told(&experiment, &[]);
    let figures = &line["figures"];
    assert_eq!(code, 1, "{line}");
    assert_eq!(["lost", "duplicated"].map(|name| figures[name].as_f64()), [Some(0.0), Some(500.0)], "{line}");
}

#[test]
fn a_drain_by_a_system_that_reads_what_is_not_committed_measures_nothing() {
    let system = wrong_system("early");
    let experiment = format!(
        "title = 'early'\nrepetitions = 1\n[fixed]\nmeasure = 'drain'\nmodel = 'mlp-16'\nrequests = 1000\nsystem = '{}'\n\
         kafka.producer.compression.type = 'none'\ntopics.requests.partitions = 2\ntopics.results.partitions = 1\n",
        system.path().display()
    );
    let (code, line) = told(&experiment, &[]);
    let error = line["error"].as_str().unwrap_or_default();
    assert_eq!(code, 1, "{line}");
    assert!(
        error.contains("before they were committed") && line["figures"]["records_per_second"].is_null(),
        "{line}"
    );
}

/// What leaves topics behind, and little else.
const LEFT: &str = "title = 'left'\nrepetitions = 1\n[fixed]\nmeasure = 'drain'\nmodel = 'mlp-16'\nrequests = 200\nfloor = false\n\
                    topics.requests.partitions = 2\ntopics.results.partitions = 1\n";

/// A search far below what the device bears, so that the highest rate that is asked for is borne, and none is known that is not.
const BORNE: &str = "title = 'sustainable'\nrepetitions = 1\n[fixed]\nmeasure = 'sustainable'\nrate = 200\nwarm_up = '2s'\n\
                     window = '5s'\np99_max = '5s'\nmodel = 'mlp-16'\ntopics.requests.partitions = 2\ntopics.results.partitions = 1\n";

#[test]
fn topics_are_deleted_after_a_measurement_unless_they_are_to_be_kept() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("experiment.toml").display().to_string();
    std::fs::write(&file, LEFT).expect("the experiment can be written");
    assert_eq!(topics_left(&["bench", "run", &file]), 0);
    assert_eq!(topics_left(&["bench", "run", &file, "--keep-topics"]), 4);
}

#[test]
fn figures_stay_where_topics_cannot_be_deleted() {
    let broker = OwnBroker::start_with(1, &["delete.topic.enable=false"], None);
    let bootstrap = format!("kafka.bootstrap_servers={}", broker.bootstrap());
    for (experiment, uncounted) in [(LEFT, "lost"), (BORNE, "unfinished")] {
        let (code, line) = told(experiment, &["--set", &bootstrap]);
        let error = line["error"].as_str().unwrap_or_default();
        assert_eq!(code, 1, "{line}");
        assert!(error.contains(".requests of the measurement") && error.contains("--keep-topics"), "{line}");
        assert_eq!(line["figures"][uncounted], 0.0, "{line}");
    }
    assert_eq!(told(LEFT, &["--set", &bootstrap, "--keep-topics"]).0, 0);
}

#[test]
fn bursts_are_sent_and_what_they_do_is_told() {
    // More than the device bears, for a second: it has something to recover from.
    let experiment = "title = 'bursts'\nrepetitions = 1\n[fixed]\nmeasure = 'rate'\nrate = 50\nburst_rate = 2000\nburst_length = '1s'\n\
                      burst_every = '5s'\nwarm_up = '2s'\nwindow = '10s'\nmodel = 'mlp-16'\nfloor = false\nonnx.executors = 1\nonnx.pace.row = '1ms'\n\
                      topics.requests.partitions = 2\ntopics.results.partitions = 1\n";
    let line = measured(experiment);
    let figures = &line["figures"];
    assert_eq!(
        ["lost", "duplicated", "bursts"].map(|name| figures[name].as_f64()),
        [Some(0.0), Some(0.0), Some(2.0)]
    );
    // Two seconds of the rate, and twice a burst and four more of them.
    assert_eq!(figures["requests"], 4_500.0);
    assert!(figures["recovery_seconds"].as_f64().is_some(), "{line}");
}

#[test]
fn the_highest_rate_that_is_asked_for_is_borne_and_its_requests_are_counted() {
    let line = measured(BORNE);
    let figures = &line["figures"];
    assert_eq!(
        ["sustainable_per_second", "steps", "unfinished", "duplicated", "dead_letters"]
            .map(|name| figures[name].as_f64()),
        [Some(200.0), Some(1.0), Some(0.0), Some(0.0), Some(0.0)],
        "{line}"
    );
    assert!(figures["not_borne_per_second"].is_null(), "{line}");
}

#[test]
fn an_experiment_that_is_told_to_end_leaves_no_system_behind() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("long.toml");
    let experiment = "title = 'long'\nrepetitions = 1\n[fixed]\nmeasure = 'rate'\nrate = 10\nwarm_up = '60s'\nwindow = '60s'\n\
                      model = 'mlp-16'\nfloor = false\ntopics.requests.partitions = 1\ntopics.results.partitions = 1\n";
    std::fs::write(&file, experiment).expect("the experiment can be written");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["bench", "run", &file.display().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary can be run");
    let engine = until("the engine to run", || {
        let started = cpu::tree(bench.id());
        started.into_iter().skip(1).find(|id| is_engine(*id))
    });
    let told = Command::new("kill").args(["-TERM", &bench.id().to_string()]).status();
    assert!(told.expect("there is a kill").success());
    let status = bench.wait().expect("it ends");
    assert_eq!(status.signal(), Some(15), "{status}");
    until("the engine to end", || (!is_engine(engine)).then_some(()));
}

/// Whether the process is an engine that has not ended.
fn is_engine(process: u32) -> bool {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"run")
}
