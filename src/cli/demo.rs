//! `demo`: the bundled activity model meets four people it never saw.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use acclimate::input::LabelledSet;
use acclimate::tools::simulate::{Options, Report, Step, simulate};
use acclimate::{Error, InitOptions, Result};
use clap::Args;
use serde_json::{Value, json};

use super::bundled::HAR_CNN;
use super::output::{Output, bytes, percent_1, table};
use super::simulate::{curve_json, rollbacks_json, trainings_json};
use super::{ThreadsArg, plot, stop};

// Part of the program, so that an installed one can show itself. Sources and licences: models/README.md.
const WINDOWS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/hapt_users_23_26.npz"));

const PEOPLE: [i64; 4] = [23, 24, 25, 26];
/// The model's classes are 0 to 5; higher labels are postural transitions, which it was never taught.
const ACTIVITIES: [&str; 6] = ["WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING"];

/// Watch a frozen activity model learn from four people it never met
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate demo\n  acclimate demo --chat\n\nThe first half of each person's recording teaches, the later half judges: its windows are never \
                  fed back, and those that overlap one that was are not counted."
)]
pub struct Demo {
    /// Where to write the learning curves
    #[arg(long, value_name = "FILE", default_value = "acclimate-demo.svg")]
    plot: PathBuf,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only this person, 23 to 26; can be repeated
    #[arg(long = "person", value_name = "N", value_parser = clap::value_parser!(i64).range(PEOPLE[0]..=PEOPLE[3]))]
    people: Vec<i64>,
    /// Corrections and accepts between two trainings, as for `simulate`; there is one at the end in any case
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train_every: Option<u32>,
    /// A language model instead, whose answers a person edits
    #[arg(long, conflicts_with_all = ["plot", "people", "train_every"])]
    chat: bool,
    /// With --chat, the folder of another language model than the bundled one
    #[arg(long, value_name = "DIR", requires = "chat")]
    model: Option<PathBuf>,
    #[command(flatten)]
    threads: ThreadsArg,
}

impl Demo {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        if self.chat {
            return super::demo_chat::run(self.model.as_deref(), self.seed, self.threads.count(), output);
        }
        plot::check(&self.plot)?;
        let started = Instant::now();
        let stop = stop::on_signal()?;
        let folder = tempfile::Builder::new()
            .prefix("acclimate-demo-")
            .tempdir()
            .map_err(|e| Error::io("cannot make a temporary folder", &std::env::temp_dir(), e))?;
        let put = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = folder.path().join(name);
            std::fs::write(&path, content).map_err(|e| Error::io("cannot write the bundled file", &path, e))?;
            Ok(path)
        };
        let labels = put("labels.txt", ACTIVITIES.join("\n").as_bytes())?;
        let init = InitOptions::new(put("har_cnn.onnx", HAR_CNN)?).labels(labels);
        let everybody = LabelledSet::read(&put("hapt_users_23_26.npz", WINDOWS)?)?;
        let who = PEOPLE.into_iter().filter(|who| self.people.is_empty() || self.people.contains(who));
        let people: Vec<(i64, LabelledSet)> =
            who.map(|who| Ok((who, known_windows(&everybody.filter_user(who)?)?))).collect::<Result<_>>()?;
        let left_out = everybody.len() - known_windows(&everybody)?.len();
        output.note(format_args!(
            "A phone's activity model meets people it never saw. Of all {} windows, {left_out} of postural transitions, which are not among \
             its {} activities, are left out.",
            everybody.len(),
            ACTIVITIES.len()
        ));
        let options = Options {
            train_every: self.train_every.map(|n| n as usize),
            seed: self.seed,
            threads: self.threads.count(),
            stop: Some(stop),
            ..Options::default()
        };
        let bar = output.bar(people.iter().map(|(_, set)| set.len() as u64 / 2).sum());
        let mut done: Vec<(String, Report)> = vec![];
        let mut before = 0;
        for (who, windows) in people {
            let name = format!("person {who}");
            let progress = |s: Step| {
                bar.set_position(before + s.seen as u64);
                bar.set_message(format!("{name}: {}", s.doing));
            };
            let report = simulate(&init, windows, None, &options, &progress)?;
            before += report.interactions as u64;
            done.push((name, report));
        }
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        draw(&self.plot, &done)?;
        let (mean_base, mean_adapted) = (mean(&done, |r| r.test.base), mean(&done, |r| r.test.adapted));
        let data = json!({
            "people": done.iter().map(person_json).collect::<Vec<_>>(),
            "mean_base": mean_base,
            "mean_adapted": mean_adapted,
            "seconds": seconds,
            "plot": self.plot.display().to_string(),
        });
        output.data(&data, || for_people(&done, mean_base, mean_adapted, seconds))?;
        output.note(format_args!("learning curves: {}", self.plot.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// The windows whose activity the model knows.
fn known_windows(set: &LabelledSet) -> Result<LabelledSet> {
    let known = |label: &String| label.parse::<usize>().is_ok_and(|class| class < ACTIVITIES.len());
    let positions: Vec<usize> = set.labels().iter().enumerate().filter(|(_, l)| known(l)).map(|(i, _)| i).collect();
    set.select(&positions)
}

fn mean(done: &[(String, Report)], of: impl Fn(&Report) -> f64) -> f64 {
    done.iter().map(|(_, r)| of(r)).sum::<f64>() / done.len().max(1) as f64
}

fn draw(path: &Path, done: &[(String, Report)]) -> Result<()> {
    let curves: Vec<(String, &[acclimate::tools::simulate::Point])> =
        done.iter().map(|(name, r)| (name.clone(), &r.curve[..])).collect();
    plot::write(path, "what the model gets right on each person's later windows (dashed: as delivered)", &curves)
}

fn person_json((name, r): &(String, Report)) -> Value {
    json!({
        "name": name,
        "interactions": r.interactions,
        "feedback": r.feedback,
        "base_accuracy": r.test.base,
        "adapted_accuracy": r.test.adapted,
        "held_out": r.test.n,
        "not_counted": r.dropped,
        "generations": r.generations,
        "retention": r.retention,
        "adapter_bytes": r.adapter_bytes,
        "seconds": r.seconds,
        "curve": curve_json(&r.curve),
        "trainings": trainings_json(&r.trainings),
        "rollbacks": rollbacks_json(&r.rollbacks),
    })
}

fn for_people(done: &[(String, Report)], mean_base: f64, mean_adapted: f64, seconds: f64) -> String {
    let row = |(name, r): &(String, Report)| {
        [
            name.clone(),
            r.interactions.to_string(),
            r.feedback.to_string(),
            r.test.n.to_string(),
            percent_1(r.test.base),
            percent_1(r.test.adapted),
            bytes(r.adapter_bytes),
            format!("{:.1}", r.seconds),
        ]
    };
    let blank = String::new;
    let total = [
        "mean".into(),
        blank(),
        blank(),
        blank(),
        percent_1(mean_base),
        percent_1(mean_adapted),
        blank(),
        format!("{seconds:.1}"),
    ];
    let header = ["", "interactions", "feedback", "held out", "base", "adapted", "adapter", "seconds"];
    table(header, done.iter().map(row).chain([total]), 1)
}
