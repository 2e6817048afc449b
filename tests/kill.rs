//! `kill -9` at any moment, through the program: what it said is stored is stored, and a training goes on. `ACCLIMATE_KILLS` and `ACCLIMATE_TRAINING_KILLS` say how
//! often (default 50, and 20).
#![cfg(all(unix, feature = "cli", feature = "train"))]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use acclimate::Home;
use acclimate::adapter::Adapter;
use acclimate::input::{ArrayData, NamedArray, arrays};
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

fn acclimate(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("acclimate"));
    command.args(args).arg("--json").env_remove("ACCLIMATE_LOG").stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Data of a command that must succeed.
#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = acclimate(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Kills a process after `delay`, or lets it end; the first line that it wrote to standard output.
fn kill_after(mut child: Child, delay: Duration) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    let out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let line = BufReader::new(out).lines().next().and_then(Result::ok);
        let _ = sender.send(());
        line
    });
    // The moment right after an acknowledgement is worth as much as any before.
    let _ = receiver.recv_timeout(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn kills(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn nothing_acknowledged_is_lost_to_kill_9() {
    let kills = kills("ACCLIMATE_KILLS", 50);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (home, input) = (at("home"), at("input.npy"));
    let window = NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap();
    arrays::write_npy(input.as_ref(), &window).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
    json(&["init", &home, "--model", model.to_str().unwrap()]);
    let started = std::time::Instant::now();
    json(&["predict", &home, &input]);
    let usual = started.elapsed().as_micros() as u64;

    let mut acknowledged = BTreeSet::new();
    let (mut killed_before, mut told) = (0, 0);
    for kill in 0..kills {
        let id = json(&["predict", &home, &input])[0]["id"].as_str().unwrap().to_string();
        // Spread over the whole time that a command takes, and a little beyond.
        let delay = Duration::from_micros(usual * 5 / 4 * (kill * 7 % 32) / 32);
        let child = match kill % 3 {
            0 => acclimate(&["predict", &home, &input]).spawn().unwrap(),
            _ => acclimate(&["feedback", &home, &id, "--label", "3"]).spawn().unwrap(),
        };
        match kill_after(child, delay).and_then(|line| serde_json::from_str::<Value>(&line).ok()) {
            Some(said) if said["durable"] == true => {
                told += 1;
                acknowledged.insert(id);
            }
            Some(_) => told += 1,
            None => killed_before += 1,
        }
    }
    println!("{kills} kills: {killed_before} before the answer, {told} after; {} acknowledged", acknowledged.len());
    assert!(killed_before > 0 && told > 0, "the kills hit both sides of the answer");
    assert_eq!(json(&["verify", &home])["ok"], true);
    assert!(json(&["status", &home])["feedback"].as_u64().unwrap() >= acknowledged.len() as u64);
    for id in &acknowledged {
        let again = acclimate(&["feedback", &home, id, "--accept"]).output().unwrap();
        let text = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.code() == Some(2) && text.contains("already has feedback"), "{id} was lost: {text}");
    }
}

/// What is kept of a training: the names of the files, and when they were written.
fn kept(home: &Path) -> Vec<(std::ffi::OsString, SystemTime)> {
    let entries = std::fs::read_dir(home.join("profiles/ada/checkpoint")).into_iter().flatten();
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.file_name(), entry.metadata().ok()?.modified().ok()?))
    };
    let mut kept: Vec<_> =
        entries.filter_map(of).filter(|(name, _)| name.to_string_lossy().ends_with(".fit")).collect();
    kept.sort();
    kept
}

