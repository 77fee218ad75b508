//! The command line, as a user meets it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use assert_cmd::Command;

/// A port that nothing listens at.
const NOWHERE: &str = "127.0.0.1:1";

/// The binary in an empty folder, with nothing of ours in its environment.
pub(crate) fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL__"))
    {
        command.env_remove(name);
    }
    command.current_dir(folder).env("NO_COLOR", "1");
    command
}

/// `tidemill check` against a broker that is not there.
fn check(folder: &Path) -> Command {
    let mut command = tidemill(folder);
    let broker = format!("kafka.bootstrap_servers={NOWHERE}");
    command.args(["check", "--json", "--set", "kafka.start_timeout=200ms", "--set", &broker]);
    command
}

/// Exit code, stdout and stderr.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A setting of a report as JSON: its value and its layer.
fn setting(report: &str, key: &str) -> (String, String) {
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let settings = report["settings"].as_array().unwrap();
    let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
    (setting["value"].as_str().unwrap().to_owned(), setting["layer"].as_str().unwrap().to_owned())
}

pub(crate) fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if !config.is_empty() {
        std::fs::write(folder.path().join("tidemill.toml"), config).unwrap();
    }
    folder
}

#[test]
fn help_is_on_stdout_and_names_commands_examples_and_exit_codes() {
    let folder = folder("");
    let mut command = tidemill(folder.path());
    command.arg("--help");
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for part in [
        "run",
        "demo",
        "produce",
        "audit",
        "topics",
        "check",
        "capacity",
        "Examples:",
        "Exit codes:",
        "  14  ",
    ] {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
}

#[test]
fn arguments_that_mean_nothing_exit_with_two() {
    let folder = folder("");
    let mut command = tidemill(folder.path());
    command.args(["chekc", "--json"]);
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stdout.as_str()), (2, ""));
    let object: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(object["error"]["code"], 2);
}

#[test]
fn an_unknown_key_is_shown_on_its_line_with_the_key_that_was_meant() {
    let folder = folder("[batch]\nsize_max = 32\ndelay_maxx = \"5ms\"\n");
    let mut command = tidemill(folder.path());
    command.arg("check");
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stdout.as_str()), (2, ""));
    let expected = "  × could not use the configuration
  help: `tidemill check --explain` lists every key

Error: 
  × unknown key `batch.delay_maxx`
   ╭─[tidemill.toml:3:1]
 2 │ size_max = 32
 3 │ delay_maxx = \"5ms\"
   · ─────────┬────────
   ·          ╰── unknown key
   ╰────
  help: did you mean `batch.delay_max`?
";
    assert_eq!(stderr, expected);
}

