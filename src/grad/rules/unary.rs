//! Elementwise mathematics: one derivative a line.

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::math::{self, PowConst};

use super::{Answer, Rule, lazy_rule};
use crate::grad::Cx;

type Slope = fn(&mut Cx, OutletId, OutletId) -> TractResult<OutletId>;

macro_rules! elementwise {
    ($($op:literal, $equation:literal, $slope:expr;)*) => { &[$(lazy_rule(
        $op, $equation, |cx, node, dy| by_slope(cx, node, dy, $slope),
    ),)*
        lazy_rule("Neg", "dx = -dy", |cx, _, dy| Answer::single(cx.neg(dy)?)),
        lazy_rule("PowConst", "dx = dy·p·x^(p-1), 0 at 0 for p < 1", pow_const),
        lazy_rule("Sign", "none: constant almost everywhere", none),
        lazy_rule("Floor", "none: constant almost everywhere", none),
        lazy_rule("Ceil", "none: constant almost everywhere", none),
        lazy_rule("Round", "none: constant almost everywhere", none),
        lazy_rule("RoundHalfToEven", "none: constant almost everywhere", none),
        lazy_rule("RoundStraight", "dx = dy: a quantisation, straight through", |_, _, dy| Answer::single(dy)),
        lazy_rule("Detach", "none: taken as given", none),
        lazy_rule("Not", "none: a logical value", none),
    ] };
}

/// The slope as a function of `x` and `y`.
pub(super) const RULES: &[Rule] = elementwise! {
    // Finite, so that it passes nothing back where nothing arrives: behind a branch that was not taken.
    "Exp", "dx = dy·y, the largest number for an infinite y", |cx, _, y| {
        let most = cx.scalar(f32::MAX)?;
        cx.wire(math::min(), &[y, most])
    };
    "Ln", "dx = dy/x", |cx, x, _| cx.wire(math::recip(), &[x]);
    "Sqrt", "dx = dy/(2y), 0 at 0", |cx, _, y| {
        let r = cx.wire(math::recip(), &[y])?;
        let r = cx.scale(r, 0.5)?;
        cx.unless_zero(y, r)
    };
    "Rsqrt", "dx = -dy·y³/2", |cx, _, y| { let y2 = cx.mul(y, y)?; let y3 = cx.mul(y2, y)?; cx.scale(y3, -0.5) };
    "Recip", "dx = -dy·y²", |cx, _, y| { let y2 = cx.mul(y, y)?; cx.neg(y2) };
    "Square", "dx = 2·dy·x", |cx, x, _| cx.scale(x, 2.0);
    "Abs", "dx = dy·sign x", |cx, x, _| cx.wire(math::sign(), &[x]);
    "Sin", "dx = dy·cos x", |cx, x, _| cx.wire(math::cos(), &[x]);
    "Cos", "dx = -dy·sin x", |cx, x, _| { let s = cx.wire(math::sin(), &[x])?; cx.neg(s) };
    "Tan", "dx = dy·(1 + y²)", |cx, _, y| { let y2 = cx.mul(y, y)?; cx.shift(y2, 1.0) };
    "Asin", "dx = dy/√(1 - x²)", |cx, x, _| { let r = one_minus_square(cx, x)?; cx.wire(math::rsqrt(), &[r]) };
    "Acos", "dx = -dy/√(1 - x²)", |cx, x, _| {
        let r = one_minus_square(cx, x)?;
        let r = cx.wire(math::rsqrt(), &[r])?;
        cx.neg(r)
    };
    "Atan", "dx = dy/(1 + x²)", |cx, x, _| { let r = square_plus(cx, x, 1.0)?; cx.wire(math::recip(), &[r]) };
    "Sinh", "dx = dy·√(1 + y²)", |cx, _, y| { let r = square_plus(cx, y, 1.0)?; cx.wire(math::sqrt(), &[r]) };
    "Cosh", "dx = dy·sinh x", |cx, x, _| cx.wire(math::sinh(), &[x]);
    "Asinh", "dx = dy/√(x² + 1)", |cx, x, _| { let r = square_plus(cx, x, 1.0)?; cx.wire(math::rsqrt(), &[r]) };
    "Acosh", "dx = dy/√(x² - 1)", |cx, x, _| { let r = square_plus(cx, x, -1.0)?; cx.wire(math::rsqrt(), &[r]) };
    "Atanh", "dx = dy/(1 - x²)", |cx, x, _| { let r = one_minus_square(cx, x)?; cx.wire(math::recip(), &[r]) };
    "Erf", "dx = dy·2/√π·exp(-x²)", |cx, x, _| {
        let x2 = cx.mul(x, x)?;
        let n = cx.neg(x2)?;
        let e = cx.wire(math::exp(), &[n])?;
        cx.scale(e, std::f32::consts::FRAC_2_SQRT_PI)
    };
};

fn by_slope(cx: &mut Cx, node: &TypedNode, dy: OutletId, slope: Slope) -> TractResult<Answer> {
    // Values are asked for lazily by name: a slope that ignores one leaves no trace once the graph is decluttered.
    let (x, y) = (cx.value(node.inputs[0])?, cx.value(OutletId::new(node.id, 0))?);
    let slope = slope(cx, x, y)?;
    Answer::single(cx.mul(dy, slope)?)
}

fn square_plus(cx: &mut Cx, v: OutletId, k: f32) -> TractResult<OutletId> {
    let square = cx.mul(v, v)?;
    cx.shift(square, k)
}

fn one_minus_square(cx: &mut Cx, v: OutletId) -> TractResult<OutletId> {
    let square = cx.mul(v, v)?;
    let negative = cx.neg(square)?;
    cx.shift(negative, 1.0)
}

fn none(_: &mut Cx, _: &TypedNode, _: OutletId) -> TractResult<Answer> {
    Ok(Answer::NoGradient)
}

fn pow_const(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ElementWiseOp>().and_then(|e| e.0.downcast_ref::<PowConst>()).context("not a power")?;
    let x = cx.value(node.inputs[0])?;
    let less = cx.scalar(op.exponent - 1.0)?;
    let power = cx.wire(math::pow(), &[x, less])?;
    let mut slope = cx.scale(power, op.exponent)?;
    if op.exponent < 1.0 {
        slope = cx.unless_zero(x, slope)?;
    }
    Answer::single(cx.mul(dy, slope)?)
}
