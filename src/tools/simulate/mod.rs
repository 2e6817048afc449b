//! A person's days with the model, played from a labelled set: predict, correct, train, go on. Everything runs through a real
//! home with a real journal and a real store, in a folder that is removed afterwards.
//!
//! # What is counted
//! Items come in the order of the data, which is the order of time. A wrong answer, or none, is corrected; a right one is
//! accepted now and then. Without a test set the later half in time is held out: no item of it is ever predicted in the stream
//! or fed back. Neighbouring windows of a sensor overlap, so the first [`Options::gap`] held-out items, whose windows may share
//! samples with an item that was fed back, are not counted. With [`Options::ongoing`] feedback goes on there, and each item is
//! judged by the answer that was given before. A set that is sorted by label has no order of time; it is shuffled with the
//! seed ([`Report::shuffled`]).
//!
//! The same seed gives the same result, whatever the number of threads.

pub mod lives;
mod person;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::adapt::{Progress, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::input::LabelledSet;
use crate::runtime::{Checkpoints, Home, InitOptions, Session, TrainOptions, TrainReport};
use crate::tools::score::{Names, accuracy, right_each};
use person::Living;
pub use person::{ACCEPT_SHARE, Person, Says};

/// Fewest feedback items between two trainings when nothing is said.
const FEWEST_BETWEEN: usize = 16;
/// Held-out items that are not counted when nothing is said.
pub const GAP: usize = 2;

/// How to simulate.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Feedback items between trainings; by default a quarter of the stream, at least 16. The end of the stream trains too.
    pub train_every: Option<usize>,
    /// What the person says about answers.
    pub person: Person,
    /// Feedback goes on in the later half. It is judged as it comes, each item before anything is said about it.
    pub ongoing: bool,
    /// Held-out items next to the stream that are not counted; without effect when a test set is given.
    pub gap: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Settings of the trainings; those of a new home when not given. Seed and threads above win.
    pub settings: Option<Settings>,
    /// Set by the caller to stop.
    pub stop: Option<&'a AtomicBool>,
}

impl Options<'_> {
    fn go_on(&self) -> Result<()> {
        match self.stop.is_some_and(|s| s.load(Ordering::Relaxed)) {
            true => Err(Error::new(ErrorKind::Interrupted, "stopped by the user")),
            false => Ok(()),
        }
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            train_every: None,
            person: Person::default(),
            ongoing: false,
            gap: GAP,
            seed: 0,
            threads: crate::process::available_cores(),
            settings: None,
            stop: None,
        }
    }
}

/// Where a simulation stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Items of the stream that were predicted.
    pub seen: usize,
    /// Items of the stream.
    pub of: usize,
    /// What is being done, in words.
    pub doing: String,
}

/// Accuracies on the held-out items after part of the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Items of the stream seen.
    pub seen: usize,
    /// Of the base model.
    pub base_accuracy: f64,
    /// Of the active generation.
    pub adapted_accuracy: f64,
}

/// One training.
#[derive(Debug, Clone)]
pub struct Training {
    /// Items of the stream seen before it.
    pub seen: usize,
    /// Feedback items given before it.
    pub feedback: usize,
    /// What it did.
    pub report: TrainReport,
}

impl Training {
    /// The verdict in a line.
    pub fn line(&self) -> String {
        let TrainReport { verdict: v, generation, promoted, .. } = &self.report;
        let percent = |share: f64| (100.0 * share).round();
        let outcome = match promoted {
            true => format!(
                "generation {generation} ({}), validation {} → {} %",
                v.depth.name(),
                percent(v.before),
                percent(v.after)
            ),
            false => "not promoted".to_string(),
        };
        let reason = if v.reason.is_empty() { String::new() } else { format!(": {}", v.reason) };
        format!("after {} interactions, {} with feedback: {outcome}{reason}", self.seen, self.feedback)
    }
}

/// An automatic rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// Items of the stream seen before it.
    pub seen: usize,
    /// The generation that was rolled back.
    pub generation: u64,
}

/// Accuracies at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// Held-out items that were counted.
    pub n: usize,
    /// Accuracy of the base model.
    pub base: f64,
    /// Accuracy of the active generation at the end.
    pub adapted: f64,
}

/// One answer of the later half, where feedback goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Whether the active generation was right.
    pub right: bool,
    /// Whether the base model is.
    pub base_right: bool,
}

