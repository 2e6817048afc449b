//! Log-probabilities of texts under a causal language model, and their gradients.
//!
//! The model ends at its hidden states. Scores over the vocabulary are computed for the tokens that are asked for
//! alone, a chunk of them at a time, forward and backward: they are never held for a whole text.

use std::sync::Arc;

use ndarray::{Array2, ArrayD, ArrayView1, ArrayView2, Axis, s};
use tract_core::internal::*;

use super::engine::Engine;
use super::entered::EnteredTexts;
use super::likelihood::{log_sum_exp, softmax, softmax_of};
use super::train::{Keeps, TrainPlan, Trains};
use super::variant::Variant;
use super::worker::{Give, Tape, Worker};
use super::{Batch, Factors, Outputs, Padding, SiteKey, Text};
use crate::base::{Base, Bucket};
use crate::error::{Error, Result};
use crate::input::{ArrayData, Example, NamedArray, Role};
use crate::linalg::simd::wide;

/// Tokens whose scores over the vocabulary are held at once.
pub(crate) const CHUNK: usize = 32;
/// Lengths whose training plans are ready at once.
const WORKERS: usize = 8;
/// Lengths that plans are compiled for are multiples of this up to the second one, and of the third from there on:
/// compiling costs more than some padding.
const STEP: usize = 32;
const FINE: usize = 256;
const COARSE: usize = 128;

impl Text {
    /// The tokens that are looked at.
    pub fn completion(&self) -> &[u32] {
        &self.tokens[self.start.min(self.tokens.len())..]
    }
}

/// How two forward passes differ on a text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Difference {
    /// Tokens looked at.
    pub tokens: u64,
    /// Sum of `KL(first ‖ second)` over them, nats.
    pub kl: f64,
    /// Tokens of which both hold the same one most likely.
    pub agree: u64,
    /// Sums of the log-probabilities of the tokens themselves.
    pub log_probs: [f64; 2],
}

impl Difference {
    /// With that of another text.
    pub fn and(self, other: Difference) -> Difference {
        Difference {
            tokens: self.tokens + other.tokens,
            kl: self.kl + other.kl,
            agree: self.agree + other.agree,
            log_probs: [self.log_probs[0] + other.log_probs[0], self.log_probs[1] + other.log_probs[1]],
        }
    }
}

/// The length that a text of `length` tokens is padded to.
fn padded(length: usize, context: usize) -> usize {
    let step = if length <= FINE { STEP } else { COARSE };
    length.next_multiple_of(step).min(context.max(length))
}

/// The arrays that a causal language model takes for a text.
fn example(base: &Base, tokens: &[u32]) -> Example {
    let arrays = base.inputs().iter().zip(base.roles()).map(|(port, role)| {
        let value = |at: usize| match role {
            Role::Ids => i64::from(tokens[at]),
            Role::Positions => at as i64,
            Role::Mask => 1,
            _ => 0,
        };
        NamedArray {
            name: port.name.clone(),
            shape: vec![tokens.len()],
            data: ArrayData::I64((0..tokens.len()).map(value).collect()),
        }
    });
    Example { arrays: arrays.collect() }
}

/// Runs texts through a causal language model on one thread of control; operators share `cores`.
pub(crate) struct TextPasses<'a> {
    engine: &'a Engine,
    /// No text is longer.
    context: usize,
    plan: Arc<TrainPlan>,
    vocabulary: Worker,
}

impl<'a> TextPasses<'a> {
    /// For texts of at most `context` tokens.
    ///
    /// # Errors
    /// When no gradient passes the model's output layer.
    pub fn new(engine: &'a Engine, context: usize) -> Result<TextPasses<'a>> {
        let plan = Arc::new(TrainPlan::of_vocabulary(&engine.base, CHUNK)?);
        Ok(TextPasses { engine, context, vocabulary: plan.worker()?, plan })
    }

    /// Others with the same plans.
    pub fn again(&self) -> Result<TextPasses<'a>> {
        Ok(TextPasses { vocabulary: self.plan.worker()?, plan: self.plan.clone(), ..*self })
    }

    /// Tokens that the model knows, where that shows.
    pub fn vocabulary(&self) -> Option<usize> {
        let base = &self.engine.base;
        let ids = base.roles().iter().position(|role| *role == Role::Ids)?;
        let rows = base.tables(ids).iter().filter_map(|t| t.least(usize::MAX)).min()?;
        usize::try_from(rows).ok()
    }

    fn bucket(&self, text: &Text) -> Result<Bucket> {
        if text.start == 0 || text.start >= text.tokens.len() || text.tokens.len() > self.context {
            return Err(Error::internal(format!("a text of {} tokens from {}", text.tokens.len(), text.start)));
        }
        Ok(self.engine.base.bucket(1, padded(text.tokens.len(), self.context)))
    }

