//! `adapt`: what is due is trained by a process of its own, which pauses, stops, dies and goes on.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use acclimate::disk::RealDisk;
use acclimate::store::{Store, profile_folder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program::{Bench, acclimate, json};
use crate::running::{Board, ENDS, LEAVES_WITHIN, Running, has_fit, names, once, rows, until};

/// Every file below a folder, and when it was changed.
fn files(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
        let about = entry.metadata().unwrap();
        if about.is_dir() {
            all.extend(files(&entry.path()));
        }
        all.insert(entry.path(), about.modified().unwrap());
    }
    all
}

#[test]
fn what_is_due_is_trained_once_and_others_do_not_suffer() {
    let (board, bench) = (Board::new(), Bench::new());
    let home = bench.home();
    bench.teach(24, &rows(7));
    let before = files(Path::new(&home));
    let (code, events) = once(&board, &[&home]);
    assert_eq!((code, names(&events)), (Some(0), vec!["idle"]), "seven are too few");
    assert_eq!(files(Path::new(&home)), before, "nothing is written while nothing is due");

    bench.teach(24, &(7..40).collect::<Vec<_>>());
    let gone = bench.at("pulled-out");
    let (code, events) = once(&board, &[&gone, &home]);
    assert_eq!(code, Some(2), "that of what failed: {events:#?}");
    let [failed, due, started, end] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((&failed["event"], &failed["home"]), (&"failed".into(), &gone.clone().into()));
    assert!(failed["error"].as_str().unwrap().contains("not a home") && failed["next"].is_string());
    assert_eq!((&due["event"], &due["waiting"], &due["profile"]), (&"due".into(), &40.into(), &"default".into()));
    assert!(started["event"] == "started" && due["at"].as_str().unwrap().ends_with('Z'));
    assert!(ENDS.contains(&end["event"].as_str().unwrap()) && end["reason"].is_string(), "{end}");
    let status = bench.status();
    assert_eq!((&status["waiting"], &status["generation"]), (&0.into(), &end["generation"]));
    assert_eq!(names(&once(&board, &[&home]).1), ["idle"], "promoted or not, there is nothing new");
    assert_eq!(names(&once(&board, &[&home, "--after", "1"]).1), ["idle"]);
}

#[test]
fn a_home_in_use_is_busy_and_the_next_one_is_trained() {
    let (board, bench, other) = (Board::new(), Bench::new(), Bench::new());
    bench.teach(24, &rows(20));
    other.teach(24, &rows(20));
    let folder = profile_folder(Path::new(&bench.home()), "default").unwrap();
    let held = Store::open(Arc::new(RealDisk), &folder).unwrap();
    let held = held.lock_training(Duration::ZERO, "training").unwrap();
    let (code, events) = once(&board, &[&bench.home(), &other.home()]);
    assert_eq!(code, Some(0), "busy is no failure: {events:#?}");
    let busy = events.iter().find(|e| e["home"] == bench.home()).unwrap();
    assert_eq!((names(&events)[..2].to_vec(), &busy["event"]), (vec!["busy", "due"], &"busy".into()));
    assert!(busy["error"].as_str().unwrap().contains(&format!("process {}", std::process::id())));
    assert_eq!((bench.status()["waiting"].clone(), other.status()["waiting"].clone()), (20.into(), 0.into()));
    drop(held);
    assert!(ENDS.contains(names(&once(&board, &[&bench.home()]).1).last().unwrap()));
}

