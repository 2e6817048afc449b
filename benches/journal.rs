//! What a long life costs: `cargo bench --bench journal`. For journals of 1,000, 100,000 and 1,000,000 interactions, or
//! as many as `ACCLIMATE_INTERACTIONS` says (`10000000`), the time to open one, the memory that this takes, and the
//! time of an append, of a feedback on an old interaction, with and without the look at the latest feedback that a
//! session takes, and of reading an old input.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acclimate::Result;
use acclimate::disk::RealDisk;
use acclimate::journal::{FeedbackKind, InteractionId, Journal, JournalWriter, Record, StoredInput};

/// Resident memory in KiB, where the system tells.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0)
}

fn input(bytes: usize) -> StoredInput {
    StoredInput::Text("x".repeat(bytes))
}

/// The generation that gave all answers, and how many that got feedback a session reads after each feedback.
const GENERATION: u64 = 1;
const LATEST: usize = 64;

/// A journal of `interactions`; every tenth gets feedback, a few later.
fn write(path: &Path, interactions: u32, bytes: usize) -> Result<()> {
    JournalWriter::create(&RealDisk, path, 1)?;
    let mut writer = JournalWriter::open(Arc::new(RealDisk), path)?;
    for n in 0..interactions {
        let top = vec![("turn on".to_string(), 0.5), ("turn off".to_string(), 0.3)];
        writer.append(Record::Interaction {
            id: InteractionId(n),
            at_ms: 1,
            input: input(bytes),
            top,
            generation: GENERATION,
        })?;
        if n % 10 == 9 {
            let kind = FeedbackKind::Label("turn off".into());
            writer.append(Record::Feedback { id: InteractionId(n - 5), at_ms: 1, kind })?;
        }
        if writer.is_full() {
            writer.seal()?;
        }
    }
    writer.sync()
}

fn open(folder: &Path) -> Result<Journal> {
    let (path, lock) = (folder.join("journal.log"), folder.join("journal.lock"));
    let mut journal = Journal::open(Arc::new(RealDisk), &path, &lock, Duration::from_secs(1), 1)?;
    // The default drops what nobody spoke about beyond 512 MiB.
    journal.set_limit(u64::MAX);
    Ok(journal)
}

fn each(n: u32, mut work: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let mut took = vec![];
    for i in 0..n {
        let start = Instant::now();
        work(i)?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

/// Says to the process that measures where the journal is.
const FOLDER: &str = "ACCLIMATE_JOURNAL_FOLDER";

/// Writes a journal, and measures in a process of its own, whose memory has seen nothing else.
fn measure(interactions: u32, bytes: usize) -> Result<()> {
    let here = Path::new(".");
    let folder = tempfile::tempdir().map_err(|e| acclimate::Error::io("cannot make a folder", here, e))?;
    write(&folder.path().join("journal.log"), interactions, bytes)?;
    let ran = std::env::current_exe().and_then(|program| {
        let args = [interactions.to_string(), bytes.to_string()];
        std::process::Command::new(program).args(args).env(FOLDER, folder.path()).status()
    });
    ran.map(drop).map_err(|e| acclimate::Error::io("cannot measure", here, e))
}

fn measure_here(folder: &Path, interactions: u32, bytes: usize) -> Result<()> {
    let (before, start) = (resident(), Instant::now());
    let mut journal = open(folder)?;
    let (opened, memory) = (start.elapsed(), resident() - before);
    let (mib, segments) = (journal.writer().bytes() >> 20, journal.state().segments().len());
    let top = || vec![("turn on".to_string(), 0.5)];
    let append = each(1000, |_| journal.record_interaction(1, input(bytes), top(), 0).map(drop))?;
    // Of ids that nobody spoke about yet, from all over the journal.
    let old = |i: u32| InteractionId(interactions / 50 * (i % 50) / 10 * 10 + i / 50);
    let speak = each(50, |i| journal.record_feedback(old(i), 2, FeedbackKind::Accept).map(drop))?;
    // What a session asks after each feedback, to watch over the active generation; the first time it reads back.
    let start = Instant::now();
    journal.latest_feedback(GENERATION, LATEST)?;
    let first = start.elapsed().as_secs_f64() * 1e6;
    let watched = each(50, |i| {
        journal.record_feedback(old(i + 50), 2, FeedbackKind::Accept)?;
        journal.latest_feedback(GENERATION, LATEST).map(drop)
    })?;
    let start = Instant::now();
    let feedback = journal.state().all_feedback().map(|f| f.map(drop)).collect::<Result<Vec<()>>>()?.len();
    let all = start.elapsed().as_secs_f64() * 1e6;
    let read = each(500, |i| journal.input(old(i % 50)).map(drop))?;
    println!(
        "{interactions:>9} of {bytes:>4} bytes, {mib:>4} MiB in {segments:>3} segments: opened in {:>6.1} ms with {memory:>6.0} KiB; \
         append {append:>5.1} µs, feedback {speak:>6.1} µs, with a look at the latest {LATEST} {watched:>6.1} µs \
         (the first look {first:>7.1} µs; reading all {feedback} would take {all:>9.1} µs), \
         an old input {read:>5.1} µs",
        opened.as_secs_f64() * 1e3
    );
    Ok(())
}

fn main() -> Result<()> {
    let number = |at: usize| std::env::args().nth(at).and_then(|n| n.parse().ok());
    if let (Some(folder), Some(interactions), Some(bytes)) = (std::env::var_os(FOLDER), number(1), number(2)) {
        return measure_here(Path::new(&folder), interactions, bytes as usize);
    }
    let asked = std::env::var("ACCLIMATE_INTERACTIONS").ok().and_then(|n| n.parse().ok());
    match asked {
        Some(n) => measure(n, 20),
        None => [(1_000, 20), (100_000, 20), (1_000_000, 20), (20_000, 3072)]
            .into_iter()
            .try_for_each(|(n, b)| measure(n, b)),
    }
}
