//! Trains low-rank factors of a language model on what was said about its answers.

mod pass;
#[cfg(test)]
mod trl_tests;
#[cfg(test)]
mod zoo_tests;

use std::collections::HashMap;

use ndarray::Array2;

use self::pass::{Pass, Sum, Supervised};
use crate::adapt::fit::family::{self, Part};
use crate::adapt::fit::state::{FitName, FitState, Keeper, Naming};
use crate::adapt::fit::{Recipe, start};
use crate::adapt::language::example::{LanguageExample, Said};
use crate::adapt::language::sum;
use crate::adapter::SiteDelta;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Factors, LentFactors, SiteKey, Text, TextTrainer, Variant};
use crate::stats::random::{keyed_rng, shuffle};
use crate::train::averaging::Average;
use crate::train::optim::{AdamW, AdamWOptions, Decay, Grads, ParamSet, Schedule, clip_global_norm};
use crate::train::preference::{BETA, PairLoss, UnpairedLoss, kto_kl, kto_weights};

/// Weight of tokens of an edit that the person left as they were (docs/language-models.md). Weights by an alignment
/// with the original are those of Yao et al. 2023, *Improving Summarization with Human Edits* (SALT).
const UNCHANGED: f64 = 0.3;
/// Divergence from the base that rehearsal holds: three quarters of what makes the perplexity rise by the gate's limit.
const DIVERGENCE: f64 = 0.015;
/// Weight of the rehearsal at the start, and its bounds.
const WEIGHT: f64 = 4.0;
const WEIGHTS: (f64, f64) = (1.0, 50.0);
/// Gain of the controller of that weight, and the greatest relative error that it sees.
const GAIN: f64 = 0.1;
const MOST_ERROR: f64 = 0.5;
/// Where the learning rate ends, as a share of its peak.
const FLOOR: f32 = 0.1;
/// Nats at which a token of an edit is known: its probability is one half, so no other one is more likely
/// (docs/language-models.md).
const MARGIN: f64 = std::f64::consts::LN_2;
/// Part of the steps that the factors are averaged over, the last ones.
const AVERAGED: f64 = 0.625;

/// How what was said is learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Losses {
    /// Inverse temperature of the losses on pairs and on good and bad answers.
    pub beta: f64,
    /// Weight of the supervised loss on edits.
    pub supervised: f64,
    /// Weight, in that loss, of tokens that the person left as they were; 1 is TRL's loss.
    pub unchanged: f64,
    /// Nats at which a token is known, and that loss pulls no more; 0 is TRL's loss.
    pub margin: f64,
    /// Of an edit and the answer that was edited, beside the supervised loss on the edit.
    pub edit: Option<PairLoss>,
    /// Of the better and the worse of two answers.
    pub preference: PairLoss,
    /// Divergence from the base on texts of its own, nats a token, to which the weight of their loss is adapted; 0 for
    /// no such loss.
    pub rehearsal: f64,
    /// KTO is that of good and of bad answers, APO-zero otherwise.
    pub kto: bool,
}

impl Default for Losses {
    fn default() -> Losses {
        Losses {
            beta: BETA,
            supervised: 1.0,
            unchanged: UNCHANGED,
            margin: MARGIN,
            edit: None,
            preference: PairLoss::Sigmoid,
            rehearsal: DIVERGENCE,
            kto: false,
        }
    }
}

/// Log-probabilities of texts under the base model, the reference of all losses: each computed once.
#[derive(Debug, Default)]
pub(crate) struct References {
    sums: HashMap<Text, f64>,
    /// Texts of the base's own, with its hidden states where they were computed.
    pub rehearsal: Vec<(Text, Option<Array2<f32>>)>,
}

impl References {
    /// That of `text`.
    pub fn of(&mut self, trainer: &mut TextTrainer, text: &Text) -> Result<f64> {
        if let Some(known) = self.sums.get(text) {
            return Ok(*known);
        }
        let found = sum(&trainer.passes().log_probs(&Variant::Base, text)?);
        self.sums.insert(text.clone(), found);
        Ok(found)
    }
}

/// A fit in progress.
pub(crate) struct TextFit<'a> {
    trainer: TextTrainer<'a>,
    examples: Vec<&'a LanguageExample>,
    sites: &'a SiteKey,
    recipe: &'a Recipe,
    losses: Losses,
    /// Weight of the rehearsal now.
    weight: f64,
    /// Size of the examples' gradients beside that of the supervised loss: those of the other losses have a slope of
    /// `beta / 4` at most for each nat.
    pull: f64,
    /// Weights of good and of bad answers where KTO is the loss.
    kto: Option<[f64; 2]>,
    params: ParamSet,
    /// Gradients of the step that is being taken.
    grads: Grads,
    optimiser: AdamW,
    /// What the fit ends with.
    average: Average,
    /// Steps after which each one counts in the average. All count until the fit runs, and knows how many there are.
    averaged_after: u64,
    /// Without the values of factors that are trained as a whole: `params` has them.
    deltas: Vec<SiteDelta>,
    parts: Vec<Part>,
    /// Epoch of the next step, and its batch within that epoch.
    place: (u64, u64),
    finished: bool,
    loss: f64,
}

