//! Reductions.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::logic::comp_eq;
use tract_core::ops::nn::Reduce;

use super::{Answer, Rule, lazy_rule};
use crate::grad::Cx;
use crate::grad::fused::ProdBackward;

pub(super) const RULES: &[Rule] = &[
    lazy_rule("Reduce<Sum>", "dx = dy, spread", |_, _, dy| Answer::single(dy)),
    lazy_rule("Reduce<MeanOfSquares>", "dx = 2·x·dy/n", mean_of_squares),
    lazy_rule("Reduce<Max>", "dy to the largest, shared at a tie", extremum),
    lazy_rule("Reduce<Min>", "dy to the smallest, shared at a tie", extremum),
    lazy_rule("Reduce<Prod>", "dx = dy times the product of the other factors", product),
    lazy_rule("Reduce<ArgMax>", "none: an index", |_, _, _| Ok(Answer::NoGradient)),
    lazy_rule("Reduce<ArgMin>", "none: an index", |_, _, _| Ok(Answer::NoGradient)),
];

fn mean_of_squares(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Reduce>().context("not a reduction")?;
    let shape = cx.dims(node.inputs[0])?;
    let n: usize = op.axes.iter().map(|&ax| shape[ax]).product();
    let x = cx.value(node.inputs[0])?;
    let slope = cx.scale(x, 2.0 / n as f32)?;
    Answer::single(cx.mul(slope, dy)?)
}

fn product(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Reduce>().context("not a reduction")?;
    let (x, dy) = (cx.value(node.inputs[0])?, cx.full(dy)?);
    Answer::single(cx.wire(ProdBackward { axes: op.axes.clone() }, &[x, dy])?)
}

fn extremum(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Reduce>().context("not a reduction")?;
    let (x, y) = (cx.value(node.inputs[0])?, cx.value(OutletId::new(node.id, 0))?);
    let hit = cx.wire(TypedBinOp(comp_eq(), None), &[x, y])?;
    let hit = cx.wire(cast(f32::datum_type()), &[hit])?;
    let count = cx.sum(hit, &op.axes)?;
    let share = cx.div(dy, count)?;
    Answer::single(cx.mul(hit, share)?)
}
