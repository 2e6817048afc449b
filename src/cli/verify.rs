//! `verify`: is everything there as it was acknowledged?

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::store::State;
use acclimate::{ErrorKind, Health, Home, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, table};

/// Check every file of a home; nothing is changed
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate verify home")]
pub struct Verify {
    /// The home
    home: PathBuf,
}

impl Verify {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let health = Home::verify(&self.home)?;
        let data = json!({ "ok": health.is_sound(), "files": as_json(&health) });
        let home = self.home.display().to_string();
        output.data(&data, || for_people(&health, &home))?;
        Ok(exit_code(&health))
    }
}

/// 0, or 65 where something is damaged.
pub(super) fn exit_code(health: &Health) -> ExitCode {
    if health.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::BadData.exit_code()) }
}

pub(super) fn as_json(health: &Health) -> Vec<Value> {
    let files = health.findings.iter();
    files.map(|f| json!({ "file": f.file, "state": f.state.name(), "what": f.what })).collect()
}

fn for_people(health: &Health, home: &str) -> String {
    let rows = health.findings.iter().map(|f| [f.state.name().to_string(), f.file.clone(), f.what.clone()]);
    let mut text = table(["", "file", ""], rows, 3);
    let damaged = health.findings.iter().filter(|f| f.state == State::Damaged).count();
    text += &match damaged {
        0 => "\n\nall is sound".to_string(),
        1 => format!("\n\n1 file is damaged; `acclimate repair {home}` keeps what can be kept"),
        n => format!("\n\n{n} files are damaged; `acclimate repair {home}` keeps what can be kept"),
    };
    text
}
