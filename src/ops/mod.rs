//! Forward operators of our own: narrow weights, and those that are put in place of chains of tract's right after the graph is decluttered.

mod activation;
#[cfg(feature = "train")]
mod after;
mod append;
mod attention_mask;
mod barrier;
mod broadcast;
mod clip;
mod convolve;
#[cfg_attr(not(feature = "train"), allow(dead_code, unused_imports))] // training's share of it
pub(crate) mod depthwise;
mod dequantize;
mod dynamic;
mod frozen_kernel;
pub(crate) mod im2col;
mod packed;
mod packed_dots;
mod places;
mod quantise;
#[cfg(feature = "train")]
mod quantise_backward;
mod shared_bytes;
mod softmax;
pub(crate) mod stem;

pub(crate) use activation::{mish, softplus};
#[cfg(feature = "train")]
pub(crate) use after::After;
pub(crate) use append::{Append, append};
pub(crate) use attention_mask::Reach;
#[cfg(all(test, feature = "train"))]
pub(crate) use barrier::Hold;
pub(crate) use barrier::hold_strides;
pub(crate) use broadcast::rule as spread_rule;
pub(crate) use clip::Clip;
pub(crate) use convolve::{Convolve, Kernel};
#[cfg(feature = "train")]
pub(crate) use dequantize::copy_constant;
pub(crate) use dequantize::{Lookup, Widen, behind, constant, in_order, is_constant};
pub(crate) use dynamic::DynamicQuantise;
pub(crate) use frozen_kernel::{frozen_kernel, frozen_transposed_kernel};
pub(crate) use packed::{Kind, Packed, Scales};
pub(crate) use places::{OneHot, Places, check as check_places};
pub(crate) use quantise::Quantise;
#[cfg(feature = "train")]
pub(crate) use quantise_backward::{DecodeDynamic, QuantiseBackward};
pub(crate) use shared_bytes::SharedBytes;
pub(crate) use softmax::{SafeSoftmax, is_softmax_of_rows, softmax_of_rows};

use tract_core::internal::*;

/// Replaces chains by operators of this module.
pub(crate) fn fuse(model: &mut TypedModel) -> TractResult<()> {
    sweep(model, clip::rule)?;
    sweep(model, softmax::rule)
}

/// Offers every node once to `rule`, in evaluation order.
pub(crate) fn sweep(
    model: &mut TypedModel,
    rule: fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>,
) -> TractResult<()> {
    for id in model.eval_order()? {
        if let Some(patch) = rule(model, model.node(id))? {
            patch.apply(model)?;
        }
    }
    Ok(())
}

/// Whether `outlet` is read by one node only, and is no output of the model.
pub(crate) fn read_once(model: &TypedModel, outlet: OutletId) -> bool {
    model.node(outlet.node).outputs[outlet.slot].successors.len() == 1 && !model.outputs.contains(&outlet)
}

/// Values of a plain tensor.
pub(crate) fn floats(t: &Tensor) -> TractResult<&[f32]> {
    t.try_as_plain_ram()?.as_slice::<f32>()
}
