//! The deeper candidates: low-rank deltas on inner layers, trained once a fold.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ndarray::{Array2, Axis};

use super::interim::{AtCheckpoint, best_checkpoint};
use super::pace::Pace;
use super::seen::Seen;
use super::{Adaptation, Evidence};
use crate::adapt::fit::{Fit, Go, Kept, LEARNING_RATE, Recipe, TrainingExample};
use crate::adapter::Depth;
use crate::error::{ErrorKind, Result};
use crate::gate::retention::Retention;
use crate::gate::split::Folds;
use crate::input::Example;
use crate::plan::{Factors, SiteKey, Variant};
use crate::sync::{in_parallel, lock};

/// Optimiser steps after which more epochs were not seen to help, and the fewest epochs all the same.
const ENOUGH_STEPS: u64 = 300;
const FEWEST_EPOCHS: u64 = 8;
/// Why a candidate is not tried to the end.
const OUT_OF_TIME: &str = "the time budget does not reach; raise --budget-seconds";
/// Evaluation checkpoints of a fit: at these shares of its epochs.
const CHECKPOINTS: [f32; 3] = [0.4, 0.7, 1.0];

/// What a deeper candidate is tried with.
pub(super) struct Trying<'a> {
    pub seen: &'a Seen,
    pub folds: &'a Folds,
    /// Training examples with a known answer.
    pub judged: &'a [usize],
    pub base_right: &'a [bool],
    /// Candidates that it has to be ahead of.
    pub rivals: &'a [Evidence],
    /// When the training began.
    pub started: Instant,
}

/// What became of a deeper candidate.
pub(super) enum Found {
    Evidence(Box<Evidence>),
    /// It is not tried to the end.
    GivenUp {
        reason: String,
        /// At each evaluation checkpoint that some fold reached, which training examples it had right; the base model
        /// where it was not asked.
        versions: Vec<Vec<bool>>,
    },
}

impl Found {
    /// For a reason that has nothing to do with its answers.
    fn not_tried(reason: impl Into<String>) -> Found {
        Found::GivenUp { reason: reason.into(), versions: vec![] }
    }
}

/// The fit of one fold.
struct FoldFit<'a> {
    fit: Fit<'a>,
    /// The training examples that it learns from, and those that it answers.
    training: Vec<usize>,
    judges: Vec<usize>,
    per_epoch: u64,
    /// Steps that are not timed: they compile, and compute what later ones find kept.
    warm: u64,
}

/// A deeper candidate that is being tried.
struct Trial<'a> {
    depth: Depth,
    sites: &'a SiteKey,
    recipe: &'a Recipe,
    /// Epochs after which a fit answers its fold.
    checkpoints: Vec<u64>,
    fits: Vec<Mutex<FoldFit<'a>>>,
    at: Vec<AtCheckpoint>,
}

impl Trial<'_> {
    fn steps(&self) -> u64 {
        self.fits.iter().map(|f| lock(f).fit.steps()).sum()
    }
}

