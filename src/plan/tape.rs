//! What a forward pass keeps for the backward one, in fewer bytes: activations of a quantised model are kept as the codes that they were rounded
//! to, a quarter of their size, and decoded where the backward pass reads them.

use std::collections::HashSet;

use tract_core::internal::*;
use tract_core::ops::source::TypedSource;

use crate::ops::{DecodeDynamic, DynamicQuantise, Quantise};

/// Rewrites the end of `forward` and the start of `backward`, whose last inputs are the values of `saved` in order, and `saved` itself.
pub(super) fn compress(
    forward: &mut TypedModel,
    backward: &mut TypedModel,
    saved: &mut Vec<OutletId>,
) -> TractResult<()> {
    let first = backward.inputs.len() - saved.len();
    let late = after_cotangents(backward, first)?;
    for ix in 0..saved.len() {
        let (outlet, source) = (saved[ix], backward.inputs[first + ix]);
        if outlet.slot != 0 || backward.outputs.contains(&source) {
            continue;
        }
        let node = forward.node(outlet.node);
        let (op, decode, parameters): (Box<dyn TypedOp>, Box<dyn TypedOp>, bool) =
            if let Some(op) = node.op_as::<Quantise>() {
                let Some(decode) = op.decode() else { continue };
                (Box::new(Quantise { codes: true, ..op.clone() }), Box::new(decode), false)
            } else if node.op_is::<DynamicQuantise>() {
                (Box::new(DynamicQuantise { codes: true }), Box::new(DecodeDynamic), true)
            } else {
                continue;
            };
        let facts = op.output_facts(&forward.node_input_facts(node.id)?)?;
        let codes = facts.len() - 1 - usize::from(parameters);
        let fact = facts[codes].clone();
        let node = forward.node_mut(outlet.node);
        node.op = op;
        let added = facts.into_iter().skip(node.outputs.len()).map(|fact| Outlet { fact, successors: tvec!() });
        node.outputs.extend(added.collect::<Vec<_>>());
        saved[ix] = OutletId::new(outlet.node, codes);

        let readers = backward.node(source.node).outputs[0].successors.clone();
        let name = backward.node(source.node).name.clone();
        backward.node_mut(source.node).op = Box::new(TypedSource::new(fact.clone()));
        backward.set_outlet_fact(source, fact)?;
        let mut inputs = tvec!(source);
        if parameters {
            saved.push(OutletId::new(outlet.node, codes + 1));
            inputs.push(backward.add_source(format!("{name}.parameters"), f32::fact([2]))?);
        }
        // Each reader decodes for itself, and not before what it reads beside: a plan would decode early what it reads late (387 MB for 279 in
        // a step of EfficientNet-lite0 with 8 pictures).
        for (nth, reader) in readers.iter().enumerate() {
            let beside = backward.node(reader.node).inputs.iter().copied().rfind(|i| late.contains(&i.node));
            let inputs: TVec<OutletId> = inputs.iter().copied().chain(beside).collect();
            let decoded = backward.wire_node(format!("{name}.decoded.{nth}"), decode.clone(), &inputs)?[0];
            backward.add_edge(decoded, *reader)?;
        }
    }
    Ok(())
}

/// The nodes of a backward graph that a cotangent reaches.
fn after_cotangents(backward: &TypedModel, cotangents: usize) -> TractResult<HashSet<usize>> {
    let mut late: HashSet<usize> = backward.inputs[..cotangents].iter().map(|o| o.node).collect();
    for id in backward.eval_order()? {
        if backward.node(id).inputs.iter().any(|i| late.contains(&i.node)) {
            late.insert(id);
        }
    }
    Ok(late)
}