/// What a simulation found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Held-out accuracy before the first item and after each training of the first half.
    pub curve: Vec<Point>,
    /// At the end; where feedback goes on, over the answers of the later half as they were given.
    pub test: Test,
    /// The answers of the later half as they were given, where feedback goes on.
    pub later: Vec<Answered>,
    /// Share of uncorrected inputs on which the active generation agrees with the base; 1 when the base serves.
    pub retention: f64,
    /// Generations committed.
    pub generations: usize,
    /// Predictions.
    pub interactions: usize,
    /// Feedback items.
    pub feedback: usize,
    /// Right answers among the predictions of the stream, by whatever served at the time.
    pub right_on_the_way: usize,
    /// Size of the serving adapter's file; 0 when the base serves.
    pub adapter_bytes: u64,
    /// Every training.
    pub trainings: Vec<Training>,
    /// Every generation that feedback showed to be worse than the base, and that was rolled back.
    pub rollbacks: Vec<Rollback>,
    /// Duration of everything, seconds.
    pub seconds: f64,
    /// Duration of the trainings, seconds.
    pub train_seconds: f64,
    /// Largest resident memory of this process so far; 0 where the system does not say.
    pub peak_rss_bytes: u64,
    /// Whether the data was sorted by label and therefore shuffled.
    pub shuffled: bool,
    /// Held-out items left out because they may overlap the stream.
    pub dropped: usize,
    /// What was to be known of the model before its home was made: labels that do not fit its outputs, for one.
    pub warnings: Vec<String>,
}

/// Plays `stream` to a new home made as `init` says; tests on `test`, or on the later half of `stream`.
///
/// # Errors
/// When the model or the data cannot be used, the temporary folder takes no files, or [`Options::stop`] was set.
pub fn simulate(
    init: &InitOptions,
    stream: LabelledSet,
    test: Option<LabelledSet>,
    options: &Options<'_>,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<Report> {
    let started = Instant::now();
    options.person.check()?;
    options.go_on()?;
    if options.train_every == Some(0) {
        return Err(Error::usage("a training after every 0 feedback items").hint("choose 1 or more"));
    }
    let shuffled = stream.is_grouped_by_label();
    let stream = if shuffled { stream.shuffled(options.seed)? } else { stream };
    let (stream, test, dropped) = split(stream, test, options.gap)?;

    let folder = temporary_folder()?;
    let mut warnings = vec![];
    let init = init.clone().ask_rate(options.person.asked_by_home());
    let home = Home::init_telling(folder.path().join("home"), &init, &mut |w| warnings.push(w.to_string()))?;
    let session = home.session("simulated")?;
    let mut run = Run::new(&session, &stream, &test, options, progress)?;
    run.play()?;
    let status = session.status()?;
    let serving = session.generations()?.into_iter().find(|g| g.current).and_then(|g| g.header.ok());
    let last = run.curve.last().copied().ok_or_else(|| Error::internal("a simulation without a measurement"))?;
    let share = |of: fn(&Answered) -> bool| run.later.iter().filter(|a| of(a)).count() as f64 / test.len() as f64;
    Ok(Report {
        test: match options.ongoing {
            true => Test { n: test.len(), base: share(|a| a.base_right), adapted: share(|a| a.right) },
            false => Test { n: test.len(), base: last.base_accuracy, adapted: last.adapted_accuracy },
        },
        later: run.later,
        retention: serving.map_or(1.0, |(header, _)| header.verdict.retention),
        generations: run.trainings.iter().filter(|t| t.report.promoted).count(),
        interactions: status.interactions,
        feedback: status.feedback,
        right_on_the_way: run.right,
        adapter_bytes: status.adapter_bytes,
        train_seconds: run.trainings.iter().map(|t| t.report.seconds).sum(),
        curve: run.curve,
        trainings: run.trainings,
        rollbacks: run.rollbacks,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
        shuffled,
        dropped,
        warnings,
    })
}

fn temporary_folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("acclimate-simulation-")
        .tempdir()
        .map_err(|e| Error::io("cannot make a temporary folder", &std::env::temp_dir(), e))
}

