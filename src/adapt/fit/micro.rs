//! The micro-batches of one optimiser step, on as many threads as there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array1, Array2};

use super::Fit;
use crate::base::Bucket;
use crate::error::{Error, Result};
use crate::input::Example;
use crate::plan::{Batch, Cotangents, Factors, Outputs, TrainPlan, Worker, pool, unpool};
use crate::profile;
use crate::sync::{in_parallel, lock};
use crate::train::loss::{LossTarget, cross_entropy};

/// One micro-batch: rows of a batch and their weights.
pub(super) struct Micro {
    pub items: Vec<usize>,
    pub weights: Vec<f32>,
}

/// What a micro-batch adds to the gradient, or several.
pub(super) struct MicroResult {
    pub loss: f32,
    pub factors: Vec<Vec<f32>>,
    pub head_weight: Array2<f32>,
    pub head_bias: Array1<f32>,
}

impl MicroResult {
    fn add(&mut self, other: &MicroResult) {
        self.loss += other.loss;
        for (sum, g) in self.factors.iter_mut().zip(&other.factors) {
            sum.iter_mut().zip(g).for_each(|(s, g)| *s += g);
        }
        self.head_weight += &other.head_weight;
        self.head_bias += &other.head_bias;
    }
}

/// Sums what micro-batches add in their order, however they end: the sum does not depend on the number of threads. It
/// holds no more of them than wait for an earlier one.
#[derive(Default)]
struct Sum {
    next: usize,
    waiting: BTreeMap<usize, MicroResult>,
    sum: Option<MicroResult>,
}

impl Sum {
    fn add(&mut self, at: usize, result: MicroResult) {
        self.waiting.insert(at, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            match &mut self.sum {
                Some(sum) => sum.add(&result),
                None => self.sum = Some(result),
            }
        }
    }
}

