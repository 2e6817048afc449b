//! The gate's decision, and the fit on everything that follows it.

use std::collections::HashSet;
use std::time::Instant;

use ndarray::Array2;

use super::corrections::Corrections;
use super::doubts::Doubtful;
use super::evidence::{Evidence, mean};
use super::seen::Seen;
use super::{Adaptation, Outcome, Trials, ValidationLoss, Winner};
use crate::adapt::fit::{Fit, Go, Target, TrainingExample};
use crate::adapter::Depth;
use crate::adapter::known::KnownInputs;
use crate::error::Result;
use crate::gate::split::Folds;
use crate::gate::{CandidateEvidence, ServingEvidence, judge};
use crate::plan::{Factors, SiteKey, Variant};
use crate::stats::calibration::{Answered, Calibration};
use crate::stats::paired::{Paired, power};
use crate::stats::rows::argmax;

impl Adaptation<'_> {
    pub(super) fn decide(
        &self,
        seen: &Seen,
        base_right: &[bool],
        judged: &[usize],
        folds: &Folds,
        Trials { candidates, given_up, tried, mut steps }: Trials,
        started: Instant,
    ) -> Result<Outcome> {
        let limits = &self.settings.limits;
        let pick = |v: &[bool]| -> Vec<bool> { judged.iter().map(|&i| v[i]).collect() };
        let base = pick(base_right);
        let picked = |versions: &[Vec<bool>]| versions.iter().map(|v| pick(v)).collect::<Vec<_>>();
        let given_up: Vec<Vec<Vec<bool>>> = given_up.iter().map(|g| picked(g)).collect();
        let versions: Vec<Vec<Vec<bool>>> = candidates.iter().map(|e| picked(&e.versions)).collect();
        let parts: Vec<(Vec<bool>, Vec<f32>)> =
            candidates.iter().map(|e| (pick(&e.right), judged.iter().map(|&i| e.loss[i]).collect())).collect();
        let evidence: Vec<CandidateEvidence> = candidates
            .iter()
            .zip(parts.iter().zip(&versions))
            .map(|(e, ((correct, loss), versions))| CandidateEvidence {
                name: e.depth.name(),
                depth: self.preference(e.depth),
                correct,
                versions,
                loss,
                retention: e.retention,
            })
            .collect();
        let call = judge(&ServingEvidence { correct: &base }, &evidence, &given_up, limits)?;
        let accuracy = |v: &[bool]| v.iter().filter(|r| **r).count() as f64 / v.len().max(1) as f64;
        let before = accuracy(&pick(&self.dataset.served_right));
        let shown = call.chosen.unwrap_or_else(|| best_shown(&parts));
        let mut verdict = crate::adapter::Verdict {
            promoted: false,
            base_accuracy: accuracy(&base),
            before,
            after: accuracy(&parts[shown].0),
            n: judged.len() as u64,
            p_value: call.candidates[shown].decision.p(),
            power: power(judged.len() as u64, 0.1, 0.01, limits.alpha),
            retention: 1.0 - candidates[shown].retention.rate,
            retention_n: candidates[shown].retention.n,
            depth: candidates[shown].depth,
            reason: call.reason.clone(),
        };
        let loss = Some(ValidationLoss { base: self.untaught_loss(seen, judged)?, after: mean(&parts[shown].1) });
        let doubts = Doubtful::find(&candidates[shown].held_out, &seen.features, &self.dataset.training_examples);
        let calibration = Some(self.calibration(&candidates[shown].served, folds));
        let done = |verdict, promoted: Option<(Winner, Option<Corrections>)>, steps| {
            let (seconds, tried, doubts) = (started.elapsed().as_secs_f64(), tried.clone(), Some(doubts.clone()));
            let (winner, corrections) = promoted.map_or((None, None), |(winner, held)| (Some(winner), held));
            let known = winner.as_ref().and_then(|_| self.known_inputs(seen));
            Ok(Outcome { verdict, winner, steps, seconds, tried, loss, doubts, corrections, calibration, known })
        };
        let Some(chosen) = call.chosen else { return done(verdict, None, steps) };
        if let Some(reason) = self.behind_on_fresh(&candidates[chosen], seen, folds)? {
            verdict.reason = reason;
            return done(verdict, None, steps);
        }
        self.say("training on everything", 0.8);
        let winner = self.refit(&candidates[chosen], seen)?;
        steps += winner.steps;
        let key: SiteKey = candidates[chosen].sites.clone();
        let factors = Factors::of(&winner.deltas)?;
        let variant = if key.is_empty() { Variant::Base } else { Variant::Adapted(&key, &factors) };
        let retention = self.retention(seen, &variant, &winner.head, winner.confusions.as_ref())?;
        verdict.retention = 1.0 - retention.rate;
        verdict.retention_n = retention.n;
        if !retention.is_within(limits) {
            verdict.reason = format!("trained on everything it forgets too much: {}", retention.over(limits));
            return done(verdict, None, steps);
        }
        if retention.n > 0 {
            verdict.reason =
                format!("{}; {retention}, the limit is {:.1} %", verdict.reason, 100.0 * limits.disagreement);
        }
        verdict.promoted = true;
        let held = self.corrections(&winner, &key, seen, &doubts)?;
        done(verdict, Some((winner, held)), steps)
    }

    /// Fitted on the held-out answers of known classes. A class that the fit of a fold had no example of could not be
    /// answered there: that says nothing of how sure the answers are that will be given.
    fn calibration(&self, held_out: &Array2<f32>, folds: &Folds) -> Calibration {
        let answers: Vec<Answered<'_>> = (self.could_answer(folds).into_iter().enumerate())
            .filter_map(|(i, could)| could.then_some((held_out.row(i), self.class(i)?)))
            .collect();
        Calibration::fit(&answers)
    }

    fn class(&self, example: usize) -> Option<usize> {
        match self.dataset.training_examples.get(example)?.target {
            Target::Class(class) => Some(class),
            Target::Not(_) | Target::Keep(_) => None,
        }
    }

    /// Of each training example, whether the fit that did not see it can answer its class: one of the base model, or
    /// one that another example has shown it. Where no class is said, it can.
    pub(super) fn could_answer(&self, folds: &Folds) -> Vec<bool> {
        let shown_to = |fold| folds.training(fold).into_iter().filter_map(|i| self.class(i)).collect();
        let known: Vec<HashSet<usize>> = (0..folds.folds()).map(shown_to).collect();
        let could = |(i, fold): (usize, &u32)| {
            let knows = |class| known.get(*fold as usize).is_some_and(|known| known.contains(&class));
            self.class(i).is_none_or(|class| class < self.dataset.base_classes || knows(class))
        };
        folds.fold_of().iter().enumerate().map(could).collect()
    }

    /// What the inputs are like whose classes are known: those that were taught, and those whose answer by the base
    /// was left standing.
    fn known_inputs(&self, seen: &Seen) -> Option<KnownInputs> {
        let class = |example: &TrainingExample| match example.target {
            Target::Class(class) => Some(class).filter(|class| Some(*class) != self.dataset.none),
            Target::Not(_) | Target::Keep(_) => None,
        };
        let examples = seen.features.rows().into_iter().zip(&self.dataset.training_examples);
        let taught = examples.filter_map(|(x, example)| Some((x.to_vec(), class(example)?)));
        let stood = seen.stood.iter().map(|(x, class)| (x.to_vec(), *class));
        let rows: Vec<(Vec<f32>, usize)> = taught.chain(stood).collect();
        KnownInputs::of(&rows.iter().map(|(x, class)| (x.as_slice(), *class)).collect::<Vec<_>>())
    }

    /// Mean loss of the base on the training examples of the validation split.
    fn untaught_loss(&self, seen: &Seen, judged: &[usize]) -> Result<f64> {
        let logits = self.blank_head(seen)?.forward(seen.features.view(), seen.logits.as_ref().map(|z| z.view()))?;
        let loss = self.score(&logits)?.1;
        Ok(mean(&judged.iter().map(|&i| loss[i]).collect::<Vec<f32>>()))
    }

    /// The order in which candidates are preferred on a tie, the smallest first. Where classes are new the head alone
    /// is, since its features are the base's own; two that moved the features are distinguished by what they had
    /// right, however little that is.
    fn preference(&self, depth: Depth) -> u32 {
        match self.corrects_only() {
            true => Depth::AllSites as u32 - depth as u32,
            false => u32::from(depth != Depth::HeadOnly),
        }
    }

    /// Against an active generation the candidate is judged on what came after that generation, which taught neither:
    /// it must not have fewer answers right. On a tie it becomes active: it has learned from all that the other has,
    /// and from more.
    ///
    /// A class that the fit of a fold had no example of could not be answered there. That is no evidence against the
    /// candidate, which is trained on all of them in the end, so such answers do not count.
    fn behind_on_fresh(&self, e: &Evidence, seen: &Seen, folds: &Folds) -> Result<Option<String>> {
        let Some(incumbent) = &self.incumbent else { return Ok(None) };
        let training_examples = &self.dataset.training_examples;
        let fresh: Vec<usize> = (0..training_examples.len()).filter(|&i| !training_examples[i].earlier).collect();
        if fresh.is_empty() && self.dataset.revised {
            // Nothing to compare them on, and the active generation holds what is no longer said.
            return Ok(None);
        }
        if fresh.is_empty() {
            return Ok(Some(format!("there is no feedback since generation {} was trained", incumbent.generation)));
        }
        let could = self.could_answer(folds);
        let fresh: Vec<usize> = fresh.into_iter().filter(|&i| could.get(i).is_none_or(|could| *could)).collect();
        if fresh.is_empty() {
            return Ok(None);
        }
        let Some(logits) = self.incumbent_answers(incumbent, seen, &fresh)? else { return Ok(None) };
        // It may know classes that nothing teaches any more.
        let classes = self.dataset.classes.max(logits.ncols());
        let mut padded = Array2::from_elem((fresh.len(), classes), -30.0f32);
        padded.slice_mut(ndarray::s![.., ..logits.ncols()]).assign(&logits);
        let theirs: Vec<bool> = padded
            .rows()
            .into_iter()
            .zip(&fresh)
            .map(|(z, &i)| argmax(z).is_some_and(|answer| training_examples[i].target.agrees(answer)))
            .collect();
        let ours: Vec<bool> = fresh.iter().map(|&i| e.right[i]).collect();
        let test = Paired::count(&ours, &theirs);
        let behind = test.losses > test.wins;
        Ok(behind.then(|| {
            format!(
                "on the {} answers since generation {} the candidate has {} right that it had wrong, and {} wrong that it had right",
                fresh.len(),
                incumbent.generation,
                test.wins,
                test.losses
            )
        }))
    }

    pub(super) fn refit(&self, e: &Evidence, seen: &Seen) -> Result<Winner> {
        let all: Vec<usize> = (0..self.dataset.training_examples.len()).collect();
        if e.sites.is_empty() {
            let head = self.solved_head(seen, &all, e.l2, e.normalised)?;
            let confusions = self.confusions(seen, &all, &Variant::Base, &head, self.settings.threads)?;
            return Ok(Winner { depth: e.depth, deltas: vec![], head, confusions, steps: 0, learning_rate: 0.0 });
        }
        let head = self.blank_head(seen)?;
        let training_examples: Vec<&TrainingExample> =
            self.dataset.training_examples.iter().chain(seen.kept_examples()).collect();
        let recipe = self.recipe(training_examples.len());
        let fit = Fit::new(self.engine, training_examples, &e.sites, head, &recipe, self.settings.threads)?;
        let fitted = fit.run(self.stop, self.keeper, |epoch, _| {
            self.say("training on everything", 0.8 + 0.2 * (epoch.number + 1) as f32 / e.epochs as f32);
            Ok(if epoch.number + 1 >= e.epochs { Go::Enough } else { Go::On })
        })?;
        let factors = Factors::of(&fitted.deltas)?;
        let variant = Variant::Adapted(&e.sites, &factors);
        let confusions = self.confusions(seen, &all, &variant, &fitted.head, self.settings.threads)?;
        Ok(Winner {
            depth: e.depth,
            deltas: fitted.deltas,
            head: fitted.head,
            confusions,
            steps: fitted.steps,
            learning_rate: recipe.rate(),
        })
    }
}

fn best_shown(parts: &[(Vec<bool>, Vec<f32>)]) -> usize {
    let right = |p: &(Vec<bool>, Vec<f32>)| p.0.iter().filter(|r| **r).count();
    // The first of equals: the shallowest.
    (0..parts.len()).rev().max_by_key(|&i| right(&parts[i])).unwrap_or(0)
}