#[test]
fn a_card_that_took_enough_today_waits_for_the_training_and_not_for_feedback() {
    let (board, bench) = (Board::new(), Bench::new());
    let home = bench.home();
    bench.teach(24, &rows(20));
    let status = bench.status();
    let today = status["written_today"].as_u64().unwrap();
    // Windows of 3 KiB.
    assert!((20 * 3000..20 * 5000).contains(&today), "{status}");
    assert_eq!((&status["write_budget"], &status["written"][0]["records"]), (&(25 << 20).into(), &today.into()));
    let file = Path::new(&home).join("acclimate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("write_budget = {today}\n{text}")).unwrap();
    let (code, events) = once(&board, &[&home]);
    assert_eq!((code, names(&events)), (Some(0), vec!["waiting", "idle"]), "{events:#?}");
    assert_eq!((&events[0]["reason"], &events[0]["value"]), (&"write-budget".into(), &today.into()));
    // What another profile writes counts, too: it is the home's card.
    json(&["predict", &home, &bench.input(), "--profile", "ada"]);
    let status = bench.status();
    let of_home = status["home_written_today"].as_u64().unwrap();
    assert!(of_home > today && status["written_today"] == today, "{status}");
    std::fs::write(&file, format!("write_budget = {of_home}\n{text}")).unwrap();
    assert_eq!(once(&board, &[&home]).1[0]["value"], of_home);
    bench.teach(24, &(20..22).collect::<Vec<_>>());
    assert_eq!(bench.status()["feedback"], 22);
    std::fs::write(&file, format!("write_budget = 0\n{text}")).unwrap();
    assert!(ENDS.contains(names(&once(&board, &[&home]).1).last().unwrap()));
    let status = bench.status();
    assert_eq!(status["write_budget"], Value::Null);
    let trainings = status["written"][0]["trainings"].as_u64().unwrap();
    assert!(trainings > 0, "{status}");
    json(&["forget", &home, "last", "--no-train"]);
    assert_eq!(bench.status()["written"][0]["trainings"], trainings, "forgetting makes no card new");
}

#[test]
fn it_watches_at_idle_priority_and_says_each_thing_once() {
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(4));
    let home = bench.home();
    let mut running = Running::start(&board, &[&home, "--watch", "--every", "0.1"]);
    running.wait_for(&["idle"]);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 19 and 41 of proc_pid_stat(5); the first two are before the bracket.
    let refused: String = running.seen.iter().map(|e| e["refused"].to_string()).collect();
    assert!(fields[16] == "19" || refused.contains("nice"), "{stat} {refused}");
    assert!(fields[38] == "5" || refused.contains("SCHED_IDLE"), "{stat} {refused}");

    let before = files(Path::new(&home));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(files(Path::new(&home)), before, "looking writes nothing");
    bench.teach(24, &(4..24).collect::<Vec<_>>());
    assert_eq!(running.wait_for(&["due"])["waiting"].as_u64().map(|n| (8..=24).contains(&n)), Some(true));
    running.wait_for(&ENDS);

    // A disk that is pulled out, and comes back.
    std::fs::rename(&home, bench.at("away")).unwrap();
    assert_eq!(running.wait_for(&["failed"])["home"], home.clone());
    std::thread::sleep(Duration::from_millis(500));
    std::fs::rename(bench.at("away"), &home).unwrap();
    bench.teach(24, &(24..60).collect::<Vec<_>>());
    running.wait_for(&ENDS);
    let (code, events) = running.terminate();
    assert_eq!(code, Some(0), "a signal is the end of --watch");
    assert_eq!(names(&events).iter().filter(|name| **name == "failed").count(), 1, "{events:#?}");
}

#[test]
fn a_signal_ends_it_in_the_middle_of_a_training_which_goes_on_at_the_next_start() {
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(180));
    let home = bench.home();
    for (watch, code) in [(&["--watch"][..], 0), (&[], 130)] {
        let args = [&[home.as_str(), "--checkpoint-seconds", "0.001"], watch].concat();
        let mut running = Running::start(&board, &args);
        running.wait_for(&["started"]);
        until(|| has_fit(&bench));
        let (ended, events) = running.terminate();
        assert_eq!((ended, names(&events)), (Some(code), vec!["due", "started", "stopping"]));
        assert!(has_fit(&bench) && !bench.profile("attempt.toml").exists());
    }
    let (code, events) = once(&board, &[&home]);
    let end = events.last().unwrap();
    assert_eq!(code, Some(0), "{events:#?}");
    assert!(end["resumed_steps"].as_u64().unwrap() > 0, "{end}");
    assert!(!has_fit(&bench) && bench.status()["waiting"] == 0);
}

