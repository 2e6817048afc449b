//! Activations and softmax.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::logic::{comp_eq, comp_gt, comp_gte, comp_lt};
use tract_core::ops::math;
use tract_core::ops::nn::{LeakyRelu, Reduce, Reducer, Softmax, gelu_approximate::GeluApproximate};

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::grad::fused::{
    Activation, ActivationBackward, DENSITY, LogSoftmaxBackward, ROOT_2_PI, Sigma, SoftmaxBackward, TAIL, TAIL_SCALE,
};
use crate::ops::is_softmax_of_rows;

pub(super) const RULES: &[Rule] = &[
    rule("Sigmoid", "dx = dy·σ(x)·σ(-x)", |cx, node, dy| of_input(cx, node, dy, Activation::Sigmoid)),
    rule("Tanh", "dx = dy·4·σ(2x)·σ(-2x)", |cx, node, dy| of_input(cx, node, dy, Activation::Tanh)),
    rule("Softplus", "dx = dy·σ(x)", |cx, node, dy| of_input(cx, node, dy, Activation::Softplus)),
    rule("Silu", "dx = dy·(σ(x) + x·σ(x)·σ(-x))", |cx, node, dy| of_input(cx, node, dy, Activation::Silu)),
    rule("Mish", "dx = dy·(t + x·(1-t²)·σ(x)), t = tanh(ln(1 + eˣ))", |cx, node, dy| {
        of_input(cx, node, dy, Activation::Mish)
    }),
    rule("HardSwish", "dx = dy·(clip(x/6+½, 0, 1) + x/6 where |x|<3)", hard_swish),
    rule("LeakyRelu", "dx = dy where x>0, else α·dy", leaky_relu),
    rule("GeluExact", "dx = dy·(Φ(x) + x·φ(x))", |cx, node, dy| of_input(cx, node, dy, Activation::Gelu)),
    rule("GeluApproximate", "dx = dy·(σ(2u) + 2x·u'·σ(2u)·σ(-2u)), the GELU being x·σ(2u)", gelu_approximate),
    rule("Softmax", "dx = y·(d - Σ d·y), d = dy less its value at the largest y", softmax),
    rule("SafeSoftmax", "dx = y·(d - Σ d·y), d = dy less its value at the largest y", safe_softmax),
    rule("LogSoftmax", "dx = dy - p·Σ dy, p = exp y; at the largest p: dy·Σ' p - p·Σ' dy over the others", log_softmax),
];

fn of_input(cx: &mut Cx, node: &TypedNode, dy: OutletId, f: Activation) -> TractResult<Answer> {
    let x = cx.value(node.inputs[0])?;
    Answer::single(through(cx, f, x, dy)?)
}

/// `dy·f'(x)`.
pub(super) fn through(cx: &mut Cx, f: Activation, x: OutletId, dy: OutletId) -> TractResult<OutletId> {
    if cx.fused {
        return cx.wire(ActivationBackward(f), &[x, dy]);
    }
    let slope = slope(cx, f, x)?;
    cx.mul(dy, slope)
}

/// `σ(x)` that keeps its digits below.
pub(super) fn sigma(cx: &mut Cx, x: OutletId) -> TractResult<OutletId> {
    if cx.fused { cx.wire(Sigma, &[x]) } else { Halves::of(cx, x, 1.0)?.sigma(cx) }
}

/// `σ(|kx|)` and `σ(-|kx|)`: the second keeps its digits where the first is 1.
struct Halves {
    x: OutletId,
    /// `exp(-|kx|)`.
    e: OutletId,
    upper: OutletId,
    lower: OutletId,
}

impl Halves {
    fn of(cx: &mut Cx, x: OutletId, k: f32) -> TractResult<Halves> {
        let size = cx.wire(math::abs(), &[x])?;
        let size = cx.scale(size, -k)?;
        let e = cx.wire(math::exp(), &[size])?;
        let upper = cx.shift(e, 1.0)?;
        let upper = cx.wire(math::recip(), &[upper])?;
        let lower = cx.mul(e, upper)?;
        Ok(Halves { x, e, upper, lower })
    }
    /// `σ(kx)·σ(-kx)`.
    fn product(&self, cx: &mut Cx) -> TractResult<OutletId> {
        cx.mul(self.upper, self.lower)
    }
    /// `σ(kx)` for a positive `k`.
    fn sigma(&self, cx: &mut Cx) -> TractResult<OutletId> {
        self.by_sign(cx, self.upper, self.lower)
    }
    fn by_sign(&self, cx: &mut Cx, above: OutletId, below: OutletId) -> TractResult<OutletId> {
        let zero = cx.scalar(0.0)?;
        let side = cx.wire(TypedBinOp(comp_gte(), None), &[self.x, zero])?;
        cx.select(side, above, below)
    }
}

