//! Puts low-rank products beside the chosen sites of a concrete typed graph, before it is decluttered: there the weights are
//! still plain matrices in the ONNX orientation.

use tract_core::internal::*;

use super::find::Found;
use super::op::LowRank;

/// Adds `A` and `B` of every chosen site, at its rank, as two inputs at the end of the graph's inputs, in the order of `chosen`.
pub(crate) fn insert(model: &mut TypedModel, chosen: &[(&Found, usize)]) -> TractResult<()> {
    for &(found, rank) in chosen {
        let name = &found.site.name;
        let a = model.add_source(format!("{name}.lora_A"), f32::fact(found.site.a_shape(rank)))?;
        let b = model.add_source(format!("{name}.lora_B"), f32::fact(found.site.b_shape(rank)))?;
        let y = OutletId::new(found.node, 0);
        // Model outputs are tracked by index: a shunted output stays one.
        let mut patch = TypedModelPatch::new("low-rank product");
        let x = model.node(found.node).inputs[found.x_slot];
        let taps = patch.taps(model, &[x, y, a, b])?;
        let op = LowRank { site: name.clone(), geometry: found.geometry(rank) };
        let sum = patch.wire_node(format!("{name}.lora"), op, &taps)?[0];
        patch.shunt_outside(model, y, sum)?;
        patch.apply(model)?;
    }
    Ok(())
}
