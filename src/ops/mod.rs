//! Forward operators of our own: narrow weights, and those that are put in place of chains of tract's right after the graph is decluttered.

mod clip;
mod convolve;
mod dynamic;
mod hold;
mod packed;
mod places;
mod quantise;
mod reach;
mod softmax;
mod spread;
mod widen;

pub(crate) use clip::Clip;
pub(crate) use convolve::Convolve;
#[cfg(feature = "train")]
pub(crate) use dynamic::DecodeDynamic;
pub(crate) use dynamic::DynamicQuantise;
#[cfg(all(test, feature = "train"))]
pub(crate) use hold::Hold;
pub(crate) use hold::hold_strides;
pub(crate) use packed::{Kind, Packed, Scales};
pub(crate) use places::{OneHot, Places, rule as places_rule};
pub(crate) use quantise::Quantise;
#[cfg(feature = "train")]
pub(crate) use quantise::QuantiseBackward;
pub(crate) use reach::Reach;
pub(crate) use softmax::{SafeSoftmax, is_softmax_of_rows, softmax_of_rows};
pub(crate) use spread::rule as spread_rule;
#[cfg(feature = "train")]
pub(crate) use widen::copy_constant;
pub(crate) use widen::{Lookup, Widen, behind, constant, in_order, is_constant, transposed_kernel};

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
