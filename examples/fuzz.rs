//! Damages files and reads them, for as long as asked: `cargo run --release --example fuzz -- SECONDS [TARGET]`, or
//! `scripts/fuzz.sh`. Runs with the stable toolchain; `fuzz/` has the same targets for cargo-fuzz, and `0 corpus` writes its seed corpus. A panic ends it, with the
//! number of the input that caused it: the third argument goes on from there.

use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../fuzz/targets.rs"]
#[allow(dead_code)] // some of it is for the other users of this file
mod targets;

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
        if !acclimate::base::in_guarded_call() {
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
    let (mut n, mut accepted, mut longest) = (first, 0u64, Duration::ZERO);
    while started.elapsed() < time {
        let bytes = targets::input(target, &seeds, n);
        let began = Instant::now();
        let read = std::panic::catch_unwind(|| (target.read)(&bytes, folder));
        longest = longest.max(began.elapsed());
        match read {
            Ok(outcome) => accepted += u64::from(outcome.is_ok()),
            Err(_) => {
                eprintln!("{} panics at input {n}", target.name);
                std::process::exit(1);
            }
        }
        n += 1;
    }
    println!("{:<10} {:>9} files, {accepted} accepted, the longest took {longest:.1?}", target.name, n - first);
}
