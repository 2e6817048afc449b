//! Softmaxes and sigmoids in all forms in which exporters write them, and whether an output is one of them.

use tract_core::internal::*;
use tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::walk::{Effect, FARTHEST, back, shape, through_layout, uniform};
use crate::ops::{constant, is_constant};

/// A function that makes probabilities of scores.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Squash {
    /// What goes into it.
    pub scores: OutletId,
    /// What comes out of it.
    pub probabilities: OutletId,
    /// What comes out are logarithms.
    pub log: bool,
    /// What it is called.
    pub form: &'static str,
}

/// How far bounds may reach into the range of a probability, and how far a shift may move it.
const SLACK: f32 = 0.02;

/// The softmax over an example's classes that `output` is, behind operators that keep its numbers, or a positive
/// multiple of them.
pub(super) fn softmax_behind(model: &TypedModel, output: OutletId, batch: usize) -> Option<Squash> {
    behind(model, output, &|at| softmax_at(model, at, batch))
}

/// The sigmoid that `output` is, as [`softmax_behind`].
pub(super) fn sigmoid_behind(model: &TypedModel, output: OutletId) -> Option<Squash> {
    behind(model, output, &|at| sigmoid_at(model, at))
}

/// Bounds on `scale·p + shift`, `p` being the number that is looked at.
struct Bound {
    low: f32,
    high: f32,
    scale: f32,
    shift: f32,
}

fn behind(model: &TypedModel, output: OutletId, squash: &dyn Fn(OutletId) -> Option<Squash>) -> Option<Squash> {
    let mut bounds = vec![Bound { low: f32::NEG_INFINITY, high: f32::INFINITY, scale: 1.0, shift: 0.0 }];
    let mut at = output;
    for _ in 0..FARTHEST {
        if let Some(found) = squash(at) {
            return bounds.iter().all(|b| b.keeps(found.log)).then_some(found);
        }
        let step = back(model, at)?;
        match step.effect {
            Effect::Linear { scale, shift } => bounds.iter_mut().for_each(|b| b.follow(scale, shift)),
            Effect::Clipped { low, high } => bounds.push(Bound { low, high, scale: 1.0, shift: 0.0 }),
            _ => return None,
        }
        if let Some((low, high)) = step.bounds {
            bounds.push(Bound { low, high, scale: 1.0, shift: 0.0 });
        }
        at = step.from;
    }
    None
}

impl Bound {
    /// One more step back: the number was `scale·p + shift` of another one.
    fn follow(&mut self, scale: f32, shift: f32) {
        self.shift += self.scale * shift;
        self.scale *= scale;
    }

    /// Whether a probability, or with `log` its logarithm, is still told by what comes out.
    fn keeps(&self, log: bool) -> bool {
        let Bound { low, high, scale, shift } = *self;
        if log {
            return (scale - 1.0).abs() < 1e-3 && high - shift >= -SLACK && low - shift <= -4.0;
        }
        let unbounded = low == f32::NEG_INFINITY && high == f32::INFINITY;
        let shifted = unbounded && (shift / scale).abs() > SLACK;
        scale > 0.0 && !shifted && (low - shift) / scale <= SLACK && (high - shift) / scale >= 1.0 - SLACK
    }
}

fn softmax_at(model: &TypedModel, at: OutletId, batch: usize) -> Option<Squash> {
    let node = model.node(at.node);
    let first = *node.inputs.first()?;
    let found = |scores, log, form| Some(Squash { scores, probabilities: at, log, form });
    let classes = |axes: &[usize]| over_classes(model, first, axes, batch).then_some(());
    if let Some(op) = node.op_as::<Softmax>() {
        classes(&op.axes)?;
        return match op.kind {
            SoftmaxKind::Softmax => found(first, false, "softmax"),
            SoftmaxKind::LogSoftmax => found(first, true, "log-softmax"),
        };
    }
    match &*node.op.name() {
        "Ln" => {
            let inner = softmax_at(model, through_layout(model, first), batch).filter(|s| !s.log)?;
            found(inner.scores, true, "log-softmax")
        }
        "Div" => {
            let exponents = exponents(model, node.inputs[0])?;
            is_sum_of(model, node.inputs[1], node.inputs[0], batch).then_some(())?;
            found(exponents, false, "softmax written out")
        }
        "Mul" => {
            let [a, b] = node.inputs[..] else { return None };
            let (e, inverse) = if exponents(model, a).is_some() { (a, b) } else { (b, a) };
            let inverse = model.node(through_layout(model, inverse).node);
            (inverse.op.name() == "Recip").then_some(())?;
            is_sum_of(model, inverse.inputs[0], e, batch).then_some(())?;
            found(exponents(model, e)?, false, "softmax written out")
        }
        "Sub" => {
            // z − ln Σ exp z
            let sum = model.node(through_layout(model, node.inputs[1]).node);
            (sum.op.name() == "Ln").then_some(())?;
            let total = model.node(through_layout(model, sum.inputs[0]).node);
            let e = through_layout(model, *total.inputs.first()?);
            is_sum_of(model, sum.inputs[0], e, batch).then_some(())?;
            let exp = model.node(e.node);
            (exp.op.name() == "Exp" && exp.inputs[0] == first).then_some(())?;
            found(before_maximum(model, first), true, "log-softmax written out")
        }
        _ => None,
    }
}

