//! A product reads a large weight as it lies in the file.
//!
//! Exporters of PyTorch write `x·Wᵀ` as a product with a Transpose of the stored W. The runtime would compute that once
//! for every graph that it makes, and hold both. Here the product takes the axes of W as they are.

use tract_core::internal::*;
use tract_core::ops::change_axes::{AxisOp, InOut};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::konst::Const;

use super::stored::LARGE;

/// Makes products read large constants themselves in place of moved ones.
pub(super) fn moved_weights(model: &mut TypedModel) -> TractResult<()> {
    crate::ops::sweep(model, rule)?;
    model.compact()
}

fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(mut op) = node.op_as::<EinSum>().filter(|op| op.q_params.is_none()).cloned() else { return Ok(None) };
    let mut inputs = node.inputs.clone();
    for (slot, input) in inputs.iter_mut().enumerate().filter(|(_, input)| is_large(model, **input)) {
        while let Some(moved) = model.node(input.node).op_as::<AxisOp>() {
            let back = moved.recip();
            if !keeps_its_output(&op, slot, &back) {
                break;
            }
            let changed = op.change_axes(model, node, InOut::In(slot), &back)?.and_then(|c| c.substitute_op);
            let Some(changed) = changed.as_ref().and_then(|op| op.downcast_ref::<EinSum>()) else { break };
            op = changed.clone();
            *input = model.node(input.node).inputs[0];
        }
    }
    if inputs == node.inputs {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, &inputs)?;
    let y = patch.wire_node(&node.name, op, &taps)?;
    patch.shunt_outside(model, node.id.into(), y[0])?;
    Ok(Some(patch))
}

/// Whether an outlet is a large constant whose axes were moved.
fn is_large(model: &TypedModel, mut outlet: OutletId) -> bool {
    while model.node(outlet.node).op_is::<AxisOp>() {
        outlet = model.node(outlet.node).inputs[0];
    }
    let constant = model.node(outlet.node).op_as::<Const>();
    constant.is_some_and(|c| c.val().datum_type() == f32::datum_type() && 4 * c.val().len() >= LARGE)
}

/// Whether the product has all axes of its output without the one that `change` removes from an operand.
fn keeps_its_output(op: &EinSum, slot: usize, change: &AxisOp) -> bool {
    let AxisOp::Rm(axis) = change else { return true };
    let (inputs, _) = op.axes.to_strs();
    let label = inputs[slot].chars().nth(*axis);
    let others = inputs.iter().enumerate().filter(|(other, _)| *other != slot);
    label.is_some_and(|label| others.into_iter().any(|(_, axes)| axes.contains(label)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_weight_is_read_as_it_lies() {
        let w: Vec<f32> = (0..12 * 8).map(|i| (i as f32).sin()).collect();
        let x: Vec<f32> = (0..2 * 3 * 8).map(|i| (i as f32).cos()).collect();
        let graph = |moved: bool| {
            let mut model = TypedModel::default();
            let x = model.add_source("x", f32::fact([2, 3, 8])).unwrap();
            let w = model.add_const("w", Tensor::from_shape(&[12, 8], &w).unwrap()).unwrap();
            let w = model.wire_node("t", AxisOp::Move(0, 1), &[w]).unwrap()[0];
            let w = model.wire_node("a", AxisOp::Add(0), &[w]).unwrap()[0];
            let axes = "bmk,bkn->bmn".parse().unwrap();
            let y = model.wire_node("y", EinSum::new(axes, f32::datum_type()), &[x, w]).unwrap();
            model.select_output_outlets(&y).unwrap();
            if moved {
                moved_weights(&mut model).unwrap();
            }
            model
        };
        let run = |model: TypedModel| {
            let x = Tensor::from_shape(&[2, 3, 8], &x).unwrap().into_tvalue();
            model.into_runnable().unwrap().run(tvec!(x)).unwrap().swap_remove(0)
        };
        let model = graph(true);
        assert!(!model.nodes().iter().any(|n| n.op_is::<AxisOp>()), "{model}");
        run(model).close_enough(&run(graph(false)), true).unwrap();
    }

    #[test]
    fn an_axis_that_only_the_weight_has_stays() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([3, 8])).unwrap();
        let w = model.add_const("w", Tensor::zero::<f32>(&[12, 8]).unwrap()).unwrap();
        let w = model.wire_node("a", AxisOp::Add(0), &[w]).unwrap()[0];
        let axes = "mk,bnk->bmn".parse().unwrap();
        let y = model.wire_node("y", EinSum::new(axes, f32::datum_type()), &[x, w]).unwrap();
        model.select_output_outlets(&y).unwrap();
        moved_weights(&mut model).unwrap();
        assert_eq!(model.output_fact(0).unwrap().shape.as_concrete().unwrap(), [1, 3, 12]);
    }
}
