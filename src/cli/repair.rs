//! `repair`: keep what can be kept, put the rest aside.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::store::State;
use acclimate::{Home, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::Output;
use super::verify::exit_code;

/// Keep all that can be kept of damaged files, and put them as they are into the quarantine; nothing is deleted
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate repair home")]
pub struct Repair {
    /// The home
    home: PathBuf,
}

impl Repair {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let done = Home::repair(&self.home)?;
        let health = Home::verify(&self.home)?;
        let left: Vec<_> = health.findings.iter().filter(|f| f.state == State::Damaged).collect();
        let data = json!({
            "ok": health.is_sound(),
            "repaired": done
                .iter()
                .map(|r| json!({ "file": r.file, "what": r.what, "quarantined": r.quarantined }))
                .collect::<Vec<Value>>(),
            "left": left.iter().map(|f| json!({ "file": f.file, "what": f.what })).collect::<Vec<Value>>(),
        });
        output.data(&data, || {
            let one = |r: &acclimate::store::Repair| match r.quarantined.as_str() {
                "" => format!("{}: {}", r.file, r.what),
                kept => format!("{}: {}\n  as it was: {kept}", r.file, r.what),
            };
            let mut lines: Vec<String> = done.iter().map(one).collect();
            lines.extend(left.iter().map(|f| {
                format!("{}: cannot be repaired: {}\n  next: put the file back from where it came from", f.file, f.what)
            }));
            if lines.is_empty() { "all is sound: nothing to repair".to_string() } else { lines.join("\n") }
        })?;
        Ok(exit_code(&health))
    }
}
