//! A tensor repeated along axes of size 1, for products that must see every copy.
//!
//! The runtime takes `MultiBroadcastTo` away from in front of every product, also where no other operand has the axis: the product
//! then has another shape (a refusal), or sums over one place instead of all.

use tract_core::internal::*;
use tract_core::ops::array::MultiBroadcastTo;
use tract_core::ops::einsum::EinSum;

/// `x → x` repeated to `shape`, as [`MultiBroadcastTo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spread {
    pub shape: TVec<usize>,
}

impl Op for Spread {
    fn name(&self) -> StaticName {
        "Spread".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Spread {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(args_1!(inputs).broadcast_to_shape(&self.shape)?.into_tvalue()))
    }
}

impl TypedOp for Spread {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(&self.shape)))
    }
    as_op!();
}

/// What spreads input `slot` of a product of `inputs`, if the product needs every copy: along some spread axis no other operand has the full size, or it
/// is summed over.
fn needed(model: &TypedModel, op: &EinSum, inputs: &[OutletId], slot: usize) -> Option<(OutletId, Spread)> {
    let node = model.node(inputs[slot].node);
    node.op_as::<MultiBroadcastTo>()?;
    let narrow = &model.outlet_fact(node.inputs[0]).ok()?.shape;
    let shape = TVec::from_slice(node.outputs[0].fact.shape.as_concrete()?);
    let full = |other: usize, position: usize, len: usize| {
        model.outlet_fact(inputs[other]).is_ok_and(|f| f.shape[position] == len.to_dim())
    };
    let spread = |position: &usize| narrow.rank() != shape.len() || narrow[*position] != shape[*position].to_dim();
    let alone = |position: usize| {
        let Ok(axis) = op.axes.axis((InOut::In(slot), position)) else { return true };
        let others = (0..inputs.len()).filter(|other| *other != slot);
        axis.outputs[0].is_empty()
            || !others.clone().any(|o| axis.inputs[o].iter().any(|p| full(o, *p, shape[position])))
    };
    let needed = (0..shape.len()).filter(spread).any(alone);
    needed.then(|| (node.inputs[0], Spread { shape: shape.clone() }))
}

/// Spreads an operand of a product where the product needs it.
pub(crate) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<EinSum>() else { return Ok(None) };
    for slot in 0..node.inputs.len() {
        let Some((source, spread)) = needed(model, op, &node.inputs, slot) else { continue };
        let mut patch = TypedModelPatch::new("every copy of an operand");
        let mut taps = patch.taps(model, &node.inputs)?;
        let source = patch.tap_model(model, source)?;
        taps[slot] = patch.wire_node(format!("{}.spread.{slot}", node.name), spread, &[source])?[0];
        let out = patch.wire_node(&node.name, op.clone(), &taps)?;
        patch.shunt_outside(model, node.id.into(), out[0])?;
        return Ok(Some(patch));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sweep;

    /// Queries that are the same for every example, as Q-Former and Perceiver learn them: `expand(q)·W`, and a sum over the copies.
    #[test]
    fn products_of_expanded_tensors() {
        for (expr, shape) in [("bqk,kn->bqn", [4, 2, 3]), ("bqk,kn->qn", [4, 2, 3]), ("bqk,kn->bkn", [4, 2, 3])] {
            let mut model = TypedModel::default();
            let x = model.add_source("x", f32::fact([1, 2, 3])).unwrap();
            let wide = MultiBroadcastTo { shape: ShapeFact::from_dims(shape.map(|d| d.to_dim())) };
            let x = model.wire_node("expand", wide, &[x]).unwrap()[0];
            let w: Vec<f32> = (0..15).map(|i| i as f32 - 6.0).collect();
            let w = model.add_const("w", Tensor::from_shape(&[3, 5], &w).unwrap()).unwrap();
            let op = EinSum::new(expr.parse().unwrap(), f32::datum_type());
            let y = model.wire_node("y", op, &[x, w]).unwrap();
            model.select_output_outlets(&y).unwrap();
            let input = Tensor::from_shape(&[1, 2, 3], &[1f32, -2.0, 0.5, 3.0, 0.25, -1.0]).unwrap().into_tvalue();
            let want = model.clone().into_runnable().unwrap().run(tvec!(input.clone())).unwrap();
            sweep(&mut model, rule).unwrap();
            model.declutter().unwrap();
            let have = model.into_optimized().unwrap().into_runnable().unwrap().run(tvec!(input)).unwrap();
            have[0].close_enough(&want[0], Approximation::Close).unwrap();
        }
    }
}
