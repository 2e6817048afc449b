//! Two processes that want to train one home, and one that the kernel ends for its memory.
#![cfg(target_os = "linux")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::disks::SmallDisk;
use crate::program::{Bench, acclimate, json, says};
use crate::running::{Board, ENDS, Running, has_fit, names, once, rows, until};

const QUICK: [&str; 5] = ["--watch", "--every", "0.05", "--checkpoint-seconds", "0.001"];

#[test]
fn of_two_that_watch_one_home_one_trains_and_the_other_goes_on_with_its_own() {
    let (board, bench, other) = (Board::new(), Bench::new(), Bench::new());
    bench.teach(24, &rows(180));
    let (home, next) = (bench.home(), other.home());
    let mut first = Running::start(&board, &[&[home.as_str()], &QUICK[..]].concat());
    first.wait_for(&["started"]);
    until(|| has_fit(&bench));
    // It is held in the middle of its training.
    first.signal(Signal::STOP);
    let mut second = Running::start(&board, &[&[home.as_str(), &next], &QUICK[..]].concat());
    let busy = second.wait_for(&["busy"]);
    assert_eq!(busy["home"], home.clone());
    says(&busy, "error", &format!("process {} (training)", first.child.id()));
    other.teach(24, &rows(20));
    assert_eq!(second.wait_for(&ENDS)["home"], next.clone());
    // The one that trains is killed: the other one takes its training over where it stood.
    first.signal(Signal::KILL);
    let end = second.wait_for(&ENDS);
    assert_eq!(end["home"], home.clone(), "{:#?}", second.seen);
    assert!(end["resumed_steps"].as_u64().unwrap() > 0, "{end}");
    let (_, events) = second.terminate();
    let said: Vec<&Value> = events.iter().filter(|e| e["home"] == home).collect();
    assert_eq!(said.iter().filter(|e| e["event"] == "busy").count(), 1, "{said:#?}");
    assert!(said.iter().any(|e| e["event"] == "killed" && e["times"] == 1), "{said:#?}");
    first.end();
    let status = bench.status();
    assert_eq!((&status["feedback"], &status["waiting"]), (&180.into(), &0.into()));
    assert_eq!(json(&["verify", &home])["ok"], true);
}

