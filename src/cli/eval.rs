//! `eval`: how often a profile answers a labelled set right.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
use acclimate::input::LabelledSet;
use clap::Args;
use serde_json::json;

use super::output::{Output, percent_1, skipped_json};
use super::{DeviceArg, ProfileArg, ThreadsArg};

/// Measure the base and the active generation on labelled data; nothing is recorded
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate eval home --data test.npz")]
pub struct Eval {
    /// The home
    home: PathBuf,
    /// .npz with x and y, .tsv of label and text, or a folder of pictures with one sub-folder per label
    #[arg(long, value_name = "D")]
    data: PathBuf,
    /// Only the examples of this user
    #[arg(long, value_name = "U")]
    user: Option<i64>,
    #[command(flatten)]
    profile: ProfileArg,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    device: DeviceArg,
}

impl Eval {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.known_session_on(&self.home, &self.device, output)?;
        let data = LabelledSet::read(&self.data)?;
        let data = self.user.map_or(Ok(data.clone()), |user| data.filter_user(user))?;
        let generation = session.status()?.generation;
        let a = acclimate::tools::score::evaluate(&session, &data, self.threads.or(session.home().config().threads()))?;
        let json = json!({ "n": a.n, "base_accuracy": a.base, "adapted_accuracy": a.adapted, "generation": generation,
                "unknown_labels": a.unknown, "skipped": skipped_json(data.skipped()) });
        output.skipped(data.skipped());
        if a.unknown > 0 {
            output.warn(format_args!(
                "{} of {} examples have a label that this profile does not know, and count as wrong",
                a.unknown, a.n
            ));
        }
        output.data(&json, || {
            let serves = if generation == 0 {
                "the base model is active".into()
            } else {
                format!("generation {generation} is active")
            };
            format!("base {}   adapted {}   on {} examples; {serves}", percent_1(a.base), percent_1(a.adapted), a.n)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
