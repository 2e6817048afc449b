//! The loop that knows the whole story: training examples → a sequence of candidates → the gate → an adapter that may
//! serve.
//!
//! Cheap candidates come first. Every candidate is judged on training examples that did not teach it: the training
//! examples are cut into folds of consecutive blocks, one fit a fold, side by side on the cores. A deeper candidate
//! that falls behind on its first folds is given up. The winner is trained once more on everything, checked against
//! the base on inputs that nobody corrected, and only then handed to the store.

mod confusions;
mod corrections;
mod decide;
mod deep;
mod doubts;
mod evidence;
pub mod example;
pub mod fit;
mod interim;
pub(crate) mod language;

#[cfg(test)]
mod level;
mod pace;
mod rehearsal;
mod seen;
pub(crate) mod select;
mod sensitivity;
mod shallow;
#[cfg(test)]
mod study;
pub(crate) mod swaps;
#[cfg(test)]
mod trying_tests;

use std::time::{Duration, Instant};

pub(crate) use corrections::{Corrections, Unheld, Why};
pub(crate) use deep::usual_epochs;
use deep::{Found, Trying};
pub(crate) use doubts::Doubtful;
use evidence::Evidence;
pub use language::LanguageFound;
pub(crate) use seen::{Dataset, Standing, folds_of};

use crate::adapt::fit::state::Keeper;
use crate::adapt::fit::{Recipe, Target};
use crate::adapter::known::KnownInputs;
use crate::adapter::{Confusions, Depth, HeadDelta, SiteDelta, Verdict};
use crate::error::Result;
use crate::gate::Limits;
use crate::gate::split::{Folds, SplitOptions};
use crate::head::{Head, HeadView};
use crate::input::Example;
use crate::plan::{Engine, Factors, Rows, SiteKey, Variant};
use crate::stats::calibration::Calibration;

/// Fewest training examples with a known answer before a training is worth its time.
pub const FEWEST_EXAMPLES: usize = 8;
/// Most uncorrected inputs that retention looks at: the latest ones.
pub(crate) const MOST_IDLE: usize = 256;

/// What a training may use and must keep to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Most optimiser steps of one fit.
    pub steps: Option<u64>,
    /// Most time for the whole training.
    pub budget: Option<Duration>,
    /// The gate's limits.
    pub limits: Limits,
    /// Hyper-parameters of the deeper candidates.
    pub recipe: Recipe,
    /// Deepest candidate to try.
    pub deepest: Depth,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: 0,
            threads: crate::process::available_cores(),
            steps: None,
            budget: None,
            limits: Limits::default(),
            recipe: Recipe::default(),
            deepest: Depth::AllSites,
        }
    }
}

/// Sites of the deeper candidates, shallowest first.
pub(crate) struct CandidateSites {
    pub last_block: SiteKey,
    pub all_sites: SiteKey,
}

/// The adapter that serves while a new one is trained.
#[derive(Clone, Copy)]
pub(crate) struct Incumbent<'a> {
    pub generation: u64,
    pub sites: &'a SiteKey,
    pub factors: &'a Factors,
    pub head: Option<HeadView<'a>>,
    pub confusions: Option<&'a Confusions>,
}

/// What a training found out.
pub(crate) struct Outcome {
    pub verdict: Verdict,
    /// Deltas and head of the winner, when it may serve.
    pub winner: Option<Winner>,
    pub steps: u64,
    pub seconds: f64,
    /// One line a candidate, for people.
    pub tried: Vec<String>,
    /// `None` where nothing was trained.
    pub loss: Option<ValidationLoss>,
    /// `None` where nothing was trained.
    pub doubts: Option<Doubtful>,
    /// `None` where nothing may serve.
    pub corrections: Option<Corrections>,
    /// `None` where nothing was trained.
    pub calibration: Option<Calibration>,
    /// What the known inputs are like; `None` without a winner, or where too few are known.
    pub known: Option<KnownInputs>,
}

/// Mean loss (cross-entropy in nats) on the validation answers, none of which taught the one that is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidationLoss {
    /// Of the base, with a head that says nothing where classes are new.
    pub base: f64,
    /// Of the candidate that the verdict is about.
    pub after: f64,
}

pub(crate) struct Winner {
    pub depth: Depth,
    pub deltas: Vec<SiteDelta>,
    pub head: Head,
    pub confusions: Option<Confusions>,
    pub steps: u64,
    pub learning_rate: f32,
}

/// Where a training stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: String,
    /// Part done, 0 to 1.
    pub done: f32,
}

#[derive(Clone, Copy)]
pub(crate) struct Adaptation<'a> {
    pub engine: &'a Engine,
    pub dataset: &'a Dataset,
    pub candidates: &'a CandidateSites,
    pub settings: &'a Settings,
    pub incumbent: Option<Incumbent<'a>>,
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Keeps where the fits stand, so that a training that was cut off goes on.
    pub keeper: Option<&'a dyn Keeper>,
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