    fn batch(&self, bucket: &Bucket, text: &Text) -> Result<Batch> {
        let example = example(&self.engine.base, &text.tokens);
        super::check(&self.engine.base, &example)?;
        Batch::new(&self.engine.base, bucket, &[&example], Padding::Masked { pad_id: 0 })
    }

    /// Hidden states of the positions that predict the completion, `[completion, width]`.
    fn hidden(&self, variant: &Variant, text: &Text) -> Result<Array2<f32>> {
        let bucket = self.bucket(text)?;
        let outputs = self.engine.unpooled(variant, &bucket, &self.batch(&bucket, text)?)?;
        predicting(&outputs.features, text)
    }

    /// The log-probability of each token of the completion.
    pub fn log_probs(&mut self, variant: &Variant, text: &Text) -> Result<Vec<f32>> {
        let hidden = self.hidden(variant, text)?;
        log_probs(&mut self.vocabulary, &hidden, text.completion())
    }

    /// How two forward passes differ on the completion.
    pub fn compare(&mut self, first: &Variant, second: &Variant, text: &Text) -> Result<Difference> {
        let (one, other) = (self.hidden(first, text)?, self.hidden(second, text)?);
        let mut all = Difference::default();
        for (at, tokens) in text.completion().chunks(CHUNK).enumerate() {
            let rows = s![at * CHUNK..at * CHUNK + tokens.len(), ..];
            let (p, _) = scores(&mut self.vocabulary, one.slice(rows))?;
            let (q, _) = scores(&mut self.vocabulary, other.slice(rows))?;
            let (p, q) = (table(&p)?, table(&q)?);
            for (row, &token) in tokens.iter().enumerate() {
                let (p, q) = (p.row(row), q.row(row));
                let (of_p, from) = softmax_of(p).map_err(unusable)?;
                let to = log_sum_exp(q).map_err(unusable)?;
                let gaps = p.iter().zip(q).map(|(&p, &q)| f64::from(p) - from - (f64::from(q) - to));
                let kl: f64 = of_p.iter().zip(gaps).map(|(p, gap)| f64::from(*p) * gap).sum();
                let of =
                    |row: ArrayView1<f32>, lse: f64| row.get(token as usize).map_or(f64::NAN, |v| f64::from(*v) - lse);
                all = all.and(Difference {
                    tokens: 1,
                    kl: kl.max(0.0),
                    agree: u64::from(most(p) == most(q)),
                    log_probs: [of(p, from), of(q, to)],
                });
            }
        }
        Ok(all)
    }
}

impl Engine {
    /// What the pass over a batch answers, as it is.
    fn unpooled(&self, variant: &Variant, bucket: &Bucket, batch: &Batch) -> Result<Outputs> {
        let none = Factors::default();
        let factors = match variant {
            Variant::Adapted(_, factors) => factors,
            _ => &none,
        };
        self.forward_plan(variant, bucket)?.run(batch, factors)
    }
}

/// Passes of a text that keep what a backward pass needs.
pub(crate) struct TextTrainer<'a> {
    passes: TextPasses<'a>,
    sites: &'a SiteKey,
    way: (Trains, Keeps),
    workers: Vec<(Bucket, Worker)>,
    entered: EnteredTexts,
}

/// A forward pass that a backward pass may follow.
pub(crate) struct Passed {
    worker: usize,
    tape: Tape,
    shape: Vec<usize>,
    hidden: Array2<f32>,
}

