//! The loop for language models: what was said about answers → fits on parts of it → judged on the rest → the gate → an
//! adapter that may serve.
//!
//! Everything that was said is judged by a fit that was not taught with it: the examples are cut into folds. Only then
//! one fit learns from all of them. Where it changes texts that nobody complained about too much, weaker ones are
//! tried: the same factors with a smaller scale.

mod conversations;
mod example;
mod fit;
mod judge;

use std::cell::Cell;
use std::time::{Duration, Instant};

use conversations::{folds, independent};
pub(crate) use example::{LanguageDataset, LanguageExample, Said};
use fit::FittedText;
pub(crate) use fit::{Losses, References, TextFit};
use judge::{Judgement, Known};

use super::fit::Recipe;
use super::fit::state::Keeper;
use super::select::kept;
use super::{FEWEST_EXAMPLES, Progress, Settings};
use crate::adapter::{Depth, SiteDelta, Verdict};
use crate::base::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::language::{Calls, Judged, TextRetention};
use crate::plan::{Decoder, Engine, EnteredTexts, Factors, Keeps, SiteKey, TextPasses, TextTrainer, Variant};
use crate::stats::paired::Decision;
use crate::sync::on_cores;

/// Peak learning rate of the factors where the hidden states have this width, and its bounds: a wider model takes
/// smaller steps, by the power 3/2. Found on models of width 128 and 576 (docs/language-models.md).
const LEARNING_RATE: f32 = 7.2e-4;
const WIDTH: f32 = 576.0;
const SLOWEST: f32 = 1e-4;
const FASTEST: f32 = 4e-3;
/// Optimiser steps that a fit takes at least, as epochs, and bounds of these.
const STEPS: usize = 64;
const EPOCHS: std::ops::RangeInclusive<usize> = 3..=20;
/// Examples of an optimiser step.
const BATCH: usize = 2;
/// Scales that are tried, as shares of the usual one.
const STRENGTHS: [f32; 4] = [1.0, 0.85, 0.7, 0.5];
/// Part of a limit of time that the fits may take; judging has the rest.
const OF_FITS: f64 = 0.8;
/// Good and bad answers, of each, from which on KTO takes the place of APO-zero: its estimate of the divergence wants
/// batches of several.
const KTO_FROM: usize = 8;
/// Examples from which on two folds are enough.
const MANY: usize = 48;

/// A training of a language model's adapter.
pub(crate) struct LanguageAdaptation<'a> {
    pub engine: &'a Engine,
    pub decoder: &'a Decoder,
    pub dataset: &'a LanguageDataset,
    pub sites: &'a SiteKey,
    /// Width of the hidden states.
    pub width: usize,
    pub settings: &'a Settings,
    pub losses: Losses,
    /// The active generation.
    pub serving: Variant<'a>,
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Keeps where the fits stand, so that a training that was cut off goes on.
    pub keeper: Option<&'a dyn Keeper>,
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// What a training found out.
pub(crate) struct LanguageOutcome {
    pub verdict: Verdict,
    /// Deltas of the winner, when it may serve.
    pub winner: Option<LanguageWinner>,
    pub steps: u64,
    pub seconds: f64,
    /// One line a thing that was tried, for people.
    pub tried: Vec<String>,
    pub found: Option<LanguageFound>,
}

pub(crate) struct LanguageWinner {
    pub deltas: Vec<SiteDelta>,
    pub steps: u64,
    pub learning_rate: f32,
}

/// Figures of a candidate that was judged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LanguageFound {
    /// How many answers come closer to what was said, how many come further away, and how many were judged.
    pub calls: Calls,
    /// Conversations that the answers are of, where each counts once in the test.
    pub conversations: Option<u64>,
    /// What it changed elsewhere, where that was measured.
    pub retention: Option<TextRetention>,
    /// Scale of its factors, as a share of the usual one.
    pub strength: f32,
}

