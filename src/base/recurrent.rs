//! Recurrent layers in the form that the rest of the crate works on.
//!
//! The runtime imports LSTM, GRU and RNN as loops (`Scan`), or as one opaque operator (`GruSeq`), that carry their state from
//! one run to the next. Here every loop starts anew with every run, `GruSeq` is a loop, and the product of the input with its
//! weights, which does not depend on the state, is taken once before the loop: a plain linear layer, which can adapt.

use tract_core::internal::*;
use tract_core::ops::array::Slice;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::gru_cell::GruEpilogue;
use tract_core::ops::gru_seq::GruSeq;
use tract_core::ops::math;
use tract_core::ops::scan::{InputMapping, OutputMapping, Scan, ScanInfo};

use crate::ops::{Widen, behind, is_constant};

/// Rewrites the recurrent layers of a concrete typed graph.
pub(super) fn prepare(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        narrow_part(model, id)?;
    }
    for id in 0..model.nodes.len() {
        if let Some(gru) = model.node(id).op_as::<GruSeq>().filter(|g| !g.projected).cloned() {
            as_loop(model, id, &gru)?;
        }
    }
    for id in 0..model.nodes.len() {
        if let Some(scan) = model.node_mut(id).op_as_mut::<Scan>() {
            scan.reset_every_turn = true;
            project_input(model, id)?;
        }
    }
    Ok(())
}

/// A slice of a narrow weight along its first axis, the weights of one direction, is a narrow weight.
fn narrow_part(model: &mut TypedModel, id: usize) -> TractResult<()> {
    let node = model.node(id);
    let Some(slice) = node.op_as::<Slice>().filter(|s| s.axis == 0) else { return Ok(()) };
    let Some((widen, path)) = behind(model, node.inputs[0]) else { return Ok(()) };
    if path.iter().any(|n| n.op_is::<AxisOp>()) {
        return Ok(());
    }
    let (Ok(start), Ok(end)) = (slice.start.to_usize(), slice.end.to_usize()) else { return Ok(()) };
    let row: usize = widen.shape[1..].iter().product();
    let mut shape = widen.shape.clone();
    shape[0] = end - start;
    let part = Widen { shape, weight: Arc::new(widen.weight.part(start * row..end * row)) };
    let mut patch = TypedModelPatch::new("a part of a narrow weight");
    let part = patch.wire_node(&node.name, part, &[])?;
    patch.shunt_outside(model, id.into(), part[0])?;
    patch.apply(model)
}

/// `GruSeq(x, W, R[, b], h0) → (Y, Y_h)` as a loop over its cell.
fn as_loop(model: &mut TypedModel, id: usize, gru: &GruSeq) -> TractResult<()> {
    let node = model.node(id).clone();
    let facts: Vec<TypedFact> = model.node_input_facts(id)?.into_iter().cloned().collect();
    let mut body = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    let mut x_fact = facts[0].without_value();
    x_fact.shape.set(1, 1.to_dim());
    let x = body.add_source("x", x_fact)?;
    let x = body.wire_node("step", AxisOp::Rm(1), &[x])?[0];
    let w = body.add_source("W", facts[1].clone())?;
    let r = body.add_source("R", facts[2].clone())?;
    let bias = if gru.has_bias { Some(body.add_source("b", facts[3].clone())?) } else { None };
    let h = body.add_source("h", facts[facts.len() - 1].without_value())?;
    let h = body.wire_node("state", AxisOp::Rm(1), &[h])?[0];
    let product = EinSum::new("mk,nk->mn".parse()?, f32::datum_type());
    let mut xh = body.wire_node("input_product", product.clone(), &[x, w])?[0];
    let mut rh = body.wire_node("state_product", product, &[h, r])?[0];
    if let Some(b) = bias {
        let gates = 3 * gru.hidden;
        let wb = body.wire_node("input_bias", Slice::new(1, 0, gates), &[b])?[0];
        let rb = body.wire_node("state_bias", Slice::new(1, gates, 2 * gates), &[b])?[0];
        xh = body.wire_node("input_biased", math::add(), &[xh, wb])?[0];
        rh = body.wire_node("state_biased", math::add(), &[rh, rb])?[0];
    }
    let next = body.wire_node("cell", GruEpilogue { hidden: gru.hidden }, &[xh, rh, h])?[0];
    let next = body.wire_node("next", AxisOp::Add(1), &[next])?;
    body.select_output_outlets(&next)?;
    let over_time = ScanInfo { axis: 1, chunk: gru.chunk };
    let mut inputs = vec![InputMapping::Full; facts.len()];
    inputs[0] = InputMapping::Scan(over_time);
    inputs[facts.len() - 1] = InputMapping::State;
    let output =
        OutputMapping { scan: Some((0, over_time)), full_dim_hint: None, last_value_slot: Some(1), state: true };
    let scan = Scan::new(body, inputs, vec![output], 0)?;
    let mut patch = TypedModelPatch::new("a recurrent layer as a loop");
    let taps = patch.taps(model, &node.inputs)?;
    let outputs = patch.wire_node(&node.name, scan, &taps)?;
    for (slot, output) in outputs.into_iter().enumerate().filter(|(slot, _)| gru.emit_y || *slot == 1) {
        patch.shunt_outside(model, OutletId::new(id, slot), output)?;
    }
    patch.apply(model)
}

