//! Many lives with a model: what a change of the training does to people, and not only on average.
//!
//! A file names populations (a base model, data, people) and conditions (what people say, and how much of it is wrong).
//! Every person of every population lives under every condition, with several seeds; one row a population and condition
//! says what became of them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;

use super::{Answered, Options, Person, Report, Says, Step, simulate, temporary_folder};
use crate::adapt::Settings;
use crate::adapter::Depth;
use crate::error::{Error, ErrorKind, Result};
use crate::input::LabelledSet;
use crate::runtime::sandbox::Vetting;
use crate::runtime::{Home, InitOptions};
use crate::sync::{in_parallel, lock};

/// A life is harmed that ends with an accuracy this much below the base model's.
pub const HARM: f64 = 0.01;
/// Answers over which a life under ongoing feedback is compared with the base model.
pub const WINDOW: usize = 20;
/// Most seeds of a life.
const MOST_SEEDS: u64 = 1000;
/// Share of the final gain that counts as having learned.
const LEARNED: f64 = 0.95;

/// What `simulate --lives` reads. Paths are relative to the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lives {
    /// Seeds of each life: 0 to one less.
    #[serde(default = "five")]
    pub seeds: u64,
    /// Feedback items between trainings.
    pub train_every: Option<usize>,
    /// Who lives.
    #[serde(rename = "population")]
    pub populations: Vec<Population>,
    /// Under which conditions.
    #[serde(rename = "condition")]
    pub conditions: Vec<Condition>,
}

fn five() -> u64 {
    5
}

/// People with one base model. Populations of the same name share a row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// Name of the row.
    pub name: String,
    /// The ONNX file.
    pub model: PathBuf,
    /// Labelled data.
    pub data: PathBuf,
    /// Data to test on; the later half of `data` when not given.
    pub test: Option<PathBuf>,
    /// Names of the classes, one a line.
    pub labels: Option<PathBuf>,
    /// tokenizer.json of a model that takes text.
    pub tokenizer: Option<PathBuf>,
    /// Users of the data, each a life of their own; without any, all of the data is one life.
    #[serde(default)]
    pub users: Vec<i64>,
    /// Numbered classes from this one on are left out.
    pub below_class: Option<usize>,
    /// Only heads are trained: for models whose trainings take too long to live many lives.
    #[serde(default)]
    pub head_only: bool,
}

/// What people say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Name of the row.
    pub name: String,
    /// Which feedback is given.
    #[serde(default)]
    pub says: Says,
    /// Share of right answers that are accepted.
    #[serde(default = "accept_share")]
    pub accept_share: f32,
    /// Share of the feedback that is wrong.
    #[serde(default)]
    pub wrong_share: f32,
    /// Greatest share of answers that ask, of a person who waits to be asked.
    #[serde(default = "ask_rate")]
    pub ask_rate: f64,
    /// Feedback goes on in the later half, at the same rate.
    #[serde(default)]
    pub ongoing: bool,
    /// One training, after the first half.
    #[serde(default)]
    pub train_once: bool,
}

fn ask_rate() -> f64 {
    Person::default().ask_rate
}

fn accept_share() -> f32 {
    super::ACCEPT_SHARE
}

/// One life that was lived.
#[derive(Debug, Clone)]
pub struct Life {
    /// Population.
    pub population: String,
    /// Condition.
    pub condition: String,
    /// User of the data.
    pub user: Option<i64>,
    /// Seed.
    pub seed: u64,
    /// What became of it.
    pub report: Report,
}

impl Life {
    /// Accuracy at the end less the base model's.
    pub fn gain(&self) -> f64 {
        self.report.test.adapted - self.report.test.base
    }
    /// The lowest accuracy after a training in the first half, less the base model's; 0 where it was never below.
    pub fn lowest(&self) -> f64 {
        self.report.curve.iter().map(|p| p.adapted_accuracy - p.base_accuracy).fold(0.0, f64::min)
    }
    /// Feedback items before the training after which 95 % of the gain of the first half was there; `None` without one.
    pub fn feedback_to_learn(&self) -> Option<usize> {
        let gains: Vec<f64> = self.report.curve.iter().map(|p| p.adapted_accuracy - p.base_accuracy).collect();
        let last = gains.last().copied().filter(|gain| *gain > 0.0)?;
        let training = gains.iter().position(|gain| *gain >= LEARNED * last)?.checked_sub(1)?;
        self.report.trainings.get(training).map(|t| t.feedback)
    }
    /// The longest run of answers at each of which the last [`WINDOW`] had fewer right than the base model's.
    pub fn longest_below(&self) -> usize {
        longest_below(&self.report.later)
    }
}

