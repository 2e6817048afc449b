//! Limits over recorded boards, and pauses over a board that changes.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::device::Linux;
use crate::process::Pacer;

fn board(name: &str) -> Linux {
    Linux::under(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards").join(name))
}

/// A board with one file.
fn with(path: &str, text: &str) -> (tempfile::TempDir, Linux) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), path, text);
    let board = Linux::under(folder.path());
    (folder, board)
}

fn put(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

const ZONE: &str = "sys/class/thermal/thermal_zone0";

fn hot(root: &Path, celsius: u32) {
    put(root, &format!("{ZONE}/type"), "cpu-thermal\n");
    put(root, &format!("{ZONE}/temp"), &format!("{celsius}000\n"));
}

#[test]
fn boards_cross_what_they_should() {
    let limits = Limits::default();
    let first = |limits: &Limits, name: &str| limits.crossed(&board(name), false).first().map(|c| c.reason);
    let reason = |name: &str| first(&limits, name);
    assert_eq!(reason("pi-4-throttled"), Some(Reason::Temperature), "84 °C");
    assert_eq!(reason("container"), None, "what is not known limits nothing");
    assert_eq!(reason("broken"), None, "nor does what makes no sense");
    let cool = Limits { celsius: 90.0, ..limits };
    assert_eq!(first(&cool, "pi-4-throttled"), Some(Reason::UnderVoltage));
    assert_eq!(first(&cool, "pi-5"), None, "under-voltage since it was started is past");
    let all: Vec<Reason> = limits.crossed(&board("pi-4-throttled"), false).iter().map(|c| c.reason).collect();
    assert_eq!(all, [Reason::Temperature, Reason::UnderVoltage, Reason::Throttled]);
}

#[test]
fn work_goes_on_at_a_lower_mark() {
    let limits = Limits::default();
    let folder = tempfile::tempdir().unwrap();
    let board = Linux::under(folder.path());
    for (celsius, paused, crossed) in
        [(75, false, None), (76, false, Some((76.0, 75.0))), (76, true, Some((76.0, 70.0)))].into_iter().chain([
            (71, true, Some((71.0, 70.0))),
            (71, false, None),
            (70, true, None),
        ])
    {
        hot(folder.path(), celsius);
        let found = limits.crossed(&board, paused).first().map(|c| (c.value.unwrap(), c.limit.unwrap()));
        assert_eq!(found, crossed, "{celsius} {paused}");
    }
    let pressure = |kind: &str, some: f64| {
        let text = format!("some avg10={some:.2} avg60=0.00 avg300=0.00 total=1\n");
        let (_held, board) = with(&format!("proc/pressure/{kind}"), &text);
        [false, true].map(|paused| limits.crossed(&board, paused).first().map(|c| c.reason))
    };
    let memory = Some(Reason::MemoryPressure);
    assert_eq!([pressure("memory", 4.9), pressure("memory", 7.0)], [[None, None], [None, memory]]);
    assert_eq!(pressure("memory", 11.0), [memory, memory]);
    let cpu = Some(Reason::CpuPressure);
    assert_eq!([pressure("cpu", 50.0), pressure("cpu", 90.0)], [[None, cpu], [cpu, cpu]]);
}

#[test]
fn a_battery_and_no_mains() {
    let battery = |status: &str, percent: u8, limits: Limits, paused: bool| {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("type", "Battery"), ("status", status), ("capacity", &percent.to_string())] {
            put(folder.path(), &format!("sys/class/power_supply/BAT0/{file}"), text);
        }
        limits.crossed(&Linux::under(folder.path()), paused).first().map(|c| c.reason)
    };
    let (usual, on_mains) = (Limits::default(), Limits { on_mains: true, ..Limits::default() });
    assert_eq!(battery("Discharging", 29, usual, false), Some(Reason::Battery));
    assert_eq!([30, 34].map(|p| battery("Discharging", p, usual, false)), [None, None]);
    assert_eq!(battery("Discharging", 34, usual, true), Some(Reason::Battery));
    assert_eq!(battery("Charging", 5, usual, true), None);
    assert_eq!(battery("Discharging", 99, on_mains, false), Some(Reason::NotOnMains));
    assert_eq!(on_mains.crossed(&board("container"), false), [], "a board that does not say is on mains");
}