impl Adaptation<'_> {
    pub(super) fn recipe(&self, training_examples: usize) -> Recipe {
        let mut recipe = Recipe { seed: self.settings.seed, ..self.settings.recipe.clone() };
        if self.corrects_only() {
            suit_corrections(&mut recipe);
        }
        let per_epoch = training_examples.div_ceil(recipe.batch).max(1) as u64;
        recipe.epochs = usual_epochs(&recipe, training_examples);
        if let Some(most) = self.settings.steps {
            recipe.epochs = recipe.epochs.min(most.div_ceil(per_epoch)).max(1);
        }
        recipe
    }

    /// Tries a deeper candidate: what was found, and the optimiser steps that its folds took.
    ///
    /// All folds are trained to the first evaluation checkpoint, then all to the next one. After folds at the first
    /// checkpoint, and where a checkpoint is reached by all, it is [told](Adaptation::why_give_up) whether it is worth
    /// more time. Which folds are trained side by side changes no result: what was trained beyond a decision is not
    /// looked at.
    ///
    /// Where only the base model's classes are corrected, the checkpoints are not waited for: each fold is trained to
    /// its end.
    pub(super) fn deeper(
        &self,
        depth: Depth,
        sites: &SiteKey,
        Trying { seen, folds, judged, base_right, rivals, started }: &Trying<'_>,
    ) -> Result<(Found, u64)> {
        let n = self.dataset.training_examples.len();
        let recipe = self.recipe(n);
        let checkpoints: Vec<u64> =
            CHECKPOINTS.iter().map(|s| ((recipe.epochs as f32 * s).round() as u64).max(1)).collect();
        let stages: Vec<Vec<u64>> = match self.corrects_only() {
            true => vec![checkpoints.clone()],
            false => checkpoints.iter().map(|c| vec![*c]).collect(),
        };
        let kept = Arc::new(Kept::new(recipe.kept_bytes));
        let fits = (0..folds.folds()).map(|fold| self.fold_fit(sites, seen, folds, fold, &recipe, &kept));
        let fits = match fits.collect::<Result<Vec<_>>>() {
            Err(e) if e.kind() == ErrorKind::UnsupportedModel => return Ok((Found::not_tried(e.to_string()), 0)),
            other => other?.into_iter().map(Mutex::new).collect(),
        };
        let mut trial = Trial { depth, sites, recipe: &recipe, checkpoints, fits, at: vec![] };
        let pace = Pace::new(*started, self.settings.budget);
        let side_by_side = self.engine.threads(self.settings.threads);
        let all: Vec<usize> = (0..trial.fits.len()).collect();
        // Epochs of one fold after the other that are done, and that there are, with the fit on everything.
        let (began, rounds) = (Instant::now(), all.len().div_ceil(side_by_side) as u64);
        let (mut done, whole) = (0, (rounds + 1) * recipe.epochs);
        for (stage, stage_checkpoints) in stages.iter().enumerate() {
            let to = stage_checkpoints.last().copied().unwrap_or(recipe.epochs);
            let first = trial.at.len();
            trial.at.extend(stage_checkpoints.iter().map(|_| AtCheckpoint::new(n, self.dataset.classes)));
            let before = done;
            for (round, group) in all.chunks(side_by_side).enumerate() {
                self.say(depth.name(), done as f32 / whole as f32);
                let inner_threads = (side_by_side / group.len()).max(1);
                // The first steps of all tell how long the rest takes.
                let rest = (done == 0).then(|| rounds * recipe.epochs);
                let trained = in_parallel(side_by_side, group, |&fold| {
                    self.train_fold(&trial, seen, fold, to, inner_threads, (&pace, rest))
                });
                let trained = match trained {
                    Err(e) if e.kind() == ErrorKind::UnsupportedModel => {
                        return Ok((Found::not_tried(e.to_string()), trial.steps()));
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted && pace.is_late() && !(self.stop)() => {
                        return Ok((Found::not_tried(OUT_OF_TIME), trial.steps()));
                    }
                    other => other?,
                };
                done = before + (round as u64 + 1) * (to - before / rounds);
                for (&fold, answers) in group.iter().zip(trained) {
                    let judges = lock(&trial.fits[fold]).judges.clone();
                    for (at, answers) in trial.at[first..].iter_mut().zip(answers.chunks(2).skip(first)) {
                        at.add(&judges, answers);
                    }
                    if stage == 0
                        && let Some(reason) = self.why_give_up(&trial.at, judged, rivals)?
                    {
                        let versions = self.versions(&trial.at, base_right)?;
                        return Ok((Found::GivenUp { reason, versions }, trial.steps()));
                    }
                }
                let left = whole.saturating_sub(done);
                if done < rounds * recipe.epochs
                    && pace.would_be_late(began.elapsed().mul_f64(left as f64 / done.max(1) as f64))
                {
                    return Ok((Found::not_tried(OUT_OF_TIME), trial.steps()));
                }
            }
            if trial.fits.iter().all(|f| lock(f).fit.was_finished_at(to)) || self.has_settled(&trial.at, judged)? {
                break;
            }
        }
        let steps = trial.steps();
        Ok((Found::Evidence(Box::new(self.evidence(trial, seen)?)), steps))
    }

    /// What was found of a candidate whose folds have all answered.
    fn evidence(&self, mut trial: Trial<'_>, seen: &Seen) -> Result<Evidence> {
        let mut scores = trial.at.iter().map(|at| self.score(&at.answers)).collect::<Result<Vec<_>>>()?;
        let chosen = best_checkpoint(&scores);
        let versions = scores.iter().map(|(right, _)| right.clone()).collect();
        let (right, loss) = scores.swap_remove(chosen);
        let AtCheckpoint { logits: held_out, answers: served, .. } = trial.at.swap_remove(chosen);
        let retention = match trial.fits.into_iter().next() {
            Some(first) => {
                let FoldFit { fit, training, .. } = first.into_inner().unwrap_or_else(PoisonError::into_inner);
                let fitted = fit.into_fitted();
                let factors = Factors::of(&fitted.deltas)?;
                let variant = Variant::Adapted(trial.sites, &factors);
                let confusions = self.confusions(seen, &training, &variant, &fitted.head, self.settings.threads)?;
                self.retention(seen, &variant, &fitted.head, confusions.as_ref())?
            }
            None => Retention::from_counts(0, 0, 0.0),
        };
        let (depth, sites, epochs) = (trial.depth, trial.sites.clone(), trial.checkpoints[chosen]);
        Ok(Evidence {
            depth,
            sites,
            right,
            loss,
            versions,
            held_out,
            served,
            retention,
            epochs,
            l2: 0.0,
            normalised: false,
        })
    }

    /// A fit on a fold's training split that has not begun.
    fn fold_fit<'b>(
        &'b self,
        sites: &'b SiteKey,
        seen: &'b Seen,
        folds: &Folds,
        fold: u32,
        recipe: &'b Recipe,
        kept: &Arc<Kept>,
    ) -> Result<FoldFit<'b>> {
        let (training, judges) = (folds.training(fold), folds.validation(fold));
        let n = self.dataset.training_examples.len();
        let training_examples: Vec<&TrainingExample> =
            training.iter().map(|&i| &self.dataset.training_examples[i]).chain(seen.kept_examples()).collect();
        let numbers = training.iter().copied().chain(n..n + seen.kept_examples().count()).collect();
        let head = self.blank_head(seen)?;
        let threads = self.settings.threads.max(1);
        let fit = Fit::new(self.engine, training_examples, sites, head, recipe, threads)?.sharing(kept, numbers);
        let per_epoch = fit.steps_per_epoch()?;
        let warm = if fit.is_split()? { per_epoch } else { 1 };
        Ok(FoldFit { fit, training, judges, per_epoch, warm })
    }

    /// Trains a fold's fit until `to` epochs are over. What it answers to its validation split at each evaluation
    /// checkpoint so far: the adapter alone, and with what stands, in turn.
    fn train_fold(
        &self,
        trial: &Trial<'_>,
        seen: &Seen,
        fold: usize,
        to: u64,
        threads: usize,
        (pace, rest): (&Pace, Option<u64>),
    ) -> Result<Vec<Array2<f32>>> {
        let mut fold = lock(&trial.fits[fold]);
        let FoldFit { fit, training, judges, per_epoch, warm } = &mut *fold;
        fit.use_threads(threads);
        let base = seen.logits.as_ref().map(|z| z.select(Axis(0), judges));
        let questions: Vec<&Example> = judges.iter().map(|&i| &self.dataset.training_examples[i].example).collect();
        let steps = to.saturating_sub(fit.epochs()) * *per_epoch;
        let ahead = rest.map(|epochs| (epochs * *per_epoch).saturating_sub(steps) + trial.recipe.epochs * *per_epoch);
        let late = pace.watch(steps, *warm, ahead);
        let stop = || (self.stop)() || late();
        fit.run_to(to, &stop, self.keeper, |epoch, answers| {
            let at = trial.checkpoints.iter().filter(|c| **c == epoch.number + 1).count();
            let missing = if epoch.is_last { trial.checkpoints.len() - answers.len() / 2 } else { at };
            if missing > 0 {
                let factors = Factors::of(epoch.deltas)?;
                let variant = Variant::Adapted(trial.sites, &factors);
                let rows = self.rows(&variant, &questions, threads)?;
                let logits = epoch.head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?;
                let confusions = self.confusions(seen, training, &variant, epoch.head, threads)?;
                let mut would = logits.clone();
                Self::let_stand(confusions.as_ref(), &mut would, base.as_ref());
                for _ in 0..missing {
                    answers.extend([logits.clone(), would.clone()]);
                }
            }
            Ok(Go::On)
        })?;
        Ok(fit.answers().to_vec())
    }
}

