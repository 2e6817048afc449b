//! Trains one candidate: low-rank factors at some sites and the head, together, from a start to a number of epochs.

use std::sync::{Arc, Mutex};

use ndarray::Array2;

pub use super::example::{Target, TrainingExample};
use crate::adapter::{LoraOptions, SiteDelta};
use crate::base::Bucket;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::plan::{Engine, Factors, Keeps, MICRO_BATCH, Padding, SiteKey, Trains, Worker, sequence_length};
use crate::profile;
use crate::train::optim::{AdamW, AdamWOptions, Grads, Group, ParamSet, clip_global_norm};
use crate::train::sampler::{self, Sampler, SamplerOptions};
pub(crate) use activation_cache::Kept;
use family::{Part, Side};
use micro::{Micro, MicroResult};
pub(crate) use run::Go;
pub(crate) use start::start;
use state::FitName;

mod activation_cache;
pub(super) mod family;
mod micro;
mod run;
pub(super) mod start;
pub(crate) mod state;

/// Usual peak learning rate of the factors.
pub(crate) const LEARNING_RATE: f32 = 2e-3;

/// Hyper-parameters of a fit. The defaults are argued in `docs/training.md`.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Learning rate of the factors; `None` for the one that suits the situation.
    pub lr: Option<f32>,
    /// Learning rate of the head, as a multiple of `lr`; `None` likewise.
    pub head_lr: Option<f32>,
    /// Decoupled weight decay on `A`, `B` and the head's weight.
    pub weight_decay: f32,
    /// Bound of the gradient's global norm.
    pub clip: f32,
    /// Passes over the training examples.
    pub epochs: u64,
    /// Training examples per optimiser step.
    pub batch: usize,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f32,
    /// Scale `alpha / rank` of the deltas.
    pub scale: f32,
    /// Which member of the LoRA family is trained.
    pub lora: LoraOptions,
    /// Label smoothing; `None` likewise.
    pub smoothing: Option<f32>,
    /// Memory for what the layers before the first trained one computed, kept from one epoch to the next.
    pub kept_bytes: usize,
    /// Seed of the start and of the order.
    pub seed: u64,
    /// Training examples per forward and backward pass; what a step sums over, so that results do not depend on the
    /// number of threads.
    pub micro_batch: usize,
    /// Keeps less between the passes, and computes it a second time: less memory, for up to half as much time again.
    pub gradient_checkpointing: bool,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            lr: None,
            head_lr: None,
            weight_decay: 0.01,
            clip: 1.0,
            epochs: 20,
            batch: 16,
            warmup: 0.1,
            scale: 2.0,
            lora: LoraOptions::default(),
            smoothing: None,
            seed: 0,
            micro_batch: MICRO_BATCH,
            gradient_checkpointing: false,
            kept_bytes: 64 << 20,
        }
    }
}

impl Recipe {
    /// Keeps no more than `bytes` from one epoch to the next.
    pub(crate) fn keep_at_most(&mut self, bytes: u64) {
        self.kept_bytes = self.kept_bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// All of it that decides what is learned: what names a fit. Memory for what is kept decides no bit.
    pub(crate) fn decisive(&self) -> Recipe {
        Recipe { kept_bytes: 0, ..self.clone() }
    }
}

impl Recipe {
    /// Peak learning rate of the factors.
    pub(crate) fn rate(&self) -> f32 {
        self.lr.unwrap_or(LEARNING_RATE)
    }
    /// Learning rate of the head, as a multiple of that of the factors.
    pub(crate) fn head_rate(&self) -> f32 {
        self.head_lr.unwrap_or(2.5)
    }
    /// Which factors are trained, and what is kept between the passes.
    fn way(&self) -> (Trains, Keeps) {
        (self.lora.trains(), if self.gradient_checkpointing { Keeps::Checkpoints } else { Keeps::Everything })
    }
    /// Label smoothing.
    pub(crate) fn smoothed(&self) -> f32 {
        self.smoothing.unwrap_or(0.0)
    }
}

/// A fit in progress.
pub(crate) struct Fit<'a> {
    engine: &'a Engine,
    training_examples: Vec<&'a TrainingExample>,
    lengths: Vec<usize>,
    sites: &'a SiteKey,
    recipe: &'a Recipe,
    threads: usize,
    params: ParamSet,
    optimiser: AdamW,
    deltas: Vec<SiteDelta>,
    /// What is trained of them, in the order of the parameters.
    parts: Vec<Part>,
    head: Head,
    /// One set a thread; the locks are never contended, they only make the set shareable.
    workers: Vec<Mutex<Vec<(Bucket, Worker)>>>,
    kept: Arc<Kept>,
    /// Of each training example, its number among those that share `kept`.
    numbers: Vec<usize>,
    /// What it is kept by: by its start, so from before the first step.
    name: Option<FitName>,
    progress: Progress,
}