impl LanguageAdaptation<'_> {
    /// # Errors
    /// [`ErrorKind::Interrupted`] when it was stopped. A training with values that are no numbers is a verdict.
    pub fn run(&self) -> Result<LanguageOutcome> {
        let (started, steps) = (Instant::now(), Cell::new(0));
        on_cores(self.settings.threads, || self.run_here(started, &steps)).or_else(|e| match e.kind() {
            ErrorKind::BadData => {
                let outcome = self.nothing(format!("no adapter came of it: {e}"), started);
                Ok(LanguageOutcome { steps: steps.get(), ..outcome })
            }
            _ => Err(e),
        })
    }

    /// How a fit of so many examples is trained.
    fn recipe(&self, examples: usize) -> Recipe {
        let recipe = &self.settings.recipe;
        let width = self.width.max(1) as f32;
        let rate = LEARNING_RATE * (WIDTH / width).powf(1.5);
        Recipe {
            lr: recipe.lr.or(Some(rate.clamp(SLOWEST, FASTEST))),
            epochs: epochs(examples) as u64,
            batch: BATCH,
            seed: self.settings.seed,
            ..recipe.clone()
        }
    }

    fn run_here(&self, started: Instant, steps: &Cell<u64>) -> Result<LanguageOutcome> {
        let n = self.dataset.examples.len();
        if n < FEWEST_EXAMPLES {
            let more = FEWEST_EXAMPLES - n;
            let answers = if n == 1 { "1 answer has".to_string() } else { format!("{n} answers have") };
            return Ok(self.nothing(format!("{answers} feedback; {more} more before the first training"), started));
        }
        if self.sites.is_empty() {
            return Ok(self.nothing("no layer of the model can be trained".into(), started));
        }
        if !self.serves_base() && !self.dataset.revised && self.dataset.examples.iter().all(|e| !e.fresh) {
            let reason = "there is no feedback since the active generation was trained; to train from the base model \
                          anew, roll back to 0 first";
            return Ok(self.nothing(reason.into(), started));
        }
        let folds = folds(&self.dataset.examples, most_folds(n), self.settings.seed);
        let parts = folds.iter().max().map_or(1, |last| last + 1);
        if parts < 2 {
            let reason = "all feedback is about answers to the same messages: nothing judges what is learned from it";
            return Ok(self.nothing(reason.into(), started));
        }
        let mut run = Run {
            of: self,
            passes: TextPasses::new(self.engine, self.decoder.context())?,
            references: References::default(),
            losses: Losses { kto: self.by_kto(), ..self.losses },
            entered: EnteredTexts::new(self.settings.recipe.kept_bytes),
            deadline: self.settings.budget.map(|budget| started + budget.mul_f64(OF_FITS)),
            steps,
            stage: (0, parts + 1),
        };
        if self.losses.rehearsal > 0.0 {
            self.say("reading", 0.0);
            run.references.rehearsal = self.rehearsal(&mut run.passes)?.into_iter().map(|text| (text, None)).collect();
        }
        let mut fits = vec![];
        for fold in 0..parts {
            let taught = |at: &usize| folds[*at] != fold;
            let items: Vec<usize> = (0..n).filter(taught).collect();
            fits.push(run.fit(&items)?);
        }
        let mut tried = vec![];
        let mut whole: Option<FittedText> = None;
        let (mut last, mut base, mut known) = (None, None, Known::default());
        for strength in STRENGTHS {
            if last.is_some() && self.settings.budget.is_some_and(|budget| started.elapsed() >= budget) {
                tried.push("the time ran out before a weaker adapter was judged".into());
                break;
            }
            self.say("judging", 0.9);
            let held_out: Vec<(Vec<SiteDelta>, Vec<usize>)> = fits
                .iter()
                .enumerate()
                .map(|(fold, fit)| (scaled(&fit.deltas, strength), (0..n).filter(|at| folds[*at] == fold).collect()))
                .collect();
            let mut judged = Judgement::default();
            for (deltas, items) in &held_out {
                judged.add(self.judge(&mut run.passes, deltas, items, &mut known)?);
            }
            let calls = Calls::count(judged.base.iter().map(|(_, judged)| judged.call()));
            let of = |at: usize| self.dataset.examples[at].conversation;
            let each = judged.base.iter().map(|(at, judged)| (of(*at), judged.call()));
            let (independent, by_conversation) = independent(each);
            let decision = independent.decide(&self.settings.limits);
            let conversations = by_conversation.then_some(independent.n);
            let mut found = LanguageFound { calls, conversations, retention: None, strength };
            let behind = behind(&Calls::count(judged.active.iter().map(|(_, judged)| judged.call())));
            tried.push(line(&found, &decision, behind.as_deref()));
            if !decision.passed() || behind.is_some() {
                last = Some((found, judged, decision, behind.unwrap_or_default()));
                break;
            }
            let fit = match &whole {
                Some(fit) => fit.clone(),
                None => whole.insert(run.fit(&(0..n).collect::<Vec<_>>())?).clone(),
            };
            self.say("comparing with the base on other texts", 0.95);
            let deltas = scaled(&fit.deltas, strength);
            let base = match &base {
                Some(base) => base,
                None => base.insert(self.base_answers()?),
            };
            let retention = match self.retention(&mut run.passes, &deltas, base) {
                Err(e) if e.kind() == ErrorKind::BadData => TextRetention::NOT_FINITE,
                other => other?,
            };
            found.retention = Some(retention);
            let refusal = retention.refusal(&self.settings.limits);
            if let Some(line) = tried.last_mut() {
                *line = self::line(&found, &decision, refusal.as_deref());
            }
            let passes = refusal.is_none();
            last = Some((found, judged, decision, refusal.unwrap_or_default()));
            if passes {
                let winner = LanguageWinner { deltas, steps: fit.steps, learning_rate: self.recipe(n).rate() };
                return self.decided(last, Some(winner), steps.get(), tried, started);
            }
        }
        self.decided(last, None, steps.get(), tried, started)
    }

    fn decided(
        &self,
        last: Option<(LanguageFound, Judgement, Decision, String)>,
        winner: Option<LanguageWinner>,
        steps: u64,
        tried: Vec<String>,
        started: Instant,
    ) -> Result<LanguageOutcome> {
        let Some((found, judged, decision, refusal)) = last else {
            return Ok(self.nothing("nothing was trained".into(), started));
        };
        let closeness = |judged: &[(usize, Judged)], at: usize| {
            let all: Vec<f64> = judged
                .iter()
                .filter_map(|(_, judged)| match judged {
                    Judged::Edit { closeness, .. } => Some(closeness[at]),
                    _ => None,
                })
                .collect();
            if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
        };
        let retention = found.retention.unwrap_or_default();
        let reason = match (&winner, refusal.is_empty()) {
            (Some(_), _) => said(&found.calls),
            (None, false) if decision.passed() => {
                format!("it is better on what you said ({}), but {refusal}", said(&found.calls))
            }
            (None, _) => {
                format!("not shown to be better: {}, p = {:.2}{}", said(&found.calls), decision.p(), over(&found))
            }
        };
        let verdict = Verdict {
            promoted: winner.is_some(),
            base_accuracy: closeness(&judged.base, 0),
            before: closeness(&judged.base, 0),
            after: closeness(&judged.base, 1),
            n: found.calls.n,
            p_value: decision.p(),
            power: 0.0,
            retention: retention.share(),
            retention_n: retention.tokens,
            depth: Depth::AllSites,
            reason,
        };
        let seconds = started.elapsed().as_secs_f64();
        Ok(LanguageOutcome { verdict, winner, steps, seconds, tried, found: Some(found) })
    }

    fn serves_base(&self) -> bool {
        matches!(self.serving, Variant::Base)
    }

    /// Whether KTO is the loss of good and of bad answers, in all fits: what is judged is trained as what may serve.
    fn by_kto(&self) -> bool {
        let count = |wanted: fn(&Said) -> bool| self.dataset.examples.iter().filter(|e| wanted(&e.said)).count();
        count(|s| matches!(s, Said::Good(_))).min(count(|s| matches!(s, Said::Bad(_)))) >= KTO_FROM
    }

    fn nothing(&self, reason: String, started: Instant) -> LanguageOutcome {
        let verdict = Verdict::of_nothing(Depth::AllSites, reason);
        let seconds = started.elapsed().as_secs_f64();
        LanguageOutcome { verdict, winner: None, steps: 0, seconds, tried: vec![], found: None }
    }

    /// # Errors
    /// [`ErrorKind::Interrupted`] where it is to stop.
    fn goes_on(&self) -> Result<()> {
        match (self.stop)() {
            true => Err(Error::new(ErrorKind::Interrupted, "training was stopped")),
            false => Ok(()),
        }
    }

    fn say(&self, stage: &str, done: f32) {
        (self.progress)(Progress { stage: stage.to_string(), done });
    }
}

