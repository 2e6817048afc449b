//! Runs something several times, and looks at the clock.

use std::time::Instant;

use crate::error::Result;

/// Several runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Smallest.
    pub min: f64,
    /// Middle.
    pub median: f64,
    /// Processor time of all threads, on average: what other work on the machine disturbs least.
    pub cpu: f64,
    /// Each run, in order.
    pub runs: Vec<f64>,
}

impl Timing {
    fn of(runs: Vec<f64>, cpu: f64) -> Timing {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        Timing { min: sorted[0], median: sorted[sorted.len() / 2], cpu, runs }
    }

    /// In another unit, or of a part of what was timed.
    pub(super) fn times(self, factor: f64) -> Timing {
        Timing::of(self.runs.iter().map(|t| t * factor).collect(), self.cpu * factor)
    }
}

/// How often something is timed.
#[derive(Debug, Clone, Copy)]
pub(in crate::tools) struct Repeats {
    /// Most runs, at least one.
    pub runs: usize,
    /// Time after which there are no more, if there are a few.
    pub seconds: Option<f64>,
}

impl Repeats {
    pub fn of(runs: usize) -> Repeats {
        Repeats { runs, seconds: None }
    }
}

/// Runs that there are, however long they take.
const A_FEW: usize = 3;

pub(super) fn time(repeats: Repeats, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
    let begun = Instant::now();
    let late = || repeats.seconds.is_some_and(|s| begun.elapsed().as_secs_f64() >= s);
    work()?;
    if !late() {
        work()?;
    }
    let (mut runs, cpu) = (vec![], cpu_ms());
    while runs.len() < repeats.runs.max(1) && !(late() && runs.len() >= A_FEW) {
        let start = Instant::now();
        work()?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms() - cpu) / runs.len() as f64;
    Ok(Timing::of(runs, cpu))
}

/// Processor time of this process so far, in steps of 10 ms; 0 where the system does not say.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything: the 12th and 13th fields are user and system time in hundredths of a
    // second.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() * 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_runs_as_asked_and_a_few_where_time_is_short() {
        let count = |repeats| {
            let mut calls = 0;
            let timing = time(repeats, || {
                calls += 1;
                Ok(())
            });
            (timing.unwrap().runs.len(), calls)
        };
        assert_eq!(count(Repeats::of(7)), (7, 9), "two to warm up");
        assert_eq!(count(Repeats { runs: 7, seconds: Some(0.0) }), (A_FEW, A_FEW + 1));
        assert_eq!(count(Repeats { runs: 1, seconds: Some(0.0) }).0, 1);
        let t = Timing::of(vec![3.0, 1.0, 2.0], 4.0).times(10.0);
        assert_eq!((t.min, t.median, t.cpu, t.runs), (10.0, 20.0, 40.0, vec![30.0, 10.0, 20.0]));
    }
}
