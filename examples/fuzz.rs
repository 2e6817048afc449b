//! Damages files and reads them, for as long as asked: `cargo run --release --example fuzz -- SECONDS
//! [TARGET]`, or `scripts/fuzz.sh`. Runs with the stable toolchain; `fuzz/` has the same targets for
//! cargo-fuzz, and `0 corpus` writes its seed corpus. A panic ends it, and so does an input that takes more
//! than [`LONGEST`] or lets the process grow past [`MOST`], with the number of the input that caused it: the
//! third argument goes on from there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[path = "../fuzz/targets.rs"]
#[allow(dead_code)] // some of it is for the other users of this file
mod targets;

/// The processor time that one input may take.
const LONGEST: Duration = Duration::from_secs(10);
/// The time it may take on a machine that has other things to do, or while it waits for something.
const WAITED: Duration = Duration::from_secs(60);
/// The memory that the process may hold, in bytes: what decompression is allowed, twice.
const MOST: u64 = 2 << 30;

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(10);
    let only = args.next().filter(|name| name != "all");
    let first: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    if only.as_deref() == Some("corpus") {
        return targets::write_seeds(Path::new("fuzz/corpus")).expect("the seeds are written");
    }
    let folder = targets::folder();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // What panics in a library and becomes an error.
        if !acclimate::process::in_guarded_call() {
            usual(info);
        }
    }));
    let chosen: Vec<_> = targets::ALL.iter().filter(|t| only.as_ref().is_none_or(|name| name == t.name)).collect();
    if chosen.is_empty() {
        eprintln!("no such target; there are: {}", targets::ALL.map(|t| t.name).join(", "));
        std::process::exit(2);
    }
    for target in chosen {
        run(target, folder.path(), Duration::from_secs(seconds), first);
    }
}

fn run(target: &targets::Target, folder: &Path, time: Duration, first: u64) {
    let (seeds, started) = ((target.seeds)(), Instant::now());
    let (mut n, mut accepted, mut longest) = (first, 0u64, (Duration::ZERO, first));
    let current = Arc::new(AtomicU64::new(first));
    watch(target.name, Arc::downgrade(&current));
    while started.elapsed() < time {
        current.store(n, Relaxed);
        let bytes = targets::input(target, &seeds, n);
        let began = Instant::now();
        let read = std::panic::catch_unwind(|| (target.read)(&bytes, folder));
        longest = longest.max((began.elapsed(), n));
        match read {
            Ok(outcome) => accepted += u64::from(outcome.is_ok()),
            Err(_) => {
                eprintln!("{} panics at input {n}", target.name);
                std::process::exit(1);
            }
        }
        n += 1;
    }
    let (time, at) = longest;
    println!(
        "{:<10} {:>9} files, {accepted} accepted, the longest took {time:.1?} (input {at})",
        target.name,
        n - first
    );
}

/// Ends the process when one input takes too long or too much, for as long as `current` lives.
fn watch(name: &'static str, current: std::sync::Weak<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut last, mut since, mut spent) = (u64::MAX, Instant::now(), processor_time());
        while let Some(n) = current.upgrade().map(|n| n.load(Relaxed)) {
            if n != last {
                (last, since, spent) = (n, Instant::now(), processor_time());
            }
            let (took, waited, resident) = (processor_time().saturating_sub(spent), since.elapsed(), resident());
            if took > LONGEST || waited > WAITED || resident > MOST {
                let held = resident >> 20;
                eprintln!("{name}: input {n} has taken {took:.1?} of a processor in {waited:.1?}, and {held} MiB");
                std::process::exit(1);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

/// Processor time of the process, of its own and of the system for it; 0 where the system does not say.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may have spaces. Times are in hundredths of a second.
    let ticks = |at: usize| stat.rsplit(')').next()?.split_whitespace().nth(at)?.parse::<u64>().ok();
    Duration::from_millis(10 * (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)))
}

/// Bytes of memory that the process holds; 0 where the system does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).map_or(0, |n| n * 4096)
}
