//! What the owner of a Jetson runs, as far as it can be seen without one: on the CPU, with a tegrastats that is written here.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A line of each kind that boards are known to print, written here, and what the board takes by it, in watts.
const LINES: [(&str, f64); 4] = [
    (
        "11-27-2026 13:40:00 RAM 3000/7620MB (lfb 1x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,off] GR3D_FREQ 0% cpu@47.9C VDD_IN 4532mW/4600mW VDD_CPU_GPU_CV 521mW/530mW VDD_SOC 1442mW/1442mW",
        4.532,
    ),
    (
        "RAM 2/62780MB CPU [0%@729] VDD_GPU_SOC 3000mW/3000mW VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 4200mW/4200mW",
        8.0,
    ),
    (
        "RAM 1503/3956MB (lfb 4x4MB) IRAM 0/252kB(lfb 252kB) CPU [2%@102] POM_5V_IN 2532/2540 POM_5V_GPU 0/0 POM_5V_CPU 304/300",
        2.532,
    ),
    ("RAM 1/31918MB GPU 620/620 CPU 310/310 SOC 930/930 CV 0/0 VDDRQ 155/155 SYS5V 1488/1488", 3.503),
];

/// A program of this name that says this, over and over.
fn program(folder: &Path, name: &str, line: &str) -> String {
    let path = folder.join(name);
    let script = format!("#!/bin/sh\nwhile :; do echo '{line}'; sleep 0.02; done\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn verify(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(format!("{ROOT}/deploy/jetson/verify"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL__"))
    {
        command.env_remove(name);
    }
    let models = format!("{ROOT}/models");
    let ours = ["--tidemill", env!("CARGO_BIN_EXE_tidemill"), "--models", &models, "--seconds", "0.3"];
    command.current_dir(folder).args(ours).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn rows_a_second_and_watts_of_each_size_come_together_whatever_rails_a_board_has() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (line, watts)) in LINES.iter().enumerate() {
        let tegrastats = program(folder.path(), &format!("tegrastats-{number}"), line);
        let arguments = [
            "--tegrastats",
            &tegrastats,
            "--allow-cpu",
            "--providers",
            "cpu",
            "--rows",
            "1,8",
            "--json",
            "mlp-16",
        ];
        let output = verify(folder.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let stdout = text(&output.stdout);
        let sizes: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(sizes.iter().map(|size| size["rows"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 8]);
        for size in &sizes {
            let number = |key: &str| size[key].as_f64().unwrap_or_else(|| panic!("{key} in {size}"));
            assert!(
                (number("watts") - watts).abs() < 1e-9 && (number("idle_watts") - watts).abs() < 1e-9,
                "{size}"
            );
            assert!((number("records_per_joule") - number("rows_per_second") / watts).abs() < 1e-6, "{size}");
            assert_eq!((&size["model"], &size["providers"]), (&"mlp-16".into(), &serde_json::json!(["cpu"])));
        }
    }
}

#[test]
fn without_a_gpu_it_says_so_in_a_line_and_with_the_code_of_an_absent_provider() {
    let folder = tempfile::tempdir().unwrap();
    let output = verify(folder.path(), &["--tegrastats", "no-such-tegrastats", "mlp-16"]);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(14), ""), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].contains("there is no no-such-tegrastats here"), "{stderr}");
    assert!(lines[1].contains("execution provider") && lines[1].contains("--allow-cpu"), "{stderr}");
}

#[test]
fn without_watts_the_rest_is_shown_and_rails_that_nobody_knows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tegrastats = program(folder.path(), "tegrastats", "RAM 1/2MB NEW_RAIL 5W");
    let arguments = [
        "--tegrastats",
        &tegrastats,
        "--allow-cpu",
        "--providers",
        "cpu",
        "--rows",
        "4",
        "mlp-16",
        "cnn-6x64",
    ];
    let output = verify(folder.path(), &arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("no rail that is known, in 'RAM 1/2MB NEW_RAIL 5W'"), "{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.contains(" on cpu (ONNX Runtime")).count(), 2, "{stdout}");
}

#[test]
fn a_model_that_is_absent_and_arguments_that_mean_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = verify(folder.path(), &["--allow-cpu", "--providers", "cpu", "absent"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("there is no model \"absent\""), "{}", text(&output.stderr));
    let output = verify(folder.path(), &["--rows", "1,x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'1,x' is not a list of numbers"), "{}", text(&output.stderr));
}