/// The stream, what it is tested on, and how many items between them are not counted.
fn split(stream: LabelledSet, test: Option<LabelledSet>, gap: usize) -> Result<(LabelledSet, LabelledSet, usize)> {
    if let Some(test) = test {
        return Ok((stream, test, 0));
    }
    let half = stream.len() / 2;
    let from = half.saturating_add(gap);
    if half == 0 || from >= stream.len() {
        return Err(Error::bad_data(format!("{} examples cannot be split into training and validation", stream.len()))
            .hint("give more data, or a test set of its own with --test"));
    }
    let earlier: Vec<usize> = (0..half).collect();
    let later: Vec<usize> = (from..stream.len()).collect();
    Ok((stream.select(&earlier)?, stream.select(&later)?, gap))
}

struct Run<'a> {
    session: &'a Session,
    stream: &'a LabelledSet,
    test: &'a LabelledSet,
    options: &'a Options<'a>,
    progress: &'a (dyn Fn(Step) + Sync),
    settings: Settings,
    base_right: Vec<bool>,
    base_accuracy: f64,
    curve: Vec<Point>,
    trainings: Vec<Training>,
    rollbacks: Vec<Rollback>,
    feedback: usize,
    right: usize,
    trained_at: usize,
    later: Vec<Answered>,
}

impl<'a> Run<'a> {
    fn new(
        session: &'a Session,
        stream: &'a LabelledSet,
        test: &'a LabelledSet,
        options: &'a Options<'a>,
        progress: &'a (dyn Fn(Step) + Sync),
    ) -> Result<Run<'a>> {
        let settings = options.settings.clone().unwrap_or_else(|| session.settings());
        let settings = Settings { seed: options.seed, threads: options.threads.max(1), ..settings };
        progress(Step { seen: 0, of: stream.len(), doing: "measuring the base".into() });
        let base_right = right_each(session, test, true, settings.threads)?;
        let base_accuracy = base_right.iter().filter(|r| **r).count() as f64 / test.len().max(1) as f64;
        let start = Point { seen: 0, base_accuracy, adapted_accuracy: base_accuracy };
        let (trainings, curve) = (vec![], vec![start]);
        Ok(Run {
            session,
            stream,
            test,
            options,
            progress,
            settings,
            base_right,
            base_accuracy,
            curve,
            trainings,
            rollbacks: vec![],
            feedback: 0,
            right: 0,
            trained_at: 0,
            later: vec![],
        })
    }

    fn play(&mut self) -> Result<()> {
        let mut person = Living::new(self.options.person, self.options.seed);
        self.live(self.stream, 0, &mut person)?;
        if self.feedback > self.trained_at {
            self.train(self.stream.len())?;
        }
        if self.options.ongoing {
            let right = self.live(self.test, self.stream.len(), &mut person)?;
            let both = right.into_iter().zip(self.base_right.iter().copied());
            self.later = both.map(|(right, base_right)| Answered { right, base_right }).collect();
        }
        Ok(())
    }

    /// Lives through `items`, before which `seen` others came: which answers were right.
    fn live(&mut self, items: &LabelledSet, seen: usize, person: &mut Living) -> Result<Vec<bool>> {
        let every = self.options.train_every.unwrap_or_else(|| (self.stream.len() / 4).max(FEWEST_BETWEEN));
        let names = Names::new(items.labels(), self.session.home().labels());
        let vocabulary: Vec<String> = items.classes().iter().map(|l| names.of(l).to_owned()).collect();
        let of = seen + items.len();
        let mut all = vec![];
        for (i, label) in items.labels().iter().enumerate() {
            self.options.go_on()?;
            (self.progress)(Step { seen: seen + i, of, doing: "living with it".into() });
            let label = names.of(label);
            let answer = self.session.predict(&items.input(i)?)?;
            let right = answer.label() == Some(label);
            all.push(right);
            self.right += usize::from(right);
            let known = self.session.known_labels();
            let said = person.says(answer.label(), answer.ask, label, &vocabulary, &known);
            let Some(said) = said else { continue };
            let id = answer.id.ok_or_else(|| {
                let why = answer.unrecorded.clone().unwrap_or_default();
                Error::new(ErrorKind::Io, "an answer could not be recorded")
                    .because(why)
                    .hint("free some space for temporary files")
            })?;
            let receipt = self.session.feedback(id, said)?;
            let rolled_back = receipt.rolled_back.map(|generation| Rollback { seen: seen + i + 1, generation });
            self.rollbacks.extend(rolled_back);
            self.feedback += 1;
            if self.feedback - self.trained_at >= every {
                self.train(seen + i + 1)?;
            }
        }
        Ok(all)
    }

    fn train(&mut self, seen: usize) -> Result<()> {
        self.trained_at = self.feedback;
        let of = seen.max(self.stream.len());
        let tell = |p: Progress| (self.progress)(Step { seen, of, doing: format!("training: {}", p.stage) });
        // Its home goes with it.
        let options =
            TrainOptions::default().settings(self.settings.clone()).checkpoints(Checkpoints::Never).progress(&tell);
        let options = TrainOptions { stop: self.options.stop, ..options };
        let report = self.session.train(&options)?;
        // What was fed back in the later half is no test of what was learned from it.
        if seen <= self.stream.len() {
            let before = self.curve.last().map_or(self.base_accuracy, |p| p.adapted_accuracy);
            let adapted_accuracy = match report.promoted {
                true => accuracy(self.session, self.test, false, self.settings.threads)?,
                false => before,
            };
            self.curve.push(Point { seen, base_accuracy: self.base_accuracy, adapted_accuracy });
        }
        self.trainings.push(Training { seen, feedback: self.feedback, report });
        Ok(())
    }
}

