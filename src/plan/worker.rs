//! Runs the plans of training micro-batches on one thread.

use std::sync::Arc;

use ndarray::{Array2, ArrayD};
use tract_core::internal::*;

use super::compiled::{Compiled, State};
use super::passing::{Feed, Segment};
use super::train::TrainPlan;
use super::{Batch, Factors, Outputs, array, tail_outputs};
use crate::base::guarded;
use crate::error::{Error, ErrorKind, Result};

/// Cotangents of the outputs of one forward pass.
pub(crate) struct Cotangents {
    /// Shape of the features.
    pub features: ArrayD<f32>,
    /// Shape of the logits.
    pub logits: Option<Array2<f32>>,
}

/// Runs micro-batches on one thread.
pub(crate) struct Worker {
    plan: Arc<TrainPlan>,
    prefix: Option<State>,
    /// Forward and backward, of each segment.
    segments: Vec<(State, Option<State>)>,
}

/// Takes the gradient of the factor of a number, in plan order.
pub(crate) type Give<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// What a forward pass left for its backward one.
pub(crate) struct Tape {
    /// What entered the segments, by number.
    values: Vec<TValue>,
    /// Of the pass's results, in their order.
    shapes: Vec<TVec<usize>>,
    /// What the last segment saved.
    saved: TVec<TValue>,
}

impl TrainPlan {
    /// A worker with its own run states; one a thread.
    pub fn worker(self: &Arc<TrainPlan>) -> Result<Worker> {
        guarded(ErrorKind::Internal, "cannot start a worker", || {
            let prefix = self.plans.prefix.as_ref().map(Compiled::state).transpose()?;
            let both = |s: &Segment<Arc<Compiled>>| {
                Ok((s.forward.state()?, s.backward.as_ref().map(Compiled::state).transpose()?))
            };
            let segments = self.plans.segments.iter().map(both).collect::<TractResult<_>>()?;
            Ok(Worker { prefix, segments, plan: self.clone() })
        })
    }
}

impl Worker {
    /// Whether part of the forward pass is the same in every epoch.
    pub fn is_split(&self) -> bool {
        self.plan.is_split()
    }

    /// What enters the trained part of the model: the values of a frozen prefix, or the batch itself. Each row
    /// depends on its example alone, so that it may be kept and put into other batches.
    pub fn enter(&mut self, batch: Batch) -> Result<Batch> {
        let Some(prefix) = &mut self.prefix else { return Ok(batch) };
        let values =
            guarded(ErrorKind::Internal, "the frozen pass failed", || prefix.run(batch.tensors.into_iter().collect()))?;
        Ok(Batch { tensors: values.into_vec(), mask: batch.mask })
    }

    /// Forward pass of one micro-batch that has entered.
    pub fn forward(&mut self, batch: &Batch, factors: &Factors) -> Result<(Outputs, Tape)> {
        let (values, tape) = self.forward_all(batch, factors)?;
        Ok((tail_outputs(values, self.plan.logits)?, tape))
    }

    /// [`Worker::forward`], with the outputs as they are.
    pub fn forward_all(&mut self, batch: &Batch, factors: &Factors) -> Result<(Vec<ArrayD<f32>>, Tape)> {
        let (results, tape) = self.forward_tensors(batch, factors)?;
        let arrays = || results.iter().map(array).collect::<TractResult<_>>();
        Ok((guarded(ErrorKind::Internal, "the forward pass failed", arrays)?, tape))
    }

    /// [`Worker::forward_all`], with the outputs where the pass left them.
    pub fn forward_tensors(&mut self, batch: &Batch, factors: &Factors) -> Result<(Vec<TValue>, Tape)> {
        guarded(ErrorKind::Internal, "the forward pass failed", || {
            let mut values: Vec<TValue> = batch.tensors.iter().chain(&factors.0).cloned().collect();
            let mut last = tvec!();
            for at in 0..self.segments.len() {
                let (given, saved) = self.advance(at, &values)?;
                values.extend(given);
                // What the others saved is saved again when its turn comes.
                if at + 1 == self.segments.len() {
                    last = saved;
                }
            }
            let result = |value: &usize| values.get(*value).cloned().context("a plan lost a result");
            let results = self.plan.plans.results.iter().map(result).collect::<TractResult<Vec<_>>>()?;
            let shapes = results.iter().map(|r| r.shape().into()).collect();
            // Nothing reads what the last segment gives.
            if let Some(segment) = self.plan.plans.segments.last() {
                values.truncate(segment.gives.0);
            }
            Ok((results, Tape { values, saved: last, shapes }))
        })
    }

