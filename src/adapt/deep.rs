//! The deeper candidates: low-rank deltas on inner layers, trained once a fold.

use std::time::Instant;

use ndarray::Array2;

use super::pace::Pace;
use super::seen::Seen;
use super::{Adaptation, Evidence, depth_name};
use crate::adapt::fit::{Fit, Fitted, Go, Lesson, Recipe};
use crate::adapter::Depth;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::retention::Retention;
use crate::gate::split::Folds;
use crate::input::Example;
use crate::plan::{Factors, SiteKey, Variant};
use crate::sync::in_parallel;

/// Optimiser steps after which more epochs were not seen to help, and the fewest epochs all the same.
const ENOUGH_STEPS: u64 = 300;
const FEWEST_EPOCHS: u64 = 8;
/// Why a candidate is not tried to the end.
const OUT_OF_TIME: &str = "the time budget does not reach; raise --budget-seconds";
/// Held-out looks at a fit: at these shares of its epochs.
const LOOKS: [f32; 3] = [0.4, 0.7, 1.0];

impl Adaptation<'_> {
    pub(super) fn recipe(&self, lessons: usize) -> Recipe {
        let mut recipe = Recipe { seed: self.settings.seed, ..self.settings.recipe.clone() };
        if self.corrects_only() {
            // The head moves little: what has shifted is the input. Smoothed labels keep a delta from overshooting once an answer
            // is right. Chosen on the activity people (see docs/training.md).
            (recipe.lr, recipe.head_lr, recipe.smoothing) = (recipe.lr * 2.5, 0.1, 0.1);
        }
        let per_epoch = lessons.div_ceil(recipe.batch).max(1) as u64;
        recipe.epochs = recipe.epochs.min(ENOUGH_STEPS.div_ceil(per_epoch).max(FEWEST_EPOCHS));
        if let Some(most) = self.settings.steps {
            recipe.epochs = recipe.epochs.min(most.div_ceil(per_epoch)).max(1);
        }
        recipe
    }

    /// Folds of a deeper candidate, as many side by side as there are threads. `Err` of the inner result gives it up.
    #[allow(clippy::type_complexity)]
    pub(super) fn deeper(
        &self,
        depth: Depth,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        rivals: &[Evidence],
        started: Instant,
    ) -> Result<std::result::Result<(Evidence, u64), (String, u64)>> {
        let name = depth_name(depth);
        let n = self.material.lessons.len();
        let recipe = self.recipe(n);
        let looks: Vec<u64> = LOOKS.iter().map(|s| ((recipe.epochs as f32 * s).round() as u64).max(1)).collect();
        let mut held_out: Vec<Array2<f32>> = vec![Array2::zeros((n, self.material.classes)); looks.len()];
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
                    &looks,
                    inner_threads,
                    (&pace, (round == 0).then_some(fits_ahead)),
                )
            });
            let fits = match fits {
                Err(e) if e.kind() == ErrorKind::UnsupportedModel => return Ok(Err((e.to_string(), steps))),
                Err(e) if e.kind() == ErrorKind::Interrupted && pace.is_late() && !(self.stop)() => {
                    return Ok(Err((OUT_OF_TIME.into(), steps)));
                }
                other => other?,
            };
            for (&fold, (fitted, at_looks)) in group.iter().zip(fits) {
                let judges = folds.judges(fold);
                for (all, part) in held_out.iter_mut().zip(&at_looks) {
                    for (at, &i) in judges.iter().enumerate() {
                        all.row_mut(i).assign(&part.row(at));
                    }
                }
                steps += fitted.steps;
                judged.extend(judges);
                if retention.is_none() {
                    let factors = Factors::of(&fitted.deltas)?;
                    retention = Some(self.retention(seen, &Variant::Adapted(sites, &factors), &fitted.head)?);
                }
            }
            if judged.len() < n {
                if let Some(reason) = self.falls_behind(&held_out, &judged, rivals)? {
                    return Ok(Err((reason, steps)));
                }
                if pace.would_be_late(began.elapsed() / (round as u32 + 1) * fits_ahead) {
                    return Ok(Err((OUT_OF_TIME.into(), steps)));
                }
            }
        }
        let look = self.best_look(&held_out)?;
        let (right, loss) = self.score(&held_out[look])?;
        let retention = retention.unwrap_or_else(|| Retention::from_counts(0, 0, 0.0));
        let epochs = looks[look];
        Ok(Ok((Evidence { depth, sites: sites.clone(), right, loss, retention, epochs, l2: 0.0 }, steps)))
    }

    /// Trains on a fold's teachers and answers its judges at each look.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fold_fit(
        &self,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        fold: u32,
        recipe: &Recipe,
        looks: &[u64],
        threads: usize,
        (pace, fits_ahead): (&Pace, Option<u32>),
    ) -> Result<(Fitted, Vec<Array2<f32>>)> {
        let (teachers, judges) = (folds.teachers(fold), folds.judges(fold));
        let head = self.blank_head(seen)?;
        let lessons: Vec<&Lesson> =
            teachers.iter().map(|&i| &self.material.lessons[i]).chain(seen.kept_lessons()).collect();
        let questions: Vec<&Example> = judges.iter().map(|&i| &self.material.lessons[i].example).collect();
        let fit = Fit::new(self.engine, lessons, sites, head, recipe, threads)?;
        let per_epoch = fit.steps_per_epoch()?;
        let warm = if fit.is_split()? { per_epoch } else { 1 };
        let late = pace.watch(recipe.epochs * per_epoch, warm, fits_ahead);
        let stop = || (self.stop)() || late();
        let mut fitted = fit.run(&stop, self.keeper, |epoch, deltas, head, answers| {
            for _ in looks.iter().filter(|l| **l == epoch + 1) {
                let factors = Factors::of(deltas)?;
                let rows = self.rows(&Variant::Adapted(sites, &factors), &questions, threads)?;
                answers.push(head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?);
            }
            Ok(Go::On)
        })?;
        let mut answers = std::mem::take(&mut fitted.answers);
        match answers.last().cloned() {
            Some(last) => answers.resize(looks.len(), last),
            None => return Err(Error::internal("a fit without a look")),
        }
        Ok((fitted, answers))
    }

    /// The look with the most held-out answers right: an early stop that every fold votes on. On equal ones the smallest loss.
    fn best_look(&self, held_out: &[Array2<f32>]) -> Result<usize> {
        let mut best = (0, 0, f64::INFINITY);
        for (look, logits) in held_out.iter().enumerate() {
            let (right, loss) = self.score(logits)?;
            let (right, loss) = (right.iter().filter(|r| **r).count(), loss.iter().map(|l| *l as f64).sum::<f64>());
            if right > best.1 || (right == best.1 && loss < best.2) {
                best = (look, right, loss);
            }
        }
        Ok(best.0)
    }

    /// A candidate that is behind in accuracy and in loss on the folds so far is not worth the rest.
    pub(super) fn falls_behind(
        &self,
        held_out: &[Array2<f32>],
        judged: &[usize],
        rivals: &[Evidence],
    ) -> Result<Option<String>> {
        let mean = |loss: &[f32]| judged.iter().map(|&i| loss[i] as f64).sum::<f64>() / judged.len() as f64;
        let rate = |right: &[bool]| judged.iter().filter(|&&i| right[i]).count() as f64 / judged.len() as f64;
        let mut best = (0.0, f64::INFINITY);
        for logits in held_out {
            let (right, loss) = self.score(logits)?;
            best = (rate(&right).max(best.0), mean(&loss).min(best.1));
        }
        // Clearly: by more than a standard error of its accuracy.
        let error = (best.0 * (1.0 - best.0) / judged.len() as f64).sqrt();
        let ahead = rivals.iter().find(|e| rate(&e.right) > best.0 + error && mean(&e.loss) < best.1);
        Ok(ahead.map(|e| {
            format!(
                "given up after {} answers: {:.0} % right, the {} had {:.0} % and a smaller loss",
                judged.len(),
                100.0 * best.0,
                depth_name(e.depth),
                100.0 * rate(&e.right)
            )
        }))
    }
}
