//! `tidemill capacity` of a running engine, of what was recorded, of what Kafka remembers, and of a group seen from outside.

use std::process::{Command, Output};

use serde_json::Value;

use super::engine::Engine;
use super::rig::Rig;
use super::wait::until;

/// 64 rows in 68 ms, on one executor: less than a thousand a second.
fn rig() -> Rig {
    Rig::new("capacity", 4).with("onnx.executors=1").with("onnx.pace.fixed=4ms").with("onnx.pace.row=1ms")
}

fn capacity(rig: &Rig, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("capacity").arg("--json").args(args);
    for setting in [
        format!("kafka.bootstrap_servers={}", rig.bootstrap()),
        format!("kafka.group={}", rig.group()),
        format!("topics.requests.name={}", rig.requests()),
        format!("topics.results.name={}", rig.results()),
        format!("topics.dlq.name={}", rig.dead_letters()),
        "onnx.executors=1".to_owned(),
        "log.filter=warn".to_owned(),
    ] {
        command.args(["--set", &setting]);
    }
    command.output().unwrap()
}

/// The report, and how the command ended.
fn report(output: &Output) -> (Value, Option<i32>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (object, output.status.code())
}

fn partitions(report: &Value) -> &Vec<Value> {
    report["report"]["partitions"].as_array().unwrap()
}

fn attached(rig: &Rig, engine: &Engine, args: &[&str]) -> (Value, Option<i32>) {
    let address = engine.address().expect("it serves").to_string();
    report(&capacity(rig, &[&["--attach", &address], args].concat()))
}

#[test]
fn an_engine_is_asked_recorded_remembered_and_seen_from_outside() {
    let rig = rig();
    let mut engine = rig.engine("one");
    let load = rig.load(25_000, Some(300.0));
    engine.until_at_least("tidemill_committed_records_total", 600);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.jsonl");
    let trace = trace.to_str().unwrap();

    // Each of four models has batches that cost alike: what there is to know of them comes within seconds.
    let mut seen = None;
    until("every partition to be known", || {
        let (found, code) = attached(&rig, &engine, &["--record", trace, "--what-if", "load=+900%"]);
        let known = partitions(&found).len() == 4
            && partitions(&found).iter().all(|one| one["rate_max"]["value"].as_f64() > Some(0.0))
            // On a busy machine a tick may take seconds, and of too few of them nothing is said.
            && partitions(&found).iter().all(|one| one["verdict"] != "UNKNOWN")
            && found["report"]["seconds"].as_f64() > Some(5.0);
        // What came before the engine was there is a backlog at first, which grows until it reads.
        let known = known && code == Some(0);
        seen = known.then_some(found);
        known.then_some(())
    });
    let found = seen.unwrap();
    let total = &found["report"]["total"];
    assert!(total["rate_max"]["value"].as_f64() > total["arriving"]["mean"].as_f64(), "{total}");
    assert!(
        partitions(&found)
            .iter()
            .all(|one| one["hot_key"]["tenant"].is_string() && one["missed_in"].is_null())
    );
    // Ten times as much is too much.
    let case = &found["cases"][0]["report"]["partitions"];
    assert!(case.as_array().unwrap().iter().any(|one| !one["missed_in"].is_null()), "{case}");

    let (recorded, _) = report(&capacity(&rig, &["--trace", trace]));
    assert_eq!(recorded["report"]["models"], found["report"]["models"]);

    let (remembered, code) = report(&capacity(&rig, &["--from", "-1m"]));
    assert_eq!((partitions(&remembered).len(), code), (4, Some(0)), "{remembered}");
    assert_eq!(remembered["report"]["models"].as_array().unwrap().len(), 4);
    assert!(partitions(&remembered).iter().all(|one| one["rate_max"]["value"].as_f64() > Some(0.0)));
    let few = capacity(&rig, &["--from", "-1m", "--records-max", "10"]);
    assert_eq!(few.status.code(), Some(2), "{few:?}");

    let (stranger, code) = report(&capacity(&rig, &["--group", rig.group(), "--for", "6s"]));
    assert_eq!((partitions(&stranger).len(), code), (4, Some(0)), "{stranger}");
    assert!(partitions(&stranger).iter().all(|one| one["rate_max"].is_null() && !one["lag"].is_null()));
    assert_eq!(stranger["report"]["unknown"].as_array().unwrap().len(), 3);

    let (status, page) = engine.page("/capacity").unwrap();
    assert_eq!((status, page.starts_with('{')), (200, true), "{page}");
    // Now everything comes at once.
    load.hurry();
    until("a partition to miss its objective", || {
        let (found, code) = attached(&rig, &engine, &["--lag-max", "2s"]);
        let behind = partitions(&found).iter().filter(|one| !one["missed_in"].is_null());
        (behind.count() > 0 && code == Some(3)).then_some(())
    });
    engine.kill();
}