/// `f'(x)` out of the runtime's operators.
fn slope(cx: &mut Cx, f: Activation, x: OutletId) -> TractResult<OutletId> {
    match f {
        Activation::Sigmoid => Halves::of(cx, x, 1.0)?.product(cx),
        Activation::Tanh => {
            let product = Halves::of(cx, x, 2.0)?.product(cx)?;
            cx.scale(product, 4.0)
        }
        Activation::Softplus => Halves::of(cx, x, 1.0)?.sigma(cx),
        Activation::Silu => {
            let halves = Halves::of(cx, x, 1.0)?;
            let (open, product) = (halves.sigma(cx)?, halves.product(cx)?);
            let bend = cx.mul(x, product)?;
            cx.add(open, bend)
        }
        Activation::Mish => mish(cx, x),
        Activation::Gelu => gelu(cx, x),
        Activation::GeluTanh { power } => gelu_tanh(cx, x, power),
    }
}

/// With `e = exp(-|x|)`: above 0, `t = (1 + 2e)/w`, `1 - t² = 4e²(1+e)²/w²`, `w = 1 + 2e + 2e²`; below, `t = (e² + 2e)/w`,
/// `1 - t² = 4(1+e)²/w²`, `w = e² + 2e + 2`.
fn mish(cx: &mut Cx, x: OutletId) -> TractResult<OutletId> {
    let halves = Halves::of(cx, x, 1.0)?;
    let e = halves.e;
    let (square, twice) = (cx.mul(e, e)?, cx.scale(e, 2.0)?);
    let (above, below) = (cx.shift(twice, 1.0)?, cx.add(twice, square)?);
    let (wide, narrow) = (cx.scale(square, 2.0)?, cx.shift(below, 2.0)?);
    let wide = cx.add(above, wide)?;
    let whole = halves.by_sign(cx, wide, narrow)?;
    let part = halves.by_sign(cx, above, below)?;
    let t = cx.div(part, whole)?;
    let up = cx.shift(e, 1.0)?;
    let one = cx.scalar(1.0)?;
    let factor = halves.by_sign(cx, e, one)?;
    let root = cx.mul(up, factor)?;
    let root = cx.div(root, whole)?;
    let rest = cx.mul(root, root)?;
    let rest = cx.scale(rest, 4.0)?;
    let open = halves.sigma(cx)?;
    let bend = cx.mul(rest, open)?;
    let bend = cx.mul(bend, x)?;
    cx.add(t, bend)
}

fn gelu(cx: &mut Cx, x: OutletId) -> TractResult<OutletId> {
    let square = cx.mul(x, x)?;
    let half = cx.scale(square, -0.5)?;
    let e = cx.wire(math::exp(), &[half])?;
    let size = cx.wire(math::abs(), &[x])?;
    let t = cx.scale(size, TAIL_SCALE)?;
    let t = cx.shift(t, 1.0)?;
    let t = cx.wire(math::recip(), &[t])?;
    let mut sum = cx.scale(t, TAIL[8])?;
    for c in TAIL[1..8].iter().rev() {
        sum = cx.shift(sum, *c)?;
        sum = cx.mul(sum, t)?;
    }
    let sum = cx.shift(sum, TAIL[0])?;
    let tail = cx.mul(sum, t)?;
    let tail = cx.mul(tail, e)?;
    let rest = cx.neg(tail)?;
    let rest = cx.shift(rest, 1.0)?;
    let zero = cx.scalar(0.0)?;
    let side = cx.wire(TypedBinOp(comp_gte(), None), &[x, zero])?;
    let below = cx.select(side, rest, tail)?;
    let density = cx.mul(x, e)?;
    let density = cx.scale(density, DENSITY)?;
    cx.add(below, density)
}

/// `u = √(2/π)·(x + 0.044715·xᵖ)`, p = 3, or 2 in the runtime's fast form.
fn gelu_tanh(cx: &mut Cx, x: OutletId, power: i32) -> TractResult<OutletId> {
    let lower = if power == 2 { x } else { cx.mul(x, x)? };
    let highest = cx.mul(lower, x)?;
    let highest = cx.scale(highest, 0.044715)?;
    let u = cx.add(x, highest)?;
    let u = cx.scale(u, ROOT_2_PI)?;
    let du = cx.scale(lower, 0.044715 * power as f32 * ROOT_2_PI)?;
    let du = cx.shift(du, ROOT_2_PI)?;
    let halves = Halves::of(cx, u, 2.0)?;
    let (open, product) = (halves.sigma(cx)?, halves.product(cx)?);
    let bend = cx.mul(x, du)?;
    let bend = cx.mul(bend, product)?;
    let bend = cx.scale(bend, 2.0)?;
    // Where the tail is 0, u may be too large for single precision.
    let bend = cx.unless_zero(product, bend)?;
    cx.add(open, bend)
}