/// Passes over so many examples that a fit makes.
fn epochs(examples: usize) -> usize {
    STEPS.div_ceil(examples.div_ceil(BATCH).max(1)).clamp(*EPOCHS.start(), *EPOCHS.end())
}

fn most_folds(examples: usize) -> usize {
    if examples >= MANY { 2 } else { 3 }
}

/// Texts that a training on so many examples runs forward and backward at most: over all folds and epochs, with one of
/// the rehearsal at each step.
pub(crate) fn texts_trained(examples: usize) -> usize {
    let of = |n: usize| epochs(n) * (n + n.div_ceil(BATCH));
    let folds = most_folds(examples);
    folds * of(examples - examples / folds) + of(examples)
}

fn sum(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|v| f64::from(*v)).sum()
}

/// "17 of 20 answers come closer to what you said, 1 further away".
fn said(calls: &Calls) -> String {
    format!("{} of {} answers come closer to what you said, {} further away", calls.better, calls.n, calls.worse)
}

/// What the test counts, where that is not answers.
fn over(found: &LanguageFound) -> String {
    found.conversations.map_or_else(String::new, |n| format!(" over {n} conversations"))
}

/// Why a candidate may not take the place of the active generation, by what that has not learned from. On a tie it
/// does: it was trained on everything that is still said.
fn behind(fresh: &Calls) -> Option<String> {
    (fresh.worse > fresh.better).then(|| {
        format!(
            "of the {} answers since the active generation was trained, {} come closer than that comes, and {} less close",
            fresh.n, fresh.better, fresh.worse
        )
    })
}