#[test]
fn an_engine_that_does_not_observe_itself_says_so() {
    let rig = rig().with("capacity.observe=false");
    let engine = rig.engine("one");
    until("the engine to serve", || engine.page("/metrics").map(|_| ()));
    let address = engine.address().unwrap().to_string();
    let output = capacity(&rig, &["--attach", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("capacity.observe"), "{output:?}");
    engine.kill();
}

#[test]
fn the_processes_of_a_group_are_looked_at_together() {
    let rig = rig();
    let engines = [rig.engine("one"), rig.engine("two")];
    let load = rig.load(25_000, Some(300.0));
    let addresses = || {
        let addresses: Option<Vec<String>> =
            engines.iter().map(|engine| Some(engine.address()?.to_string())).collect();
        addresses.map(|addresses| addresses.join(","))
    };
    until("both to serve", || addresses().map(|_| ()));
    let addresses = addresses().unwrap();
    let args = ["--attach", &addresses, "--what-if", "processes=-1", "--what-if", "processes=-2"];
    until("what could be borne of every partition to be known", || {
        let (found, _) = report(&capacity(&rig, &args[..4]));
        let known = |one: &Value| one["rate_max"]["value"].as_f64() > Some(0.0);
        let apart = engines.iter().map(|engine| partitions(&attached(&rig, engine, &[]).0).len());
        // Each has half of the partitions, and a process fewer leaves one with all of them.
        let half = apart.collect::<Vec<_>>() == [2, 2];
        let total = |report: &Value| report["total"]["rate_max"]["value"].as_f64().unwrap_or(0.0);
        let fewer = total(&found["cases"][0]["report"]) / total(&found["report"]);
        let all = partitions(&found).len() == 4 && partitions(&found).iter().all(known);
        (half && all && (0.4..0.6).contains(&fewer)).then_some(())
    });
    let none = capacity(&rig, &args);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    drop(load);
    engines.into_iter().for_each(Engine::kill);
}

/// One executor bears 64 rows in 330 ms, 194 a second, and it may have four. So long batches are long on a machine that is busy, too.
#[test]
fn an_autopilot_adds_executors_until_the_load_is_borne_and_writes_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let rig = Rig::new("autopilot", 4)
        .with("onnx.executors=1")
        .with("onnx.pace.fixed=10ms")
        .with("onnx.pace.row=5ms")
        .with("capacity.autopilot.mode=on")
        .with("capacity.autopilot.settle=20s")
        .with("capacity.autopilot.executors_max=4")
        .with(&format!("capacity.autopilot.audit={}", audit.display()));
    let engine = rig.engine("one");
    let load = rig.load(100_000, Some(400.0));
    until("more executors", || {
        let (_, page) = engine.page("/capacity")?;
        let found: Value = serde_json::from_str(&page).ok()?;
        let executors: u32 = found["autopilot"]["settings"]["onnx.executors"].as_str()?.parse().ok()?;
        (executors > 1).then_some(())
    });
    let written = std::fs::read_to_string(&audit).unwrap();
    let change: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!((&change["made"], &change["setting"]), (&true.into(), &"onnx.executors".into()), "{change}");
    assert!(change["why"].as_str().unwrap().contains("records come a second"), "{change}");
    until("the lag to shrink", || {
        let (found, _) = attached(&rig, &engine, &[]);
        let shrinks = |one: &Value| one["lag_growing"]["mean"].as_f64() < Some(0.0);
        partitions(&found).iter().all(shrinks).then_some(())
    });
    assert!(
        engine.page("/metrics").unwrap().1.contains("tidemill_autopilot_changes_total{kind=\"advised\"}")
    );
    drop(load);
    engine.kill();
}
