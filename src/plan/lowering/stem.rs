//! Convolutions of few input channels by `ops::stem`, with the padding before and the clip behind them.

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode};
use tract_core::ops::cnn::{Conv, KernelFormat};

use super::depthwise::planes;
use super::dims;
use super::product::unfilled;
use crate::ops::depthwise::Planes;
use crate::ops::stem::Stem;
use crate::ops::{Clip, floats, read_once};

/// `(x, W, bias) → clip(W ⋆ x + bias)`, with W as [`Stem::laid_out`] gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StemConv {
    stem: Stem,
    shape: TVec<usize>,
    clip: Option<Clip>,
}

impl Op for StemConv {
    fn name(&self) -> StaticName {
        "Stem".into()
    }
    op_as_typed_op!();
}

impl EvalOp for StemConv {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, w, bias) = (floats(&inputs[0])?, floats(&inputs[1])?, floats(&inputs[2])?);
        let size = |s: [usize; 2]| s[0] * s[1];
        let Stem { planes, input, output } = self.stem;
        let images = self.shape.iter().product::<usize>() / (output * size(planes.output)).max(1);
        ensure!(x.len() == images * input * size(planes.input), "a convolution of {} values", x.len());
        ensure!(
            w.len() == output.next_multiple_of(Planes::BLOCK) * input * size(planes.kernel),
            "a kernel of {} values",
            w.len()
        );
        ensure!(bias.len() == 1 || bias.len() == output, "{} biases for {output} channels", bias.len());
        let mut y = unfilled(&self.shape)?;
        {
            let mut plain = y.try_as_plain_ram_mut()?;
            self.stem.run(x, w, bias, self.clip.map(Clip::bounds), plain.as_slice_mut::<f32>()?);
        }
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for StemConv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 3, "a convolution takes x, W and a bias");
        Ok(tvec!(f32::fact(&self.shape)))
    }
    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let images = self.shape.first().copied().unwrap_or(1);
        Ok(tvec!((Cost::FMA(f32::datum_type()), (images * self.stem.multiplications()).to_dim())))
    }
    as_op!();
}

/// A frozen convolution in one group.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<Conv>() else { return Ok(None) };
    let spec = &op.pool_spec;
    let first = spec.data_format.has_n() && !spec.data_format.c_is_last() && spec.rank() <= 2;
    if op.q_params.is_some() || op.kernel_fmt != KernelFormat::OIHW || op.group != 1 || !first {
        return Ok(None);
    }
    let constant = |slot: usize| model.outlet_fact(node.inputs[slot]).map(|fact| fact.konst.clone());
    let shapes = (dims(model, node.inputs[0])?, dims(model, node.id.into())?);
    let (Some(x), Some(y)) = shapes else { return Ok(None) };
    let (Some(kernel), Some(bias)) = (constant(1)?, constant(2)?) else { return Ok(None) };
    let (Ok(kernel), Ok(_)) = (floats(&kernel), floats(&bias)) else { return Ok(None) };
    let Some(planes) = planes(spec, &x, &y, false) else { return Ok(None) };
    let mut stem = Stem { planes, input: spec.input_channels, output: spec.output_channels };
    let from = padded(model, node.inputs[0], &mut stem)?.unwrap_or(node.inputs[0]);
    let sizes = [stem.planes.input, stem.planes.output].concat();
    if !stem.pays() || sizes.contains(&0) || x.contains(&0) || y.contains(&0) {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::new("a convolution of few channels");
    let x = patch.tap_model(model, from)?;
    let w = patch.add_const(format!("{}.kernel", node.name), tensor1(&stem.laid_out(kernel)))?;
    let bias = patch.tap_model(model, node.inputs[2])?;
    let out = patch.wire_node(&node.name, StemConv { stem, shape: y, clip: None }, &[x, w, bias])?;
    patch.shunt_outside(model, node.id.into(), out[0])?;
    Ok(Some(patch))
}

/// Where zeros were put around each image of the convolution's input `x`, makes them the convolution's own padding and
/// says what they were put around.
fn padded(model: &TypedModel, x: OutletId, stem: &mut Stem) -> TractResult<Option<OutletId>> {
    let node = model.node(x.node);
    let Some(pad) = node.op_as::<Pad>().filter(|_| read_once(model, x)) else { return Ok(None) };
    let zeros = matches!(&pad.mode, PadMode::Constant(value) if floats(value).is_ok_and(|v| v == [0.0]));
    let around_images = pad.pads.iter().take(2).all(|pad| *pad == (0, 0));
    let Some(from) = dims(model, node.inputs[0])?.filter(|_| zeros && around_images) else { return Ok(None) };
    // Lines have one spatial axis, which is the second of the planes.
    for at in 2..from.len() {
        let axis = at + 2 - from.len();
        stem.planes.pad_before[axis] += pad.pads[at].0;
        stem.planes.input[axis] = from[at];
    }
    Ok(Some(node.inputs[0]))
}

/// A clip of what such a convolution gives.
pub(super) fn clip_rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(clip) = node.op_as::<Clip>() else { return Ok(None) };
    let y = node.inputs[0];
    let source = model.node(y.node);
    let conv = source.op_as::<StemConv>().filter(|conv| conv.clip.is_none() && read_once(model, y));
    let Some(conv) = conv else { return Ok(None) };
    let mut patch = TypedModelPatch::new("clip in a convolution");
    let taps = patch.taps(model, &source.inputs)?;
    let outputs = patch.wire_node(&source.name, StemConv { clip: Some(*clip), ..conv.clone() }, &taps)?;
    patch.shunt_outside(model, node.id.into(), outputs[0])?;
    Ok(Some(patch))
}
