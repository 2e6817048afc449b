//! Operators of two broadcast operands, and selection.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::logic::{comp_eq, comp_gt, comp_lt};
use tract_core::ops::math;

use super::{Answer, Rule, lazy_rule};
use crate::grad::{Cx, fused::ClipBackward};
use crate::ops::floats;

pub(super) const RULES: &[Rule] = &[
    lazy_rule("Add", "da = dy, db = dy", |_, _, dy| both(dy, dy)),
    lazy_rule("Sub", "da = dy, db = -dy", sub),
    lazy_rule("SubF", "for b - a: da = -dy, db = dy", subf),
    lazy_rule("Mul", "da = dy·b, db = dy·a", mul),
    lazy_rule("Div", "da = dy/b, db = -dy·y/b", div),
    lazy_rule("Rem", "for a - b·n with a whole number n: da = dy, db = -dy·n", rem),
    lazy_rule("Pow", "da = dy·b·a^(b-1), 0 at 0 for b < 1; db = dy·y·ln a", pow),
    lazy_rule("Max", "dy to the larger operand, halves at a tie of two computed ones", max),
    lazy_rule("Min", "dy to the smaller operand, halves at a tie of two computed ones", min),
    lazy_rule("Iff", "dy to the chosen branch", iff),
    lazy_rule("And", "none: a logical value", none),
    lazy_rule("Or", "none: a logical value", none),
    lazy_rule("GT", "none: a logical value", none),
    lazy_rule("GTE", "none: a logical value", none),
    lazy_rule("LT", "none: a logical value", none),
    lazy_rule("LTE", "none: a logical value", none),
    lazy_rule("Eq", "none: a logical value", none),
    lazy_rule("NE", "none: a logical value", none),
];

fn none(_: &mut Cx, _: &TypedNode, _: OutletId) -> TractResult<Answer> {
    Ok(Answer::NoGradient)
}

fn both(a: OutletId, b: OutletId) -> TractResult<Answer> {
    Ok(Answer::Gradient(tvec!((0, a), (1, b))))
}

fn sub(cx: &mut Cx, _: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let neg = if cx.needs(1) { cx.neg(dy)? } else { dy };
    both(dy, neg)
}

fn subf(cx: &mut Cx, _: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let neg = if cx.needs(0) { cx.neg(dy)? } else { dy };
    both(neg, dy)
}

fn mul(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let mut parts = tvec!();
    for slot in 0..2 {
        if cx.needs(slot) {
            let other = cx.value(node.inputs[1 - slot])?;
            parts.push((slot, cx.mul(dy, other)?));
        }
    }
    Ok(Answer::Gradient(parts))
}

fn div(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let b = cx.value(node.inputs[1])?;
    let da = cx.div(dy, b)?;
    let mut parts = tvec!((0, da));
    if cx.needs(1) {
        let y = cx.value(OutletId::new(node.id, 0))?;
        let db = cx.mul(da, y)?;
        parts.push((1, cx.neg(db)?));
    }
    Ok(Answer::Gradient(parts))
}

fn rem(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let mut parts = tvec!((0, dy));
    if cx.needs(1) {
        let (a, b, y) = (cx.value(node.inputs[0])?, cx.value(node.inputs[1])?, cx.value(OutletId::new(node.id, 0))?);
        let whole = cx.sub(a, y)?;
        let n = cx.div(whole, b)?;
        let db = cx.mul(dy, n)?;
        parts.push((1, cx.neg(db)?));
    }
    Ok(Answer::Gradient(parts))
}

fn pow(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    if cx.fact(node.inputs[0])?.datum_type != f32::datum_type() {
        return Answer::refused("it computes in another type than f32");
    }
    let (a, mut b) = (cx.value(node.inputs[0])?, cx.value(node.inputs[1])?);
    if cx.fact(node.inputs[1])?.datum_type != f32::datum_type() {
        b = cx.wire(cast(f32::datum_type()), &[b])?;
    }
    let mut parts = tvec!();
    if cx.needs(0) {
        let less = cx.shift(b, -1.0)?;
        let power = cx.wire(math::pow(), &[a, less])?;
        let mut slope = cx.mul(b, power)?;
        let exponent = cx.fixed(node.inputs[1])?.map(|k| k.cast_to::<f32>().map(|k| k.into_owned())).transpose()?;
        if exponent.is_none_or(|k| floats(&k).is_ok_and(|k| k.iter().any(|k| *k < 1.0))) {
            slope = cx.unless_zero(a, slope)?;
        }
        parts.push((0, cx.mul(dy, slope)?));
    }
    if cx.needs(1) {
        let (y, ln) = (cx.value(OutletId::new(node.id, 0))?, cx.wire(math::ln(), &[a])?);
        let slope = cx.mul(y, ln)?;
        parts.push((1, cx.mul(dy, slope)?));
    }
    Ok(Answer::Gradient(parts))
}

fn max(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    extremum(cx, node, dy, true)
}

fn min(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    extremum(cx, node, dy, false)
}

/// With one constant operand `k` (a ReLU, a side of a clip) the mask is `y > k` (or `y < k`): 0 at the bound itself, as for
/// a ReLU. With two computed operands a tie is shared.
fn extremum(cx: &mut Cx, node: &TypedNode, dy: OutletId, larger: bool) -> TractResult<Answer> {
    let slot = match (cx.needs(0), cx.needs(1)) {
        (true, false) => 0,
        (false, true) => 1,
        _ => return shared_extremum(cx, node, dy, larger),
    };
    let bound = cx.fact(node.inputs[1 - slot])?.konst.clone();
    let y = cx.value(OutletId::new(node.id, 0))?;
    if let (true, Some(k)) = (cx.fused, bound.filter(|k| k.len() == 1)) {
        let dy = cx.full(dy)?;
        let k = k.cast_to_scalar::<f32>()?;
        let op = if larger { ClipBackward::new(k, f32::INFINITY) } else { ClipBackward::new(f32::NEG_INFINITY, k) };
        return Ok(Answer::Gradient(tvec!((slot, cx.wire(op, &[y, dy])?))));
    }
    let bound = cx.value(node.inputs[1 - slot])?;
    let compare = if larger { comp_gt() } else { comp_lt() };
    let mask = cx.wire(TypedBinOp(compare, None), &[y, bound])?;
    Ok(Answer::Gradient(tvec!((slot, cx.keep(mask, dy)?))))
}

fn shared_extremum(cx: &mut Cx, node: &TypedNode, dy: OutletId, larger: bool) -> TractResult<Answer> {
    let (a, b) = (cx.value(node.inputs[0])?, cx.value(node.inputs[1])?);
    let half = cx.scale(dy, 0.5)?;
    let tie = cx.wire(TypedBinOp(comp_eq(), None), &[a, b])?;
    let mut parts = tvec!();
    for (slot, (p, q)) in [(a, b), (b, a)].into_iter().enumerate() {
        let wins = if larger { comp_gt() } else { comp_lt() };
        let wins = cx.wire(TypedBinOp(wins, None), &[p, q])?;
        let kept = cx.keep(wins, dy)?;
        parts.push((slot, cx.select(tie, half, kept)?));
    }
    Ok(Answer::Gradient(parts))
}

fn iff(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let condition = cx.value(node.inputs[0])?;
    let dy = cx.full(dy)?;
    let zero = cx.scalar(0.0)?;
    let mut parts = tvec!();
    if cx.needs(1) {
        parts.push((1, cx.select(condition, dy, zero)?));
    }
    if cx.needs(2) {
        parts.push((2, cx.select(condition, zero, dy)?));
    }
    Ok(Answer::Gradient(parts))
}
