//! Late passes over a decluttered graph, forward or backward, before tract compiles it: operators of our own where they were
//! measured to be faster than tract's. The graph without these passes is the reference that tests compare with.
//!
//! | pass | on MiniLM, 8 × 64 tokens, x86-64 with AVX-512, 1 thread |
//! |---|---|
//! | `product` | matrix products by `linalg`, read where they lie: 106 GFLOP/s for tract's 71, no packed copy of the weights |
//! | `contraction` | an operand is copied where a sum over several axes asks for it, and no weight is packed |
//! | `accumulate` | sums of gradients are taken by the product that makes the second term |
//! | `epilogue` | biases and clips are taken by the product, on results that are still in cache |
//! | `depthwise` | EfficientNet's depthwise convolutions by `ops::depthwise`, with their low-rank deltas and clips |
//! | `stem` | convolutions of few input channels by `ops::stem`, without columns, in half the time for EfficientNet's |
//! | `packed` | products read quantised and half-precision weights as they are stored, a panel at a time |
//! | `convolve` | convolutions by blocks of columns, of narrow weights and where tract would lay out a whole batch |
//! | `softmax` | scale, mask and softmax of attention scores in one pass over memory |

mod accumulate;
mod contraction;
mod convolve;
mod depthwise;
mod epilogue;
mod operand;
mod packed;
mod product;
mod softmax;
mod stem;

#[cfg(test)]
mod tests;

use tract_core::internal::*;

use crate::ops::sweep;

/// Runs every pass on `model`; weights that equal one of `originals` are shared with it.
pub(super) fn improve<'a>(model: &mut TypedModel, originals: impl Iterator<Item = &'a Arc<Tensor>>) -> TractResult<()> {
    sweep(model, contraction::rule)?;
    sweep(model, product::rule)?;
    sweep(model, accumulate::rule)?;
    sweep(model, epilogue::rule)?;
    sweep(model, depthwise::rule)?;
    sweep(model, depthwise::lowrank_rule)?;
    sweep(model, depthwise::clip_rule)?;
    sweep(model, stem::rule)?;
    sweep(model, stem::clip_rule)?;
    #[cfg(feature = "train")]
    sweep(model, depthwise::backward_rule)?;
    sweep(model, softmax::rule)?;
    sweep(model, packed::rule)?;
    sweep(model, packed::lookup_rule)?;
    sweep(model, convolve::rule)?;
    product::share(model, originals)
}

/// About how many multiplications a pass takes; operators that are not known by name count by what they give.
pub(super) fn multiplications(model: &TypedModel) -> usize {
    const OF_A_VALUE: usize = 16;
    let of_node = |node: &TypedNode| match node.op_as::<product::Product>() {
        Some(product) => product.multiplications(),
        None => {
            let volumes = node.outputs.iter().filter_map(|o| o.fact.shape.as_concrete());
            volumes.map(|shape| shape.iter().product::<usize>()).sum::<usize>().saturating_mul(OF_A_VALUE)
        }
    };
    model.nodes().iter().filter(|node| !node.op_is::<tract_core::ops::konst::Const>()).map(of_node).sum()
}

fn dims(model: &TypedModel, outlet: OutletId) -> TractResult<Option<TVec<usize>>> {
    let fact = model.outlet_fact(outlet)?;
    Ok(if fact.datum_type == f32::datum_type() { fact.shape.as_concrete().map(TVec::from_slice) } else { None })
}
