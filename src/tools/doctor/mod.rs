//! Whether a device, and the disk and the home on it, are fit for learning; and what to do where they are not.

mod conditions;
mod gpu;
mod home;
mod memory;
#[cfg(feature = "train")]
mod need;
mod processor;
mod storage;
#[cfg(test)]
mod tests;
#[cfg(feature = "train")]
mod training;
#[cfg(not(feature = "train"))]
mod untrained;

use std::path::Path;

#[cfg(not(feature = "train"))]
use untrained as training;

use crate::device::Sensors;
use crate::error::Error;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ok,
    /// It works, and not as well or as safely as it could.
    Warn,
    /// It does not work, or will soon do damage.
    Fail,
}

impl State {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found, for people.
    pub value: String,
    /// What to do, in a sentence; none where nothing is to be done.
    pub next: Option<String>,
}

impl Check {
    fn ok(name: &'static str, value: impl Into<String>) -> Check {
        Check { name, state: State::Ok, value: value.into(), next: None }
    }
    fn warn(name: &'static str, value: impl Into<String>, next: impl Into<String>) -> Check {
        Check { name, state: State::Warn, value: value.into(), next: Some(next.into()) }
    }
    fn fail(name: &'static str, value: impl Into<String>, next: impl Into<String>) -> Check {
        Check { name, state: State::Fail, value: value.into(), next: Some(next.into()) }
    }
    fn unknown(name: &'static str) -> Check {
        Check::ok(name, "not known")
    }
    /// Of what could not be looked at, with what the error says to do.
    fn refused(name: &'static str, e: &Error) -> Check {
        Check::fail(name, e.to_string(), e.next_step().unwrap_or("run `acclimate verify` on the home"))
    }
}

/// What was measured and estimated of a home, for programs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// One prediction, seconds; of a language model one token of an answer.
    pub predict_seconds: Option<f64>,
    /// Memory of the process after it, bytes.
    pub predict_memory_bytes: Option<u64>,
    /// Answers with feedback that the training learns from; so many are assumed where there is less.
    pub answers: usize,
    pub answers_are_assumed: bool,
    /// Estimate of the memory of a training, and what is free now.
    pub train_memory_bytes: Option<u64>,
    pub free_memory_bytes: Option<u64>,
    /// A training step, measured; and the examples that it trains on.
    pub step_seconds: Option<f64>,
    pub step_examples: Option<usize>,
    /// Estimate of the whole training.
    pub train_seconds: Option<f64>,
}

/// The state of the worst check.
pub fn worst(checks: &[Check]) -> State {
    checks.iter().map(|check| check.state).max().unwrap_or(State::Ok)
}

/// Looks at the device, and at the disk under `path`.
pub fn device(sensors: &dyn Sensors, path: &Path) -> Vec<Check> {
    let mut checks = processor::checks(sensors);
    checks.extend(memory::checks(sensors));
    checks.extend(storage::checks(sensors, path));
    checks.extend(conditions::checks(sensors));
    checks
}

/// Looks for the GPU that plans may run on.
pub fn gpu() -> Check {
    gpu::check()
}

/// Looks at the home in `path`: whether it takes writes and opens, what a prediction costs, and whether a training on
/// the feedback of `profile` fits this machine and how long it takes. What is wrong is a check, also that it is no
/// home.
pub fn home(sensors: &dyn Sensors, path: &Path, profile: &str) -> (Vec<Check>, Figures) {
    let (mut checks, mut figures, opened) = home::checks(sensors, path, profile);
    if let Some((home, answers)) = opened {
        checks.extend(training::checks(&home, answers, sensors.memory().swap_free, &mut figures));
    }
    (checks, figures)
}

/// `123456` as `121 KiB`.
fn bytes(n: u64) -> String {
    let n_f = n as f64;
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.0} KiB", n_f / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.0} MiB", n_f / 1_048_576.0),
        _ => format!("{:.1} GiB", n_f / 1_073_741_824.0),
    }
}

/// Seconds in the unit that people would use.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", (1e3 * s).max(1.0)),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