#[test]
fn a_contradiction_names_both_keys_and_their_layers() {
    let folder = folder("[kafka]\ntransaction_timeout = \"1s\"\n");
    let mut command = tidemill(folder.path());
    command.args(["check", "--json", "--set", "commit.interval=1s"]);
    let (code, _, stderr) = run(command);
    assert_eq!(code, 2);
    let object: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(
        object["error"]["faults"][0]["message"],
        "`commit.interval` = \"1s\" (--set) contradicts `kafka.transaction_timeout` = \"1s\" (tidemill.toml:2)",
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_in_every_layer() {
    for (config, variable, set) in [
        ("[batch]\nsize_max = 0\n", "64", "workers=2"),
        ("", "none", "workers=2"),
        ("", "64", "delivery=at-most-once"),
        ("", "64", "kafka.producer.acks=1"),
        ("", "64", "http.address=9464"),
        ("", "64", "log.filter=a=b=c"),
    ] {
        let folder = folder(config);
        let mut command = check(folder.path());
        command.env("TIDEMILL__BATCH__SIZE_MAX", variable).args(["--set", set]);
        let (code, _, stderr) = run(command);
        assert_eq!(code, 2, "{config:?} {variable} {set}: {stderr}");
    }
}

#[test]
fn the_strongest_layer_counts_and_is_named() {
    let folder = folder("[batch]\nsize_max = 10\ndelay_max = \"10ms\"\n[commit]\ninterval = \"10ms\"\n");
    let mut command = check(folder.path());
    command.env("TIDEMILL__BATCH__SIZE_MAX", "20").env("TIDEMILL__BATCH__DELAY_MAX", "20ms");
    command.args(["--set", "batch.size_max=30"]);
    let (code, report, stderr) = run(command);
    assert_eq!(code, 10, "{stderr}");
    let expect =
        |key, value: &str, layer: &str| assert_eq!(setting(&report, key), (value.into(), layer.into()));
    expect("batch.size_max", "30", "--set");
    expect("batch.delay_max", "\"20ms\"", "environment TIDEMILL__BATCH__DELAY_MAX");
    expect("commit.interval", "\"10ms\"", "tidemill.toml:5");
    expect("epoch.interval", "\"50ms\"", "default");
}

#[test]
fn a_number_stays_as_it_was_typed_where_a_text_is_wanted() {
    let folder = folder("");
    let mut command = check(folder.path());
    command.env("TIDEMILL__KAFKA__INSTANCE", "0").env("TIDEMILL__KAFKA__CONSUMER__CLIENT_ID", "1_000");
    command.args(["--set", "kafka.group=007", "--set", "topics.requests=1e5"]);
    command.args(["--set", "kafka.producer.linger.ms=+5", "--set", "workers=2"]);
    let (code, report, stderr) = run(command);
    assert_eq!(code, 10, "{stderr}");
    let value = |key| setting(&report, key).0;
    assert_eq!(value("kafka.instance"), "\"0\"");
    assert_eq!(value("kafka.consumer.client.id"), "\"1_000\"");
    assert_eq!(value("kafka.group"), "\"007\"");
    assert_eq!(value("topics.requests.name"), "\"1e5\"");
    assert_eq!(value("kafka.producer.linger.ms"), "\"+5\"");
    assert_eq!(value("workers"), "2");
}

#[test]
fn a_broker_that_is_not_there_has_a_code_of_its_own() {
    let folder = folder("");
    for arguments in [["topics", "create"], ["topics", "check"]] {
        let mut command = tidemill(folder.path());
        command.args(arguments);
        command.args([
            "--set",
            "kafka.start_timeout=200ms",
            "--set",
            &format!("kafka.bootstrap_servers={NOWHERE}"),
        ]);
        let (code, stdout, stderr) = run(command);
        assert_eq!((code, stdout.as_str()), (10, ""), "{stderr}");
        assert!(stderr.contains("kafka.bootstrap_servers"), "{stderr}");
    }
}

#[test]
fn no_secret_is_ever_printed() {
    let folder = folder(
        "[kafka.consumer]\n\"sasl.password\" = \"hunter2\"\n[kafka.producer]\n\"ssl.key.password\" = { env = \"KEY_PASSWORD\" }\n",
    );
    let secret = ["hunter2", "swordfish", "opensesame"];
    let explained = |command: &mut Command| {
        command.env("KEY_PASSWORD", secret[1]).env("RUST_LOG", "trace");
        command.env("TIDEMILL__KAFKA__ADMIN__SASL_PASSWORD", secret[2]);
    };
    let mut good = check(folder.path());
    explained(&mut good);
    let mut bad = check(folder.path());
    explained(bad.args(["--set", "kafka.consumer.nothing=[1]", "--set", "workers=x"]));
    let mut text = tidemill(folder.path());
    explained(text.args([
        "check",
        "--explain",
        "--set",
        "kafka.start_timeout=200ms",
        "--set",
        "log.filter=trace",
    ]));
    text.args(["--set", &format!("kafka.bootstrap_servers={NOWHERE}")]);
    let (good, bad, text) = (run(good), run(bad), run(text));
    assert_eq!((good.0, bad.0, text.0), (10, 2, 10), "{good:?} {bad:?}");
    for (_, stdout, stderr) in [&good, &bad, &text] {
        for secret in secret {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{secret} in {stdout} {stderr}");
        }
    }
    assert_eq!(setting(&good.1, "kafka.consumer.sasl.password").0, "********");
    assert_eq!(setting(&good.1, "kafka.producer.ssl.key.password").0, "{ env = \"KEY_PASSWORD\" }");
}

#[test]
fn a_secret_that_is_not_where_it_should_be_is_missed_by_its_key() {
    let folder = folder("kafka.consumer.sasl.password.env = \"NOBODY_SETS_THIS\"\n");
    let (code, _, stderr) = run(check(folder.path()));
    assert_eq!(code, 2);
    assert!(
        stderr.contains("NOBODY_SETS_THIS") && stderr.contains("kafka.consumer.sasl.password"),
        "{stderr}"
    );
}

#[test]
fn explaining_shows_what_each_key_is_for() {
    let folder = folder("");
    let mut command = tidemill(folder.path());
    command.args(["check", "--explain", "--set", "kafka.start_timeout=200ms"]);
    command.args(["--set", &format!("kafka.bootstrap_servers={NOWHERE}")]);
    let (code, stdout, _) = run(command);
    assert_eq!(code, 10);
    let expected = "  # Rows at most. `auto` is 64, and with `slo` 256.\n  batch.size_max = \"auto\"";
    assert!(stdout.contains(expected), "{stdout}");
}

#[test]
fn a_file_that_is_named_has_to_be_there() {
    let folder = folder("");
    let mut command = tidemill(folder.path());
    command.args(["check", "--config", "absent.toml"]);
    let (code, _, stderr) = run(command);
    assert_eq!(code, 2);
    assert!(stderr.contains("absent.toml"), "{stderr}");
}

#[test]
fn topics_are_made_and_each_difference_is_named() {
    let servers =
        std::env::var("TIDEMILL_BOOTSTRAP").expect("TIDEMILL_BOOTSTRAP is not set: run `make test`");
    let folder = folder("");
    let prefix = format!("cli-{}-{}", std::process::id(), folder.path().file_name().unwrap().display());
    let prefix = prefix.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
    let topics = |arguments: &[&str], partitions: u32| {
        let mut command = tidemill(folder.path());
        command.arg("topics").args(arguments).arg("--json");
        command.args(["--set", &format!("kafka.bootstrap_servers={servers}")]);
        for topic in ["requests", "results", "dlq", "events"] {
            command.args(["--set", &format!("topics.{topic}={prefix}.{topic}")]);
            command.args(["--set", &format!("topics.{topic}.partitions={partitions}")]);
        }
        let (code, stdout, stderr) = run(command);
        let report: serde_json::Value =
            serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout} {stderr}"));
        (code, report["topics"].clone())
    };
    let absent = topics(&["check"], 2);
    assert_eq!((absent.0, absent.1[0]["differences"][0]["what"].as_str()), (1, Some("topic")));
    let made = topics(&["create"], 2);
    assert_eq!((made.0, &made.1[3]["created"]), (0, &true.into()), "{}", made.1);
    let again = topics(&["create"], 2);
    assert_eq!((again.0, &again.1[3]["created"]), (0, &false.into()), "{}", again.1);
    let different = topics(&["check", "--production"], 3);
    assert_eq!(different.0, 1);
    let named: Vec<_> = different.1[2]["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["what"].to_string())
        .collect();
    assert_eq!(named, ["\"partitions\"", "\"replication\"", "{\"config\":\"min.insync.replicas\"}"]);
}

#[test]
fn check_names_a_model_that_no_executor_has_room_for() {
    let folder = folder("");
    let models = format!("models.path={}/models", env!("CARGO_MANIFEST_DIR"));
    let mut command = check(folder.path());
    command.args(["--set", &models, "--set", "onnx.executors=2", "--set", "onnx.open_bytes_max=200kB"]);
    let (code, stdout, _) = run(command);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let faults: Vec<&str> =
        report["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect();
    let named = |part: &str| faults.iter().filter(|fault| fault.contains(part)).count();
    assert_eq!((code, named("100000 open at most")), (10, 1), "{faults:?}");
    assert_eq!(named("model ffnn-784: its file has 115470 bytes"), 1, "{faults:?}");
}
