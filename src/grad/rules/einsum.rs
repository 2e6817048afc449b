//! Products of two tensors.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::{Answer, Rule, lazy_rule};
use crate::grad::Cx;

pub(super) const RULES: &[Rule] =
    &[lazy_rule("EinSum", "for ab→c: da = einsum(c b→a), db = einsum(c a→b); so for any number of operands", einsum)];

fn einsum(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<EinSum>().context("not an einsum")?;
    if op.q_params.is_some() {
        return Answer::refused("a quantised product");
    }
    let (ins, outs) = op.axes.to_strs();
    let (have, full) = (cx.shape(dy)?, &node.outputs[0].fact.shape);
    let collapsed: Vec<char> =
        outs[0].chars().enumerate().filter(|(i, _)| have[*i] != full[*i]).map(|(_, c)| c).collect();
    let mut parts = tvec!();
    for slot in 0..node.inputs.len() {
        if !cx.needs(slot) {
            continue;
        }
        let mine = &ins[slot];
        if mine.chars().enumerate().any(|(i, c)| mine.chars().skip(i + 1).any(|d| d == c)) {
            return Answer::refused("it takes a diagonal");
        }
        let others: Vec<usize> = (0..node.inputs.len()).filter(|&other| other != slot).collect();
        // An axis that only this input has was summed over (a mean before a product ends up here): every position along it
        // gets the same gradient, which stays collapsed.
        let alone = |c: &char| !outs[0].contains(*c) && !others.iter().any(|&other| ins[other].contains(*c));
        let kept: String = mine.chars().filter(|c| !alone(c)).collect();
        // Where `dy` is the same all along an axis that no other operand has, so is the gradient, and stays collapsed.
        let needs_all = collapsed.iter().any(|c| others.iter().any(|&other| ins[other].contains(*c)));
        let mut operands = tvec!(if needs_all { cx.full(dy)? } else { dy });
        let mut expr = outs[0].to_string();
        for &other in &others {
            operands.push(cx.value(node.inputs[other])?);
            expr = format!("{expr},{}", ins[other]);
        }
        let product = EinSum::new(format!("{expr}->{kept}").parse()?, f32::datum_type());
        let mut gradient = cx.wire(product, &operands)?;
        for (axis, _) in mine.chars().enumerate().filter(|(_, c)| alone(c)) {
            gradient = cx.wire(AxisOp::Add(axis), &[gradient])?;
        }
        parts.push((slot, gradient));
    }
    Ok(Answer::Gradient(parts))
}