impl Adaptation<'_> {
    pub fn run(&self) -> Result<Outcome> {
        let started = Instant::now();
        let dataset = self.dataset;
        let judged: Vec<usize> = (0..dataset.training_examples.len())
            .filter(|&i| matches!(dataset.training_examples[i].target, Target::Class(_)))
            .collect();
        if judged.len() < FEWEST_EXAMPLES {
            let more = FEWEST_EXAMPLES - judged.len();
            let reason = format!("{} known; {more} more before the first training", doubts::answers(judged.len()));
            return Ok(self.nothing(reason, started));
        }
        self.say("looking at the inputs", 0.0);
        let seen = self.look()?;
        let base_right = self.base_right(&seen);
        let folds = self.folds()?;
        let head = self.head_only(&seen, &folds)?;
        let mut trials =
            Trials { tried: vec![self.describe(&head, &judged)], candidates: vec![head], ..Trials::default() };
        // A head that corrects the base's own classes answers what it was taught, and little else: on people whom the
        // activity model never met it was worse than the base by up to 34 points where no deeper candidate was. There
        // it only fills in for them.
        let rivals_from = usize::from(self.corrects_only());
        for (depth, sites) in self.stages() {
            let rivals = &trials.candidates[rivals_from..];
            if let Some(why) = self.nothing_to_win(rivals, &judged, &base_right) {
                trials.tried.push(format!("{}: not tried: {why}", depth.name()));
                continue;
            }
            let (folds, judged, base_right) = (&folds, &judged[..], &base_right[..]);
            let (found, steps) =
                self.deeper(depth, sites, &Trying { seen: &seen, folds, judged, base_right, rivals, started })?;
            trials.steps += steps;
            match found {
                Found::Evidence(evidence) => {
                    trials.tried.push(self.describe(&evidence, judged));
                    trials.candidates.push(*evidence);
                }
                Found::GivenUp { reason, versions } => {
                    trials.tried.push(format!("{}: {reason}", depth.name()));
                    trials.given_up.push(versions);
                }
            }
        }
        if trials.candidates.len() > 1 {
            trials.candidates.drain(..rivals_from);
        }
        self.decide(&seen, &base_right, &judged, &folds, trials, started)
    }

    /// The deeper candidates, shallowest first.
    fn stages(&self) -> Vec<(Depth, &SiteKey)> {
        let CandidateSites { last_block, all_sites } = self.candidates;
        let mut stages = vec![(Depth::LastBlock, last_block), (Depth::AllSites, all_sites)];
        if last_block == all_sites {
            stages.remove(0);
        }
        stages.retain(|(depth, sites)| !sites.is_empty() && *depth <= self.settings.deepest);
        stages
    }

    /// Pooled features and logits of many examples: no more at once than a training step takes, which memory may have
    /// limited.
    fn rows(&self, variant: &Variant, examples: &[&Example], threads: usize) -> Result<Rows> {
        self.engine.many(variant, examples, threads, self.settings.recipe.micro_batch)
    }

    fn say(&self, stage: &str, done: f32) {
        (self.progress)(Progress { stage: stage.to_string(), done });
    }

    fn nothing(&self, reason: String, started: Instant) -> Outcome {
        Outcome {
            verdict: Verdict::of_nothing(Depth::HeadOnly, reason),
            winner: None,
            steps: 0,
            seconds: started.elapsed().as_secs_f64(),
            tried: vec![],
            loss: None,
            doubts: None,
            corrections: None,
            calibration: None,
            known: None,
        }
    }

    /// Blocks of consecutive training examples, so that near-duplicates stay on one side; fewer folds when there is
    /// more to judge with.
    fn folds(&self) -> Result<Folds> {
        let n = self.dataset.training_examples.len();
        let times: Vec<u64> = self.dataset.training_examples.iter().map(|l| l.at_ms).collect();
        let folds = self.dataset.folds();
        let block = (n / 24).clamp(1, 8);
        Folds::new(
            &times,
            &SplitOptions { folds, block, glue: 0, embargo_items: 0, embargo_time: 0, seed: self.settings.seed },
        )
    }

    /// Whether only the base's own classes are corrected. Then it is the input that has shifted (another person,
    /// another sensor), and early layers are where such a shift is best undone (Lee et al. 2023, *Surgical
    /// fine-tuning*): the head hardly moves, and a deeper candidate wins a tie. New classes instead are read off
    /// features that are there already: the head moves fast, and the shallower candidate wins a tie.
    fn corrects_only(&self) -> bool {
        self.dataset.corrects_only()
    }
}

impl Verdict {
    /// That nothing was judged, and why.
    pub(crate) fn of_nothing(depth: Depth, reason: String) -> Verdict {
        Verdict {
            promoted: false,
            base_accuracy: 0.0,
            before: 0.0,
            after: 0.0,
            n: 0,
            p_value: 1.0,
            power: 0.0,
            retention: 1.0,
            retention_n: 0,
            depth,
            reason,
        }
    }
}

/// What was tried.
#[derive(Default)]
struct Trials {
    /// Candidates tried to the end.
    candidates: Vec<Evidence>,
    /// Of each that was given up: for every version and training example, was it right, or was the base where it was
    /// not asked?
    given_up: Vec<Vec<Vec<bool>>>,
    /// One line a candidate, for people.
    tried: Vec<String>,
    steps: u64,
}

/// A head as an adapter file keeps it.
pub(crate) fn head_delta(head: &Head, pooling: crate::adapter::Pooling) -> HeadDelta {
    HeadDelta {
        features: head.features,
        base_classes: head.base_classes,
        classes: head.classes,
        pooling,
        columns: head.columns.clone(),
        normalised: head.normalised,
        weight: crate::adapter::DenseTensor {
            shape: vec![head.features, head.columns.len()],
            data: head.weight.iter().copied().collect(),
        },
        bias: head.bias.to_vec(),
    }
}