    /// What a segment gives, and what its backward plan reads.
    fn advance(&mut self, at: usize, values: &[TValue]) -> TractResult<(TVec<TValue>, TVec<TValue>)> {
        let segment = &self.plan.plans.segments[at];
        let read = |value: &usize| values.get(*value).cloned().context("a value went before it was read");
        let inputs = segment.reads.iter().map(read).collect::<TractResult<TVec<_>>>()?;
        let mut outputs = self.segments[at].0.run(inputs.clone())?;
        let pick = |feed: &Feed| match feed {
            Feed::Output(ix) => outputs[*ix].clone(),
            Feed::Input(ix) => inputs[*ix].clone(),
        };
        let saved = segment.saved.iter().map(pick).collect();
        outputs.truncate(segment.gives.1);
        Ok((outputs, saved))
    }

    /// Gradients of `A` and `s·B` of every site, or of `s·B` alone, in plan order, from the cotangents of the
    /// outputs.
    pub fn backward(&mut self, tape: Tape, cotangents: Cotangents) -> Result<Vec<Vec<f32>>> {
        let features = cotangents.features;
        match (cotangents.logits, self.plan.logits) {
            // The features are the logits: one output carries both cotangents.
            (Some(l), Some(0)) => {
                let odd = || Error::internal("the cotangents of logits and features differ in size");
                let l = l.into_dyn().into_shape_with_order(features.shape()).map_err(|_| odd())?;
                self.backward_all(tape, vec![features + l])
            }
            (Some(l), Some(_)) => self.backward_all(tape, vec![features, l.into_dyn()]),
            _ => self.backward_all(tape, vec![features]),
        }
    }

    /// [`Worker::backward`], with one cotangent an output.
    pub fn backward_all(&mut self, tape: Tape, cotangents: Vec<ArrayD<f32>>) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![vec![]; self.plan.plans.factors.len()];
        let tensors = cotangents.into_iter().map(IntoTensor::into_tensor).collect();
        self.backward_each(tape, tensors, &mut |factor, gradient| {
            let sum: &mut Vec<f32> = &mut found[factor];
            match sum.is_empty() {
                true => sum.extend(gradient),
                false => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            }
        })?;
        Ok(found)
    }

    /// [`Worker::backward_all`], with the gradient of each factor handed to `give` as soon as it is there. Where
    /// several segments use the factor, its gradient comes in parts that are to be added.
    pub fn backward_each(&mut self, tape: Tape, cotangents: Vec<Tensor>, give: Give) -> Result<()> {
        guarded(ErrorKind::Internal, "the backward pass failed", || {
            let Tape { mut values, mut saved, shapes } = tape;
            let plan = self.plan.clone();
            let (results, factors) = (&plan.plans.results, &plan.plans.factors);
            ensure!(cotangents.len() == results.len(), "{} cotangents for {} outputs", cotangents.len(), results.len());
            let mut given = vec![false; factors.len()];
            let count = plan.plans.segments.last().map_or(values.len(), |last| last.gives.0 + last.gives.1);
            let mut sums: Vec<Option<TValue>> = vec![None; count];
            for ((&value, shape), cotangent) in results.iter().zip(shapes).zip(cotangents) {
                accumulate(&mut sums[value], cotangent.into_shape(&shape)?.into_tvalue())?;
            }
            for (at, segment) in plan.plans.segments.iter().enumerate().rev() {
                // Nothing before this segment reads what it gives.
                values.truncate(segment.gives.0);
                if self.segments[at].1.is_none() {
                    saved.clear();
                    continue;
                }
                if at + 1 < self.segments.len() {
                    saved = self.advance(at, &values)?.1;
                }
                let take = |value: &usize| sums[*value].take().context("a cotangent that no segment gave");
                let mut inputs = segment.cotangents.iter().map(take).collect::<TractResult<TVec<_>>>()?;
                inputs.extend(saved.drain(..));
                let Some(backward) = &mut self.segments[at].1 else { continue };
                for (&value, gradient) in segment.gradients.iter().zip(backward.run(inputs)?) {
                    match factors.binary_search(&value) {
                        Ok(factor) => {
                            give(factor, crate::ops::floats(&gradient)?);
                            given[factor] = true;
                        }
                        Err(_) => accumulate(&mut sums[value], gradient)?,
                    }
                }
            }
            ensure!(given.iter().all(|given| *given), "a factor without a gradient");
            Ok(())
        })
    }
}

/// Adds a gradient to those of the same value that came before.
fn accumulate(sum: &mut Option<TValue>, gradient: TValue) -> TractResult<()> {
    *sum = Some(match sum.take() {
        None => gradient,
        Some(before) => {
            let mut all = before.into_tensor();
            let mut view = all.try_as_plain_ram_mut()?;
            let values = view.as_slice_mut::<f32>()?;
            values.iter_mut().zip(crate::ops::floats(&gradient)?).for_each(|(v, g)| *v += g);
            all.into_tvalue()
        }
    });
    Ok(())
}
