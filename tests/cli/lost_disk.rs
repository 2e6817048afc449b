//! A disk that is pulled out while it is in use: an ext4 of its own on a loop device, which is shut down as the kernel
//! does with one that fails (`FS_IOC_SHUTDOWN`), and mounted again. And a file in memory that is cut off.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use acclimate::input::RawInput;
use acclimate::{ErrorKind, Feedback, Home};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Bench, acclimate, json, refused, run, says};
use crate::running::{Board, ENDS, Running, has_fit, names, rows, until};

/// What an error of a disk that is gone says.
const NEXT: &str = "connect it again, then run `acclimate verify`";

/// A memory card.
struct Card(TempDir);

impl Card {
    /// None where the tests may not mount one.
    fn new() -> Option<Card> {
        let card = Card(tempfile::tempdir().unwrap());
        std::fs::File::create(card.image()).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(card.folder()).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(card.image()).output();
        if !made.is_ok_and(|made| made.status.success()) || !card.mount() {
            eprintln!("skipped: no ext4 can be made and mounted here");
            return None;
        }
        Some(card)
    }

    fn image(&self) -> std::path::PathBuf {
        self.0.path().join("image")
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("card")
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", "loop"]).arg(self.image()).arg(self.folder()).output();
        mounted.is_ok_and(|mounted| mounted.status.success())
    }

    /// From now on every operation ends with EIO; what was not flushed is lost.
    fn pull_out(&self) {
        const FS_IOC_SHUTDOWN: u64 = 0x8004_587d;
        let no_log_flush: u32 = 2;
        let folder = std::fs::File::open(self.folder()).unwrap();
        // SAFETY: the kernel reads a number that lives through the call.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_SHUTDOWN as _, &raw const no_log_flush) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    fn put_back(&self) {
        let unmounted = || Command::new("umount").arg(self.folder()).output().unwrap().status.success();
        until(unmounted);
        assert!(self.mount());
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder()).output();
    }
}

#[test]
fn every_command_says_that_the_disk_is_gone_and_nothing_is_lost() {
    let Some(card) = Card::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let bench = Bench::below(&card.folder());
    let (home, input) = (bench.home(), elsewhere.path().join("input.npy"));
    std::fs::copy(bench.input(), &input).unwrap();
    let input = input.to_str().unwrap();
    bench.teach(24, &rows(20));
    let before = bench.status();
    card.pull_out();
    for args in [
        &["predict", &home, input][..],
        &["feedback", &home, "last", "--accept"],
        &["train", &home],
        &["eval", &home, "--data", input],
        &["status", &home],
        &["history", &home],
        &["interactions", &home],
        &["rollback", &home],
        &["forget", &home, "last"],
        &["verify", &home],
        &["repair", &home],
    ] {
        let error = refused(args, 74);
        says(&error, "next", NEXT);
        says(&error, "at", &home);
    }
    let doctor = run(&["doctor", &home, "--json"]);
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "home").unwrap();
    assert_eq!((doctor.status.code(), &check["state"]), (Some(1), &"fail".into()), "{report}");
    says(check, "next", NEXT);
    card.put_back();
    assert_eq!(json(&["verify", &home])["ok"], true);
    let after = bench.status();
    assert_eq!((&after["feedback"], &after["interactions"]), (&before["feedback"], &before["interactions"]));
    json(&["train", &home]);
}

#[test]
fn a_program_that_runs_goes_on_answering_and_says_what_is_not_kept() {
    let Some(card) = Card::new() else { return };
    let bench = Bench::below(&card.folder());
    let session = Home::open(bench.home()).unwrap().session("default").unwrap();
    let window = RawInput::from_argument(&bench.input(), session.home().intake()).unwrap();
    let first = session.predict(&window).unwrap();
    session.feedback(first.id.unwrap(), Feedback::Accept).unwrap();
    let second = session.predict(&window).unwrap().id.unwrap();
    card.pull_out();
    let answer = session.predict(&window).unwrap();
    assert_eq!((answer.id, &answer.top), (None, &first.top), "it answers from memory");
    let e = session.feedback(second, Feedback::Accept).unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.next_step().is_some_and(|next| next.contains(NEXT)), "{e:?}");
    let e = session.train(&acclimate::TrainOptions::default()).unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.next_step().is_some_and(|next| next.contains(NEXT)), "{e:?}");
    drop(session);
    card.put_back();
    assert_eq!(json(&["verify", &bench.home()])["ok"], true);
    assert_eq!(bench.status()["feedback"], 1, "what was acknowledged is there");
}

#[test]
fn it_watches_the_other_homes_and_takes_the_home_up_again() {
    let Some(card) = Card::new() else { return };
    let (board, bench, other) = (Board::new(), Bench::below(&card.folder()), Bench::new());
    bench.teach(24, &rows(180));
    let (home, next) = (bench.home(), other.home());
    let args = [home.as_str(), &next, "--watch", "--every", "0.05", "--checkpoint-seconds", "0.001"];
    let mut running = Running::start(&board, &args);
    running.wait_for(&["started"]);
    until(|| has_fit(&bench));
    card.pull_out();
    let failed = running.wait_for(&["failed"]);
    assert_eq!(failed["home"], home.clone());
    says(&failed, "next", NEXT);
    other.teach(24, &rows(20));
    let end = running.wait_for(&ENDS);
    assert_eq!(end["home"], next.clone());
    card.put_back();
    let end = running.wait_for(&ENDS);
    assert_eq!(end["home"], home.clone(), "{:#?}", running.seen);
    let (code, events) = running.terminate();
    assert_eq!(code, Some(0));
    // While the card is out of its slot, it is "not a home".
    let said: Vec<&str> = events
        .iter()
        .filter(|e| e["event"] == "failed" && e["profile"].is_null())
        .map(|e| e["error"].as_str().unwrap())
        .collect();
    let once: std::collections::HashSet<&&str> = said.iter().collect();
    assert_eq!(once.len(), said.len(), "each is said once: {said:#?}");
    assert_eq!(json(&["verify", &home])["ok"], true);
    let status = bench.status();
    assert_eq!((&status["feedback"], &status["waiting"]), (&180.into(), &0.into()));
}

