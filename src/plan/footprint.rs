//! What a plan holds while it runs, read off its graph as it is compiled.

use std::collections::HashSet;

use tract_core::internal::*;
use tract_core::model::order::{build_flush_list, eval_order_opt_ram};
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;

use crate::grad::tape_bytes;
use crate::ops::Convolve;
use crate::sites::{LowRank, LowRankBackward};

/// Bytes of values that a plan of `model` holds at most at once, in the runtime's order: its inputs from the start, each value until the last
/// node that reads it has run, and its outputs to the end; and what an operator lays out for itself while it runs. Constants are not among them.
pub(super) fn peak(model: &TypedModel) -> TractResult<u64> {
    let results: HashSet<OutletId> = model.outputs.iter().copied().collect();
    let size = |id: usize, keep: &dyn Fn(OutletId) -> bool| -> u64 {
        let outlets = model.node(id).outputs.iter().enumerate();
        outlets.filter(|(slot, _)| keep(OutletId::new(id, *slot))).map(|(_, o)| bytes(&o.fact)).sum()
    };
    let is_value = |node: &TypedNode| !node.op_is::<Const>();
    let order = eval_order_opt_ram(model)?;
    let freed = build_flush_list(model, &order, &[], is_value);
    let mut held: u64 = model.inputs.iter().map(|i| size(i.node, &|_| true)).sum();
    let mut most = held;
    for (&id, freed) in order.iter().zip(&freed) {
        let node = model.node(id);
        if is_value(node) && !node.op_is::<TypedSource>() {
            held += size(id, &|_| true);
        }
        most = most.max(held + scratch(model, node)?);
        held -= freed.iter().map(|&id| size(id, &|o| !results.contains(&o))).sum::<u64>().min(held);
    }
    Ok(most)
}

/// Bytes that a node holds beside its inputs and outputs while it runs.
fn scratch(model: &TypedModel, node: &TypedNode) -> TractResult<u64> {
    Ok(if let Some(op) = node.op_as::<Convolve>() {
        op.scratch()
    } else if let Some(op) = node.op_as::<LowRank>() {
        op.geometry.scratch()
    } else if let Some(op) = node.op_as::<LowRankBackward>() {
        op.geometry.scratch()
    } else {
        tape_bytes(node, &model.node_input_facts(node.id)?)
    })
}

/// Bytes of a value; none while its shape is open.
pub(super) fn bytes(fact: &TypedFact) -> u64 {
    fact.shape
        .as_concrete()
        .map_or(0, |shape| shape.iter().fold(fact.datum_type.size_of() as u64, |all, &d| all.saturating_mul(d as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_core::ops::math;

    #[test]
    fn values_are_held_from_the_node_that_makes_them_to_the_last_that_reads_them() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([10])).unwrap();
        let a = model.wire_node("a", math::exp(), &[x]).unwrap()[0];
        let b = model.wire_node("b", math::exp(), &[a]).unwrap()[0];
        let c = model.wire_node("c", math::exp(), &[b]).unwrap()[0];
        model.select_output_outlets(&[c]).unwrap();
        assert_eq!(peak(&model).unwrap(), 2 * 40, "a value and the next one");
        model.select_output_outlets(&[a, c]).unwrap();
        assert_eq!(peak(&model).unwrap(), 3 * 40, "a result stays");
        let d = model.wire_node("d", math::add(), &[c, x]).unwrap()[0];
        model.select_output_outlets(&[d]).unwrap();
        assert_eq!(peak(&model).unwrap(), 3 * 40, "the input is read late");
    }
}
