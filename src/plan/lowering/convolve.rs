//! Convolutions by blocks of columns: those whose kernel stays narrow, and those of which the runtime would lay out the columns of a
//! whole batch at once.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, PoolSpec};
use tract_core::ops::nn::DataFormat;

use crate::ops::im2col::ConvShape;
use crate::ops::{Convolve, Kernel, frozen_kernel, frozen_transposed_kernel};

use super::dims;

pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let spec = match (node.op_as::<Conv>(), node.op_as::<Deconv>()) {
        (Some(op), _) if op.q_params.is_none() => &op.pool_spec,
        (_, Some(op)) => &op.pool_spec,
        _ => return Ok(None),
    };
    let all = (dims(model, node.inputs[0])?, dims(model, node.id.into())?);
    let (Some(x), Some(y)) = all else { return Ok(None) };
    let format = spec.data_format;
    let last = format.c_is_last();
    let (x, to) = if last { (first(format, &x), first(format, &y)) } else { (x, y) };
    let Some(op) = convolve(model, node, &x, &to)? else { return Ok(None) };
    let mut patch = TypedModelPatch::new("a convolution by blocks of columns");
    let (mut input, bias) = (patch.tap_model(model, node.inputs[0])?, patch.tap_model(model, node.inputs[2])?);
    let (channels, end) = (format.has_n() as usize, to.len() - 1);
    if last {
        input = patch.wire_node(format!("{}.channels_first", node.name), AxisOp::Move(end, channels), &[input])?[0];
    }
    let mut output = patch.wire_node(&node.name, op, &[input, bias])?[0];
    if last {
        output = patch.wire_node(format!("{}.channels_last", node.name), AxisOp::Move(channels, end), &[output])?[0];
    }
    patch.shunt_outside(model, node.id.into(), output)?;
    Ok(Some(patch))
}

/// Sizes with the channels moved from the end to the front.
fn first(format: DataFormat, sizes: &[usize]) -> TVec<usize> {
    let (mut sizes, at): (TVec<usize>, usize) = (sizes.into(), format.has_n() as usize);
    sizes[at..].rotate_right(1);
    sizes
}

/// The operator in the place of `node`, from `x` to `y` with channels first.
fn convolve(model: &TypedModel, node: &TypedNode, x: &[usize], y: &[usize]) -> TractResult<Option<Convolve>> {
    let (shape, kernel, transposed) = if let Some(op) = node.op_as::<Conv>() {
        let Ok(shape) = ConvShape::of_conv(&Conv { pool_spec: channels_first(&op.pool_spec), ..op.clone() }, x) else {
            return Ok(None);
        };
        let kernel = frozen_kernel(model, node.inputs[1], &shape);
        (shape, kernel, false)
    } else if let Some(op) = node.op_as::<Deconv>() {
        let op = Deconv { pool_spec: channels_first(&op.pool_spec), ..op.clone() };
        let Ok(shape) = ConvShape::of_deconv(&op, x, y) else { return Ok(None) };
        let kernel = frozen_transposed_kernel(model, node.inputs[1], &shape)?;
        (shape, kernel, true)
    } else {
        return Ok(None);
    };
    let Some(kernel) = kernel.filter(|k| Convolve::fits(&shape, k)) else { return Ok(None) };
    let many = shape.has_many_columns() && (transposed || lays_out_a_batch(&shape, op_format(node)));
    if matches!(kernel, Kernel::Plain(_)) && !many {
        return Ok(None);
    }
    Ok(Some(Convolve { shape, kernel, transposed, to: y.into() }))
}

fn op_format(node: &TypedNode) -> Option<DataFormat> {
    node.op_as::<Conv>().map(|op| op.pool_spec.data_format)
}

fn channels_first(spec: &PoolSpec) -> PoolSpec {
    let data_format = match spec.data_format {
        DataFormat::NHWC => DataFormat::NCHW,
        DataFormat::HWC => DataFormat::CHW,
        other => other,
    };
    PoolSpec { data_format, ..spec.clone() }
}

/// Whether the runtime would lay out the columns of several images at once. One image's it gathers as it goes, unless they are few; and short sums
/// over long lines it takes directly.
fn lays_out_a_batch(s: &ConvShape, format: Option<DataFormat>) -> bool {
    let long = |size: [usize; 3]| size[2] >= 128;
    let plane = format == Some(DataFormat::NCHW) && s.in_size[0] == 1 && s.in_size[1] > 1;
    let direct = plane && s.groups == 1 && s.taps() > 1 && s.input * s.taps() <= 576;
    let has_direct = tract_linalg::routines::conv_w4_f32().is_some();
    let depthwise = s.groups == s.input && s.groups == s.output;
    s.batch > 1 && !depthwise && !(has_direct && direct && long(s.in_size) && long(s.out_size))
}