fn longest_below(later: &[Answered]) -> usize {
    let (mut run, mut longest) = (0, 0);
    for window in later.windows(WINDOW) {
        let count = |of: fn(&Answered) -> bool| window.iter().filter(|a| of(a)).count();
        run = if count(|a| a.right) < count(|a| a.base_right) { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// A population under a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Population.
    pub population: String,
    /// Condition.
    pub condition: String,
    /// Lives.
    pub lives: usize,
    /// Mean accuracy of the base model.
    pub base: f64,
    /// Mean gain.
    pub gain: f64,
    /// Lives that ended more than [`HARM`] below the base model.
    pub harmed: usize,
    /// The smallest gain.
    pub worst: f64,
    /// Lives that were more than [`HARM`] below the base model after some training.
    pub dipped: usize,
    /// The lowest of them, less the base model.
    pub lowest: f64,
    /// Mean number of feedback items.
    pub feedback: f64,
    /// Median number of feedback items to 95 % of the final gain, over lives with a gain.
    pub feedback_to_learn: Option<usize>,
    /// The longest run of answers below the base model; 0 where feedback does not go on.
    pub longest_below: usize,
    /// Mean training time of a life, seconds on one thread.
    pub train_seconds: f64,
}

impl Row {
    fn of(population: &str, condition: &str, lives: &[&Life]) -> Row {
        let n = lives.len().max(1) as f64;
        let mean = |of: &dyn Fn(&Life) -> f64| lives.iter().map(|l| of(l)).sum::<f64>() / n;
        let least = |of: &dyn Fn(&Life) -> f64| lives.iter().map(|l| of(l)).fold(f64::INFINITY, f64::min);
        let mut learned: Vec<usize> = lives.iter().filter_map(|l| l.feedback_to_learn()).collect();
        learned.sort_unstable();
        // Accuracies are ratios of counts: a whole point below is no more than a point.
        let below = |v: f64| v < -HARM - 1e-9;
        Row {
            population: population.into(),
            condition: condition.into(),
            lives: lives.len(),
            base: mean(&|l| l.report.test.base),
            gain: mean(&Life::gain),
            harmed: lives.iter().filter(|l| below(l.gain())).count(),
            worst: least(&Life::gain),
            dipped: lives.iter().filter(|l| below(l.lowest())).count(),
            lowest: least(&Life::lowest),
            feedback: mean(&|l| l.report.feedback as f64),
            feedback_to_learn: learned.get(learned.len() / 2).copied(),
            longest_below: lives.iter().map(|l| l.longest_below()).max().unwrap_or(0),
            train_seconds: mean(&|l| l.report.train_seconds),
        }
    }
}

/// One row a population and condition, in the order of the file.
pub fn rows(lives: &[Life]) -> Vec<Row> {
    let mut order: Vec<(&str, &str)> = vec![];
    let mut groups: BTreeMap<(&str, &str), Vec<&Life>> = BTreeMap::new();
    for life in lives {
        let key = (&*life.population, &*life.condition);
        if !groups.contains_key(&key) {
            order.push(key);
        }
        groups.entry(key).or_default().push(life);
    }
    order.into_iter().map(|key| Row::of(key.0, key.1, &groups[&key])).collect()
}

impl Lives {
    /// Reads the file.
    ///
    /// # Errors
    /// `Io`; `BadData` with the line for what cannot be used.
    pub fn read(path: &Path) -> Result<Lives> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read the lives", path, e))?;
        let bad = |e: toml::de::Error| Error::bad_data("lives that cannot be read").at(path.display()).because(e);
        let mut lives: Lives = toml::from_str(&text).map_err(bad)?;
        let names: HashSet<&str> = lives.conditions.iter().map(|c| &*c.name).collect();
        if names.len() < lives.conditions.len() {
            return Err(Error::bad_data("two conditions of one name").at(path.display()));
        }
        if lives.train_every == Some(0) || lives.seeds > MOST_SEEDS {
            return Err(
                Error::bad_data(format!("train_every is 1 or more, and seeds at most {MOST_SEEDS}")).at(path.display())
            );
        }
        if lives.populations.is_empty() || lives.conditions.is_empty() || lives.seeds == 0 {
            return Err(Error::bad_data("lives of nobody: a population, a condition and a seed are needed")
                .at(path.display())
                .hint("docs/lives.md shows a file"));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        for p in &mut lives.populations {
            let files =
                [Some(&mut p.model), Some(&mut p.data), p.test.as_mut(), p.labels.as_mut(), p.tokenizer.as_mut()];
            files.into_iter().flatten().for_each(|file| *file = folder.join(&*file));
        }
        Ok(lives)
    }

    /// Lives them all, `options.threads` at a time, each on one thread. `told` hears how many are over, of how many.
    /// Before anybody lives, each population's model is loaded as `vetting` says.
    ///
    /// # Errors
    /// Those of [`simulate`], with the life that met it.
    pub fn live(
        &self,
        options: &Options<'_>,
        vetting: &dyn Fn(&Path) -> Result<Vetting>,
        told: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Vec<Life>> {
        self.conditions.iter().try_for_each(|c| c.person().check())?;
        let mut jobs = vec![];
        for population in &self.populations {
            population.vet(vetting(&population.model)?)?;
            let data = population.read_data(&population.data)?;
            let test = population.test.as_ref().map(|t| population.read_data(t)).transpose()?;
            for condition in &self.conditions {
                for user in population.lived_by() {
                    let data = of_user(&data, user)?;
                    // Data to test on need not say whose it is.
                    let test = test.as_ref().map(|t| of_user(t, user.filter(|_| t.users().is_some()))).transpose()?;
                    jobs.extend((0..self.seeds).map(|seed| Job {
                        population,
                        condition,
                        user,
                        seed,
                        data: data.clone(),
                        test: test.clone(),
                    }));
                }
            }
        }
        let (done, failed) = (Mutex::new(0), AtomicBool::new(false));
        in_parallel(options.threads, &jobs, |job| {
            // The first error is the one that is told: its number is the smallest of those that were met.
            if failed.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "another life has failed"));
            }
            let life = job.live(self.train_every, options).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            let mut done = lock(&done);
            *done += 1;
            told(*done, jobs.len());
            Ok(life)
        })
    }
}

