//! Two processes at once, and signals.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Bench, acclimate, asset, json, refused, says};

#[test]
fn the_second_training_is_told_who_holds_the_first() {
    let bench = Bench::new();
    let home = bench.home();
    let id = bench.predict();
    let folder = acclimate::store::profile_folder(Path::new(&home), "default").unwrap();
    let store = acclimate::store::Store::open(std::sync::Arc::new(acclimate::disk::RealDisk), &folder).unwrap();
    let held = store.lock_training(Duration::ZERO, "training").unwrap();
    says(&refused(&["train", &home], 75), "error", &format!("process {} (training)", std::process::id()));
    // Predictions and feedback go on meanwhile.
    bench.predict();
    json(&["feedback", &home, &id, "--accept"]);
    drop(held);
    json(&["train", &home]);
}

/// Waits until `path` names `process` as its holder.
fn wait_for_holder(path: &Path, process: &mut Child) {
    let started = Instant::now();
    let note = format!("process {} ", process.id());
    while !std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(&note)) {
        assert!(process.try_wait().unwrap().is_none(), "the training ended before it could be stopped");
        assert!(started.elapsed() < Duration::from_secs(30), "the training never began");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends SIGINT to a program that runs with `--json`, which ends with the exit code for it, an error, and no data.
#[cfg(unix)]
#[track_caller]
fn interrupt(child: Child) {
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{text}");
    assert!(ended.stdout.is_empty());
    assert_eq!(serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["exit"], 130);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_demo_and_a_simulation_and_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let (files, plot) = (folder.path().join("tmp"), folder.path().join("curve.svg"));
    std::fs::create_dir(&files).unwrap();
    let (model, data) = (asset("har_cnn.onnx"), asset("hapt_users_23_26.npz"));
    let (model, data, plot) = (model.to_str().unwrap(), data.to_str().unwrap(), plot.to_str().unwrap());
    let simulate = ["simulate", "--model", model, "--data", data, "--train-every", "16", "--json"];
    for args in [&["demo", "--plot", plot, "--json"][..], &simulate[..]] {
        let mut command = acclimate(args);
        let mut child = command.env("TMPDIR", &files).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while !files.read_dir().unwrap().flatten().any(|f| f.file_name().to_string_lossy().contains("simulation")) {
            assert!(child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(30), "{args:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        interrupt(child);
        assert_eq!(files.read_dir().unwrap().count(), 0, "{args:?} left files behind");
        assert!(!Path::new(plot).exists());
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_a_training_and_loses_nothing() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(24, &(0..180).collect::<Vec<_>>());
    let mut child = acclimate(&["train", &home, "--threads", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_holder(&bench.profile("train.lock"), &mut child);
    interrupt(child);
    let status = bench.status();
    assert_eq!((&status["generation"], &status["feedback"], &status["waiting"]), (&0.into(), &180.into(), &180.into()));
    assert_eq!(json(&["history", &home])["generations"], Value::Array(vec![]));
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 0);
}
