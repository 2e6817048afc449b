//! Activations and softmax.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::logic::{comp_gt, comp_lt};
use tract_core::ops::math;
use tract_core::ops::nn::{LeakyRelu, Softmax, gelu_approximate::GeluApproximate, sigmoid};

use super::{Answer, Rule, rule};
use crate::grad::{
    Cx,
    fused::{GeluBackward, SoftmaxBackward},
};
use crate::ops::is_softmax_of_rows;

pub(super) const RULES: &[Rule] = &[
    rule("Sigmoid", "dx = dy·y·(1-y)", sigmoid_rule),
    rule("Silu", "dx = dy·σ(x)·(1 + x·(1-σ(x)))", silu),
    rule("HardSwish", "dx = dy·(clip(x/6+½, 0, 1) + x/6 where |x|<3)", hard_swish),
    rule("LeakyRelu", "dx = dy where x>0, else α·dy", leaky_relu),
    rule("GeluExact", "dx = dy·(Φ(x) + x·φ(x))", gelu),
    rule("GeluApproximate", "dx = dy·(½(1+t) + ½x(1-t²)·u'), t = tanh u", gelu_approximate),
    rule("Softmax", "dx = y·(dy - Σ dy·y)", softmax),
    rule("SafeSoftmax", "dx = y·(dy - Σ dy·y)", safe_softmax),
    rule("LogSoftmax", "dx = dy - exp(y)·Σ dy", log_softmax),
];

fn sigmoid_rule(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let y = cx.value(OutletId::new(node.id, 0))?;
    let n = cx.neg(y)?;
    let complement = cx.shift(n, 1.0)?;
    let slope = cx.mul(y, complement)?;
    Answer::single(cx.mul(dy, slope)?)
}

fn silu(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let x = cx.value(node.inputs[0])?;
    let s = cx.wire(sigmoid(), &[x])?;
    let n = cx.neg(s)?;
    let complement = cx.shift(n, 1.0)?;
    let inner = cx.mul(x, complement)?;
    let inner = cx.shift(inner, 1.0)?;
    let slope = cx.mul(s, inner)?;
    Answer::single(cx.mul(dy, slope)?)
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

fn gelu(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let x = cx.value(node.inputs[0])?;
    if cx.fused {
        return Answer::single(cx.wire(GeluBackward, &[x, dy])?);
    }
    let scaled = cx.scale(x, std::f32::consts::FRAC_1_SQRT_2)?;
    let erf = cx.wire(math::erf(), &[scaled])?;
    let phi = cx.shift(erf, 1.0)?;
    let phi = cx.scale(phi, 0.5)?;
    let x2 = cx.mul(x, x)?;
    let half = cx.scale(x2, -0.5)?;
    let density = cx.wire(math::exp(), &[half])?;
    let density = cx.mul(x, density)?;
    // 1/√(2π)
    let density = cx.scale(density, 0.398_942_3)?;
    let slope = cx.add(phi, density)?;
    Answer::single(cx.mul(dy, slope)?)
}

/// `u = √(2/π)·(x + 0.044715·xᵖ)`, p = 3, or 2 in the runtime's fast form.
fn gelu_approximate(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ElementWiseOp>().and_then(|e| e.0.downcast_ref::<GeluApproximate>()).context("not a gelu")?;
    let p = if op.fast_impl { 2.0 } else { 3.0 };
    let k = (2.0 / std::f32::consts::PI).sqrt();
    let x = cx.value(node.inputs[0])?;
    let exponent = cx.scalar(p - 1.0)?;
    let power = cx.wire(math::pow(), &[x, exponent])?;
    let cubic = cx.mul(power, x)?;
    let cubic = cx.scale(cubic, 0.044715)?;
    let u = cx.add(x, cubic)?;
    let u = cx.scale(u, k)?;
    let du = cx.scale(power, 0.044715 * p * k)?;
    let du = cx.shift(du, k)?;
    let t = cx.wire(math::tanh(), &[u])?;
    let left = cx.shift(t, 1.0)?;
    let t2 = cx.mul(t, t)?;
    let t2 = cx.neg(t2)?;
    let right = cx.shift(t2, 1.0)?;
    let right = cx.mul(right, du)?;
    let right = cx.mul(right, x)?;
    let slope = cx.add(left, right)?;
    let slope = cx.scale(slope, 0.5)?;
    Answer::single(cx.mul(dy, slope)?)
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
    let weighted = cx.mul(dy, y)?;
    let total = cx.sum(weighted, &op.axes)?;
    let centred = cx.sub(dy, total)?;
    Answer::single(cx.mul(centred, y)?)
}

fn safe_softmax(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let y = cx.value(OutletId::new(node.id, 0))?;
    Answer::single(cx.wire(SoftmaxBackward, &[y, dy])?)
}

fn log_softmax(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Softmax>().context("not a softmax")?;
    let y = cx.value(OutletId::new(node.id, 0))?;
    let p = cx.wire(math::exp(), &[y])?;
    let total = cx.sum(dy, &op.axes)?;
    let shared = cx.mul(p, total)?;
    Answer::single(cx.sub(dy, shared)?)
}
