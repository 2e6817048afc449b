//! `x + a·b` where nothing else reads `a·b`: the product adds to `x`.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::math::Add;

use super::product::Product;
use crate::ops::read_once;
#[cfg(feature = "train")]
use crate::sites::{LowRankBackward, Onto};

pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    if !node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>()) {
        return Ok(None);
    }
    for (term, other) in [(1, 0), (0, 1)] {
        let (term, other) = (node.inputs[term], node.inputs[other]);
        let whole = |o: OutletId| Ok::<_, TractError>(model.outlet_fact(o)?.shape == node.outputs[0].fact.shape);
        if !read_once(model, term) || !whole(term)? || !whole(other)? {
            continue;
        }
        if let Some(patch) = add_to(model, node, term, other)? {
            return Ok(Some(patch));
        }
    }
    Ok(None)
}

/// Lets the operator behind `term` add to `other` and stand for the sum `node`.
fn add_to(
    model: &TypedModel,
    node: &TypedNode,
    term: OutletId,
    other: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let source = model.node(term.node);
    let op: Box<dyn TypedOp> = if let Some(op) = source.op_as::<Product>().filter(|op| !op.accumulates) {
        Box::new(Product { accumulates: true, ..op.clone() })
    } else if let Some(op) = lowrank_adding(source, term.slot) {
        op
    } else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("add to");
    let mut inputs = patch.taps(model, &source.inputs)?;
    inputs.push(patch.tap_model(model, other)?);
    let outputs = patch.wire_node(&source.name, op, &inputs)?;
    for (slot, &output) in outputs.iter().enumerate().filter(|(slot, _)| *slot != term.slot) {
        patch.shunt_outside(model, OutletId::new(source.id, slot), output)?;
    }
    patch.shunt_outside(model, node.id.into(), outputs[term.slot])?;
    Ok(Some(patch))
}

#[cfg(feature = "train")]
fn lowrank_adding(source: &TypedNode, slot: usize) -> Option<Box<dyn TypedOp>> {
    let op = source.op_as::<LowRankBackward>().filter(|op| slot == 2 && op.onto == Onto::Nothing)?;
    Some(Box::new(LowRankBackward { onto: Onto::Sum, ..op.clone() }))
}

#[cfg(not(feature = "train"))]
fn lowrank_adding(_: &TypedNode, _: usize) -> Option<Box<dyn TypedOp>> {
    None
}