/// How far a fit has come.
#[derive(Debug, Clone, Default, PartialEq)]
struct Progress {
    /// Whether it has been asked for where an earlier run left it.
    begun: bool,
    /// Epoch of the next step, and its batch within that epoch.
    place: (u64, u64),
    /// Whether there is no next step.
    finished: bool,
    /// Sum of the losses of this epoch's steps so far.
    loss: f64,
    /// Where nothing is left to learn: the step at which the last epochs began, and their steps.
    ending: Option<(u64, u64)>,
    /// What the observer added.
    answers: Vec<Array2<f32>>,
}

impl<'a> Fit<'a> {
    /// Starts from `head` and fresh factors on `sites`.
    pub fn new(
        engine: &'a Engine,
        training_examples: Vec<&'a TrainingExample>,
        sites: &'a SiteKey,
        head: Head,
        recipe: &'a Recipe,
        threads: usize,
    ) -> Result<Fit<'a>> {
        let lengths: Vec<usize> = training_examples
            .iter()
            .map(|l| crate::plan::check(&engine.base, &l.example).map(|()| sequence_length(&engine.base, &l.example)))
            .collect::<Result<_>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let bucket = engine.bucket(recipe.micro_batch.min(recipe.batch), longest);
        let plan = engine.train_plan(sites, recipe.way(), &bucket)?;
        let deltas = start::begin(&engine.base, &plan.sites, recipe)?;
        Fit::from_start(engine, training_examples, lengths, sites, deltas, head, recipe, threads)
    }

    #[allow(clippy::too_many_arguments)]
    fn from_start(
        engine: &'a Engine,
        training_examples: Vec<&'a TrainingExample>,
        lengths: Vec<usize>,
        sites: &'a SiteKey,
        deltas: Vec<SiteDelta>,
        head: Head,
        recipe: &'a Recipe,
        threads: usize,
    ) -> Result<Fit<'a>> {
        let mut params = ParamSet::new();
        let parts = family::parts(&deltas, &recipe.lora)?;
        for part in &parts {
            params.add(part.name(&deltas), part.values(&deltas), part.group(recipe.weight_decay))?;
        }
        let weight = head.weight.iter().copied().collect();
        let head_group = Group { lr_scale: recipe.head_rate(), weight_decay: recipe.weight_decay };
        params.add("head.weight", weight, head_group)?;
        params.add("head.bias", head.bias.to_vec(), head_group)?;
        let optimiser = AdamW::new(&params, AdamWOptions::default());
        let threads = engine.threads(threads);
        let workers = (0..threads).map(|_| Mutex::default()).collect();
        let kept = Arc::new(Kept::new(recipe.kept_bytes));
        let numbers = (0..training_examples.len()).collect();
        Ok(Fit {
            engine,
            training_examples,
            lengths,
            sites,
            recipe,
            threads,
            params,
            optimiser,
            deltas,
            parts,
            head,
            workers,
            kept,
            numbers,
            name: None,
            progress: Progress::default(),
        })
    }

    /// Keeps what enters the trained part together with other fits on the same sites. `numbers` says of each training
    /// example which one it is among all of theirs.
    pub fn sharing(mut self, kept: &Arc<Kept>, numbers: Vec<usize>) -> Fit<'a> {
        self.kept = kept.clone();
        self.numbers = numbers;
        self
    }

    /// Continues from given factors instead of fresh ones; they must be in plan order.
    #[cfg(test)]
    pub fn with_deltas(mut self, deltas: Vec<SiteDelta>) -> Result<Fit<'a>> {
        let (training_examples, lengths) =
            (std::mem::take(&mut self.training_examples), std::mem::take(&mut self.lengths));
        Fit::from_start(
            self.engine,
            training_examples,
            lengths,
            self.sites,
            deltas,
            self.head,
            self.recipe,
            self.threads,
        )
    }

    /// Trains on so many threads from now on.
    pub fn use_threads(&mut self, threads: usize) {
        self.threads = self.engine.threads(threads);
        self.workers.resize_with(self.threads, Mutex::default);
    }

    /// Whether part of the forward pass is the same in every epoch.
    pub fn is_split(&self) -> Result<bool> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let bucket = self.engine.bucket(self.recipe.micro_batch.min(self.recipe.batch), longest);
        Ok(self.engine.train_plan(self.sites, self.recipe.way(), &bucket)?.is_split())
    }

    fn sampler(&self) -> Result<Sampler> {
        let item = |(l, length): (&&TrainingExample, &usize)| sampler::Item {
            class: l.target.class() as u32,
            weight: l.weight,
            length: *length as u32,
        };
        let items: Vec<sampler::Item> = self.training_examples.iter().zip(&self.lengths).map(item).collect();
        let options = SamplerOptions {
            batch: self.recipe.batch,
            seed: self.recipe.seed,
            bucket: self.lengths.iter().any(|l| *l > 0),
            ..SamplerOptions::default()
        };
        Sampler::new(&items, options)
    }

    /// Number of values that are trained.
    #[cfg(test)]
    pub fn trained(&self) -> usize {
        self.params.count()
    }

    /// Optimiser steps of one pass over the training examples.
    pub fn steps_per_epoch(&self) -> Result<u64> {
        Ok(self.sampler()?.batches() as u64)
    }

    /// One optimiser step on these training examples; returns the mean loss before it.
    pub fn step(&mut self, items: &[usize], weights: &[f32], lr: f32) -> Result<f32> {
        let (mut grads, loss) = self.gradients(items, weights)?;
        profile::span("optimiser", || {
            if self.recipe.clip > 0.0 {
                clip_global_norm(&mut grads, self.recipe.clip)?;
            }
            self.parts.iter().zip(&mut grads.0).for_each(|(part, gradient)| part.project(gradient));
            self.optimiser.step(&mut self.params, &grads, lr)?;
            self.read_back();
            Ok(loss)
        })
    }

    /// Squared size of the loss's gradient at each site, over the first `count` training examples. At the start `B` is
    /// zero, and so is `A`'s gradient: it is `B`'s.
    pub fn site_gradients(&self, count: usize) -> Result<Vec<(String, f64)>> {
        let items: Vec<usize> = (0..count.min(self.training_examples.len())).collect();
        let (grads, _) = self.gradients(&items, &vec![1.0; items.len()])?;
        let mut sums: Vec<(String, f64)> = self.deltas.iter().map(|d| (d.name.clone(), 0.0)).collect();
        for (part, gradient) in self.parts.iter().zip(&grads.0) {
            sums[part.site].1 += gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        Ok(sums)
    }

    /// Gradients of every parameter over these training examples, and their mean loss.
    fn gradients(&self, items: &[usize], weights: &[f32]) -> Result<(Grads, f32)> {
        let total: f32 = weights.iter().sum();
        if total <= 0.0 {
            return Err(Error::internal("a batch without weight"));
        }
        let size = self.engine.bucket(self.recipe.micro_batch.min(self.recipe.batch), 0).batch;
        let micros: Vec<Micro> = micro::split(items, weights, size, |i| match self.engine.padding() {
            Padding::Exact => self.lengths[i],
            Padding::Masked { .. } => 0,
        });
        let factors = self.factors()?;
        let MicroResult { loss, factors: mut whole, head_weight, head_bias } =
            self.run_micros(&micros, &factors, total)?;
        // The plan takes s·B: the gradient of B itself is s times the plan's. Gradients and parts are in plan order.
        for (part, sum) in self.parts.iter().zip(&mut whole).filter(|(part, _)| part.side == Side::B) {
            let scale = self.deltas[part.site].scale();
            sum.iter_mut().for_each(|g| *g *= scale);
        }
        let trained = self.parts.iter().zip(whole).map(|(part, sum)| part.take(sum));
        let head = [head_weight.iter().copied().collect(), head_bias.to_vec()];
        Ok((Grads(trained.chain(head).collect()), loss))
    }

    fn factors(&self) -> Result<Factors> {
        Factors::of(&self.deltas)
    }

    /// Copies the parameters into the deltas and the head.
    fn read_back(&mut self) {
        let mut values = self.params.iter().map(|p| &p.value);
        for (part, v) in self.parts.iter().zip(values.by_ref()) {
            part.put(v, &mut self.deltas);
        }
        if let Some(v) = values.next() {
            self.head.weight.iter_mut().zip(v).for_each(|(w, v)| *w = *v);
        }
        if let Some(v) = values.next() {
            self.head.bias.iter_mut().zip(v).for_each(|(b, v)| *b = *v);
        }
    }
}

#[cfg(test)]
mod family_tests;
#[cfg(test)]
pub(super) mod tests;