/// What a fit ends with.
#[derive(Debug, Clone)]
pub(crate) struct FittedText {
    /// In plan order.
    pub deltas: Vec<SiteDelta>,
    pub steps: u64,
}

impl<'a> TextFit<'a> {
    /// Starts from fresh factors on `sites`.
    pub fn new(
        trainer: TextTrainer<'a>,
        examples: Vec<&'a LanguageExample>,
        sites: &'a SiteKey,
        recipe: &'a Recipe,
        losses: Losses,
    ) -> Result<TextFit<'a>> {
        let first = examples.first().and_then(|e| e.said.texts().first().copied());
        let plan = trainer.plan(first.ok_or_else(|| Error::internal("a fit of no example"))?)?;
        let deltas = start::begin(trainer.base(), &plan.sites, recipe)?;
        TextFit::from_start(trainer, examples, sites, deltas, recipe, losses)
    }

    pub(super) fn from_start(
        trainer: TextTrainer<'a>,
        examples: Vec<&'a LanguageExample>,
        sites: &'a SiteKey,
        mut deltas: Vec<SiteDelta>,
        recipe: &'a Recipe,
        losses: Losses,
    ) -> Result<TextFit<'a>> {
        let mut params = ParamSet::new();
        let parts = family::parts(&deltas, &recipe.lora)?;
        for part in &parts {
            params.add(part.name(&deltas), part.values(&deltas), part.group(recipe.weight_decay))?;
            part.hand_over(&mut vec![], &mut deltas);
        }
        let optimiser = AdamW::new(&params, AdamWOptions::default());
        let count = |wanted: fn(&Said) -> bool| examples.iter().filter(|e| wanted(&e.said)).count();
        let (good, bad) = (count(|s| matches!(s, Said::Good(_))), count(|s| matches!(s, Said::Bad(_))));
        let kto = losses.kto.then(|| kto_weights(good, bad));
        let edits = count(|s| matches!(s, Said::Edit { .. })) as f64 / examples.len().max(1) as f64;
        let pull = edits + (1.0 - edits) * losses.beta / 4.0;
        let (place, finished, loss) = ((0, 0), false, 0.0);
        Ok(TextFit {
            weight: WEIGHT,
            pull,
            trainer,
            examples,
            sites,
            recipe,
            losses,
            kto,
            grads: params.zero_grads(),
            params,
            optimiser,
            average: Average::default(),
            averaged_after: 0,
            deltas,
            parts,
            place,
            finished,
            loss,
        })
    }

    /// The examples of each step of an epoch.
    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        shuffle(&mut order, keyed_rng(self.recipe.seed, 1, epoch));
        order.chunks(self.recipe.batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Optimiser steps of one pass over the examples.
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.len().div_ceil(self.recipe.batch.max(1)) as u64
    }

    /// Trains to the last of the recipe's epochs, or goes on from where `keeper` knows that this fit was left; `stop`
    /// is asked before each step. Ends early after `most` steps, and where `late` says that time is up.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when stopped: `keeper` has the state then.
    pub fn run(
        mut self,
        references: &mut References,
        (stop, late): (&dyn Fn() -> bool, &dyn Fn() -> bool),
        most: Option<u64>,
        keeper: Option<&dyn Keeper>,
        told: &mut dyn FnMut(f32),
    ) -> Result<FittedText> {
        let keeper = keeper.map(|k| (k, self.name()));
        if let Some((keeper, name)) = &keeper
            && let Some(state) = keeper.left(name)
            && let Err(e) = self.take_up(&state)
        {
            tracing::warn!(error = %e, "a fit starts anew");
        }
        let epochs = self.recipe.epochs;
        let total = epochs * self.steps_per_epoch();
        let total = most.map_or(total, |most| most.min(total)).max(1);
        let warmup = (total as f32 * self.recipe.warmup).ceil() as u64;
        self.averaged_after = total - (AVERAGED * total as f64).round() as u64;
        let mut in_time = true;
        let schedule = Schedule { warmup, total, decay: Decay::Cosine, floor: FLOOR };
        while !self.finished && self.place.0 < epochs {
            let (epoch, done) = self.place;
            let batches = self.batches(epoch);
            for batch in batches.iter().skip(done as usize) {
                if stop() {
                    if let Some((keeper, name)) = &keeper {
                        keeper.stopped(name, self.state());
                    }
                    return Err(Error::new(ErrorKind::Interrupted, "training was stopped"));
                }
                let lr = self.recipe.rate() * schedule.factor(self.optimiser.steps());
                self.loss += self.step(batch, references, lr)?;
                self.place.1 += 1;
                if let Some((keeper, name)) = &keeper {
                    keeper.stepped(name, &|| self.state());
                }
                told(self.optimiser.steps() as f32 / total as f32);
                in_time = !late();
                if self.optimiser.steps() >= total || !in_time {
                    self.finished = true;
                    break;
                }
            }
            let mean = std::mem::take(&mut self.loss) / batches.len().max(1) as f64;
            self.place = (epoch + 1, 0);
            tracing::debug!(epoch, mean, "epoch of a language fit");
        }
        self.finished = true;
        self.average.take(&mut self.params);
        self.put_back();
        // A fit that time cut short is not the one of its name.
        if let Some((keeper, name)) = keeper.as_ref().filter(|_| in_time) {
            keeper.finished(name, self.state());
        }
        self.hand_over();
        Ok(FittedText { steps: self.optimiser.steps(), deltas: self.deltas })
    }

    /// Moves the values of factors that are trained as a whole from the parameters to the deltas, or back.
    fn hand_over(&mut self) {
        for (part, p) in self.parts.iter().zip(self.params.iter_mut()) {
            part.hand_over(&mut p.value, &mut self.deltas);
        }
    }

    /// Runs passes with the factors as they are now, which have the parameters' values meanwhile.
    fn with_factors<T>(&mut self, pass: impl FnOnce(&mut Self, &Factors) -> Result<T>) -> Result<T> {
        self.hand_over();
        let lent = LentFactors::of(&mut self.deltas)?;
        let result = pass(self, &lent.factors);
        lent.give_back(&mut self.deltas);
        self.hand_over();
        result
    }

    /// One optimiser step on these examples and one of the base's own texts; the examples' mean loss before it.
    pub fn step(&mut self, items: &[usize], references: &mut References, lr: f32) -> Result<f64> {
        let loss = self.gradients(items, references)?;
        let number = self.optimiser.steps() as usize;
        self.rehearse(number, references)?;
        if self.recipe.clip > 0.0 {
            clip_global_norm(&mut self.grads, self.recipe.clip)?;
        }
        self.parts.iter().zip(&mut self.grads.0).for_each(|(part, gradient)| part.project(gradient));
        self.optimiser.step(&mut self.params, &self.grads, lr)?;
        self.put_back();
        if self.optimiser.steps() > self.averaged_after {
            self.average.add(&self.params);
        }
        Ok(loss)
    }

    /// Puts the trained part of factors that are not trained as a whole into the deltas.
    fn put_back(&mut self) {
        for (part, p) in self.parts.iter().zip(self.params.iter()) {
            part.put(&p.value, &mut self.deltas);
        }
    }

    /// Sets the gradients of every parameter to those over these examples, and gives their mean loss: each example
    /// counts the same, and within the supervised loss each token of all edits.
    pub(super) fn gradients(&mut self, items: &[usize], references: &mut References) -> Result<f64> {
        self.with_factors(|fit, factors| fit.gradients_at(items, factors, references))
    }

    fn gradients_at(&mut self, items: &[usize], factors: &Factors, references: &mut References) -> Result<f64> {
        let examples: Vec<&LanguageExample> = items.iter().map(|&i| self.examples[i]).collect();
        let share = 1.0 / items.len().max(1) as f64;
        let edits = || {
            examples.iter().filter_map(|e| match &e.said {
                Said::Edit { edited, .. } => Some(edited.completion().len()),
                _ => None,
            })
        };
        // The mean over all tokens of edits, for as many examples as there are edits.
        let a_token = self.losses.supervised * share * edits().count() as f64 / edits().sum::<usize>().max(1) as f64;
        let unpaired = self.unpaired(&examples, factors, references)?;
        self.grads.clear();
        let sum = Sum { parts: &self.parts, deltas: &self.deltas, grads: &mut self.grads };
        let mut pass = Pass { trainer: &mut self.trainer, factors, references, sum, loss: 0.0 };
        let beta = self.losses.beta;
        for example in &examples {
            match &example.said {
                Said::Edit { edited, original } => {
                    let weight = |chosen: bool| if chosen { 1.0 } else { self.losses.unchanged };
                    let weights = Said::chosen_tokens(edited, original.as_ref()).into_iter().map(weight);
                    let weights = weights.map(|weight| a_token * weight).collect();
                    let supervised = Supervised { weights, margin: self.losses.margin };
                    match self.losses.edit.zip(original.as_ref()) {
                        Some((loss, original)) => pass.pair([edited, original], loss, beta, share, &supervised)?,
                        None => pass.supervised(edited, &supervised)?,
                    }
                }
                Said::Preference { chosen, rejected } => {
                    let none = Supervised::default();
                    pass.pair([chosen, rejected], self.losses.preference, beta, share, &none)?;
                }
                Said::Good(text) => pass.single(text, unpaired, beta, true, share)?,
                Said::Bad(text) => pass.single(text, unpaired, beta, false, share)?,
            }
        }
        Ok(pass.loss)
    }

    /// Adds the gradient of the divergence from the base on one of its own texts, and adapts its weight (the adaptive
    /// KL coefficient of Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*, section 2.2).
    fn rehearse(&mut self, number: usize, references: &mut References) -> Result<()> {
        let count = references.rehearsal.len();
        if count == 0 || self.losses.rehearsal == 0.0 {
            return Ok(());
        }
        let (text, hidden) = &mut references.rehearsal[number % count];
        let base = match hidden {
            Some(base) => base,
            None => hidden.insert(self.trainer.base_hidden(text)?),
        };
        let count = text.completion().len() as f64;
        let weight = self.weight * self.pull / count;
        let kl = self.with_factors(|fit, factors| {
            let passed = fit.trainer.forward(factors, text)?;
            let mut sum = Sum { parts: &fit.parts, deltas: &fit.deltas, grads: &mut fit.grads };
            fit.trainer.backward_kl(passed, text, base, weight as f32, &mut |at, g| sum.add(at, g))
        })?;
        let error = (kl / count / self.losses.rehearsal - 1.0).clamp(-MOST_ERROR, MOST_ERROR);
        self.weight = (self.weight * (1.0 + GAIN * error)).clamp(WEIGHTS.0, WEIGHTS.1);
        Ok(())
    }

    /// The loss on good and bad answers: KTO where there are enough of both and several in this batch.
    fn unpaired(
        &mut self,
        of: &[&LanguageExample],
        factors: &Factors,
        references: &mut References,
    ) -> Result<UnpairedLoss> {
        let texts: Vec<&Text> = of
            .iter()
            .filter_map(|e| match &e.said {
                Said::Good(text) | Said::Bad(text) => Some(text),
                _ => None,
            })
            .collect();
        let Some(weights) = self.kto.filter(|_| texts.len() > 1) else { return Ok(UnpairedLoss::ApoZero) };
        let mut ratios = vec![];
        for (at, text) in texts.iter().enumerate() {
            // TRL takes the completion before, within the batch.
            let other = texts[(at + texts.len() - 1) % texts.len()];
            let tokens = [&text.tokens[..text.start], other.completion()].concat();
            if tokens.len() > self.trainer.context() {
                continue;
            }
            let mismatched = Text { tokens, start: text.start };
            let variant = Variant::Adapted(self.sites, factors);
            let policy = sum(&self.trainer.passes().log_probs(&variant, &mismatched)?);
            ratios.push(policy - references.of(&mut self.trainer, &mismatched)?);
        }
        Ok(UnpairedLoss::Kto { kl: kto_kl(&ratios), weights })
    }

    fn state(&self) -> FitState {
        let average = self.average.clone();
        FitState::of_texts(self.place, self.finished, self.loss, self.weight, average, &self.params, &self.optimiser)
    }

    fn take_up(&mut self, state: &FitState) -> Result<()> {
        if state.place.0 > self.recipe.epochs {
            return Err(Error::bad_data("a stored fit is longer than this one"));
        }
        self.optimiser = state.restore(&mut self.params)?;
        (self.place, self.finished, self.loss) = (state.place, state.finished, state.loss());
        self.weight = state.rehearsal();
        self.average = state.average().clone();
        self.put_back();
        Ok(())
    }

    /// Names this fit by its start and what it learns from.
    fn name(&self) -> FitName {
        let mut name = Naming(blake3::Hasher::new());
        name.text(&format!("texts {:?} {:?} {:?} {:?}", self.recipe.decisive(), self.losses, self.kto, self.sites));
        for p in &self.params {
            name.text(&format!("{} {:?}", p.name, p.group));
            name.bytes(bytemuck::cast_slice(&p.value));
        }
        self.examples.iter().for_each(|e| name.language_example(e));
        name.0.finalize()
    }
}

impl Naming {
    /// An example of a language model.
    pub fn language_example(&mut self, example: &LanguageExample) {
        let kind = match &example.said {
            Said::Edit { .. } => "edit",
            Said::Preference { .. } => "preference",
            Said::Good(_) => "good",
            Said::Bad(_) => "bad",
        };
        self.text(&format!("{kind} {}", example.at_ms));
        for text in example.said.texts() {
            self.text_tokens(text);
        }
    }

    /// A text.
    pub fn text_tokens(&mut self, text: &Text) {
        self.text(&text.start.to_string());
        self.bytes(bytemuck::cast_slice(&text.tokens));
    }
}