fn line(found: &LanguageFound, decision: &Decision, refusal: Option<&str>) -> String {
    let strength = if found.strength < 1.0 {
        format!(" at {:.0} % of its strength", 100.0 * found.strength)
    } else {
        String::new()
    };
    let mut line = format!("all sites{strength}: {}, p = {:.3}{}", said(&found.calls), decision.p(), over(found));
    if let Some(r) = found.retention {
        if let Some([before, after]) = r.perplexity {
            line += &format!("; perplexity of neutral text {before:.2} to {after:.2}");
        }
        if r.tokens > 0 {
            line += &format!("; {:.1} % of the tokens of other texts stay", 100.0 * r.share());
        }
    }
    if let Some(refusal) = refusal {
        line += &format!("; may not serve: {refusal}");
    }
    line
}

/// The deltas with another share of their scale.
fn scaled(deltas: &[SiteDelta], strength: f32) -> Vec<SiteDelta> {
    deltas.iter().map(|d| SiteDelta { alpha: d.alpha * strength, ..d.clone() }).collect()
}

/// The fits of one training.
struct Run<'a> {
    of: &'a LanguageAdaptation<'a>,
    passes: TextPasses<'a>,
    references: References,
    losses: Losses,
    entered: EnteredTexts,
    deadline: Option<Instant>,
    /// Taken by all fits.
    steps: &'a Cell<u64>,
    /// Fits done, and fits in all.
    stage: (usize, usize),
}

impl Run<'_> {
    /// Trains on these examples.
    fn fit(&mut self, items: &[usize]) -> Result<FittedText> {
        let of = self.of;
        let recipe = of.recipe(items.len());
        let keeps = if recipe.gradient_checkpointing { Keeps::Checkpoints } else { kept(Task::CausalLm) };
        let way = (recipe.lora.trains(), keeps);
        let trainer = TextTrainer::new(self.passes.again()?, of.sites, way).keeping(self.entered.clone());
        let examples: Vec<&LanguageExample> = items.iter().map(|&i| &of.dataset.examples[i]).collect();
        let fit = TextFit::new(trainer, examples, of.sites, &recipe, self.losses)?;
        let (done, all) = self.stage;
        self.stage.0 += 1;
        // What is left of the time is shared among the fits to come.
        let now = Instant::now();
        let share = |deadline: Instant| deadline.saturating_duration_since(now) / (all - done).max(1) as u32;
        let until = self.deadline.map(|deadline| now + share(deadline).saturating_sub(Duration::from_millis(1)));
        let late = || until.is_some_and(|until| Instant::now() >= until);
        let stop = || (of.stop)();
        let mut told = |part: f32| {
            let part = (done as f32 + part) / all as f32;
            of.say(&format!("training {} of {all}", done + 1), 0.9 * part);
        };
        let fitted = fit.run(&mut self.references, (&stop, &late), of.settings.steps, of.keeper, &mut told)?;
        self.steps.set(self.steps.get() + fitted.steps);
        Ok(fitted)
    }
}

/// The forward pass with `deltas`.
fn adapted(deltas: &[SiteDelta]) -> Result<(SiteKey, Factors)> {
    let sites = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
    Ok((sites, Factors::of(deltas)?))
}
