//! `train`: learn from the feedback, if that makes the answers better.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::adapt::{LanguageFound, Progress, ValidationLoss};
use acclimate::gate::retention::Retention;
use acclimate::runtime::{
    Checkpoints, Chosen, Corrections, Demonstrations, NotHeld, Swapped, TrainOptions, TrainReport,
};
use acclimate::store::PROBATION;
use acclimate::{Error, Result, Session};
use clap::Args;
use serde_json::{Value, json};

use super::generate::conversations;
use super::limits::LimitsArg;
use super::output::{Output, bytes, date, duration, instant, percent, printable};
use super::{DeviceArg, ProfileArg, ThreadsArg, stop};

/// Learn from the feedback; what was learned becomes active only if it proves better on feedback that it has not seen
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate train home --budget-seconds 60")]
pub struct Train {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    profile: ProfileArg,
    /// Of a language model: conversations whose answers are recorded first and learned from, a .jsonl with
    /// {"messages": [{"role", "content"}, ...]} in each line
    #[arg(long, value_name = "D")]
    data: Option<PathBuf>,
    /// Most optimiser steps of one fit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    #[command(flatten)]
    limits: LimitsArg,
    /// Seed of everything random; the home's when not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Time between checkpoints, from which a training that is cut off goes on; 0 for none
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    checkpoint_seconds: f64,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    device: DeviceArg,
    /// Greatest share of uncorrected answers that may change, 0 to 1; the home's when not given
    #[arg(long, value_name = "X")]
    disagreement_limit: Option<f64>,
}

impl Train {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        if let Some(limit) = self.disagreement_limit.filter(|l| !(0.0..=1.0).contains(l)) {
            return Err(
                Error::usage(format!("a disagreement limit of {limit}")).hint("choose 0 to 1; 0.1 is the default")
            );
        }
        let checkpoints = match self.checkpoint_seconds {
            0.0 => Checkpoints::Never,
            s => Checkpoints::Every(duration(s, "between checkpoints")?),
        };
        let stop = stop::on_signal()?;
        let session = self.profile.known_session_on(&self.home, &self.device, output)?;
        let mut settings = session.settings();
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.threads = self.threads.or(settings.threads);
        settings.steps = self.steps;
        settings.limits.disagreement = self.disagreement_limit.unwrap_or(settings.limits.disagreement);