fn of_user(data: &LabelledSet, user: Option<i64>) -> Result<LabelledSet> {
    user.map_or(Ok(data.clone()), |user| data.filter_user(user))
}

impl Population {
    fn read_data(&self, path: &Path) -> Result<LabelledSet> {
        let all = LabelledSet::read(path)?;
        let Some(below) = self.below_class else { return Ok(all) };
        let known = |&i: &usize| all.labels()[i].parse::<usize>().is_ok_and(|class| class < below);
        let kept: Vec<usize> = (0..all.len()).filter(known).collect();
        if kept.is_empty() {
            return Err(Error::bad_data(format!("no label is a number below {below}"))
                .at(path.display())
                .hint("leave below_class away where labels are names"));
        }
        all.select(&kept)
    }

    fn lived_by(&self) -> Vec<Option<i64>> {
        match &self.users[..] {
            [] => vec![None],
            users => users.iter().copied().map(Some).collect(),
        }
    }

    /// Makes a home that nobody lives in: what is wrong with the model shows before the first life.
    fn vet(&self, vetting: Vetting) -> Result<()> {
        let folder = temporary_folder()?;
        Home::init(folder.path().join("home"), &self.init().vetting(vetting)).map(drop)
    }

    fn init(&self) -> InitOptions {
        let mut init = InitOptions::new(&self.model);
        if let Some(labels) = &self.labels {
            init = init.labels(labels);
        }
        if let Some(tokenizer) = &self.tokenizer {
            init = init.tokenizer(tokenizer);
        }
        init
    }
}

impl Condition {
    fn person(&self) -> Person {
        let Condition { says, accept_share, wrong_share, ask_rate, .. } = *self;
        Person { says, accept_share, wrong_share, ask_rate }
    }
}

fn head_only() -> Settings {
    Settings { deepest: Depth::HeadOnly, ..Settings::default() }
}

struct Job<'a> {
    population: &'a Population,
    condition: &'a Condition,
    user: Option<i64>,
    seed: u64,
    data: LabelledSet,
    test: Option<LabelledSet>,
}

impl Job<'_> {
    fn live(&self, train_every: Option<usize>, options: &Options<'_>) -> Result<Life> {
        let Job { population, condition, user, seed, .. } = self;
        let options = Options {
            train_every: if condition.train_once { Some(usize::MAX) } else { train_every },
            person: condition.person(),
            ongoing: condition.ongoing,
            seed: *seed,
            settings: population.head_only.then(head_only).or_else(|| options.settings.clone()),
            threads: 1,
            ..options.clone()
        };
        let silent = |_: Step| {};
        let report = simulate(&population.init(), self.data.clone(), self.test.clone(), &options, &silent);
        let who = user.map_or(String::new(), |user| format!(", user {user}"));
        let place = || format!("{}{who}, {}, seed {seed}", population.name, condition.name);
        Ok(Life {
            population: population.name.clone(),
            condition: condition.name.clone(),
            user: *user,
            seed: *seed,
            report: report.map_err(|e| e.within(place()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_below_the_base_is_counted_in_windows() {
        let at = |right: bool, base_right: bool| Answered { right, base_right };
        let mut later = vec![at(true, true); 60];
        assert_eq!(longest_below(&later), 0);
        // One answer less: each window that holds it is below.
        later[30] = at(false, true);
        assert_eq!(longest_below(&later), WINDOW);
        // An answer more beside it makes up for it.
        later[29] = at(true, false);
        assert_eq!(longest_below(&later), 1);
        assert_eq!(longest_below(&later[..10]), 0);
    }

    #[test]
    fn paths_are_relative_to_the_file_and_a_wrong_word_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lives.toml");
        let text = "seeds = 2\n[[population]]\nname = 'p'\nmodel = 'm.onnx'\ndata = 'd.npz'\n\
                    [[condition]]\nname = 'clean'\n";
        std::fs::write(&file, text).unwrap();
        let lives = Lives::read(&file).unwrap();
        assert_eq!(lives.populations[0].model, folder.path().join("m.onnx"));
        assert_eq!((lives.conditions[0].says, lives.conditions[0].accept_share), (Says::Corrections, 0.25));
        std::fs::write(&file, format!("{text}wrong = 0.3\n")).unwrap();
        let e = Lives::read(&file).unwrap_err().to_string();
        assert!(e.contains("lives.toml") && e.contains("wrong"), "{e}");
    }
}