/// What ada's profile has learned, but for the time at which it did.
fn learned(home: &Path) -> Adapter {
    let mut adapter = Home::open(home).unwrap().session("ada").unwrap().adapter().unwrap().unwrap();
    adapter.lineage.created_ms = 0;
    adapter
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_in_the_same_bits() {
    let kills = kills("ACCLIMATE_TRAINING_KILLS", 20);
    let folder = tempfile::tempdir().unwrap();
    let (home, whole) = (support::home(&folder), folder.path().join("whole"));
    support::teach(&home.session("ada").unwrap(), &support::person(23), 5);
    support::copy(home.path(), &whole);
    let train = |home: &Path| {
        acclimate(&["train", home.to_str().unwrap(), "--profile", "ada", "--checkpoint-seconds", "0.001"])
    };
    let run = |home: &Path| -> Value { serde_json::from_slice(&train(home).output().unwrap().stdout).unwrap() };
    let once = run(&whole);
    assert_eq!((&once["promoted"], &once["resumed_steps"]), (&Value::Bool(true), &Value::from(0)), "{once}");

    let home = home.path();
    let mut before = kept(home);
    let (mut killed, mut ended) = (0, None);
    while killed < kills && ended.is_none() {
        let mut child = train(home).spawn().unwrap();
        // Not before it has got further.
        while kept(home) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(killed * 7 % 20 / 2));
        let signal = if killed % 5 == 4 { rustix::process::Signal::INT } else { rustix::process::Signal::KILL };
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
        let end = child.wait_with_output().unwrap();
        match end.status.code() {
            // It was faster.
            Some(0) => ended = Some(serde_json::from_slice(&end.stdout).unwrap()),
            Some(code) => assert_eq!((code, signal), (130, rustix::process::Signal::INT)),
            None => assert_eq!(signal, rustix::process::Signal::KILL),
        }
        if ended.is_none() {
            killed += 1;
            let now = kept(home);
            let stays = |name| now.iter().any(|(n, _)| n == name);
            assert!(before.iter().all(|(name, _)| stays(name)), "it began anew after {killed} kills");
            before = now;
        }
    }
    assert_eq!(json(&["verify", home.to_str().unwrap()])["ok"], true);
    let last: Value = ended.unwrap_or_else(|| run(home));
    println!("{killed} kills; the last run took over {} of {} steps", last["resumed_steps"], last["steps"]);
    assert!(killed >= kills / 4, "the training ended after {killed} kills");
    assert!(last["resumed_steps"].as_u64().unwrap() > 0);
    for same in ["promoted", "steps", "tried", "validation", "loss", "reason"] {
        assert_eq!(last[same], once[same], "{same}");
    }
    assert_eq!(learned(home), learned(&whole));
    assert_eq!(kept(home), [], "nothing is left of a training that has ended");
}

/// A generation on probation is not to blame for a person who presses Ctrl-C, or for a system that shuts down.
#[test]
fn a_signal_to_end_is_no_crash_of_the_generation_on_trial() {
    let folder = tempfile::tempdir().unwrap();
    let session = support::learned(&support::home(&folder), "p");
    let probation = session.status().unwrap().probation_left;
    drop(session);
    let home = folder.path().join("home").to_str().unwrap().to_string();
    let input = folder.path().join("input.npy").to_str().unwrap().to_string();
    let window = NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap();
    arrays::write_npy(input.as_ref(), &window).unwrap();
    let predict = ["predict", &home, &input, "--profile", "p"];
    let started = std::time::Instant::now();
    json(&predict);
    let usual = started.elapsed();
    let (mut ended, mut round) = (0, 0);
    // As long as the generation is on probation, whatever the machine is busy with.
    while ended < 8 && json(&["status", &home, "--profile", "p"])["probation_left"].as_u64().unwrap() > 1 {
        let mut child = acclimate(&predict).spawn().unwrap();
        std::thread::sleep(usual * (round * 7 % 16) / 16);
        let signal = if round % 2 == 0 { rustix::process::Signal::TERM } else { rustix::process::Signal::INT };
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
        ended += u32::from(!child.wait().unwrap().success());
        round += 1;
    }
    let status = json(&["status", &home, "--profile", "p"]);
    assert_eq!((&status["generation"], &status["rolled_back"]), (&1.into(), &Value::Null), "{status}");
    println!("{ended} of {round} ended by the signal, {probation} predictions on probation before");
    assert!(ended > 0, "none of {round} was ended by the signal");
}