/// Runs a guest on a board at 80 °C; `cool_at` is the sleep before which it cools down, `stop_at` that which is ended.
fn paced(cool_at: usize, stop_at: usize, patience: Duration) -> (bool, bool, Vec<Change>, usize) {
    let folder = tempfile::tempdir().unwrap();
    hot(folder.path(), 80);
    let board = Linux::under(folder.path());
    let (sleeps, told) = (Mutex::new(0), Mutex::new(vec![]));
    let sleep = |time: Duration| {
        assert_eq!(time, Rhythm::default().paused);
        let mut sleeps = sleeps.lock().unwrap();
        *sleeps += 1;
        if *sleeps == cool_at {
            hot(folder.path(), 60);
        }
        *sleeps >= stop_at
    };
    let tell = |change: Change| told.lock().unwrap().push(change);
    let rhythm = Rhythm { working: Duration::ZERO, patience, ..Rhythm::default() };
    let limits = Limits::default();
    let guest = Guest { sensors: &board, limits, rhythm, sleep: &sleep, tell: &tell, state: Mutex::default() };
    let went_on = guest.may_go_on();
    assert_eq!(went_on, guest.may_go_on() && went_on, "what gave up stays so");
    let gave_up = guest.gave_up();
    (went_on, gave_up, told.into_inner().unwrap(), sleeps.into_inner().unwrap())
}

#[test]
fn a_pause_ends_when_it_is_cool_twice_or_the_process_stops_or_patience_ends() {
    let crossed = Crossed { reason: Reason::Temperature, value: Some(80.0), limit: Some(75.0) };
    let (went_on, gave_up, told, sleeps) = paced(3, usize::MAX, Duration::MAX);
    assert_eq!((went_on, gave_up, sleeps), (true, false, 4));
    assert_eq!(told[0], Change::Paused(crossed));
    let Change::Resumed { last, reasons, .. } = told[1] else { panic!("{told:?}") };
    assert_eq!((last, reasons.all().collect::<Vec<_>>(), told.len()), (crossed.reason, vec![crossed.reason], 2));
    let (went_on, _, told, sleeps) = paced(usize::MAX, 2, Duration::MAX);
    assert_eq!((went_on, told, sleeps), (false, vec![Change::Paused(crossed)], 2));
    let (went_on, gave_up, told, sleeps) = paced(usize::MAX, usize::MAX, Duration::ZERO);
    assert_eq!((went_on, gave_up, sleeps), (false, true, 1));
    // At the last look the lower mark was crossed.
    let last = Crossed { limit: Some(70.0), ..crossed };
    assert_eq!(told, [Change::Paused(crossed), Change::GaveUp(last)]);
}

#[test]
fn a_pause_tells_all_its_reasons_and_which_was_the_last() {
    let folder = tempfile::tempdir().unwrap();
    hot(folder.path(), 80);
    let board = Linux::under(folder.path());
    let sleeps = Mutex::new(0);
    // It cools down, and then others take the processor for a while.
    let pressure = |some: &str| {
        let text = format!("some avg10={some} avg60=0.00 avg300=0.00 total=1\n");
        put(folder.path(), "proc/pressure/cpu", &text);
    };
    let sleep = |_: Duration| {
        let mut sleeps = sleeps.lock().unwrap();
        *sleeps += 1;
        match *sleeps {
            2 => pressure("95.00"),
            3 => hot(folder.path(), 60),
            5 => pressure("1.00"),
            _ => {}
        }
        false
    };
    let told = Mutex::new(vec![]);
    let tell = |change: Change| told.lock().unwrap().push(change);
    let limits = Limits::default();
    let rhythm = Rhythm { working: Duration::ZERO, ..Rhythm::default() };
    let guest = Guest { sensors: &board, limits, rhythm, sleep: &sleep, tell: &tell, state: Mutex::default() };
    assert!(guest.wait());
    let told = told.into_inner().unwrap();
    let [Change::Paused(first), Change::Resumed { last, reasons, .. }] = told[..] else { panic!("{told:?}") };
    assert_eq!((first.reason, last), (Reason::Temperature, Reason::CpuPressure));
    assert_eq!(reasons.all().collect::<Vec<_>>(), [Reason::Temperature, Reason::CpuPressure]);
}
