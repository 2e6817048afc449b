//! Clips to constant bounds, and quantisations, which clip and round.

use tract_core::internal::*;

use super::{Answer, Rule, lazy_rule, rule};
use crate::grad::{Cx, fused::ClipBackward};
use crate::ops::{Clip, Quantise, QuantiseBackward};

pub(super) const RULES: &[Rule] = &[
    rule("Clip", "dx = dy where low < y < high", clip),
    rule("Quantise", "dx = dy·unit/scale where nothing was clipped: the rounding passes it straight through", quantise),
    lazy_rule("DynamicQuantise", "dx = dy: the range is taken as given, and holds every value", |_, _, dy| {
        Answer::single(dy)
    }),
];

fn quantise(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Quantise>().context("not a quantisation")?;
    let mask = cx.value(OutletId::new(node.id, 1))?;
    Answer::single(cx.wire(QuantiseBackward { slope: op.unit / op.scale }, &[mask, dy])?)
}

/// At a bound itself the gradient is 0, as for a ReLU.
fn clip(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Clip>().context("not a clip")?;
    let (low, high) = op.bounds();
    let y = cx.value(OutletId::new(node.id, 0))?;
    Answer::single(cx.wire(ClipBackward::new(low, high), &[y, dy])?)
}