/// Largest resident memory of this process so far, bytes; 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn asset(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
    }

    /// Windows of one person, without the postural transitions that the model does not know.
    fn person(user: i64) -> LabelledSet {
        let set = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(user).unwrap();
        let known: Vec<usize> = (0..set.len()).filter(|&i| set.labels()[i].parse::<usize>().unwrap() < 6).collect();
        set.select(&known).unwrap()
    }

    fn quiet(_: Step) {}

    #[test]
    fn the_later_half_is_held_out_less_the_gap() {
        let all = person(23);
        let n = all.len();
        let (stream, test, dropped) = split(all.clone(), None, 3).unwrap();
        assert_eq!((stream.len(), test.len(), dropped), (n / 2, n - n / 2 - 3, 3));
        assert_eq!(stream.input(0).unwrap(), all.input(0).unwrap());
        assert_eq!(test.input(0).unwrap(), all.input(n / 2 + 3).unwrap());
        for (few, gap) in [(1, 0), (2, 1), (10, 5), (10, usize::MAX)] {
            let few = all.select(&(0..few).collect::<Vec<_>>()).unwrap();
            assert_eq!(split(few, None, gap).unwrap_err().kind(), ErrorKind::BadData);
        }
        let (stream, test, dropped) = split(all.clone(), Some(all.clone()), 3).unwrap();
        assert_eq!((stream.len(), test.len(), dropped), (n, n, 0));
    }

    #[test]
    fn a_seed_gives_one_result_and_the_threads_do_not_matter() {
        let all = person(23);
        let few = all.select(&(0..all.len()).step_by(3).collect::<Vec<_>>()).unwrap();
        let init = InitOptions::new(asset("har_cnn.onnx"));
        let settings = Settings { deepest: crate::adapter::Depth::HeadOnly, ..Settings::default() };
        let run = |threads| {
            let options =
                Options { train_every: Some(12), threads, settings: Some(settings.clone()), ..Options::default() };
            simulate(&init, few.clone(), None, &options, &quiet).unwrap()
        };
        let (one, two) = (run(1), run(2));
        assert_eq!(one.curve, two.curve);
        assert_eq!((one.interactions, one.feedback), (two.interactions, two.feedback));
        assert_eq!(one.interactions, few.len() / 2);
        assert_eq!(one.curve[0], Point { seen: 0, base_accuracy: one.test.base, adapted_accuracy: one.test.base });
        assert_eq!(one.curve.len(), 1 + one.trainings.len());
        assert!(!one.trainings.is_empty() && one.feedback >= one.interactions - one.right_on_the_way);
    }

    #[test]
    fn stopping_is_an_interruption() {
        let stop = AtomicBool::new(true);
        let options = Options { stop: Some(&stop), ..Options::default() };
        let e = simulate(&InitOptions::new(asset("har_cnn.onnx")), person(24), None, &options, &quiet).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn nonsense_is_refused_before_anything_runs() {
        for bad in [
            Options { person: Person { accept_share: 1.5, ..Person::default() }, ..Options::default() },
            Options { person: Person { accept_share: f32::NAN, ..Person::default() }, ..Options::default() },
            Options { person: Person { wrong_share: -0.1, ..Person::default() }, ..Options::default() },
            Options { train_every: Some(0), ..Options::default() },
        ] {
            let e = simulate(&InitOptions::new(asset("absent.onnx")), person(24), None, &bad, &quiet).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage);
        }
    }
}