/// Takes `xₜ·Wᵀ` out of the loop of node `id`, if it is there and `W` is a constant: `x·Wᵀ` is then what the loop walks over.
fn project_input(model: &mut TypedModel, id: usize) -> TractResult<()> {
    let node = model.node(id).clone();
    let Some(scan) = node.op_as::<Scan>() else { return Ok(()) };
    let Some(found) = find_projection(model, &node, scan)? else { return Ok(()) };
    let mut body = scan.body.clone();
    let mut fact = body.outlet_fact(found.product.into())?.without_value();
    fact.shape.insert_axis(1)?;
    let source = body.add_source("projected", fact)?;
    let step = body.wire_node("projected.step", AxisOp::Rm(1), &[source])?[0];
    let mut patch = TypedModelPatch::new("take the input's product out of the loop");
    let tap = patch.tap_model(&body, step)?;
    patch.shunt_outside(&body, OutletId::new(found.product, 0), tap)?;
    patch.apply(&mut body)?;

    // Without the product, its operands may have no reader left: such inputs go. Their positions outlive a compaction.
    body.compact()?;
    let read = |slot: usize| !body.nodes[body.inputs[slot].node].outputs[0].successors.is_empty();
    let keep: Vec<usize> =
        (0..body.inputs.len()).filter(|&slot| ![found.x_slot, found.w_slot].contains(&slot) || read(slot)).collect();
    body.inputs = keep.iter().map(|&slot| body.inputs[slot]).collect();
    body.compact()?;
    let mut mapping = scan.input_mapping.clone();
    mapping.push(InputMapping::Scan(found.over_time));
    let mapping = keep.iter().map(|&slot| mapping[slot].clone()).collect();

    let mut patch = TypedModelPatch::new("the input's product before a loop");
    let mut taps = patch.taps(model, &node.inputs)?;
    let product = EinSum::new("bti,gi->btg".parse()?, f32::datum_type());
    let operands = [taps[found.x_slot], taps[found.w_slot]];
    taps.push(patch.wire_node(format!("{}.input", node.name), product, &operands)?[0]);
    let taps: TVec<OutletId> = keep.iter().map(|&slot| taps[slot]).collect();
    let mut op = Scan::new(body, mapping, scan.output_mapping.clone(), scan.skip)?;
    (op.reset_every_turn, op.external_state) = (scan.reset_every_turn, scan.external_state);
    for (slot, output) in patch.wire_node(&node.name, op, &taps)?.into_iter().enumerate() {
        patch.shunt_outside(model, OutletId::new(id, slot), output)?;
    }
    patch.apply(model)
}

/// Where a loop multiplies its input by a constant weight: nodes of the body, and their slots among the loop's inputs.
struct Projection {
    product: usize,
    x_slot: usize,
    w_slot: usize,
    over_time: ScanInfo,
}

fn find_projection(model: &TypedModel, node: &TypedNode, scan: &Scan) -> TractResult<Option<Projection>> {
    let body = &scan.body;
    let slot_of = |id: usize| body.inputs.iter().position(|o| o.node == id);
    for product in body.nodes() {
        let Some(op) = product.op_as::<EinSum>().filter(|e| e.q_params.is_none()) else { continue };
        if product.inputs.len() != 2 || op.axes != "mk,nk->mn".parse()? {
            continue;
        }
        let (step, w) = (product.inputs[0].node, product.inputs[1].node);
        if body.node(step).op_as::<AxisOp>() != Some(&AxisOp::Rm(1)) {
            continue;
        }
        let x = body.node(step).inputs[0].node;
        let (Some(x_slot), Some(w_slot)) = (slot_of(x), slot_of(w)) else { continue };
        let InputMapping::Scan(over_time) = scan.input_mapping[x_slot] else { continue };
        let over_steps = over_time.axis == 1 && over_time.chunk.unsigned_abs() == 1;
        if scan.input_mapping[w_slot] == InputMapping::Full && is_constant(model, node.inputs[w_slot]) && over_steps {
            return Ok(Some(Projection { product: product.id, x_slot, w_slot, over_time }));
        }
    }
    Ok(None)
}
