//! Products of two tensors.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::{Answer, Rule};
use crate::grad::Cx;

pub(super) const RULES: &[Rule] =
    &[Rule { op: "EinSum", equation: "for ab→c: da = einsum(c b→a), db = einsum(c a→b)", lazy: false, apply: einsum }];

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
        // An axis that only this input has was summed over: its gradient would be a broadcast.
        if mine.chars().any(|c| !outs[0].contains(c) && !other.contains(c)) {
            return Answer::refused("it sums over an axis that only one operand has");
        }
        let expr = format!("{},{other}->{mine}", outs[0]);
        let other = cx.value(node.inputs[1 - slot])?;
        parts.push((slot, cx.wire(EinSum::new(expr.parse()?, f32::datum_type()), &[dy, other])?));
    }
    Ok(Answer::Gradient(parts))
}
