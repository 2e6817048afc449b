//! Clips to constant bounds.

use tract_core::internal::*;

use super::{Answer, Rule};
use crate::grad::{Cx, fused::ClipBackward};
use crate::ops::Clip;

pub(super) const RULES: &[Rule] =
    &[Rule { op: "Clip", equation: "dx = dy where low < y < high", lazy: false, apply: clip }];

/// At a bound itself the gradient is 0, as for a ReLU.
fn clip(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Clip>().context("not a clip")?;
    let (low, high) = op.bounds();
    let y = cx.value(OutletId::new(node.id, 0))?;
    Answer::single(cx.wire(ClipBackward::new(low, high), &[y, dy])?)
}
