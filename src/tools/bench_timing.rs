//! Runs something several times, and looks at the clock.

use std::time::Instant;

use crate::error::Result;

/// Several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Smallest.
    pub min: f64,
    /// Middle.
    pub median: f64,
    /// Processor time of all threads, on average: what other work on the machine disturbs least.
    pub cpu: f64,
}

impl Timing {
    /// Of one of `n` equal parts.
    pub(super) fn over(self, n: f64) -> Timing {
        Timing { min: self.min / n, median: self.median / n, cpu: self.cpu / n }
    }
}

pub(super) fn time(repeats: usize, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
    for _ in 0..2 {
        work()?;
    }
    let (mut runs, cpu) = (vec![], cpu_ms());
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        work()?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms() - cpu) / runs.len() as f64;
    runs.sort_by(f64::total_cmp);
    Ok(Timing { min: runs[0], median: runs[runs.len() / 2], cpu })
}

/// Processor time of this process so far, in steps of 10 ms; 0 where the system does not say.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything: the 12th and 13th fields are user and system time in hundredths of a
    // second.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() * 10.0
}
