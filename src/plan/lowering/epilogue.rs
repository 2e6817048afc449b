//! A bias or a clip after a product, or after the low-rank product beside it, moves into the product.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::math::Add;

use super::product::{Product, Side};
use crate::ops::{Clip, read_once};
use crate::sites::LowRank;

pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    if let Some(clip) = node.op_as::<Clip>() {
        return take_clip(model, node, *clip);
    }
    if !node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>()) {
        return Ok(None);
    }
    for (y, bias) in [(0, 1), (1, 0)] {
        let (y, bias) = (node.inputs[y], node.inputs[bias]);
        if read_once(model, y) && model.outlet_fact(y)?.shape == node.outputs[0].fact.shape {
            let source = model.node(y.node);
            let patch = match source.op_as::<LowRank>() {
                Some(op) if y.slot == 0 => under_lowrank(model, node, source, op, bias)?,
                _ => take_bias(model, node, y, bias)?,
            };
            if patch.is_some() {
                return Ok(patch);
            }
        }
    }
    Ok(None)
}

/// The product behind `outlet`, which nothing else reads and which is not finished yet.
fn open_product(model: &TypedModel, outlet: OutletId) -> Option<(&TypedNode, &Product)> {
    let node = model.node(outlet.node);
    let product = node.op_as::<Product>().filter(|p| p.clip.is_none() && p.has_lines() && read_once(model, outlet));
    product.map(|p| (node, p))
}

fn take_clip(model: &TypedModel, node: &TypedNode, clip: Clip) -> TractResult<Option<TypedModelPatch>> {
    let Some((source, product)) = open_product(model, node.inputs[0]) else { return Ok(None) };
    let op = Product { clip: Some(clip), ..product.clone() };
    let mut patch = TypedModelPatch::new("clip in a product");
    let taps = patch.taps(model, &source.inputs)?;
    let out = patch.wire_node(&source.name, op, &taps)?;
    patch.shunt_outside(model, node.id.into(), out[0])?;
    Ok(Some(patch))
}

fn take_bias(
    model: &TypedModel,
    node: &TypedNode,
    y: OutletId,
    bias: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, vector)) = with_bias(model, y, bias)? else { return Ok(None) };
    let mut patch = TypedModelPatch::new("bias in a product");
    let out = wire(model, &mut patch, y, op, vector)?;
    patch.shunt_outside(model, node.id.into(), out)?;
    Ok(Some(patch))
}

/// `(y + ΔW(x)) + bias` is `(y + bias) + ΔW(x)`.
fn under_lowrank(
    model: &TypedModel,
    node: &TypedNode,
    source: &TypedNode,
    lowrank: &LowRank,
    bias: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let y = source.inputs[1];
    let Some((op, vector)) = with_bias(model, y, bias)? else { return Ok(None) };
    let mut patch = TypedModelPatch::new("bias in a product");
    let out = wire(model, &mut patch, y, op, vector)?;
    let mut taps = patch.taps(model, &source.inputs)?;
    taps[1] = out;
    let outputs = patch.wire_node(&source.name, lowrank.clone(), &taps)?;
    patch.shunt_outside(model, OutletId::new(source.id, 1), outputs[1])?;
    patch.shunt_outside(model, node.id.into(), outputs[0])?;
    Ok(Some(patch))
}

/// The product behind `y` with the constant `bias` along one of its sides.
fn with_bias(model: &TypedModel, y: OutletId, bias: OutletId) -> TractResult<Option<(Product, Arc<Tensor>)>> {
    let Some((_, product)) = open_product(model, y) else { return Ok(None) };
    let Some(bias) = model.outlet_fact(bias)?.konst.clone() else { return Ok(None) };
    let mut long = (0..bias.rank()).filter(|&axis| bias.shape()[axis] != 1);
    let (Some(axis), None) = (long.next(), long.next()) else { return Ok(None) };
    let same = bias.datum_type() == f32::datum_type() && bias.shape()[axis] == bias.len();
    let side: Option<Side> = product.side(axis);
    Ok(match side {
        Some(side) if same && product.bias.is_none() => Some((Product { bias: Some(side), ..product.clone() }, bias)),
        _ => None,
    })
}

fn wire(
    model: &TypedModel,
    patch: &mut TypedModelPatch,
    y: OutletId,
    op: Product,
    bias: Arc<Tensor>,
) -> TractResult<OutletId> {
    let source = model.node(y.node);
    let mut taps = patch.taps(model, &source.inputs)?;
    taps.push(patch.add_const(format!("{}.bias", source.name), bias)?);
    Ok(patch.wire_node(&source.name, op, &taps)?[0])
}