/// What goes into the exponentials that `at` is, before their maximum is taken off.
fn exponents(model: &TypedModel, at: OutletId) -> Option<OutletId> {
    let node = model.node(at.node);
    (node.op.name() == "Exp").then(|| before_maximum(model, node.inputs[0]))
}

/// `z` where `at` is `z − max z`, else `at`.
fn before_maximum(model: &TypedModel, at: OutletId) -> OutletId {
    let node = model.node(at.node);
    let [z, top] = node.inputs[..] else { return at };
    let top = model.node(through_layout(model, top).node);
    let is_top = top.op_as::<Reduce>().is_some_and(|r| r.reducer == Reducer::Max)
        && top.inputs.first().is_some_and(|of| through_layout(model, *of) == through_layout(model, z));
    if node.op.name() == "Sub" && is_top { z } else { at }
}

/// Whether `total` is the sum of `terms` over an example's classes, perhaps with a small number added.
fn is_sum_of(model: &TypedModel, total: OutletId, terms: OutletId, batch: usize) -> bool {
    let mut node = model.node(through_layout(model, total).node);
    if ["Add", "Max"].contains(&&*node.op.name())
        && let Some((&sum, &small)) = node.inputs.first().zip(node.inputs.get(1))
        && is_constant(model, small)
    {
        let small = constant(model, small).ok().flatten().and_then(|c| uniform(&c));
        if !small.is_some_and(|c| (0.0..1e-3).contains(&c)) {
            return false;
        }
        node = model.node(through_layout(model, sum).node);
    }
    let Some((op, &of)) = node.op_as::<Reduce>().zip(node.inputs.first()) else { return false };
    op.reducer == Reducer::Sum && of == terms && over_classes(model, of, &op.axes, batch)
}

/// Whether `axes` of a value are those of an example's classes: all that are more than 1, and not that of the batch.
fn over_classes(model: &TypedModel, value: OutletId, axes: &[usize], batch: usize) -> bool {
    let Some(shape) = shape(model, value) else { return false };
    let examples = if batch > 1 { shape.iter().position(|d| *d != 1) } else { Some(0) };
    let whole = shape.iter().enumerate().all(|(axis, d)| *d == 1 || axes.contains(&axis) || Some(axis) == examples);
    whole && examples.is_some_and(|axis| !axes.contains(&axis))
}

fn sigmoid_at(model: &TypedModel, at: OutletId) -> Option<Squash> {
    let node = model.node(at.node);
    let found = |scores, form| Some(Squash { scores, probabilities: at, log: false, form });
    match &*node.op.name() {
        "Sigmoid" => found(*node.inputs.first()?, "sigmoid"),
        // 1 ÷ (1 + exp −z)
        "Recip" => found(logistic_exponent(model, *node.inputs.first()?)?, "sigmoid written out"),
        "Div" => {
            let [one, below] = node.inputs[..] else { return None };
            is_one(model, one).then_some(())?;
            found(logistic_exponent(model, below)?, "sigmoid written out")
        }
        _ => None,
    }
}

fn is_one(model: &TypedModel, at: OutletId) -> bool {
    is_constant(model, at) && constant(model, at).ok().flatten().and_then(|c| uniform(&c)) == Some(1.0)
}

/// `z` where `at` is `1 + exp(−z)`.
fn logistic_exponent(model: &TypedModel, at: OutletId) -> Option<OutletId> {
    let sum = model.node(at.node);
    let [a, b] = sum.inputs[..] else { return None };
    let e = if is_one(model, a) { b } else { is_one(model, b).then_some(a)? };
    let exp = model.node(e.node);
    (sum.op.name() == "Add" && exp.op.name() == "Exp").then_some(())?;
    let negated = *exp.inputs.first()?;
    let step = back(model, negated)?;
    (step.effect == Effect::Linear { scale: -1.0, shift: 0.0 }).then_some(step.from)
}
