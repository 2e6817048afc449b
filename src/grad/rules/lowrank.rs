//! The low-rank product itself.

use tract_core::internal::*;

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::sites::{LowRank, LowRankBackward, Onto};

pub(super) const RULES: &[Rule] =
    &[rule("LowRank", "dy passes; dA, dB and dx of (x·A)·B, see sites/lowrank", low_rank)];

fn low_rank(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<LowRank>().context("not a low-rank product")?;
    let saved = cx.value(OutletId::new(node.id, 1))?;
    let (a, b) = (cx.value(node.inputs[2])?, cx.value(node.inputs[3])?);
    let (need_x, need_a) = (cx.needs(0), cx.needs(2));
    let geometry = op.geometry.clone();
    // What is not read need not be saved.
    let read_x = need_a || geometry.is_depthwise();
    let x_shape =
        cx.fact(node.inputs[0])?.shape.as_concrete().context("a low-rank product of no fixed shape")?.to_vec();
    let x = if read_x { cx.value(node.inputs[0])? } else { saved };
    let op = LowRankBackward { geometry, x_shape, need_a, need_x, onto: Onto::Nothing };
    let grads = cx.wire_all(op, &[x, saved, a, b, dy])?;
    let mut out = tvec!((1, dy), (3, grads[1]));
    if need_a {
        out.push((2, grads[0]));
    }
    if need_x {
        out.push((0, grads[2]));
    }
    Ok(Answer::Gradient(out))
}
