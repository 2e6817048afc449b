//! Normalisations. Layer norm arrives as means, differences and an RMS norm.

use tract_core::internal::*;
use tract_core::ops::math;
use tract_core::ops::nn::{Reduce, Reducer, RmsNorm};

use super::{Answer, Rule};
use crate::grad::{Cx, fused::RmsNormBackward};

pub(super) const RULES: &[Rule] = &[Rule {
    op: "RmsNorm",
    equation: "with r = 1/√(mean x² + ε): dx = r·(dy - y·mean(dy·y))",
    lazy: false,
    apply: rms_norm,
}];

fn rms_norm(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<RmsNorm>().context("not an RMS norm")?;
    let x = cx.value(node.inputs[0])?;
    let shape = cx.dims(node.inputs[0])?;
    let eps = op.eps.cast_to_scalar::<f32>()?;
    if cx.fused && op.axis + 1 == shape.len() {
        return Answer::single(cx.wire(RmsNormBackward::new(eps), &[x, dy])?);
    }
    let mean_square = cx.wire(Reduce::new(tvec!(op.axis), Reducer::MeanOfSquares), &[x])?;
    let mean_square = cx.shift(mean_square, eps)?;
    let r = cx.wire(math::rsqrt(), &[mean_square])?;
    let y = cx.mul(x, r)?;
    let product = cx.mul(dy, y)?;
    let total = cx.sum(product, &[op.axis])?;
    let mean = cx.scale(total, 1.0 / shape[op.axis] as f32)?;
    let pull = cx.mul(y, mean)?;
    let centred = cx.sub(dy, pull)?;
    Answer::single(cx.mul(centred, r)?)
}
