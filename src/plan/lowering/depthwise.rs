//! Depthwise convolutions and their input gradients by `ops::depthwise`, with the low-rank delta in the kernel.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec};

use super::dims;
use super::product::unfilled;
use crate::ops::depthwise::{Block, BlockMut, Ends, Planes, kernels};
use crate::ops::{Clip, read_once};
use crate::sites::{Geometry, LowRank, factor, floats};
#[cfg(feature = "train")]
use crate::sites::{LowRankBackward, Onto};
use crate::sync::each_chunk;

/// `(x, W, bias[, A, B]) → clip((W + B·A) ⋆ x + bias)`, one plane at a time, or the transposed convolution. With `A` and `B` there is
/// a second output, in the place of what a low-rank product saves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Depthwise {
    planes: Planes,
    shape: TVec<usize>,
    channels: usize,
    transposed: bool,
    lowrank: Option<Geometry>,
    pub clip: Option<Clip>,
}

impl Op for Depthwise {
    fn name(&self) -> StaticName {
        "Depthwise".into()
    }
    op_as_typed_op!();
}

impl TypedOp for Depthwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let extra = if self.lowrank.is_some() { 2 } else { 0 };
        ensure!(inputs.len() == 3 + extra, "a depthwise convolution takes x, W and a bias");
        let mut facts = tvec!(f32::fact(&self.shape));
        facts.extend(self.lowrank.as_ref().map(|g| f32::fact([g.saved_len()])));
        Ok(facts)
    }
    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let small =
            if self.transposed { inputs[0].shape.volume() } else { self.shape.iter().product::<usize>().to_dim() };
        Ok(tvec!((Cost::FMA(f32::datum_type()), small * self.planes.kernel.iter().product::<usize>())))
    }
    as_op!();
}

impl EvalOp for Depthwise {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, bias) = (floats(&inputs[0])?, floats(&inputs[2])?);
        let mut w = floats(&inputs[1])?.to_vec();
        if let Some(geometry) = &self.lowrank {
            geometry.add_delta(&factor(&inputs[3])?, &factor(&inputs[4])?, &mut w);
        }
        let size = |s: [usize; 2]| s[0] * s[1];
        let (small, large, taps) = (size(self.planes.output), size(self.planes.input), size(self.planes.kernel));
        let (from, to) = if self.transposed { (small, large) } else { (large, small) };
        let mut y = unfilled(&self.shape)?;
        let all = x.len() / from.max(1);
        ensure!(y.len() == all * to, "a depthwise convolution of {all} planes to {:?}", self.shape);
        let each = self.planes.at_once(all);
        let pass = if self.transposed { self.planes.input_gradient() } else { self.planes.forward() };
        let clip = self.clip.map(Clip::bounds);
        let mut plain = y.try_as_plain_ram_mut()?;
        each_chunk(plain.as_slice_mut::<f32>()?, each * to, |part, y| {
            let mut room = pass.room();
            for (block, y) in y.chunks_mut(Planes::BLOCK * to).enumerate() {
                let (first, count) = (part * each + block * Planes::BLOCK, y.len() / to);
                let channel = |i: usize| (first + i) % self.channels;
                let x = Block::new(x, count, |i| (first + i) * from);
                let w = kernels(taps, count, |i| &w[channel(i) * taps..][..taps]);
                let bias = |i: usize| bias[channel(i.min(count - 1)).min(bias.len() - 1)];
                let ends = Ends { start: std::array::from_fn(bias), clip, add: false };
                pass.run(&mut room, x, &w, ends, BlockMut::new(y, to));
            }
            TractResult::Ok(())
        })?;
        let mut out = tvec!(y.into_tvalue());
        if let Some(geometry) = &self.lowrank {
            out.push(Tensor::zero::<f32>(&[geometry.saved_len()])?.into_tvalue());
        }
        Ok(out)
    }
}

/// A frozen convolution with one channel a group, or its gradient.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let (spec, group, transposed) = if let Some(op) = node.op_as::<Conv>() {
        if op.q_params.is_some() || op.kernel_fmt != KernelFormat::OIHW {
            return Ok(None);
        }
        (&op.pool_spec, op.group, false)
    } else if let Some(op) = node.op_as::<Deconv>() {
        if op.kernel_format != KernelFormat::OIHW {
            return Ok(None);
        }
        (&op.pool_spec, op.group, true)
    } else {
        return Ok(None);
    };
    let constant = |slot: usize| -> TractResult<bool> {
        let fact = model.outlet_fact(node.inputs[slot])?;
        Ok(fact.konst.is_some() && fact.datum_type == f32::datum_type())
    };
    let channels = spec.input_channels;
    let depthwise = group == channels && channels == spec.output_channels && group > 1;
    let shapes = (dims(model, node.inputs[0])?, dims(model, node.id.into())?);
    let (Some(x), Some(y)) = shapes else { return Ok(None) };
    if !depthwise || spec.rank() > 2 || spec.data_format.c_is_last() || !constant(1)? || !constant(2)? {
        return Ok(None);
    }
    let Some(planes) = planes(spec, &x, &y, transposed) else { return Ok(None) };
    let op = Depthwise { planes, shape: y, channels, transposed, lowrank: None, clip: None };
    Ok(Some(TypedModelPatch::replace_single_op(model, node, &node.inputs, op)?))
}