#[test]
fn a_reader_that_does_not_read_does_not_delay_the_end() {
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(1));
    let (reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&vec![b' '; 1 << 16]).unwrap();
    let args = ["adapt", &bench.home(), "--watch", "--sensors-root", board.root()];
    let mut child = acclimate(&args).stdout(full).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "it waits for its reader");
    let begun = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < LEAVES_WITHIN, "it took {:?} to leave", begun.elapsed());
    drop(reader);
}

#[test]
fn looks_without_a_pause_between_and_shares_beyond_all_are_refused() {
    let (board, bench) = (Board::new(), Bench::new());
    for args in [["--every", "0"], ["--max-cpu-pressure", "-1"], ["--min-battery", "101"]] {
        let option = format!("{}={}", args[0], args[1]);
        let out = acclimate(&["adapt", &bench.home(), &option, "--sensors-root", board.root()]).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{option}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn heat_pauses_it_in_memory_and_after_a_while_on_disk() {
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(180));
    let home = bench.home();
    board.celsius(80);
    let mut running = Running::start(&board, &[&home, "--patience", "0.3", "--checkpoint-seconds", "0.001"]);
    let paused = running.wait_for(&["paused"]);
    assert_eq!(
        (&paused["reason"], &paused["value"], &paused["limit"]),
        (&"temperature".into(), &80.0.into(), &75.0.into())
    );
    board.celsius(72);
    std::thread::sleep(Duration::from_millis(600));
    assert!(running.lines.try_recv().is_err(), "it goes on at 70 degrees and not before");
    board.celsius(60);
    assert_eq!(running.wait_for(&["resumed"])["reasons"], Value::from(vec!["temperature"]));
    running.wait_for(&["started"]);
    until(|| has_fit(&bench));
    board.celsius(90);
    running.wait_for(&["paused"]);
    assert_eq!(running.wait_for(&["checkpointed"])["reason"], "temperature");
    board.celsius(50);
    running.wait_for(&["resumed"]);
    running.wait_for(&["started"]);
    let end = running.wait_for(&ENDS);
    assert!(end["resumed_steps"].as_u64().unwrap() > 0, "{end}");
    let (code, events) = running.end();
    assert_eq!(code, Some(0), "{events:#?}");

    // A signal ends a pause, too.
    bench.teach(23, &rows(40));
    board.celsius(80);
    let mut running = Running::start(&board, &[&home, "--watch"]);
    running.wait_for(&["paused"]);
    assert_eq!(running.terminate().0, Some(0));
}

/// Starts a training and kills it before it keeps anything; what it said.
fn killed(board: &Board, bench: &Bench, after: &str) -> Vec<Value> {
    let note = || std::fs::read(bench.profile("attempt.toml")).ok();
    let before = note();
    let mut running = Running::start(board, &[&bench.home(), "--checkpoint-seconds", "3600", "--memory", "1GiB"]);
    running.wait_for(&[after]);
    until(|| note().is_some_and(|now| Some(now) != before));
    std::thread::sleep(Duration::from_millis(50));
    running.signal(Signal::KILL);
    let (code, events) = running.end();
    assert_eq!(code, None, "{events:#?}");
    events
}

#[test]
fn killed_twice_at_one_place_it_takes_less_memory_and_at_last_leaves_the_home() {
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(180));
    assert_eq!(names(&killed(&board, &bench, "started")), ["due", "started"]);
    let second = killed(&board, &bench, "killed");
    assert_eq!((&second[2]["times"], &second[2]["memory"]), (&1.into(), &Value::Null), "{second:#?}");
    let third = killed(&board, &bench, "killed");
    assert_eq!(names(&third), ["due", "started", "killed"], "{third:#?}");
    assert_eq!((&third[2]["times"], &third[2]["memory"]), (&2.into(), &(512 << 20).into()));
    // A stop in between does not give it more.
    let mut stopped = Running::start(&board, &[&bench.home(), "--memory", "1GiB"]);
    assert_eq!(stopped.wait_for(&["killed"])["memory"], 512 << 20);
    stopped.terminate();
    assert_eq!(killed(&board, &bench, "killed")[2]["memory"], 512 << 20);
    assert_eq!(killed(&board, &bench, "killed")[2]["times"], 4);
    let fifth = killed(&board, &bench, "killed");
    assert_eq!((&fifth[2]["times"], &fifth[2]["memory"]), (&5.into(), &(256 << 20).into()), "{fifth:#?}");
    killed(&board, &bench, "started");
    let left = ["--memory", "1GiB"];
    for _ in 0..2 {
        let (code, events) = once(&board, &[&[bench.home().as_str()], &left[..]].concat());
        assert_eq!(names(&events), ["due", "started", "left", "idle"], "{events:#?}");
        assert!(events[2]["next"].as_str().unwrap().contains("acclimate doctor"), "{events:#?}");
        assert_eq!(code, Some(0));
    }
    assert_eq!(json(&["verify", &bench.home()])["ok"], true);
    bench.teach(24, &rows(1));
    let (_, events) = once(&board, &[&[bench.home().as_str()], &left[..]].concat());
    assert_eq!(names(&events)[..3], ["due", "started", "killed"], "new feedback is a new try: {events:#?}");
    assert!(ENDS.contains(names(&events).last().unwrap()) && !bench.profile("attempt.toml").exists());
}

