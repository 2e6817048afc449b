//! `status`: where a profile stands.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::runtime::{WrittenDay, WrittenToday};
use acclimate::{Home, Result};
use clap::Args;
use serde_json::json;

use super::ProfileArg;
use super::output::{Output, bytes, date};

/// Show which generation is active, and how much feedback there is
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate status home")]
pub struct Status {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    profile: ProfileArg,
}

impl Status {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.known_session(&self.home)?;
        let s = session.status()?;
        let home = session.home();
        let profiles = home.profiles()?;
        let days = session.written()?;
        let WrittenToday { bytes: home_today, budget } = Home::written_today(&self.home)?;
        let written_today = days.first().map_or(0, WrittenDay::bytes);
        let written: Vec<_> = days
            .iter()
            .map(|d| json!({ "day": date(d.start_ms), "records": d.records, "trainings": d.trainings }))
            .collect();
        let data = json!({
            "home": home.path().display().to_string(),
            "profile": self.profile.profile,
            "profiles": profiles,
            "fingerprint": home.config().fingerprint,
            "task": home.config().task,
            "generation": s.generation,
            "probation_left": s.probation_left,
            "rolled_back": s.rolled_back.map(|t| json!({ "generation": t.generation, "reason": t.cause.words() })),
            "interactions": s.interactions,
            "feedback": s.feedback,
            "waiting": s.waiting,
            "ignored": s.ignored,
            "classes": s.classes,
            "adapter_bytes": s.adapter_bytes,
            "written_today": written_today,
            "home_written_today": home_today,
            "write_budget": budget,
            "written": written,
        });
        output.data(&data, || {
            let serves = match (s.generation, s.probation_left) {
                (0, _) => "the base model".to_string(),
                (n, 0) => format!("generation {n}, {}", bytes(s.adapter_bytes)),
                (n, left) => {
                    format!("generation {n}, {}, on probation for {left} more answers", bytes(s.adapter_bytes))
                }
            };
            let rolled_back = s.rolled_back.map(|t| {
                format!("\n          generation {} was rolled back automatically: {}", t.generation, t.cause.words())
            });
            let several = profiles.len() > 1;
            let of_all = if several { format!(", {} of all profiles", bytes(home_today)) } else { String::new() };
            let budget = budget.map_or(String::new(), |budget| format!(", trainings wait from {} on", bytes(budget)));
            let ignored = if s.ignored > 0 { format!(", {} ignored", s.ignored) } else { String::new() };
            format!(
                "profile   {} of {}\nactive    {serves}{}\nclasses   {}\n\
                 feedback  {} on {} interactions, {} that the last training did not read{ignored}\n\
                 written   {} today{of_all}{budget}",
                self.profile.profile,
                profiles.join(", "),
                rolled_back.unwrap_or_default(),
                s.classes,
                s.feedback,
                s.interactions,
                s.waiting,
                bytes(written_today)
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
