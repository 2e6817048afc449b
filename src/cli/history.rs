//! `history`: trainings with their verdicts, and the generations on disk.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
use acclimate::journal::TrainingEntry;
use acclimate::store::GenerationInfo;
use clap::Args;
use serde_json::{Value, json};

use super::ProfileArg;
use super::output::{Output, bytes, date, percent, table};

/// List the trainings with their verdicts, and the generations to roll back to
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate history home")]
pub struct History {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    profile: ProfileArg,
}

impl History {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.repair_session(&self.home)?;
        let (trainings, generations) = (session.history()?, session.generations()?);
        let data = json!({
            "trainings": trainings.iter().map(training_json).collect::<Vec<_>>(),
            "generations": generations.iter().map(generation_json).collect::<Vec<_>>(),
        });
        output.data(&data, || for_people(&trainings, &generations))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn training_json(t: &TrainingEntry) -> Value {
    let v = &t.verdict;
    json!({
        "at_ms": t.at_ms,
        "promoted": v.promoted,
        "generation": t.generation,
        "feedback": t.feedback_before,
        "steps": t.steps,
        "seconds": t.seconds,
        "validation": { "base": v.base_accuracy, "before": v.before, "after": v.after, "n": v.n },
        "retention": v.retention,
        "depth": v.depth.name(),
        "p_value": v.p_value,
        "power": v.power,
        "reason": v.reason,
    })
}

fn generation_json(g: &GenerationInfo) -> Value {
    let rolled_back = g.rolled_back.map(|cause| cause.words());
    let mut json =
        json!({ "generation": g.number, "active": g.current, "previous": g.previous, "rolled_back": rolled_back });
    match g.header() {
        Ok((header, length)) => {
            json["bytes"] = json!(length);
            json["parent"] = json!(header.lineage.parent);
            json["created_ms"] = json!(header.lineage.created_ms);
            json["examples"] = json!(header.lineage.examples);
            json["depth"] = json!(header.lineage.depth.name());
        }
        Err(e) => json["damaged"] = json!(e.to_string()),
    }
    json
}

fn for_people(trainings: &[TrainingEntry], generations: &[GenerationInfo]) -> String {
    if trainings.is_empty() && generations.is_empty() {
        return "no training yet: the base model is active".into();
    }
    let row = |t: &TrainingEntry| {
        let v = &t.verdict;
        let validation =
            if v.n > 0 { format!("{:.0} → {}", 100.0 * v.before, percent(v.after)) } else { String::new() };
        let outcome = t.generation.map_or_else(|| "not promoted".to_string(), |g| format!("generation {g}"));
        [
            date(t.at_ms),
            outcome,
            validation,
            t.feedback_before.to_string(),
            v.depth.name().to_string(),
            v.reason.clone(),
        ]
    };
    let header = ["when (UTC)", "outcome", "validation", "feedback", "depth", "reason"];
    let mut text = table(header, trainings.iter().map(row), header.len());
    let row = |g: &GenerationInfo| {
        let state = match (g.current, g.previous, g.rolled_back) {
            (true, ..) => "active",
            (.., Some(_)) => "rolled back automatically",
            (_, true, _) => "previous",
            _ => "",
        };
        let (size, from) = match g.header() {
            Ok((h, length)) => {
                (bytes(*length), format!("{}, {} feedback items", h.lineage.depth.name(), h.lineage.examples))
            }
            Err(e) => (String::new(), format!("damaged: {e}")),
        };
        [g.number.to_string(), state.to_string(), size, from]
    };
    if generations.is_empty() {
        text += "\n\nno generation on disk: the base model is active";
    } else {
        text += &format!("\n\n{}", table(["generation", "", "size", "learned"], generations.iter().map(row), 4));
    }
    text
}
