//! How much the work on this machine waits for what it lacks (PSI).

use super::files::Files;

/// Percent of the last 10 and 60 seconds in which some task waited, and in which all did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    pub some10: f64,
    pub some60: f64,
    pub full10: Option<f64>,
    pub full60: Option<f64>,
}

/// The pressure of each resource; None where the kernel does not count it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

pub(super) fn pressures(files: &Files) -> Pressures {
    let of = |resource: &str| pressure(&files.text(&format!("proc/pressure/{resource}"))?);
    Pressures { cpu: of("cpu"), memory: of("memory"), io: of("io") }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line `full` where tasks can wait all at once.
fn pressure(text: &str) -> Option<Pressure> {
    let share = |line: &str, key: &str| {
        let fields = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '))?;
        let value = fields.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='))?;
        value.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent))
    };
    Some(Pressure {
        some10: share("some", "avg10")?,
        some60: share("some", "avg60")?,
        full10: share("full", "avg10"),
        full60: share("full", "avg60"),
    })
}
