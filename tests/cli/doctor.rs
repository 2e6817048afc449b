//! `doctor` on the machine that runs the tests.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::disks::SmallDisk;
use crate::program::{Bench, refused, replace, run, says};

/// What it says and the exit code, which follows from what it says.
#[track_caller]
fn doctor(args: &[&str]) -> Value {
    let output = run(&[&["doctor"], args, &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let checks = report["checks"].as_array().unwrap();
    let fails = checks.iter().any(|check| check["state"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(fails)), "{report}");
    for check in checks {
        assert!(["ok", "warn", "fail"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(check["value"].as_str().is_some_and(|value| !value.is_empty()), "{check}");
        assert_eq!(check["next"].is_null(), check["state"] == "ok", "{check}");
    }
    report
}

#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn a_device_is_looked_at_without_a_home() {
    let report = doctor(&[]);
    assert_eq!(report["home"], Value::Null);
    let names: BTreeSet<&str> =
        report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    let wanted = [
        "board",
        "clock",
        "cores",
        "disk",
        "file system",
        "gpu",
        "inodes",
        "kernels",
        "limits",
        "memory",
        "power",
        "pressure",
        "processor",
        "space",
        "swap",
        "temperature",
        "throttling",
        "voltage",
    ];
    assert_eq!(names, wanted.into());
    let shown = String::from_utf8(run(&["doctor"]).stdout).unwrap();
    assert!(wanted.iter().all(|name| shown.contains(name)), "{shown}");
    let is_ok = report["state"] == "ok";
    assert!(shown.contains(if is_ok { "nothing is wrong" } else { "what to do:" }), "{shown}");
}

#[test]
fn a_home_is_opened_measured_and_left_as_it_was() {
    let bench = Bench::new();
    let assumed = doctor(&[&bench.home()]);
    assert_eq!((&assumed["home"]["answers"], &assumed["home"]["answers_are_assumed"]), (&50.into(), &true.into()));
    assert!(!bench.profile("").exists(), "no profile is made");
    bench.teach(23, &(0..120).step_by(10).collect::<Vec<_>>());
    let before = bench.status();
    let report = doctor(&[&bench.home()]);
    assert_eq!(bench.status(), before, "nothing is recorded");
    let figures = &report["home"];
    assert_eq!((&figures["answers"], &figures["answers_are_assumed"]), (&12.into(), &false.into()), "{report}");
    for name in ["predict_ms", "predict_memory_bytes", "train_memory_bytes", "step_ms", "train_seconds"] {
        assert!(figures[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {figures}");
    }
    // In steps: 12 answers in 6 folds beside 50 in 4, over as many epochs.
    let steps = |of: &Value| of["train_seconds"].as_f64().unwrap() / of["step_ms"].as_f64().unwrap();
    let share = steps(figures) / steps(&assumed["home"]);
    assert!((share - 72.0 / 200.0).abs() < 1e-6, "{share}");
    says(check(&report, "home"), "value", "opens: classification, 6 classes, 12 answers");
    says(check(&report, "training time"), "value", "an estimate from 2 steps of 8");
    assert_eq!(check(&report, "training memory")["state"], "ok");
    let files = std::fs::read_dir(bench.home()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.filter(|name| name.ends_with(".tmp")).count(), 0, "the file that was written is gone");
}

#[test]
fn what_is_no_home_and_what_is_damaged_is_a_failure_beside_the_device() {
    let bench = Bench::new();
    // A folder where a home may be made, and one that is not there.
    for none in [bench.at(""), bench.at("nothing")] {
        let report = doctor(&[&none]);
        let home = check(&report, "home");
        assert_eq!(home["state"], "fail");
        says(home, "value", "not a home");
        says(home, "next", "acclimate init");
        assert!(check(&report, "memory")["value"].is_string() && check(&report, "space")["value"].is_string());
        assert_eq!(report["home"]["answers"], 0, "{report}");
    }
    says(&refused(&["doctor", &bench.home(), "--profile", "anna"], 2), "error", "there is no profile");
    replace(&Path::new(&bench.home()).join("base.onnx"), b"another model");
    let report = doctor(&[&bench.home()]);
    let home = check(&report, "home");
    assert_eq!(home["state"], "fail");
    says(home, "value", "the home's base model has changed");
    says(home, "next", "put the old file back");
    assert_eq!(report["home"]["train_seconds"], Value::Null);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_or_takes_no_writes_is_said_in_words() {
    let Some(disk) = SmallDisk::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let (home, ..) = disk.home(elsewhere.path());
    // Until nothing more goes in.
    let filled = std::fs::write(disk.0.path().join("more"), vec![0; 4 << 20]);
    assert!(filled.is_err());
    let report = doctor(&[&home]);
    assert_eq!(
        (&check(&report, "space")["state"], &check(&report, "writing")["state"]),
        (&"fail".into(), &"fail".into())
    );
    says(check(&report, "writing"), "next", "free some space");
    says(check(&report, "file system"), "value", "gone after a restart");
    assert_eq!(check(&report, "predictions")["state"], "ok", "it still answers: {report}");
    std::fs::remove_file(disk.0.path().join("more")).unwrap();
    let remount =
        |how: &str| std::process::Command::new("mount").args(["-o", how]).arg(disk.0.path()).status().unwrap();
    assert!(remount("remount,ro").success());
    let report = doctor(&[&home]);
    assert_eq!(check(&report, "file system")["state"], "fail", "{report}");
    says(check(&report, "writing"), "next", "read-only; predictions still work");
    assert_eq!(check(&report, "home")["state"], "ok", "{report}");
    assert!(remount("remount,rw").success());
}