/// Cuts the home's model off, which takes its pages from whoever has them in memory.
fn cut_off(home: &str) {
    std::fs::OpenOptions::new().write(true).open(Path::new(home).join("base.onnx")).unwrap().set_len(0).unwrap();
}

#[test]
fn a_training_whose_model_is_lost_in_memory_says_so() {
    let bench = Bench::of_texts();
    let home = bench.home();
    let model = std::fs::read(Path::new(&home).join("base.onnx")).unwrap();
    let lost = |more: &[&str]| {
        let args = [&["train", &home, "--threads", "1", "--checkpoint-seconds", "0.001"], more].concat();
        let child = acclimate(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until(|| has_fit(&bench));
        cut_off(&home);
        let output = child.wait_with_output().unwrap();
        crate::program::replace(&Path::new(&home).join("base.onnx"), &model);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(74), 0), "{text}");
        text
    };
    let text = lost(&[]);
    assert!(text.contains("error: a file in use cannot be read any more") && text.contains("base.onnx)"), "{text}");
    assert!(text.contains("next: connect its disk again"), "{text}");
    std::fs::remove_dir_all(bench.profile("checkpoint")).unwrap();
    let text = lost(&["--json"]);
    let error: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&error["exit"], &error["because"]), (&74.into(), &Value::Null));
    says(&error, "at", "base.onnx");
    assert_eq!(json(&["verify", &home])["ok"], true);
    json(&["train", &home]);
}

#[test]
fn it_starts_itself_anew_for_the_other_homes_where_a_file_is_lost_in_memory() {
    let (board, bench, other) = (Board::new(), Bench::of_texts(), Bench::new());
    let (home, next) = (bench.home(), other.home());
    let args = [home.as_str(), &next, "--watch", "--every", "0.05", "--checkpoint-seconds", "0.001"];
    let mut running = Running::start(&board, &args);
    running.wait_for(&["started"]);
    until(|| has_fit(&bench));
    cut_off(&home);
    let failed = running.wait_for(&["failed"]);
    assert_eq!(failed["home"], home.clone(), "{failed}");
    says(&failed, "error", "could not be read any more");
    says(&failed, "error", "base.onnx");
    other.teach(24, &rows(20));
    let end = running.wait_for(&ENDS);
    assert_eq!(end["home"], next.clone(), "{:#?}", running.seen);
    // It is the same process, still at idle priority, and hears signals.
    std::thread::sleep(Duration::from_millis(200));
    let (code, events) = running.terminate();
    assert_eq!(code, Some(0));
    let failures = events.iter().filter(|e| e["event"] == "failed").count();
    assert!(failures == 1 && names(&events).contains(&"due"), "{events:#?}");
}

#[test]
fn it_does_not_start_itself_anew_for_ever() {
    let (board, bench) = (Board::new(), Bench::of_texts());
    let home = bench.home();
    let run = |started_before: u32| {
        let args = ["adapt", &home, "--watch", "--every", "0.05", "--checkpoint-seconds", "0.001", "--threads", "1"];
        let mut command = acclimate(&[&args[..], &["--json", "--sensors-root", board.root()]].concat());
        command.env("ACCLIMATE_LOST_FILE", format!("{started_before}:/elsewhere/base.onnx"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until(|| has_fit(&bench));
        cut_off(&home);
        child
    };
    let model = std::fs::read(Path::new(&home).join("base.onnx")).unwrap();
    let ended = run(8).wait_with_output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(74), "{text}");
    assert!(text.contains("a file in use cannot be read any more"), "{text}");
    crate::program::replace(&Path::new(&home).join("base.onnx"), &model);
    std::fs::remove_dir_all(bench.profile("checkpoint")).unwrap();
    // The last time before that: it goes on as the same process.
    let mut again = run(7);
    let lost = Path::new(&home).canonicalize().unwrap().join("base.onnx");
    wait_for_line(&mut again, lost.to_str().unwrap());
    let environment = std::fs::read(format!("/proc/{}/environ", again.id())).unwrap();
    let entry = format!("ACCLIMATE_LOST_FILE=8:{}", lost.display()).into_bytes();
    assert!(environment.split(|byte| *byte == 0).any(|one| one.starts_with(&entry)));
    send(&again, Signal::TERM);
    assert_eq!(again.wait_with_output().unwrap().status.code(), Some(0));
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads what it says until a line holds `text`. Its pipe stays open.
fn wait_for_line(child: &mut Child, text: &str) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended");
    }
    child.stdout = Some(out.into_inner());
}

#[test]
fn a_signal_that_somebody_sends_ends_it_and_blames_no_disk() {
    let (board, bench) = (Board::new(), Bench::new());
    let args = ["adapt", &bench.home(), "--watch", "--json", "--sensors-root", board.root()];
    let mut child = acclimate(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_line(&mut child, "idle");
    send(&child, Signal::BUS);
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{text}");
    assert!(!text.contains("disk"), "{text}");
}
