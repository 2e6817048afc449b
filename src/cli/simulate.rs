//! `simulate`: would this model learn from this data?

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use acclimate::input::{LabelledSet, Skipped};
use acclimate::tools::simulate::lives::{Life, Lives, Row, rows};
use acclimate::tools::simulate::{
    ACCEPT_SHARE, GAP, Options, Person, Point, Report, Rollback, Step, Training, simulate,
};
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
    #[arg(long, value_name = "M.onnx", required_unless_present = "lives")]
    model: Option<PathBuf>,
    /// .npz with x and y, .tsv of label and text, or a folder of pictures with one sub-folder per label
    #[arg(long, value_name = "D", required_unless_present = "lives")]
    data: Option<PathBuf>,
    /// Play many lives instead: a file of populations and conditions (docs/lives.md)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "data", "test", "user", "tokenizer", "tensor", "labels",
        "train_every", "seed", "task", "rank", "sites", "accept_share", "gap", "plot", "EndsArg"])]
    lives: Option<PathBuf>,
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
        if let Some(file) = &self.lives {
            return self.many(file, output);
        }
        let (model, data) = (self.model.clone().unwrap_or_default(), self.data.clone().unwrap_or_default());
        self.plot.as_deref().map_or(Ok(()), plot::check)?;
        let stop: &AtomicBool = stop::on_signal()?;
        let read = |path: &PathBuf| {
            let set = LabelledSet::read(path)?;
            self.user
                .filter(|_| set.users().is_some() || *path == data)
                .map_or(Ok(set.clone()), |user| set.filter_user(user))
        };
        let data = read(&data)?;
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
        let init = InitOptions::new(&model)
            .rank(self.rank)
            .sites(&self.sites)
            .tensor(self.tensor)
            .vetting(self.vet.vetting(&model)?);
        let init = given(init, task(self.task.as_deref())?, InitOptions::task);
        let init = given(init, self.labels.as_ref(), InitOptions::labels);
        let init = given(init, self.tokenizer.as_ref(), InitOptions::tokenizer);
        let init = self.ends.chosen(init);
        let options = Options {
            train_every: self.train_every.map(|n| n as usize),
            person: Person { accept_share: self.accept_share, ..Person::default() },
            ongoing: false,
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

    /// Many lives, and what became of them.
    fn many(&self, file: &Path, output: &Output) -> Result<ExitCode> {
        let lives = Lives::read(file)?;
        let options = Options { threads: self.threads.count(), stop: Some(stop::on_signal()?), ..Options::default() };
        let bar = output.bar(1);
        let told = |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        };
        let lived = lives.live(&options, &|model| self.vet.vetting(model), &told);
        bar.finish_and_clear();
        let lived = lived?;
        let rows = rows(&lived);
        let data = json!({
            "rows": rows.iter().map(row_json).collect::<Value>(),
            "lives": lived.iter().map(life_json).collect::<Value>(),
        });
        output.data(&data, || lives_table(&rows))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row_json(r: &Row) -> Value {
    json!({
        "population": r.population,
        "condition": r.condition,
        "lives": r.lives,
        "base": r.base,
        "gain": r.gain,
        "harmed": r.harmed,
        "worst": r.worst,
        "dipped": r.dipped,
        "lowest": r.lowest,
        "feedback": r.feedback,
        "feedback_to_learn": r.feedback_to_learn,
        "longest_below": r.longest_below,
        "train_seconds": r.train_seconds,
    })
}

fn life_json(l: &Life) -> Value {
    json!({
        "population": l.population,
        "condition": l.condition,
        "user": l.user,
        "seed": l.seed,
        "base": l.report.test.base,
        "adapted": l.report.test.adapted,
        "lowest": l.lowest(),
        "longest_below": l.longest_below(),
        "generations": l.report.generations,
        "feedback": l.report.feedback,
        "curve": curve_json(&l.report.curve),
        "trainings": trainings_json(&l.report.trainings),
        "rollbacks": rollbacks_json(&l.report.rollbacks),
    })
}

fn lives_table(rows: &[Row]) -> String {
    let points = |share: f64| format!("{:+.1}", 100.0 * share);
    let row = |r: &Row| {
        [
            format!("{}, {}", r.population, r.condition),
            r.lives.to_string(),
            percent_1(r.base),
            points(r.gain),
            r.harmed.to_string(),
            points(r.worst),
            r.dipped.to_string(),
            points(r.lowest),
            format!("{:.0}", r.feedback),
            r.feedback_to_learn.map_or("-".into(), |n| n.to_string()),
            r.longest_below.to_string(),
            format!("{:.1}", r.train_seconds),
        ]
    };
    let header =
        ["", "lives", "base", "gain", "harmed", "worst", "dipped", "lowest", "feedback", "to 95 %", "below", "seconds"];
    table(header, rows.iter().map(row), 1)
}

pub fn curve_json(curve: &[Point]) -> Value {
    let point =
        |p: &Point| json!({ "seen": p.seen, "base_accuracy": p.base_accuracy, "adapted_accuracy": p.adapted_accuracy });
    curve.iter().map(point).collect()
}

pub fn rollbacks_json(rollbacks: &[Rollback]) -> Value {
    rollbacks.iter().map(|r| json!({ "seen": r.seen, "generation": r.generation })).collect()
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
        "rollbacks": rollbacks_json(&r.rollbacks),
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
    let trainings = r.trainings.iter().map(|t| (t.seen, t.line()));
    let rolled_back = |r: &Rollback| {
        let Rollback { seen, generation } = r;
        (
            *seen,
            format!("after {seen} interactions: generation {generation} did worse than the base and was rolled back"),
        )
    };
    let mut events: Vec<(usize, String)> = trainings.chain(r.rollbacks.iter().map(rolled_back)).collect();
    events.sort_by_key(|(seen, _)| *seen);
    let lines: Vec<String> = events.into_iter().map(|(_, line)| line).collect();
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
