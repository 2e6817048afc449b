//! `forget`: take something back for good, with everything that learned from it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use acclimate::store::{Forgotten, Selection};
use acclimate::{Error, Result, Session};
use clap::Args;
use serde_json::{Value, json};

use super::ProfileArg;
use super::output::Output;

/// Forget interactions for good: records, and generations that learned from them; then train again
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate forget home 7f3a\n  acclimate forget home --before 2026-01-31\n  acclimate forget home --all"
)]
pub struct Forget {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    what: WhatArg,
    #[command(flatten)]
    profile: ProfileArg,
    /// Leave the training for later; until then the base model, or an older generation, answers
    #[arg(long)]
    no_train: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhatArg {
    /// Ids that predict printed, or `last` for the latest
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Everything of this profile: all interactions, feedback, trainings and generations
    #[arg(long)]
    all: bool,
    /// Interactions before this date, in UTC: 2026-01-31
    #[arg(long, value_name = "DATE")]
    before: Option<String>,
}

impl WhatArg {
    fn selection(self, session: &Session) -> Result<Selection> {
        match self.before {
            Some(day) => beginning_of(&day).map(Selection::Before),
            None if self.all => Ok(Selection::All),
            None => {
                self.ids.iter().map(|id| super::interaction(session, id)).collect::<Result<_>>().map(Selection::Ids)
            }
        }
    }
}

impl Forget {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.repair_session(&self.home)?;
        let what = self.what.selection(&session)?;
        let forgotten = session.forget(&what)?;
        let again = !forgotten.generations.is_empty() && what != Selection::All && !self.no_train;
        let trained = if again { train(&session) } else { Ok(None) };
        // It is forgotten, whatever becomes of the training.
        let (training, failure) = trained.map_or_else(|e| (None, Some(e)), |training| (training, None));
        let data = json!({
            "forgotten": forgotten.interactions,
            "removed": forgotten.generations,
            "generation": session.current_generation()?,
            "training": training,
        });
        let home = self.home.display().to_string();
        output.data(&data, || for_people(&forgotten, training.as_ref(), &home))?;
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

#[cfg(feature = "train")]
fn train(session: &Session) -> Result<Option<Value>> {
    let stop = super::stop::on_signal()?;
    let options = acclimate::TrainOptions::default().stop(stop);
    let report = session.train(&options)?;
    Ok(Some(json!({
        "promoted": report.promoted,
        "generation": report.generation,
        "seconds": report.seconds,
        "reason": report.verdict.reason,
    })))
}

#[cfg(not(feature = "train"))]
fn train(_: &Session) -> Result<Option<Value>> {
    Ok(None)
}

fn for_people(forgotten: &Forgotten, training: Option<&Value>, home: &str) -> String {
    let mut text = match forgotten.interactions {
        1 => "forgot 1 interaction".to_string(),
        n => format!("forgot {n} interactions"),
    };
    let numbers: Vec<String> = forgotten.generations.iter().map(u64::to_string).collect();
    match numbers.as_slice() {
        [] => {}
        [one] => text += &format!("; generation {one} had learned from it and is gone"),
        _ => text += &format!("; generations {} had learned from it and are gone", numbers.join(", ")),
    }
    let name = |generation: u64| match generation {
        0 => "the base model is active".to_string(),
        n => format!("generation {n} is active"),
    };
    match training {
        Some(t) if t["promoted"] == true => {
            text += &format!("\ntrained again: {}", name(t["generation"].as_u64().unwrap_or_default()));
        }
        Some(t) => {
            let reason = t["reason"].as_str().unwrap_or_default();
            text += &format!("\ntrained again, not promoted, {}: {reason}", name(forgotten.generation));
        }
        None if forgotten.generations.is_empty() => {}
        None => {
            text += &format!("\n{} until the next `acclimate train {home}`", name(forgotten.generation));
        }
    }
    text
}

/// Unix milliseconds of the beginning of a day in UTC, from 1970 to 9999.
fn beginning_of(day: &str) -> Result<u64> {
    let no_date = || Error::usage(format!("{day:?} is not a date")).hint("give year-month-day, such as 2026-01-31");
    let time = humantime::parse_rfc3339_weak(&format!("{day} 00:00:00")).map_err(|e| no_date().because(e))?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| no_date().because("days are counted from 1970"))?;
    u64::try_from(since.as_millis()).map_err(|e| no_date().because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_printed() {
        for text in ["1970-01-01", "2000-02-29", "2024-12-31", "2026-03-01", "2100-03-01"] {
            let ms = beginning_of(text).unwrap();
            assert_eq!(super::super::output::date(ms), format!("{text} 00:00"));
        }
        for other in
            ["", "2026", "2026-13-01", "2026-00-01", "2023-02-29", "2100-02-29", "2026-1-0", "1969-12-31", "a-b-c"]
        {
            assert!(beginning_of(other).is_err(), "{other}");
        }
    }
}
