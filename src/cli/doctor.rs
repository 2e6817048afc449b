//! `doctor`: are this device, its disk and a home fit for learning?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::device::Linux;
use acclimate::tools::doctor::{self, Check, Figures, State};
use acclimate::{ErrorKind, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, printable, table};
use super::{DEFAULT_PROFILE, ProfileArg};

/// Exit code where a check failed.
const FAILED: u8 = 1;

/// Check the device, its disk, and whether training fits it; say what to do where something is wrong
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate doctor home\n\n\
                  Exit code 1 when a check fails, also when there is no home; warnings exit 0.")]
pub struct Doctor {
    /// A home: it is opened, two training steps are timed, and a small file is written and taken away
    home: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArg,
}

impl Doctor {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let sensors = Linux::here();
        let here = Path::new(".");
        let mut checks = doctor::device(&sensors, self.home.as_deref().unwrap_or(here));
        checks.push(doctor::gpu());
        let figures = match &self.home {
            Some(home) => {
                if self.profile.profile != DEFAULT_PROFILE && home.join("acclimate.toml").is_file() {
                    // What else is wrong with the home is a check.
                    match self.profile.known_home(home) {
                        Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
                        _ => {}
                    }
                }
                let (more, figures) = doctor::home(&sensors, home, &self.profile.profile);
                checks.extend(more);
                Some(figures)
            }
            None => None,
        };
        let worst = doctor::worst(&checks);
        let data = json!({
            "state": worst.name(),
            "checks": checks.iter().map(as_json).collect::<Vec<_>>(),
            "home": figures.as_ref().map(figures_json),
        });
        output.data(&data, || for_people(&checks))?;
        Ok(if worst == State::Fail { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}

fn as_json(check: &Check) -> Value {
    json!({ "name": check.name, "state": check.state.name(), "value": check.value, "next": check.next })
}

fn figures_json(f: &Figures) -> Value {
    let ms = |seconds: Option<f64>| seconds.map(|s| 1e3 * s);
    json!({
        "predict_ms": ms(f.predict_seconds),
        "predict_memory_bytes": f.predict_memory_bytes,
        "answers": f.answers,
        "answers_are_assumed": f.answers_are_assumed,
        "train_memory_bytes": f.train_memory_bytes,
        "free_memory_bytes": f.free_memory_bytes,
        "step_ms": ms(f.step_seconds),
        "step_examples": f.step_examples,
        "train_seconds": f.train_seconds,
    })
}

fn for_people(checks: &[Check]) -> String {
    let row = |c: &Check| [c.state.name().to_string(), c.name.to_string(), printable(&c.value)];
    let mut text = table(["", "check", ""], checks.iter().map(row), 3);
    let wrong: Vec<&Check> = checks.iter().filter(|c| c.state != State::Ok).collect();
    if wrong.is_empty() {
        return text + "\n\nnothing is wrong";
    }
    text += "\n\nwhat to do:\n";
    for check in wrong {
        text += &format!("  {}: {}\n", check.name, check.next.as_deref().unwrap_or_default());
    }
    text
}