/// Passes over so many training examples that a fit makes at most.
pub(crate) fn usual_epochs(recipe: &Recipe, training_examples: usize) -> u64 {
    let per_epoch = training_examples.div_ceil(recipe.batch.max(1)).max(1) as u64;
    recipe.epochs.min(ENOUGH_STEPS.div_ceil(per_epoch).max(FEWEST_EPOCHS))
}

/// The head moves little: what has shifted is the input. Smoothed labels keep a delta from overshooting once an answer
/// is right. Chosen on the activity people (see docs/training.md). What the caller has set stays.
fn suit_corrections(recipe: &mut Recipe) {
    recipe.lr.get_or_insert(LEARNING_RATE * 2.5);
    recipe.head_lr.get_or_insert(0.1);
    recipe.smoothing.get_or_insert(0.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_set_is_not_overwritten() {
        let mut usual = Recipe::default();
        suit_corrections(&mut usual);
        assert_eq!((usual.rate(), usual.head_rate(), usual.smoothed()), (2e-3 * 2.5, 0.1, 0.1));
        let mut set = Recipe { lr: Some(1e-4), head_lr: Some(3.0), smoothing: Some(0.0), ..Recipe::default() };
        suit_corrections(&mut set);
        assert_eq!((set.rate(), set.head_rate(), set.smoothed()), (1e-4, 3.0, 0.0));
    }
}