/// `x` and `y` are the operator's input and output; the planes are those of the convolution, not of its transpose.
pub(super) fn planes(spec: &PoolSpec, x: &[usize], y: &[usize], transposed: bool) -> Option<Planes> {
    let h = spec.data_format.h_axis();
    let two = |fill: usize, values: &[usize]| match *values {
        [w] => Some([fill, w]),
        [h, w] => Some([h, w]),
        _ => None,
    };
    let (input, output) = if transposed { (&y[h..], &x[h..]) } else { (&x[h..], &y[h..]) };
    let pads: TVec<usize> = match (&spec.padding, transposed) {
        (PaddingSpec::Explicit(before, _), _) => before.clone(),
        (_, false) => spec.computed_padding(input).iter().map(|p| p.pad_before).collect(),
        (_, true) => return None,
    };
    Some(Planes {
        input: two(1, input)?,
        output: two(1, output)?,
        kernel: two(1, &spec.kernel_shape)?,
        stride: two(1, &spec.strides())?,
        dilation: two(1, &spec.dilations())?,
        pad_before: two(0, &pads)?,
    })
}

/// A low-rank product beside a depthwise convolution of the same input goes into its kernel.
pub(super) fn lowrank_rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(lowrank) = node.op_as::<LowRank>() else { return Ok(None) };
    let [x, y, a, b] = node.inputs[..] else { return Ok(None) };
    let source = model.node(y.node);
    let Some(conv) = source.op_as::<Depthwise>() else { return Ok(None) };
    if conv.transposed || conv.lowrank.is_some() || source.inputs[0] != x || !read_once(model, y) {
        return Ok(None);
    }
    let op = Depthwise { lowrank: Some(lowrank.geometry.clone()), ..conv.clone() };
    let mut patch = TypedModelPatch::new("low-rank delta in a depthwise kernel");
    let mut taps = patch.taps(model, &source.inputs)?;
    taps.extend(patch.taps(model, &[a, b])?);
    let outputs = patch.wire_node(&node.name, op, &taps)?;
    for (slot, &output) in outputs.iter().enumerate() {
        patch.shunt_outside(model, OutletId::new(node.id, slot), output)?;
    }
    Ok(Some(patch))
}

/// A clip of what a depthwise convolution gives.
pub(super) fn clip_rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(clip) = node.op_as::<Clip>() else { return Ok(None) };
    let y = node.inputs[0];
    let source = model.node(y.node);
    let conv = source.op_as::<Depthwise>().filter(|c| c.clip.is_none() && y.slot == 0 && read_once(model, y));
    let Some(conv) = conv else { return Ok(None) };
    let mut patch = TypedModelPatch::new("clip in a depthwise convolution");
    let taps = patch.taps(model, &source.inputs)?;
    let outputs = patch.wire_node(&source.name, Depthwise { clip: Some(*clip), ..conv.clone() }, &taps)?;
    if let Some(&saved) = outputs.get(1) {
        patch.shunt_outside(model, OutletId::new(source.id, 1), saved)?;
    }
    patch.shunt_outside(model, node.id.into(), outputs[0])?;
    Ok(Some(patch))
}

/// The gradient through a frozen depthwise kernel that a low-rank gradient is added to: both kernels are added instead.
#[cfg(feature = "train")]
pub(super) fn backward_rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<LowRankBackward>().filter(|op| op.onto == Onto::Sum) else { return Ok(None) };
    let (dy, sum) = (node.inputs[4], node.inputs[5]);
    let source = model.node(sum.node);
    let Some(conv) = source.op_as::<Depthwise>() else { return Ok(None) };
    let kernel = model.outlet_fact(source.inputs[1])?.konst.clone();
    let zero = |b: &Arc<Tensor>| floats(b).is_ok_and(|b| b.iter().all(|v| *v == 0.0));
    let unbiased = model.outlet_fact(source.inputs[2])?.konst.as_ref().is_some_and(zero);
    let alone = conv.clip.is_none() && conv.lowrank.is_none() && source.inputs[0] == dy && read_once(model, sum);
    // It may be the gradient through another convolution of the same input and result.
    let same = op.geometry.planes().is_some_and(|site| match conv.transposed {
        true => site == conv.planes,
        false => site.gradient_as_convolution() == Some(conv.planes),
    });
    let Some(kernel) = kernel.filter(|_| unbiased && alone && same) else { return Ok(None) };
    let mut taps = floats(&kernel)?.to_vec();
    if !conv.transposed {
        // At stride 1 the gradient is a convolution with the taps reversed.
        taps.chunks_exact_mut(conv.planes.kernel.iter().product()).for_each(<[f32]>::reverse);
    }
    let mut patch = TypedModelPatch::new("one gradient for two depthwise kernels");
    let mut inputs = patch.taps(model, &node.inputs[..5])?;
    inputs.push(patch.add_const(format!("{}.kernel", node.name), Tensor::from_shape(kernel.shape(), &taps)?)?);
    let outputs = patch.wire_node(&node.name, LowRankBackward { onto: Onto::Kernel, ..op.clone() }, &inputs)?;
    for (slot, &output) in outputs.iter().enumerate() {
        patch.shunt_outside(model, OutletId::new(node.id, slot), output)?;
    }
    Ok(Some(patch))
}
