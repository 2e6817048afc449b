//! `simulate`: would this model learn from this data?

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use acclimate::input::{LabelledSet, Skipped};
use acclimate::tools::simulate::{ACCEPT_SHARE, GAP, Options, Point, Report, Step, Training, simulate};
use acclimate::{InitOptions, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, bytes, percent_1, skipped_json, table};
use super::vet::VetArgs;
use super::{EndsArg, TASKS, ThreadsArg, given, plot, stop, task};

/// Play labelled data to a model as a person would, and show how it learns
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate simulate --model model.onnx --data data.npz --user 3\n\n\
    The data is taken in its order, as the order of time. Without --test the later half is held out and judges; its first --gap items \
    are not counted, since their windows may overlap one that was fed back. Data sorted by label is shuffled.")]
pub struct Simulate {
    /// The ONNX file
    #[arg(long, value_name = "M.onnx")]
    model: PathBuf,
    /// .npz with x and y, .tsv of label and text, or a folder of pictures with one sub-folder per label
    #[arg(long, value_name = "D")]
    data: PathBuf,
    /// Data to test on; the later half of --data when not given
    #[arg(long, value_name = "D2")]
    test: Option<PathBuf>,
    /// Only the examples of this user
    #[arg(long, value_name = "U")]
    user: Option<i64>,
    /// tokenizer.json of a model that takes text
    #[arg(long, value_name = "F")]
    tokenizer: Option<PathBuf>,
    /// Arrays go to a model of pictures as they are, normalised already
    #[arg(long)]
    tensor: bool,
    /// Names of the classes, one a line
    #[arg(long, value_name = "F")]
    labels: Option<PathBuf>,
    /// Feedback items between trainings; a quarter of the data, at least 16, when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train_every: Option<u32>,
    /// Seed of everything random
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// What the model answers; read off its outputs when not given
    #[arg(long, value_parser = TASKS)]
    task: Option<String>,
    /// Rank of the low-rank deltas
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// Layers that may adapt: names with * between commas; all when not given
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    sites: String,
    /// Share of right answers that the person accepts
    #[arg(long, value_name = "X", default_value_t = ACCEPT_SHARE)]
    accept_share: f32,
    /// Held-out items next to the others that are not counted
    #[arg(long, value_name = "N", default_value_t = GAP)]
    gap: usize,
    /// Write the learning curve here
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    vet: VetArgs,
}

impl Simulate {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        self.plot.as_deref().map_or(Ok(()), plot::check)?;
        let stop: &AtomicBool = stop::on_signal()?;
        let read = |path: &PathBuf| {
            let set = LabelledSet::read(path)?;
            self.user
                .filter(|_| set.users().is_some() || *path == self.data)
                .map_or(Ok(set.clone()), |user| set.filter_user(user))
        };
        let data = read(&self.data)?;
        let test = self.test.as_ref().map(read).transpose()?;
        let skipped: Vec<Skipped> =
            [Some(&data), test.as_ref()].into_iter().flatten().flat_map(LabelledSet::skipped).cloned().collect();
        output.skipped(&skipped);
        if data.is_grouped_by_label() {
            output.note(format_args!(
                "the data is sorted by label, which is no order of time: shuffled with seed {}",
                self.seed
            ));
        }
        let init = InitOptions::new(&self.model)
            .rank(self.rank)
            .sites(&self.sites)
            .tensor(self.tensor)
            .vetting(self.vet.vetting(&self.model)?);
        let init = given(init, task(self.task.as_deref())?, InitOptions::task);
        let init = given(init, self.labels.as_ref(), InitOptions::labels);
        let init = given(init, self.tokenizer.as_ref(), InitOptions::tokenizer);
        let init = self.ends.chosen(init);
        let options = Options {
            train_every: self.train_every.map(|n| n as usize),
            accept_share: self.accept_share,
            gap: self.gap,
            seed: self.seed,
            threads: self.threads.count(),
            settings: None,
            stop: Some(stop),
        };
        let bar = output.bar(1);
        let progress = |s: Step| {
            bar.set_length(s.of as u64);
            bar.set_position(s.seen as u64);
            bar.set_message(s.doing);
        };
        let report = simulate(&init, data, test, &options, &progress);
        bar.finish_and_clear();
        let report = report?;
        report.warnings.iter().for_each(|warning| output.warn(warning));
        if let Some(path) = &self.plot {
            plot::write(path, "learning curve", &[("adapted (dashed: base)".to_string(), &report.curve)])?;
            output.note(format_args!("learning curve: {}", path.display()));
        }
        let mut json = as_json(&report);
        json["skipped"] = skipped_json(&skipped);
        output.data(&json, || for_people(&report))?;
        Ok(ExitCode::SUCCESS)
    }
}

pub fn curve_json(curve: &[Point]) -> Value {
    let point =
        |p: &Point| json!({ "seen": p.seen, "base_accuracy": p.base_accuracy, "adapted_accuracy": p.adapted_accuracy });
    curve.iter().map(point).collect()
}

pub fn trainings_json(trainings: &[Training]) -> Value {
    let one = |t: &Training| {
        json!({
            "seen": t.seen,
            "feedback": t.feedback,
            "promoted": t.report.promoted,
            "generation": t.report.generation,
            "steps": t.report.steps,
            "seconds": t.report.seconds,
            "verdict": t.line(),
            "tried": t.report.tried,
            "loss": t.report.loss().map(super::train::loss_json),
        })
    };
    trainings.iter().map(one).collect()
}

fn as_json(r: &Report) -> Value {
    json!({
        "curve": curve_json(&r.curve),
        "test": { "n": r.test.n, "base": r.test.base, "adapted": r.test.adapted },
        "retention": r.retention,
        "generations": r.generations,
        "interactions": r.interactions,
        "feedback": r.feedback,
        "right_on_the_way": r.right_on_the_way,
        "adapter_bytes": r.adapter_bytes,
        "trainings": trainings_json(&r.trainings),
        "seconds": r.seconds,
        "train_seconds": r.train_seconds,
        "peak_rss_bytes": r.peak_rss_bytes,
        "shuffled": r.shuffled,
        "dropped": r.dropped,
        "warnings": r.warnings,
    })
}

fn for_people(r: &Report) -> String {
    let rows = r.curve.iter().map(|p| [p.seen.to_string(), percent_1(p.base_accuracy), percent_1(p.adapted_accuracy)]);
    let lines: Vec<String> = r.trainings.iter().map(Training::line).collect();
    format!(
        "{}\n\n{}\n\nheld out: {} items, base {}, adapted {}\n{} interactions, {} with feedback; {} generations; adapter {}; \
         {} of uncorrected answers kept\n{:.1} s, {:.1} s of it training; memory {} at most",
        table(["interactions", "base", "adapted"], rows, 0),
        lines.join("\n"),
        r.test.n,
        percent_1(r.test.base),
        percent_1(r.test.adapted),
        r.interactions,
        r.feedback,
        r.generations,
        bytes(r.adapter_bytes),
        percent_1(r.retention),
        r.seconds,
        r.train_seconds,
        bytes(r.peak_rss_bytes)
    )
}
