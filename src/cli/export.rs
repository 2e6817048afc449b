//! `export`: what was learned, for other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
use clap::Args;
use serde_json::json;

use super::ProfileArg;
use super::output::{Output, bytes};

/// Write what serves now as one ONNX file that any runtime can use
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate export home --merged mine.onnx")]
pub struct Export {
    /// The home
    home: PathBuf,
    /// File to write: the base with everything learned merged into its weights
    #[arg(long, value_name = "OUT.onnx", required = true)]
    merged: PathBuf,
    #[command(flatten)]
    profile: ProfileArg,
}

impl Export {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.known_session(&self.home)?;
        let written = acclimate::export::merged(&session, &self.merged)?;
        let path = written.path.display().to_string();
        let data = json!({ "written": path, "bytes": written.bytes });
        output.data(&data, || format!("{path}, {}", bytes(written.bytes)))?;
        Ok(ExitCode::SUCCESS)
    }
}