#[test]
fn two_that_watch_one_home_train_each_piece_of_feedback_once() {
    let (board, bench) = (Board::new(), Bench::new());
    let home = bench.home();
    let args = [&[home.as_str(), "--after", "1"], &QUICK[..]].concat();
    let mut both = [Running::start(&board, &args), Running::start(&board, &args)];
    both.iter_mut().for_each(|one| drop(one.wait_for(&["idle"])));
    bench.teach(24, &rows(40));
    until(|| bench.status()["waiting"] == 0);
    std::thread::sleep(Duration::from_millis(500));
    let events: Vec<Value> = both.into_iter().flat_map(|one| one.terminate().1).collect();
    assert!(!names(&events).contains(&"failed"), "{events:#?}");
    let ends = events.iter().filter(|e| ENDS.iter().any(|end| e["event"] == *end)).count();
    let trainings = json(&["history", &home])["trainings"].as_array().unwrap().len();
    assert_eq!(ends, trainings, "{events:#?}");
    // The first may have begun before all of it was said; nothing is trained on again.
    let read: Vec<u64> = json(&["history", &home])["trainings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["feedback"].as_u64().unwrap())
        .collect();
    assert!(read.windows(2).all(|two| two[0] < two[1]) && read.last() == Some(&40), "{read:?}");
}

#[test]
fn beside_a_training_by_hand_it_says_who_holds_the_home() {
    let (board, bench, other) = (Board::new(), Bench::new(), Bench::new());
    bench.teach(24, &rows(180));
    other.teach(24, &rows(20));
    let (home, next) = (bench.home(), other.home());
    let mut train = acclimate(&["train", &home, "--threads", "1", "--checkpoint-seconds", "0.001", "--json"]);
    let train = train.stdout(Stdio::piped()).spawn().unwrap();
    until(|| has_fit(&bench));
    rustix::process::kill_process(rustix::process::Pid::from_child(&train), Signal::STOP).unwrap();
    let (code, events) = once(&board, &[&home, &next]);
    assert_eq!(code, Some(0), "busy is no failure: {events:#?}");
    let busy = events.iter().find(|e| e["event"] == "busy").unwrap();
    assert_eq!(busy["home"], home.clone());
    says(busy, "error", &format!("process {} (training)", train.id()));
    assert!(events.iter().any(|e| e["home"] == next && ENDS.iter().any(|end| e["event"] == *end)), "{events:#?}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&train), Signal::CONT).unwrap();
    let done = train.wait_with_output().unwrap();
    assert!(done.status.success());
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(bench.status()["waiting"], 0);
    assert_eq!(bench.status()["generation"], report["generation"]);
    assert_eq!(names(&once(&board, &[&home]).1), ["idle"], "nothing is left to train");
}

/// A control group that allows so much memory; none where the tests may not make one.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let name = format!("acclimate-test-{}", std::process::id());
        let (old, new) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) = match old.is_dir() {
            true => (old, "memory.limit_in_bytes"),
            false => (new, "memory.max"),
        };
        let group = Group(root.join(name));
        let made = std::fs::create_dir(&group.0)
            .and_then(|()| std::fs::write(group.0.join(limit), bytes.to_string()))
            .and_then(|()| std::fs::metadata(group.0.join("cgroup.procs")));
        if made.is_err() {
            eprintln!("skipped: no control group can be made here");
            return None;
        }
        // Swapping would only make it slow.
        for file in ["memory.swap.max", "memory.swappiness"] {
            let _ = std::fs::write(group.0.join(file), "0");
        }
        Some(group)
    }

    /// Runs `adapt` in the group: the signal that ended it, and its events.
    fn adapt(&self, home: &str) -> (Option<i32>, Vec<Value>) {
        use std::os::unix::process::ExitStatusExt;
        let procs = self.0.join("cgroup.procs");
        // The real sensors, which tell of the group; nothing pauses it.
        let calm = ["--max-cpu-pressure", "100", "--max-memory-pressure", "100", "--max-temperature", "1000"];
        let args = [&["adapt", home, "--json", "--checkpoint-seconds", "0.01", "--threads", "1"], &calm[..]].concat();
        let mut command: Command = acclimate(&args);
        // SAFETY: between fork and exec it opens and writes one small file.
        unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.signal(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_training_that_the_kernel_ends_for_its_memory_is_tried_with_less_and_comes_to_an_end() {
    // The training takes about 50 MiB beside the model's file.
    const ENOUGH_TO_BEGIN: u64 = 30 << 20;
    let (board, bench) = (Board::new(), Bench::of_texts());
    let Some(group) = Group::new(ENOUGH_TO_BEGIN) else { return };
    // Checkpoints as often as here write more in seconds than a card should take in a day.
    let settings = Path::new(&bench.home()).join("acclimate.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("write_budget = 0\n{text}")).unwrap();
    let (mut killed, mut told) = (0, vec![]);
    for _ in 0..16 {
        let (signal, events) = group.adapt(&bench.home());
        let killed_now = signal == Some(9);
        killed += u32::from(killed_now);
        let ended = events.last().is_some_and(|e| ["promoted", "kept", "idle"].iter().any(|end| e["event"] == *end));
        told.extend(events);
        if !killed_now {
            assert!(ended, "{told:#?}");
            break;
        }
    }
    assert!(killed >= 1, "the kernel did not end it: {told:#?}");
    let deaths: Vec<u64> =
        told.iter().filter(|e| e["event"] == "killed").map(|e| e["times"].as_u64().unwrap()).collect();
    assert!(deaths.first() == Some(&1), "the first death is told of: {told:#?}");
    let end = told.iter().find(|e| ["promoted", "kept", "left"].iter().any(|end| e["event"] == *end));
    assert!(end.is_some(), "it came to an end after {killed} deaths: {told:#?}");
    println!("{killed} deaths: {:?}", names(&told));
    assert_eq!(json(&["verify", &bench.home()])["ok"], true);
    assert_eq!(bench.status()["feedback"], 40);
    // With memory enough it is trained, unless that has been done.
    if bench.status()["waiting"] == 40 {
        json(&["train", &bench.home(), "--steps", "5"]);
        assert_eq!(names(&once(&board, &[&bench.home()]).1), ["idle"]);
    }
}

#[test]
fn a_home_that_takes_no_writes_is_said_in_words_and_is_tried_again() {
    let Some(disk) = SmallDisk::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let board = Board::new();
    let (home, ..) = disk.home(elsewhere.path());
    let session = acclimate::Home::open(&home).unwrap().session("default").unwrap();
    let set = crate::program::person(24);
    for i in 0..20 {
        let id = session.predict(&set.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, acclimate::Feedback::Label(set.labels()[i].clone())).unwrap();
    }
    drop(session);
    let failed = |words: &str| {
        let (code, events) = once(&board, &[&home]);
        let failed = events.iter().find(|e| e["event"] == "failed").unwrap_or_else(|| panic!("{events:#?}"));
        assert_eq!(code, Some(74), "{failed}");
        says(failed, "next", words);
        assert_eq!(failed["home"], home.clone());
    };
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(disk.0.path()).status().unwrap();
        assert!(done.success());
    };
    remount("remount,ro");
    failed("mounted read-only");
    remount("remount,rw");
    let filler = disk.0.path().join("filler");
    assert!(std::fs::write(&filler, vec![1; 4 << 20]).is_err(), "it is full");
    failed("free some space");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(json(&["verify", &home])["ok"], true);
    let (code, events) = once(&board, &[&home]);
    assert!(code == Some(0) && ENDS.contains(names(&events).last().unwrap()), "{events:#?}");
}
