//! The micro-batches of one optimiser step, on as many threads as there are.

use std::sync::Arc;

use ndarray::{Array1, Array2};

use super::Fit;
use crate::base::Bucket;
use crate::error::Result;
use crate::input::Example;
use crate::plan::{Batch, Cotangents, Factors, TrainPlan, Worker, pool, unpool};
use crate::sync::{in_parallel, lock};
use crate::train::loss::{Target, cross_entropy};

/// One micro-batch: rows of a batch and their weights.
pub(super) struct Micro {
    pub items: Vec<usize>,
    pub weights: Vec<f32>,
}

/// What a micro-batch adds to the gradient.
pub(super) struct MicroResult {
    pub loss: f32,
    pub factors: Vec<Vec<f32>>,
    pub head_weight: Array2<f32>,
    pub head_bias: Array1<f32>,
}

impl Fit<'_> {
    pub(super) fn run_micros(&self, micros: &[Micro], factors: &Factors, total: f32) -> Result<Vec<MicroResult>> {
        let threads = self.threads.min(micros.len()).max(1);
        // Each thread keeps its own workers and a fixed share of the micro-batches.
        let jobs: Vec<_> = micros.chunks(micros.len().div_ceil(threads)).zip(&self.workers).collect();
        let results = in_parallel(threads, &jobs, |(micros, workers)| {
            let mut workers = lock(workers);
            micros.iter().map(|m| self.run_micro(m, factors, total, &mut workers)).collect::<Result<Vec<_>>>()
        });
        Ok(results?.into_iter().flatten().collect())
    }

    /// What enters the trained part: kept from an earlier epoch, or computed and kept where part of the model is frozen.
    fn enter(&self, micro: &Micro, bucket: &Bucket, worker: &mut Worker) -> Result<Batch> {
        let places: Vec<_> = micro.items.iter().map(|&i| (i, bucket.sequence)).collect();
        let keeps = worker.is_split() && self.recipe.kept_bytes > 0;
        if keeps && let Some(batch) = self.kept.batch(&places, bucket.batch)? {
            return Ok(batch);
        }
        let examples: Vec<&Example> = micro.items.iter().map(|&i| &self.lessons[i].example).collect();
        let batch = worker.enter(Batch::new(&self.engine.base, bucket, &examples)?)?;
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
                let plan: Arc<TrainPlan> = engine.train_plan(self.sites, &bucket)?;
                workers.push((bucket.clone(), plan.worker()?));
                workers.len() - 1
            }
        };
        let worker = &mut workers[at].1;
        let batch = self.enter(micro, &bucket, worker)?;
        let (outputs, tape) = worker.forward(&batch, factors)?;
        let shape = outputs.features.shape().to_vec();
        let rows = pool(engine.pooling, outputs, &batch.mask)?;
        let logits = self.head.forward(rows.features.view(), rows.logits.as_ref().map(|l| l.view()))?;
        // Rows that only fill the bucket weigh nothing.
        let mut weights = micro.weights.clone();
        weights.resize(logits.nrows(), 0.0);
        let target = |row: usize| self.lessons[micro.items[row.min(micro.items.len() - 1)]].target();
        let targets: Vec<Target> = (0..logits.nrows()).map(target).collect();
        let loss = cross_entropy(logits.view(), &targets, &weights, self.recipe.smoothed())?;
        let share = weights.iter().sum::<f32>() / total;
        let dlogits = loss.dlogits * share;
        let head = self.head.backward(rows.features.view(), dlogits.view())?;
        let cotangents = Cotangents {
            features: unpool(engine.pooling, &shape, &batch.mask, head.features)?,
            logits: rows.logits.as_ref().map(|_| self.head.base_grad(&dlogits).to_owned()),
        };
        let factors = worker.backward(tape, cotangents)?;
        Ok(MicroResult { loss: loss.mean * share, factors, head_weight: head.weight, head_bias: head.bias })
    }
}
