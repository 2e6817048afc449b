//! A device that was used for a year and never trained: what each command takes beside a long journal.
#![cfg(target_os = "linux")]

use std::process::{Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use acclimate::Home;
use acclimate::disk::RealDisk;
use acclimate::journal::{Dtype, FeedbackKind, InteractionId, Journal, Record, StoredArray, StoredInput};
use serde_json::Value;

use crate::program::{Bench, acclimate, person, values, window};

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
const MIB: u64 = 1 << 20;

/// Puts `n` interactions of the last year, each with feedback, into the home's journal, as the journal writes them.
fn live_a_year(bench: &Bench, n: usize) {
    drop(Home::open(bench.home()).unwrap().session("default").unwrap());
    let journal = bench.profile("journal.log");
    std::fs::remove_file(&journal).unwrap();
    let set = person(24);
    let windows: Vec<Vec<f32>> = (0..set.len()).map(|i| values(&window(&set, i))).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let record = |i: usize| {
        let at = i % set.len();
        // No window is asked twice.
        let data = windows[at].iter().flat_map(|x| (x + i as f32 * 1e-6).to_le_bytes()).collect();
        let array = StoredArray { name: String::new(), dtype: Dtype::F32, shape: vec![6, 128], data };
        let (id, at_ms) = (InteractionId(i as u32), now - YEAR_MS + i as u64 * (YEAR_MS / n as u64));
        let (input, top) = (StoredInput::Arrays(vec![array]), vec![("0".to_string(), 0.9)]);
        let kind = FeedbackKind::Label(set.labels()[at].clone());
        [Record::Interaction { id, at_ms, input, top, generation: 0 }, Record::Feedback { id, at_ms, kind }]
    };
    Journal::write_all(&RealDisk, &journal, 0, now - YEAR_MS, |push| {
        (0..n).flat_map(record).try_for_each(|record| push(&record))
    })
    .unwrap();
}

/// What a command took.
#[derive(Debug)]
struct Cost {
    seconds: f64,
    /// Bytes that it asked the system for, from files and not from the disk alone.
    read: u64,
    written: u64,
    /// Memory that is no file's, the most that was seen.
    anonymous: u64,
    output: Output,
}

/// What this process and its children that have ended read and wrote.
fn read_and_written() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    ["rchar: ", "wchar: "].map(|name| text.lines().find_map(|l| l.strip_prefix(name)).unwrap().parse().unwrap())
}

/// Runs a command. To be called by one test of a process at a time.
fn cost(args: &[&str]) -> Cost {
    let mut child = acclimate(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watched = std::thread::spawn(move || {
        let (mut most, mut own) = (0, 0);
        loop {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            own += text.len() as u64;
            let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
            let Some(kib) = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()) else {
                return (most, own);
            };
            most = most.max(kib << 10);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let (began, before) = (Instant::now(), read_and_written());
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || {
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut err, &mut bytes).unwrap();
        bytes
    });
    let mut stdout = vec![];
    std::io::Read::read_to_end(&mut out, &mut stdout).unwrap();
    let exit = child.wait().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let stderr = errors.join().unwrap();
    let (anonymous, own) = watched.join().unwrap();
    let after = read_and_written();
    let read = after[0] - before[0] - (stdout.len() + stderr.len()) as u64;
    let (read, written) = (read.saturating_sub(own), after[1] - before[1]);
    let output = Output { status: exit, stdout, stderr };
    let warned = args[0] == "doctor" && exit.code() == Some(1);
    assert!(exit.success() || warned, "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Cost { seconds, read, written, anonymous, output }
}

impl Cost {
    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.output.stdout);
        serde_json::from_str(text.lines().last().unwrap_or_default()).or_else(|_| serde_json::from_str(&text)).unwrap()
    }
}

fn journal_bytes(bench: &Bench) -> u64 {
    let segments = std::fs::read_dir(bench.profile("journal.segments")).into_iter().flatten().flatten();
    let sealed: u64 = segments.map(|f| f.metadata().unwrap().len()).sum();
    sealed + std::fs::metadata(bench.profile("journal.log")).unwrap().len()
}

