//! Late passes over a decluttered graph, forward or backward, before tract compiles it: operators of our own where they were
//! measured to be faster than tract's. The graph without these passes is the reference that tests compare with.
//!
//! | pass | on MiniLM, 8 × 64 tokens, x86-64 with AVX-512, 1 thread |
//! |---|---|
//! | `product` | matrix products by `linalg`, read where they lie: 106 GFLOP/s for tract's 71, no packed copy of the weights |
//! | `accumulate` | sums of gradients are taken by the product that makes the second term |
//! | `softmax` | scale, mask and softmax of attention scores in one pass over memory |

mod accumulate;
mod product;
mod softmax;

#[cfg(test)]
mod tests;

use tract_core::internal::*;

/// Runs every pass on `model`.
pub(super) fn improve(model: &mut TypedModel) -> TractResult<()> {
    sweep(model, product::rule)?;
    sweep(model, accumulate::rule)?;
    sweep(model, softmax::rule)?;
    Ok(())
}

/// Offers every node once to `rule`, in evaluation order.
fn sweep(
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
fn read_once(model: &TypedModel, outlet: OutletId) -> bool {
    model.node(outlet.node).outputs[outlet.slot].successors.len() == 1 && !model.outputs.contains(&outlet)
}

fn dims(model: &TypedModel, outlet: OutletId) -> TractResult<Option<TVec<usize>>> {
    let fact = model.outlet_fact(outlet)?;
    Ok(if fact.datum_type == f32::datum_type() { fact.shape.as_concrete().map(TVec::from_slice) } else { None })
}
