//! An `adapt` that runs, on a board of a test's own.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Bench, acclimate};

pub const LONGEST: Duration = Duration::from_secs(120);
/// Within which a signal ends it.
pub const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// A board of our own: nothing is known of it but what a test says. The machine of the tests is busy.
pub struct Board(TempDir);

impl Board {
    pub fn new() -> Board {
        Board(tempfile::tempdir().unwrap())
    }
    pub fn root(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
    /// Files of sysfs are never half written: nor is this one.
    pub fn celsius(&self, celsius: u32) {
        let zone = self.0.path().join("sys/class/thermal/thermal_zone0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("type"), "cpu-thermal\n").unwrap();
        std::fs::write(zone.join("new"), format!("{celsius}000\n")).unwrap();
        std::fs::rename(zone.join("new"), zone.join("temp")).unwrap();
    }
}

/// An `adapt --json` that runs.
pub struct Running {
    pub child: Child,
    pub lines: Receiver<Value>,
    pub seen: Vec<Value>,
}

impl Running {
    pub fn start(board: &Board, args: &[&str]) -> Running {
        let common = ["--json", "--sensors-root", board.root(), "--pause-every", "0.05", "--threads", "1"];
        let mut command: Command = acclimate(&[&["adapt"], args, &common].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                let _ = send.send(event);
            }
        });
        Running { child, lines, seen: vec![] }
    }

    /// The next event of one of these names.
    #[track_caller]
    pub fn wait_for(&mut self, names: &[&str]) -> Value {
        let started = Instant::now();
        while let Ok(event) = self.lines.recv_timeout(LONGEST.saturating_sub(started.elapsed())) {
            self.seen.push(event.clone());
            if names.iter().any(|name| event["event"] == *name) {
                return event;
            }
        }
        panic!("no {names:?} after {:?}: {:#?}", started.elapsed(), self.seen)
    }

    /// Time of processors that it has used.
    pub fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Fields 14 and 15 of proc_pid_stat(5), in ticks.
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, and all events.
    pub fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let code = self.child.wait().unwrap().code();
        self.seen.extend(self.lines.iter());
        (code, self.seen)
    }

    /// Ends it with SIGTERM, in time.
    #[track_caller]
    pub fn terminate(self) -> (Option<i32>, Vec<Value>) {
        let started = Instant::now();
        self.signal(Signal::TERM);
        let ended = self.end();
        assert!(started.elapsed() < LEAVES_WITHIN, "it took {:?} to leave", started.elapsed());
        assert_eq!(ended.1.last().unwrap()["event"], "stopping");
        ended
    }
}

pub fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["event"].as_str().unwrap()).filter(|name| *name != "priority").collect()
}

/// One round over these homes.
pub fn once(board: &Board, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    Running::start(board, args).end()
}

pub fn rows(n: usize) -> Vec<usize> {
    (0..n).collect()
}

pub const ENDS: [&str; 2] = ["promoted", "kept"];

/// Waits until `there` says so.
#[track_caller]
pub fn until(there: impl Fn() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < LONGEST, "it never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn has_fit(bench: &Bench) -> bool {
    let entries = std::fs::read_dir(bench.profile("checkpoint")).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().ends_with(".fit"))
}
