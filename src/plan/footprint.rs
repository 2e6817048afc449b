//! What a plan holds while it runs, read off its graph as it is compiled.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tract_core::internal::*;
use tract_core::model::order::{build_flush_list, eval_order_opt_ram};
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;

use super::at_once::bytes;
use super::lowering;
use super::passing::{Feed, Plans, Segment};
use crate::base::Base;
use crate::grad::tape_bytes;
use crate::ops::Convolve;
use crate::sites::{LowRank, LowRankBackward};

/// Bytes of values that a plan of `model` holds at most at once, in the runtime's order: its inputs from the start,
/// each value until the last node that reads it has run, and its outputs to the end; and what an operator lays out
/// for itself while it runs. Constants are not among them. Where somebody else `holds_inputs`, they stay to the end,
/// too.
pub(super) fn peak(model: &TypedModel, holds_inputs: bool) -> TractResult<u64> {
    let held_inputs = model.inputs.iter().filter(|_| holds_inputs);
    let results: HashSet<OutletId> = model.outputs.iter().chain(held_inputs).copied().collect();
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

/// Bytes that a forward and a backward pass hold at most at once.
pub(super) fn of_training(plans: Plans<TypedModel>, base: &Base) -> TractResult<u64> {
    let improved = |mut model: TypedModel, holds_inputs: bool| -> TractResult<u64> {
        lowering::improve(&mut model, base.weights())?;
        peak(&model, holds_inputs)
    };
    let Plans { prefix, segments, entering, results, .. } = plans;
    let mut most = prefix.map(|prefix| improved(prefix, false)).transpose()?.unwrap_or(0);
    // Of each value that passes: its size. Factors are not among them.
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut passes = vec![];
    for segment in segments {
        let Segment { forward, backward, reads, gives, saved, cotangents, gradients } = segment;
        for (at, value) in reads.iter().enumerate().filter(|(_, value)| **value < entering) {
            sizes.insert(*value, bytes(forward.input_fact(at)?));
        }
        let beside = |read: &dyn Fn(&usize) -> bool| -> u64 {
            sizes.iter().filter(|(value, _)| !read(value)).map(|(_, size)| size).sum()
        };
        let fed = |value: &usize| saved.iter().any(|f| matches!(f, Feed::Input(at) if reads[*at] == *value));
        let (kept, kept_back) = (beside(&|value| reads.contains(value)), beside(&fed));
        for at in 0..gives.1 {
            sizes.insert(gives.0 + at, bytes(forward.output_fact(at)?));
        }
        let forward = improved(forward, true)? + kept;
        let backward = backward.map(|b| Ok(improved(b, false)? + kept_back)).transpose();
        passes.push((forward, backward.map_err(|e: TractError| e)?, cotangents, gradients));
        most = most.max(forward);
    }
    let size = |values: &BTreeSet<usize>| values.iter().filter_map(|v| sizes.get(v)).sum::<u64>();
    let mut pending: BTreeSet<usize> = results.into_iter().collect();
    let last = passes.len().saturating_sub(1);
    for (at, (forward, backward, cotangents, gradients)) in passes.into_iter().enumerate().rev() {
        if at < last {
            most = most.max(forward + size(&pending));
        }
        pending.retain(|value| !cotangents.contains(value));
        if let Some(backward) = backward {
            most = most.max(backward + size(&pending));
            pending.extend(gradients);
        }
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
        assert_eq!(peak(&model, false).unwrap(), 2 * 40, "a value and the next one");
        model.select_output_outlets(&[a, c]).unwrap();
        assert_eq!(peak(&model, false).unwrap(), 3 * 40, "a result stays");
        let d = model.wire_node("d", math::add(), &[c, x]).unwrap()[0];
        model.select_output_outlets(&[d]).unwrap();
        assert_eq!(peak(&model, false).unwrap(), 3 * 40, "the input is read late");
        model.select_output_outlets(&[c]).unwrap();
        assert_eq!(peak(&model, true).unwrap(), 3 * 40, "the input stays");
    }
}
