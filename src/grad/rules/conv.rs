//! Frozen convolutions: only the gradient of their input is ever needed.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_core::ops::nn::DataFormat;

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::ops::im2col::ConvShape;
use crate::ops::{Convolve, Kernel, frozen_kernel, frozen_transposed_kernel};

pub(super) const RULES: &[Rule] = &[
    rule("Conv", "dx = dy ∗ W flipped and transposed; at stride or dilation > 1, the transposed convolution", conv),
    rule("Deconv", "dx = the convolution of dy with W", deconv),
];

fn conv(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Conv>().context("not a convolution")?;
    let spec = &op.pool_spec;
    if op.q_params.is_some() {
        return Answer::refused("a quantised convolution");
    }
    if cx.needs(1) || cx.needs(2) {
        return Answer::refused("its kernel is computed from an adapted layer");
    }
    if op.kernel_fmt != KernelFormat::OIHW {
        return Answer::refused(format!("its kernel is laid out {:?}", op.kernel_fmt));
    }
    let mut shape = cx.dims(node.inputs[0])?;
    let first = match spec.data_format {
        DataFormat::NHWC => DataFormat::NCHW,
        DataFormat::HWC => DataFormat::CHW,
        DataFormat::NCHW | DataFormat::CHW => return channels_first(cx, node, op, shape, dy),
    };
    // Channels last: the gradient is taken with its channels moved to where they are first, and back.
    let (channels, last) = (first.has_n() as usize, shape.len() - 1);
    let width = shape.remove(last);
    shape.insert(channels, width);
    let op = Conv { pool_spec: PoolSpec { data_format: first, ..spec.clone() }, ..op.clone() };
    let dy = cx.wire(AxisOp::Move(last, channels), &[dy])?;
    match channels_first(cx, node, &op, shape, dy)? {
        Answer::Gradient(parts) => {
            let mut moved = tvec!();
            for (slot, gradient) in parts {
                moved.push((slot, cx.wire(AxisOp::Move(channels, last), &[gradient])?));
            }
            Ok(Answer::Gradient(moved))
        }
        other => Ok(other),
    }
}

/// [`conv`] of an input of `shape`, `[N,] C, H, W`, by the convolution `op`.
fn channels_first(cx: &mut Cx, node: &TypedNode, op: &Conv, shape: TVec<usize>, dy: OutletId) -> TractResult<Answer> {
    let spec = &op.pool_spec;
    if cx.fused
        && let Ok(geometry) = ConvShape::of_conv(op, &shape)
        && let Some(kernel) = frozen_kernel(cx.forward(), node.inputs[1], &geometry)
        && (kernel.is_narrow() || geometry.has_many_columns() || geometry.has_many_columns_backwards())
    {
        return in_blocks(cx, dy, kernel, geometry, true, shape);
    }
    let Some(kernel) = cx.fixed(node.inputs[1])? else {
        return Answer::refused("its kernel is not a constant");
    };
    let hw = &shape[spec.data_format.h_axis()..];
    let padding = spec.computed_padding(hw);
    let plain = spec.strides().iter().chain(&*spec.dilations()).all(|&s| s == 1)
        && padding.iter().zip(&spec.kernel_shape).all(|(p, &k)| p.pad_before < k && p.pad_after < k);
    let back = if plain {
        let before = padding.iter().zip(&spec.kernel_shape).map(|(p, k)| k - 1 - p.pad_before).collect();
        let after = padding.iter().zip(&spec.kernel_shape).map(|(p, k)| k - 1 - p.pad_after).collect();
        let spec = transposed(spec, PaddingSpec::Explicit(before, after));
        let kernel = cx.constant(transpose_kernel(&kernel, op.group, true)?.into_arc_tensor())?;
        let bias = zero_bias(cx, spec.output_channels)?;
        cx.wire(Conv::new(spec, KernelFormat::OIHW, op.group, None), &[dy, kernel, bias])?
    } else {
        // The transposed convolution reaches (out-1)·stride + span - pads; what the forward one left unread is added back.
        let adjust = (0..hw.len())
            .map(|ax| {
                let span = (spec.kernel_shape[ax] - 1) * spec.dilation(ax) + 1;
                let reach = (padding[ax].convoluted - 1) * spec.stride(ax) + span;
                (hw[ax] + padding[ax].pad_before + padding[ax].pad_after).saturating_sub(reach)
            })
            .collect();
        let explicit = PaddingSpec::Explicit(
            padding.iter().map(|p| p.pad_before).collect(),
            padding.iter().map(|p| p.pad_after).collect(),
        );
        let spec = transposed(spec, explicit);
        let kernel = cx.constant(transpose_kernel(&kernel, op.group, false)?.into_arc_tensor())?;
        let bias = zero_bias(cx, spec.output_channels)?;
        let op = Deconv::new(spec, KernelFormat::OIHW, adjust, op.group);
        cx.wire(op, &[dy, kernel, bias])?
    };
    Answer::single(back)
}

