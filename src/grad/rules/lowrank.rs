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
    let (x, a, b) = (cx.value(node.inputs[0])?, cx.value(node.inputs[2])?, cx.value(node.inputs[3])?);
    let need_x = cx.needs(0);
    let op = LowRankBackward { geometry: op.geometry.clone(), need_x, onto: Onto::Nothing };
    let grads = cx.wire_all(op, &[x, saved, a, b, dy])?;
    let mut out = tvec!((1, dy), (2, grads[0]), (3, grads[1]));
    if need_x {
        out.push((0, grads[2]));
    }
    Ok(Answer::Gradient(out))
}
