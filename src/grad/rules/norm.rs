//! Normalisations. Layer norm arrives as means, differences and an RMS norm.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::math;
use tract_core::ops::nn::{Reduce, Reducer, RmsNorm};
use tract_onnx_opl::lrn::Lrn;

use super::{Answer, Rule, rule};
use crate::grad::{Cx, fused::RmsNormBackward};

pub(super) const RULES: &[Rule] = &[
    rule("RmsNorm", "with r = 1/√(mean x² + ε): dx = r·(dy - y·mean(dy·y))", rms_norm),
    rule(
        "Lrn",
        "with d = bias + α/size·M·x² over the channels nearby: dx = dy·d^-β - 2αβ/size·x·Mᵀ(dy·x·d^(-β-1))",
        local_response,
    ),
];

fn local_response(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Lrn>().context("not a local response normalisation")?;
    let (x, shape) = (cx.value(node.inputs[0])?, cx.dims(node.inputs[0])?);
    if op.size == 0 || shape.len() < 2 {
        return Answer::refused("it has no channels nearby");
    }
    let channels = shape[1];
    let near = |c: usize, d: usize| d + (op.size - 1) / 2 >= c && d <= c + (op.size - 1).div_ceil(2);
    let matrix: Vec<f32> = (0..channels * channels).map(|i| near(i / channels, i % channels) as u8 as f32).collect();
    let matrix = cx.constant(Tensor::from_shape(&[channels, channels], &matrix)?.into_arc_tensor())?;
    let rest: String = ('h'..='z').take(shape.len() - 2).collect();
    let along = |cx: &mut Cx, value, to: char, from: char| {
        let product = EinSum::new(format!("cd,n{from}{rest}->n{to}{rest}").parse()?, f32::datum_type());
        cx.wire(product, &[matrix, value])
    };
    let square = cx.mul(x, x)?;
    let sum = along(cx, square, 'c', 'd')?;
    let sum = cx.scale(sum, op.alpha / op.size as f32)?;
    let d = cx.shift(sum, op.bias)?;
    let log = cx.wire(math::ln(), &[d])?;
    let power = |cx: &mut Cx, p: f32| {
        let log = cx.scale(log, p)?;
        cx.wire(math::exp(), &[log])
    };
    let (root, steep) = (power(cx, -op.beta)?, power(cx, -op.beta - 1.0)?);
    let direct = cx.mul(dy, root)?;
    let pull = cx.mul(dy, x)?;
    let pull = cx.mul(pull, steep)?;
    let pull = along(cx, pull, 'd', 'c')?;
    let pull = cx.mul(pull, x)?;
    let pull = cx.scale(pull, -2.0 * op.alpha * op.beta / op.size as f32)?;
    Answer::single(cx.add(direct, pull)?)
}

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