/// The 95th percentile of the time that `n` predictions take.
fn p95(session: &acclimate::Session, inputs: &[acclimate::Input], n: usize) -> f64 {
    let one = |i: usize| {
        let started = Instant::now();
        session.predict(&inputs[i % inputs.len()]).unwrap();
        started.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..n).map(one).collect();
    times.sort_by(f64::total_cmp);
    times[n * 95 / 100]
}

/// Rounds with the training stopped and going on take turns, so that what else the machine does falls on both.
#[test]
#[ignore = "a measurement, for a quiet machine: scripts/guest.sh"]
fn predictions_are_hardly_slower_while_it_trains() {
    const ROUNDS: usize = 40;
    const PREDICTIONS: usize = 200;
    let (board, bench) = (Board::new(), Bench::new());
    bench.teach(24, &rows(180));
    let path = bench.home();
    // Of another profile, whose locks the training does not hold when it is stopped.
    let session = acclimate::Home::open(&path).unwrap().session("ada").unwrap();
    let set = crate::program::person(24);
    let inputs: Vec<_> = (0..set.len()).map(|i| set.input(i).unwrap()).collect();
    p95(&session, &inputs, PREDICTIONS);
    let mut running = Running::start(&board, &[&path, "--watch", "--every", "0.05", "--after", "1"]);
    running.wait_for(&["started"]);
    let trains = || bench.profile("attempt.toml").exists();
    let (mut pairs, mut more, mut worked, mut beside_time) = (vec![], 0, 0.0, 0.0);
    while pairs.len() < ROUNDS {
        if !trains() {
            assert!(more < 150, "too little was trained to measure it");
            bench.teach(24, &[more]);
            more += 1;
            until(trains);
        }
        running.signal(Signal::STOP);
        let alone = p95(&session, &inputs, PREDICTIONS);
        running.signal(Signal::CONT);
        let (started, before) = (Instant::now(), running.processor_seconds());
        let beside = p95(&session, &inputs, PREDICTIONS);
        if trains() {
            worked += running.processor_seconds() - before;
            beside_time += started.elapsed().as_secs_f64();
            pairs.push((alone, beside));
        }
    }
    assert_eq!(running.terminate().0, Some(0));
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let alone = median(pairs.iter().map(|p| p.0).collect());
    let beside = median(pairs.iter().map(|p| p.1).collect());
    let ratio = median(pairs.iter().map(|p| p.1 / p.0).collect());
    let (least, most) = pairs.iter().map(|p| p.1 / p.0).fold((f64::MAX, 0.0f64), |(a, b), r| (a.min(r), b.max(r)));
    println!(
        "p95 of {PREDICTIONS} predictions, median of {ROUNDS} rounds: {alone:.2} ms alone, {beside:.2} ms beside a \
         training; ratio {ratio:.2} (by rounds; {least:.2} to {most:.2}); the training had {:.0} % of a core",
        100.0 * worked / beside_time
    );
    assert!(worked > 0.5 * beside_time, "others use the machine: the training hardly ran, and this says nothing");
    assert!(ratio <= 1.3, "{ratio:.2}");
}