        let demonstrations = match &self.data {
            Some(file) => Some(demonstrate(&session, file, output)?),
            None => None,
        };
        let bar = output.bar(1000);
        let progress = |p: Progress| {
            bar.set_message(p.stage);
            bar.set_position((1000.0 * p.done.clamp(0.0, 1.0)) as u64);
        };
        let limits = self.limits.or(session.home().config().limits);
        if limits.memory_bytes.is_some() {
            crate::cli::allocator::return_freed();
        }
        let options = TrainOptions::default()
            .settings(settings)
            .limits(limits)
            .stop(stop)
            .checkpoints(checkpoints)
            .progress(&progress);
        let report = session.train(&options);
        bar.finish_and_clear();
        let report = report?;
        let v = &report.verdict;
        let changed = Retention::from_share(v.retention, v.retention_n);
        let data = json!({
            "promoted": report.promoted,
            "generation": report.generation,
            "steps": report.steps,
            "resumed_steps": report.resumed_steps,
            "seconds": report.seconds,
            "superseded": report.superseded,
            "ignored": report.ignored,
            "beyond_most": report.beyond(),
            "too_long": report.too_long(),
            "swapped": report.swaps().iter().map(swapped_json).collect::<Vec<_>>(),
            "contradicting": report.contradicting,
            "only_label": report.only_label,
            "validation": { "base": v.base_accuracy, "before": v.before, "after": v.after, "n": v.n },
            "retention": v.retention,
            "retention_n": v.retention_n,
            "retention_bounds": [1.0 - changed.upper, 1.0 - changed.lower],
            "depth": v.depth.name(),
            "p_value": v.p_value,
            "power": v.power,
            "reason": v.reason,
            "tried": report.tried,
            "may_change": report.may_change.as_ref().map(|pairs| pairs.iter().map(may_change).collect::<Vec<_>>()),
            "corrections": report.corrections().map(corrections_json),
            "loss": report.loss().map(loss_json),
            "calibration": report.calibration().map(|c| json!({
                "temperature": c.temperature,
                "ece_before": c.ece_before,
                "ece_after": c.ece_after,
                "n": c.n,
            })),
            "choice": report.choice().map(choice),
            "language": report.language().map(language),
            "demonstrations": demonstrations.map(|d| json!({
                "recorded": d.recorded,
                "known": d.known,
                "unfit": d.unfit,
                "reason": d.reason,
            })),
        });
        let flags = self.profile.as_flag();
        output.data(&data, || for_people(&report, &format!("{}{flags}", self.home.display())))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Records the answers of the conversations in `file`.
fn demonstrate(session: &Session, file: &Path, output: &Output) -> Result<Demonstrations> {
    if !session.home().generates() {
        return Err(Error::usage("--data is for language models; the model of this home answers with classes")
            .at(file.display())
            .hint("answer with `acclimate predict`, and say what is right with `acclimate feedback`"));
    }
    let found = session.record_demonstrations(&conversations(file)?).map_err(|e| e.within(file.display()))?;
    let known = if found.known > 0 { format!("; {} were known", found.known) } else { String::new() };
    output.note(format_args!("{} answers of {} were recorded{known}", found.recorded, file.display()));
    if let Some(reason) = &found.reason {
        output.warn(format_args!("{} answers of {} cannot be learned: {reason}", found.unfit, file.display()));
    }
    Ok(found)
}

/// Changes that a line names.
const SHOWN_CHANGES: usize = 4;

/// Mean losses on the validation split.
pub(super) fn loss_json(loss: ValidationLoss) -> Value {
    json!({ "base": loss.base, "after": loss.after })
}

fn choice(chosen: &Chosen) -> Value {
    json!({
        "reason": chosen.reason,
        "reachable": chosen.reachable,
        "rank": chosen.rank,
        "micro_batch": chosen.micro_batch,
        "gradient_checkpointing": chosen.gradient_checkpointing,
        "memory_bytes": chosen.memory_bytes,
        "seconds": chosen.seconds,
        "sites": chosen.sites.iter().map(|s| json!({ "name": s.name, "share": s.share })).collect::<Vec<_>>(),
    })
}

fn swapped_json(s: &Swapped) -> Value {
    json!({
        "labels": [s.labels.0, s.labels.1],
        "since": s.since.to_string(),
        "since_at": instant(s.since_ms),
        "left_out": s.left_out.len(),
    })
}

fn may_change((from, to): &(String, String)) -> Value {
    json!({ "from": from, "to": to })
}

/// "standing to sitting, walking to upstairs", the first few.
fn changes(pairs: &[(String, String)]) -> String {
    let shown: Vec<String> = pairs.iter().take(SHOWN_CHANGES).map(|(from, to)| format!("{from} to {to}")).collect();
    match pairs.len().saturating_sub(SHOWN_CHANGES) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

fn items(n: usize) -> String {
    if n == 1 { "1 feedback item".into() } else { format!("{n} feedback items") }
}

/// What holds of the feedback that the new generation learned from.
fn corrections_json(c: &Corrections) -> Value {
    let one = |n: &NotHeld| {
        json!({
            "id": n.id.to_string(),
            "kind": n.kind,
            "label": n.label,
            "answer": { "label": n.answer.label, "p": n.answer.p },
            "p": n.p,
            "why": n.why.name(),
            "reason": n.reason,
        })
    };
    json!({ "held": c.held, "of": c.of, "not_held": c.not_held.iter().map(one).collect::<Vec<_>>() })
}

/// The count, and the first that do not hold; `home` is what a command about them begins with.
fn corrections(c: &Corrections, home: &str) -> Vec<String> {
    const SHOWN: usize = 5;
    let one = |n: &NotHeld| {
        let said = match (n.kind, &n.label) {
            (kind, Some(label)) => format!("{kind} {}", printable(label)),
            (kind, None) => kind.to_string(),
        };
        let (answer, reason) = (printable(&n.answer.label), printable(&n.reason));
        format!("interaction {} ({said}) is answered {answer}: {reason}", n.id)
    };
    let count = format!("{} of {} corrections hold", c.held, c.of);
    if let [only] = &c.not_held[..] {
        return vec![format!("{count}; {}", one(only))];
    }
    let mut lines = vec![count];
    lines.extend(c.not_held.iter().take(SHOWN).map(|n| format!("  {}", one(n))));
    match c.not_held.len().saturating_sub(SHOWN) {
        0 => {}
        more => lines.push(format!("  and {more} more: `acclimate interactions {home} --flag not-held`")),
    }
    lines
}

/// What judged a language model.
pub(super) fn language(found: &LanguageFound) -> Value {
    let r = found.retention;
    json!({
        "closer": found.calls.better,
        "further": found.calls.worse,
        "n": found.calls.n,
        "conversations": found.conversations,
        "strength": found.strength,
        "perplexity": r.and_then(|r| r.perplexity).map(|[base, after]| json!({ "base": base, "after": after })),
        "kl": r.map(|r| r.kl),
    })
}

/// Trains within a conversation; what to say about it.
pub(super) fn in_chat(session: &Session, output: &Output) -> Result<String> {
    let bar = output.bar(1000);
    let progress = |p: Progress| {
        bar.set_message(p.stage);
        bar.set_position((1000.0 * p.done.clamp(0.0, 1.0)) as u64);
    };
    let stop = stop::on_signal()?;
    let limits = session.home().limits();
    let report = session.train(&TrainOptions::default().limits(limits).stop(stop).progress(&progress));
    stop::at_rest();
    bar.finish_and_clear();
    Ok(for_people(&report?, &session.home().path().display().to_string()))
}

/// The outcome of a training of a language model.
fn of_language(report: &TrainReport, lines: &mut Vec<String>) {
    let v = &report.verdict;
    lines.extend(report.tried.iter().map(|t| format!("  {t}")));
    if report.promoted {
        lines.push(format!("{}   generation {} is on probation for {PROBATION} answers", v.reason, report.generation));
        if let Some(r) = report.language().and_then(|found| found.retention).filter(|r| r.tokens > 0) {
            let prose = r.perplexity.map_or(String::new(), |[before, after]| {
                format!("; perplexity of neutral text {before:.2} → {after:.2}")
            });
            lines.push(format!(
                "of texts that nobody complained about {} of {} tokens stay{prose}",
                percent(v.retention),
                v.retention_n
            ));
        }
        return;
    }
    let serves = match report.generation {
        0 => "the base model goes on serving".to_string(),
        n => format!("generation {n} goes on serving"),
    };
    lines.push(format!("not promoted, {serves}: {}", v.reason));
}

fn for_people(report: &TrainReport, home: &str) -> String {
    let v = &report.verdict;
    let mut lines = vec![];
    if let Some(c) = report.choice() {
        let time = c.seconds.map_or(String::new(), |s| format!(" and {s:.0} s"));
        lines.push(format!(
            "{} of {} layers may adapt at rank {}, about {}{time}: {}",
            c.sites.len(),
            c.reachable,
            c.rank,
            bytes(c.memory_bytes),
            c.reason
        ));
    }
    if report.resumed_steps > 0 {
        lines.push(format!("went on from an earlier run after {} of {} steps", report.resumed_steps, report.steps));
    }
    if report.superseded > 0 {
        lines.push(format!(
            "{} left out: newer feedback on the same input says otherwise (superseded)",
            items(report.superseded)
        ));
    }
    if report.ignored > 0 {
        lines.push(format!("{} left out, as told (ignored)", items(report.ignored)));
    }
    if report.beyond() > 0 {
        lines.push(format!(
            "{} left out: there is more than a training takes; it took the newest, and older ones of each class",
            items(report.beyond())
        ));
    }
    if report.too_long() > 0 {
        lines.push(format!(
            "{} left out: the texts are too long for the memory that the training may take (--memory)",
            items(report.too_long())
        ));
    }
    for s in report.swaps() {
        lines.push(format!(
            "{} and {} swap their meaning from interaction {} on ({} UTC): the newer counts, {} from before left out",
            printable(&s.labels.0),
            printable(&s.labels.1),
            s.since,
            date(s.since_ms),
            items(s.left_out.len())
        ));
    }
    if report.of_texts {
        of_language(report, &mut lines);
        return lines.join("\n");
    }
    if report.contradicting > 0 {
        lines.push(format!(
            "{} on nearly the same inputs say different classes; all of them teach: \
             `acclimate interactions {home} --flag contradicts`",
            items(report.contradicting)
        ));
    }
    if let Some(label) = &report.only_label {
        lines.push(format!(
            "all feedback says {}: nothing shows what is not; say what others are, or `acclimate feedback --reject`",
            printable(label)
        ));
    }
    lines.extend(report.tried.iter().map(|t| format!("  {t}")));
    let validation = format!("validation {:.0} → {}", 100.0 * v.before, percent(v.after));
    if report.promoted {
        if let Some(c) = report.calibration().filter(|c| c.temperature != 1.0) {
            lines.push(format!(
                "probabilities are off by {} on average, {} before (temperature {:.2}, {} validation answers)",
                percent(c.ece_after),
                percent(c.ece_before),
                c.temperature,
                c.n
            ));
        }
        lines.push(format!(
            "{validation}   generation {} ({}) is on probation for {PROBATION} predictions",
            report.generation,
            v.depth.name()
        ));
        if v.retention_n > 0 {
            lines.push(format!(
                "{} of {} answers that nobody corrected stay as they were",
                percent(v.retention),
                v.retention_n
            ));
        }
        if let Some(pairs) = report.may_change.as_ref().filter(|pairs| !pairs.is_empty()) {
            lines.push(format!("it may change {}; other answers of the base model stand", changes(pairs)));
        }
        lines.extend(report.corrections().iter().flat_map(|c| corrections(c, home)));
    } else {
        let serves = match report.generation {
            0 => "the base model goes on serving".to_string(),
            n => format!("generation {n} goes on serving"),
        };
        let validation = if v.n > 0 { format!("{validation}   ") } else { String::new() };
        lines.push(format!("{validation}not promoted, {serves}: {}", v.reason));
    }
    lines.join("\n")
}
