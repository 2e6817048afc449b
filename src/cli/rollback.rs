//! `rollback`: rolls back what was learned.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use acclimate::Result;
use clap::Args;
use serde_json::json;

use super::ProfileArg;
use super::output::Output;

/// Go back to the generation before, or to any other; 0 is the base model
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate rollback home\n  acclimate rollback home --to 0")]
pub struct Rollback {
    /// The home
    home: PathBuf,
    /// Generation to go to
    #[arg(long, value_name = "G")]
    to: Option<u64>,
    #[command(flatten)]
    profile: ProfileArg,
}

impl Rollback {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.repair_session(&self.home)?;
        let start = Instant::now();
        let previous = session.current_generation()?;
        let generation = session.rollback(self.to)?;
        let seconds = start.elapsed().as_secs_f64();
        let data = json!({ "generation": generation, "previous": previous, "seconds": seconds });
        output.data(&data, || match generation {
            0 => format!("the base model is active again; generation {previous} stays on disk"),
            n if previous == 0 => format!("generation {n} is active again"),
            n => format!("generation {n} is active; generation {previous} stays on disk"),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
