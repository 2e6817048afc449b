//! Products of two tensors.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::{Answer, Rule};
use crate::grad::Cx;

pub(super) const RULES: &[Rule] =
    &[Rule {
        op: "EinSum", equation: "for ab→c: da = einsum(c b→a), db = einsum(c a→b)", lazy: false, apply: einsum
    }];

fn einsum(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<EinSum>().context("not an einsum")?;
    if op.q_params.is_some() || node.inputs.len() != 2 {
        return Answer::refused("only products of two unquantised tensors have a gradient here");
    }
    let (ins, outs) = op.axes.to_strs();
    let mut parts = tvec!();
    for slot in 0..2 {
        if !cx.needs(slot) {
            continue;
        }
        let (mine, other) = (&ins[slot], &ins[1 - slot]);
        // An axis that only this input has was summed over (a mean before a product ends up here): every position along it
        // gets the same gradient, which stays collapsed.
        let alone = |c: &char| !outs[0].contains(*c) && !other.contains(*c);
        let kept: String = mine.chars().filter(|c| !alone(c)).collect();
        let expr = format!("{},{other}->{kept}", outs[0]);
        let factor = cx.value(node.inputs[1 - slot])?;
        let mut gradient = cx.wire(EinSum::new(expr.parse()?, f32::datum_type()), &[dy, factor])?;
        for (axis, _) in mine.chars().enumerate().filter(|(_, c)| alone(c)) {
            gradient = cx.wire(AxisOp::Add(axis), &[gradient])?;
        }
        parts.push((slot, gradient));
    }
    Ok(Answer::Gradient(parts))
}