impl<'a> TextTrainer<'a> {
    /// Trains low-rank factors at `sites`.
    pub fn new(passes: TextPasses<'a>, sites: &'a SiteKey, way: (Trains, Keeps)) -> TextTrainer<'a> {
        TextTrainer { passes, sites, way, workers: vec![], entered: EnteredTexts::new(0) }
    }

    /// Keeps what the layers before the first of the sites compute.
    pub fn keeping(self, entered: EnteredTexts) -> TextTrainer<'a> {
        TextTrainer { entered, ..self }
    }

    /// The sites with their ranks, in plan order, by a plan for `text`.
    pub fn plan(&self, text: &Text) -> Result<Arc<TrainPlan>> {
        self.passes.engine.train_plan(self.sites, self.way, &self.passes.bucket(text)?)
    }

    /// The base model.
    pub fn base(&self) -> &'a Base {
        &self.passes.engine.base
    }

    /// No text is longer.
    pub fn context(&self) -> usize {
        self.passes.context
    }

    /// Forward passes alone.
    pub fn passes(&mut self) -> &mut TextPasses<'a> {
        &mut self.passes
    }

    /// Runs `text` forward.
    pub fn forward(&mut self, factors: &Factors, text: &Text) -> Result<Passed> {
        let bucket = self.passes.bucket(text)?;
        let worker = match self.workers.iter().position(|(b, _)| *b == bucket) {
            Some(at) => at,
            None => {
                let worker = self.plan(text)?.worker()?;
                // One pass is held at a time, so the others' places are nobody's.
                if self.workers.len() >= WORKERS {
                    self.workers.remove(0);
                }
                self.workers.push((bucket.clone(), worker));
                self.workers.len() - 1
            }
        };
        let of = &mut self.workers[worker].1;
        let enter = |of: &mut Worker| of.enter(self.passes.batch(&bucket, text)?);
        let batch = if of.is_split() { self.entered.of(text, || enter(of))? } else { enter(of)? };
        let (outputs, tape) = of.forward(&batch, factors)?;
        let hidden = predicting(&outputs.features, text)?;
        Ok(Passed { worker, tape, shape: outputs.features.shape().to_vec(), hidden })
    }

    /// The log-probability of each token of the completion of a text that has passed.
    pub fn log_probs(&mut self, passed: &Passed, text: &Text) -> Result<Vec<f32>> {
        log_probs(&mut self.passes.vocabulary, &passed.hidden, text.completion())
    }

    /// The log-probability of each token of the completion. The gradient of a sum over them, by `A` and `s·B` of every
    /// site (or by `s·B` alone), goes to `give`. `slope` gives the derivative of a token's term of that sum by the
    /// token's log-probability, from its place in the completion and that log-probability.
    pub fn backward(
        &mut self,
        passed: Passed,
        text: &Text,
        slope: &mut dyn FnMut(usize, f32) -> f32,
        give: Give,
    ) -> Result<Vec<f32>> {
        let mut log_probs = Vec::with_capacity(text.completion().len());
        let change = |_: &mut Worker, at: usize, token: u32, z: &mut [f32]| {
            let own = *z.get(token as usize).ok_or_else(|| unknown(token, z.len()))?;
            // d log p(t) / dz = onehot(t) - softmax(z)
            let log_prob = (f64::from(own) - softmax(z).map_err(unusable)?) as f32;
            log_probs.push(log_prob);
            let weight = slope(at, log_prob);
            wide!((z: &mut [f32], weight: f32) { z.iter_mut().for_each(|p| *p *= -weight) });
            if let Some(own) = z.get_mut(token as usize) {
                *own += weight;
            }
            Ok(())
        };
        self.backward_by(passed, text, change, give)?;
        Ok(log_probs)
    }

    /// `Σ KL(base ‖ model)` over the completion, nats, and the gradient of `weight` times it, as
    /// [`TextTrainer::backward`]. `base` are hidden states of the base model (see [`TextTrainer::base_hidden`]).
    pub fn backward_kl(
        &mut self,
        passed: Passed,
        text: &Text,
        base: &Array2<f32>,
        weight: f32,
        give: Give,
    ) -> Result<f64> {
        let (mut kl, mut chunk) = (0.0, None);
        let change = |vocabulary: &mut Worker, at: usize, _, z: &mut [f32]| {
            if at.is_multiple_of(CHUNK) {
                let end = (at + CHUNK).min(base.nrows());
                chunk = Some(scores(vocabulary, base.slice(s![at..end, ..]))?.0);
            }
            let Some(chunk) = &chunk else { return Ok(()) };
            let p = table(chunk)?;
            let p = p.row(at % CHUNK);
            // d KL(p ‖ q) / dz = q - p
            let (of_p, log_sum_p) = softmax_of(p).map_err(unusable)?;
            let (of_q, log_sum_q) = softmax_of(ArrayView1::from(&*z)).map_err(unusable)?;
            for (((z, &of_q), &p), &of_p) in z.iter_mut().zip(&of_q).zip(p).zip(&of_p) {
                kl += f64::from(of_p) * (f64::from(p) - log_sum_p - (f64::from(*z) - log_sum_q));
                *z = weight * (of_q - of_p);
            }
            Ok(())
        };
        self.backward_by(passed, text, change, give)?;
        Ok(kl)
    }

    /// The base model's hidden states that predict the completion, `[completion, width]`.
    pub fn base_hidden(&self, text: &Text) -> Result<Array2<f32>> {
        self.passes.hidden(&Variant::Base, text)
    }

    /// Hands the gradients to `give`, by the scores' that `change` makes of the scores of each token of the completion.
    fn backward_by(
        &mut self,
        passed: Passed,
        text: &Text,
        mut change: impl FnMut(&mut Worker, usize, u32, &mut [f32]) -> Result<()>,
        give: Give,
    ) -> Result<()> {
        let Passed { worker, tape, shape, hidden, .. } = passed;
        let mut cotangent = ArrayD::<f32>::zeros(shape);
        let mut rows = cotangent.index_axis_mut(Axis(0), 0);
        for (at, tokens) in text.completion().chunks(CHUNK).enumerate() {
            let from = at * CHUNK;
            let (scores, tape) = scores(&mut self.passes.vocabulary, hidden.slice(s![from..from + tokens.len(), ..]))?;
            // In place: they are the largest values of a step.
            let mut scores = scores.into_tensor();
            let columns = scores.len() / CHUNK;
            let mut view = scores.try_as_plain_ram_mut().map_err(unusable)?;
            for (row, z) in view.as_slice_mut::<f32>().map_err(unusable)?.chunks_exact_mut(columns).enumerate() {
                match tokens.get(row) {
                    Some(&token) => change(&mut self.passes.vocabulary, from + row, token, z)?,
                    None => z.fill(0.0),
                }
            }
            let width = hidden.ncols();
            self.passes.vocabulary.backward_each(tape, vec![scores], &mut |_, gradient| {
                for (row, values) in gradient.chunks_exact(width).take(tokens.len()).enumerate() {
                    let mut target = rows.index_axis_mut(Axis(0), text.start - 1 + from + row);
                    target.iter_mut().zip(values).for_each(|(t, v)| *t += *v);
                }
            })?;
        }
        self.workers[worker].1.backward_each(tape, vec![cotangent.into_tensor()], give)
    }
}