/// Neither the time nor the memory of daily commands depends on how long a profile has lived, and those that read
/// everything read it once and hold a part of it.
#[test]
fn a_long_journal_is_read_once_and_a_training_takes_a_part_of_it() {
    const FEW: usize = 5_000;
    const MANY: usize = 20_000;
    let (short, long) = (Bench::new(), Bench::new());
    live_a_year(&short, FEW);
    live_a_year(&long, MANY);
    let (home, input) = (long.home(), long.input());
    let all = journal_bytes(&long);
    assert!(all > 60 * MIB, "{all}");
    for args in [
        &["status", &home][..],
        &["predict", &home, &input, "--json"],
        &["feedback", &home, "last", "--label", "3"],
        &["history", &home],
    ] {
        let cost = cost(args);
        // At most the growing file of 8 MiB, twice, the program's libraries and the model.
        assert!(cost.read < 24 * MIB && cost.written < MIB, "{args:?}: {cost:?}");
        assert!(cost.anonymous < 40 * MIB, "{args:?}: {cost:?}");
    }
    let listed = cost(&["interactions", &home, "--limit", "5"]);
    assert!(listed.read < all + 24 * MIB, "every record is read once: {listed:?} of {all}");
    let verified = cost(&["verify", &home]);
    assert!(verified.read < all + 24 * MIB, "{verified:?} of {all}");

    let quick = ["--steps", "1", "--threads", "2", "--checkpoint-seconds", "0", "--json"];
    let train = |bench: &Bench| cost(&[&["train", &bench.home()], &quick[..]].concat());
    let (few, many) = (train(&short), train(&long));
    let (few_said, many_said) = (few.json(), many.json());
    const MOST: usize = 4096;
    assert_eq!(
        (&few_said["beyond_most"], &many_said["beyond_most"]),
        (&(FEW - MOST).into(), &(MANY + 1 - MOST).into())
    );
    let share = many.anonymous.saturating_sub(few.anonymous);
    // What is known of a feedback item while its training reads, and not its input of 3 KiB.
    assert!(share < (MANY - FEW) as u64 * 1024, "{share} more for {} items: {few:?} {many:?}", MANY - FEW);
    assert!(many.read < 2 * all, "all is read once, and what teaches once more: {many:?} of {all}");
    let waiting: Value = serde_json::from_slice(&cost(&["status", &home, "--json"]).output.stdout).unwrap();
    assert_eq!(waiting["waiting"], 0, "{waiting}");
}

/// Prints what commands take with 100,000 interactions.
#[test]
#[ignore = "a measurement, for a quiet machine: scripts/year.sh"]
fn what_a_year_costs() {
    let count: usize = std::env::var("ACCLIMATE_YEAR").map_or(100_000, |n| n.parse().unwrap());
    let bench = Bench::new();
    let began = Instant::now();
    live_a_year(&bench, count);
    let (home, input) = (bench.home(), bench.input());
    println!(
        "{count} interactions with feedback: {} MiB of journal, written in {:.1} s\n",
        journal_bytes(&bench) / MIB,
        began.elapsed().as_secs_f64()
    );
    println!("| command | seconds | anonymous memory, MiB | read, MiB | written, MiB |\n|---|--:|--:|--:|--:|");
    for args in [
        &["status", &home][..],
        &["predict", &home, &input],
        &["feedback", &home, "last", "--label", "3"],
        &["history", &home],
        &["interactions", &home, "--limit", "5"],
        &["interactions", &home, "--flagged", "--limit", "5"],
        &["verify", &home],
        &["doctor", &home],
        &["adapt", &home, "--max-cpu-pressure", "100", "--max-memory-pressure", "100", "--json"],
        &["train", &home, "--json"],
        &["predict", &home, &input],
        &["forget", &home, "last"],
    ] {
        let cost = cost(args);
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        println!(
            "| `{}` | {:.2} | {:.0} | {:.1} | {:.1} |",
            args.iter().filter(|a| !a.contains('/')).copied().collect::<Vec<_>>().join(" "),
            cost.seconds,
            mib(cost.anonymous),
            mib(cost.read),
            mib(cost.written)
        );
    }
}