/// Input `i` of a transposed convolution reaches the outputs `i·stride + tap·dilation - pad`: a convolution of `dy` reads them.
fn deconv(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Deconv>().context("not a transposed convolution")?;
    let spec = &op.pool_spec;
    if cx.needs(1) || cx.needs(2) {
        return Answer::refused("its kernel is computed from an adapted layer");
    }
    if spec.data_format.c_is_last() || op.kernel_format != KernelFormat::OIHW {
        return Answer::refused(format!("its layout is {:?} with kernel {:?}", spec.data_format, op.kernel_format));
    }
    let (shape, dims) = (cx.dims(node.inputs[0])?, cx.dims(node.id.into())?);
    if cx.fused
        && let Ok(geometry) = ConvShape::of_deconv(op, &shape, &dims)
        && let Some(kernel) = frozen_transposed_kernel(cx.forward(), node.inputs[1], &geometry)?
        && (kernel.is_narrow() || geometry.has_many_columns())
    {
        return in_blocks(cx, dy, kernel, geometry, false, shape);
    }
    let Some(kernel) = cx.fixed(node.inputs[1])? else {
        return Answer::refused("its kernel is not a constant");
    };
    let (strides, dilations) = (spec.strides().into_owned(), spec.dilations().into_owned());
    if op.adjustments.iter().zip(&strides).any(|(a, s)| a >= s) {
        return Answer::refused("its output padding is not smaller than its stride");
    }
    let hw = &shape[spec.data_format.h_axis()..];
    let padding = spec.padding.compute_for_deconv(hw, &spec.kernel_shape, &dilations, &strides, &op.adjustments)?;
    let (before, after) = padding.iter().map(|p| (p.pad_before, p.pad_after)).unzip();
    let spec = transposed(spec, PaddingSpec::Explicit(before, after));
    let kernel = cx.constant(transpose_kernel(&kernel, op.group, false)?.into_arc_tensor())?;
    let bias = zero_bias(cx, spec.output_channels)?;
    Answer::single(cx.wire(Conv::new(spec, KernelFormat::OIHW, op.group, None), &[dy, kernel, bias])?)
}

/// The gradient by blocks of columns, of a kernel that is read where it lies.
fn in_blocks(
    cx: &mut Cx,
    dy: OutletId,
    kernel: Kernel,
    shape: ConvShape,
    transposed: bool,
    to: TVec<usize>,
) -> TractResult<Answer> {
    let bias = zero_bias(cx, 1)?;
    Answer::single(cx.wire(Convolve { shape, kernel, transposed, to }, &[dy, bias])?)
}

fn transposed(spec: &PoolSpec, padding: PaddingSpec) -> PoolSpec {
    PoolSpec { input_channels: spec.output_channels, output_channels: spec.input_channels, padding, ..spec.clone() }
}

fn zero_bias(cx: &mut Cx, channels: usize) -> TractResult<OutletId> {
    cx.constant(Tensor::zero::<f32>(&[channels])?.into_arc_tensor())
}

/// `[groups·o, i, k…]` to `[groups·i, o, k…]`, with the taps reversed if `flip`.
fn transpose_kernel(kernel: &Tensor, groups: usize, flip: bool) -> TractResult<Tensor> {
    let shape = kernel.shape();
    let (o, i, taps) = (shape[0] / groups, shape[1], shape[2..].iter().product::<usize>());
    let from = crate::ops::floats(kernel)?;
    let mut to = vec![0f32; from.len()];
    for g in 0..groups {
        for (a, b) in (0..o).flat_map(|a| (0..i).map(move |b| (a, b))) {
            let source = &from[((g * o + a) * i + b) * taps..][..taps];
            let target = &mut to[((g * i + b) * o + a) * taps..][..taps];
            target.copy_from_slice(source);
            if flip {
                target.reverse();
            }
        }
    }
    let mut out: TVec<usize> = shape.into();
    (out[0], out[1]) = (groups * i, o);
    Tensor::from_shape(&out, &to)
}
