//! The deeper candidates: low-rank deltas on inner layers, trained once a fold.

use std::time::Instant;

use ndarray::{Array2, Axis};

use super::pace::Pace;
use super::seen::Seen;
use super::{Adaptation, Evidence};
use crate::adapt::fit::{Fit, Fitted, Go, LEARNING_RATE, Recipe, TrainingExample};
use crate::adapter::Depth;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::retention::Retention;
use crate::gate::split::Folds;
use crate::input::Example;
use crate::plan::{Factors, SiteKey, Variant};
use crate::stats::paired::Paired;
use crate::sync::in_parallel;

/// Optimiser steps after which more epochs were not seen to help, and the fewest epochs all the same.
const ENOUGH_STEPS: u64 = 300;
const FEWEST_EPOCHS: u64 = 8;
/// Why a candidate is not tried to the end.
const OUT_OF_TIME: &str = "the time budget does not reach; raise --budget-seconds";
/// Evaluation checkpoints of a fit: at these shares of its epochs.
const CHECKPOINTS: [f32; 3] = [0.4, 0.7, 1.0];

/// Level at which a candidate is told to be behind another.
const BEHIND: f64 = 0.05;

/// What a fit says of its fold at an evaluation checkpoint, `[examples of the fold, classes]`.
#[derive(Clone)]
pub(super) struct AtCheckpoint {
    /// The adapter alone.
    logits: Array2<f32>,
    /// What would be answered: the base model's answer where it stands.
    answers: Array2<f32>,
}

/// What became of a deeper candidate.
pub(super) enum Found {
    Evidence(Box<Evidence>),
    /// It is not tried to the end.
    GivenUp {
        reason: String,
        /// The training examples whose answers were looked at.
        answered: Vec<usize>,
        /// At each evaluation checkpoint, which training examples it had right; of those `answered`.
        right: Vec<Vec<bool>>,
    },
}

impl Found {
    /// For a reason that has nothing to do with its answers.
    fn not_tried(reason: impl Into<String>) -> Found {
        Found::GivenUp { reason: reason.into(), answered: vec![], right: vec![] }
    }
}

