//! The gradients of linear low-rank products taken apart into three or four products of tract's.

use tract_core::internal::*;

use super::graph::{Linear, Parts};
use crate::ops::sweep;
use crate::sites::{LowRankBackward, Onto};

/// Leaves as few operators of ours in a backward graph as can be.
pub(super) fn backward(model: &mut TypedModel) -> TractResult<()> {
    sweep(model, low_rank)
}

fn low_rank(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<LowRankBackward>().filter(|op| op.onto == Onto::Nothing) else { return Ok(None) };
    let Some(d) = Linear::of(&op.geometry) else { return Ok(None) };
    let mut patch = TypedModelPatch::new("the gradient of a low-rank product of the runtime's operators");
    let taps = patch.taps(model, &node.inputs)?;
    let &[x, saved, a, b, dy] = &taps[..] else { return Ok(None) };
    let mut parts = Parts { patch, name: &node.name };
    let dy = parts.shaped("dy", dy, &[d.rows, d.output])?;
    let saved = parts.shaped("saved", saved, &[d.rows, d.rank])?;
    let narrow = parts.product("narrow", "mn,rn->mr", dy, b)?;
    let db = parts.product("db", "mr,mn->rn", saved, dy)?;
    let da = match op.need_a {
        true => {
            let x = parts.shaped("x", x, &[d.rows, d.input])?;
            parts.product("da", "mk,mr->kr", x, narrow)?
        }
        false => parts.patch.add_const(format!("{}.da", node.name), tensor1(&[0f32]))?,
    };
    let mut out = tvec!(da, db);
    if op.need_x {
        let dx = parts.product("dx", "mr,kr->mk", narrow, a)?;
        out.push(parts.shaped("dx.shaped", dx, &op.x_shape)?);
    }
    let mut patch = parts.patch;
    for (slot, outlet) in out.into_iter().enumerate() {
        patch.shunt_outside(model, OutletId::new(node.id, slot), outlet)?;
    }
    Ok(Some(patch))
}
