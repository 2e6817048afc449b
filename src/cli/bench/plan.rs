//! What a suite runs: shapes of each kind of model, threads, and how long.

use std::time::Duration;

use acclimate::process::available_cores;
use acclimate::tools::bench::Kind;

/// How thorough a suite is.
pub struct Plan {
    pub quick: bool,
    pub rounds: usize,
    repeats: usize,
    /// Time of a measurement, seconds.
    seconds: f64,
    /// Longest that one part may take.
    pub longest: Duration,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub what: &'static str,
    pub batch: usize,
    pub sequence: usize,
    pub threads: usize,
}

impl Job {
    /// In words, for a reason or for progress.
    pub fn words(&self) -> String {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        match self.sequence {
            0 => format!("{} of {}, {threads}", self.what, self.batch),
            sequence => format!("{} of {}×{sequence}, {threads}", self.what, self.batch),
        }
    }
}

impl Plan {
    pub fn new(quick: bool) -> Plan {
        match quick {
            true => Plan { quick, rounds: 2, repeats: 8, seconds: 0.12, longest: Duration::from_secs(60) },
            false => Plan { quick, rounds: 3, repeats: 20, seconds: 2.0, longest: Duration::from_secs(900) },
        }
    }

    /// One thread and all cores.
    fn threads() -> Vec<usize> {
        let mut threads = vec![1, available_cores()];
        threads.dedup();
        threads
    }

    /// The processes of one round of a model.
    pub fn jobs(&self, kind: Kind) -> Vec<Job> {
        let shapes = match kind {
            Kind::Arrays => [(1, 0), (8, 0)],
            Kind::Sequences => [(1, 32), (8, 64)],
            Kind::LanguageModel => [(1, 128), (1, 256)],
        };
        let all = available_cores();
        let mut jobs = vec![];
        for (batch, sequence) in shapes.into_iter().take(if self.quick { 1 } else { 2 }) {
            let job = |what, threads| Job { what, batch, sequence, threads };
            jobs.extend(Plan::threads().into_iter().map(|threads| job("times", threads)));
            jobs.push(job("memory", all));
        }
        let (batch, sequence) = shapes[0];
        jobs.push(Job { what: "beside", batch, sequence, threads: all });
        jobs
    }

    /// The arguments of a process.
    pub fn arguments(&self, job: &Job) -> Vec<String> {
        let flags = [
            ("--batch", job.batch.to_string()),
            ("--seq", job.sequence.max(1).to_string()),
            ("--threads", job.threads.to_string()),
            ("--repeats", self.repeats.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]);
        [job.what.to_string(), "--mapped".to_string()].into_iter().chain(flags).collect()
    }
}