fn unusable(e: TractError) -> Error {
    odd(format!("{e:#}"))
}

fn odd(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal("hidden states of another shape").because(e)
}

/// The rows of `features`, `[1, positions, width]`, that predict the completion.
fn predicting(features: &ArrayD<f32>, text: &Text) -> Result<Array2<f32>> {
    let features = features.view().into_dimensionality::<ndarray::Ix3>().map_err(odd)?;
    let hidden = features.slice(s![0, text.start - 1..text.tokens.len() - 1, ..]).to_owned();
    match hidden.iter().all(|v| v.is_finite()) {
        true => Ok(hidden),
        false => Err(Error::bad_data("the model answered with a value that is not a finite number")),
    }
}

/// Scores of the chunk `hidden` (at most [`CHUNK`] rows), `[1, CHUNK, vocabulary]`.
fn scores(vocabulary: &mut Worker, hidden: ArrayView2<f32>) -> Result<(TValue, Tape)> {
    let mut chunk = vec![0f32; CHUNK * hidden.ncols()];
    chunk.iter_mut().zip(hidden).for_each(|(c, h)| *c = *h);
    let tensor = Tensor::from_shape(&[1, CHUNK, hidden.ncols()], &chunk).map_err(unusable)?;
    let batch = Batch { tensors: vec![tensor.into_tvalue()], mask: vec![] };
    let (mut values, tape) = vocabulary.forward_tensors(&batch, &Factors::default())?;
    Ok((values.pop().ok_or_else(|| Error::internal("no scores over the vocabulary"))?, tape))
}

/// Scores as rows, `[CHUNK, vocabulary]`.
fn table(scores: &Tensor) -> Result<ArrayView2<'_, f32>> {
    let values = crate::ops::floats(scores).map_err(unusable)?;
    ArrayView2::from_shape((CHUNK, values.len() / CHUNK), values).map_err(odd)
}

fn log_probs(vocabulary: &mut Worker, hidden: &Array2<f32>, completion: &[u32]) -> Result<Vec<f32>> {
    let mut found = Vec::with_capacity(completion.len());
    for (at, tokens) in completion.chunks(CHUNK).enumerate() {
        let (scores, _) = scores(vocabulary, hidden.slice(s![at * CHUNK..at * CHUNK + tokens.len(), ..]))?;
        for (row, token) in table(&scores)?.rows().into_iter().zip(tokens) {
            let own = row.get(*token as usize).ok_or_else(|| unknown(*token, row.len()))?;
            found.push((f64::from(*own) - log_sum_exp(row).map_err(unusable)?) as f32);
        }
    }
    Ok(found)
}

fn unknown(token: u32, scored: usize) -> Error {
    Error::bad_data(format!("the token {token}, of a model that scores {scored}"))
        .hint("the tokenizer must be the model's own")
}

fn most(z: ArrayView1<f32>) -> Option<usize> {
    z.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at)
}
