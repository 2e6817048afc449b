//! The constant kernels of convolutions, as [`Convolve`] reads them.

use tract_core::internal::*;

use super::convolve::{Convolve, Kernel};
use super::dequantize::{in_order, transposed_kernel};
use super::floats;
use super::im2col::ConvShape;

/// The kernel of a convolution of `shape` at `outlet`, if it is a constant; none for a depthwise one of floats, which has its own loops.
pub(crate) fn frozen_kernel(model: &TypedModel, outlet: OutletId, shape: &ConvShape) -> Option<Kernel> {
    let narrow = in_order(model, outlet).map(|w| Kernel::Narrow(w.weight.clone()));
    let plain = || plain(model, outlet, shape).map(Kernel::Plain);
    narrow.or_else(plain).filter(|k| Convolve::fits(shape, k))
}

/// The same of a transposed convolution, `shape` being that of the convolution that it transposes.
pub(crate) fn frozen_transposed_kernel(
    model: &TypedModel,
    outlet: OutletId,
    shape: &ConvShape,
) -> TractResult<Option<Kernel>> {
    if let Some(packed) = transposed_kernel(model, outlet, shape)? {
        return Ok(Some(Kernel::Narrow(packed)));
    }
    let Some(moved) = plain(model, outlet, shape).filter(|k| k.len() == shape.kernel_len()) else { return Ok(None) };
    // The runtime keeps `[groups·co, ci, taps]`.
    let (ci, co, taps) = (shape.group_out(), shape.group_in(), shape.taps());
    let (from, mut to) = (floats(&moved)?, vec![0f32; moved.len()]);
    for (i, line) in to.chunks_exact_mut(taps).enumerate() {
        let (c, o) = (i / co, i % co);
        line.copy_from_slice(&from[((c / ci * co + o) * ci + c % ci) * taps..][..taps]);
    }
    let kernel = Tensor::from_shape(&[shape.output, co, taps], &to)?;
    Ok(Some(Kernel::Plain(kernel.into_arc_tensor())))
}

fn plain(model: &TypedModel, outlet: OutletId, shape: &ConvShape) -> Option<Arc<Tensor>> {
    let kernel = model.outlet_fact(outlet).ok()?.konst.clone()?;
    let depthwise = shape.is_depthwise() && shape.group_out() == 1;
    (kernel.datum_type() == f32::datum_type() && kernel.is_plain_ram() && !depthwise).then_some(kernel)
}