fn gelu_approximate(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ElementWiseOp>().and_then(|e| e.0.downcast_ref::<GeluApproximate>()).context("not a gelu")?;
    of_input(cx, node, dy, Activation::GeluTanh { power: if op.fast_impl { 2 } else { 3 } })
}

fn hard_swish(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let x = cx.value(node.inputs[0])?;
    let sixth = cx.scale(x, 1.0 / 6.0)?;
    let gate = cx.shift(sixth, 0.5)?;
    let (zero, one, three) = (cx.scalar(0.0)?, cx.scalar(1.0)?, cx.scalar(3.0)?);
    let gate = cx.wire(math::max(), &[gate, zero])?;
    let gate = cx.wire(math::min(), &[gate, one])?;
    let size = cx.wire(math::abs(), &[x])?;
    let inside = cx.wire(TypedBinOp(comp_lt(), None), &[size, three])?;
    let ramp = cx.keep(inside, sixth)?;
    let slope = cx.add(gate, ramp)?;
    Answer::single(cx.mul(dy, slope)?)
}

fn leaky_relu(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ElementWiseOp>().and_then(|e| e.0.downcast_ref::<LeakyRelu>()).context("not a leaky relu")?;
    let (x, zero) = (cx.value(node.inputs[0])?, cx.scalar(0.0)?);
    let positive = cx.wire(TypedBinOp(comp_gt(), None), &[x, zero])?;
    let damped = cx.scale(dy, op.alpha)?;
    Answer::single(cx.select(positive, dy, damped)?)
}

fn softmax(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Softmax>().context("not a softmax")?;
    if op.quant_output_dt.is_some() {
        return Answer::refused("a quantised softmax");
    }
    let y = cx.value(OutletId::new(node.id, 0))?;
    if cx.fused && is_softmax_of_rows(node) {
        return Answer::single(cx.wire(SoftmaxBackward, &[y, dy])?);
    }
    let largest = Largest::of(cx, y, &op.axes)?;
    let pivot = largest.sum(cx, dy)?;
    let pivot = cx.div(pivot, largest.count)?;
    let apart = cx.sub(dy, pivot)?;
    let weighted = cx.mul(apart, y)?;
    let total = cx.sum(weighted, &op.axes)?;
    let centred = cx.sub(apart, total)?;
    Answer::single(cx.mul(centred, y)?)
}

fn safe_softmax(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let y = cx.value(OutletId::new(node.id, 0))?;
    Answer::single(cx.wire(SoftmaxBackward, &[y, dy])?)
}

fn log_softmax(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Softmax>().context("not a softmax")?;
    let y = cx.value(OutletId::new(node.id, 0))?;
    if cx.fused && op.axes[..] == [node.outputs[0].fact.rank() - 1] {
        return Answer::single(cx.wire(LogSoftmaxBackward, &[y, dy])?);
    }
    let p = cx.wire(math::exp(), &[y])?;
    let largest = Largest::of(cx, y, &op.axes)?;
    let total = cx.sum(dy, &op.axes)?;
    let shared = cx.mul(p, total)?;
    let plain = cx.sub(dy, shared)?;
    let others = largest.others(cx, p)?;
    let own = cx.mul(dy, others)?;
    let others = largest.others(cx, dy)?;
    let shared = cx.mul(p, others)?;
    let top = cx.sub(own, shared)?;
    Answer::single(cx.select(largest.mask, top, plain)?)
}

/// The largest value of each row.
struct Largest {
    axes: TVec<usize>,
    mask: OutletId,
    /// How many places share it.
    count: OutletId,
}

impl Largest {
    fn of(cx: &mut Cx, y: OutletId, axes: &[usize]) -> TractResult<Largest> {
        let most = cx.wire(Reduce::new(axes.into(), Reducer::Max), &[y])?;
        let mask = cx.wire(TypedBinOp(comp_eq(), None), &[y, most])?;
        let (one, zero) = (cx.scalar(1.0)?, cx.scalar(0.0)?);
        let marks = cx.select(mask, one, zero)?;
        Ok(Largest { axes: axes.into(), mask, count: cx.sum(marks, axes)? })
    }
    /// Sum of `v` over the places of the largest value.
    fn sum(&self, cx: &mut Cx, v: OutletId) -> TractResult<OutletId> {
        let there = cx.keep(self.mask, v)?;
        cx.sum(there, &self.axes)
    }
    /// At a place of the largest value: the sum of `v` over all other places.
    fn others(&self, cx: &mut Cx, v: OutletId) -> TractResult<OutletId> {
        let zero = cx.scalar(0.0)?;
        let elsewhere = cx.select(self.mask, zero, v)?;
        let elsewhere = cx.sum(elsewhere, &self.axes)?;
        let ties = self.sum(cx, v)?;
        let ties = cx.sub(ties, v)?;
        cx.add(elsewhere, ties)
    }
}