impl Adaptation<'_> {
    pub(super) fn recipe(&self, training_examples: usize) -> Recipe {
        let mut recipe = Recipe { seed: self.settings.seed, ..self.settings.recipe.clone() };
        if self.corrects_only() {
            suit_corrections(&mut recipe);
        }
        let per_epoch = training_examples.div_ceil(recipe.batch).max(1) as u64;
        recipe.epochs = recipe.epochs.min(ENOUGH_STEPS.div_ceil(per_epoch).max(FEWEST_EPOCHS));
        if let Some(most) = self.settings.steps {
            recipe.epochs = recipe.epochs.min(most.div_ceil(per_epoch)).max(1);
        }
        recipe
    }

    /// Folds of a deeper candidate, as many side by side as there are threads, and the optimiser steps that they took.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn deeper(
        &self,
        depth: Depth,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        rivals: &[Evidence],
        judges: &[usize],
        started: Instant,
    ) -> Result<(Found, u64)> {
        let name = depth.name();
        let n = self.dataset.training_examples.len();
        let recipe = self.recipe(n);
        let checkpoints: Vec<u64> =
            CHECKPOINTS.iter().map(|s| ((recipe.epochs as f32 * s).round() as u64).max(1)).collect();
        let mut held_out: Vec<Array2<f32>> = vec![Array2::zeros((n, self.dataset.classes)); checkpoints.len()];
        let mut answers = held_out.clone();
        let all: Vec<u32> = (0..folds.folds()).collect();
        let side_by_side = self.settings.threads.max(1);
        let (mut steps, mut judged): (u64, Vec<usize>) = (0, vec![]);
        let mut retention = None;
        let (began, pace) = (Instant::now(), Pace::new(started, self.settings.budget));
        let rounds = all.len().div_ceil(side_by_side) as u32;
        for (round, group) in all.chunks(side_by_side).enumerate() {
            self.say(name, judged.len() as f32 / (n as f32 * 1.3));
            let inner_threads = (self.settings.threads / group.len()).max(1);
            // The folds of later rounds, and the fit on everything.
            let fits_ahead = rounds - round as u32;
            let fits = in_parallel(side_by_side, group, |&fold| {
                self.fold_fit(
                    sites,
                    seen,
                    folds,
                    fold,
                    &recipe,
                    &checkpoints,
                    inner_threads,
                    (&pace, (round == 0).then_some(fits_ahead)),
                )
            });
            let fits = match fits {
                Err(e) if e.kind() == ErrorKind::UnsupportedModel => {
                    return Ok((Found::not_tried(e.to_string()), steps));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted && pace.is_late() && !(self.stop)() => {
                    return Ok((Found::not_tried(OUT_OF_TIME), steps));
                }
                other => other?,
            };
            for (&fold, (fitted, at_checkpoints)) in group.iter().zip(fits) {
                let judges = folds.validation(fold);
                for ((logits, answers), part) in held_out.iter_mut().zip(&mut answers).zip(&at_checkpoints) {
                    for (at, &i) in judges.iter().enumerate() {
                        logits.row_mut(i).assign(&part.logits.row(at));
                        answers.row_mut(i).assign(&part.answers.row(at));
                    }
                }
                steps += fitted.steps;
                judged.extend(judges);
                if retention.is_none() {
                    let factors = Factors::of(&fitted.deltas)?;
                    let variant = Variant::Adapted(sites, &factors);
                    let (taught, threads) = (folds.training(fold), self.settings.threads);
                    let confusions = self.confusions(seen, &taught, &variant, &fitted.head, threads)?;
                    retention = Some(self.retention(seen, &variant, &fitted.head, confusions.as_ref())?);
                }
            }
            if judged.len() < n {
                let answered: Vec<usize> = judges.iter().copied().filter(|i| judged.contains(i)).collect();
                if let Some(given_up) = self.falls_behind(&answers, answered, rivals)? {
                    return Ok((given_up, steps));
                }
                if pace.would_be_late(began.elapsed() / (round as u32 + 1) * fits_ahead) {
                    return Ok((Found::not_tried(OUT_OF_TIME), steps));
                }
            }
        }
        let mut scores = answers.iter().map(|logits| self.score(logits)).collect::<Result<Vec<_>>>()?;
        let look = best_checkpoint(&scores);
        let versions = scores.iter().map(|(right, _)| right.clone()).collect();
        let (right, loss) = scores.swap_remove(look);
        let retention = retention.unwrap_or_else(|| Retention::from_counts(0, 0, 0.0));
        let epochs = checkpoints[look];
        let (held_out, served) = (held_out.swap_remove(look), answers.swap_remove(look));
        let sites = sites.clone();
        let evidence = Evidence { depth, sites, right, loss, versions, held_out, served, retention, epochs, l2: 0.0 };
        Ok((Found::Evidence(Box::new(evidence)), steps))
    }

    /// Trains on a fold's training split and answers its validation split at each evaluation checkpoint.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fold_fit(
        &self,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        fold: u32,
        recipe: &Recipe,
        checkpoints: &[u64],
        threads: usize,
        (pace, fits_ahead): (&Pace, Option<u32>),
    ) -> Result<(Fitted, Vec<AtCheckpoint>)> {
        let (training, judges) = (folds.training(fold), folds.validation(fold));
        let head = self.blank_head(seen)?;
        let training_examples: Vec<&TrainingExample> =
            training.iter().map(|&i| &self.dataset.training_examples[i]).chain(seen.kept_examples()).collect();
        let base = seen.logits.as_ref().map(|z| z.select(Axis(0), &judges));
        let questions: Vec<&Example> = judges.iter().map(|&i| &self.dataset.training_examples[i].example).collect();
        let fit = Fit::new(self.engine, training_examples, sites, head, recipe, threads)?;
        let per_epoch = fit.steps_per_epoch()?;
        let warm = if fit.is_split()? { per_epoch } else { 1 };
        let late = pace.watch(recipe.epochs * per_epoch, warm, fits_ahead);
        let stop = || (self.stop)() || late();
        let mut fitted = fit.run(&stop, self.keeper, |epoch, deltas, head, answers| {
            for _ in checkpoints.iter().filter(|l| **l == epoch + 1) {
                let factors = Factors::of(deltas)?;
                let variant = Variant::Adapted(sites, &factors);
                let rows = self.rows(&variant, &questions, threads)?;
                let logits = head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?;
                let confusions = self.confusions(seen, &training, &variant, head, threads)?;
                let mut would = logits.clone();
                Self::let_stand(confusions.as_ref(), &mut would, base.as_ref());
                answers.extend([logits, would]);
            }
            Ok(Go::On)
        })?;
        let answers = std::mem::take(&mut fitted.answers);
        let pair = |pair: &[Array2<f32>]| match pair {
            [logits, answers] => Some(AtCheckpoint { logits: logits.clone(), answers: answers.clone() }),
            _ => None,
        };
        let mut at: Vec<AtCheckpoint> = answers.chunks(2).filter_map(pair).collect();
        match at.last().cloned() {
            Some(last) => at.resize(checkpoints.len(), last),
            None => return Err(Error::internal("a fit without an evaluation checkpoint")),
        }
        Ok((fitted, at))
    }

    /// Gives a candidate up that is behind a rival on the training examples `answered` so far, at each evaluation checkpoint: clearly in accuracy, by the
    /// paired test at 5 %, since the first folds have few answers, and in mean loss.
    fn falls_behind(
        &self,
        held_out: &[Array2<f32>],
        answered: Vec<usize>,
        rivals: &[Evidence],
    ) -> Result<Option<Found>> {
        let scores = held_out.iter().map(|logits| self.score(logits)).collect::<Result<Vec<_>>>()?;
        let pick = |right: &[bool]| answered.iter().map(|&i| right[i]).collect::<Vec<_>>();
        let mean = |loss: &[f32]| answered.iter().map(|&i| loss[i] as f64).sum::<f64>() / answered.len() as f64;
        let ahead = |rival: &Evidence, (right, loss): &(Vec<bool>, Vec<f32>)| {
            Paired::count(&pick(&rival.right), &pick(right)).exact_p() <= BEHIND && mean(&rival.loss) < mean(loss)
        };
        let Some(rival) = rivals.iter().find(|rival| scores.iter().all(|score| ahead(rival, score))) else {
            return Ok(None);
        };
        let count = |right: &[bool]| pick(right).iter().filter(|r| **r).count();
        let reason = format!(
            "given up after {} answers: at most {} right, the {} had {} and a smaller loss",
            answered.len(),
            scores.iter().map(|(right, _)| count(right)).max().unwrap_or(0),
            rival.depth.name(),
            count(&rival.right)
        );
        Ok(Some(Found::GivenUp { reason, answered, right: scores.into_iter().map(|(right, _)| right).collect() }))
    }
}

/// The head moves little: what has shifted is the input. Smoothed labels keep a delta from overshooting once an answer is right.
/// Chosen on the activity people (see docs/training.md). What the caller has set stays.
fn suit_corrections(recipe: &mut Recipe) {
    recipe.lr.get_or_insert(LEARNING_RATE * 2.5);
    recipe.head_lr.get_or_insert(0.1);
    recipe.smoothing.get_or_insert(0.1);
}

/// The evaluation checkpoint with the most held-out answers right: an early stop that every fold votes on. On equal ones the smallest loss.
fn best_checkpoint(scores: &[(Vec<bool>, Vec<f32>)]) -> usize {
    let mut best = (0, 0, f64::INFINITY);
    for (look, (right, loss)) in scores.iter().enumerate() {
        let (right, loss) = (right.iter().filter(|r| **r).count(), loss.iter().map(|l| *l as f64).sum::<f64>());
        if right > best.1 || (right == best.1 && loss < best.2) {
            best = (look, right, loss);
        }
    }
    best.0
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