/// The micro-batches of `items`, in order, each of at most `size` items of one `length`; items without weight are left
/// out where a whole micro-batch has none.
pub(super) fn split(items: &[usize], weights: &[f32], size: usize, length: impl Fn(usize) -> usize) -> Vec<Micro> {
    let mut lengths: Vec<usize> = items.iter().map(|&i| length(i)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut micros = vec![];
    for of in lengths {
        let alike: Vec<(usize, f32)> =
            items.iter().copied().zip(weights.iter().copied()).filter(|(i, _)| length(*i) == of).collect();
        let parts = alike.chunks(size.max(1)).map(|part| part.iter().copied().unzip());
        micros.extend(parts.map(|(items, weights)| Micro { items, weights }));
    }
    micros.retain(|m| m.weights.iter().any(|w| *w > 0.0));
    micros
}

impl Fit<'_> {
    /// The sum of what the micro-batches add.
    pub(super) fn run_micros(&self, micros: &[Micro], factors: &Factors, total: f32) -> Result<MicroResult> {
        let threads = self.threads.min(micros.len()).max(1);
        let (sum, next) = (Mutex::new(Sum::default()), AtomicUsize::new(0));
        // Each thread keeps its own workers, and takes the next micro-batch.
        in_parallel(self.threads, &self.workers[..threads], |workers| {
            let mut workers = lock(workers);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(micro) = micros.get(at) else { return Ok(()) };
                let result = self.run_micro(micro, factors, total, &mut workers)?;
                lock(&sum).add(at, result);
            }
        })?;
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        sum.sum.ok_or_else(|| Error::internal("a step without micro-batches"))
    }

    /// What enters the trained part: kept from an earlier epoch, or computed and kept where part of the model is
    /// frozen.
    fn enter(&self, micro: &Micro, bucket: &Bucket, worker: &mut Worker) -> Result<Batch> {
        let places: Vec<_> = micro.items.iter().map(|&i| (self.numbers[i], bucket.sequence)).collect();
        let keeps = worker.is_split() && self.recipe.kept_bytes > 0;
        if keeps && let Some(batch) = self.kept.batch(&places, bucket.batch)? {
            return Ok(batch);
        }
        let examples: Vec<&Example> = micro.items.iter().map(|&i| &self.training_examples[i].example).collect();
        let batch = worker.enter(Batch::new(&self.engine.base, bucket, &examples, self.engine.padding())?)?;
        if keeps {
            self.kept.keep(&places, bucket.batch, &batch)?;
        }
        Ok(batch)
    }

    fn run_micro(
        &self,
        micro: &Micro,
        factors: &Factors,
        total: f32,
        workers: &mut Vec<(Bucket, Worker)>,
    ) -> Result<MicroResult> {
        let engine = self.engine;
        let longest = micro.items.iter().map(|&i| self.lengths[i]).max().unwrap_or(0);
        let bucket = engine.bucket(self.recipe.micro_batch.min(self.recipe.batch), longest);
        let at = match workers.iter().position(|(b, _)| *b == bucket) {
            Some(at) => at,
            None => {
                let plan: Arc<TrainPlan> = engine.train_plan(self.sites, self.recipe.way(), &bucket)?;
                workers.push((bucket.clone(), plan.worker()?));
                workers.len() - 1
            }
        };
        let worker = &mut workers[at].1;
        let batch = self.enter(micro, &bucket, worker)?;
        let (outputs, tape) = worker.forward(&batch, factors)?;
        let (loss, cotangents) = profile::span("loss", || self.loss(micro, outputs, &batch, total))?;
        let factors = worker.backward(tape, cotangents)?;
        Ok(MicroResult { factors, ..loss })
    }

    /// The loss of a forward pass and the gradients of the head, those of the factors still to come.
    fn loss(&self, micro: &Micro, outputs: Outputs, batch: &Batch, total: f32) -> Result<(MicroResult, Cotangents)> {
        let engine = self.engine;
        let shape = outputs.features.shape().to_vec();
        let rows = pool(engine.pooling, outputs, &batch.mask)?;
        let logits = self.head.forward(rows.features.view(), rows.logits.as_ref().map(|l| l.view()))?;
        // Rows that only fill the bucket weigh nothing.
        let mut weights = micro.weights.clone();
        weights.resize(logits.nrows(), 0.0);
        let target = |row: usize| self.training_examples[micro.items[row.min(micro.items.len() - 1)]].target();
        let targets: Vec<LossTarget> = (0..logits.nrows()).map(target).collect();
        let loss = cross_entropy(logits.view(), &targets, &weights, self.recipe.smoothed())?;
        let share = weights.iter().sum::<f32>() / total;
        let dlogits = loss.dlogits * share;
        let head = self.head.backward(rows.features.view(), dlogits.view())?;
        let cotangents = Cotangents {
            features: unpool(engine.pooling, &shape, &batch.mask, head.features)?,
            logits: rows.logits.as_ref().map(|_| self.head.base_grad(&dlogits).to_owned()),
        };
        let loss = loss.mean * share;
        Ok((MicroResult { loss, factors: vec![], head_weight: head.weight, head_bias: head.bias }, cotangents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_lengths_share_a_micro_batch() {
        let lengths = [5, 3, 5, 5, 3, 9];
        let parts = |weights: [f32; 6], exact: bool| -> Vec<Vec<usize>> {
            let length = |i: usize| if exact { lengths[i] } else { 0 };
            split(&[0, 1, 2, 3, 4, 5], &weights, 2, length).into_iter().map(|m| m.items).collect()
        };
        assert_eq!(parts([1.0; 6], true), [vec![1, 4], vec![0, 2], vec![3], vec![5]]);
        assert_eq!(parts([1.0; 6], false), [vec![0, 1], vec![2, 3], vec![4, 5]]);
        assert_eq!(parts([1.0, 0.0, 1.0, 1.0, 0.0, 0.5], true), [vec![0, 2], vec![3], vec![5]]);
    }
}
