//! `gradcheck`: are the gradients right?

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::base::{Base, Task};
use acclimate::runtime::sandbox::Trial;
use acclimate::sites::Pattern;
use acclimate::tools::gradcheck::{Options, Report, SiteReport, Verdict, check};
use acclimate::{Error, Result};
use clap::Args;
use serde_json::json;

use super::output::{Output, duration, table};
use super::vet::VetArgs;
use super::{EndsArg, TASKS, model_file, task};

/// Exit code when a gradient is wrong.
const WRONG: u8 = 65;
/// Exit code when no gradient could be measured.
const UNKNOWN: u8 = 3;

/// Check the gradients of a model against finite differences of its forward pass
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate gradcheck model.onnx --dump dump\n\nExit code 65 when a gradient is off, 3 when no gradient can be measured."
)]
pub struct Gradcheck {
    /// The ONNX file, or a home
    model: PathBuf,
    /// Examples per run
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Length of sequences, where the model has them
    #[arg(long, value_name = "S", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    seq: u16,
    /// Layers to check: names with * between commas; all when not given
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    sites: String,
    /// Rank of the low-rank deltas
    #[arg(long, value_name = "R", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    rank: u16,
    /// Write inputs, deltas, outputs and gradients into this folder, for another framework to check
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Largest relative error that passes
    #[arg(long, value_name = "X", default_value_t = Options::default().tolerance)]
    tolerance: f64,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Seconds after which no further layer is checked; 0 checks all
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    budget_seconds: f64,
    /// What the model answers; read off its outputs when not given
    #[arg(long, value_parser = TASKS)]
    task: Option<String>,
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    vet: VetArgs,
}

impl Gradcheck {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return Err(Error::usage(format!("a tolerance of {}", self.tolerance)).hint("give a positive number"));
        }
        let budget = duration(self.budget_seconds, "for the check")?;
        let asked = task(self.task.as_deref())?;
        let trial = Trial { output: self.ends.model_output.clone(), classes: None, task: asked };
        let model = model_file(&self.model)?;
        self.vet.check(&model, &trial)?;
        let base = self.ends.of(Base::open(&model)?)?;
        // Gradients are those of the outputs as they are: a model that answers no question has them, too.
        let whole = |task: &Task| *task != Task::CausalLm;
        let task = asked.or_else(|| base.guess_task().ok()).filter(whole).unwrap_or(Task::Encoder);
        let options = Options {
            batch: self.batch.into(),
            sequence: self.seq.into(),
            rank: self.rank.into(),
            sites: Pattern::new(&self.sites),
            seed: self.seed,
            tolerance: self.tolerance,
            budget: (!budget.is_zero()).then_some(budget),
            ..Options::default()
        };
        let report = check(&base, task, &options, self.dump.as_deref())?;
        let sites: Vec<_> = report
            .sites
            .iter()
            .map(|s| json!({ "name": s.name, "relative_error": s.relative_error, "measurable": s.measurable }))
            .collect();
        let (ok, verdict, code) = match report.verdict() {
            Verdict::Right => (Some(true), "right", ExitCode::SUCCESS),
            Verdict::Wrong => (Some(false), "wrong", ExitCode::from(WRONG)),
            Verdict::Unknown => (None, "unknown", ExitCode::from(UNKNOWN)),
        };
        let data = json!({
            "worst_relative_error": report.worst,
            "tolerance": report.tolerance,
            "sites": sites,
            "unreachable": report.unreachable,
            "checked": report.sites.len(),
            "sampled": !report.unchecked.is_empty(),
            "unchecked": report.unchecked,
            "ok": ok,
            "verdict": verdict,
            "dump": self.dump.as_ref().map(|d| d.display().to_string()),
        });
        if report.unmeasured() > 0 {
            output.note(format_args!(
                "finite differences say nothing of {} of {} layers: they give another slope at every step size, as behind the rounding of a quantised \
                 model, at a kink, or for a gradient too small for single precision; --dump lets another framework check",
                report.unmeasured(),
                report.sites.len()
            ));
        }
        if !report.unchecked.is_empty() {
            output.note(format_args!(
                "{} of {} layers were checked, across the depth, in {} s; --budget-seconds 0 checks all",
                report.sites.len(),
                report.sites.len() + report.unchecked.len(),
                self.budget_seconds
            ));
        }
        for site in &report.unreachable {
            output.note(format_args!("no gradient reaches {site}"));
        }
        output.data(&data, || for_people(&report))?;
        Ok(code)
    }
}

fn for_people(report: &Report) -> String {
    let error = |s: &SiteReport| match s.measurable {
        true => format!("{:.1e}", s.relative_error),
        false => "not measurable".into(),
    };
    let rows = report.sites.iter().map(|s| [s.name.clone(), error(s)]);
    let which = match report.unchecked.len() {
        0 => String::new(),
        n => format!(" of the {} layers checked ({n} were not)", report.sites.len()),
    };
    let verdict = match (report.verdict(), report.unmeasured()) {
        (Verdict::Unknown, _) => format!("cannot tell: no gradient{which} can be measured"),
        (Verdict::Wrong, _) => "a gradient is off".to_string(),
        (Verdict::Right, 0) => format!("all gradients{which} are right"),
        (Verdict::Right, n) => format!("the gradients{which} that can be measured are right, {n} can not"),
    };
    let sites = table(["layer", "relative error"], rows, 1);
    match report.verdict() {
        Verdict::Unknown => format!("{sites}\n\n{verdict}"),
        _ => format!("{sites}\n\n{verdict}: worst {:.1e}, tolerance {:.1e}", report.worst, report.tolerance),
    }
}
